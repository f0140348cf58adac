"""Real images for a model to be checked and timed on, or noise where there are none."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segkd.common.reading import read_photo
from segkd.data.samples import spread
from segkd.data.transforms import eval_transform
from segkd.deployment.inputs import find_sources
from segkd.errors import SegkdError
from segkd.training.opening import OpenedModel

# Where nothing says which size the model is used at.
_SIZE = (480, 640)


@dataclass
class Images:
    """Images, uint8 (3, H, W) as a model sees them, one after the other."""

    what: str  # they are, in the plural, for a person
    read: Callable[[Any], Tensor]
    items: Sequence[Any]  # of which each is read

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Tensor]:
        return map(self.read, self.items)


def images_for(opened: OpenedModel, count: int, folder: Path | None = None) -> Images:
    """Return so many images, or all, evenly spread: of a folder, of the validation split, or else of noise.

    Raises:
        SegkdError: the folder holds no image, or the data set is not there.
    """
    size = opened.network.preprocess.size
    if folder is not None:
        paths = [source.path for source in find_sources([str(folder)]) if not source.is_video]
        if not paths:
            raise SegkdError(f"{folder} holds no image")
        resize = eval_transform(size)

        def read(path: Path) -> Tensor:
            return torch.tensor(resize(read_photo(path).pixels).image).permute(2, 0, 1)

        return Images(f"images of {folder}", read, spread(paths, count))
    if opened.task is not None:
        return of_dataset(opened.task.val_set(), count, "validation images")
    window = opened.network.recorded.get("window")
    height, width = size or ((window, window) if isinstance(window, int) else window or _SIZE)

    def noise(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.rand(1, 3, -(-height // 16), -(-width // 16), generator=generator)
        return (255 * F.interpolate(coarse, (height, width), mode="bilinear")[0]).byte()

    return Images("images of noise (--images FOLDER gives real ones)", noise, range(count))


def of_dataset(dataset: Any, count: int, what: str) -> Images:
    """Return images of a data set without augmentation, evenly spread."""
    return Images(what, lambda index: dataset[index]["image"], spread([*range(len(dataset))], count))
