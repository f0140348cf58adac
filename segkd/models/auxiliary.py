"""The auxiliary head that RDD's first stage compares a teacher with: a small FCN head on encoder stage 4."""

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.base import SegmentationModel
from torch import Tensor, nn

from segkd.errors import SegkdError


class AuxiliaryHead(nn.Sequential):
    """FCN head: 3x3 convolution to a quarter of the channels, batch norm, ReLU, dropout, 1x1 convolution.

    Args:
        in_channels: channels D of the features it reads.
        classes: number of classes C.
        dropout: probability of dropping a channel's value, in training only.

    Maps features (B, D, h, w) to logits (B, C, h, w).
    """

    def __init__(self, in_channels: int, classes: int, dropout: float = 0.1) -> None:
        hidden = max(in_channels // 4, 1)
        super().__init__(
            nn.Conv2d(in_channels, hidden, 3, padding=1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Conv2d(hidden, classes, 1),
        )


class WithAuxiliary(nn.Module):
    """A model of segmentation-models-pytorch with an auxiliary head on its last but one encoder stage.

    That is stage 4 of 5 (``layer3`` of a ResNet) unless the model was built with fewer stages (PSPNet has 3). The
    encoder runs once. The model itself stays as it is, as `model`; it is what a saved student holds.

    Args:
        model: a model whose forward is encoder, decoder, segmentation head.
        classes: number of classes C.
        dropout: of the auxiliary head.

    Raises:
        SegkdError: the model's forward is another (DPT, a model with a classification head, a model not of
            segmentation-models-pytorch), or its encoder has no such stage.
    """

    def __init__(self, model: nn.Module, classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        name = type(model).__name__
        if not isinstance(model, SegmentationModel) or type(model).forward is not SegmentationModel.forward:
            raise SegkdError(f"no auxiliary head for {name}: its forward is not encoder, decoder, segmentation head")
        if model.classification_head is not None:
            raise SegkdError(f"no auxiliary head for this {name}: it has a classification head")
        channels = list(model.encoder.out_channels)
        if len(channels) < 3 or channels[-2] == 0:
            raise SegkdError(
                f"no auxiliary head for this {name}: its encoder's last but one stage has no features"
                f" (channels per stage: {channels})"
            )
        self.model = model
        self.auxiliary = AuxiliaryHead(channels[-2], classes, dropout)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``{"out": (B, C, H, W), "aux": (B, C, H, W)}`` logits for images (B, 3, H, W).

        The auxiliary logits are upsampled (bilinear, align_corners=False) to the size of the main ones.
        """
        model = self.model
        if not torch.compiler.is_compiling():
            model.check_input_shape(images)
        features = model.encoder(images)
        out = model.segmentation_head(model.decoder(features))
        aux = self.auxiliary(features[-2])
        return {"out": out, "aux": F.interpolate(aux, size=out.shape[-2:], mode="bilinear", align_corners=False)}
