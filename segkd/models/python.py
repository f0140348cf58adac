"""Models of the user's own: what a function or class makes that a config names as ``package.module:name``."""

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, field_validator

from segkd.common.values import Count, HeightWidth
from segkd.errors import SegkdError
from segkd.models.family import Built, Family, ModelBlock

#: Names of the parameter that is given the number of classes, the first that there is.
COUNTS = ("classes", "num_classes", "n_classes")


class PythonBlock(ModelBlock):
    """A model of the user's own."""

    build: Any = Field("", description="package.module:name of what makes the module, given options and classes")
    mean: list[float] = Field([0.0, 0.0, 0.0], description="of each channel, in units of white")
    std: list[Annotated[float, Field(gt=0)]] = Field([1.0, 1.0, 1.0], description="likewise")
    white: Annotated[float, Field(gt=0)] = Field(1.0, description="what a white pixel is: 1, or 255")
    size: HeightWidth | None = Field(None, description="[height, width] that images are resized to")
    multiple: Count = Field(1, description="what height and width of images must be multiples of")
    features: bool = Field(False, description="true: it has no classes, a teacher whose features alone are read")

    @field_validator("build")
    @classmethod
    def _names_something(cls, build: Any) -> Any:
        if not callable(build) and (not isinstance(build, str) or (build and ":" not in build)):
            raise ValueError(f"expected package.module:name of what makes the module, got {build!r:.80}")
        return build


class Python(Family):
    """Modules that the user's own code makes; a folder that one is saved in never names that code."""

    name = "python"
    title = "modules of your own, build: package.module:name"
    block = PythonBlock
    tasks = ()
    names_code = True
    kept = ("options", "mean", "std", "white", "size", "multiple", "features")

    @classmethod
    def build(cls, block: PythonBlock, classes: Sequence[str] | None, weights: bool = True) -> Built:
        """See `Family.build`: what is called is the user's, and told neither of weights nor of checkpoints."""
        from torch import nn

        from segkd import registry
        from segkd.network import Preprocess

        if not block.build:
            raise SegkdError("build is missing: package.module:name of what makes the module")
        make = registry.find("builder", block.build) if isinstance(block.build, str) else block.build
        where = f"build {block.build if isinstance(block.build, str) else getattr(make, '__name__', make)!r}"
        given = {**({} if classes is None else _count(make, len(classes))), **block.options}
        try:
            inspect.signature(make).bind(**given)
        except TypeError as error:
            raise SegkdError(f"{where} {inspect.signature(make)} does not take options {given}: {error}") from error
        except ValueError:  # of what is written in C nothing is known before it is called
            pass
        try:
            module = make(**given)
        except Exception as error:
            raise SegkdError(f"{where} ended with {registry.said(error)}") from error
        images: dict[str, Any] = {"mean": block.mean, "std": block.std, "white": block.white, "size": block.size}
        images["multiple"] = block.multiple
        if isinstance(module, tuple) and len(module) == 2 and isinstance(module[1], Mapping):
            module, own = module
            images |= own
        if not isinstance(module, nn.Module):
            raise SegkdError(f"{where} returned a {type(module).__name__}, no torch.nn.Module")
        try:
            preprocess = Preprocess(**images)
        except TypeError as error:
            raise SegkdError(f"{where} says of images {images}: {error}") from error
        settings = {**images, "mean": list(preprocess.mean), "std": list(preprocess.std)}
        settings |= {"options": _plain(block.options, where), "features": block.features}
        return Built(module, preprocess, None, settings, block.features)


def _count(make: Any, classes: int) -> dict[str, int]:
    """Return the number of classes by the name that the function has for it, if it has any."""
    try:
        parameters = inspect.signature(make).parameters
    except ValueError:
        return {}
    found = next((name for name in COUNTS if name in parameters), None)
    return {} if found is None else {found: classes}


def _plain(options: Mapping[str, Any], where: str) -> Any:
    try:
        return json.loads(json.dumps(options))
    except TypeError as error:
        raise SegkdError(f"{where}: options are kept as JSON: {error}") from error
