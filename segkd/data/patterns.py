"""Where the files of a split lie: paths with wildcards and one or several suffixes, such as ``images/*.{jpg,png}``."""

import glob
import os
import re
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from segkd.common.paths import on_disk, same_name

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

Key = tuple[str, ...]
"""What the wildcards stand for in a file's path; equal for two spellings of one name."""


class Matches(NamedTuple):
    """The files, relative to the root, that a pattern is about, by their keys: as a rule one a key."""

    found: dict[Key, list[str]]  # those that fit it
    beside: dict[Key, list[str]]  # those that would, had they not another suffix


class Pattern:
    """A path relative to a root.

    ``*`` is the only wildcard and stays within one path component. The suffix is one, ``*.jpg``, or several,
    ``*.{jpg,jpeg}``; upper and lower case are the same in it.

    Raises:
        ValueError: braces elsewhere than around the suffixes.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        split = re.fullmatch(r"(.*)\.(?:\{([^{}*/]+)\}|([^.{}*/]+))", text)
        self.stem: str = split[1] if split else text
        suffixes: str = (split[2] or split[3]) if split else ""
        #: Without their dots; none where the pattern ends in a wildcard, which any suffix fits then.
        self.suffixes = [suffix.strip(" .") for suffix in suffixes.split(",") if suffix.strip(" .")]
        if re.search(r"[{}]", self.stem):
            raise ValueError(f"{text!r}: braces may only list suffixes at the end, such as *.{{jpg,png}}")
        self._stem = re.compile("([^/]*)".join(re.escape(part) for part in self.stem.split("*")))

    def key(self, file: str) -> Key | None:
        """Return the key of a file relative to the root; None where it does not fit."""
        stem, suffix = os.path.splitext(file) if self.suffixes else (file, "")
        fits = not self.suffixes or suffix[1:].lower() in map(str.lower, self.suffixes)
        return self._key(stem) if fits else None

    def _key(self, stem: str) -> Key | None:
        match = self._stem.fullmatch(stem)
        return tuple(map(same_name, match.groups())) if match else None

    def files(self, root: Path) -> Matches:
        """List the files below a root, hidden ones left out."""
        found: dict[Key, list[str]] = {}
        beside: dict[Key, list[str]] = {}
        # glob, unlike Path.glob, leaves out hidden files such as the ._* that macOS archives bring along.
        for path in sorted(glob.glob(f"{self.stem}.*" if self.suffixes else self.text, root_dir=root)):
            file = path.replace(os.sep, "/")
            key = self.key(file)
            if key is not None:
                found.setdefault(key, []).append(file)
            elif file.lower().endswith(IMAGE_SUFFIXES) and (key := self._key(os.path.splitext(file)[0])):
                beside.setdefault(key, []).append(file)
        return Matches(found, beside)

    def fill(self, key: Iterable[str], root: Path) -> Path:
        """Return the path that the pattern means for a key, with the first of its suffixes, as the disk spells it."""
        stem = "".join(part + text for part, text in zip(self.stem.split("*"), (*key, ""), strict=True))
        return on_disk(root / (f"{stem}.{self.suffixes[0]}" if self.suffixes else stem))

    def advice(self, beside: Iterable[str] | None) -> str:
        """Say how the pattern would take in files of another suffix; nothing where there is none."""
        more = [os.path.splitext(file)[1][1:].lower() for file in beside or ()]
        suffixes = ",".join(dict.fromkeys([*self.suffixes, *more]))
        return f': write "{self.stem}.{{{suffixes}}}"' if more else ""


def unclaimed(
    files: Mapping[Key, list[str]], partners: Container[Key], others: Iterable[tuple[str, str]], root: Path
) -> dict[Key, str]:
    """Return those of a split's files of one kind, such as masks, that have no partner, such as an image.

    What is left over in one split may be another's: ``others`` holds their patterns of both kinds.
    """
    lone = {key: names[0] for key, names in files.items() if key not in partners}
    for kind, partner in others if lone else ():
        pattern, theirs = Pattern(kind), Pattern(partner).files(root).found
        lone = {key: name for key, name in lone.items() if pattern.key(name) not in theirs}
    return lone
