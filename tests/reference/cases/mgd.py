from typing import Any

from torch import Tensor

from segkd.losses import MGD
from segkd.losses._masked import Masked

from ..row import Row, grad_l2


def prepared(loss: Masked, row: Row) -> Masked:
    """Return the loss with the row's weights and mask, whichever of both files' names they have."""
    loss.prepare(row.student, row.teacher)
    loss.double()
    names = dict(align="align", align_bias="align.bias", conv1="conv1", bias1="conv1.bias", conv2="conv2")
    names["bias2"] = "conv2.bias"
    places = {names.get(name, name): name for name in row.weights}
    places = {f"layers.0.{place if '.' in place else f'{place}.weight'}": name for place, name in places.items()}
    row.put(loss, **places)
    loss.draw = lambda like: row.inputs["mask" if "mask" in row.inputs else "u"]  # type: ignore[method-assign]
    return loss


def figures(row: Row) -> dict[str, Any]:
    loss = prepared(MGD(mask_ratio=row.params["mask_ratio"]), row)
    value: Tensor = loss(row.student, row.teacher) * row.params.get("weight", 1.0)
    kept = int((loss.draw(row.student) <= 1 - loss.mask_ratio).sum())
    parts = {"kept": kept, "conv1_grad_l2": grad_l2(value, [loss.layers[0].conv1.weight])}
    return {**row.figures(value, *loss.parameters()), "parts": parts}
