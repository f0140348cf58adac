"""TensorBoard's pictures of detection: true boxes, the teachers' and the student's, and the models' FPN maps."""

from typing import TYPE_CHECKING, Any

from segkd.common.pictures import Picture, comparison_grid
from segkd.detection.models import detect
from segkd.detection.pictures import box_row, level_maps
from segkd.training.module import DistillModule

if TYPE_CHECKING:
    from segkd.training.detection.task import DetectionTask


def draw_boards(task: "DetectionTask", module: DistillModule, items: list[dict[str, Any]]) -> dict[str, Picture]:
    """Return ``pictures``, and of each model ``fpn/...`` of the first image.

    Args:
        task: of the run.
        module: whose models are shown.
        items: of the validation split.
    """
    # A two-stage teacher's heads may be there for its FPN alone; what it finds is still worth a look.
    networks = module.networks()
    teachers = [name for name in networks if name != "student"]
    rows = []
    for item in items:
        images = [item["image"].to(module.device).float() / 255]
        found = [detect(networks[name].module, images)[0] for name in (*teachers, "student")]
        pixels = item["image"].permute(1, 2, 0).numpy()
        rows.append(box_row(pixels, [item, *found], task.class_names, task.spec.colors, tile=480))
    legend = list(zip(task.class_names, task.spec.colors, strict=True))
    drawn = {"pictures": comparison_grid(rows, ["input", "label", *teachers, "student"], legend, tile=480)}
    image = items[0]["image"].to(module.device).float() / 255
    for name, network in networks.items():
        detector: Any = network.module
        transformed, _ = detector.transform([image])
        maps = detector.backbone(transformed.tensors)
        drawn[f"fpn/{name}"] = level_maps([level[0] for level in maps.values()], detector.backbone.strides)
    return drawn
