"""Reading what models return: the logits in it, and all tensors."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segkd.errors import SegkdError


def read_logits(output: Any) -> Tensor:
    """Return the logits (B, C, h, w) of what a model returned.

    Reads a tensor, an object with ``.logits`` (transformers), a mapping with ``"out"`` (torchvision) or ``"logits"``,
    and a tuple or list whose first entry is the logits.

    Raises:
        SegkdError: it is none of these, or the logits are not 4-dimensional.
    """
    found = output
    if not isinstance(output, Tensor):
        if isinstance(getattr(output, "logits", None), Tensor):
            found = output.logits
        elif isinstance(output, Mapping):
            found = output.get("out", output.get("logits"))
        elif isinstance(output, (tuple, list)) and output:
            found = output[0]
    if not isinstance(found, Tensor) or found.dim() != 4:
        shape = f" of shape {tuple(found.shape)}" if isinstance(found, Tensor) else ""
        raise SegkdError(
            f"cannot read logits (B, C, H, W) from a {type(output).__name__}{shape}: a model returns a tensor, a "
            "mapping with 'out' or 'logits', a tuple that starts with the logits, or an object with .logits"
        )
    return found


def read_auxiliary(output: Any) -> Tensor | None:
    """Return the auxiliary head's logits (B, C, h, w) of what a model returned, or None when there are none.

    Reads a mapping's ``"aux"``, an object's ``.aux_logits``, and a 4-dimensional second entry of a tuple or list.
    """
    found: Any = None
    if isinstance(output, Mapping):
        found = output.get("aux")
    elif isinstance(output, (tuple, list)):
        found = output[1] if len(output) > 1 else None
    elif not isinstance(output, Tensor):
        found = getattr(output, "aux_logits", None)
    return found if isinstance(found, Tensor) and found.dim() == 4 else None


def tensors_of(value: Any) -> list[Tensor]:
    """Return the tensors in a value, in order: itself, or those in a list, tuple or mapping; others are passed over."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [found for each in value for found in tensors_of(each)] if isinstance(value, (tuple, list)) else []


def of_images(value: Any, index: Tensor) -> Any:
    """Return some images' part, by index (N,), of a value that holds tensors (B, ...), in lists and mappings too."""
    if isinstance(value, Tensor):
        return value[index.to(value.device)] if value.dim() else value
    if isinstance(value, Mapping):
        return {key: of_images(of, index) for key, of in value.items()}
    if isinstance(value, (tuple, list)):
        return [of_images(of, index) for of in value]
    if isinstance(getattr(value, "logits", None), Tensor):
        return {"out": of_images(value.logits, index), "aux": of_images(getattr(value, "aux_logits", None), index)}
    return value


def is_map(value: object) -> bool:
    """Return whether this is a tensor (B, C, h, w)."""
    return isinstance(value, Tensor) and value.dim() == 4
