"""What every data set's YAML holds, whatever the task: name, root, splits, classes; and errors of one line about it."""

import os
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator

from segkd.common.paths import check_regular, plain_path, shortened
from segkd.common.pixels import MAX_PIXELS
from segkd.common.plain import Checked, complaint
from segkd.common.yaml_file import read_yaml
from segkd.errors import SegkdError, nearest
from segkd.resources import resource_dir

Byte = Annotated[int, Field(ge=0, le=255)]
Color = tuple[Byte, Byte, Byte]
Spec = TypeVar("Spec", bound="BaseSpec")

MAX_VALUES = 50_000
"""The most keys and values of a description: room for the names and colours of 6,000 classes."""


class ClassSpec(Checked):
    """One class: its name and the RGB colour (0 to 255) it is painted with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    color: Color = Field(description="[red, green, blue], each from 0 to 255")


class BaseSpec(Checked):
    """What the data sets of all tasks have in common.

    Attributes:
        name: what the data set is called; also the name of its default folder.
        root: where it lies; see :meth:`resolve_root` for what holds when this is not set.
        splits: the files of each split.
        classes: the classes in the order of their ids.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    parts: ClassVar[dict[str, type[BaseModel]]] = {"classes": ClassSpec}
    """Of each key that holds keys of its own, what those are checked by."""

    name: str
    root: Path | None = None
    splits: dict[str, Any] = Field(min_length=1)
    classes: list[ClassSpec] = Field(min_length=1)

    @field_validator("root", mode="before")
    @classmethod
    def _root_is_a_path(cls, root: Any) -> Any:
        return plain_path(root) if isinstance(root, str) else root

    _max_pixels: int = PrivateAttr(MAX_PIXELS)

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
    def _each_class_once(self: Spec) -> Spec:
        seen: set[str] = set()
        for name in self.class_names:
            if name in seen:
                raise ValueError(f"class name {name!r} is used twice")
            seen.add(name)
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

    def resolve_root(self, root: str | os.PathLike[str] | None = None) -> Path:
        """Where the data lie: ``root`` or the spec's own, else ``$SEGKD_DATA/<name>``, else ``datasets/<name>``."""
        return Path(root or self.root or Path(os.environ.get("SEGKD_DATA") or "datasets") / self.name).expanduser()

    def check_split(self, split: str) -> None:
        """Raise a SegkdError that names the nearest split unless there is one called ``split``."""
        if split not in self.splits:
            raise SegkdError(f"data set {self.name!r} has no split {split!r}; {nearest(split, self.splits)}")

    def existing_root(self, root: str | os.PathLike[str] | None = None) -> Path:
        """Return :meth:`resolve_root`, or raise a SegkdError that says how to set it where there is no such folder."""
        base = self.resolve_root(root)
        if not base.is_dir():
            raise SegkdError(
                f"data set {self.name!r}: no folder {base}; set data.root, or SEGKD_DATA to the folder that "
                f"holds {self.name!r}"
            )
        return base


def read_spec(model: type[Spec], name_or_path: str | os.PathLike[str]) -> Spec:
    """Read a shipped data set by name (``"camvid"``) or the user's own YAML by path (``"my/set.yaml"``).

    A relative ``root`` inside a YAML is taken from the folder that the YAML lies in.

    Args:
        model: the task's description of a data set.
        name_or_path: which data set.

    Raises:
        SegkdError: no such name or file, YAML that cannot be parsed, a key or value that does not fit; one line that
            names the file, the key and the nearest valid choice.
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
    try:
        spec = model.model_validate(content)
    except ValidationError as error:
        raise SegkdError(f"{path}: {_explain(error, model)}") from None
    if spec.root is not None:
        spec = spec.model_copy(update={"root": path.parent / spec.root.expanduser()})
    return spec


def is_spec_path(text: str) -> bool:
    """Whether what a config names as its data set is the path of a file, not a shipped name."""
    return text.endswith((".yaml", ".yml")) or "/" in text or os.sep in text


def _explain(error: ValidationError, model: type[BaseSpec]) -> str:
    """Put the first of pydantic's complaints into one line with the key and, for a typo, the nearest valid one."""
    problems = error.errors(include_url=False)
    # A key that lacks is as a rule one that is misspelt.
    first: dict[str, Any] = dict(next((p for p in problems if p["type"] == "extra_forbidden"), problems[0]))
    location = [str(part) for part in first["loc"]]
    key = ".".join(location) or "the file"
    part = model.parts.get(location[0]) if location else None
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
