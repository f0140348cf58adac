"""Which anchor learns which box, as each one-stage detector itself decides it."""

from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet

from segkd.detection.gfl import GFL
from segkd.errors import SegkdError


def match(
    detector: nn.Module,
    targets: list[dict[str, Tensor]],
    anchors: list[Tensor],
    anchors_per_level: list[int],
    image_shapes: list[tuple[int, int]] | None = None,
) -> list[Tensor]:
    """Return the box that each anchor is to learn.

    ``detector.head.compute_loss(targets, head_outputs, anchors, matched_idxs)`` then gives the losses that
    ``detector(images, targets)`` returns in training.

    Args:
        detector: a RetinaNet (by IoU or ATSS), FCOS or GFL.
        targets: per image ``"boxes"``, (M, 4), xyxy in pixels of the transformed image, and ``"labels"``, (M,).
        anchors: of each image, (N, 4), level by level.
        anchors_per_level: how many anchors each level has.
        image_shapes: (height, width) of each transformed image without its padding, which GFL leaves out; None: there
            is no padding.

    Returns:
        Per image (N,) int64: an index into the boxes, -1 for background, -2 for an anchor that takes no part.

    Raises:
        SegkdError: another kind of detector, which has no such anchors.
    """
    if not isinstance(detector, RetinaNet | FCOS | GFL):
        raise SegkdError(f"a {type(detector).__name__} matches no anchors to boxes: RetinaNet, FCOS and GFL do")
    compute_loss: Any = type(detector).compute_loss
    more: list[Any] = [] if isinstance(detector, RetinaNet) else [anchors_per_level]
    if isinstance(detector, GFL):
        more.append(image_shapes)
    return compute_loss(_UpToTheHead(detector), targets, {}, anchors, *more)


class _UpToTheHead:
    """A detector whose ``compute_loss`` returns what it would have its head compute the loss of: the matches.

    torchvision has its matching within `compute_loss`; this runs that code itself, and leaves the detector as it is.
    """

    head = SimpleNamespace(compute_loss=lambda targets, head_outputs, anchors, matched_idxs: matched_idxs)

    def __init__(self, detector: nn.Module) -> None:
        self.detector = detector

    def __getattr__(self, name: str) -> Any:
        return getattr(self.detector, name)
