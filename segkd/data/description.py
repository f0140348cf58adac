"""What every data set's YAML holds, whatever its format: name, root, splits, classes; and errors of one line about it.

A format (`segkd/data/formats`, one file each) is a class that derives from `DatasetSpec`: its fields are the keys that
a description in this format may have, its methods find and read what the files of a split hold.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, Field, PrivateAttr, ValidationError, field_validator, model_validator

from segkd import registry
from segkd.common.paths import check_regular, plain_path, shortened
from segkd.common.plain import Checked, block_of, complaint
from segkd.common.reading import MAX_PIXELS, refuse
from segkd.common.yaml_file import read_yaml
from segkd.data.formats import find_format
from segkd.data.hold_out import places_of, whole_split
from segkd.data.patterns import Pattern
from segkd.errors import SegkdError, nearest
from segkd.resources import resource_dir

if TYPE_CHECKING:
    from segkd.data.samples import Samples

Root = str | os.PathLike[str] | None
"""Where data lie, if not where their description says."""
Byte = Annotated[int, Field(ge=0, le=255)]
Color = tuple[Byte, Byte, Byte]
Spec = TypeVar("Spec", bound="DatasetSpec")

MAX_VALUES = 50_000
"""The most keys and values of a description: room for the names and colours of 6,000 classes."""


class ClassSpec(Checked, extra="forbid", frozen=True):
    """One class: its name and the RGB colour (0 to 255) it is painted with."""

    name: str
    color: Color = Field(description="[red, green, blue], each from 0 to 255")


class SplitSpec(BaseModel, extra="forbid", frozen=True):
    """Where the files of one split lie, relative to the root; each format says what its keys mean.

    ``list`` names a file of stems, one a line, that belong to the split. ``images_teacher`` is a pattern of what a
    teacher sees instead of the images, such as their depth: what * stands for in an image's path, put in there, gives
    its path. An ``optional`` split may be absent from disk without ``segkd data check`` calling that a problem.
    """

    images: str
    list: str | None = None
    optional: bool = False
    images_teacher: str | None = None


class DatasetSpec(Checked, extra="forbid", frozen=True):
    """What the data sets of all formats have in common; ``classes`` are in the order of their ids."""

    title: ClassVar[str]  # one line that says what a format is
    holds: ClassVar[str] = "labels"  # what kind of labels a format has, and for what, such as "boxes for detection"
    evidence: ClassVar[str] = "images"  # the key of a split whose files show that it is there

    name: str
    root: Path | None = None
    format: str = "masks"
    splits: dict[str, Any] = Field(min_length=1)
    classes: list[ClassSpec] = Field(min_length=1)
    _max_pixels: int = PrivateAttr(MAX_PIXELS)

    @field_validator("root", mode="before")
    @classmethod
    def _root_is_a_path(cls, root: Any) -> Any:
        return plain_path(root) if isinstance(root, str) else root

    @property
    def max_pixels(self) -> int:
        """How many pixels an image or mask may have; not the description's to say, see `limited`."""
        return self._max_pixels

    def limited(self: Spec, max_pixels: int) -> Spec:
        """Return the same with another limit, that of a config."""
        copy = self.model_copy()
        copy._max_pixels = max_pixels
        return copy

    @model_validator(mode="after")
    def _classes_and_second_inputs(self: Spec) -> Spec:
        seen: set[str] = set()
        for name in self.class_names:
            if name in seen:
                raise ValueError(f"class name {name!r} is used twice")
            seen.add(name)
        for name, split in self.splits.items():
            pattern = getattr(split, "images_teacher", None)
            stars = max(split.images.count("*"), 1) if pattern is not None else 0
            if pattern is not None and Pattern(pattern).text.count("*") != stars:
                raise ValueError(f"splits.{name}.images_teacher {pattern!r} must hold {stars} *, as the images do")
        return self

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)

    @property
    def class_names(self) -> list[str]:
        """The names in the order of ``classes``."""
        return [item.name for item in self.classes]

    @property
    def colors(self) -> list[tuple[int, int, int]]:
        """The RGB colours in the order of ``classes``."""
        return [item.color for item in self.classes]

    @classmethod
    def refusal(cls, content: dict[str, Any], found: type["DatasetSpec"]) -> str:
        """Say why a description, in format ``found``, has no labels of the kind that this class stands for."""
        return f"its key 'format' says that it holds {found.holds}, not {cls.holds}"

    def find(self, split: str, base: Path, masks: bool) -> "Samples":
        """Return what a split's files below ``base`` hold, with masks of single objects if asked for; by format."""
        raise NotImplementedError

    def scan(self, split: str, root: Root = None, masks: bool = False) -> "Samples":
        """Return the images of a split with their labels, as far as they are whole, and what is wrong with others."""
        self.check_split(split)
        base = self.existing_root(root)
        found = self.find(split, base, masks)
        if self.splits[split].images_teacher is not None:
            found.add_seconds(self.splits[split], base)
        return found

    def samples(self, split: str, root: Root = None, masks: bool = False) -> "Samples":
        """Like `scan`, but all of it must be there, so that training does not stop midway; also a part of a split.

        Of a part, see `segkd.data.hold_out`, ``chosen`` says which images it has.
        """
        whole = whole_split(split, self.splits)
        found = self.scan(whole, root, masks)
        # Each folder is listed once: to ask for a hundred thousand images one by one takes minutes on a network's disk.
        folders = {image.parent for image in found.images}
        files = {folder: set(os.listdir(folder)) if folder.is_dir() else set() for folder in folders}
        # Some disks open a file also by a name of other case than they list.
        absent = [image for image in found.images if image.name not in files[image.parent] and not image.is_file()]
        refuse([*found.problems, *(f"no image {image}" for image in absent)])
        if split != whole:
            found.split, found.chosen = split, places_of(split, found.images)
        return found

    def is_there(self, split: str, root: Root = None) -> bool:
        """Whether anything of a split is on disk: its list if it has one, else a file such as it is made of."""
        part, base = self.splits[split], self.resolve_root(root)
        if part.list is not None:
            return (base / part.list).is_file()
        return any(Pattern(getattr(part, self.evidence)).files(base))

    def find_images(self, patterns: str | Sequence[str], root: Root = None) -> list[Path]:
        """Return the images without labels that patterns such as ``extra/*.jpg`` find, sorted; each finds some."""
        base = self.existing_root(root)
        images: set[Path] = set()
        for text in [patterns] if isinstance(patterns, str) else patterns:
            try:
                pattern = Pattern(os.path.expanduser(text))
            except ValueError as error:
                raise SegkdError(f"data.unlabelled.images: {error}") from None
            files = pattern.files(base)
            if not files.found:
                beside = next(iter(files.beside.values()), None)
                raise SegkdError(f"data.unlabelled.images: no image matches {base / text}{pattern.advice(beside)}")
            images |= {base / file for names in files.found.values() for file in names}
        return sorted(images)

    def resolve_root(self, root: Root = None) -> Path:
        """Where the data lie: ``root`` or the spec's own, else ``$SEGKD_DATA/<name>``, else ``datasets/<name>``."""
        return Path(root or self.root or Path(os.environ.get("SEGKD_DATA") or "datasets") / self.name).expanduser()

    def check_split(self, split: str) -> None:
        """Raise a SegkdError that names the nearest split unless there is one called ``split``."""
        if split not in self.splits:
            raise SegkdError(f"data set {self.name!r} has no split {split!r}; {nearest(split, self.splits)}")

    def existing_root(self, root: Root = None) -> Path:
        """Return :meth:`resolve_root`, or raise a SegkdError that says how to set it where there is no such folder."""
        base, name = self.resolve_root(root), repr(self.name)
        if not base.is_dir():
            advice = f"set data.root, or SEGKD_DATA to the folder that holds {name}"
            raise SegkdError(f"data set {name}: no folder {base}; {advice}")
        return base


def read_spec(
    name_or_path: str | os.PathLike[str],
    kind: type[Spec] = DatasetSpec,  # type: ignore[assignment]
    own_code: bool = False,
) -> Spec:
    """Read a shipped data set by name (``"camvid"``) or the user's own YAML by path (``"my/set.yaml"``).

    A relative ``root`` inside a YAML is taken from the folder that the YAML lies in.

    Args:
        name_or_path: which data set.
        kind: what labels it must have: `MaskSpec`, `BoxSpec`, or any.
        own_code: whether ``format`` may be ``package.module:Name``: only a config's owner may name code, so that this
            is for descriptions that a config names. It is looked for beside the description too.
    """
    text = os.fspath(name_or_path)
    if is_spec_path(text):
        path = Path(text).expanduser()
        check_regular(path, "the data-set file")
        if not path.is_file():
            raise SegkdError(f"no data-set file {shortened(path)}")
    else:
        shipped = {file.stem: file for file in sorted(resource_dir("datasets").glob("*.yaml"))}
        if text not in shipped:
            raise SegkdError(f"no data set {text!r}; {nearest(text, shipped)}, or give the path of a .yaml file")
        path = shipped[text]
    content = read_yaml(path, MAX_VALUES)
    if not isinstance(content, dict):
        raise SegkdError(f"{path}: expected keys such as name, splits and classes, got {type(content).__name__}")
    if own_code and ":" in str(content.get("format")):
        registry.look_in(path.parent)
    try:
        model: type[Any] = find_format(content.get("format", "masks"), DatasetSpec, own_code)
        if not issubclass(model, kind):
            raise SegkdError(kind.refusal(content, model))
        spec: Spec = model.model_validate(content)
    except ValidationError as error:
        raise SegkdError(f"{path}: {_explain(error, model)}") from None
    except SegkdError as error:
        raise SegkdError(f"{path}: {error}") from None
    if spec.root is not None:
        spec = spec.model_copy(update={"root": path.parent / spec.root.expanduser()})
    return spec


def is_spec_path(text: str) -> bool:
    """Whether what a config names as its data set is the path of a file, not a shipped name."""
    return text.endswith((".yaml", ".yml")) or "/" in text or os.sep in text


def _explain(error: ValidationError, model: type[DatasetSpec]) -> str:
    """Put the first of pydantic's complaints into one line with the key and, for a typo, the nearest valid one."""
    problems = error.errors(include_url=False)
    # A key that lacks is as a rule one that is misspelt.
    first: dict[str, Any] = dict(next((p for p in problems if p["type"] == "extra_forbidden"), problems[0]))
    location = [str(part) for part in first["loc"]]
    key = ".".join(location) or "the file"
    top = model.model_fields.get(location[0]) if location else None
    part = block_of(top.annotation) if top is not None else None
    if first["type"] == "extra_forbidden":
        fields = (model if len(location) == 1 or part is None else part).model_fields
        text = f"unknown key {key!r}; {nearest(location[-1], fields)}"
    elif first["type"] == "missing" and not isinstance(first["loc"][-1], int):
        text = f"key {key!r} is required"
    else:
        if first["type"] == "missing":  # an item of a list: the list is too short
            location = location[:-1]
            first["input"] = list(first["input"])
        field = part.model_fields.get(location[-1]) if part is not None else None
        text = f"{'.'.join(location) or 'the file'}: {complaint(first, field, part)}"
    return text + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")
