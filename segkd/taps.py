"""Features of a model by module path: forward hooks that leave it as it is."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from segkd.errors import SegkdError, nearest
from segkd.network import Network
from segkd.outputs import tensors_of


class _Recorder:
    """A forward hook that adds a module's output tensors to the list of its path, while there is such a list.

    A plain object at module level: a model that carries it can still be pickled and deep-copied.
    """

    def __init__(self, path: str, found: dict[str, list[Tensor]]) -> None:
        self.path, self.found = path, found

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self.path in self.found:
            self.found[self.path].extend(tensors_of(output))


class Taps:
    """Captures the output tensors of named modules, while ``found`` holds lists to fill.

    A module that runs several times (a head shared by FPN levels) has all its tensors, in order. They are no copies:
    where the next module works in place (a ReLU after a norm), tap that module instead.

    Args:
        model: any module; a compiled one and a `Network` are read through.
        paths: dotted module paths as in ``model.named_modules()``.
        owner: what error messages call the model, e.g. ``"student"``.

    Raises:
        SegkdError: a path names no module; the message has the nearest one.
    """

    def __init__(self, model: nn.Module, paths: Iterable[str], owner: str = "model") -> None:
        # A module shared under several names can be tapped under each of them.
        modules = dict(inner(model).named_modules(remove_duplicate=False))
        self.paths, self.found = sorted(set(paths)), dict[str, list[Tensor]]()
        for path in self.paths:
            if not path or path not in modules:
                known = [name for name in modules if name]
                siblings = [name for name in known if name.rpartition(".")[0] == path.rpartition(".")[0]]
                hint = nearest(path, known)
                hint = hint if hint.startswith("did you mean") or not siblings else nearest(path, siblings)
                raise SegkdError(f"the {owner} has no module {path!r}: {hint}")
        self._handles = [modules[p].register_forward_hook(_Recorder(p, self.found)) for p in self.paths]

    @contextmanager
    def recording(self) -> Iterator[dict[str, list[Tensor]]]:
        """Yield lists by path; modules that run inside the ``with`` block add their tensors to them."""
        lists: dict[str, list[Tensor]] = {path: [] for path in self.paths}
        self.found.update(lists)
        try:
            yield lists
        finally:
            self.found.clear()

    def remove(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()
        self._handles = []


def uncompiled(model: nn.Module) -> nn.Module:
    """Return the original module of a compiled one, else the model itself."""
    return getattr(model, "_orig_mod", model)


def inner(model: nn.Module) -> Any:
    """Return the module whose paths count: without ``torch.compile``'s and `Network`'s wrappers."""
    found = uncompiled(model)
    return inner(found.module) if isinstance(found, Network) else found
