"""What is written of a search: the table, ``trials.csv``, ``best.yaml``, and ``tuning.png`` of what mattered."""

import csv
import io
import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from segkd.common.files import replacing, write_text
from segkd.common.progress import say
from segkd.errors import SegkdError
from segkd.training.layers import changes_of, overlay
from segkd.tuning.search import Search
from segkd.tuning.space import Knob, exact, short_names, shown

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

_STATES = {"COMPLETE": "finished", "PRUNED": "pruned", "RUNNING": "unfinished", "FAIL": "failed"}


def check_best(search: Search) -> None:
    """Raise a SegkdError where there is a ``best.yaml`` that is not as this study has written it."""
    path = search.place.directory / "best.yaml"
    if path.exists() and path.read_text(encoding="utf-8") != search.study.user_attrs.get("best"):
        raise SegkdError(f"{path} is not as 'segkd tune' has left it: move it away")


def write_report(search: Search, base: Mapping[str, Any], console: Console) -> "FrozenTrial | None":
    """Show and write all there is, and return the best trial; nothing while no trial has run to its end.

    What ``best.yaml`` says before the best values is ``base``.
    """
    folder, score = search.place.directory, search.score
    with search.place.lock("report"):
        rows = trial_rows(search)
        if not any(row["state"] == "finished" for row in rows):
            return None
        console.print(_table(search, rows))
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        write_text(folder / "trials.csv", text.getvalue())
        with replacing(folder / "tuning.png") as scratch:
            _picture(search, rows).savefig(scratch, format="png", dpi=150)
        check_best(search)
        best, name = search.study.best_trial, f"{search.config.name}_best"
        content = overlay(base, changes_of({**search.values(best), "name": name})[-1].keys)
        reached = f"{score.label} {score.shown(best.value)} on {search.config.data.val_split}"
        text_of_best = f"# The values of trial {best.number} of segkd tune: {reached}.\n"
        text_of_best += yaml.safe_dump(content, sort_keys=False)
        search.study.set_user_attr("best", text_of_best)
        write_text(folder / "best.yaml", text_of_best)
    say(console, f"written: trials.csv, tuning.png and best.yaml in {folder}")
    say(console, f"the best on the whole split: segkd train {folder / 'best.yaml'}")
    return best


def trial_rows(search: Search) -> list[dict[str, Any]]:
    """Return the trials, the best first: number, values, score, the last step that was measured, state."""
    score, rows = search.score, []
    sign, order = -1 if score.higher_is_better else 1, list(_STATES.values())
    for trial in search.trials:
        reached = [value for value in trial.intermediate_values.values() if not math.isnan(value)]
        best = min(reached, key=lambda value: sign * value, default=None)
        values = {knob.key: search.values(trial).get(knob.key) for knob in search.knobs}
        row = {"trial": trial.number, **values, score.key: trial.value if trial.state.name == "COMPLETE" else best}
        rows.append({**row, "step": trial.last_step or 0, "state": _STATES[trial.state.name]})

    def rank(row: dict[str, Any]) -> tuple[int, float]:
        return order.index(row["state"]), math.inf if row[score.key] is None else sign * row[score.key]

    return sorted(rows, key=rank)


def _table(search: Search, rows: list[dict[str, Any]]) -> Table:
    score, names = search.score, short_names([knob.key for knob in search.knobs])
    table = Table("trial", box=None, pad_edge=False, header_style="bold")
    for name in (*names.values(), score.heading + ", %" * (score.unit == "%"), "steps"):
        table.add_column(escape(name), justify="right", overflow="fold")
    table.add_column("")
    for number, row in enumerate(rows):
        values = [escape(shown(row[key])) for key in names]
        cells = [str(row["trial"]), *values, score.shown(row[score.key]), str(row["step"]), row["state"]]
        table.add_row(*cells, style="" if number else "bold")
    return table


def _picture(search: Search, rows: list[dict[str, Any]]) -> Any:
    """Draw how much each key mattered, where enough trials tell, and the score over the values of each."""
    from matplotlib.figure import Figure  # takes a second to import

    weights, names = _importances(search), short_names([knob.key for knob in search.knobs])
    count = len(names) + bool(weights)
    columns, lines = min(count, 3), -(-count // 3)
    figure = Figure(figsize=(4.2 * columns, 3.6 * lines), layout="constrained")
    panels: list[Any] = [figure.add_subplot(lines, columns, place + 1) for place in range(count)]
    for axes in panels:
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    if weights:
        keys = sorted(weights, key=weights.__getitem__)
        panels[0].barh([names[key] for key in keys], [weights[key] for key in keys], color="#0072B2")
        panels[0].set_xlabel("share of what mattered (PED-ANOVA)")
    for knob, axes in zip(search.knobs, panels[bool(weights) :], strict=True):
        _slice(axes, knob, search, rows)
        axes.set_xlabel(names[knob.key])
    panels[-1].legend(fontsize=8)
    return figure


def _slice(axes: Any, knob: Knob, search: Search, rows: list[dict[str, Any]]) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    score, places = search.score, [exact(value) for value in knob.values]

    def at(chosen: list[dict[str, Any]]) -> list[Any]:
        return [row[knob.key] if knob.is_range else places.index(exact(row[knob.key])) for row in chosen]

    finished, pruned = ([row for row in rows if row["state"] == state] for state in ("finished", "pruned"))
    reached = [score.factor * row[score.key] for row in finished]
    axes.scatter(at(finished), reached, color="#0072B2", label="finished", clip_on=False)
    axes.scatter(at(finished[:1]), reached[:1], 170, color="#D55E00", marker="*", label="the best", clip_on=False)
    if pruned:  # at the bottom: what they had reached so far is no score beside the others'
        bottom = axes.get_xaxis_transform()
        ys = [0.02] * len(pruned)
        axes.scatter(at(pruned), ys, color="#999999", marker="x", label="pruned", transform=bottom, clip_on=False)
    if knob.is_log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:g}")
    elif not knob.is_range:
        axes.set_xticks(range(len(places)), places)
    axes.set_xlim(*knob.values if knob.is_range else (-0.5, len(places) - 0.5))
    axes.margins(y=0.12)
    axes.set_ylabel(f"{score.label}, {score.unit}" if score.unit else score.label)


def _importances(search: Search) -> dict[str, float]:
    """Return how much each key had to do with being among the best quarter; nothing of less than 8 trials."""
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    ended = [trial for trial in search.trials if trial.state.name in ("COMPLETE", "PRUNED")]
    scores = [trial.value for trial in ended if trial.state.name == "COMPLETE" and trial.value is not None]
    if len(search.knobs) < 2 or len(ended) < 8:
        return {}
    worst = (min if search.score.higher_is_better else max)(scores)
    ranked = optuna.create_study(direction=search.study.direction)
    for trial in ended:  # only which are the best counts, and a pruned one is not
        value = trial.value if trial.state.name == "COMPLETE" else worst
        ranked.add_trial(optuna.create_trial(params=trial.params, distributions=trial.distributions, value=value))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            evaluator = PedAnovaImportanceEvaluator(target_quantile=0.25)
        except TypeError:  # as it was called at first
            evaluator = PedAnovaImportanceEvaluator(baseline_quantile=0.25)  # type: ignore[call-arg]
        return get_param_importances(ranked, evaluator=evaluator)
