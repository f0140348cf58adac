"""A model that knows its own input and classes: student and teacher, measured, saved, opened and exported alike."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from segkd.class_map import map_classes, merged_classes
from segkd.preprocess import Preprocess


class Network(nn.Module):
    """A model with all that is needed to use it.

    It takes raw images, uint8 or floating point in [0, 1], and normalises them itself. Where a distiller reads module
    paths of it, they are those of ``module``.

    Args:
        module: maps normalised images to what `segkd.adapter.read_logits` reads, or to features.
        mean: of each channel, see `Preprocess`.
        std: likewise.
        white: likewise.
        size: likewise.
        multiple: likewise.
        classes: names in the order of the logits; none for a model whose features alone are read.
        class_map: of a teacher of other classes: for each of its own the student's, or None. Its logits are read in
            the student's classes then, see `map_classes`.
        as_map: called (module, what a submodule returned, (height, width) of the images), returns tokens as a map.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        white: float = 1.0,
        size: tuple[int, int] | None = None,
        multiple: int = 1,
        classes: Sequence[str] = (),
        class_map: Sequence[int | None] | None = None,
        as_map: Callable[[nn.Module, Any, tuple[int, int]], Any] | None = None,
    ) -> None:
        super().__init__()
        self.module = module
        self.preprocess = Preprocess(tuple(mean), tuple(std), white, size, multiple)
        self.classes = list(classes)
        self.class_map = None if class_map is None else merged_classes(class_map)
        self._as_map = as_map
        self._seen: tuple[int, int] = (0, 0)

    def forward(self, images: Any) -> Any:
        """Return what the module returns for raw images (B, channels, H, W)."""
        self._seen = (int(images.shape[-2]), int(images.shape[-1]))
        return self.module(self.preprocess(images))

    def map_classes(self, logits: Tensor) -> Tensor:
        """Return logits (B, C, h, w) in the student's classes, where there is a class map: else themselves."""
        return logits if self.class_map is None else map_classes(logits, self.class_map)

    def as_map(self, output: Any) -> Any:
        """Return what a submodule gave in the last forward pass, tokens as a map (B, C, h, w)."""
        return output if self._as_map is None else self._as_map(self.module, output, self._seen)
