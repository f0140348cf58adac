"""Draw one street: ground and facades ray-cast per pixel from a pinhole camera, objects painted on top."""

from collections.abc import Sequence

import numpy as np

from segkd.data.streets.camera import (
    BUILDING,
    EGO,
    MARKING,
    PAVEMENT,
    ROAD,
    SKY,
    VEGETATION,
    Canvas,
    develop,
    rgb,
)
from segkd.data.streets.objects import paint_objects

SCENE_VERSION = 1
"""Changes whenever the same seed gives another picture, so that sets drawn before are not taken for the same."""

_END = 110.0  # metres to where the street is closed off by a skyline


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
    street = _Street(rng, canvas)
    street.paint_sky()
    street.paint_skyline()
    street.paint_ground()
    for side in (-1, 1):
        street.paint_facades(side)
    paint_objects(canvas, street)
    if rng.random() < 0.4:
        _paint_hood(canvas)
    return develop(canvas, str(street.light), street.haze), canvas


class _Street:
    """The street's layout, in metres: X to the right of the road's middle, Y up from the ground, Z ahead."""

    def __init__(self, rng: np.random.Generator, canvas: Canvas):
        self.rng, self.canvas = rng, canvas
        self.half = rng.uniform(3.2, 7.5)  # half the road's width
        self.wall = self.half + rng.uniform(1.6, 5.0)  # where facades and gardens begin
        canvas.bend = rng.normal(0, 6e-4)
        canvas.offset = rng.uniform(-0.45, 0.45) * self.half
        self.light = rng.choice(["sun", "overcast", "dusk", "fog"], p=[0.45, 0.3, 0.15, 0.1])
        self.sun_side = int(rng.choice([-1, 1]))
        self.sun_length = rng.uniform(0.3, 1.6)  # length of a shadow across the street per metre of height
        self.crossing = rng.uniform(9, 40) if rng.random() < 0.45 else None
        self.lots = {side: self._draw_lots() for side in (-1, 1)}
        self.haze = np.array(
            {"sun": (196, 208, 222), "overcast": (196, 200, 204), "dusk": (150, 132, 140), "fog": (188, 190, 190)}[
                self.light
            ],
            dtype=np.float32,
        ) + rng.normal(0, 5, 3).astype(np.float32)
        grey = rng.uniform(55, 125)
        self.asphalt = _tint(rng, (grey, grey, grey * 1.02), 5)
        if rng.random() < 0.4:  # a pavement that only its place tells from the road
            self.paving = self.asphalt * rng.uniform(0.93, 1.12)
        else:
            self.paving = _tint(
                rng, [(150, 145, 138), (172, 160, 140), (150, 112, 98), (118, 118, 122)][rng.integers(4)], 12
            )

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
        height = canvas.height
        top, low = {
            "sun": ((88, 140, 205), (190, 212, 232)),
            "overcast": ((168, 172, 178), (205, 207, 208)),
            "dusk": ((72, 78, 118), (214, 158, 122)),
            "fog": ((176, 178, 180), (190, 192, 192)),
        }[self.light]
        ramp = np.clip(np.arange(height, dtype=np.float32) / max(canvas.horizon, 1), 0, 1)[:, None, None]
        sky = _tint(rng, top, 14) * (1 - ramp) + _tint(rng, low, 14) * ramp
        clouds = np.clip(canvas.noise(0.5, stretch=2.5) * 1.2 + rng.uniform(-0.7, 0.5), 0, 1)[..., None]
        canvas.image[:] = np.clip(sky * (1 - clouds) + self.haze * 1.1 * clouds, 0, 255)
        canvas.label[:] = SKY
        canvas.depth[:] = 1e4

    def paint_skyline(self) -> None:
        """Far houses, trees or hills along the horizon."""
        rng, canvas = self.rng, self.canvas
        for layer in range(2):
            kind = VEGETATION if rng.random() < 0.5 else BUILDING
            color = _tint(rng, (78, 96, 62) if kind == VEGETATION else (132, 124, 118), 18)
            x, z = -90.0, _END - 5 * layer
            points = [(x, -1.0)]
            level = rng.uniform(2, 14)
            while x < 90:
                step = rng.uniform(2, 5) if kind == VEGETATION else rng.uniform(6, 20)
                level = float(np.clip(level + rng.normal(0, 1.0 if kind == VEGETATION else 4.0), 1, 22))
                points += [(x, level), (x + step, level + (rng.normal(0, 0.5) if kind == VEGETATION else 0))]
                x += step
            points.append((x, -1.0))
            canvas.polygon([canvas.project(px, py, z) for px, py in points], color, kind, z)

    def paint_ground(self) -> None:
        """Road, markings, kerbs and pavement with the shadows of the houses, all below the horizon."""
        rng, canvas = self.rng, self.canvas
        first = min(max(int(np.ceil(canvas.horizon + 0.02 * canvas.focal)), 0), canvas.height)
        rows = (np.arange(first, canvas.height, dtype=np.float32) + 0.5 - canvas.horizon) / canvas.focal
        z = (canvas.eye / rows)[:, None]
        z = np.minimum(z, _END)
        x = canvas.rays[None] * z - canvas.offset - canvas.bend * z * z
        off, pixel = np.abs(x), z / canvas.focal  # metres from the middle, metres per pixel
        image = np.empty((*x.shape, 3), dtype=np.float32)
        image[:] = self.asphalt
        label = np.full(x.shape, ROAD, dtype=np.uint8)
        patchy = canvas.noise(0.35, stretch=3.0)[first:]
        image *= (1 + 0.10 * patchy)[..., None]
        for _ in range(rng.integers(0, 4)):  # repaired asphalt
            x0, z0 = rng.uniform(-self.half, self.half), rng.uniform(3, 40)
            image[(np.abs(x - x0) < rng.uniform(0.4, 1.6)) & (np.abs(z - z0) < rng.uniform(1, 6))] *= rng.uniform(
                0.75, 1.25
            )
        seam = np.abs(x - rng.uniform(-self.half, self.half)) < 0.04 + 0.3 * pixel
        image[seam] *= 0.85
        crossing = np.zeros(x.shape, dtype=bool)
        if self.crossing is not None:
            crossing = (z > self.crossing) & (z < self.crossing + 9)
        self._mark_lanes(x, z, off, pixel, image, label, crossing)
        pavement = (off > self.half) & ~crossing
        tiles = 1 + 0.10 * ((np.floor(x / 0.7) + np.floor(z / 0.7)) % 2 - 0.5) * (pixel < 0.25)
        image[pavement] = (self.paving * tiles[..., None])[pavement]
        image[pavement & (off < self.half + 0.22)] *= rng.uniform(1.1, 1.35)  # the kerb
        label[pavement] = PAVEMENT
        verge = (off > self.wall) & ~crossing
        if rng.random() < 0.7:
            image[verge], label[verge] = _tint(rng, (92, 112, 58), 14), VEGETATION
        if self.light == "sun":
            image[self._in_shadow(x, z)] *= rng.uniform(0.42, 0.6)
        canvas.image[first:] = np.clip(image, 0, 255)
        canvas.label[first:] = label
        canvas.depth[first:] = z

    def _mark_lanes(
        self,
        x: np.ndarray,
        z: np.ndarray,
        off: np.ndarray,
        pixel: np.ndarray,
        image: np.ndarray,
        label: np.ndarray,
        crossing: np.ndarray,
    ) -> None:
        rng = self.rng
        width = rng.uniform(0.07, 0.13) + 0.25 * pixel
        period, share = rng.uniform(5, 12), rng.uniform(0.35, 0.65)
        dashed = ((z + rng.uniform(0, period)) % period) < share * period
        lines = []
        if rng.random() < 0.85:
            solid = rng.random() < 0.25
            lines.append((np.abs(x) < width) & (dashed | solid))
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
        white = _tint(rng, (222, 180, 70) if rng.random() < 0.12 else (215, 215, 208), 12)
        cover = rng.uniform(0.35, 1.0)  # worn paint lets the asphalt through
        for line in lines:
            image[line] = image[line] * (1 - cover) + white * cover
            label[line] = MARKING

    def _in_shadow(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Where houses on the sun's side shade the ground: light falls through gaps and gardens only."""
        away = self.wall - self.sun_side * x
        lots = self.lots[self.sun_side]
        index = np.clip(np.searchsorted([lot[1] for lot in lots], z + 0.4 * away), 0, len(lots) - 1)
        reach = np.array([lot[2] * self.sun_length for lot in lots], dtype=np.float32)[index]
        return away < reach

    def paint_facades(self, side: int) -> None:
        """Paint the houses and hedges of one side from the far end to the near one."""
        canvas = self.canvas
        depth = canvas.wall_depth(side * self.wall)
        canvas.walls[side] = depth
        lots = self.lots[side]
        for number in range(len(lots) - 1, -1, -1):
            start, end, height, kind = lots[number]
            if kind == "gap" or end < 1:
                continue
            label, color = (
                (VEGETATION, _tint(self.rng, (72, 98, 50), 20))
                if kind == "garden"
                else (
                    BUILDING,
                    self._facade_color(),
                )
            )
            if start > 1.5 and (number == 0 or lots[number - 1][2] < height):  # the face that looks at the camera
                near, far = side * self.wall, side * (self.wall + 14)
                corners = [(near, 0.0), (far, 0.0), (far, height), (near, height)]
                canvas.polygon([canvas.project(px, py, start) for px, py in corners], color * 0.8, label, start)
            columns = np.flatnonzero((depth >= max(start, 1.0)) & (depth < end))
            if columns.size:
                self._paint_wall(slice(columns[0], columns[-1] + 1), depth, height, label, color, side)

    def _facade_color(self) -> np.ndarray:
        rng = self.rng
        bases = [(196, 184, 160), (150, 92, 72), (168, 168, 166), (112, 108, 104), (206, 170, 118), (208, 206, 200),
                 (122, 134, 146), (120, 140, 108), (176, 132, 122)]  # fmt: skip
        color = _tint(rng, bases[rng.integers(len(bases))], 14)
        return color * rng.uniform(0.75, 1.1)

    def _paint_wall(
        self, where: slice, depth: np.ndarray, height: float, label: int, color: np.ndarray, side: int
    ) -> None:
        canvas = self.canvas
        z = depth[None, where]
        rows = (np.arange(canvas.height, dtype=np.float32)[:, None] + 0.5 - canvas.horizon) / canvas.focal
        y = canvas.eye - rows * z
        wall = (y >= 0) & (y <= height)
        if label == VEGETATION:
            wall = (y >= 0) & (y <= height * (1 + 0.25 * canvas.noise(0.06)[:, where]))
        tone = np.ones((*y.shape, 1), dtype=np.float32) * (
            0.62 if side == self.sun_side and self.light == "sun" else 1.0
        )
        tone *= np.clip(0.8 + 0.1 * y, 0.8, 1.05)[..., None]
        paint = np.broadcast_to(color, (*y.shape, 3)) * tone
        if label == BUILDING:
            paint = self._paint_windows(paint, y, z, height)
        wall &= np.broadcast_to(z > 0, y.shape)
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
        if self.light == "dusk":
            glass = np.where((tone > 0.72)[..., None], rgb(236, 196, 120), glass)
        paint = np.where(inside[..., None], glass, paint)
        if rng.random() < 0.4:  # a shop with a bright awning
            awning = _tint(rng, [(176, 44, 40), (44, 84, 150), (212, 176, 60), (56, 110, 74)][rng.integers(4)], 15)
            paint = np.where(((y > 2.6) & (y < 3.5))[..., None], awning, paint)
        return np.where((y > height - 0.45)[..., None], paint * 0.72, paint)


def _paint_hood(canvas: Canvas) -> None:
    rise = canvas.height * canvas.rng.uniform(0.05, 0.11)
    middle, paint = canvas.width * canvas.rng.uniform(0.42, 0.58), _tint(canvas.rng, (70, 72, 78), 35)
    canvas.ellipse((middle, canvas.height + rise * 0.6), (canvas.width * 0.62, rise * 1.6), paint, EGO, 0.5)


def _tint(rng: np.random.Generator, color: Sequence[float], spread: float) -> np.ndarray:
    """A colour near ``color``: a common shift in brightness and a smaller one in each channel."""
    return (np.array(color) + rng.normal(0, spread) + rng.normal(0, spread / 3, 3)).astype(np.float32)
