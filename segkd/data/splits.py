"""Where a split's files lie, which mask belongs to which image, and which of them nothing claims."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from segkd.common.reading import read_stems
from segkd.data.masks import Pair, PairSplit
from segkd.data.patterns import Matches, Pattern, unclaimed
from segkd.errors import SegkdError


class Files(NamedTuple):
    """The files of a split.

    Attributes:
        pairs: sorted by image.
        problems: one line for each file that is in no pair and should be.
        remarks: one line for each kind of file that is left out and may be.
    """

    pairs: list[Pair]
    problems: list[str]
    remarks: list[str]


def match_files(label: str, splits: Mapping[str, PairSplit], name: str, root: Path) -> Files:
    """Find the files of one split.

    Args:
        label: what lines begin with.
        splits: all of the data set: what one of them leaves out may be another's.
        name: which of them.
        root: where they lie.
    """
    split = splits[name]
    images, masks = Pattern(split.images), Pattern(split.masks)
    there, labels = images.files(root), masks.files(root)
    if split.list is None:
        chosen = there.found
        problems, remarks = _left_out(label, splits, name, root, there, labels)
    else:
        listing = root / split.list
        try:
            stems = dict.fromkeys(read_stems(listing))
        except SegkdError as error:
            return Files([], [f"{label}: {error}"], [])
        chosen = {key: files for key, files in there.found.items() if key[-1] in stems}
        present = {key[-1] for key in chosen}
        others = {key[-1]: files for key, files in there.beside.items()}
        problems = [
            f"{label}: {listing} lists {stem!r}, but no image matches {split.images}{images.advice(others.get(stem))}"
            for stem in stems
            if stem not in present
        ]
        remarks = []
    if not chosen and not problems:
        problems = [f"{label}: no image matches {root / split.images}"]
    pairs = []
    for key, files in chosen.items():
        found = labels.found.get(key, [])
        mask = root / found[0] if found else masks.fill(key, root)
        twice = files if len(files) > 1 else found
        if len(twice) > 1:
            both = " and ".join(str(root / file) for file in twice)
            problems.append(f"{label}: {both} differ in their suffix only: keep one of them")
        elif mask.is_file():
            pairs.append(Pair(root / files[0], mask))
        else:
            beside = [file for file in labels.beside.get(key, []) if not images.key(file)]
            problems.append(f"{label}: image {root / files[0]} has no mask {mask}{masks.advice(beside)}")
    return Files(pairs, problems, remarks)


def _left_out(
    label: str, splits: Mapping[str, PairSplit], name: str, root: Path, there: Matches, labels: Matches
) -> tuple[list[str], list[str]]:
    """Return problems and remarks about images that have not the suffix, and about masks that have no image."""
    split, images = splits[name], Pattern(splits[name].images)
    known = [Pattern(text) for other in splits.values() for text in (other.images, other.masks)]
    unseen = {
        key: files[0]
        for key, files in there.beside.items()
        if key not in there.found and not any(pattern.key(files[0]) for pattern in known)
    }
    labelled = [file for key, file in unseen.items() if key in labels.found]
    problems = [
        f"{label}: image {root / file} has a mask and is left out, since splits.{name}.images is {split.images}"
        f"{images.advice(labelled)}"
        for file in labelled
    ]
    remarks = []
    bare = [file for key, file in unseen.items() if key not in labels.found]
    if bare:
        remarks.append(
            f"{label}: images of another suffix and without a mask, left out: {len(bare)}, such as {root / bare[0]}"
        )
    others = {(other.masks, other.images) for other in splits.values()} - {(split.masks, split.images)}
    lone = unclaimed(labels.found, {*there.found, *unseen}, others, root)
    if lone:
        key, file = next(iter(lone.items()))
        remarks.append(
            f"{label}: masks without an image, left out: {len(lone)}, such as {root / file}, whose image would be "
            f"{images.fill(key, root)}"
        )
    return problems, remarks
