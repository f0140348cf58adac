"""What a model's images are: how they are normalised, their channels, and the sizes that the model takes."""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from segkd.errors import SegkdError


@dataclass(frozen=True)
class Preprocess:
    """How raw images become what a model takes.

    Args:
        mean: of each channel, in units of ``white``; as many as the model has channels.
        std: likewise, each above 0.
        white: what a white pixel is before the mean is taken off: 1 for most models, 255 for some.
        size: (height, width) that images are resized to before the model sees them; None keeps their own.
        multiple: what height and width must be multiples of; 1 for a model of any size.

    Raises:
        SegkdError: mean and std differ in length, or a deviation or ``white`` is not above 0.
    """

    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    white: float = 1.0
    size: tuple[int, int] | None = None
    multiple: int = 1

    def __post_init__(self) -> None:
        for name in ("mean", "std"):  # a list, as a file holds it, is taken too
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        if len(self.mean) != len(self.std) or not self.mean:
            raise SegkdError(
                f"mean and std have one value for each channel, got {list(self.mean)} and {list(self.std)}"
            )
        if not all(value > 0 for value in (*self.std, self.white)):
            raise SegkdError(f"std and white must be above 0, got {list(self.std)} and {self.white}")

    @property
    def channels(self) -> int:
        """How many channels an image has."""
        return len(self.mean)

    def __call__(self, images: Tensor) -> Tensor:
        """Return images as the model takes them.

        Args:
            images: (B, channels, H, W), or one of them without B: uint8, or floating point in [0, 1].

        Raises:
            SegkdError: another number of channels.
        """
        if images.shape[-3] != self.channels:
            raise SegkdError(f"the model takes images of {self.channels} channels, got {tuple(images.shape)}")
        if images.dtype == torch.uint8:
            values = images.float() if self.white == 255 else images.float() / (255 / self.white)
        else:
            values = images if self.white == 1 else images * self.white
        if not any(self.mean) and self.std == (1.0,) * self.channels:
            return values
        mean, std = _on_device(self.mean, self.std, values.device, values.dtype)
        return (values - mean) / std


def unit(images: Tensor) -> Tensor:
    """Return images, uint8 or floating point in [0, 1], as floating point in [0, 1]."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


@functools.cache
def _on_device(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return mean and deviation as (channels, 1, 1), made once: a copy to a GPU in each step would wait for it."""
    of_mean, of_std = (torch.tensor(of, device=device, dtype=dtype).view(-1, 1, 1) for of in (mean, std))
    return of_mean, of_std
