"""``python -m bacs [--config-name NAME] [OVERRIDE...]``: a single run; ``predict``: see `bacs.predict`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bacs import predict
from bacs.checkpoints import CheckpointFolder
from bacs.compose import compose, named_plugins
from bacs.config import RunConfig
from bacs.errors import RequestError
from bacs.events import EpochEnded, Event, StepEnded
from bacs.exits import DONE, fail, refuse
from bacs.launch import RankDiedError, RankError, local_ranks
from bacs.lineage import run_identity
from bacs.origin import ALLOW_OTHER_CODE, MIXED, Origin, refuse_changes, version
from bacs.outputs import Outputs
from bacs.paths import existing_folder, folder_faults, made_folders_faults
from bacs.patience import StorageRefusedError
from bacs.plugins import allowing
from bacs.run import ContinualRun, DivergedError
from bacs.stages import begin
from bacs.terminal import Terminal
from bacs.view import RunView

PICTURES, RESULTS = Path("runs/pictures"), Path("runs/results")
"""Where runs without checkpoints leave both: a folder each, by ``training.exp_name`` or identity."""

EPILOG = """examples:
  python -m bacs dataset=digits training.split=2-2 loss=bacs
  python -m bacs loss=crossentropy training.mode=joint training.epochs=20
  python -m bacs training.ckpt_dir=runs/single    (continues where it stopped when started again)
  python -m bacs predict BUNDLE IMAGE...          (masks, by the model of a checkpoint; see predict --help)

Keys are those of the groups dataset, network, optimizer, scheduler, loss and training; each group's Config
dataclass documents its keys with units, ranges and defaults. Exit codes: 0 done, 1 the run failed, 2 the request
was wrong."""


class BrokenRunError(Exception):
    """What a run that has begun cannot go on with."""


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] == "predict":
        return predict.main(arguments[1:])
    options = _parser().parse_args(arguments)
    console = Terminal()
    if options.version:
        console.say(version())
        return DONE
    errors = Terminal(stderr=True)
    try:
        directory = None
        if options.config_path is not None:
            directory = existing_folder("--config-path", options.config_path, "give the folder of your files")
        own = directory is not None
        values = compose(options.config_name, options.overrides, directory, trusted=own)
        with allowing(named_plugins(options.overrides, values if own else None)):
            config = _checked(values)
            if not options.allow_other_code:
                _refuse_other_code(config)
            origin = Origin.of(config)
            with local_ranks(config, _checkpoint_folder(config)):
                drive(ContinualRun(config), origin, console)
    except RequestError as error:
        return refuse(errors, error)
    except (DivergedError, StorageRefusedError, BrokenRunError, RankError, RankDiedError) as error:
        return fail(errors, error)
    return DONE


def _checked(values: dict[str, Any]) -> RunConfig:
    """The run, whose folders can be written. Raises: RequestError: with all faults together."""
    faults = made_folders_faults(values)
    try:
        config = RunConfig.from_dict(values)
    except RequestError as error:
        told = {fault.where for fault in error.faults}
        raise RequestError([*error.faults, *(fault for fault in faults if fault.where not in told)]) from None
    if not faults and config.training.ckpt_dir is None:
        remedy = "run from another folder, or set training.ckpt_dir, beside which results lie"
        faults = folder_faults("the current folder", RESULTS / _run_name(config), remedy)
    if faults:
        raise RequestError(faults)
    return config


def _refuse_other_code(config: RunConfig) -> None:
    """Where the checkpoints of a run were written by other code than that of now."""
    path = _checkpoint_folder(config)
    meta = None if path is None else CheckpointFolder(path, run_identity(config)).latest_meta()
    if meta is not None:
        refuse_changes(str(path), meta.get("origin"), "give the run a name: training.exp_name=OTHER", ALLOW_OTHER_CODE)


def drive(run: ContinualRun, origin: Origin, console: Terminal) -> None:
    """Runs to the end, showing every event, with checkpoints where ``training.ckpt_dir`` asks for them.

    Results and pictures lie beside the checkpoints, or, without these, under ``runs``.
    """

    def notice(text: str) -> None:
        console.say(text)

    for note in run.notes:
        notice(note)
    path = _checkpoint_folder(run.config)
    folder, shared = None, None
    if path is not None:
        folder = CheckpointFolder(path, run_identity(run.config), notice, origin.state)
        shared = begin(run, folder, origin, notice)
        for note in folder.notes:
            notice(note)
        if shared is not None and shared.taken:
            notice(f"steps 0 to {shared.taken - 1} were found in {run.config.training.stages}")
    pictures = path / "pictures" if path is not None else PICTURES / _run_name(run.config)
    results = path / "results" if path is not None else RESULTS / _run_name(run.config)
    console.say(f"results: {results}")
    if run.media.draws:
        console.say(f"pictures: {pictures}")
    if origin.mixed:
        notice(f"{MIXED}: {', '.join(origin.mixed)} changed on the way; results say so")
    outputs = Outputs(results, pictures, notice, origin)
    with RunView(console, run.epochs_total, run.epochs_done) as view:
        for event in _begun(run.events()):
            if folder is not None and isinstance(event, EpochEnded | StepEnded):
                folder.save(run.snapshot())
                if shared is not None and isinstance(event, StepEnded):
                    shared.give(event.step)
            outputs.after(event, run)
            view.show(event)
    if origin.mixed:
        notice(f"{MIXED}: these numbers come from several codes")


def _begun(events: Iterator[Event]) -> Iterator[Event]:
    """The same events. A fault that shows on the way, such as a damaged image, is none of the request's.

    Raises:
        BrokenRunError: in the place of a RequestError.
    """
    try:
        yield from events
    except RequestError as error:
        raise BrokenRunError(str(error)) from error


def _checkpoint_folder(config: RunConfig) -> Path | None:
    if not config.training.ckpt_dir:
        return None
    return Path(config.training.ckpt_dir).absolute() / _run_name(config)


def _run_name(config: RunConfig) -> str:
    return config.training.exp_name or run_identity(config)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bacs",
        description="Train one continual-segmentation configuration through all its steps.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print version, commit and code, and end")
    parser.add_argument("--config-name", default="config", help="a YAML file of the configuration folder")
    parser.add_argument(
        "--config-path",
        default=None,
        help="a folder of your own: configurations and groups (loss/, network/, dataset/); the plugins: that its files "
        "name are loaded",
    )
    parser.add_argument(
        ALLOW_OTHER_CODE,
        action="store_true",
        help="go on from checkpoints that other code or libraries have written; later results are marked as mixed",
    )
    parser.add_argument("overrides", nargs="*", help="Hydra overrides: GROUP=CHOICE or GROUP.KEY=VALUE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
