"""What is read of a model in a run: features by module path, with forward hooks that leave it as it is."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from segkd.adapter import Adapter
from segkd.errors import SegkdError, nearest
from segkd.network import Network


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
        model: any module; a compiled one and a `Network` are read through.
        paths: dotted module paths as in ``model.named_modules()``.
        owner: how error messages call the model, e.g. ``"student"``.

    Raises:
        SegkdError: a path names no module; the message has the nearest one.
    """

    def __init__(self, model: nn.Module, paths: Iterable[str], owner: str = "model") -> None:
        # A module shared under several names can be tapped under each of them.
        modules = dict(inner(model).named_modules(remove_duplicate=False))
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
        return tensors_of(self.outputs(path))

    def clear(self) -> None:
        """Forget the captures, so that they do not hold memory."""
        for recorder in self._recorders.values():
            recorder.outputs = []

    def remove(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._recorders = [], {}


class Tapped:
    """A model and what is read of it in a run: what the adapter reads of its output, and what its modules gave.

    Args:
        side: ``"student"`` or ``"teacher"``, see `Adapter`.
        model: any module; of a `Network` the logits are read in the student's classes, and tokens as maps.
        adapter: runs it.
        owner: how error messages call it.
    """

    def __init__(self, side: str, model: nn.Module, adapter: Adapter, owner: str) -> None:
        self.side, self.model, self.adapter, self.owner = side, model, adapter, owner
        self.taps = Taps(model, ())
        given = uncompiled(model)
        self.network = given if isinstance(given, Network) else None

    def listen(self, reads: Iterable[str]) -> None:
        """Hook the modules among these places.

        Raises:
            SegkdError: a place names no module, see `Taps`.
        """
        self.taps.remove()
        self.taps = Taps(self.model, (place for place in reads if place not in self.adapter.outputs), self.owner)

    def run(self, inputs: Any, reads: Iterable[str]) -> dict[str, Any]:
        """Run the model and return what is at each place, see `collect`.

        Args:
            inputs: what the adapter's ``run`` takes.
            reads: the places.
        """
        return self.collect(self.output(self.model, inputs), reads)

    def output(self, model: nn.Module, inputs: Any) -> Any:
        """Return what the model, or another form of it, returns, and capture what its modules do."""
        with self.taps.recording():
            return self.adapter.run(self.side, model, inputs)

    def collect(self, output: Any, reads: Iterable[str]) -> dict[str, Any]:
        """Return what the last run gave at each place; at ``""`` what it returned. Nothing else is held any longer.

        What a module gave is a list, a tensor for each time it ran; ``"aux"`` is left out where there is none.
        """
        found = {"": output}
        for place in reads:
            if place not in self.adapter.outputs:
                found[place] = self._maps(self.taps.tensors(place))
            elif place != "aux" or self.adapter.has_auxiliary(output):
                found[place] = self._logits(place, self.adapter.read(self.side, place, output))
        self.taps.clear()
        return found

    def _maps(self, tensors: list[Tensor]) -> list[Tensor]:
        return tensors if self.network is None else [self.network.as_map(x) for x in tensors]

    def _logits(self, place: str, value: Any) -> Any:
        is_score = self.network is not None and place in ("logits", "aux")
        return self.network.map_classes(value) if is_score else value  # type: ignore[union-attr]


def uncompiled(model: nn.Module) -> nn.Module:
    """Return what was compiled, or the model itself."""
    return getattr(model, "_orig_mod", model)


def inner(model: nn.Module) -> Any:
    """Return the model whose module paths count: what was compiled, what a `Network` is around."""
    found = uncompiled(model)
    return inner(found.module) if isinstance(found, Network) else found


def tensors_of(value: Any) -> list[Tensor]:
    """Return the tensors in a value, in order: itself, or those in a list, tuple or mapping; others are passed over."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [found for each in value for found in tensors_of(each)] if isinstance(value, (tuple, list)) else []
