"""The fault campaign: ``python -m tests.chaos --faults 60 --seed 0``.

Exit codes: 0 every sweep came to what the undisturbed one is; 1 something differs; 2 the request was wrong.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from rich.console import Console

from tests.chaos.campaign import Campaign
from tests.chaos.fault import Fault
from tests.chaos.ground import Ground
from tests.chaos.kinds import KINDS
from tests.chaos.table import as_json, render


def main() -> int:
    wanted = _arguments()
    kinds: list[Fault] = [KINDS[key] for key in wanted.kinds]
    console = Console()
    _end_by_signals()
    ground = Ground(wanted.storage, keep=wanted.keep)
    try:
        report = Campaign(ground, kinds, wanted.faults, wanted.seed, lambda text: _say(console, text)).run()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        ground.clear()
        if wanted.keep:
            _say(console, f"kept: {ground.folder}")
    console.print(render(report, kinds))
    if wanted.json is not None:
        wanted.json.write_text(as_json(report), encoding="utf-8")
    return 0 if report.is_clean else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="random faults over small sweeps")
    parser.add_argument("--faults", type=int, default=60, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of the plan: kinds, victims, moments")
    parser.add_argument("--kinds", nargs="+", choices=sorted(KINDS), default=list(KINDS), metavar="KIND",
                        help=f"of {', '.join(KINDS)}")  # fmt: skip
    parser.add_argument("--storage", type=Path, help="makes its temporary folder there; a short path [default: /tmp]")
    parser.add_argument("--json", type=Path, help="writes what it found to this file too")
    parser.add_argument("--keep", action="store_true", help="leaves the folder, with all journals and outputs")
    return parser.parse_args()


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _end_by_signals() -> None:
    """A campaign that is told to end cleans up as after Ctrl-C.

    Setting all three also gives them back to the drivers where a shell or ``nohup`` made them ignored.
    """

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)


if __name__ == "__main__":
    sys.exit(main())
