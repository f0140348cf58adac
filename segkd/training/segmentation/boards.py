"""TensorBoard's pictures: input, label, teacher, student, where they err, RDD weights, and similarity matrices."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from segkd.adapter import read_logits
from segkd.common.pictures import Picture, comparison_grid, weight_map
from segkd.data.dataset import SeededDataset
from segkd.data.masks import MaskSpec
from segkd.errors import SegkdError
from segkd.losses.icsd import inter_class_similarity
from segkd.segmentation.pictures import ERROR_COLORS, colorize, error_map, heat_map
from segkd.training.callbacks import Pictures
from segkd.training.module import DistillModule

_OF_TEACHER = ("teacher wrong", "both wrong")


class SegmentationPictures(Pictures):
    """Draws a few validation images under both models, and both similarity matrices.

    Args:
        dataset: the validation split.
        count: how many images.
        inputs: makes of a batch the distiller's images and target, see `Task.inputs`.
        predict: called (model, images, target), returns logits at label size.
    """

    def __init__(
        self,
        dataset: SeededDataset,
        count: int,
        inputs: Callable[[dict[str, Any]], tuple[Tensor, Tensor]],
        predict: Callable[[nn.Module, Tensor, Tensor], Tensor],
    ) -> None:
        super().__init__(dataset, count)
        self.spec, self.inputs, self.predict = cast(MaskSpec, dataset.spec), inputs, predict

    def draw(self, module: DistillModule) -> dict[str, Picture]:
        """Return ``pictures`` and, of each side, ``similarity/...``."""
        rows, matrices = [], []
        for item in self.items:
            row, pair = self._row(module, item)
            rows.append(row)
            matrices.append(pair)
        headers = ["input", "label", "teacher", "student", "errors", "pixel weight: dark 0, yellow 1"]
        used = [column for column in range(len(headers)) if any(row[column] is not None for row in rows)]
        kinds = [kind for kind in ERROR_COLORS if module.distiller.teacher is not None or kind not in _OF_TEACHER]
        legend = [*zip(self.spec.class_names, self.spec.colors, strict=True), *((k, ERROR_COLORS[k]) for k in kinds)]
        grid = comparison_grid([[row[c] for c in used] for row in rows], [headers[c] for c in used], legend)
        return {"pictures": grid, **self._matrices(matrices)}

    def _row(self, module: DistillModule, item: dict[str, Any]) -> tuple[list[Any], list[Tensor]]:
        batch = {key: item[key][None].to(module.device) for key in ("image", "mask")}
        distiller, ignore = module.distiller, self.spec.ignore_index
        models = [distiller.student] if distiller.teacher is None else [distiller.student, distiller.teacher]
        *inputs, target = distiller.adapter.inputs(*self.inputs(batch))
        predicted, matrices = [], []
        for side, model, given in zip(("student", "teacher"), models, inputs, strict=False):
            logits = self.predict(model, given, target)
            if side == "teacher":
                logits = distiller.adapter.map_classes(logits)
            predicted.append(logits.argmax(1)[0].cpu().numpy())
            matrices.append(inter_class_similarity(logits)[0].cpu())
        weights = None
        if distiller.pixel_weighting is not None:
            weights = self._weights(module, inputs, models, target)
        label = item["mask"].numpy()
        teacher = predicted[1] if len(predicted) > 1 else None
        return [
            item["image"].permute(1, 2, 0).numpy(),
            colorize(label, self.spec.colors, ignore),
            None if teacher is None else colorize(teacher, self.spec.colors, ignore),
            colorize(predicted[0], self.spec.colors, ignore),
            error_map(predicted[0], label, ignore, teacher),
            None if weights is None else weight_map(weights),
        ], matrices

    def _weights(self, module: DistillModule, inputs: Any, models: list[Any], target: Tensor) -> Any:
        """Return the map (H, W) that the task loss would be weighted with at this progress."""
        adapter, pixels = module.distiller.adapter, module.distiller.pixels
        assert pixels is not None
        try:
            sides = ("student", "teacher")
            outputs = [adapter.run(*each) for each in zip(sides, models, inputs, strict=True)]
            has_auxiliary = adapter.has_auxiliary(outputs[1])
            weights = pixels.weights(
                read_logits(outputs[0]),
                adapter.read("teacher", "logits", outputs[1]),
                adapter.read("teacher", "aux", outputs[1]) if has_auxiliary else None,
                target,
                module.progress,
            )
        except (SegkdError, RuntimeError):  # a size that the models take in windows only
            return None
        return weights.map[0].float().cpu().numpy()

    def _matrices(self, matrices: list[list[Tensor]]) -> dict[str, Picture]:
        means = [torch.stack(of_images).mean(0).numpy() for of_images in zip(*matrices, strict=True)]
        limits = (0.0, float(max(mean.max() for mean in means)))  # the same colours mean the same in both
        drawn = {}
        for side, mean in zip(("student", "teacher"), means, strict=False):
            title = f"{side}: KL(row || column) of the classes' spatial distributions, nats"
            drawn[f"similarity/{side}"] = heat_map(mean, self.spec.class_names, title, limits)
        return drawn
