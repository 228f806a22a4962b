"""What a sweep would run, before it takes anything."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from results.state import SweepState
from results.tables import duration
from sweeps.forecast import Figures, Forecast
from sweeps.ledger import planned_total, suggestions_of, trials_at_once
from sweeps.outdated import Outdated
from sweeps.plan_tree import render_tree
from sweeps.planned_trials import LOOKED_AT
from sweeps.settings import SweepConfig, split_name
from sweeps.studies import split_names, studies
from sweeps.warm_start import told_warm_start, warm_start

PROBE_HINT = "unknown: nothing like it was run in this storage folder; run a short probe with --probe"


def render_plan(
    sweep: SweepConfig, state: SweepState | None, forecast: Forecast, budget_hours: float | None = None
) -> RenderableType:
    """The checked configuration, the stage tree, what it costs and what fits, for people.

    Args:
        sweep: the sweep.
        state: of its journal, if there is one.
        forecast: of the same.
        budget_hours: GPU- or CPU-hours of which to say what fits into them.
    """
    parts: list[RenderableType] = [
        _table(f"sweep {sweep.launch.name}", plan_rows(sweep, state)),
        render_tree(forecast),
        _table("what it takes", cost_rows(forecast, budget_hours)),
    ]
    return Group(*parts, *(Text(f"note: {note}", style="yellow") for note in forecast.notes))


def _table(title: str, rows: list[tuple[str, str]]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    for name, text in rows:
        table.add_row(name, Text(text))  # class lists and paths may hold brackets, which are no markup
    return table


def plan_rows(sweep: SweepConfig, state: SweepState | None) -> list[tuple[str, str]]:
    """(name, text) of everything `plan` tells."""
    search, seeds = sweep.search, len(sweep.search.seeds)
    splits = len(search.splits)
    suggested = [suggestions_of(sweep, study) for study, listed in studies(sweep).items() for _ in listed]
    total = planned_total(sweep, state)
    training = sweep.base["training"]
    rows = [
        ("method", f"{_method(sweep)} on {sweep.base['dataset']['_target_']}"),
        ("mode", f"{training['mode']}, {_length(training)}"),
        ("space", "\n".join(map(str, sweep.space.dimensions or sweep.space.points))),
        ("search", f"{search.algorithm}, {_studies(sweep)}, suggestion seed {search.seed}"),
        ("objectives", ", ".join([f"{search.objectives[0]} up", *(f"{cost} down" for cost in search.objectives[1:])])),
        ("stopping", _stopping(sweep)),
        ("splits", ", ".join(map(split_name, search.splits))),
        ("seeds", ", ".join(map(str, search.seeds))),
        ("trials", f"{_configurations(suggested)} x {seeds} seeds = {sum(suggested) * seeds}"),
        ("references", f"{', '.join(search.references) or 'none'}: {len(search.references) * splits * seeds}"),
        ("together", f"{total} runs"),
        ("resources", _resources(sweep)),
        ("storage", str(sweep.folder)),
        ("tracking", sweep.tracking_uri),
    ]
    if search.warm_start:
        rows.append(("warm start", told_warm_start(sweep, state.warm if state is not None else warm_start(sweep))))
    if state is not None:
        counts = ", ".join(f"{count} {name}" for name, count in state.counts().items() if count)
        rows.append(("exists", f"{counts or 'nothing yet'}; `run` continues it"))
    return rows


def _studies(sweep: SweepConfig) -> str:
    return "robust: one study over all splits, by the mean over them" if sweep.search.robust else "one study per split"


def _configurations(suggested: list[int]) -> str:
    """Of each split; listed ones may be more in one split than in another."""
    if len(set(suggested)) == 1:
        return f"{len(suggested)} splits x {suggested[0]} configurations"
    return f"{' + '.join(map(str, suggested))} configurations of {len(suggested)} splits"


def _method(sweep: SweepConfig) -> str:
    methods = len(sweep.space.methods)
    return f"one of {methods} methods" if methods else str(sweep.base["loss"]["_target_"])


def _length(training: dict[str, object]) -> str:
    if training["steps_per_class"]:
        return f"{training['steps_per_class']} iterations a class"
    fixed = training["iterations_per_epoch"]
    epochs, later = training["epochs"], training["next_epochs"]
    length = f"{epochs} epochs of {f'{fixed} iterations' if fixed else 'one pass over the images'}"
    return f"{length} per step" if later in (None, epochs) else f"{length} in step 0, {later} in each later step"


def _stopping(sweep: SweepConfig) -> str:
    wanted = sweep.stopping
    if wanted.algorithm == "none":
        return "none: every trial trains all its steps"
    factor = f" by {wanted.reduction_factor:g}" if wanted.algorithm == "halving" else ""
    inside = f" and every {wanted.epoch_rungs} epochs of a step" if wanted.epoch_rungs else ""
    rungs = f"from step {max(1, wanted.grace_steps)} on{inside}, one bracket per split and seed"
    return f"{wanted.algorithm}{factor} on {wanted.metric}, {rungs}; {wanted.audit_share:.0%} audited"


def _resources(sweep: SweepConfig) -> str:
    wanted = sweep.resources
    text = f"{wanted.cpus_per_trial} CPU and {wanted.gpus_per_trial:g} GPU a trial"
    if sweep.launch.address:
        return f"{text}, on the Ray cluster {sweep.launch.address}"
    return f"{text}, {trials_at_once(sweep)} at once on this machine"


def cost_rows(forecast: Forecast, budget_hours: float | None = None) -> list[tuple[str, str]]:
    """(name, text) of stages, time and disk; of what fits, if there is a budget."""
    tree = forecast.tree
    needed = len(tree.needed)
    rows = [("stages", f"{tree.naive} if every trial trained all of its own, {tree.distinct} distinct")]
    stored = tree.distinct - needed
    rows.append(
        ("  to compute", f"{needed}" + (f"; {stored} are stored already or not needed any more" if stored else ""))
    )
    if needed and (outdated := forecast.outdated()).stages:
        rows.append(("  not reused", _outdated(outdated)))
    if tree.naive:
        rows.append(("saved by sharing", _saving(forecast)))
    if forecast.sweep.stopping.algorithm != "none" and needed:
        rows.append(("saved by stopping", _saving_by_stopping(forecast)))
    if guess := _open_suggestions(forecast):
        rows.append(("not known yet", guess))
    rows += _time_rows(forecast)
    if needed:
        rows.append(("disk", _disk(forecast)))
    if budget_hours is not None:
        rows.append((f"fits into {budget_hours:g} {unit(forecast.sweep)}", _fitting(forecast, budget_hours)))
    return rows


def missing_trials(sweep: SweepConfig, state: SweepState) -> list[str]:
    """Why a sweep that is over has run fewer configurations than it was asked for, study by study."""
    asked, texts = sweep.search.trials, []
    if not state.ended or state.end_status == "interrupted" or state.end_bound:
        return []
    for study, splits in studies(sweep).items():
        found = len({t.number for t in state.trials.values() if t.role == "trial" and t.split in split_names(splits)})
        if found < asked and not sweep.search.points:
            what = "its grid" if sweep.search.algorithm == "grid" and not sweep.space.points else "the space"
            texts.append(f"{study}: {found} of {asked} configurations (search.trials): {what} has no more that are new")
    return texts


def render_outcome(planned: Figures, real: Figures, sweep: SweepConfig) -> Table:
    """What was planned beside what happened."""
    table = Table(title="planned and actual", title_justify="left")
    for heading in ("", "planned", "actual", "actual / planned"):
        table.add_column(heading, justify="left" if not heading else "right")
    lines = [
        ("stages computed", planned.stages, real.stages, "{:.0f}"),
        (f"{unit(sweep)} in steps", planned.held_hours, real.held_hours, "{:.2f}"),
        ("processor hours in steps", planned.cpu_hours, real.cpu_hours, "{:.2f}"),
        ("wall clock", planned.wall_seconds, real.wall_seconds, None),
    ]
    for name, expected, found, form in lines:
        cells = [_number(value, form) for value in (expected, found)]
        ratio = f"{found / expected:.2f}" if expected and found is not None else "-"
        table.add_row(name, *cells, ratio)
    return table


def unit(sweep: SweepConfig) -> str:
    """Of the resource that a sweep's cost is counted in."""
    return "GPU-hours" if sweep.resources.gpus_per_trial else "CPU-hours"


def _number(value: float | None, form: str | None) -> str:
    if value is None:
        return "unknown"
    return duration(value) if form is None else form.format(value)


def _outdated(outdated: Outdated) -> str:
    stored = "1 of these is stored" if outdated.stages == 1 else f"{outdated.stages} of these are stored"
    return f"{stored}, but by other code: {', '.join(outdated.changes)}"


def _saving(forecast: Forecast) -> str:
    tree = forecast.tree
    needed = len(tree.needed)
    text = f"{tree.naive / needed:.2f}x in stages" if needed else "everything"
    total = tree.total(forecast.seconds)
    if total and not forecast.is_any_unknown:
        text += f", {tree.naive_total(forecast.seconds) / total:.2f}x in time"
    return text


def _saving_by_stopping(forecast: Forecast) -> str:
    if forecast.is_any_unknown:
        return PROBE_HINT
    total, left = forecast.tree.total(forecast.seconds), forecast.stopped_seconds()
    both = forecast.tree.naive_total(forecast.seconds) / left
    return (
        f"{total / left:.2f}x more in time, {both:.2f}x together, expected where ranks come in any order; by recorded "
        "learning curves: plan --simulate"
    )


def _open_suggestions(forecast: Forecast) -> str:
    """What is assumed of suggestions that hang on results."""
    count = sum(not planned.is_known for planned in forecast.trials)
    if not count:
        return ""
    steps = ", ".join(f"{split}: step {step}" for split, step in forecast.first_swept.items())
    return (
        f"{count} runs, whose configurations hang on results still to come (or come after the first {LOOKED_AT} of a "
        f"split); counted as distinct from the first step in which a swept key acts ({steps}), at the default's cost"
    )


def _time_rows(forecast: Forecast) -> list[tuple[str, str]]:
    figures, past = forecast.figures, forecast.past
    if not figures.stages:
        return []
    if forecast.unknown:
        known = f"{forecast.unknown} of {figures.stages} stages " if forecast.unknown < figures.stages else ""
        return [("time", f"{known}{PROBE_HINT}")]
    hours, processor = figures.held_hours or 0.0, figures.cpu_hours or 0.0
    rows = [("time in steps", f"{hours:.2f} {unit(forecast.sweep)}, of which the processor works {processor:.2f}")]
    workers = trials_at_once(forecast.sweep)
    if figures.wall_seconds is None:
        rows.append(("makespan", "only the cluster knows how many trials run at once; set resources.max_concurrent"))
    else:
        pauses = f", {past.pause_seconds:.0f} s to start each trial" if past.pauses else "; starts of trials apart"
        rows.append(("makespan", f"{duration(figures.wall_seconds)} with {workers} trials at once{pauses}"))
    sources = ", ".join(past.sweeps[:4]) + (f" and {len(past.sweeps) - 4} more" if len(past.sweeps) > 4 else "")
    rows.append(("learned from", f"{sources or 'a probe'}, {forecast.costs.count} steps"))
    return rows


def _disk(forecast: Forecast) -> str:
    stages, own = forecast.stage_bytes, forecast.checkpoint_bytes
    return (
        f"{_bytes(stages)} of shared stages, {_bytes(own)} of checkpoints and results that trials keep for themselves"
    )


def _bytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _fitting(forecast: Forecast, hours: float) -> str:
    """The trials, in the order in which they are handed out, that a budget pays for."""
    if forecast.unknown:
        return PROBE_HINT
    open_trials = [i for i, planned in enumerate(forecast.trials) if not planned.is_over]
    count = forecast.fitting(hours)
    fits = [forecast.trials[i].trial for i in open_trials if i < count]
    if len(fits) == len(open_trials):
        return f"all {len(open_trials)} runs"
    lines = [f"{len(fits)} of {len(open_trials)} runs, in the order in which they are handed out"]
    for split in dict.fromkeys(trial.split for trial in fits):
        roles = [trial.role for trial in fits if trial.split == split and trial.role != "trial"]
        numbers = sorted({trial.number for trial in fits if trial.split == split and trial.role == "trial"})
        names = list(dict.fromkeys(roles))
        if numbers:
            names.append(f"trials {numbers[0]}-{numbers[-1]}" if len(numbers) > 1 else f"trial {numbers[0]}")
        lines.append(f"{split}: {', '.join(names)}")
    return "\n".join(lines)
