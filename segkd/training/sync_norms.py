"""Batch norms whose statistics are of all processes, as long as a training lasts."""

from pytorch_lightning.plugins.layer_sync import LayerSync
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

_KNOWN = (_BatchNorm.forward, BatchNormAct2d.forward)


class SyncNorms(LayerSync):
    """Puts a synchronised batch norm in the place of each one of a model, and afterwards the model's own back.

    Lightning's own plugin forgets the activation that timm has in its batch norms, and the hooks on them. A batch norm
    of another kind, with a forward of its own, stays as it is.
    """

    def __init__(self) -> None:
        self._replaced: list[tuple[nn.Module, str, nn.Module, nn.Module]] = []

    def apply(self, model: nn.Module) -> nn.Module:
        """Put the synchronised ones in; they have the weights, statistics and hooks of the model's own."""
        made: dict[nn.Module, nn.Module] = {}  # one may have several places
        for parent in list(model.modules()):
            for name, own in parent._modules.items():
                if isinstance(own, _BatchNorm) and type(own).forward in _KNOWN:
                    if own not in made:
                        made[own] = convert_sync_batchnorm(own)
                        made[own]._forward_hooks = own._forward_hooks
                    self._replaced.append((parent, name, own, made[own]))
        for parent, name, _, synced in self._replaced:
            parent._modules[name] = synced
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Put the model's own back, with the statistics of the synchronised ones."""
        for parent, name, own, synced in self._replaced:
            own._buffers.update(synced._buffers)
            parent._modules[name] = own.train(synced.training)
        self._replaced = []
        return model
