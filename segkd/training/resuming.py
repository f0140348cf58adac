"""Going on with a run: which changes to its config it takes then."""

from collections.abc import Mapping, Sequence
from typing import Any

from segkd.errors import SegkdError
from segkd.training.run import Run, settings
from segkd.training.schema import Config

HARMLESS = (
    "trainer.max_steps",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.threads",
    "trainer.log_every",
    "trainer.checkpoint_every",
    "validation.every",
    "validation.batch_size",
    "validation.pictures",
    "data.root",
    "data.workers",
    "data.max_pixels",
)
"""What may change when a run goes on: how far, where and how it is computed, read, measured and logged. Anything else
says what is learnt: half of it learnt otherwise would be no run that its config describes."""


def resumed_config(run: Run, overrides: Sequence[str] | Mapping[str, Any]) -> Config:
    """Return a run's config with changes that it takes when it goes on.

    Args:
        run: begun, or finished: then only more ``trainer.max_steps`` give it something to do.
        overrides: see `segkd.training.config.load_config`.

    Raises:
        SegkdError: this is no run, it is finished, or a change would make it another run; names the keys.
    """
    old, new = run.config(), run.config(overrides)
    before, after = settings(old), settings(new)
    changed = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
    refused = [key for key in changed if key not in HARMLESS]
    if refused:
        raise SegkdError(
            f"{run.directory} cannot go on with another {', '.join(refused)}: that would be another run; begin one "
            f"with 'segkd train {run.config_file} name=... {refused[0]}=...' (it takes {', '.join(HARMLESS)})"
        )
    if run.finished:
        steps = run.result()["steps"]
        if new.trainer.max_steps <= steps:
            raise SegkdError(
                f"{run.directory} is finished, after {steps} steps: to go further give it more, such as "
                f"'segkd train --resume {run.directory} trainer.max_steps={2 * steps}'"
            )
    return new
