"""Makes of CamVid's train split one to tune on: the last fifth of each drive becomes its validation split.

Weights that are tuned on it never saw the real validation images. Neighbouring frames look alike, so each drive is cut
once, not at random. Nothing is copied: the new tree links to the images.
"""

import argparse
import os
from collections import defaultdict
from pathlib import Path


def drives(folder: Path) -> dict[str, list[str]]:
    """Return the file names of each drive in order; a name begins with the drive's."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(folder.glob("*.png")):
        found[path.name.split("_")[0]].append(path.name)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("camvid", type=Path, help="the folder with train/ and trainannot/")
    parser.add_argument("out", type=Path, help="the folder to make: a data set camvid is in it, for $SEGKD_DATA")
    args = parser.parse_args()
    for names in drives(args.camvid / "train").values():
        cut = len(names) - len(names) // 5
        for split, part in (("train", names[:cut]), ("val", names[cut:])):
            for kind in ("", "annot"):
                folder = args.out / "camvid" / f"{split}{kind}"
                folder.mkdir(parents=True, exist_ok=True)
                for name in part:
                    os.symlink((args.camvid / f"train{kind}" / name).resolve(), folder / name)
    for split in ("train", "val"):
        print(f"{split}: {len(list((args.out / 'camvid' / split).iterdir()))} images")


if __name__ == "__main__":
    main()
