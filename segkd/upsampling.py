"""The upsampling that a model's logits end with, where they do: what lies before it is a sixteenth of them."""

from typing import Any

from torch import Tensor, nn

from segkd.taps import inner

NATIVE = "native"
"""The place of the logits before it; where there is no such module, of the logits themselves."""


class LastUpsampling:
    """Notes what a model's `torch.nn.Upsample` modules take and give, to tell which of them gives its logits.

    That is so in segmentation-models-pytorch, whose heads end with one. What a model does by a function is not seen.
    """

    def __init__(self, model: nn.Module) -> None:
        self.is_known = False
        """Whether a run has shown which it is."""
        self.module: nn.Module | None = None
        """The one that gives the logits; None where none does."""
        self.ran: list[tuple[nn.Module, Tensor, Any]] | None = None
        """What ran since this was set to a list; None while nothing is noted."""
        found = [module for module in inner(model).modules() if isinstance(module, nn.Upsample)]
        self._handles = [module.register_forward_hook(self) for module in found]

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Note a run of one of the modules: it is their forward hook."""
        if self.ran is not None and (module is self.module or not self.is_known):
            self.ran.append((module, inputs[0], output))

    def before(self, logits: Tensor) -> Tensor:
        """Return what the logits of the run just done were upsampled from, or these themselves; then note no more."""
        ran, self.ran = self.ran or [], None
        if not self.is_known:
            self.module = next((module for module, _, given in ran[::-1] if given is logits), None)
            self.is_known = True
        return logits if self.module is None else next(taken for module, taken, _ in ran[::-1] if module is self.module)

    def after(self, native: Tensor) -> Tensor:
        """Return the logits: what `before` returned, upsampled by the same module."""
        return native if self.module is None else self.module(native)

    def remove(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()
        self._handles, self.ran = [], None
