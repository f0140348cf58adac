"""Training in stages: each has a number of steps, what it distils, and how much the labels count in it."""

import itertools
from typing import TYPE_CHECKING, Any

from pydantic import Field, TypeAdapter, ValidationError

from segkd.common.plain import Block
from segkd.common.values import AtLeast0, Count
from segkd.errors import SegkdError
from segkd.training.distill import Distill, OptionalDistill

if TYPE_CHECKING:
    from segkd.training.schema import Config


class Stage(Block):
    """One stage: schedules, also the learning rate's, run from its first step to its last."""

    steps: Count = Field(description="optimiser steps")
    distill: OptionalDistill = Field(
        Distill(), description="what it distils, default the config's distill; null: it learns from the labels alone"
    )
    task: AtLeast0 = Field(1.0, description="multiplies the task loss; 0: only terms teach")


def filled(content: Any) -> Any:
    """Return a config's content with what its stages leave out: their ``distill``, and ``trainer.max_steps``."""
    stages = content.get("stages") if isinstance(content, dict) else None
    trainer = (content.get("trainer") or {}) if stages else None
    if not isinstance(trainer, dict):
        return content
    given = trainer.get("max_steps")
    if given is None:  # a null takes out what a base says
        trainer = {key: value for key, value in trainer.items() if key != "max_steps"}
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        return {**content, "trainer": trainer}
    try:  # as they will be read: 2.0 and "2" are numbers too
        steps = TypeAdapter(list[Count]).validate_python([stage.get("steps") for stage in stages])
    except ValidationError:  # reported when the stages themselves are checked
        steps = []
    if steps:
        try:
            given = given if given is None else TypeAdapter(Count).validate_python(given)
        except ValidationError:
            return content
        if given not in (None, sum(steps)):
            raise ValueError(
                f"trainer.max_steps is {given!r}, but the stages have {sum(steps)} steps together: set it to null, or "
                "change the stages' steps"
            )
        trainer = {**trainer, "max_steps": sum(steps)}
    stages = [{"distill": content.get("distill"), **stage} for stage in stages]
    return {**content, "stages": stages, "trainer": trainer}


def stage_configs(config: "Config") -> "list[Config]":
    """Return for each stage the config of a run that consists of it alone; without stages the config itself."""
    return [
        config.model_copy(
            update={
                "distill": stage.distill.model_copy(update={"task_weight": stage.distill.task_weight * stage.task}),
                "trainer": config.trainer.model_copy(update={"max_steps": stage.steps}),
                "stages": None,
            }
        )
        for stage in config.stages or ()
    ] or [config]


def ends_of(config: "Config") -> list[int]:
    """Return the last step of each stage; without stages that of the run."""
    return list(itertools.accumulate(stage.trainer.max_steps for stage in stage_configs(config)))


def of_length(config: "Config", steps: int) -> "Config":
    """Return a config that trains so many steps, with stages in the same proportions."""
    trainer = config.trainer.model_copy(update={"max_steps": steps})
    if config.stages is None:
        return config.model_copy(update={"trainer": trainer})
    if steps < len(config.stages):
        raise SegkdError(f"{config.name}: {len(config.stages)} stages need as many steps, got {steps}")
    ends = [0]
    for number, end in enumerate(ends_of(config), 1):
        left = len(config.stages) - number
        ends.append(min(max(round(steps * end / config.trainer.max_steps), ends[-1] + 1), steps - left))
    lengths = [end - begin for begin, end in itertools.pairwise(ends)]
    stages = [s.model_copy(update={"steps": length}) for s, length in zip(config.stages, lengths, strict=True)]
    return config.model_copy(update={"trainer": trainer, "stages": stages})
