"""A teacher whose outputs are stored: read instead of a run of its model."""

import warnings
from collections.abc import Collection, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from segkd.adapter import BEFORE, Live
from segkd.outputs import read_auxiliary
from segkd.step import Step, View
from segkd.upsampling import NATIVE


class Entries(Protocol):
    """Stored outputs of a teacher, by view and place: see `segkd.store.store.Store`."""

    def read(self, view: View, places: Collection[str]) -> Mapping[str, Any] | None:
        """Return one view's stored values at these places; None where one is missing."""
        ...


class Stored(Live):
    """A live model whose outputs are stored: it runs only for batches with a view that is not stored yet.

    Logits are stored before the upsampling that the model ends with, which is repeated after reading; other places are
    stored as they are read.

    Args:
        module: any module, or a `segkd.network.Network`.
        entries: the stored outputs; None as long as there are none: the model then runs on every batch.
    """

    runs = False
    whole = False
    """Whether it has seen each image once, as a whole, and not each view of it."""
    cannot = "nothing that is read of it can be kept"
    """The error message where none of the places can be stored."""

    def __init__(self, module: nn.Module, entries: Entries | None = None) -> None:
        super().__init__(module)
        self.entries = entries
        self.has_auxiliary = True

    def keeps_native(self, reads: Collection[str]) -> bool:
        """Whether the logits are wanted before their last upsampling."""
        return NATIVE in reads or "logits" in reads

    def places(self, reads: Collection[str]) -> list[str]:
        """Return the places under which the values read at these are stored."""
        kept = ["logits" if place == NATIVE else place for place in reads if place != "aux" or self.has_auxiliary]
        return list(dict.fromkeys(kept))

    def about(self) -> dict[str, Any]:
        """Return, as plain values, what the stored outputs depend on beside the model, the views and the run."""
        return {}

    def key(self, view: View) -> View:
        """Return the view under which the stored values of a view are found."""
        return view

    @torch.no_grad()
    def keep(self, images: Any, reads: Collection[str], target: Any = None) -> dict[str, Any]:
        """Run the model and return the batch's values to store, by place; a tuple has one value for each image."""
        found = self.run(images)
        kept = {"logits": found.pop(BEFORE, None), "aux": read_auxiliary(found[""]) if "aux" in reads else None}
        features = [place for place in reads if place not in kept and place != NATIVE]
        found = super().read(found, features)
        kept |= {place: found[place] for place in features}
        return {place: value for place, value in kept.items() if value is not None}

    def read(self, found: dict[str, Any], reads: Collection[str]) -> dict[str, Any]:
        """Return what a run gave at each place, and note whether the model has auxiliary logits."""
        read = super().read(found, reads)
        if "aux" in reads:
            self.has_auxiliary = "aux" in read
        return read

    def __call__(self, step: Step, reads: Collection[str]) -> dict[str, Any]:
        """Return the stored values of the step's views, or run the model where a view is missing."""
        kept = self.kept(step, reads)
        if kept is None:
            return super().__call__(step, reads)
        with torch.no_grad():
            if "logits" in kept and self.upsampling is not None:
                native = kept.pop("logits")
                if NATIVE in reads:
                    kept[NATIVE] = self.in_classes(native)
                if "logits" in reads:
                    kept["logits"] = self.in_classes(self.upsampling.after(native, step.images))
            if "aux" in kept:
                kept["aux"] = self.in_classes(kept["aux"])
        return kept

    @torch.compiler.disable
    def kept(self, step: Step, reads: Collection[str]) -> dict[str, Any] | None:
        """Return the stored values of a step's views as a batch, on the model's device; None where one is missing."""
        views = step.views
        if self.entries is None or views is None or not (self.upsampling is None or self.upsampling.is_known):
            return None
        keys = views.tolist() if isinstance(views, Tensor) else views
        found = [self.entries.read(self.key((epoch, index)), self.places(reads)) for epoch, index in keys]
        if any(each is None for each in found):
            warnings.warn("a stored output of a teacher cannot be read: the teacher runs instead", stacklevel=2)
            return None
        device = next(self.module.parameters(), torch.zeros(())).device
        return self.together(found, step, device)

    def together(self, found: list[Any], step: Step, device: torch.device) -> dict[str, Any]:
        """Return what was read of a step's views, one mapping for each, as a batch on a device."""
        together: dict[str, Any] = _batch(found, device)
        return together


def _batch(parts: list[Any], device: torch.device) -> Any:
    """Return the images' tensors stacked into a batch on the device, also inside lists and mappings."""
    if isinstance(parts[0], Mapping):
        return {key: _batch([part[key] for part in parts], device) for key in parts[0]}
    if isinstance(parts[0], list):
        return [_batch(list(of_images), device) for of_images in zip(*parts, strict=True)]
    return torch.stack(parts).to(device)
