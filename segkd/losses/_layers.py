"""A loss with trained layers of its own, which each pair of maps that it compares has for itself."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from segkd.errors import SegkdError
from segkd.losses._common import check_maps, full_precision, with_contiguous_gradient
from segkd.losses.base import Loss

Maps = Tensor | Sequence[Tensor]
"""A map, or several: of FPN levels, or of a list of places."""


class LayerLoss(Loss):
    """Has layers for each pair of maps; its value is the sum over the pairs.

    A subclass makes a pair's layers in `make` and takes the loss in `compare`, both in float32 (float64 stays). The
    channels are not known before there are maps: `segkd.Distiller` shows them to `prepare`, so that the layers are in
    the optimiser from the first step.
    """

    any_channels = True
    takes_lists = True

    def check(self) -> None:
        """Have no layers yet: they depend on the channels."""
        self.layers = nn.ModuleList()
        self.channels: list[tuple[int, int]] = []

    def prepare(self, student: Maps, teacher: Maps) -> None:
        """Make the layers for maps of these channels; a loss that has layers keeps them."""
        for s, t in [] if len(self.layers) else self._paired(student, teacher, any_size=True):
            self.layers.append(self.make(s.shape[1], t.shape[1]).to(s.device))
            self.channels.append((s.shape[1], t.shape[1]))

    def forward(self, student: Maps, teacher: Maps, target: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar: the sum over all pairs."""
        pairs = self._paired(student, teacher)
        found = [(s.shape[1], t.shape[1]) for s, t in pairs]
        made: Iterable[nn.Module] = self.layers
        if not len(self.layers):
            made = [self.make(*channels) for channels in found]
            if not all(isinstance(layers, nn.Identity) for layers in made):  # else there is nothing to train
                raise SegkdError(f"{self.name} has no layers yet: call prepare(student, teacher), as a Distiller does")
        elif found != self.channels:
            raise SegkdError(f"{self.name} was prepared for maps of {self.channels} channels, got {found}")
        values = []
        for layers, (s, t) in zip(made, pairs, strict=True):
            with full_precision(s, t.detach()) as maps:
                values.append(self.compare(layers, *maps))
        return torch.stack(values).sum()

    def make(self, student_channels: int, teacher_channels: int) -> nn.Module:
        """Return the layers of one pair of maps.

        Raises:
            SegkdError: an option does not go with so many channels.
        """
        raise NotImplementedError

    def compare(self, layers: nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of one pair, a scalar."""
        raise NotImplementedError

    def _paired(self, student: Maps, teacher: Maps, any_size: bool = False) -> list[tuple[Tensor, Tensor]]:
        sides = [[side] if isinstance(side, Tensor) else list(side) for side in (student, teacher)]
        if len(sides[0]) != len(sides[1]) or not sides[0]:
            raise SegkdError(f"{self.name} compares map by map, got {len(sides[0])} of the student and {len(sides[1])}")
        for s, t in (pairs := list(zip(*sides, strict=True))):
            check_maps(self.name, s, t, any_size)
        return pairs


def normed(name: str, layers: nn.Module, x: Tensor) -> Tensor:
    """Return what layers that end with a batch norm make of a map; one position alone has no batch statistics."""
    if x.numel() == x.shape[1]:
        raise SegkdError(f"{name}'s batch norm needs two positions at least, got {tuple(x.shape)}")
    return with_contiguous_gradient(layers(x))
