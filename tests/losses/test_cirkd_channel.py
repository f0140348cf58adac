import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from losses.base import value_and_grad
from losses.features import FeatureLossTests
from torch import Tensor, nn

from segkd.errors import SegkdError
from segkd.losses import CIRKDChannel


class TestCIRKDChannel(FeatureLossTests):
    loss = CIRKDChannel
    name = "cirkd_channel"
    settings = ({"pool": 2, "slots": 30}, {"pool": 1, "slots": 30, "temperature": 1.0})
    fullgraph = False  # what enters the queue is chosen outside of the graph

    def variants(self, channels: int = 5) -> list[nn.Module]:
        # In eval mode the queue stands still, and all of its slots are compared: nothing is drawn.
        return [loss.eval() for loss in super().variants(channels)]

    def test_what_it_trains_is_saved_and_restored(self) -> None:
        student, teacher = self.pair()
        loss, other = CIRKDChannel(slots=30, max_channels=7, contrasts=9), CIRKDChannel(slots=30, contrasts=9)
        other.max_channels = 7
        for each in (loss, other):
            each.prepare(student, teacher)
        loss(student, teacher)
        state = copy.deepcopy(loss.state_dict())
        following = [loss(student, teacher) for _ in range(6)]  # 7 channels at a time: past the end of the queue
        other.load_state_dict(state)
        assert [other(student, teacher) for _ in range(6)] == following
        assert torch.equal(other.queue.vectors, loss.queue.vectors)
        assert other.queue.pointer.tolist() == loss.queue.pointer.tolist() == [14]

    def test_is_copied_and_pickled_with_its_settings(self) -> None:
        for loss in self.variants():
            value = loss(*self.pair())  # the first batch makes the queue
            for copied in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
                assert repr(copied) == repr(loss)
                assert copied(*self.pair()) == value

    def test_is_zero_where_the_student_is_the_teacher(self) -> None:
        teacher = self.pair(dtype=torch.float64)[1]
        loss = CIRKDChannel(slots=30).double()
        loss.projector = nn.Identity()
        loss.projector.channels = (8, 8)
        value, grad = value_and_grad(loss, teacher, teacher.clone())
        assert value == 0
        assert not grad.any()

    def test_equals_the_definition(self) -> None:
        maps = self.pair()
        for loss in self.variants():
            loss(*maps)  # the first batch makes the queue

            def kl(s: Tensor, t: Tensor, temperature: float = loss.temperature) -> Tensor:
                s, t = s / temperature, t / temperature
                return F.kl_div(F.log_softmax(s, -1), F.softmax(t, -1), reduction="none").sum(-1).mean()

            s, t = (F.avg_pool2d(x, loss.pool, ceil_mode=True) for x in maps)
            s, t = (F.normalize(x.flatten(2), dim=2) for x in (loss.projector(s), t))
            relation = torch.stack([kl(s[i] @ s[j].T, t[i] @ t[j].T) for i in range(2) for j in range(2)]).mean()
            queue = loss.queue.vectors[0].T
            expected = relation + 0.1 * kl(s @ queue, t @ queue) + 100 * F.mse_loss(s, t)
            torch.testing.assert_close(loss(*maps), expected)

    def test_what_does_not_fit_is_told(self) -> None:
        loss = CIRKDChannel(slots=30)
        loss.prepare(*self.pair())
        loss(*self.pair())
        with pytest.raises(SegkdError, match="queue has channels of 6 positions, and maps of this batch have 2: they"):
            loss(*self.pair((2, 5, 4, 5)))
        with pytest.raises(SegkdError, match=r"call prepare\(student, teacher\) first"):
            CIRKDChannel()(*self.pair())
        for options, says in (({"pool": 0}, "pool must be at least 1"), ({"mse_weight": -1.0}, "at least 0, got -1.0")):
            with pytest.raises(SegkdError, match=says):
                CIRKDChannel(**options)
