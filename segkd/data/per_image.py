"""Boxes of which each image has a file of its own."""

from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, Field

from segkd.common.orientation import upright_size
from segkd.common.paths import check_regular
from segkd.common.pixels import open_file
from segkd.common.reading import read_stems
from segkd.data.annotations import Box, Found
from segkd.data.boxes import AnnotatedSplit, BoxSpec
from segkd.data.description import ClassSpec
from segkd.data.patterns import Matches, Pattern, unclaimed
from segkd.errors import SegkdError


class PerImageSplit(AnnotatedSplit):
    """Where the images and annotations of one split lie, relative to the root.

    ``images`` and ``annotations`` hold one ``*`` each, which stands for the same stem in both (``JPEGImages/*.jpg``,
    ``Annotations/*.xml``); a suffix may be one of several, ``*.{jpg,png}``, and upper and lower case are the same in
    it. Without a ``list`` every file that matches ``annotations`` belongs to the split; where ``background`` is true,
    every image does, and one without a file of annotations has no objects.
    """

    background: bool = False


class PerImageSpec(BoxSpec):
    """A data set of boxes with a file an image."""

    parts: ClassVar[dict[str, type[BaseModel]]] = {"splits": PerImageSplit, "classes": ClassSpec}

    splits: dict[str, PerImageSplit] = Field(min_length=1)  # type: ignore[assignment]

    def read_file(self, path: Path, image: Path, place: int, names: set[str]) -> tuple[tuple[int, int], list[Box]]:
        """Return height and width of one image, and its boxes.

        Args:
            path: the file of annotations, which is there and no fifo or the like.
            image: whose it is.
            place: which image of the split that is.
            names: of classes; those of the boxes are added.

        Raises:
            SegkdError: it cannot be read; the file is named.
        """
        raise NotImplementedError

    def read(self, split: str, base: Path, masks: bool = False) -> Found:
        """Return what the files of one split hold.

        Raises:
            SegkdError: the list of the split is missing, or there is no file.
        """
        part, label = self.splits[split], f"{self.name} {split}"
        images, annotations = Pattern(part.images), Pattern(part.annotations)
        there, files = images.files(base), annotations.files(base)
        kind = part.images if part.background else part.annotations
        known = there.found if part.background else files.found
        stems = [key[0] for key in known] if part.list is None else read_stems(base / part.list)
        if not stems:
            raise SegkdError(f"{label}: no image in {base / (part.list or kind)}")
        found = Found()
        for stem in stems:
            try:
                image = _locate(label, images, there, stem, base)
                path = _locate(label, annotations, Matches(files.found, {}), stem, base)
                check_regular(path, "annotation")
                if path.exists():
                    size, boxes = self.read_file(path, image, len(found.images), found.names)
                elif part.background:
                    size, boxes = image_size(image), []
                else:
                    raise SegkdError(f"no annotation {path} of image {image}")
            except SegkdError as error:
                found.problems.append(str(error))
                continue
            found.images.append(image)
            found.sizes.append(size)
            found.boxes += boxes
        if part.list is None and not part.background:
            others = {(s.images, s.annotations) for s in self.splits.values()} - {(part.images, part.annotations)}
            lone = unclaimed(dict(sorted({**there.beside, **there.found}.items())), files.found, others, base)
            for bare, file in list(lone.items())[:1]:
                found.remarks.append(
                    f"{label}: images without an annotation, left out: {len(lone)}, such as {base / file}, whose "
                    f"annotation would be {annotations.fill(bare, base)}"
                )
        return found


def image_size(image: Path) -> tuple[int, int]:
    """Return the height and width of an image when it is upright, without reading its pixels.

    Raises:
        SegkdError: it is not there or no image.
    """
    check_regular(image, "image")
    try:
        with open_file(image) as opened:
            return upright_size(opened)
    except FileNotFoundError:
        raise SegkdError(f"no image {image}") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise SegkdError(f"cannot read image {image}: {error}") from None


def _locate(label: str, pattern: Pattern, files: Matches, stem: str, base: Path) -> Path:
    """Return the file of a stem, whether or not it is there.

    Raises:
        SegkdError: there are two, or it is there with another suffix.
    """
    found, beside = (part.get((stem,), []) for part in files)
    if len(found) > 1:
        both = " and ".join(str(base / file) for file in found)
        raise SegkdError(f"{label}: {both} differ in their suffix only: keep one of them")
    if beside and not found:
        raise SegkdError(f"{label}: {base / beside[0]} does not fit {pattern.text}{pattern.advice(beside)}")
    return base / found[0] if found else pattern.fill((stem,), base)
