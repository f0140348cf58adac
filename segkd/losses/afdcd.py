"""Af-DCD: augmentation-free dense contrastive distillation (Fan et al., NeurIPS 2023)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkd.errors import SegkdError
from segkd.losses._blocks import sum_in_blocks
from segkd.losses._common import check_temperature
from segkd.losses._masked import Masked


def dense_contrast(student: Tensor, teacher: Tensor, groups: int, patch: int, temperature: float) -> Tensor:
    """Return the contrast of two maps (B, C, h, w), summed over groups, mean over positions and images.

    A map is cut into patches of ``patch`` x ``patch`` positions, its last rows and columns left out where they make
    none, and its channels into groups of consecutive ones. Each cell (position, group) of the student is to be nearer
    in L1 to the same cell of the teacher than to those of all other groups of its patch. Work and memory grow with the
    square of a patch's cells; patches are taken in blocks.
    """
    s, t = (_cells(x, groups, patch) for x in (student, teacher))
    group = torch.arange(s.shape[1], device=s.device) % groups
    is_neither = group[:, None] == group  # neither the positive nor a negative: the group at other positions
    is_neither.fill_diagonal_(False)
    same = torch.arange(len(group), device=s.device)

    def of_patches(s: Tensor, t: Tensor) -> Tensor:
        distances = torch.cdist(s, t, p=1).div(-temperature).masked_fill(is_neither, -torch.inf)
        return F.cross_entropy(distances.flatten(0, 1), same.repeat(len(s)), reduction="sum")

    return sum_in_blocks(of_patches, len(group) ** 2, s, t) / (len(s) * patch**2)


def _cells(x: Tensor, groups: int, patch: int) -> Tensor:
    """Return a map as (patches, cells, channels of a group), the cells by position and then group."""
    rows, columns = x.shape[2] // patch, x.shape[3] // patch
    x = x[:, :, : rows * patch, : columns * patch].unflatten(1, (groups, -1))
    x = x.unflatten(4, (columns, patch)).unflatten(3, (rows, patch))
    return x.permute(0, 3, 5, 4, 6, 1, 2).flatten(3, 5).flatten(0, 2)


class AfDCD(Masked):
    """Augmentation-free dense contrast, beside the reconstruction of `MGD` that it is taken on.

        contrast = -log(e(i, i) / (e(i, i) + sum over j in N_i of e(i, j))), e(i, j) = exp(-|x_i - F_t,j|_1 / T)
        L = reconstruction_weight * sum (x - F_t)^2 / B
          + contrast_weight * sum over groups of the mean over B * h * w of contrast

    x is what `MGD` generates; for the contrast x and F_t are max-pooled by ``pool``. A cell i is a position's group of
    channels, N_i the cells of other groups in its patch; the sum over groups is no mean. The student's layers are
    trained and belong to the loss, one set for each pair of maps. A run clips their gradients, those of all pairs
    together, to norm ``gradient_clip``, as the released code does; a loop of your own calls
    ``torch.nn.utils.clip_grad_norm_`` on the loss's parameters. The released code crashes where the channels are as
    many.

    Published weights (reconstruction, contrast), beside pixel KD of weight 1: Cityscapes 2e-6, 5e-3; VOC 1e-6, 5e-3;
    CamVid 8e-6, 1e-2 with ``pool=0``; ADE20K 1e-6, 4e-2 and COCO-Stuff 5e-6, 5e-3 with pixel KD of 0.5. They are on an
    encoder's last stage; 77.03 mIoU (DeepLabV3, ResNet-101 to ResNet-18, Cityscapes). Which mask made that is unknown:
    the released script asks for another by flags that its parser does not know.

    Args:
        reconstruction_weight: at least 0.
        contrast_weight: at least 0.
        groups: of consecutive channels, at least 2; they divide the teacher's.
        patch: a patch's side, after pooling.
        pool: side and stride of the pooling; 0 or 1 for none.
        temperature: divides the distances, above 0.
        gradient_clip: above 0, or None for none; before ``trainer.gradient_clip``, which clips all gradients.
        mask_ratio: as `MGD` has it.

    Shape:
        student: (B, C_s, h, w) features; teacher: (B, C_t, h, w), taken without gradient; or lists of such pairs.
        target is not read. Returns a scalar.

    Raises:
        SegkdError: batch or size differ, the channels are not those that it was prepared for or not divided by the
            groups, the map is smaller than one patch, or an option is out of its range.

    Reference: Fan et al., "Augmentation-free Dense Contrastive Knowledge Distillation for Efficient Semantic
    Segmentation", NeurIPS 2023, arXiv 2312.04168.

    Config:
        distill:
          terms:
            afdcd:
              loss: afdcd
              student: encoder.layer4
              teacher: encoder.layer4
              groups: 16
              pool: 0
              weight: 1.0

    Example:
        >>> import torch
        >>> from segkd.losses import AfDCD
        >>> loss, student, teacher = AfDCD(groups=4), torch.randn(2, 5, 16, 32), torch.randn(2, 8, 16, 32)
        >>> loss.prepare(student, teacher)
        >>> loss(student, teacher).shape
        torch.Size([])
    """

    name = "afdcd"
    title = "Augmentation-free dense contrastive distillation"
    paper = "arXiv 2312.04168"
    takes = "features"
    default_weight = 1.0
    normalization = "its two parts have weights: a sum / B, and a mean over positions and sum over groups"
    trains = "1x1 convolution, two of 3x3"
    published = "Cityscapes, DeepLabV3, R101 teaches R18: 74.21 to 77.03 mIoU"

    reconstruction_weight: float = 2e-6
    contrast_weight: float = 5e-3
    groups: int = 16
    patch: int = 4
    pool: int = 4
    temperature: float = 0.07
    gradient_clip: float | None = 15.0

    def check(self) -> None:
        """Look at the options."""
        super().check()
        check_temperature(self.temperature)
        least = {"reconstruction_weight": 0, "contrast_weight": 0, "groups": 2, "patch": 1, "pool": 0}
        for option, value in least.items():
            if not getattr(self, option) >= value:
                raise SegkdError(f"afdcd: {option} must be at least {value}, got {getattr(self, option)}")
        if self.gradient_clip is not None and not self.gradient_clip > 0:
            raise SegkdError(f"afdcd: gradient_clip must be above 0, or null for none, got {self.gradient_clip}")

    def make(self, student_channels: int, teacher_channels: int) -> nn.Module:
        """Return the layers of `MGD`, once the groups divide the teacher's channels."""
        if teacher_channels % self.groups:
            raise SegkdError(f"afdcd: {self.groups} groups do not divide the teacher's {teacher_channels} channels")
        return super().make(student_channels, teacher_channels)

    def compare(self, layers: nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of one pair, a scalar."""
        side = max(self.pool, 1) * self.patch
        if min(student.shape[2:]) < side:
            raise SegkdError(
                f"afdcd: a patch of {self.patch} pooled by {max(self.pool, 1)} takes {side} rows and columns, got "
                f"{tuple(student.shape)}: give a smaller pool or patch"
            )
        x = self.generated(layers, student)
        reconstruction = (x - teacher).square().sum() / len(x)
        if self.pool > 1:
            x, teacher = (F.max_pool2d(each, self.pool) for each in (x, teacher))
        contrast = dense_contrast(x, teacher, self.groups, self.patch, self.temperature)
        return self.reconstruction_weight * reconstruction + self.contrast_weight * contrast
