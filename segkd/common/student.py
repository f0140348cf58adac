"""The folder that a training leaves its student in: where it is, and what lies in it."""

from pathlib import Path

from segkd.errors import SegkdError, nearest

#: Where the weights and the description of a saved student lie in its folder.
STUDENT_FILE, CONFIG_FILE = "model.safetensors", "config.json"

#: Where in the description lies what is not needed to build the model: classes, colours, data set, version.
INFO_KEY = "_segkd"


def student_dir(path: str | Path) -> Path:
    """Return the folder of a saved student, given it or its run directory, or raise a `SegkdError`."""
    for folder in (Path(path) / "student", Path(path)):
        if (folder / STUDENT_FILE).is_file():
            return folder
    if not Path(path).exists():
        raise no_run(path)
    if Path(path).is_file():
        raise no_folder(path)
    raise SegkdError(f"{path} holds no {STUDENT_FILE} and no student/{STUDENT_FILE}: not a finished run or a student")


def weights_file(path: str | Path) -> Path:
    """Return the file of weights that a path means: itself, or that of the saved student in a run or folder."""
    return student_dir(path) / STUDENT_FILE if Path(path).is_dir() else Path(path)


def no_run(path: str | Path) -> SegkdError:
    """Return the error for a run directory that is not there; it names the nearest one."""
    folder = Path(path)
    beside = folder.parent if folder.parent.is_dir() else Path("runs")
    runs = [str(found.parent) for found in sorted(beside.glob("*/config.yaml"))]
    hint = nearest(folder, runs) if runs else f"there is none in {beside}"
    return SegkdError(f"there is no run {str(folder)!r}: {hint}")


def no_folder(path: str | Path) -> SegkdError:
    """Return the error for a file in place of a run directory or a student's folder; it names the one around it."""
    around = [folder for folder in Path(path).parents[:2] if holds_model(folder)]
    hint = f": name {around[0]}" if around else ""
    return SegkdError(f"{path} is a file, but a run directory or a student's folder is expected{hint}")


def holds_model(folder: Path) -> bool:
    """Whether a folder is a run directory or holds a saved student."""
    return (folder / "config.yaml").is_file() or (folder / STUDENT_FILE).is_file()
