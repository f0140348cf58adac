"""Detection in a run: images with boxes, detectors on an FPN, average precision.

Imports are on first use: what a config says of this task is read without any of it.
"""

from typing import TYPE_CHECKING, Any

from segkd.errors import SegkdError
from segkd.training.detection.schema import DetectionConfig
from segkd.training.measure import Measure
from segkd.training.task import Task

if TYPE_CHECKING:
    from collections.abc import Mapping

    from PIL import Image
    from torch import Tensor
    from torchmetrics import Metric

    from segkd.common.pictures import Picture
    from segkd.data.boxes import BoxSpec
    from segkd.data.dataset import SeededDataset
    from segkd.detection.adapter import DetectionAdapter
    from segkd.detection.metrics import DetectionMetrics
    from segkd.network import Network
    from segkd.training.module import DistillModule


class DetectionTask(Task):
    """One detection run's data and models."""

    name = "detection"
    title = "object detection: boxes with classes"
    config_type = DetectionConfig
    family = "detectors"
    maps_classes = False
    measures = (
        Measure("ap", "AP"),
        Measure("ap50", "AP50"),
        Measure("ap75", "AP75"),
        Measure("ap_small", "AP small"),
        Measure("ap_medium", "AP medium"),
        Measure("ap_large", "AP large"),
        Measure("class_ap", "AP", of_classes=True),
    )

    config: DetectionConfig
    spec: "BoxSpec"

    @classmethod
    def labels(cls) -> type["BoxSpec"]:
        """Return boxes."""
        from segkd.data.boxes import BoxSpec

        return BoxSpec

    def dataset(self, split: str, augmented: bool) -> "SeededDataset":
        """Return a split; where it is measured, at its own size."""
        from segkd.data.dataset import SeededDataset

        return SeededDataset(
            self.spec,
            split,
            self._transform(augmented),
            self.config.data.root,
            self.config.seed,
            masks=self.config.student.arch == "mask_rcnn" and augmented,
            limit=self.config.data.limit if augmented else None,
            unlabelled=self.unlabelled() if augmented else [],
        )

    def _transform(self, augmented: bool) -> Any:
        from segkd.data.transforms import eval_transform, train_transform

        if not augmented:
            return eval_transform()
        data = self.config.data
        return train_transform(
            scale=data.scale, crop=data.crop, flip=data.flip, color_jitter=data.color_jitter, blur=data.blur
        )

    def samples(self, split: str, count: int) -> "Image.Image":
        """Return a picture of samples with their boxes, before and after the training split's augmentation."""
        from segkd.data.check import contact_sheet
        from segkd.detection.pictures import draw_boxes

        data = self.config.data
        transform = self._transform(augmented=split == data.train_split)

        def paint(image: Any, objects: Any) -> "Picture":
            return draw_boxes(image, objects.boxes, objects.labels, self.class_names, self.spec.colors)

        return contact_sheet(self.spec, split, transform, paint, count, self.config.seed, data.root)

    def sizes(self) -> dict[str, Any]:
        """Return the sizes at which detectors see this run's images."""
        return {"min_size": self.config.data.sizes(), "max_size": self.config.data.max_size}

    def check_networks(self, networks: "Mapping[str, Network]") -> None:
        """Raise where a config weighs pixels: detectors have none."""
        if self.config.distill.pixel_weighting:
            raise SegkdError(f"{self.config.name}: distill.pixel_weighting: detectors have no pixels to weigh")

    def inputs(self, batch: dict[str, Any]) -> "tuple[list[Tensor], list[dict[str, Tensor]]]":
        """Return images, float (3, H, W) in [0, 1], and their targets."""
        return [image.float() / 255 for image in batch["images"]], batch["targets"]

    def adapter(self) -> "DetectionAdapter":
        """Return what runs detectors part by part."""
        from segkd.detection.adapter import DetectionAdapter

        return DetectionAdapter()

    def metrics(self, **options: Any) -> "DetectionMetrics":
        """Return COCO's average precision."""
        from segkd.detection.metrics import DetectionMetrics

        return DetectionMetrics(self.class_names, **options)

    def count(self, metrics: "Metric", network: "Network", batch: dict[str, Any]) -> None:
        """Count a detector's boxes, in the images' own pixels."""
        from segkd.detection.models import detect

        images, targets = self.inputs(batch)
        metrics.update(detect(network.module, images), targets)

    def boards(self, module: "DistillModule", items: list[dict[str, Any]]) -> "dict[str, Picture]":
        """Return boxes of all models, and their FPN maps."""
        from segkd.training.detection.boards import draw_boards

        return draw_boards(self, module, items)

    def draw(self, item: dict[str, Any], network: "Network | None" = None) -> "Picture":
        """Draw the true boxes over the image, or those that a model finds."""
        from segkd.detection.models import detect
        from segkd.detection.pictures import box_row

        found = item if network is None else detect(network.module, [item["image"].float() / 255])[0]
        image = item["image"].permute(1, 2, 0).numpy()
        picture = box_row(image, [found], self.class_names, self.spec.colors, tile=480)[1]
        assert picture is not None
        return picture
