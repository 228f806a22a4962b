"""``python -m sweeps data``: verify and prepare datasets."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bacs.components import Component, parse_component
from bacs.compose import compose, named_plugins
from bacs.data.download import DownloadError
from bacs.data.known_counts import KNOWN
from bacs.data.verify import FAULT, OK, Finding, Verification
from bacs.data.verify import verify as verify_layout
from bacs.errors import Fault, RequestError
from bacs.overrides import as_override, pasted
from bacs.paths import existing_folder
from bacs.plugins import allow, allowing
from bacs.terminal import Terminal
from sweeps.data_tables import render_verification
from sweeps.exits import FAILED, told

_SHOW_EVERY = 50
"""Images between two updates of the progress bar, which has no thread of its own: worker processes are forked."""

data_app = typer.Typer(no_args_is_help=True, help="Check a dataset, or get it.")

Dataset = Annotated[str, typer.Argument(help="voc, cityscapes, cityscapes_domain, ade20k, folder or digits")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="KEY=VALUE, for example dataset.root=/data/voc", show_default=False)
]
ConfigPath = Annotated[str | None, typer.Option(help="a folder of your own with dataset/NAME.yaml")]
Workers = Annotated[int | None, typer.Option(min=1, help="processes that read files [default: one a core]")]


@data_app.command()
def verify(
    dataset: Dataset,
    overrides: Overrides = None,
    config_path: ConfigPath = None,
    workers: Workers = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Look at every file: presence, mask values, class table, counts, images per step. Exit code 1: not usable."""
    with _failures_told():
        component = _component(dataset, overrides or [], config_path)
        verification = _verification(dataset, component, workers or len(os.sched_getaffinity(0)))
        if as_json:
            typer.echo(json.dumps(asdict(verification) | {"usable": verification.usable}, indent=2))
        else:
            Terminal().print(render_verification(dataset, verification))
        if not verification.usable:
            raise typer.Exit(FAILED)


@data_app.command()
def prepare(dataset: Dataset, overrides: Overrides = None, config_path: ConfigPath = None) -> None:
    """Download what may be downloaded into dataset.root, and say what is left to do by hand."""
    console = Terminal()
    with _failures_told():
        component = _component(dataset, overrides or [], config_path)
        if not hasattr(component.factory, "layout"):
            console.print(f"nothing to prepare: {dataset} is generated when it is first used", markup=False)
            return
        root = _root(component)
        by_hand = _fetched(dataset, root, console)
        if by_hand:
            console.print(by_hand, highlight=False, markup=False, soft_wrap=True)
        faults = component.factory.check(component.settings)
        if faults:
            console.print(f"[bold red]{dataset} is not usable yet[/]")
            console.print("\n".join(map(str, faults)), highlight=False, markup=False, soft_wrap=True)
            raise typer.Exit(FAILED)
        verify_it = f"python -m sweeps data verify {shlex.quote(dataset)} {pasted('dataset.root', str(root))}"
        text = f"{dataset} is there; look at every file: {verify_it}"
        console.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def _failures_told() -> Iterator[None]:
    errors = Terminal(stderr=True)
    try:
        with allowing():
            yield
    except RequestError as error:
        raise told(error) from None
    except DownloadError as error:
        errors.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(FAILED) from None
    except BrokenProcessPool:
        errors.print("[red]a worker process was killed, perhaps for want of memory[/]\n    -> try --workers 1")
        raise typer.Exit(FAILED) from None


def _component(dataset: str, overrides: Sequence[str], config_path: str | None) -> Component:
    own = (
        None if config_path is None else existing_folder("--config-path", config_path, "give the folder of your files")
    )
    allow(named_plugins(overrides))
    section = compose("config", [f"dataset={as_override(dataset)}", *overrides], own_dir=own)["dataset"]
    component, faults = parse_component("dataset", section)
    if faults or component is None:
        raise RequestError(faults)
    return component


def _root(component: Component) -> Path:
    root = component.settings.root
    if root is None:
        raise RequestError.of("dataset.root", "is not given", "add dataset.root=FOLDER, where the dataset is to lie")
    return Path(root).absolute()


def _verification(dataset: str, component: Component, workers: int) -> Verification:
    """Raises: RequestError: for wrong settings. Whatever is wrong with the dataset is a finding."""
    faults: list[Fault] = component.factory.check(component.settings)
    if not hasattr(component.factory, "layout"):
        if faults:
            raise RequestError(faults)
        return Verification((Finding(OK, "", f"{dataset} is generated when it is first used: no file can be wrong"),))
    if not _root(component).is_dir():
        raise RequestError(faults)
    wrong_settings = [fault for fault in faults if fault.where.startswith("dataset.") and fault.where != "dataset.root"]
    if wrong_settings:
        raise RequestError(wrong_settings)
    try:
        layout = component.factory.layout(component.settings)
    except RequestError as error:
        return Verification(tuple(Finding(FAULT, "", f"{f.where} {f.problem}", f.remedy) for f in error.faults))
    columns = (TextColumn("reading"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Terminal(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task("reading")

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, refresh=done % _SHOW_EVERY == 0)

        return verify_layout(layout, KNOWN.get(dataset), workers=workers, progress=show)


def _fetched(dataset: str, root: Path, console: Terminal) -> str:
    from bacs.data.prepare import prepare as prepare_dataset  # imports torchvision, two seconds of every command

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def show(file: str, done: int, total: int) -> None:
            if file not in tasks:
                tasks[file] = bar.add_task(file)
            bar.update(tasks[file], completed=done, total=total or None)

        return prepare_dataset(dataset, root, lambda line: console.print(line, highlight=False, markup=False), show)
