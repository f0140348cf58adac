"""TensorBoard's pictures of detection: true boxes, the teacher's and the student's, and both models' FPN maps."""

from typing import Any

import torch

from segkd.common.pictures import Picture, comparison_grid
from segkd.data.dataset import SeededDataset
from segkd.detection.models import detect
from segkd.detection.pictures import box_row, level_maps
from segkd.training.callbacks import Pictures
from segkd.training.module import DistillModule


class DetectionPictures(Pictures):
    """Draws the boxes of a few validation images, and the FPN maps of the first.

    Args:
        dataset: the validation split.
        count: how many images.
    """

    def __init__(self, dataset: SeededDataset, count: int) -> None:
        super().__init__(dataset, count)
        self.spec = dataset.spec

    def draw(self, module: DistillModule) -> dict[str, Picture]:
        """Return ``pictures`` and, of each side, ``fpn/...``."""
        distiller = module.distiller
        # A two-stage teacher's heads may be there for its FPN alone; what it finds is still worth a look.
        models = {"student": distiller.student} | ({"teacher": distiller.teacher} if distiller.teacher else {})
        rows = [self._row(item, models, module.device) for item in self.items]
        headers = ["input", "label", *(["teacher"] if distiller.teacher else []), "student"]
        legend = list(zip(self.spec.class_names, self.spec.colors, strict=True))
        drawn = {"pictures": comparison_grid(rows, headers, legend, tile=480)}
        image = self.items[0]["image"].to(module.device).float() / 255
        *batches, _ = distiller.adapter.inputs([image])
        for (side, model), batch in zip(models.items(), batches, strict=False):
            maps = distiller.adapter.read(side, "fpn", distiller.adapter.run(side, model, batch))
            drawn[f"fpn/{side}"] = level_maps([level[0] for level in maps.values()], list(maps))
        return drawn

    def _row(self, item: dict[str, Any], models: dict[str, Any], device: torch.device) -> list[Any]:
        image = item["image"].to(device).float() / 255
        found = [detect(models[side], [image])[0] for side in ("teacher", "student") if side in models]
        pixels = item["image"].permute(1, 2, 0).numpy()
        return box_row(pixels, [item, *found], self.spec.class_names, self.spec.colors, tile=480)
