"""From what a person names on the command line to the images and videos that are read, and what becomes of each."""

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from segkd.common.paths import on_disk
from segkd.data.patterns import IMAGE_SUFFIXES
from segkd.errors import SegkdError

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")


class Source(NamedTuple):
    """One image or video."""

    path: Path
    relative: Path  # the same below the deepest folder that holds all that was asked for
    name: Path  # of its results: ``relative`` without a suffix, or with its own where others would have the same name
    is_video: bool


def find_sources(inputs: Iterable[str]) -> list[Source]:
    """Return every image and video that is asked for, each once.

    Args:
        inputs: each a file; a folder, whose images and videos at any depth are meant, hidden ones left out and links to
            folders followed; or a pattern such as ``"frames/**/*.png"``, which means what a shell would make of it. A
            file that is named and has no suffix of a video is taken for an image.

    Raises:
        SegkdError: there are no inputs, or one matches nothing, holds nothing, or cannot be read.
    """
    files: dict[Path, None] = {}  # in the order asked for
    roots = []
    for text in inputs:
        given = os.path.expanduser(text)
        given = str(on_disk(Path(given))) if given else given
        matches = [given] if os.path.exists(given) else sorted(glob.glob(given, recursive=True))
        if not matches:
            raise SegkdError(f"no file, folder or pattern {text!r} matches anything")
        found = []
        for path in (Path(os.path.abspath(match)) for match in matches):
            is_folder = path.is_dir()
            roots.append(path if is_folder else path.parent)
            found += sorted(_below(path)) if is_folder else [path]
        if not found:
            raise SegkdError(f"{text} holds no image or video ({' '.join(IMAGE_SUFFIXES + VIDEO_SUFFIXES)})")
        files |= dict.fromkeys(found)
    if not roots:
        raise SegkdError("inputs: expected at least one file, folder or pattern, got none")
    root = os.path.commonpath(roots)
    relatives = {path: path.relative_to(root) for path in files}
    taken = set(relatives.values())
    folders = {folder for relative in taken for folder in relative.parents}  # a video's frames go into one of its name
    stems = Counter(relative.with_suffix("") for relative in taken)
    sources = []
    for path, relative in relatives.items():
        stem, is_video = relative.with_suffix(""), relative.suffix.lower() in VIDEO_SUFFIXES
        shared = stems[stem] > 1 or stem in taken or (is_video and stem in folders)
        sources.append(Source(path, relative, relative if shared else stem, is_video))
    return sources


def _below(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise SegkdError(f"folder {error.filename} cannot be read: {error.strerror}")

    # Each folder once, lest links run in a circle, and what links lead to last, so that its own name comes first.
    waiting, seen = [str(folder)], set()
    for start in waiting:
        for parent, folders, names in os.walk(start, onerror=refuse):
            if (real := os.path.realpath(parent)) in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = [name for name in folders if not name.startswith(".")]
            waiting += [path for path in (os.path.join(parent, name) for name in folders) if os.path.islink(path)]
            for name in names:
                if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES:
                    yield Path(parent, name)
