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

    from torch import Tensor

    from segkd.common.pictures import Picture
    from segkd.data.boxes import BoxSpec
    from segkd.data.dataset import SeededDataset
    from segkd.detection.adapter import DetectionAdapter
    from segkd.detection.metrics import DetectionMetrics
    from segkd.detection.stored import StoredDetector
    from segkd.network import Network
    from segkd.training.module import DistillModule
    from segkd.training.teacher_schema import StoreBlock


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

    def dataset(self, split: str, augmented: bool, **options: Any) -> "SeededDataset":
        """Return a split, with the objects' masks where they are learnt too."""
        with_masks = augmented and self.config.student.arch == "mask_rcnn"
        return super().dataset(split, augmented, masks=with_masks, **options)

    def paint(self, image: Any, label: Any) -> "Picture":
        """Draw boxes."""
        from segkd.detection.pictures import draw_boxes

        return draw_boxes(image, label.boxes, label.labels, self.class_names, self.spec.colors)

    def sizes(self) -> dict[str, Any]:
        """Return the sizes at which detectors see this run's images."""
        return {"min_size": self.config.data.sizes(), "max_size": self.config.data.max_size}

    def check_networks(self, networks: "Mapping[str, Network]") -> None:
        """Raise where a config weighs pixels, which detectors have none of, or the student cannot inherit weights."""
        if self.config.distill.pixel_weighting:
            raise SegkdError(f"{self.config.name}: distill.pixel_weighting: detectors have no pixels to weigh")
        self._inherit(networks["student"], networks, dry=True)

    def start(self, student: "Network", teachers: "Mapping[str, Network]") -> str:
        """Give the student the teacher's neck and head where the config says so."""
        count = self._inherit(student, teachers)
        part = "head starts" if self.config.student.inherit == "head" else "neck and head start"
        return f"the student's {part} from the teacher's weights: {count} tensors" if count else ""

    def _inherit(self, student: "Network", networks: "Mapping[str, Network]", dry: bool = False) -> int:
        from segkd.detection.inherit import inherit

        wanted = getattr(self.config.student, "inherit", False)
        teachers = [network for name, network in networks.items() if name != "student"]
        if not (wanted and teachers):
            return 0
        try:
            return inherit(student.module, teachers[0].module, wanted == "head", dry)
        except SegkdError as error:
            raise SegkdError(f"{self.config.name}: student.inherit: {error}") from None

    def inputs(self, batch: dict[str, Any]) -> "tuple[list[Tensor], list[dict[str, Tensor]]]":
        """Return images, float (3, H, W) in [0, 1], and their targets."""
        return [image.float() / 255 for image in batch["images"]], batch["targets"]

    def adapter(self) -> "DetectionAdapter":
        """Return what runs detectors part by part."""
        from segkd.detection.adapter import DetectionAdapter

        return DetectionAdapter()

    def stored(self, network: "Network", block: "StoreBlock") -> "StoredDetector":
        """Return a teacher whose FPN maps are kept where images are cropped to one size, and resized to one."""
        from segkd.detection.stored import StoredDetector

        if block.whole:
            raise SegkdError(f"{self.config.name}: teacher.store.whole is not of {self.name}: leave it out")
        return StoredDetector(network, cropped=self.config.data.crop is not None, head=block.head)

    def metrics(self, **options: Any) -> "DetectionMetrics":
        """Return COCO's average precision."""
        from segkd.detection.metrics import DetectionMetrics

        return DetectionMetrics(self.class_names, **options)

    def predict(self, network: "Network", images: Any, target: Any = None) -> Any:
        """Return of each image the boxes that a detector finds, in its own pixels, with labels and scores."""
        from segkd.detection.models import detect

        return detect(network.module, images)

    def boards(self, module: "DistillModule", items: list[dict[str, Any]]) -> "dict[str, Picture]":
        """Return ``pictures``, the boxes of all models, and of each model its FPN maps of the first image."""
        from segkd.common.pictures import comparison_grid
        from segkd.detection.pictures import box_row, level_maps

        # A two-stage teacher's heads may be there for its FPN alone; what it finds is still worth a look.
        networks = module.networks()
        names = [*(name for name in networks if name != "student"), "student"]
        rows, images = [], [item["image"].to(module.device).float() / 255 for item in items]
        for item, image in zip(items, images, strict=True):
            found = [self.predict(networks[name], [image])[0] for name in names]
            pixels = item["image"].permute(1, 2, 0).numpy()
            rows.append(box_row(pixels, [item, *found], self.class_names, self.spec.colors, tile=480))
        drawn = {"pictures": comparison_grid(rows, ["input", "label", *names], self.legend, tile=480)}
        for name, network in networks.items():
            detector: Any = network.module
            transformed, _ = detector.transform(images[:1])
            maps = detector.backbone(transformed.tensors)
            drawn[f"fpn/{name}"] = level_maps([level[0] for level in maps.values()], detector.backbone.strides)
        return drawn

    def draw(self, item: dict[str, Any], network: "Network | None" = None) -> "Picture":
        """Draw the true boxes over the image, or those that a model finds."""
        from segkd.detection.pictures import box_row

        found = item if network is None else self.predict(network, [item["image"].float() / 255])[0]
        image = item["image"].permute(1, 2, 0).numpy()
        picture = box_row(image, [found], self.class_names, self.spec.colors, tile=480)[1]
        assert picture is not None
        return picture
