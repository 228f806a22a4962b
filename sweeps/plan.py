"""What a sweep would run, before it takes anything."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from results.state import SweepState
from sweeps.ledger import planned_total, suggestions_of, trials_at_once
from sweeps.settings import SweepConfig, split_name
from sweeps.studies import studies
from sweeps.warm_start import told_warm_start, warm_start


def render_plan(sweep: SweepConfig, state: SweepState | None) -> RenderableType:
    """The checked configuration, the number of trials and the resources, for people."""
    table = Table(title=f"sweep {sweep.launch.name}", title_justify="left", show_header=False)
    for name, text in plan_rows(sweep, state):
        table.add_row(name, Text(text))  # class lists and paths may hold brackets, which are no markup
    return Group(table, f"start it: python -m sweeps run PRESET --name {sweep.launch.name}")


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
    return f"{training['epochs']} epochs of {f'{fixed} iterations' if fixed else 'one pass over the images'} per step"


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
