"""TensorBoard's pictures of detection: true boxes, the teacher's and the student's, and both models' FPN maps."""

from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger

from segkd.common.pictures import comparison_grid
from segkd.detection.datasets import DetectionSpec
from segkd.detection.loading import DetectionDataset
from segkd.detection.models import detect
from segkd.detection.pictures import box_row, level_maps
from segkd.training.module import DistillModule


class Pictures(pl.Callback):
    """After each validation draws the boxes of a few of its images, and the FPN maps of the first.

    Args:
        dataset: the validation split; images spread over it are shown, the same ones each time.
        spec: its description.
        count: how many images.
    """

    def __init__(self, dataset: DetectionDataset, spec: DetectionSpec, count: int) -> None:
        self.spec = spec
        indices = sorted({int(index) for index in np.linspace(0, len(dataset) - 1, count)})
        self.items: list[dict[str, Any]] = [dataset[index] for index in indices]

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Draw and write."""
        assert isinstance(module, DistillModule)
        if trainer.sanity_checking or not trainer.is_global_zero or not self.items:
            return
        logger = trainer.logger
        assert isinstance(logger, TensorBoardLogger)
        writer, step, distiller = logger.experiment, trainer.global_step, module.distiller
        # A two-stage teacher's heads may be there for its FPN alone; what it finds is still worth a look.
        models = {"student": distiller.student} | ({"teacher": distiller.teacher} if distiller.teacher else {})
        with torch.no_grad():
            rows = [self._row(item, models, module.device) for item in self.items]
            image = self.items[0]["image"].to(module.device).float() / 255
            *batches, _ = distiller.adapter.inputs([image])
            for (side, model), batch in zip(models.items(), batches, strict=False):
                maps = distiller.adapter.read(side, "fpn", distiller.adapter.run(side, model, batch))
                picture = level_maps([level[0] for level in maps.values()], list(maps))
                writer.add_image(f"fpn/{side}", picture, step, dataformats="HWC")
        headers = ["input", "label", *(["teacher"] if distiller.teacher else []), "student"]
        legend = list(zip(self.spec.class_names, self.spec.colors, strict=True))
        writer.add_image("pictures", comparison_grid(rows, headers, legend, tile=480), step, dataformats="HWC")

    def _row(self, item: dict[str, Any], models: dict[str, Any], device: torch.device) -> list[Any]:
        image = item["image"].to(device).float() / 255
        found = [detect(models[side], [image])[0] for side in ("teacher", "student") if side in models]
        pixels = item["image"].permute(1, 2, 0).numpy()
        return box_row(pixels, [item, *found], self.spec.class_names, self.spec.colors, tile=480)
