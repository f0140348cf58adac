"""Boxes of COCO's JSON: images, categories and annotations of a whole split in one file."""

import json
from pathlib import Path
from typing import Any, ClassVar

from segkd.common.paths import check_regular, on_disk
from segkd.data.annotations import Box, Found
from segkd.data.boxes import AnnotatedSpec, BoxSpec
from segkd.data.shapes import NoArea, read_shape
from segkd.errors import SegkdError


class CocoFile(AnnotatedSpec):
    """A data set whose annotations stand in COCO's JSON.

    ``images`` of a split is the folder that the file names in ``annotations``, a JSON file, are relative to. Categories
    are matched to ``classes`` by name, since their ids have gaps. ``bbox`` is x, y, width, height in pixels, counted
    from 0: no shift is needed.
    """

    stars: ClassVar[int] = 0
    has_masks: ClassVar[bool] = True

    def read(self, split: str, base: Path, masks: bool) -> Found:
        """Return what the JSON file of a split holds, see `AnnotatedSpec.read`."""
        part = self.splits[split]
        path, folder = base / part.annotations, base / part.images
        content = _load(path)
        if not folder.is_dir():
            raise SegkdError(f"{self.name} {split}: no folder of images {folder}")
        found = Found()
        places: dict[Any, int] = {}
        try:
            for place, image in enumerate(content["images"]):
                places[image["id"]] = place
                found.images.append(on_disk(folder / image["file_name"]))
                found.sizes.append((int(image["height"]), int(image["width"])))
                if not all(1 <= side < 2**31 for side in found.sizes[-1]):
                    raise ValueError(f"height {image['height']} and width {image['width']}")
            names = {item["id"]: item["name"] for item in content["categories"]}
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise SegkdError(
                f"{path}: images need id, file_name, height and width, categories id and name: {error!r}"
            ) from None
        if len(places) < len(found.images):
            raise SegkdError(f"{path}: two images have one id")

        found.names = {str(name) for name in names.values()}
        wrong: dict[str, list[Any]] = {}  # what is wrong -> ids of the annotations
        for item in content["annotations"]:
            try:
                found.boxes.append(self._box(item, places, names, found.sizes, masks))
            except KeyError as error:
                wrong.setdefault(f"has no {error}", []).append(item.get("id"))
            except ValueError as error:
                wrong.setdefault(str(error), []).append(item.get("id"))
            except TypeError:
                wrong.setdefault("is no mapping of COCO's keys", []).append(item)
        for what, ids in wrong.items():
            more = f" (and {len(ids) - 1} more like it)" if len(ids) > 1 else ""
            found.problems.append(f"{path}: annotation {ids[0]} {what}{more}")
        return found

    def _box(
        self, item: dict[str, Any], places: dict[Any, int], names: dict[Any, str], sizes: list[Any], masks: bool
    ) -> Box:
        """Return the box of one annotation; a KeyError names a key it lacks, a ValueError says what else is wrong."""
        image, category = item["image_id"], item["category_id"]
        if image not in places:
            raise ValueError(f"has image_id {image!r}, which is not among the images")
        if category not in names:
            raise ValueError(f"has category_id {category!r}, which is not among the categories")
        label, left_out = self.label_named(names[category])
        bbox, area = item["bbox"], item.get("area")
        try:
            x, y, width, height = (float(value) for value in bbox)
            area = None if area is None else float(area)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(
                f"has bbox {bbox!r} and area {area!r}; expected [x, y, width, height] and a number"
            ) from None
        shape = None
        if masks and label:
            try:
                shape = read_shape(item.get("segmentation"), sizes[places[image]])
            except NoArea as error:
                left_out = str(error)
            except (ValueError, TypeError, OverflowError) as error:
                raise ValueError(f"has {error}, which masks need") from None
        corners = (x, y, x + width, y + height)
        crowd = bool(item.get("iscrowd", 0))
        return Box(places[image], corners, label, area, crowd, shape=shape, left_out=left_out)


class Coco(CocoFile, BoxSpec):
    """A data set of COCO's boxes."""

    title = "boxes of a JSON file like COCO's, and masks where asked for"


def _load(path: Path) -> dict[str, Any]:
    check_regular(path, "annotations")
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise SegkdError(f"no annotations {path}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise SegkdError(f"{path}: cannot be read as JSON: {' '.join(str(error).split())}") from None
    needed = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in needed):
        raise SegkdError(f"{path}: expected COCO's lists images, annotations and categories")
    return content
