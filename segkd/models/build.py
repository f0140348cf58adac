"""From a block of a config to a model of any family, with all that is needed to use it."""

from collections.abc import Mapping, Sequence
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
        options: of `network_of`.

    Raises:
        SegkdError: as `Family.build`, or the checkpoint does not fit.
    """
    of: type[Family] = find("family", family)
    built = of.build(block, classes, weights)
    if weights and block.checkpoint is not None:
        of.load(built.module, block.checkpoint)
    return network_of(family, built, built.classes or classes or (), **options)


def network_of(
    family: str,
    built: Built,
    classes: Sequence[str],
    *,
    task: str = "segmentation",
    size: Sequence[int] | None = None,
    recorded: Mapping[str, Any] | None = None,
    class_map: Sequence[int | None] | None = None,
) -> Network:
    """Return what a family has built as a `Network`.

    Args:
        family: its name.
        built: what it has built.
        classes: their names.
        task: see `Network`.
        size: see `Network`; what the family says unless given.
        recorded: see `Network`.
        class_map: see `Network`.
    """
    images = built.preprocess
    return Network(
        built.module,
        mean=images.mean,
        std=images.std,
        white=images.white,
        size=size or images.size,
        multiple=images.multiple,
        classes=() if built.features else classes,
        class_map=class_map,
        as_map=find("family", family).as_map,
        task=task,
        recorded=recorded,
        family=family,
        settings=built.settings,
        note=built.note,
    )
