"""The study that Optuna keeps: which trials there are, who takes the next one, what became of it."""

import contextlib
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from filelock import Timeout

from segkd.comparison.work import Workplace
from segkd.errors import SegkdError
from segkd.training.config import load_config, whole
from segkd.training.measure import Measure
from segkd.training.run import changed_keys
from segkd.training.schema import Config
from segkd.tuning.space import Knob

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial


def check_database(storage: str, config: Config, knobs: Sequence[Knob]) -> None:
    """Raise a SegkdError where a database cannot be opened, or its study with trials is of another config or keys."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with _opening(storage):
        opened = optuna.storages.get_storage(storage)
        names = optuna.get_all_study_names(opened)
        study = optuna.load_study(study_name=config.name, storage=opened) if config.name in names else None
    if study is not None and study.get_trials(deepcopy=False):
        _check_same(study, storage, config, knobs)


@contextlib.contextmanager
def _opening(where: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of a database, whose errors are as many as there are drivers
        reason = " ".join(str(error).split())[:200]
        raise SegkdError(f"the study {_bare(where)} cannot be opened: {type(error).__name__}: {reason}") from error


def _bare(where: str) -> str:
    """Return a database's URL without its password."""
    return re.sub(r"(://[^:/@]*):.*@", r"\1:***@", where)


def _space(knobs: Sequence[Knob]) -> dict[str, str]:
    return {knob.key: str(knob) for knob in knobs}


def _check_same(study: "Study", where: str, config: Config, knobs: Sequence[Knob]) -> None:
    there, where = study.user_attrs.get("segkd", {"space": {}}), _bare(where)
    if there["space"] != _space(knobs):
        of = " ".join(f"{key}={text}" for key, text in there["space"].items())
        raise SegkdError(f"{where} is a study of {of or 'something else'}: give another name=..., or those keys")
    if changed := changed_keys(config, load_config(there["config"], build=False)):
        raise SegkdError(f"{where} is a study with another {', '.join(changed[:3])}: give another name=...")


class Search:
    """Trials that several processes share: each is run by one, and taken up by another if that ends before it.

    Args:
        place: where their runs are, and the locks that end with the process that holds them.
        config: what the trials have in common.
        knobs: in what they differ.
        score: what they are measured by.
        storage: where Optuna keeps the study; None for ``study.log`` in `place`.

    Raises:
        SegkdError: the study is one of another config or of other keys, or cannot be opened.
    """

    def __init__(
        self, place: Workplace, config: Config, knobs: Sequence[Knob], score: Measure, storage: str | None
    ) -> None:
        import optuna

        self.place, self.config, self.knobs, self.score, self.storage = place, config, knobs, score, storage
        where = storage or str(place.directory / "study.log")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with place.lock("study"):
            self.here = place.mark()
            with _opening(where):
                self.study = optuna.create_study(
                    storage=storage or self._journal(),
                    study_name=config.name,
                    direction="maximize" if score.higher_is_better else "minimize",
                    pruner=optuna.pruners.MedianPruner(),
                    load_if_exists=True,
                )
            if not self.trials:
                self.study.set_user_attr("segkd", {"config": whole(config), "space": _space(knobs)})
            _check_same(self.study, where, config, knobs)

    def __reduce__(self) -> tuple[Any, ...]:
        return Search, (self.place, self.config, self.knobs, self.score, self.storage)  # opened anew on another machine

    def _journal(self) -> Any:
        from optuna.storages.journal import JournalFileBackend, JournalStorage

        path, lock = self.place.directory / "study.log", self.place.lock("journal")
        with lock:
            content = path.read_bytes() if path.exists() else b"\n"
            if not content.endswith(b"\n"):  # killed in the middle of a line
                os.truncate(path, content.rfind(b"\n") + 1)
        # Optuna's own locks outlive a process that is killed.
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))  # type: ignore[arg-type]

    @property
    def trials(self) -> "list[FrozenTrial]":
        """Return all trials, in their order."""
        return self.study.get_trials(deepcopy=False)

    @property
    def finished(self) -> int:
        """Return how many trials ran to their end or were pruned."""
        return sum(trial.state.name in ("COMPLETE", "PRUNED") for trial in self.trials)

    @property
    def away(self) -> list[str]:
        """Return the unfinished trials of a database that began in another folder, where alone they can go on."""
        running = [trial for trial in self.trials if trial.state.name == "RUNNING"]
        return [f"trial_{each.number}" for each in running if each.user_attrs.get("place", self.here) != self.here]

    def values(self, trial: "FrozenTrial") -> dict[str, Any]:
        """Return a trial's values by key."""
        return {knob.key: knob.value(trial.params[knob.key]) for knob in self.knobs if knob.key in trial.params}

    @contextlib.contextmanager
    def next(self, wanted: int) -> "Iterator[tuple[Trial | None, list[str]]]":
        """Take up a trial whose process has ended, or begin one while fewer than ``wanted`` are finished or run.

        Yields:
            The trial, kept from other processes meanwhile, or None; and the names of those that others here run.
        """
        from optuna import Trial
        from optuna.samplers import TPESampler

        held, taken, elsewhere = None, None, []
        with self.place.lock("study"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an argument is called experimental
            # By the trials so far: processes that share a seed would draw the same otherwise.
            seed = (self.config.seed + len(self.trials)) % 2**32
            self.study.sampler = TPESampler(seed=seed, constant_liar=True)
            running = [trial for trial in self.trials if trial.state.name == "RUNNING"]
            for trial in running:
                if taken is None and trial.user_attrs.get("place", self.here) == self.here:
                    try:
                        held = self.place.lock(f"trial_{trial.number}").acquire(timeout=0)
                        taken = Trial(self.study, trial._trial_id)
                    except Timeout:
                        elsewhere.append(f"trial_{trial.number}")
            if taken is None and self.finished + len(running) < wanted:
                taken = self.study.ask()
                held = self.place.lock(f"trial_{taken.number}").acquire()
                taken.set_user_attr("place", self.here)
            if taken is not None:
                for knob in self.knobs:
                    knob.suggest(taken)
        with held or contextlib.nullcontext():
            yield taken, elsewhere
