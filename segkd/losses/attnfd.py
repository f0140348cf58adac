"""AttnFD: attention-guided feature distillation (Mansourian et al., arXiv 2403.05451)."""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkd.errors import SegkdError, nearest
from segkd.losses._common import unit
from segkd.losses._layers import LayerLoss, normed

TeacherAttention = Literal["pool", "frozen"]


def unit_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared distance of two maps (B, C, h, w), each divided by its norm over the whole batch, / B."""
    whole = tuple(range(student.dim()))
    return (unit(student, whole) - unit(teacher, whole)).square().sum() / len(student)


def pooled_attention(x: Tensor) -> Tensor:
    """Return a map (B, C, h, w) times its channels' and then its positions' attention, which have no weights.

    sigmoid(mean + maximum), first over positions, then over channels.
    """
    for dim in ((2, 3), (1,)):
        x = x * (x.mean(dim, keepdim=True) + x.amax(dim, keepdim=True)).sigmoid()
    return x


class Attention(nn.Module):
    """CBAM (arXiv 1807.06521): a map times its channels' attention, then times its positions'.

    Args:
        channels: of the map.
        reduction: the perceptron between has so many times fewer.
        is_frozen: it is not trained, and its norm keeps no running statistics.
    """

    def __init__(self, channels: int, reduction: int, is_frozen: bool = False) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(channels, channels // reduction), nn.Linear(channels // reduction, channels)
        self.spatial = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(1, momentum=0.01, track_running_stats=not is_frozen)
        self.requires_grad_(not is_frozen)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map (B, C, h, w) times both."""
        pooled = torch.stack([x.mean((2, 3)), x.amax((2, 3))])
        x = x * self.fc2(F.relu(self.fc1(pooled))).sum(0).sigmoid()[:, :, None, None]
        pooled = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)
        attended: Tensor = x * self.norm(self.spatial(pooled)).sigmoid()
        return attended


class AttnFD(LayerLoss):
    """Attention-guided features: both maps, each times its attention, point the same way.

        L = sum over the places of ||A_s / ||A_s|| - A_t / ||A_t||||^2 / B

    Each norm is over the whole batch (the paper says per channel; its author, that the code is right), in a distributed
    run the batch of each process. A_s is the
    student's map through CBAM (arXiv 1807.06521), a 1x1 convolution without bias and a batch norm, which are trained
    and belong to the loss. ``teacher_attention="pool"``: A_t = the teacher's map times sigmoid(mean + maximum) over
    positions, then over channels: nothing random is in it. ``"frozen"``: through a CBAM that nobody trained, as
    released, here drawn from ``seed`` and saved with the loss; one that is trained, better by its authors, is loaded
    into ``loss.layers[0].teacher``.

    A DeepLabV3+ is read at three places, given as a list: the encoder's last stage before its last ReLU, the ASPP
    module's output, the decoder's before the classifier. Weight 2, without pixel KD. In the released code the teacher's
    batch norms drift (it is in train mode) and of the trained layers the perceptrons are in no optimiser and the
    connectors learn in the first epoch alone; here neither. On VOC ResNet-101 teaches ResNet-18 from 67.50 to 73.09
    mIoU.

    Args:
        teacher_attention: ``"pool"`` or ``"frozen"``.
        reduction: how many times fewer channels a CBAM's perceptron has between.
        seed: draws the frozen attention.

    Shape:
        student: (B, C_s, h, w) features; teacher: (B, C_t, h, w), taken without gradient; or lists of such pairs.
        target is not read. Returns a scalar.

    Raises:
        SegkdError: batch or size differ, the channels are not those that it was prepared for or fewer than
            ``reduction``, or a batch of one position has no batch statistics.

    Reference: Mansourian et al., "Attention-guided Feature Distillation for Semantic Segmentation", arXiv 2403.05451.

    Config:
        distill:
          terms:
            attnfd:
              loss: attnfd
              student: [encoder.layer4, decoder.aspp, decoder]
              teacher: [encoder.layer4, decoder.aspp, decoder]
              weight: 2.0

    Example:
        >>> import torch
        >>> from segkd.losses import AttnFD
        >>> loss, student, teacher = AttnFD(), torch.randn(2, 16, 7, 9), torch.randn(2, 32, 7, 9)
        >>> loss.prepare([student, student], [teacher, teacher])
        >>> loss([student, student], [teacher, teacher]).shape
        torch.Size([])
    """

    name = "attnfd"
    title = "Attention-guided feature distillation"
    paper = "arXiv 2403.05451"
    takes = "features, or lists of them"
    default_weight = 2.0
    normalization = "squared distance of maps of norm 1 over the batch, / B, each place"
    trains = "attention, 1x1 convolution, batch norm"
    published = "Cityscapes at half resolution, DeepLabV3+, R101 teaches R18: 64.09 to 73.04 mIoU"

    teacher_attention: TeacherAttention = "pool"
    reduction: int = 16
    seed: int = 0

    def check(self) -> None:
        """Look at the options."""
        super().check()
        if self.teacher_attention not in get_args(TeacherAttention):
            hint = nearest(self.teacher_attention, get_args(TeacherAttention))
            raise SegkdError(f"there is no teacher_attention {self.teacher_attention!r}, {hint}")
        if self.reduction < 1:
            raise SegkdError(f"reduction must be at least 1, got {self.reduction}")

    def make(self, student_channels: int, teacher_channels: int) -> nn.Module:
        """Return the student's attention and connector, and the teacher's frozen attention."""
        is_frozen = self.teacher_attention == "frozen"
        least = min(student_channels, teacher_channels) if is_frozen else student_channels
        if least < self.reduction:
            raise SegkdError(f"attnfd: a reduction of {self.reduction} leaves none of {least} channels: give a smaller")
        norm = nn.BatchNorm2d(teacher_channels)
        connector = nn.Conv2d(student_channels, teacher_channels, 1, bias=False)
        nn.init.normal_(connector.weight, std=(2 / teacher_channels) ** 0.5)
        layers = nn.ModuleDict({"student": nn.Sequential(Attention(student_channels, self.reduction), connector, norm)})
        if is_frozen:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                layers["teacher"] = Attention(teacher_channels, self.reduction, is_frozen=True)
        return layers

    def compare(self, layers: nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of one place, a scalar."""
        assert isinstance(layers, nn.ModuleDict)
        attend = layers["teacher"] if self.teacher_attention == "frozen" else pooled_attention
        return unit_difference(normed(self.name, layers["student"], student), attend(teacher))
