"""Feature capture by module path, with forward hooks that leave the model as it is."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from segkd.errors import SegkdError, nearest


class _Recorder:
    """A forward hook that keeps a module's outputs while it is on.

    A plain object at module level: a model that carries it can still be pickled and deep-copied.
    """

    def __init__(self) -> None:
        self.on = False
        self.outputs: list[Any] = []

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self.on:
            self.outputs.append(output)


class Taps:
    """Captures the outputs of named modules.

    A module that runs again outside `recording` (a head reused across models, say) adds nothing; one that runs several
    times inside it (a head shared by FPN levels) has all its outputs, in order. The outputs are the model's own
    tensors: where the next module works in place (a ReLU after a norm), tap that one.

    Args:
        model: any module; a compiled one is read through.
        paths: dotted module paths as in ``model.named_modules()``.
        owner: how error messages call the model, e.g. ``"student"``.

    Raises:
        SegkdError: a path names no module; the message has the nearest one.
    """

    def __init__(self, model: nn.Module, paths: Iterable[str], owner: str = "model") -> None:
        inner = getattr(model, "_orig_mod", model)
        # A module shared under several names can be tapped under each of them.
        modules = dict(inner.named_modules(remove_duplicate=False))
        self._recorders: dict[str, _Recorder] = {}
        self._handles = []
        wanted = sorted(set(paths))
        for path in wanted:
            if not path or path not in modules:
                parent = path.rpartition(".")[0]
                siblings = [name for name in modules if name and name.rpartition(".")[0] == parent]
                known = [name for name in modules if name]
                hint = nearest(path, known)
                if siblings and not hint.startswith("did you mean"):
                    hint = nearest(path, siblings)
                raise SegkdError(f"the {owner} has no module {path!r}: {hint}")
        for path in wanted:
            self._recorders[path] = recorder = _Recorder()
            self._handles.append(modules[path].register_forward_hook(recorder))

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Capture what runs inside the ``with`` block, forgetting what was captured before."""
        self.clear()
        for recorder in self._recorders.values():
            recorder.on = True
        try:
            yield
        finally:
            for recorder in self._recorders.values():
                recorder.on = False

    def outputs(self, path: str) -> list[Any]:
        """Return the outputs of the module at ``path``, one for each time it ran."""
        return self._recorders[path].outputs

    def tensors(self, path: str) -> list[Tensor]:
        """Return the tensors in `outputs`, in order: those of each call, and of the list, tuple or mapping it gave."""
        return _tensors(self.outputs(path))

    def clear(self) -> None:
        """Forget the captures, so that they do not hold memory."""
        for recorder in self._recorders.values():
            recorder.outputs = []

    def remove(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._recorders = [], {}


def _tensors(outputs: list[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for output in outputs:
        if isinstance(output, Tensor):
            found.append(output)
        elif isinstance(output, Mapping):
            found += _tensors(list(output.values()))
        elif isinstance(output, (tuple, list)):
            found += _tensors(list(output))
    return found
