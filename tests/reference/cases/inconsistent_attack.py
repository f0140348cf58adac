from typing import Any

from torch import Tensor

from segkd.detection.methods.inconsistent_kd import adversarial_images

from ..row import Row


def figures(row: Row) -> dict[str, Any]:
    image, options = row.inputs["image"], {key: row.params[key] for key in ("steps", "alpha", "decay")}

    def task(x: Tensor) -> Tensor:
        return (row.inputs["task"] * (2 * x + row.inputs["offset"]).sin()).mean()

    found = adversarial_images(image, task, epsilon=row.params["eps"], **options)
    delta = found - image
    parts = {"delta_l2": delta.norm(), "delta_max": delta.abs().max(), "delta_sum": delta.sum()}
    parts |= {"loss_before": task(image), "loss_after": task(found)}
    return {"value": None, "parts": {name: value.item() for name, value in parts.items()}}
