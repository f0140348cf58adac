"""What stands in the street: trees, poles, signs, cars and people, painted from far to near."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from segkd.data.streets.camera import CAR, PERSON, POLE, SIGN, VEGETATION, Canvas, palette, rgb

Paint = Callable[[Canvas, float, float], None]

_LEAVES = palette("3a5428 4e6834 627030 7a6032 404e3a")
_BARK = palette("4a3c30 60584e")
_METAL = palette("5c5e60 3c3e40 8c8e8e 384a40 807060")
_SIGNS = palette("c42226 244aa0 deb628 e2e2de")
_SYMBOLS = palette("e4e4e0 284ea5 1e1e1e")
_CARS = palette("1e1f22 b0b2b4 d8d8d6 707478 861c1e 263e74 565c3c 968464")
_GLASS = palette("262c34 546270")
_CLOTHES = palette("22242c 464c5c 786e64 a03230 38543e bebab0 604e3c 2c4276")
_SKIN = palette("d8b094 a87a5e 704e3a")
_HAIR = palette("281e18 5c422a 968c82")
_TYRE = rgb(22, 22, 24)


def paint_objects(canvas: Canvas, half: float, wall: float, crossing: float | None) -> None:
    """Scatter objects over the street and paint them from far to near.

    In metres ``half`` the road is wide, ``wall`` away from its middle are the facades, ``crossing`` ahead a street
    crosses, if one does.
    """
    rng = canvas.rng
    things: list[tuple[float, float, Paint]] = []

    def add(count: float, paint: Paint, xs: tuple[float, float], near: float = 4.0) -> None:
        for _ in range(rng.poisson(count)):
            z = near + (60 - near) * rng.random() ** 1.6
            things.append((z, float(rng.uniform(*xs)) * float(rng.choice([-1, 1])), paint))

    kerb = half + 0.45
    add(rng.choice([0.5, 4, 9]), _tree, (kerb, wall))
    add(3.0, _tree, (wall, wall + 6), near=12)
    add(3.5, _lamp, (kerb, kerb + 0.4))
    add(2.5, _sign, (kerb, kerb + 0.6))
    add(1.5, _bollard, (kerb - 0.2, kerb + 0.2), near=3.5)
    add(rng.choice([0.5, 3, 7]), partial(_car, parked=True), (half - 1.1, half - 0.9), near=6)
    add(1.6, partial(_car, parked=False), (half * 0.2, half * 0.55), near=7)
    add(rng.choice([1, 4, 8]), _person, (kerb, wall - 0.2), near=4)
    add(0.7, _person, (0.0, half), near=9)
    if crossing is not None:
        z = crossing
        things += [(z + rng.uniform(2, 7), rng.uniform(-8, 8), _car_across) for _ in range(rng.poisson(0.8))]
        things += [(z - rng.uniform(0.8, 3), rng.uniform(-half, half), _person) for _ in range(rng.poisson(1.2))]
    for z, x, paint in sorted(things, key=lambda thing: -thing[0]):
        column = int(canvas.project(x, 0, z)[0])
        facades = [depth[column] for depth in canvas.walls.values()] if 0 <= column < canvas.width else []
        # Where the street bends, a facade may stand between the camera and the object.
        if not any(0 < depth < z - 2 for depth in facades):
            paint(canvas, x, z)


def _color(rng: np.random.Generator, choices: Sequence[tuple[int, ...]], spread: float = 14) -> np.ndarray:
    base = rgb(*choices[int(rng.integers(len(choices)))])
    return np.clip(base + rng.normal(0, spread) + rng.normal(0, spread / 2, 3), 8, 245).astype(np.float32)


def _tree(canvas: Canvas, x: float, z: float) -> None:
    rng = canvas.rng
    height, trunk = rng.uniform(4, 9), rng.uniform(0.1, 0.22)
    crown, leaves = rng.uniform(1.2, 2.4), _color(rng, _LEAVES)
    canvas.shade(x, z, crown, 1.2, 0.7)
    canvas.box(x - trunk, x + trunk, 0, height * 0.6, z, _color(rng, _BARK), VEGETATION)
    pixels = canvas.focal / z
    for _ in range(int(rng.integers(9, 18))):
        angle, far = rng.uniform(0, 2 * np.pi), np.sqrt(rng.random())
        y = height * 0.72 + np.sin(angle) * far * height * 0.27
        centre = canvas.project(x + np.cos(angle) * far * crown * 0.8, y, z)
        size = crown * rng.uniform(0.22, 0.5) * pixels
        lit = 0.75 + 0.45 * (y / height - 0.45) + rng.normal(0, 0.08)  # the crown is darker below
        canvas.ellipse(centre, (size, size * rng.uniform(0.7, 1.0)), leaves * lit, VEGETATION, z)


def _lamp(canvas: Canvas, x: float, z: float) -> None:
    rng = canvas.rng
    height, thick, metal = rng.uniform(4.5, 8), rng.uniform(0.06, 0.11), _color(rng, _METAL)
    canvas.box(x - thick, x + thick, 0, height, z, metal, POLE)
    if rng.random() < 0.7:
        reach = -np.sign(x) * rng.uniform(0.8, 2.2)
        canvas.box(min(x, x + reach), max(x, x + reach), height - 0.14, height, z, metal, POLE)


def _bollard(canvas: Canvas, x: float, z: float) -> None:
    metal = _color(canvas.rng, _METAL)
    canvas.box(x - 0.08, x + 0.08, 0, canvas.rng.uniform(0.7, 1.1), z, metal, POLE)


def _sign(canvas: Canvas, x: float, z: float) -> None:
    rng = canvas.rng
    height, face = rng.uniform(2.2, 3.2), _color(rng, _SIGNS, 10)
    canvas.box(x - 0.05, x + 0.05, 0, height, z, _color(rng, _METAL), POLE)
    radius = rng.uniform(0.3, 0.5)
    inner = _color(rng, _SYMBOLS, 8)
    shape = rng.integers(4)
    if rng.random() < 0.2:  # seen from behind: grey metal, still a sign
        face = inner = _color(rng, _METAL)
    if shape == 0:
        for size, paint in ((radius, face), (radius * 0.62, inner)):
            pixels = size * (canvas.focal / z)
            canvas.ellipse(canvas.project(x, height, z), (pixels, pixels), paint, SIGN, z)
    elif shape == 1:
        for size, paint in ((radius * 1.15, face), (radius * 0.6, inner)):
            foot = height - size * 0.7
            canvas.panel([(x, height + size), (x + size, foot), (x - size, foot)], z, paint, SIGN)
    else:
        wide = radius * rng.uniform(0.7, 2.2) if shape == 2 else radius
        for share, paint in ((1.0, face), (0.4, inner)):
            across = wide if share == 1 else wide * 0.6
            canvas.box(x - across, x + across, height - radius * share, height + radius * share, z, paint, SIGN)


def _car(canvas: Canvas, x: float, z: float, parked: bool) -> None:
    """A car that stands along the street: its near end, the side that shows, and cabin, lights and wheels."""
    rng = canvas.rng
    paint, half = _color(rng, _CARS), rng.uniform(0.82, 0.98)
    van = rng.random() < 0.15
    waist, top, long = rng.uniform(0.85, 1.0), rng.uniform(1.4, 1.65), rng.uniform(3.6, 4.8)
    if van:
        waist, top, long = 1.3, rng.uniform(2.0, 2.6), 5.5
    far = z + long
    glass = _color(rng, _GLASS, 8)
    canvas.shade(x, z + long * 0.3, half * 1.25, long * 0.3 + 0.5, 0.45)
    eye = -canvas.offset - x  # metres from the car's middle to the camera; tells which flank shows
    if abs(eye) > half:
        near_x, dark = x + half * np.sign(eye), paint * np.float32(0.78)
        flank = [(0.28, z), (0.28, far), (waist, far), (waist, z)]
        cabin = [(waist, z + 0.3), (waist, far - 1.0), (top, far - 1.7), (top, z + 0.9)]
        for corners, color in ((flank, dark), (cabin, dark if van else glass)):
            canvas.polygon([canvas.project(near_x, py, pz) for py, pz in corners], color, CAR, z)
        for place in (z + 0.8, far - 0.8):
            size = 0.32 * canvas.focal / place
            axes = (size * min(abs(eye) / place + 0.15, 1), size)
            canvas.ellipse(canvas.project(near_x, 0.32, place), axes, _TYRE, CAR, z)
    for wheel in (-1, 1):
        canvas.box(x + wheel * half * 0.75 - 0.11, x + wheel * half * 0.75 + 0.11, 0, 0.35, z, _TYRE, CAR)
    canvas.box(x - half, x + half, 0.25, waist, z, paint, CAR)
    roof, base = half * (0.98 if van else rng.uniform(0.68, 0.8)), half * 0.95
    for shrink, color in ((1.0, paint * 0.9), (0.84, glass)):
        sill, lid = waist + (1 - shrink) * 0.3, top - (1 - shrink) * 0.6
        outline = [(-base, sill), (base, sill), (roof, lid), (-roof, lid)]
        canvas.polygon([canvas.project(x + px * shrink, py, z + 0.25) for px, py in outline], color, CAR, z)
    lights = rgb(170, 28, 26) if x > 0 else rgb(236, 230, 206)
    for lamp in (-1, 1):
        middle = x + lamp * half * 0.76
        canvas.box(middle - 0.15, middle + 0.15, waist - 0.28, waist - 0.1, z, lights * (0.8 if parked else 1.05), CAR)
    canvas.box(x - 0.26, x + 0.26, 0.42, 0.54, z, rgb(205, 205, 196), CAR)


def _car_across(canvas: Canvas, x: float, z: float) -> None:
    """A car in profile on the cross street."""
    rng = canvas.rng
    paint, half, way = _color(rng, _CARS), rng.uniform(1.9, 2.3), float(rng.choice([-1, 1]))
    canvas.shade(x, z, half, 0.6, 0.45)
    body = [(-half, 0.3), (half, 0.3), (half, 0.8), (half * 0.6, 0.95), (-half * 0.95, 1.0), (-half, 0.8)]
    cabin = [(half * 0.55, 0.92), (half * 0.2, 1.45), (-half * 0.55, 1.45), (-half * 0.9, 0.98)]
    glass = [(half * 0.42, 0.95), (half * 0.15, 1.36), (-half * 0.5, 1.36), (-half * 0.75, 0.98)]
    for shape, color in ((body, paint), (cabin, paint * 0.9), (glass, rgb(44, 52, 60))):
        canvas.panel([(x + way * px, py) for px, py in shape], z, color, CAR)
    size = 0.33 * canvas.focal / z
    for wheel in (-0.62, 0.62):
        canvas.ellipse(canvas.project(x + wheel * half, 0.32, z), (size, size), _TYRE, CAR, z)


def _person(canvas: Canvas, x: float, z: float) -> None:
    rng = canvas.rng
    tall = rng.uniform(1.55, 1.9) if rng.random() < 0.85 else rng.uniform(1.0, 1.4)
    coat, trousers = _color(rng, _CLOTHES), _color(rng, _CLOTHES[:4])
    wide, stride = tall * rng.uniform(0.11, 0.15), rng.uniform(0.02, 0.22)
    canvas.shade(x, z, 0.4, 0.5, 0.6)
    hip, shoulder = tall * 0.5, tall * 0.82
    for leg in (-1, 1):
        foot = x + leg * (stride + 0.06)
        corners = [(foot - 0.07, 0), (foot + 0.07, 0), (x + leg * 0.04 + 0.09, hip), (x + leg * 0.04 - 0.09, hip)]
        canvas.panel(corners, z, trousers * (0.9 + 0.1 * leg), PERSON)
    swing = rng.uniform(0.02, 0.16)
    for arm in (-1, 1):
        corners = [(x + arm * wide, shoulder), (x + arm * (wide + swing), hip), (x + arm * (wide + swing - 0.1), hip)]
        canvas.panel(corners, z, coat * 0.85, PERSON)
    torso = [(x - wide, shoulder), (x + wide, shoulder), (x + wide * 0.85, hip * 0.92), (x - wide * 0.85, hip * 0.92)]
    canvas.panel(torso, z, coat, PERSON)
    u, v = canvas.project(x, tall * 0.92, z)
    size = tall * 0.075 * (canvas.focal / z)
    canvas.ellipse((u, v - size * 0.25), (size * 0.95, size), _color(rng, _HAIR), PERSON, z)
    canvas.ellipse((u, v + size * 0.2), (size * 0.75, size * 0.85), _color(rng, _SKIN), PERSON, z)
