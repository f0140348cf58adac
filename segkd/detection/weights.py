"""Reading weights from a file into a detector."""

import re
from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from segkd.common.student import STUDENT_FILE, student_dir
from segkd.common.weights import check_fit, read_state_dict

# What torchvision called these in the releases that its published weights were saved with, and what it does now.
_RENAMED: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (r"((?:inner|layer)_blocks\.\d+)\.(\w+)$", lambda m: f"{m[1]}.0.{m[2]}"),
    (r"(_head\.conv)\.([0246])\.(\w+)$", lambda m: f"{m[1]}.{int(m[2]) // 2}.0.{m[3]}"),
    (r"(rpn\.head\.conv)\.(\w+)$", lambda m: f"{m[1]}.0.0.{m[2]}"),
    (r"(mask_head)\.mask_fcn(\d+)\.(\w+)$", lambda m: f"{m[1]}.{int(m[2]) - 1}.0.{m[3]}"),
)

# Tensors with so many rows per class, and whether background is one of the classes.
_PER_CLASS = {
    "head.class_predictor.": (1, False),
    "roi_heads.box_predictor.cls_score.": (1, True),
    "roi_heads.box_predictor.bbox_pred.": (4, True),
    "roi_heads.mask_predictor.mask_fcn_logits.": (1, True),
}


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load weights into a detector, all of them or none.

    Args:
        model: a detector from `build_detector`.
        path: a .safetensors, .pth, .pt or .bin file, also one that torchvision publishes; a Lightning checkpoint of
            this project, a run directory, or the ``student`` folder in it.

    Raises:
        SegkdError: the file is missing, unreadable, or of another architecture or number of classes.
    """
    file = student_dir(path) / STUDENT_FILE if Path(path).is_dir() else Path(path)
    wanted, per_class = model.state_dict(), dict(_PER_CLASS)
    anchors = getattr(getattr(getattr(model, "head", None), "classification_head", None), "num_anchors", 1)
    per_class["head.classification_head.cls_logits."] = (anchors, True)

    def renamed(key: str) -> str:
        for pattern, name in _RENAMED:
            new = re.sub(pattern, name, key)
            if key not in wanted and new in wanted:
                return new
        return key

    def classes(key: str, value: Tensor) -> int | None:
        for start, (rows, background) in per_class.items():
            if key.startswith(start):
                return value.shape[0] // rows - background
        return None

    state = {renamed(key): value for key, value in read_state_dict(file).items()}
    check_fit(model, state, file, classes=classes)
    model.load_state_dict(state)
