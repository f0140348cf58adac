"""What a detection data set is: one YAML that says where images and boxes lie, in which format, and the classes."""

import os
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from segkd.data.description import BaseSpec, ClassSpec, read_spec
from segkd.data.patterns import Pattern
from segkd.errors import nearest


class SplitSpec(BaseModel):
    """Where the files of one split lie, relative to the root.

    Format ``coco``: ``images`` is the folder that the file names in ``annotations``, a JSON file, are relative to.

    Format ``voc``: ``images`` and ``annotations`` hold one ``*`` each, which stands for the same stem in both
    (``JPEGImages/*.jpg``, ``Annotations/*.xml``); a suffix may be one of several, ``*.{jpg,png}``, and upper and lower
    case are the same in it. ``list`` names a file of stems, one a line; without it every file
    that matches ``annotations`` belongs to the split.

    An ``optional`` split may be absent from disk without ``segkd data check`` calling that a problem.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: str
    annotations: str
    list: str | None = None
    optional: bool = False


class DetectionSpec(BaseSpec):
    """A detection data set as its YAML describes it; labels are 1 to K in the order of ``classes``, 0 is background.

    Attributes:
        format: ``"coco"``, one JSON file a split, or ``"voc"``, one XML file an image.
        splits: the files of each split.
        ignore: classes of the annotation files that are left out: their boxes are as if they were not there.
    """

    parts: ClassVar[dict[str, type[BaseModel]]] = {"splits": SplitSpec, "classes": ClassSpec}

    format: Literal["coco", "voc"]
    splits: dict[str, SplitSpec] = Field(min_length=1)
    ignore: list[str] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _has_a_format(cls, content: Any) -> Any:
        if isinstance(content, dict) and "format" not in content:
            raise ValueError("key 'format' is required: coco or voc (without it this is no data set for detection)")
        return content

    @model_validator(mode="after")
    def _splits_fit_the_format(self) -> "DetectionSpec":
        stars = 1 if self.format == "voc" else 0
        for name, split in self.splits.items():
            for key in ("images", "annotations"):
                if getattr(split, key).count("*") != stars:
                    expected = "one *, which stands for the stem" if stars else "no *: a folder and a JSON file"
                    raise ValueError(
                        f"splits.{name}.{key} {getattr(split, key)!r} must hold {expected}, in format {self.format!r}"
                    )
                if stars:
                    Pattern(getattr(split, key))  # raises what is wrong with it
            if split.list is not None and self.format == "coco":
                raise ValueError(f"splits.{name}.list is for format 'voc'; format 'coco' lists images in its JSON file")
        return self

    @model_validator(mode="after")
    def _no_class_is_ignored(self) -> "DetectionSpec":
        for name in self.ignore:
            if name in self.class_names:
                raise ValueError(f"class {name!r} stands both in classes and in ignore: keep it in one of them")
        return self

    def unknown_class(self, name: str) -> str:
        """Return what is wrong with a class of the files that is neither in ``classes`` nor in ``ignore``."""
        return (
            f"has the class {name!r}, which the data set does not name; {nearest(name, self.class_names)} To leave it "
            f"out: ignore: [{name}]"
        )

    @property
    def label_of(self) -> dict[str, int]:
        """Class name -> label, 1 to K."""
        return {name: label for label, name in enumerate(self.class_names, start=1)}

    def is_there(self, split: str, root: str | os.PathLike[str] | None = None) -> bool:
        """Whether anything of a split is on disk: its list if it has one, else any annotation file."""
        part = self.splits[split]
        base = self.resolve_root(root)
        return (base / part.list).is_file() if part.list else bool(Pattern(part.annotations).files(base).found)


def load_detection_spec(name_or_path: str | os.PathLike[str]) -> DetectionSpec:
    """Read a shipped data set by name (``"bccd"``) or the user's own YAML by path; see `read_spec`."""
    return read_spec(DetectionSpec, name_or_path)
