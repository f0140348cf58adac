"""Real images for a model to be checked and timed on, or noise where there are none."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segkd.common.reading import read_photo
from segkd.data.samples import spread
from segkd.deployment.inputs import find_sources
from segkd.errors import SegkdError
from segkd.network import Network
from segkd.training.opening import OpenedModel

# Where nothing says which size the model is used at.
_SIZE = (480, 640)


@dataclass
class Images:
    """Images, uint8 (3, H, W) as a model sees them, one after the other.

    Attributes:
        what: they are, in the plural, for a person.
        source: of which they are read by index.
        indices: those that are read.
    """

    what: str
    source: Any
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Tensor]:
        return (self.source(index) for index in self.indices)


def images_for(opened: OpenedModel, count: int, folder: Path | None = None) -> Images:
    """Return images for a model, evenly spread: of a folder, of the validation split, or else of noise.

    Args:
        opened: the model.
        count: how many; all where there are fewer.
        folder: of images.

    Raises:
        SegkdError: the folder holds no image, or the data set is not there.
    """
    if folder is not None:
        paths = [source.path for source in find_sources([str(folder)]) if not source.is_video]
        if not paths:
            raise SegkdError(f"{folder} holds no image")
        indices = spread(list(range(len(paths))), count)
        return Images(f"images of {folder}", lambda index: _read(paths[index], opened.network), indices)
    if opened.task is None:
        return Images("images of noise (--images FOLDER gives real ones)", _noise(opened.network), list(range(count)))
    return of_dataset(opened.task.val_set(), count, "validation images")


def of_dataset(dataset: Any, count: int, what: str) -> Images:
    """Return images of a data set without augmentation, evenly spread."""
    return Images(what, lambda index: dataset[index]["image"], spread(list(range(len(dataset))), count))


def _read(path: Path, network: Network) -> Tensor:
    from segkd.data.transforms import eval_transform

    pixels, _, _ = read_photo(path)
    pixels = eval_transform(network.preprocess.size)(pixels).image
    return torch.tensor(pixels).permute(2, 0, 1)


def _noise(network: Network) -> Any:
    window = network.recorded.get("window")
    height, width = network.preprocess.size or ((window, window) if isinstance(window, int) else window or _SIZE)

    def make(index: int) -> Tensor:
        generator = torch.Generator().manual_seed(index)
        coarse = torch.rand(1, 3, -(-height // 16), -(-width // 16), generator=generator)
        return (255 * F.interpolate(coarse, (height, width), mode="bilinear")[0]).byte()

    return make
