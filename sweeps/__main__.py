"""``python -m sweeps``: plan, run, resume, watch and report sweeps."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live

from bacs.errors import RequestError
from results.errors import ResultsError
from results.journal import is_being_written
from results.state import SweepState
from results.tables import render_status, render_winners, status_json, write_csvs
from results.tracking import Tracker
from sweeps.checks import check_request
from sweeps.data_command import data_app
from sweeps.driver import JOURNAL, execute, save_request
from sweeps.exits import FAILED, WRONG_REQUEST, told
from sweeps.ledger import planned_total
from sweeps.plan import render_plan
from sweeps.settings import SweepConfig, compose_preset

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Sweeps of the BACS pipeline on Ray Tune, recorded in MLflow. Exit codes: 0 done, 1 the work failed, "
    "2 the request was wrong.",
)
app.add_typer(data_app, name="data")

Preset = Annotated[str, typer.Argument(help="a preset by name (digits), or your own YAML file by path")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="KEY=VALUE, for example search.trials=16 training.epochs=8", show_default=False),
]
Name = Annotated[str, typer.Argument(help="the name of the sweep")]
Storage = Annotated[str | None, typer.Option(help="folder of journals, checkpoints and caches [default: runs]")]
NameOption = Annotated[str | None, typer.Option("--name", help="name of the sweep [default: the preset's]")]
Address = Annotated[str | None, typer.Option(help="Ray cluster [default: RAY_ADDRESS, else this machine]")]
TrackingUri = Annotated[
    str | None,
    typer.Option(envvar="MLFLOW_TRACKING_URI", help="MLflow server or database [default: sqlite in the storage]"),
]


@app.command()
def plan(
    preset: Preset,
    overrides: Overrides = None,
    name: NameOption = None,
    storage: Storage = None,
    address: Address = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Check a sweep and show what it would run; starts nothing."""
    with _requests_checked():
        sweep = _requested(preset, overrides, name, storage, address, tracking_uri)
        Console().print(render_plan(sweep, _known_state(sweep.folder)))


@app.command()
def run(
    preset: Preset,
    overrides: Overrides = None,
    name: NameOption = None,
    storage: Storage = None,
    address: Address = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Run a sweep; one that exists with the same configuration is continued."""
    with _requests_checked():
        sweep = _requested(preset, overrides, name, storage, address, tracking_uri)
        state = _known_state(sweep.folder)
        if state is not None:
            _refuse_changes(sweep, state)
        save_request(sweep)
        _run(sweep)


@app.command()
def resume(name: Name, storage: Storage = None, address: Address = None, tracking_uri: TrackingUri = None) -> None:
    """Continue an interrupted sweep: finished trials stay, others go on from their own last checkpoint."""
    with _requests_checked():
        folder = _folder(name, storage)
        values = dict(_existing_state(folder).config)
        changes = {"storage": str(folder.parent), "address": address, "tracking_uri": tracking_uri}
        values["sweep"] = values["sweep"] | {key: value for key, value in changes.items() if value is not None}
        _run(check_request(values))


@app.command()
def status(
    name: Name,
    storage: Storage = None,
    watch: Annotated[bool, typer.Option("--watch", help="keep showing while the sweep runs")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Show trials by state, the best so far per split, time left."""
    with _requests_checked():
        folder = _folder(name, storage)
        state = _existing_state(folder)
        total = planned_total(SweepConfig.from_dict(state.config), state)
        if as_json:
            typer.echo(json.dumps(status_json(state, total), indent=2))
            return
        if not watch:
            Console().print(render_status(state, total))
            return
        with Live(render_status(state, total), console=Console(), auto_refresh=False) as live:
            while is_being_written(folder / JOURNAL):
                time.sleep(1.0)
                state.refresh(folder / JOURNAL)
                live.update(render_status(state, total), refresh=True)
        if not state.ended:
            Console().print(f"nobody runs this sweep; go on: {_command('resume', folder)}", soft_wrap=True)


@app.command()
def report(name: Name, storage: Storage = None) -> None:
    """Print the winners per split beside their references, and write the tables as CSV."""
    with _requests_checked():
        folder = _folder(name, storage)
        state = _existing_state(folder)
        console = Console()
        console.print(render_winners(state))
        for path in write_csvs(state, folder / "report"):
            console.print(f"wrote {path}", highlight=False, soft_wrap=True)


@app.command()
def sync(name: Name, storage: Storage = None, tracking_uri: TrackingUri = None) -> None:
    """Bring a tracking server up to date with the journal; a second time changes nothing."""
    with _requests_checked():
        folder = _folder(name, storage)
        state = _existing_state(folder)
        uri = tracking_uri or SweepConfig.from_dict(state.config).tracking_uri
        Tracker.check(uri)
        sent = Tracker(uri, state.sweep, folder / JOURNAL, artifact_root=folder / "artifacts").sync_once()
        Console().print(f"{uri} is up to date with {folder / JOURNAL} ({sent} points sent)", soft_wrap=True)


@contextmanager
def _requests_checked() -> Iterator[None]:
    """Turns a wrong request into messages and exit code 2."""
    try:
        yield
    except RequestError as error:
        raise told(error, "; nothing was started") from None
    except ResultsError as error:
        Console(stderr=True).print(
            f"{error.message}\n    -> {error.hint}", style="bold red", markup=False, highlight=False, soft_wrap=True
        )
        raise typer.Exit(WRONG_REQUEST) from None


def _requested(
    preset: str,
    overrides: list[str] | None,
    name: str | None,
    storage: str | None,
    address: str | None,
    tracking_uri: str | None,
) -> SweepConfig:
    launch = {"name": name, "storage": storage, "address": address, "tracking_uri": tracking_uri}
    return check_request(compose_preset(preset, overrides or [], launch))


def _run(sweep: SweepConfig) -> None:
    console = Console()
    state = execute(sweep, console)
    console.print(render_winners(state))
    mlflow = _shown_path(Path(sys.executable).with_name("mlflow"))
    lines = [
        f"tables:    {_command('report', sweep.folder)}",
        f"MLflow UI: {mlflow} ui --backend-store-uri {sweep.tracking_uri}",
    ]
    unfinished = [trial for trial in state.trials.values() if not trial.is_over]
    if state.end_status == "interrupted":
        go_on = _command("resume", sweep.folder)
        lines.insert(0, f"interrupted with {len(unfinished)} trials under way; go on: {go_on}")
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
    if state.end_status != "finished":
        raise typer.Exit(FAILED)


def _command(command: str, folder: Path) -> str:
    """A command line for this sweep that can be pasted."""
    where = "" if folder.parent == Path("runs").absolute() else f" --storage {folder.parent}"
    return f"{_shown_path(Path(sys.executable))} -m sweeps {command} {folder.name}{where}"


def _shown_path(path: Path) -> Path:
    """As a user in this folder would type it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _refuse_changes(sweep: SweepConfig, state: SweepState) -> None:
    """A second `run` under a name is a resume, as long as it asks for the same."""
    changed = sorted(_differences(state.config, sweep.resolved))
    if changed:
        listed = "; ".join(changed)
        remedy = "give the new sweep another --name, or ask for the same and it continues"
        raise RequestError.of(
            "sweep.name", f"is {sweep.launch.name}, which exists with other settings: {listed}", remedy
        )


def _differences(old: Any, new: Any, where: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() | new.keys():
            yield from _differences(old.get(key), new.get(key), f"{where}.{key}" if where else key)
    elif old != new and where not in ("sweep.address", "sweep.tracking_uri"):
        yield f"{where} was {old!r}, now {new!r}"


def _folder(name: str, storage: str | None) -> Path:
    return Path(storage or "runs").expanduser().absolute() / name


def _known_state(folder: Path) -> SweepState | None:
    return SweepState.load(folder / JOURNAL) if (folder / JOURNAL).is_file() else None


def _existing_state(folder: Path) -> SweepState:
    state = _known_state(folder)
    if state is None or not state.config:
        known = sorted(path.parent.name for path in folder.parent.glob(f"*/{JOURNAL}"))
        remedy = f"known there: {', '.join(known)}" if known else "give the folder of your sweeps with --storage"
        raise RequestError.of("NAME", f"is {folder.name}, but there is no such sweep in {folder.parent}", remedy)
    return state


if __name__ == "__main__":
    app()
