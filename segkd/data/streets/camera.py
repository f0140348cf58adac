"""The canvas that street scenes are painted on, the camera that looks at it, and the light that it is seen in."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

# Cityscapes' raw ids; lane marking, which Cityscapes lacks, takes the first free one.
ROAD, PAVEMENT, BUILDING = 7, 8, 11
POLE, SIGN, VEGETATION, SKY = 17, 20, 21, 23
PERSON, CAR, MARKING = 24, 26, 34

Point = tuple[float, float]

_GROUND = np.isin(np.arange(256), (ROAD, PAVEMENT, MARKING))


class Light(NamedTuple):
    """Colours of the sky at its top and low over the houses and of the haze; metres that the eye reaches; exposure."""

    top: Sequence[float]
    low: Sequence[float]
    haze: Sequence[float]
    reach: float
    gain: float


LIGHTS = {
    "sun": Light((88, 140, 205), (190, 212, 232), (196, 208, 222), 260.0, 1.05),
    "overcast": Light((168, 172, 178), (205, 207, 208), (196, 200, 204), 180.0, 0.92),
    "dusk": Light((72, 78, 118), (214, 158, 122), (150, 132, 140), 150.0, 0.85),
    "fog": Light((176, 178, 180), (190, 192, 192), (188, 190, 190), 38.0, 0.95),
}


class Canvas:
    """Image, label and depth, drawn together, and the camera that looks at them.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        label: uint8 (H, W), raw ids.
        depth: float32 (H, W), metres.
        walls: side (-1, 1) -> depth (W,) at which each column meets that side's facades.
    """

    def __init__(self, rng: np.random.Generator, size: tuple[int, int]):
        self.rng = rng
        self.height, self.width = size
        self.image = np.zeros((*size, 3), dtype=np.uint8)
        self.label = np.zeros(size, dtype=np.uint8)
        self.depth = np.zeros(size, dtype=np.float32)
        self.walls: dict[int, np.ndarray] = {}
        self.focal = self.width * rng.uniform(0.6, 0.95)
        self.horizon = self.height * rng.uniform(0.38, 0.52)
        self.centre = self.width * rng.normal(0.5, 0.06)
        self.eye = rng.uniform(1.2, 2.0)
        self.offset = self.bend = 0.0
        self.rays = (np.arange(self.width, dtype=np.float32) + 0.5 - np.float32(self.centre)) / np.float32(self.focal)

    def project(self, x: float, y: float, z: float) -> Point:
        """Pixel (column, row) of a point ``x`` right of the road's middle, ``y`` high and ``z`` ahead, in metres."""
        across = x + self.offset + self.bend * z * z
        return self.centre + self.focal * across / z, self.horizon + self.focal * (self.eye - y) / z

    def wall_depth(self, x: float) -> np.ndarray:
        """Distance (W,) at which each column's ray meets the wall at ``x``; 0 where it never does."""
        start, slope = x + self.offset, self.rays
        # bend z^2 - slope z + start = 0, the nearest root ahead; its stable form also serves a straight street.
        inside = slope * slope - 4 * self.bend * start
        root = np.sqrt(np.maximum(inside, 0))
        with np.errstate(divide="ignore", invalid="ignore"):
            z = 2 * start / (slope + np.where(slope < 0, -root, root))
        return np.where((inside >= 0) & np.isfinite(z) & (z > 0), z, 0).astype(np.float32)

    def noise(self, cell: float, stretch: float = 1.0) -> np.ndarray:
        """Smooth noise (H, W) of about unit variance; ``cell`` is its grain as a share of the height."""
        pixels = max(cell * self.height, 1.0)
        shape = (max(int(self.height / pixels), 2), max(int(self.width / (pixels * stretch)), 2))
        small = self.rng.standard_normal(shape, dtype=np.float32)
        return cv2.resize(small, (self.width, self.height), interpolation=cv2.INTER_LINEAR) * 1.4

    def polygon(self, points: Sequence[Point], color: np.ndarray, label: int, z: float) -> None:
        """Fill a polygon given in pixels."""
        corners = np.clip(np.array(points) * 16, -1e6, 1e6).round().astype(np.int32)
        for target, value in self._targets(color, label, z):
            cv2.fillPoly(target, [corners], value, shift=4)

    def ellipse(self, centre: Point, axes: Point, color: np.ndarray, label: int, z: float) -> None:
        """Fill an ellipse given in pixels by centre and half-axes."""
        middle = (round(centre[0] * 16), round(centre[1] * 16))
        half = (max(round(axes[0] * 16), 4), max(round(axes[1] * 16), 4))
        for target, value in self._targets(color, label, z):
            cv2.ellipse(target, middle, half, 0, 0, 360, value, -1, shift=4)

    def panel(self, corners: Sequence[Point], z: float, color: np.ndarray, label: int) -> None:
        """Fill a polygon that faces the camera at ``z``, its corners (x, y) in metres."""
        self.polygon([self.project(x, y, z) for x, y in corners], color, label, z)

    def box(self, x0: float, x1: float, y0: float, y1: float, z: float, color: np.ndarray, label: int) -> None:
        """Fill an upright rectangle that faces the camera, in metres."""
        self.panel([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], z, color, label)

    def shade(self, x: float, z: float, wide: float, deep: float, strength: float) -> None:
        """Darken the ground around a point, in metres."""
        u, v = self.project(x, 0, z)
        near = self.project(x, 0, max(z - deep, 0.8))[1]
        area = np.zeros(self.label.shape, dtype=np.uint8)
        axes = (max(round(wide * self.focal / z), 1), max(round(near - v), 1))
        if max(abs(u), abs(v), *axes) > 16000:
            return
        cv2.ellipse(area, (round(u), round(v)), axes, 0, 0, 360, 1, -1)
        ground = (area > 0) & _GROUND[self.label]
        self.image[ground] = (self.image[ground] * strength).astype(np.uint8)

    def _targets(self, color: np.ndarray, label: int, z: float) -> tuple[tuple[np.ndarray, Sequence[float]], ...]:
        rgb = [float(value) for value in np.clip(color, 0, 255)]
        return (self.image, rgb), (self.label, [label]), (self.depth, [z])


def rgb(red: float, green: float, blue: float) -> np.ndarray:
    """A colour, float32 (3,), each channel 0 to 255."""
    return np.array((red, green, blue), dtype=np.float32)


def palette(colors: str) -> list[tuple[int, ...]]:
    """Return the colours of a list such as ``"ff8000 00ff00"``."""
    return [tuple(bytes.fromhex(color)) for color in colors.split()]
