from typing import Any

from segkd.losses import AttnFD

from ..row import Row

_ATTENTION = {
    **{"fc1.weight": "fc1", "fc1.bias": "fc1_bias", "fc2.weight": "fc2", "fc2.bias": "fc2_bias"},
    **{"spatial.weight": "spatial", "norm.weight": "spatial_norm_weight", "norm.bias": "spatial_norm_bias"},
}


def figures(row: Row) -> dict[str, Any]:
    loss = AttnFD(**row.params)
    loss.prepare(row.student, row.teacher)
    loss.double()
    row.put(loss, **{f"layers.0.student.0.{place}": f"student_{name}" for place, name in _ATTENTION.items()})
    row.put(loss, **{"layers.0.student.1.weight": "connector", "layers.0.student.2.weight": "connector_norm_weight"})
    row.put(loss, **{"layers.0.student.2.bias": "connector_norm_bias"})
    if loss.teacher_attention == "frozen":
        row.put(loss, **{f"layers.0.teacher.{place}": f"teacher_{name}" for place, name in _ATTENTION.items()})
    trained = [parameter for parameter in loss.parameters() if parameter.requires_grad]
    return row.figures(loss(row.student, row.teacher), *trained)
