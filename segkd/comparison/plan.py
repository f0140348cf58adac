"""What a comparison trains: its configs, their seeds, and the budget that is the same for all."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segkd.errors import SegkdError
from segkd.training.config import load_config, same_dataset
from segkd.training.run import Run, changed_keys
from segkd.training.schema import Config
from segkd.training.stages import of_length, stage_configs
from segkd.training.teacher import teacher_configs


@dataclass(frozen=True)
class Budget:
    """What every run may spend: so many ``steps`` or ``minutes``.

    Without an amount the configs decide: their own steps, which must agree, or the time of the one that takes longest.
    """

    unit: str
    amount: float | None = None

    def __str__(self) -> str:
        return self.unit if self.amount is None else f"{self.amount:.15g} {self.unit}"


def parse_budget(text: str) -> Budget:
    """Read ``steps``, ``minutes``, ``700steps`` or ``12.5 minutes``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)?\s*(steps?|min(?:utes?)?)", text.strip())
    amount = None if found is None or found[1] is None else float(found[1])
    unit = "" if found is None else "steps" if found[2].startswith("step") else "minutes"
    if not unit or amount == 0 or (unit == "steps" and amount is not None and amount != int(amount)):
        raise SegkdError(f"--budget is steps, minutes, or so many of them such as 700steps or 12minutes, got {text!r}")
    return Budget(unit, amount)


@dataclass(frozen=True)
class Job:
    """One run that a comparison needs: of a method with one seed, or of a teacher."""

    method: str
    config: Config

    @property
    def run(self) -> Run:
        """Return the run, finished or not."""
        return Run.of(self.config)


def load_methods(names: Sequence[str | Config], overrides: Sequence[str], out: Path | None) -> list[Config]:
    """Load the configs that are compared; their runs go to ``out``, else to ``comparison`` among the first's runs."""
    seed = next((text for text in overrides if text.partition("=")[0] == "seed"), None)
    if seed is not None:
        raise SegkdError(f"{seed}: a comparison gives each config the seeds 0, 1, ..., as many as --seeds says")
    # Where runs go is the comparison's to say.
    configs = [name if isinstance(name, Config) else load_config(name, overrides) for name in names]
    runs = str(out or Path(configs[0].runs) / "comparison")
    methods = [config.model_copy(update={"runs": runs}) for config in configs]
    for index, config in enumerate(methods):
        check_comparable(methods[0], config, same_root=True)
        for other in methods[:index]:
            if config.name == other.name:
                raise SegkdError(f"two configs have the name {config.name!r}: each needs one of its own")
            if is_same_method(config, other):
                raise SegkdError(
                    f"{other.name} and {config.name} differ in nothing but name and seed: name one of them"
                )
    return methods


def check_comparable(first: Config, second: Config, same_root: bool = False) -> None:
    """Raise `SegkdError` unless two configs are of one task and are measured on the same split of the same data set.

    With `same_root` their ``data.root`` must agree too, which runs made on several machines need not do.
    """
    roots = (first.data.root, second.data.root) if same_root else (None, None)
    for what, one, other in (
        ("task", first.task, second.task),
        ("data set", first.data.dataset, second.data.dataset),
        ("validation split", first.data.val_split, second.data.val_split),
        ("data.root", *roots),
    ):
        if one != other and not (what == "data set" and same_dataset(str(one), str(other))):
            raise SegkdError(
                f"{first.name} and {second.name} cannot be compared: their {what} is {one!r} and {other!r}"
            )


def distils(config: Config) -> bool:
    """Whether a teacher has any part in the training."""
    return any(each.distill.named_terms() or each.distill.pixel_weighting for each in stage_configs(config))


def plainest(configs: Mapping[str, Config]) -> str:
    """Return the name of the config that distils nothing, else of the first.

    Of several that distil nothing it is one whose student others distil into, since a teacher's config may be among
    them.
    """
    plain = [name for name, config in configs.items() if not distils(config)] or list(configs)
    students = [config.student for config in configs.values() if distils(config)]
    return next((name for name in plain if configs[name].student in students), plain[0])


def is_same_method(one: Config, other: Config) -> bool:
    """Return whether two configs differ in nothing but name and seed, and what changes no result."""
    return not set(changed_keys(one, other)) - {"name", "seed"}


def matched_steps(methods: Sequence[Config], budget: Budget) -> dict[str, int] | None:
    """Return how many steps each method trains; None with a budget of minutes, for which steps must be timed first."""
    if budget.unit == "minutes":
        return None
    steps = {config.name: int(budget.amount or config.trainer.max_steps) for config in methods}
    first, own = methods[0].name, steps[methods[0].name]
    for name, count in steps.items():
        if count != own:
            raise SegkdError(
                f"the budget is not matched: {first} trains {own} steps, {name} {count}; --budget {own}steps gives all "
                "the same, --budget minutes the same time"
            )
    return steps


def make_jobs(methods: Sequence[Config], seeds: int, steps: dict[str, int]) -> list[Job]:
    """Return the runs of a comparison, ``<method>_seed<k>``: all methods with the first seed, then with the next."""
    jobs: list[Job] = []
    for seed in range(seeds):
        for index, config in enumerate(methods):
            changes = {"name": f"{config.name}_seed{seed}", "seed": seed}
            job = Job(config.name, of_length(config, steps[config.name]).model_copy(update=changes))
            for other in jobs[:index] if seed == 0 else ():
                if is_same_method(job.config, other.config):
                    raise SegkdError(
                        f"{other.method} and {config.name} differ in nothing but their number of steps, and the budget "
                        f"gives both {steps[config.name]}: name one of them"
                    )
            jobs.append(job)
            check_unchanged(job)
    return jobs


def teachers_of(configs: Iterable[Config], way_out: str = "choose another --out") -> list[Job]:
    """Return the jobs of the teachers that configs train, each once, a teacher's own teacher before it."""
    found: dict[Path, Job] = {}

    def add(config: Config) -> None:
        for own in teacher_configs(config).values():
            add(own)
            job = Job(own.name, own)
            check_unchanged(job, way_out)
            found.setdefault(job.run.directory, job)

    for config in configs:
        add(config)
    return list(found.values())


def check_unchanged(job: Job, way_out: str = "choose another --out") -> None:
    """Raise `SegkdError` if a job's directory holds a run of another config, or something else."""
    if not job.run.config_file.is_file():
        job.run.check_free()
        return
    changed = changed_keys(job.config, job.run.config())
    if changed:
        raise SegkdError(
            f"{job.run.directory} was made with another {', '.join(changed[:3])}: {way_out}, or remove that run"
        )
