"""The kinds of values that configs hold: numbers in a range that a machine can bear, paths, sizes, devices."""

import math
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from segkd.common.paths import plain_path
from segkd.common.plain import written

Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Natural = Annotated[int, Field(ge=0, le=2**31 - 1)]
BatchSize = Annotated[int, Field(ge=1, le=65536)]
Above0 = Annotated[float, Field(gt=0)]
AtLeast0 = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
PathText = Annotated[str, AfterValidator(plain_path)]
Pixels = Annotated[int, Field(ge=1, le=32768)]
# Of a block: true has all its defaults, false is none.
Switch = BeforeValidator(lambda said: {} if said is True else None if said is False else said)
RunName = Annotated[str, Field(pattern=r"^\w[\w.-]*$", max_length=200)]
# Ten times either side is a hundred times the memory.
MAX_SCALE = 10.0


def fits_memory(size: Any) -> Any:
    """Raise ValueError for a height and width of more pixels than a machine can bear."""
    if math.prod(size) > 2**28:
        raise ValueError(f"expected at most {2**28} pixels in all, got {written(list(size))}")
    return size


def _ordered(scale: tuple[float, float]) -> tuple[float, float]:
    if not 0 < scale[0] <= scale[1] <= MAX_SCALE:
        raise ValueError(
            f"expected [smallest, largest] with 0 < smallest <= largest <= {MAX_SCALE:g}, got {written(scale)}"
        )
    return scale


def _of_the_library(name: str) -> str:
    if ":" in name:
        raise ValueError(
            f"a model of one's own is named by build: {name!r}, with options for what makes it; this key is for "
            "names that a library knows (docs/models.md)"
        )
    return name


_DEVICES = "expected auto, how many (1 to 1024; -1 for all), or a list of their numbers such as [0, 1]"


def _devices(devices: int | str | list[int]) -> int | str | list[int]:
    if devices in ("auto", -1, "-1"):
        return devices
    text = ",".join(map(str, devices)) if isinstance(devices, list) else str(devices)
    is_count = not isinstance(devices, list) and "," not in text
    numbers = [int(part) for part in text.split(",") if part] if re.fullmatch(r"\d{1,4}(,\d{1,4})*,?", text) else []
    if not numbers or max(numbers) > 1024 or (is_count and 0 in numbers):
        raise ValueError(f"{_DEVICES}, got {written(devices)}")
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"names a device twice: {written(devices)}")
    return devices


HeightWidth = Annotated[tuple[Pixels, Pixels], AfterValidator(fits_memory)]
Scale = Annotated[tuple[float, float], AfterValidator(_ordered)]
ModelName = Annotated[str, AfterValidator(_of_the_library)]
Devices = Annotated[int | str | list[int], AfterValidator(_devices)]
