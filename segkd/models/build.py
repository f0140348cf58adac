"""From a block of a config to a model of any family, with all that is needed to use it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from segkd.models.family import Built, Family, ModelBlock
from segkd.network import Network
from segkd.registry import find


def build_network(
    family: str, block: ModelBlock, classes: Sequence[str] | None, weights: bool = True, **options: Any
) -> Network:
    """Return the model that a block of a config describes.

    Args:
        family: its name, or ``package.module:Name`` where a config says so.
        block: of that family.
        classes: the names of the classes that it is to have; None for those that its own files say.
        weights: whether pretrained weights, or those of ``block.checkpoint``, are loaded; False where others are
            loaded over them.
        options: of `Network`, such as ``task``, ``size``, ``recorded`` and ``class_map``.

    Raises:
        SegkdError: as `Family.build`, or the checkpoint does not fit.
    """
    of: type[Family] = find("family", family)
    built = of.build(block, classes, weights)
    if weights and block.checkpoint is not None:
        of.load(built.module, block.checkpoint)
    return network_of(family, built, built.classes or classes or (), **options)


def network_of(
    family: str, built: Built, classes: Sequence[str], size: Sequence[int] | None = None, **options: Any
) -> Network:
    """Return what a family has built as a `Network`, of further options of that; ``size`` is what it says if None."""
    images = dataclasses.asdict(built.preprocess)
    return Network(
        built.module,
        **{**images, "size": size or images["size"]},
        classes=() if built.features else classes,
        as_map=find("family", family).as_map,
        family=family,
        settings=built.settings,
        note=built.note,
        **options,
    )
