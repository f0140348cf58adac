"""TensorBoard's pictures: input, label, teachers, student, where they err, RDD weights, and similarity matrices."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from segkd.common.pictures import Picture, comparison_grid, weight_map
from segkd.errors import SegkdError
from segkd.losses.icsd import inter_class_similarity
from segkd.segmentation.pictures import ERROR_COLORS, colorize, error_map, heat_map
from segkd.training.measure import seen_by
from segkd.training.module import DistillModule

if TYPE_CHECKING:
    from segkd.training.segmentation.task import SegmentationTask

_OF_TEACHER = ("teacher wrong", "both wrong")


def draw_boards(task: "SegmentationTask", module: DistillModule, items: list[dict[str, Any]]) -> dict[str, Picture]:
    """Return ``pictures`` and, of each model, ``similarity/...``.

    Where there are several teachers, the errors are shown against the first.

    Args:
        task: of the run.
        module: whose models are shown.
        items: of the validation split.
    """
    spec, ignore = task.spec, task.spec.ignore_index
    rows: list[dict[str, Any]] = []
    matrices: dict[str, list[Tensor]] = {}
    names = [name for name, network in module.networks().items() if network.classes]
    teachers = names[1:]
    for item in items:
        batch = {key: value[None].to(module.device) for key, value in item.items() if isinstance(value, Tensor)}
        predicted = {}
        for name in names:
            logits = task.predict(module.networks()[name], *task.inputs(seen_by(name, batch)))
            predicted[name] = logits.argmax(1)[0].cpu().numpy()
            matrices.setdefault(name, []).append(inter_class_similarity(logits)[0].cpu())
        label, weights = item["mask"].numpy(), _weights(module, batch)
        row = {"input": item["image"].permute(1, 2, 0).numpy(), "label": colorize(label, spec.colors, ignore)}
        row |= {name: colorize(predicted[name], spec.colors, ignore) for name in (*teachers, "student")}
        # Of several teachers the first is meant by "teacher wrong".
        errors = f"errors, {teachers[0]} as teacher" if len(teachers) > 1 else "errors"
        row[errors] = error_map(predicted["student"], label, ignore, predicted[teachers[0]] if teachers else None)
        if weights is not None:
            row["pixel weight: dark 0, yellow 1"] = weight_map(weights)
        rows.append(row)
    headers = list(dict.fromkeys(header for row in rows for header in row))
    kinds = [kind for kind in ERROR_COLORS if teachers or kind not in _OF_TEACHER]
    legend = [*zip(spec.class_names, spec.colors, strict=True), *((kind, ERROR_COLORS[kind]) for kind in kinds)]
    grid = comparison_grid([[row.get(header) for header in headers] for row in rows], headers, legend)
    return {"pictures": grid, **_matrices(matrices, spec.class_names)}


def _weights(module: DistillModule, batch: dict[str, Tensor]) -> Any:
    """Return the map (H, W) that the task loss would be weighted with at this progress, or None."""
    if module.distiller.pixel_weighting is None:
        return None
    try:
        inputs = module.task.inputs(batch)
        out = module.distiller(*inputs, progress=module.progress, teacher_images=batch.get("image_teacher"))
    except (SegkdError, RuntimeError):  # a size that the models take in windows only
        return None
    return None if out.pixel_weights is None else out.pixel_weights[0].float().cpu().numpy()


def _matrices(of_images: Mapping[str, list[Tensor]], names: list[str]) -> dict[str, Picture]:
    means = {model: torch.stack(matrices).mean(0).numpy() for model, matrices in of_images.items()}
    limits = (0.0, float(max(mean.max() for mean in means.values())))  # the same colours mean the same in all
    title = "KL(row || column) of the classes' spatial distributions, nats"
    return {f"similarity/{model}": heat_map(mean, names, f"{model}: {title}", limits) for model, mean in means.items()}
