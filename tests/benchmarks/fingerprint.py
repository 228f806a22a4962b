"""What the fingerprint of the code costs when a process starts: first time, and with what Python's cache keeps."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile

ROUNDS = 9
MEASURE = """
import time
from bacs.compose import compose
from bacs.config import RunConfig
from bacs.fingerprint import acting_code, libraries
from bacs.origin import commit
config = RunConfig.from_dict(compose("config", [{overrides}]))
started = time.perf_counter()
code = acting_code(config, 1)
libraries(config, code)
closed = time.perf_counter()
commit()
print(1000 * (closed - started), 1000 * (time.perf_counter() - closed), len(code.modules))
"""
RUNS = {"BACS, U-Net, digits": "", "PLOP, transformer": "'loss=plop', 'network=transformer'"}


def measured(overrides: str, cache: str | None) -> list[float]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1"} if cache is None else {"PYTHONPYCACHEPREFIX": cache}
    code = MEASURE.replace("{overrides}", overrides)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


def main() -> None:
    for name, overrides in RUNS.items():
        with tempfile.TemporaryDirectory() as cache:
            measured(overrides, cache)
            rounds = [(measured(overrides, None), measured(overrides, cache)) for _ in range(ROUNDS)]
        first, kept = (statistics.median(both[i][0] for both in rounds) for i in (0, 1))
        commit = statistics.median(both[0][1] for both in rounds)
        modules = int(rounds[0][0][2])
        print(f"{name}: {modules} modules, {first:.0f} ms read anew, {kept:.0f} ms kept, commit {commit:.0f} ms")


if __name__ == "__main__":
    main()
