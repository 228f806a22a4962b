"""What `plan --probe` foretells beside what `run` then spends: ``python -m tests.benchmarks.plan_accuracy``.

Three presets, each in a storage folder of its own, so that the plan knows nothing but its probe. The datasets in files
are small trees in the true format. Compared are the processor hours of all steps, which a busy machine changes least,
and the hours that trials hold their CPUs. Fails where the first are off by more than a quarter.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from results.state import SweepState
from sweeps.checks import check_request
from sweeps.forecast import Figures, make_forecast, real_figures
from sweeps.settings import compose_preset
from tests.bacs.data.trees import make_ade20k, make_voc

TOLERANCE = 0.25
ROOT = Path(__file__).parent.parent.parent
IN_FILES = [
    "dataset.crop_size=64",
    "network.depth=50",
    "network.pretrained_backbone=false",
    "training.epochs=3",
    "training.batch_size=8",
    "training.accumulate_gradients=1",
    "training.num_workers=0",
    "search.trials=2",
    "search.algorithm=random",
    "resources.gpus_per_trial=0",
    "resources.cpus_per_trial=1",
]
PRESETS: dict[str, tuple[Callable[[Path], object] | None, list[str]]] = {
    "digits": (None, ["search.splits=[5-1]"]),
    "voc": (lambda root: make_voc(root, augmented=140, val=40, side=80), ["search.splits=[15-5]", *IN_FILES]),
    "ade20k": (lambda root: make_ade20k(root, train=160, side=80), ["search.splits=[100-50]", *IN_FILES]),
}


def compared(preset: str, folder: Path) -> tuple[Figures, Figures]:
    """Plans and runs a preset. Returns: what was planned and what was real."""
    make, overrides = PRESETS[preset]
    if make is not None:
        make(folder / "data")
        overrides = [*overrides, f"dataset.root={folder}/data"]
    sweep = check_request(compose_preset(preset, overrides, {"storage": str(folder / "runs"), "name": preset}))
    planned = make_forecast(sweep, None, probing=True).figures
    command = [sys.executable, "-m", "sweeps", "run", preset, *overrides, "--name", preset]
    environment = os.environ | {"RAY_TMPDIR": str(folder / "r")}
    (folder / "r").mkdir()
    with (folder / "log").open("w") as log:
        storage = ["--storage", str(folder / "runs")]
        subprocess.run([*command, *storage], check=True, cwd=ROOT, env=environment, stdout=log, stderr=log)
    return planned, real_figures(sweep, None, SweepState.load(sweep.folder / "journal.jsonl"), 0.0)


def main() -> None:
    missed = []
    print(f"{'preset':10s} stages: planned real   processor s: planned   real  ratio   held s: planned   real  ratio")
    for preset in PRESETS:
        with tempfile.TemporaryDirectory(prefix="p", dir="/tmp") as folder:
            planned, real = compared(preset, Path(folder))
        line = f"{preset:10s} {planned.stages:15d} {real.stages:4d}"
        for name in ("cpu_hours", "held_hours"):
            expected, found = 3600 * (getattr(planned, name) or 0), 3600 * (getattr(real, name) or 0)
            ratio = found / expected if expected else float("nan")
            line += f"  {expected:19.0f} {found:6.0f} {ratio:6.2f}"
            if name == "cpu_hours" and not abs(ratio - 1) <= TOLERANCE:
                missed.append(preset)
        print(line, flush=True)
    print(f"off by more than {TOLERANCE:.0%}: {', '.join(missed)}" if missed else f"all within {TOLERANCE:.0%}")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
