"""The auxiliary head that RDD's first stage compares a teacher with: a small FCN head on encoder stage 4."""

import torch
from segmentation_models_pytorch.base import SegmentationModel
from torch import Tensor, nn
from torchvision.models.segmentation.fcn import FCNHead

from segkd.errors import SegkdError
from segkd.losses._common import resize


class WithAuxiliary(nn.Module):
    """A model of segmentation-models-pytorch with an auxiliary head on its last but one encoder stage.

    That is stage 4 of 5 (``layer3`` of a ResNet) unless the model was built with fewer stages (PSPNet has 3). The
    encoder runs once. The model itself stays as it is, as `model`; it is what a saved student holds. The head,
    `auxiliary`, is torchvision's ``FCNHead``.

    Args:
        model: a model whose forward is encoder, decoder, segmentation head.
        classes: number of classes C.

    Raises:
        SegkdError: the model's forward is another (DPT, a model with a classification head, a model not of
            segmentation-models-pytorch), or its encoder has no such stage.
    """

    def __init__(self, model: nn.Module, classes: int) -> None:
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
        self.model, self.auxiliary = model, FCNHead(channels[-2], classes)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``{"out": (B, C, H, W), "aux": (B, C, H, W)}``, logits of one size, for images (B, 3, H, W)."""
        model = self.model
        if not torch.compiler.is_compiling():
            model.check_input_shape(images)
        features = model.encoder(images)
        out = model.segmentation_head(model.decoder(features))
        return {"out": out, "aux": resize(self.auxiliary(features[-2]), (out.shape[-2], out.shape[-1]))}
