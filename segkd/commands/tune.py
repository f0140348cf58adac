"""Searching for the best values of a config's keys."""

from typing import Annotated

import typer

from segkd.commands.shared import CONFIG_HELP, Debug, On, console, read_config, shipped_names


def tune(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help=CONFIG_HELP, autocompletion=shipped_names)],
    space: Annotated[
        list[str],
        typer.Argument(
            metavar="KEY.PATH=A..B",
            help="What is searched over: A..B, a range, of whole numbers where both are, by logarithms where B is ten "
            "times A or more; or A,B,C, a choice. KEY.PATH=VALUE is a plain change to the config.",
        ),
    ],
    trials: Annotated[int, typer.Option(min=1, help="Finished trials in all, also those of earlier calls.")] = 20,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Stop after so many, the teacher's training not counted.")
    ] = None,
    hold_out: Annotated[float, typer.Option(help="The share of the training split that trials are measured on.")] = 0.2,
    seed: Annotated[int | None, typer.Option(min=0, help="Of all trials; default the config's.")] = None,
    storage: Annotated[
        str | None, typer.Option(metavar="URL", help="Optuna's database; default a file beside the trials.")
    ] = None,
    on: On = None,
    debug: Debug = False,
) -> None:
    """Search for values of a config that help most.

    Optuna proposes values (TPE) and ends trials that fall behind the median. A trial is a run like any other, in
    runs/tune/NAME/trial_0 and so on: it trains on a part of the training split and is measured on the rest, which
    is held out in blocks of neighbours. The validation split stays unseen. The teacher is trained once, as usual: on
    all of the training split.

    The same command goes on where it was stopped, and several at once share the trials. At the end: a table,
    trials.csv, tuning.png, and best.yaml for segkd train.

    \b
    Examples:
      segkd tune camvid_kd distill.terms.kd.weight=0.1..3 \\
        distill.terms.kd.temperature=1,2,4 --trials 20 --minutes 60
      segkd tune quickstart optimizer.lr=1e-4..1e-2 trainer.max_steps=100
    """
    from segkd.tuning.space import check_space, split_space

    knobs, overrides = split_space(space)
    from segkd.training.config import load_config

    check_space(load_config(config, overrides, build=False), knobs)  # before torch is loaded
    loaded = read_config(config, overrides)
    from segkd.tuning import tune as tuning

    base = tuning.base_of(loaded, config, overrides)
    tuning.tune(
        loaded,
        knobs,
        console,
        base=base,
        trials=trials,
        minutes=minutes,
        share=hold_out,
        seed=seed,
        storage=storage,
        on=on,
    )
