"""Pictures and videos of coloured blocks, the classes that are looked for in them, and what lies in a folder."""

from pathlib import Path

import cv2
import numpy as np

COLORS = [[10, 20, 30], [200, 0, 0], [0, 0, 255], [0, 200, 0]]
CLASSES = ["road", "car", "tree", "sky"]


def picture(seed: int, size: tuple[int, int]) -> np.ndarray:
    """Large blocks of colours."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return cv2.resize(blocks, size[::-1], interpolation=cv2.INTER_NEAREST)


def clip(path: Path, count: int, codec: str = "MJPG", size: tuple[int, int] = (48, 64)) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 12.5, size[::-1])
    assert writer.isOpened()
    for index in range(count):
        writer.write(picture(index, size))
    writer.release()
    return path


def frames(path: Path) -> list[np.ndarray]:
    capture, read = cv2.VideoCapture(str(path)), []
    while (frame := capture.read())[0]:
        read.append(cv2.cvtColor(frame[1], cv2.COLOR_BGR2RGB))
    return read


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
