"""A model that knows its own input: raw images in, logits in the student's classes out."""

import pytest
import torch
from torch import nn

from segkd.errors import SegkdError
from segkd.network import Network


def test_images_are_normalised_by_the_model_they_go_to() -> None:
    network = Network(nn.Identity(), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    assert network(pixels).flatten(2)[0, 0].tolist() == [-1.0, 1.0]


def test_logits_of_merged_classes_are_those_of_their_joint_probability() -> None:
    network = Network(nn.Identity(), class_map=[0, 1, 1, None])
    logits = torch.randn(2, 4, 3, 3)
    shares = logits.softmax(1)
    expected = torch.stack([shares[:, 0], shares[:, 1] + shares[:, 2]], 1)
    torch.testing.assert_close(network.map_classes(logits).softmax(1), expected / expected.sum(1, keepdim=True))
    assert Network(nn.Identity()).map_classes(logits) is logits


def test_a_teacher_may_lack_classes_of_the_student() -> None:
    logits = torch.randn(2, 4, 3, 3)
    mapped = Network(nn.Identity(), class_map=[2, 0, 2, None], student_classes=4).map_classes(logits)
    shares = logits.softmax(1)
    torch.testing.assert_close(mapped[:, [0, 2]].exp(), torch.stack([shares[:, 1], shares[:, 0] + shares[:, 2]], 1))
    assert (mapped[:, [1, 3]] == -1e4).all()
    for class_map, says in (([0, 4], "the student class 4, and there are 4"), ([None], "missing: all")):
        with pytest.raises(SegkdError, match=says):
            Network(nn.Identity(), class_map=class_map, student_classes=4)


def test_tokens_become_a_map_of_the_size_that_the_images_had() -> None:
    def as_map(module: nn.Module, output: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return output.transpose(1, 2).unflatten(2, (size[0] // 4, size[1] // 4))

    network = Network(nn.Identity(), as_map=as_map)
    network(torch.rand(1, 3, 8, 12))
    assert network.as_map(torch.rand(1, 6, 5)).shape == (1, 5, 2, 3)
