"""A hand-made sweep: writes the records a driver would write, on a clock of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tracking_servers import Server

from results import Journal

ROOT = Path(__file__).resolve().parents[2]


class Scribe:
    def __init__(self, path):
        self.path = path
        self.now = 1_700_000_000.0
        self.open()

    def open(self):
        self.journal = Journal(self.path, clock=self.tick)

    def tick(self):
        self.now += 1.0
        return self.now

    def created(self, name="digits", uid="0123456789abcdef"):
        self.journal.append("created", sweep=name, uid=uid, config={"loss": "bacs"}, versions={"python": "3"})

    def suggest(self, number, split="2-2", role="trial", seed=0, tags=None, **params):
        key = f"{seed:04x}{number:08x}"
        tags = {"mode": "overlapped", "loss": "bacs", "stage.0": "aa"} if tags is None else tags
        config = {"training": {"split": split, "seed": seed}, "loss": {"lkd": params.get("loss.lkd", 1.0)}}
        self.journal.append(
            "suggested",
            trial=key, number=number, role=role, split=split, seed=seed,
            params=params, config=config, tags=tags,
        )  # fmt: skip
        return key

    def start(self, key, attempt=1):
        self.journal.append("started", trial=key, attempt=attempt, host="h", pid=1)

    def report(self, key, step, epoch=None, **extra):
        points = [
            ["miou/all", step, 0.5 + step / 100, self.now],
            ["val/miou_all", step, 0.4 + step / 100, self.now],
            ["class_iou/3", step, float("nan") if step == 1 else 0.3, self.now],
        ]
        points += [[name, step, value, self.now] for name, value in extra.items()]
        self.journal.append("reported", trial=key, step=step, epoch=epoch or 2 * step, points=points)

    def finish(self, key, val=0.5, test=0.6, seconds=10.0):
        final = {
            "final/val_miou": val, "final/miou": test, "final/miou_base": 0.7, "final/miou_novel": 0.4,
            "final/miou_avg": 0.65, "final/forgetting": 0.1,
        }  # fmt: skip
        self.journal.append("finished", trial=key, final=final, seconds=seconds)

    def run_trial(self, number, val=0.5, test=0.6, steps=2, **suggestion):
        key = self.suggest(number, **suggestion)
        self.start(key)
        for step in range(1, steps + 1):
            self.report(key, step)
        self.finish(key, val, test)
        return key

    def end(self, status="finished"):
        self.journal.append("ended", status=status)

    def sweep_of_every_kind(self):
        """All but the ending. Returns: the keys of one finished, joint, pruned, failed, cut and waiting trial."""
        self.created()
        done = self.run_trial(0, val=0.5, **{"loss.lkd": 0.25, "loss.buffer_size": 100})
        joint = self.run_trial(1, role="joint", steps=1)
        pruned = self.suggest(2)
        self.start(pruned)
        self.report(pruned, 1)
        self.journal.append("stopped", trial=pruned, reason="rung 1")
        failed = self.suggest(3)
        self.start(failed)
        self.journal.append("failed", trial=failed, reason="diverged", traceback="tb", will_retry=False)
        cut = self.suggest(4)
        self.start(cut)
        never = self.suggest(5)
        return done, joint, pruned, failed, cut, never


@pytest.fixture
def scribe(tmp_path):
    scribe = Scribe(tmp_path / "sweep" / "journal.jsonl")
    yield scribe
    scribe.journal.close()


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """Creating the tables takes seconds: do it once, copy it for every test."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path.read_bytes()


@pytest.fixture
def uri(tmp_path, empty_database):
    (tmp_path / "mlflow.db").write_bytes(empty_database)
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture(scope="module")
def make_server(tmp_path_factory, empty_database):
    """Makes a server with an empty database of its own; stopped at the end of the module."""
    made = []

    def make():
        database = tmp_path_factory.mktemp("server") / "mlflow.db"
        database.write_bytes(empty_database)
        made.append(Server(database))
        return made[-1]

    yield make
    for server in made:
        server.stop()


@pytest.fixture
def spawn():
    """Start `python -c code args...` in the project root; killed at the end of the test."""
    started = []

    def start(*command, **options):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            cwd=ROOT,
            env=environment | options.pop("env", {}),
            **options,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe:
                pipe.close()
