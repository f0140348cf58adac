"""Draw one street: ground and facades ray-cast per pixel from a pinhole camera, objects painted on top."""

from collections.abc import Sequence

import cv2
import numpy as np

from segkd.data.streets.camera import BUILDING, LIGHTS, MARKING, PAVEMENT, ROAD, SKY, VEGETATION, Canvas, palette, rgb
from segkd.data.streets.objects import paint_objects

SCENE_VERSION = 1
"""Changes whenever the same seed gives another picture, so that sets drawn before are not taken for the same."""

_TEXTURE = {ROAD: 0.035, PAVEMENT: 0.05, BUILDING: 0.04, VEGETATION: 0.24, SKY: 0.006, MARKING: 0.035}
_EGO = 1  # Cityscapes' raw id of the car that the camera is in
_END = 110.0  # metres to where the street is closed off by a skyline
_PAVINGS = palette("96918a aca08c 967062 76767a")
_FACADES = palette("c4b8a0 965c48 a8a8a6 706c68 ceaa76 d0cec8 7a8692 788c6c b0847a")
_AWNINGS = palette("b02c28 2c5496 d4b03c 386e4a")


def draw_scene(seed: int | Sequence[int], size: tuple[int, int] = (128, 256)) -> tuple[np.ndarray, np.ndarray]:
    """Draw a street scene; the same seed and size give the same pixels.

    Args:
        seed: non-negative int, or several.
        size: height and width in pixels.

    Returns:
        Image uint8 (H, W, 3), RGB, and mask uint8 (H, W) of Cityscapes' raw ids: 1 ego vehicle, 7 road, 8 sidewalk,
        11 building, 17 pole, 20 traffic sign, 21 vegetation, 23 sky, 24 person, 26 car, and 34 lane marking.
    """
    image, canvas = draw_canvas(seed, size)
    return image, canvas.label


def draw_canvas(seed: int | Sequence[int], size: tuple[int, int]) -> tuple[np.ndarray, Canvas]:
    """Draw a street scene and return its image, with the canvas, which has the depth of each pixel too."""
    rng = np.random.default_rng(seed)
    canvas = Canvas(rng, size)
    street = _Street(canvas)
    street.paint_sky()
    street.paint_skyline()
    street.paint_ground()
    for side in (-1, 1):
        street.paint_facades(side)
    paint_objects(canvas, street.half, street.wall, street.crossing)
    if rng.random() < 0.4:  # the hood of the car that the camera is in
        rise = canvas.height * rng.uniform(0.05, 0.11)
        middle, paint = canvas.width * rng.uniform(0.42, 0.58), _tint(rng, (70, 72, 78), 35)
        canvas.ellipse((middle, canvas.height + rise * 0.6), (canvas.width * 0.62, rise * 1.6), paint, _EGO, 0.5)
    return _develop(canvas, street), canvas


class _Street:
    """The street's layout, in metres: X to the right of the road's middle, Y up from the ground, Z ahead."""

    def __init__(self, canvas: Canvas):
        self.canvas, self.rng = canvas, canvas.rng
        rng = self.rng
        self.half = rng.uniform(3.2, 7.5)  # half the road's width
        self.wall = self.half + rng.uniform(1.6, 5.0)  # where facades and gardens begin
        canvas.bend = rng.normal(0, 6e-4)
        canvas.offset = rng.uniform(-0.45, 0.45) * self.half
        self.light = LIGHTS[rng.choice(list(LIGHTS), p=[0.45, 0.3, 0.15, 0.1])]
        self.sun_side = int(rng.choice([-1, 1]))
        self.sun_length = rng.uniform(0.3, 1.6)  # length of a shadow across the street per metre of height
        self.crossing = rng.uniform(9, 40) if rng.random() < 0.45 else None
        self.lots = {side: self._draw_lots() for side in (-1, 1)}
        self.haze = rgb(*self.light.haze) + rng.normal(0, 5, 3).astype(np.float32)
        grey = rng.uniform(55, 125)
        self.asphalt = _tint(rng, (grey, grey, grey * 1.02), 5)
        if rng.random() < 0.4:  # a pavement that only its place tells from the road
            self.paving = self.asphalt * rng.uniform(0.93, 1.12)
        else:
            self.paving = _tint(rng, _PAVINGS[rng.integers(4)], 12)

    def _draw_lots(self) -> list[tuple[float, float, float, str]]:
        """Lots (start, end, height, kind) along one side, from behind the camera to the street's end."""
        rng, lots, z = self.rng, [], -6.0
        green = rng.choice([0.12, 0.35, 0.7])
        while z < _END:
            end = z + rng.uniform(5, 16)
            if self.crossing is not None and z < self.crossing + 5 < end + 6:
                end = self.crossing + 9
                lots.append((z, end, 0.0, "gap"))
            elif rng.random() < green:
                lots.append((z, end, rng.uniform(0.5, 2.2), "garden"))
            else:
                lots.append((z, end, rng.choice([rng.uniform(4, 8), rng.uniform(8, 22)]), "building"))
            z = end
        return lots

    def paint_sky(self) -> None:
        """Gradient and clouds over the whole picture; all else is painted over it."""
        rng, canvas = self.rng, self.canvas
        ramp = np.clip(np.arange(canvas.height, dtype=np.float32) / max(canvas.horizon, 1), 0, 1)[:, None, None]
        sky = _tint(rng, self.light.top, 14) * (1 - ramp) + _tint(rng, self.light.low, 14) * ramp
        clouds = np.clip(canvas.noise(0.5, stretch=2.5) * 1.2 + rng.uniform(-0.7, 0.5), 0, 1)[..., None]
        canvas.image[:] = np.clip(sky * (1 - clouds) + self.haze * 1.1 * clouds, 0, 255)
        canvas.label[:] = SKY
        canvas.depth[:] = 1e4

    def paint_skyline(self) -> None:
        """Far houses, trees or hills along the horizon."""
        rng = self.rng
        for layer in range(2):
            trees = rng.random() < 0.5
            color = _tint(rng, (78, 96, 62) if trees else (132, 124, 118), 18)
            x, points = -90.0, [(-90.0, -1.0)]
            level = rng.uniform(2, 14)
            while x < 90:
                step = rng.uniform(2, 5) if trees else rng.uniform(6, 20)
                level = float(np.clip(level + rng.normal(0, 1.0 if trees else 4.0), 1, 22))
                points += [(x, level), (x + step, level + (rng.normal(0, 0.5) if trees else 0))]
                x += step
            self.canvas.panel([*points, (x, -1.0)], _END - 5 * layer, color, VEGETATION if trees else BUILDING)

    def paint_ground(self) -> None:
        """Road, markings, kerbs and pavement with the shadows of the houses, all below the horizon."""
        rng, canvas = self.rng, self.canvas
        first = min(max(int(np.ceil(canvas.horizon + 0.02 * canvas.focal)), 0), canvas.height)
        rows = (np.arange(first, canvas.height, dtype=np.float32) + 0.5 - canvas.horizon) / canvas.focal
        z = np.minimum((canvas.eye / rows)[:, None], _END)
        x = canvas.rays[None] * z - canvas.offset - canvas.bend * z * z
        off, pixel = np.abs(x), z / canvas.focal  # metres from the middle, metres per pixel
        image = np.empty((*x.shape, 3), dtype=np.float32)
        image[:] = self.asphalt
        label = np.full(x.shape, ROAD, dtype=np.uint8)
        patchy = canvas.noise(0.35, stretch=3.0)[first:]
        image *= (1 + 0.10 * patchy)[..., None]
        for _ in range(rng.integers(0, 4)):  # repaired asphalt
            x0, z0 = rng.uniform(-self.half, self.half), rng.uniform(3, 40)
            patch = (np.abs(x - x0) < rng.uniform(0.4, 1.6)) & (np.abs(z - z0) < rng.uniform(1, 6))
            image[patch] *= rng.uniform(0.75, 1.25)
        seam = np.abs(x - rng.uniform(-self.half, self.half)) < 0.04 + 0.3 * pixel
        image[seam] *= 0.85
        crossing = np.zeros(x.shape, dtype=bool)
        if self.crossing is not None:
            crossing = (z > self.crossing) & (z < self.crossing + 9)
        lines = self._lane_lines(x, z, pixel, crossing)
        white = _tint(rng, (222, 180, 70) if rng.random() < 0.12 else (215, 215, 208), 12)
        cover = rng.uniform(0.35, 1.0)  # worn paint lets the asphalt through
        for line in lines:
            image[line] = image[line] * (1 - cover) + white * cover
            label[line] = MARKING
        pavement = (off > self.half) & ~crossing
        tiles = 1 + 0.10 * ((np.floor(x / 0.7) + np.floor(z / 0.7)) % 2 - 0.5) * (pixel < 0.25)
        image[pavement] = (self.paving * tiles[..., None])[pavement]
        image[pavement & (off < self.half + 0.22)] *= rng.uniform(1.1, 1.35)  # the kerb
        label[pavement] = PAVEMENT
        verge = (off > self.wall) & ~crossing
        if rng.random() < 0.7:
            image[verge], label[verge] = _tint(rng, (92, 112, 58), 14), VEGETATION
        if self.light is LIGHTS["sun"]:
            image[self._in_shadow(x, z)] *= rng.uniform(0.42, 0.6)
        canvas.image[first:] = np.clip(image, 0, 255)
        canvas.label[first:] = label
        canvas.depth[first:] = z

    def _lane_lines(self, x: np.ndarray, z: np.ndarray, pixel: np.ndarray, crossing: np.ndarray) -> list[np.ndarray]:
        """Where lines are painted on the road, bool (h, W) each, of the ground that the pixels show."""
        rng, off = self.rng, np.abs(x)
        width = rng.uniform(0.07, 0.13) + 0.25 * pixel
        period, share = rng.uniform(5, 12), rng.uniform(0.35, 0.65)
        dashed = ((z + rng.uniform(0, period)) % period) < share * period
        lines = []
        if rng.random() < 0.85:
            solid = rng.random() < 0.25
            lines.append((off < width) & (dashed | solid))
        if self.half > 5.5 and rng.random() < 0.8:
            lines.append((np.abs(off - self.half / 2) < width) & dashed)
        if rng.random() < 0.5:
            lines.append(np.abs(off - self.half + 0.35) < width)
        lines = [line & ~crossing for line in lines]
        if self.crossing is not None:
            ahead = self.crossing - z
            stripes = ((x / 0.55) % 2 < 1) & (ahead > 0.6) & (ahead < 3.6)
            stop = (ahead > 4.2) & (ahead < 4.7 + 0.5 * pixel) & (x > 0)
            lines += [(part & (off < self.half)) for part in (stripes, stop) if rng.random() < 0.75]
        return lines

    def _in_shadow(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Where houses on the sun's side shade the ground: light falls through gaps and gardens only."""
        away = self.wall - self.sun_side * x
        lots = self.lots[self.sun_side]
        index = np.clip(np.searchsorted([lot[1] for lot in lots], z + 0.4 * away), 0, len(lots) - 1)
        reach = np.array([lot[2] * self.sun_length for lot in lots], dtype=np.float32)[index]
        return away < reach

    def paint_facades(self, side: int) -> None:
        """Paint the houses and hedges of one side from the far end to the near one."""
        rng, canvas, lots = self.rng, self.canvas, self.lots[side]
        depth = canvas.walls[side] = canvas.wall_depth(side * self.wall)
        for number, (start, end, height, kind) in reversed(list(enumerate(lots))):
            if kind == "gap" or end < 1:
                continue
            if kind == "garden":
                label, color = VEGETATION, _tint(rng, (72, 98, 50), 20)
            else:
                label, color = BUILDING, _tint(rng, _FACADES[rng.integers(len(_FACADES))], 14) * rng.uniform(0.75, 1.1)
            if start > 1.5 and (number == 0 or lots[number - 1][2] < height):  # the face that looks at the camera
                near, far = side * self.wall, side * (self.wall + 14)
                canvas.box(near, far, 0.0, height, start, color * 0.8, label)
            columns = np.flatnonzero((depth >= max(start, 1.0)) & (depth < end))
            if columns.size:
                self._paint_wall(slice(columns[0], columns[-1] + 1), side, height, label, color)

    def _paint_wall(self, where: slice, side: int, height: float, label: int, color: np.ndarray) -> None:
        canvas = self.canvas
        z = canvas.walls[side][None, where]
        rows = (np.arange(canvas.height, dtype=np.float32)[:, None] + 0.5 - canvas.horizon) / canvas.focal
        y = canvas.eye - rows * z
        top = height * (1 + 0.25 * canvas.noise(0.06)[:, where]) if label == VEGETATION else height
        wall = (y >= 0) & (y <= top) & (z > 0)
        lit = 0.62 if side == self.sun_side and self.light is LIGHTS["sun"] else 1.0
        tone = np.full((*y.shape, 1), lit, dtype=np.float32) * np.clip(0.8 + 0.1 * y, 0.8, 1.05)[..., None]
        paint = np.broadcast_to(color, (*y.shape, 3)) * tone
        if label == BUILDING:
            paint = self._paint_windows(paint, y, z, height)
        canvas.image[:, where][wall] = np.clip(paint, 0, 255)[wall]
        canvas.label[:, where][wall] = label
        canvas.depth[:, where][wall] = np.broadcast_to(z, y.shape)[wall]

    def _paint_windows(self, paint: np.ndarray, y: np.ndarray, z: np.ndarray, height: float) -> np.ndarray:
        rng = self.rng
        wide, tall = rng.uniform(1.6, 3.6), rng.uniform(2.7, 3.6)
        share, lift = rng.uniform(0.35, 0.75), rng.uniform(0.4, 0.65)
        floor, column = y / tall, z / wide
        inside = ((floor % 1) > 0.25) & ((floor % 1) < 0.25 + lift) & ((column % 1) < share) & (y < height - 0.5)
        lit = rng.random((16, 64), dtype=np.float32)  # one tone per window
        tone = lit[(floor.astype(int) % 16), np.broadcast_to(column.astype(int) % 64, y.shape)]
        glass = self.haze * 0.25 + tone[..., None] * self.haze * 0.45
        if self.light is LIGHTS["dusk"]:
            glass = np.where((tone > 0.72)[..., None], rgb(236, 196, 120), glass)
        paint = np.where(inside[..., None], glass, paint)
        if rng.random() < 0.4:  # a shop with a bright awning
            awning = _tint(rng, _AWNINGS[rng.integers(4)], 15)
            paint = np.where(((y > 2.6) & (y < 3.5))[..., None], awning, paint)
        return np.where((y > height - 0.45)[..., None], paint * 0.72, paint)


def _develop(canvas: Canvas, street: _Street) -> np.ndarray:
    """Return the photograph of a finished painting: with texture, haze, exposure, blur and noise."""
    rng = canvas.rng
    image: np.ndarray = canvas.image.astype(np.float32)
    amplitude = np.full(256, 0.02, dtype=np.float32)
    for label, value in _TEXTURE.items():
        amplitude[label] = value
    # Texture shrinks with distance: near surfaces show coarse grain, far ones average it away.
    grain = 0.6 * canvas.noise(0.025) + 0.7 * canvas.noise(0.008)
    image *= (1 + amplitude[canvas.label] * grain)[..., None]
    reach = street.light.reach * rng.uniform(0.7, 1.4)
    solid = canvas.label != SKY
    clear = np.where(solid, np.exp(-canvas.depth / reach), 1.0).astype(np.float32)[..., None]
    image = image * clear + street.haze * (1 - clear)
    gain = street.light.gain * rng.uniform(0.75, 1.15)
    image *= np.float32(gain) * rng.normal(1, 0.03, 3).astype(np.float32)
    x = np.linspace(-1, 1, canvas.width, dtype=np.float32)[None] ** 2
    y = np.linspace(-1, 1, canvas.height, dtype=np.float32)[:, None] ** 2
    image *= (1 - rng.uniform(0, 0.22) * (x + y) / 2)[..., None]
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.35, 0.75) * max(canvas.height / 256, 0.8))
    noise = rng.uniform(2, 8) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def _tint(rng: np.random.Generator, color: Sequence[float], spread: float) -> np.ndarray:
    """A colour near ``color``: a common shift in brightness and a smaller one in each channel."""
    return (np.array(color) + rng.normal(0, spread) + rng.normal(0, spread / 3, 3)).astype(np.float32)
