"""``python -m sweeps``: plan, run, resume, watch and report sweeps."""

from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.live import Live

from bacs.errors import RequestError
from bacs.interpolation import variable_of
from bacs.origin import ALLOW_OTHER_CODE, version
from bacs.overrides import pasted
from bacs.paths import expanded
from bacs.patience import StorageRefusedError
from bacs.plugins import allowing
from bacs.terminal import Terminal
from results.errors import ResultsError, WorkFailedError
from results.journal import is_being_written
from results.state import SweepState
from results.stopping_audit import is_on, render_audit, write_audit
from results.tables import (
    METHODS_WIDTH,
    render_codes,
    render_confirmation,
    render_methods,
    render_pareto,
    render_status,
    render_tracebacks,
    render_winners,
    status_json,
    write_csvs,
)
from results.tracking import Tracker
from sweeps import bounds
from sweeps.checks import check_request
from sweeps.clean import checkpoints_to_clean, clean, stages_to_clean
from sweeps.code import refuse_other_code
from sweeps.confirm import confirmation
from sweeps.data_command import data_app
from sweeps.driver import JOURNAL, execute
from sweeps.edits import beyond_places, edited, forbidden, settings_of
from sweeps.exits import FAILED, WRONG_REQUEST, told
from sweeps.forecast import make_forecast, real_figures
from sweeps.ledger import planned_total, trials_at_once
from sweeps.plan import missing_trials, render_outcome, render_plan
from sweeps.screen import command, shown_path
from sweeps.settings import SweepConfig, compose_preset, name_faults
from sweeps.simulate import render_simulation
from sweeps.warm_start import told_warm_start, warm_start

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")

Preset = Annotated[str, typer.Argument(help="a preset by name (digits), or your own YAML file by path")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="KEY=VALUE, for example search.trials=16 training.epochs=8", show_default=False),
]
Edits = Annotated[
    list[str] | None,
    typer.Argument(help="KEY=VALUE, for example search.trials=16 resources.cpus_per_trial=4", show_default=False),
]
Name = Annotated[str, typer.Argument(help="the name of the sweep")]
Storage = Annotated[str | None, typer.Option(help="folder of journals, checkpoints and caches [default: runs]")]
NameOption = Annotated[str | None, typer.Option("--name", help="name of the sweep [default: the preset's]")]
ConfigPath = Annotated[
    str | None,
    typer.Option(help="a folder of your own: presets, groups (loss/, network/, dataset/), search_spaces/; its plugins"),
]
Address = Annotated[str | None, typer.Option(help="Ray cluster [default: RAY_ADDRESS, else this machine]")]
TrackingUri = Annotated[
    str | None,
    typer.Option(envvar="MLFLOW_TRACKING_URI", help="MLflow server or database [default: sqlite in the storage]"),
]

TrackingOptional = Annotated[
    bool | None,
    typer.Option("--tracking-optional", help="go on while the tracking server does not answer", show_default=False),
]


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(version())
        raise typer.Exit


@app.callback()
def main(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="version, commit and code")
    ] = False,
) -> None:
    """Sweeps of the BACS pipeline on Ray Tune, recorded in MLflow.

    Exit codes: 0 done, 1 the work failed, 2 the request was wrong.
    """


@app.command()
def plan(
    preset: Preset,
    overrides: Overrides = None,
    name: NameOption = None,
    storage: Storage = None,
    config_path: ConfigPath = None,
    address: Address = None,
    tracking_uri: TrackingUri = None,
    tracking_optional: TrackingOptional = None,
    simulate: Annotated[bool, typer.Option("--simulate", help="run the sweep in virtual time too")] = False,
    curves: Annotated[
        str | None, typer.Option(help="sweep whose learning curves are simulated with [default: this one]")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="trials at once in the simulation [default: as many as fit here]")
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="run a few iterations of every method here, to learn what steps cost")
    ] = False,
    budget: Annotated[
        float | None, typer.Option(help="GPU-hours (CPU-hours, if trials hold no GPU): which trials fit?", min=0.0)
    ] = None,
) -> None:
    """Check a sweep and show what it would run: the tree of its stages, time and disk; starts nothing.

    Takes no GPU, unless it is asked to --probe.
    """
    with _requests_checked():
        launch = _launch(address, tracking_uri, tracking_optional) | {"config_path": config_path}
        sweep = _requested(preset, overrides, {"name": name, "storage": storage, **launch})
        state = _known_state(sweep.folder)
        console = Terminal()
        with _leaving_nothing(sweep) as planned:
            forecast = make_forecast(planned, state, probing=probe)
            console.print(render_plan(sweep, state, forecast, budget))
        options = {"--name": name, "--storage": storage, "--config-path": config_path, "--address": address}
        options |= {"--tracking-uri": tracking_uri if tracking_uri != os.environ.get("MLFLOW_TRACKING_URI") else None}
        given = [word for option, value in options.items() if value is not None for word in (option, value)]
        given += ["--tracking-optional"] if tracking_optional else []
        words = [str(shown_path(Path(sys.executable))), "-m", "sweeps", "run", preset, *(overrides or []), *given]
        console.say(f"start it:\n    {shlex.join(words)}")
        if simulate:
            if curves is None and state is None:
                problem = f"needs learning curves, and {sweep.launch.name} has not run yet"
                raise RequestError.of("--simulate", problem, "name a sweep that has: --curves NAME")
            recorded = _existing_state(_folder(curves or sweep.launch.name, sweep.launch.storage, "--curves"))
            console.print(render_simulation(sweep, recorded, workers or trials_at_once(sweep)))


@app.command()
def run(
    preset: Preset,
    overrides: Overrides = None,
    name: NameOption = None,
    storage: Storage = None,
    config_path: ConfigPath = None,
    address: Address = None,
    tracking_uri: TrackingUri = None,
    tracking_optional: TrackingOptional = None,
) -> None:
    """Run a sweep; one that exists with the same configuration is continued."""
    with _requests_checked():
        launch = _launch(address, tracking_uri, tracking_optional) | {"config_path": config_path}
        sweep = _requested(preset, overrides, {"name": name, "storage": storage, **launch})
        state = _known_state(sweep.folder)
        if state is not None:
            _refuse_changes(sweep, state)
        _run(sweep, warm=warm_start(sweep) if state is None else [])


@app.command()
def resume(
    name: Name,
    overrides: Edits = None,
    storage: Storage = None,
    address: Address = None,
    tracking_uri: TrackingUri = None,
    tracking_optional: TrackingOptional = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="run failed trials again too")] = False,
    allow_other_code: Annotated[
        bool, typer.Option(ALLOW_OTHER_CODE, help="go on from what other code has computed; marks later results")
    ] = False,
) -> None:
    """Continue an interrupted sweep: finished trials stay, others go on from their own last checkpoint.

    It may go on with more trials, seeds, splits and references, another time budget, other resources, on another
    cluster, and from a storage folder that was moved (--storage). Trials that failed for good stay failed;
    --retry-failed runs them again, from their own last checkpoint.
    """
    with _requests_checked():
        folder = _folder(name, storage)
        launch = _launch(address, tracking_uri, tracking_optional)
        sweep = edited(_existing_state(folder), folder.parent, overrides or [], launch)
        _run(sweep, retry_failed=retry_failed, allow_other_code=allow_other_code)


@app.command()
def status(
    name: Name,
    storage: Storage = None,
    watch: Annotated[bool, typer.Option("--watch", help="keep showing while the sweep runs")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="print why trials failed, in full")] = False,
) -> None:
    """Show trials by state, the best so far per split, time left."""
    with _requests_checked():
        folder = _folder(name, storage)
        if watch and _known_state(folder) is None:
            Terminal().say(f"waiting for a sweep {name} to begin in {folder.parent} (Ctrl-C ends)")
            while _known_state(folder) is None:
                time.sleep(1.0)
        state = _existing_state(folder)
        sweep = settings_of(state, folder.parent)
        total = planned_total(sweep, state)
        if as_json:
            typer.echo(json.dumps(status_json(state, total), indent=2))
            return
        if traceback:
            Terminal().print(render_tracebacks(state), soft_wrap=True)
            return
        if not watch:
            Terminal().print(render_status(state, total))
            for text in missing_trials(sweep, state):
                Terminal().say(text)
            return
        with Live(render_status(state, total), console=Terminal(), auto_refresh=False) as live:
            while is_being_written(folder / JOURNAL):
                time.sleep(1.0)
                state.refresh(folder / JOURNAL)
                live.update(render_status(state, total), refresh=True)
        if not state.ended:
            Terminal().say(f"nobody runs this sweep; go on:\n    {command('resume', folder)}")


@app.command()
def report(name: Name, storage: Storage = None) -> None:
    """Print the winners per split beside their references, and write the tables as CSV."""
    with _requests_checked():
        folder = _folder(name, storage)
        state = _existing_state(folder)
        console = Terminal()
        console.print(render_winners(state))
        for text in missing_trials(settings_of(state, folder.parent), state):
            console.say(text)
        console.print(render_codes(state))
        if state.confirms:
            console.print(render_confirmation(state))
        if len({trial.tags["loss"] for trial in state.trials.values() if trial.role == "trial"}) > 1:
            Terminal(width=max(console.width, METHODS_WIDTH)).print(render_methods(state))
        if len(state.objectives) > 1:
            console.print(render_pareto(state))
        paths = write_csvs(state, folder / "report")
        if is_on(state):
            console.print(render_audit(state))
            paths.append(write_audit(state, folder / "report"))
        for path in paths:
            console.say(f"wrote {path}")


@app.command()
def confirm(
    name: Annotated[str, typer.Argument(help="the sweep whose winners are confirmed")],
    top: Annotated[int, typer.Option(min=1, help="configurations of each split, by final/val_miou")] = 3,
    seeds: Annotated[int, typer.Option(min=1, help="fresh seeds, used by no trial of the sweep")] = 8,
    class_orders: Annotated[
        int | None,
        typer.Option(
            min=1, help="SEEDS times so many runs of each, every one with a seed and a class order of its own"
        ),
    ] = None,
    as_name: Annotated[str | None, typer.Option("--name", help="of the confirmation [default: NAME-confirm]")] = None,
    storage: Storage = None,
    address: Address = None,
    tracking_uri: TrackingUri = None,
    tracking_optional: TrackingOptional = None,
) -> None:
    """Run the best configurations of a sweep, its default and its references on fresh seeds, and compare them.

    A sweep of its own, which `resume`, `status`, `report` and `sync` know by its name; the same command goes on too.
    """
    with _requests_checked():
        folder = _folder(name, storage)
        launch = {"name": as_name or f"{name}-confirm", **_launch(address, tracking_uri, tracking_optional)}
        sweep = confirmation(
            _existing_state(folder), folder.parent, launch, top=top, seeds=seeds, class_orders=class_orders
        )
        state = _known_state(sweep.folder)
        if state is not None:
            _refuse_changes(sweep, state)
        _run(sweep)


@app.command()
def sync(name: Name, storage: Storage = None, tracking_uri: TrackingUri = None) -> None:
    """Bring a tracking server up to date with the journal; a second time changes nothing.

    Also beside a running driver. When a sweep's driver was killed, its runs are closed as KILLED until `resume`.
    """
    with _requests_checked():
        folder = _folder(name, storage)
        state = _existing_state(folder)
        uri = tracking_uri or settings_of(state, folder.parent).tracking_uri
        Tracker.check(uri)
        tracker = Tracker(uri, state.sweep, folder / JOURNAL, artifact_root=folder / "artifacts")
    console = Terminal()
    try:
        sent = tracker.sync_once()
    except ResultsError as error:
        console.say(str(error))
        raise typer.Exit(FAILED) from None
    if tracker.refused:
        console.say("\n".join([f"{uri} refused a part of what is in {folder / JOURNAL}:", *tracker.refused]))
        raise typer.Exit(FAILED)
    console.say(f"{uri} is up to date with {folder / JOURNAL} ({sent} points sent)")


@app.command("clean")
def clean_command(
    name: Annotated[str | None, typer.Argument(help="a sweep: removes checkpoints of its finished trials")] = None,
    storage: Storage = None,
    max_gb: Annotated[float | None, typer.Option(min=0, help="budget for all shared stages, in GB")] = None,
    other_code: Annotated[
        bool, typer.Option("--other-code", help="also remove stages of other code or libraries than those of now")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would go")] = False,
) -> None:
    """Remove shared stages that no sweep in the storage consists of; beyond a budget also those used longest ago.

    Stages of trials that are not over stay in any case. With the name of a sweep: of its finished trials all
    checkpoints but the last, from which `python -m bacs predict` works.
    """
    with _requests_checked():
        root = _storage(storage)
        if name is not None:
            _existing_state(_folder(name, storage))
        if name is None:
            cleaning = stages_to_clean(root, _bytes(max_gb), other_code=other_code)
        else:
            cleaning = checkpoints_to_clean(root / name)
        if not dry_run:
            clean(root, cleaning)
    console = Terminal()
    for removal in cleaning.removals:
        console.say(f"{removal.path}  {removal.freed_bytes / 1e6:.1f} MB: {removal.reason}")
    for path, reason in cleaning.left.items():
        console.say(f"left: {path} {reason}")
    what = "stages" if name is None else "checkpoints"
    verb = "would go" if dry_run else "are gone"
    console.say(f"{len(cleaning.removals)} {what} {verb}, {cleaning.freed_bytes / 1e6:.1f} MB")


def _bytes(gigabytes: float | None) -> int | None:
    return None if gigabytes is None else int(gigabytes * 1e9)


@contextmanager
def _requests_checked() -> Iterator[None]:
    """Turns a wrong request into messages and exit code 2, and storage or a Ray that fails into a message and 1."""
    try:
        with allowing():
            yield
    except RequestError as error:
        raise told(error, "; nothing was started") from None
    except ResultsError as error:
        Terminal(stderr=True).say(f"{error.message}\n    -> {error.hint}", "bold red")
        raise typer.Exit(FAILED if isinstance(error, WorkFailedError) else WRONG_REQUEST) from None
    except StorageRefusedError as error:
        Terminal(stderr=True).say(str(error), "bold red")
        raise typer.Exit(FAILED) from None


@contextmanager
def _leaving_nothing(sweep: SweepConfig) -> Iterator[SweepConfig]:
    """The same sweep, whose dataset keeps what it makes in a folder that goes with the plan while there is no cache."""
    with tempfile.TemporaryDirectory(prefix="bacs-plan-") as scratch:
        yield sweep if sweep.has_cache else sweep.cached_in(Path(scratch))


def _launch(address: str | None, tracking_uri: str | None, tracking_optional: bool | None) -> dict[str, Any]:
    return {"address": address, "tracking_uri": tracking_uri, "tracking_optional": tracking_optional}


def _requested(preset: str, overrides: list[str] | None, launch: dict[str, Any]) -> SweepConfig:
    return check_request(compose_preset(preset, overrides or [], launch))


def _run(
    sweep: SweepConfig,
    *,
    retry_failed: bool = False,
    allow_other_code: bool = False,
    warm: Sequence[dict[str, Any]] = (),
) -> None:
    console = Terminal()
    before, since = _known_state(sweep.folder), time.time()
    if before is not None and not allow_other_code:
        refuse_other_code(before, sweep, retry_failed=retry_failed)
    if warm:
        console.say(f"warm start: {told_warm_start(sweep, warm)}")
    forecast = make_forecast(sweep, before)
    planned = forecast.figures
    for note in forecast.notes:
        console.say(f"note: {note}", "yellow")
    state, untracked = execute(sweep, console, retry_failed=retry_failed, allow_other_code=allow_other_code, warm=warm)
    console.print(render_winners(state))
    if state.confirms:
        console.print(render_confirmation(state))
    if state.is_mixed:
        console.print(render_codes(state))
    if planned.held_hours is not None:
        console.print(render_outcome(planned, real_figures(sweep, before, state, since), sweep))
    for text, line in [*_why_it_ended(sweep, state), *_failures(state, sweep.folder), *_next_steps(sweep, state)]:
        console.say(text)
        if line:
            console.say(f"    {line}")
    if untracked:
        console.say(f"not everything is tracked: {untracked}\nnothing is lost, the journal has it; ship it:")
        console.say(f"    {command('sync', sweep.folder)}")
    if state.end_status != "finished" or (untracked and not sweep.launch.tracking_optional):
        raise typer.Exit(FAILED)


Advice = tuple[str, str]
"""A line, and a command that stands alone below it; the second may be empty."""


def _why_it_ended(sweep: SweepConfig, state: SweepState) -> list[Advice]:
    """Where it ended before its end, or with fewer configurations than it was asked for."""
    resume_it = command("resume", sweep.folder)
    if state.end_bound:
        wider = command("resume", sweep.folder, f"{state.end_bound}=MORE")
        return [(f"stopped at {bounds.told(sweep, state, state.end_bound)}; go on:", wider)]
    if state.edited_code:
        return [
            (f"stopped, as the code changed while the sweep ran: {state.edited_code}", ""),
            ("with the files as they were:", resume_it),
            ("with the new ones, which marks later results as mixed:", f"{resume_it} {ALLOW_OTHER_CODE}"),
        ]
    if state.end_status == "interrupted":
        unfinished = sum(not trial.is_over for trial in state.trials.values())
        return [(f"interrupted with {unfinished} trials under way; go on:", resume_it)]
    return [(text, "") for text in missing_trials(sweep, state)]


def _next_steps(sweep: SweepConfig, state: SweepState) -> list[Advice]:
    mlflow = shlex.quote(str(shown_path(Path(sys.executable).with_name("mlflow"))))
    steps = [("tables:", command("report", sweep.folder))]
    chosen = any(state.best(split) for split in state.splits())
    if chosen and not state.confirms and state.end_status == "finished":
        steps.append(("is the winner better on fresh seeds too?", command("confirm", sweep.folder)))
    return [*steps, ("MLflow UI:", f"{mlflow} ui --backend-store-uri {_shown_uri(sweep)}")]


def _failures(state: SweepState, folder: Path) -> list[Advice]:
    """How many trials failed, of what, and what can be done about it."""
    causes = Counter(trial.cause or "failed" for trial in state.trials.values() if trial.status == "failed")
    if not causes:
        return []
    listed = ", ".join(f"{count} {cause}" for cause, count in sorted(causes.items()))
    return [
        (f"failed: {causes.total()} of {len(state.trials)} trials ({listed})", ""),
        ("why:", command("status", folder, "--traceback")),
        ("run them again:", command("resume", folder, "--retry-failed")),
    ]


def _shown_uri(sweep: SweepConfig) -> str:
    """For a shell, which looks up itself what is a reference to the environment."""
    given = sweep.launch.tracking_uri
    name = variable_of(given) if given else None
    return shlex.quote(sweep.tracking_uri) if name is None else f'"${name}"'


def _refuse_changes(sweep: SweepConfig, state: SweepState) -> None:
    """A second `run` under a name is a resume, as long as it asks for the same."""
    faults = forbidden(state, sweep)
    if faults:
        raise RequestError(faults)
    edits = beyond_places(state, sweep)
    if edits:
        listed = "; ".join(f"{key} was {old!r}, now {new!r}" for key, (old, new) in sorted(edits.items()))
        wanted = " ".join(pasted(key, new) for key, (_, new) in sorted(edits.items()))
        remedy = f"to change it: {command('resume', sweep.folder)} {wanted}"
        raise RequestError.of(
            "sweep.name", f"is {sweep.launch.name}, which exists with other settings: {listed}", remedy
        )


def _folder(name: str, storage: str | None, where: str = "NAME") -> Path:
    """Raises: RequestError: for what can be no name of a sweep."""
    if faults := name_faults(where, name):
        raise RequestError(faults)
    return _storage(storage) / name


def _storage(given: str | None) -> Path:
    """The folder of sweeps. Raises: RequestError: it can be none."""
    return expanded("--storage", "runs" if given is None else given).absolute()


def _known_state(folder: Path) -> SweepState | None:
    """``None`` also for a sweep whose driver was killed before it could write down what it is."""
    state = SweepState.load(folder / JOURNAL) if (folder / JOURNAL).is_file() else None
    return None if state is None or state.created_at is None else state


def _existing_state(folder: Path) -> SweepState:
    state = _known_state(folder)
    if state is None and (folder / JOURNAL).is_file():
        problem = f"is {folder.name}, whose journal {folder / JOURNAL} holds nothing yet"
        raise RequestError.of("NAME", problem, f"start it: `run PRESET --name {folder.name}`")
    if state is None:
        known = sorted(path.parent.name for path in folder.parent.glob(f"*/{JOURNAL}"))
        there = f"known: {', '.join(known)}" if known else "there is none"
        remedy = "name one of these" if known else "give the folder of your sweeps with --storage"
        raise RequestError.of("NAME", f"no sweep {folder.name} in {folder.parent} ({there})", remedy)
    return state


if __name__ == "__main__":
    app()
