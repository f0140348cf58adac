"""IKD: features compared on images that fool the teacher (Liang et al., arXiv 2209.09841)."""

from torch import Tensor, nn

from segkd.detection.adversarial import adversarial_images as adversarial_images  # the method's first half
from segkd.losses._layers import LayerLoss


class InconsistentKD(LayerLoss):
    """Inconsistent distillation: on images that fool the teacher its FPN maps are copied all the same.

        L = sum over the levels of sum (F_s - F_t)^2 / B

    where both models saw the images of `adversarial_images`; it stands beside FGD or MGD on the clean ones. A 1x1
    convolution with bias maps the student's channels where they are others. The published weight is 1e-5, 2.5e-7 for
    two-stage students, for the first 16 of 24 epochs.

    The teacher, a one-stage detector, makes the images with five of its forward and backward passes for each
    (`segkd.detection.adversarial.fooling_image`). With ``teacher.store`` that is done once, before the first step, for
    each of the ``data.views``, and they are read in each step; without, they are made anew in each step, with the same
    result. A loop of your own may have them in the targets as ``"adversarial"``, float (3, H, W) in [0, 1]. Both models
    run on them up to the FPN, beside the clean images: a batch norm of the student that learns sees both. An image
    without label is attacked as one without objects.

    The released code resizes images at random in each of the five steps; this does not. The paper's augmentation in
    frequencies is in neither.

    Shape:
        student: (B, C_s, h, w) features; teacher: (B, C_t, h, w), taken without gradient; or lists of such pairs.
        target is not read. Returns a scalar.

    Raises:
        SegkdError: batch or size differ, or the channels are not those that it was prepared for.

    Reference: Liang et al., "Exploring Inconsistent Knowledge Distillation for Object Detection with Data
    Augmentation", arXiv 2209.09841.

    Config:
        task: detection
        data: {views: 4}
        teacher: {store: true}
        distill:
          terms:
            fgd: {loss: fgd, weight: 1.0}
            inconsistent: {loss: inconsistent_kd, weight: 0.00001}

    Example:
        >>> import torch
        >>> from segkd.detection.methods import InconsistentKD
        >>> loss, x = InconsistentKD(), torch.randn(2, 5, 7, 9)
        >>> loss.prepare(x, x)
        >>> loss(x, x).item()
        0.0
    """

    name = "inconsistent_kd"
    title = "Inconsistent distillation"
    paper = "arXiv 2209.09841"
    reads = "adversarial"
    takes = "the FPN of detectors on adversarial images, and boxes"
    default_weight = 1e-5
    normalization = "sum over C_t * h * w / B, each level; 2.5e-7 for two-stage detectors"
    trains = "1x1 convolution where the channels differ"
    keeps = "its images"
    published = "COCO: at most +1.0 AP over the FGD or MGD beside it"

    def make(self, student_channels: int, teacher_channels: int) -> nn.Module:
        """Return the convolution where the channels differ, else nothing."""
        same = student_channels == teacher_channels
        return nn.Identity() if same else nn.Conv2d(student_channels, teacher_channels, 1)

    def compare(self, layers: nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of one pair, a scalar."""
        aligned: Tensor = layers(student)
        return (aligned - teacher).square().sum() / len(student)
