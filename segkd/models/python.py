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
        try:
            signature = inspect.signature(make)
        except ValueError:  # of what is written in C nothing is known before it is called
            signature = None
        of_count = [name for name in COUNTS if signature is not None and name in signature.parameters][:1]
        given = {**({} if classes is None else dict.fromkeys(of_count, len(classes))), **block.options}
        try:
            if signature is not None:
                signature.bind(**given)
        except TypeError as error:
            raise SegkdError(f"{where} {signature} does not take options {given}: {error}") from error
        try:
            module = make(**given)
        except Exception as error:
            raise SegkdError(f"{where} ended with {registry.said(error)}") from error
        images = {key: getattr(block, key) for key in ("mean", "std", "white", "size", "multiple")}
        if isinstance(module, tuple) and len(module) == 2 and isinstance(module[1], Mapping):
            module, own = module
            images |= own
        if not isinstance(module, nn.Module):
            raise SegkdError(f"{where} returned no torch.nn.Module but {type(module).__name__}")
        try:
            preprocess = Preprocess(**images)
        except TypeError as error:
            raise SegkdError(f"{where} says of images {images}: {error}") from error
        settings = {**images, "mean": list(preprocess.mean), "std": list(preprocess.std), "features": block.features}
        try:
            settings["options"] = json.loads(json.dumps(block.options))
        except TypeError as error:
            raise SegkdError(f"{where}: options are kept as JSON: {error}") from error
        return Built(module, preprocess, None, settings, block.features)
