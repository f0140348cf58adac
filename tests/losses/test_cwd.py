import torch
import torch.nn.functional as F
from losses.base import LogitLossTests, pair, some_labels

from segkd.losses import CWD


class TestCWD(LogitLossTests):
    loss = CWD
    name = "cwd"
    compiler = "inductor"
    settings = ({}, {"temperature": 1.0})

    def test_equals_a_loop_over_the_channels(self) -> None:
        student, teacher = pair(dtype=torch.float64)
        target = some_labels()
        for mask in (None, target != 255):
            total = torch.zeros((), dtype=torch.float64)
            for b in range(2):
                kept = torch.ones(7, 9, dtype=torch.bool) if mask is None else mask[b]
                for c in range(5):
                    s, t = student[b, c][kept] / 4, teacher[b, c][kept] / 4
                    total = total + F.kl_div(F.log_softmax(s, 0), F.softmax(t, 0), reduction="sum")
            expected = total * 16 / (2 * 5)
            ours = CWD(ignore_index=None if mask is None else 255)(student, teacher, target)
            torch.testing.assert_close(ours, expected)

    def test_a_constant_added_to_a_channel_does_not_matter(self) -> None:
        student, teacher = pair(dtype=torch.float64)
        shift = torch.linspace(-30, 50, 5, dtype=torch.float64).view(1, 5, 1, 1)
        torch.testing.assert_close(CWD()(student + shift, teacher), CWD()(student, teacher))
