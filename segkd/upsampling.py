"""The upsampling that a model's logits end with, if it has one: before one of 4x they are a sixteenth as large."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.overrides import TorchFunctionMode

from segkd.outputs import read_logits, tensors_of
from segkd.taps import inner

NATIVE = "native"
"""The place of the logits before the last upsampling; without one, of the logits themselves."""


class LastUpsampling:
    """Gives a model's logits before the interpolation that they end with, if they do.

    The first run finds that interpolation and the module whose output it takes; later runs read that module. A module
    of the model may interpolate, as in segmentation-models-pytorch, or its ``forward``, as in torchvision. The
    interpolation does not count where the logits are changed after it, where its input is no module's output, or where
    it is neither by a factor nor to the size of the images.
    """

    def __init__(self, model: nn.Module) -> None:
        self.is_known = False
        """Whether a first run has looked for it."""
        self._model = model
        self._options: dict[str, Any] | None = None
        """The arguments of `torch.nn.functional.interpolate` but for its input; None where there is none."""
        self._to_images = False
        """Whether it is to the size of the images."""
        self._back = 0
        """Which of the module's output tensors of a run it takes, counted from the last, which is 1."""
        self._noted: list[Tensor] | None = None
        self._handles: list[Any] = []

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Note the module's output tensors in a run: this object is its forward hook."""
        if self._noted is not None:
            self._noted.extend(tensors_of(output))

    def run(self, model: Callable[[], Any], images: Any) -> tuple[Any, Tensor]:
        """Run the model; return its output, and its logits before their last upsampling (without one, as they are).

        Args:
            model: a function that runs it.
            images: its input.
        """
        if not self.is_known:
            return self._learn(model, images)
        self._noted = []
        try:
            output = model()
            logits = read_logits(output)
            if self._to_images and logits.shape[-2:] != images.shape[-2:]:  # a model that resizes some images itself
                self._options, self._to_images = None, False
            return output, logits if self._options is None else self._noted[-self._back]
        finally:
            self._noted = None

    def after(self, native: Tensor, images: Any) -> Tensor:
        """Return the logits: the native ones that `run` returned for these images, upsampled as the model does it."""
        if self._options is None:
            return native
        return interpolate(native, **self._options | ({"size": images.shape[-2:]} if self._to_images else {}))

    def remove(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @torch.compiler.disable
    def _learn(self, model: Callable[[], Any], images: Any) -> tuple[Any, Tensor]:
        given: list[tuple[nn.Module, Tensor]] = []

        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            given.extend((module, each) for each in tensors_of(output))

        self._handles = [module.register_forward_hook(note) for module in inner(self._model).modules()]
        try:
            with torch.compiler.set_stance("force_eager"), _Calls() as calls:
                output = model()
        finally:
            self.remove()
        self.is_known = True
        logits = read_logits(output)
        call = next((call for call in reversed(calls.found) if call.given is logits), None)
        source = next((module for module, each in given if call is not None and each is call.taken), None)
        if call is None or source is None:
            return output, logits
        size = call.options.get("size")
        self._to_images = size is not None and isinstance(images, Tensor) and call.given.shape[-2:] == images.shape[-2:]
        if size is not None and not self._to_images:
            return output, logits
        of_source = [each for module, each in given if module is source]
        self._back = next(back for back in range(1, len(of_source) + 1) if of_source[-back] is call.taken)
        self._options = call.options
        self._handles = [source.register_forward_hook(self)]
        return output, call.taken


class _Call(NamedTuple):
    taken: Tensor
    given: Tensor
    options: dict[str, Any]


class _Calls(TorchFunctionMode):
    """Records all interpolations that run inside of it, those of `torch.nn.Upsample` too."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[_Call] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is interpolate:
            options = dict(inspect.signature(interpolate).bind(*args, **(kwargs or {})).arguments)
            self.found.append(_Call(options.pop("input"), output, options))
        return output
