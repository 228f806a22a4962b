"""Faults of files: struck after one driver and before the next."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.chaos.fault import Act, Fault, Missed, When
from tests.chaos.sweep import Sweep

_GARBAGE = (b"", b"\0\xff\xfe", b'{"reason": "hal', b"[1, 2]", b'{"reason": 3}', b'"text"', b'{"surprise": {}}')


Harm = Callable[[Path, Random], str]


def of_checkpoint(harm: Harm) -> Act:
    """Harms a file of the newest checkpoint of an unfinished trial, or of a random one."""

    def act(sweep: Sweep, random: Random) -> str:
        found = sweep.checkpoints()
        if not found:
            raise Missed
        return _harmed(found[-1] if random.random() < 0.6 else random.choice(found), sweep, harm, random)

    return act


def of_stage(harm: Harm) -> Act:
    """Harms a file of a shared step, and with it the checkpoints that are other names of the same bytes."""

    def act(sweep: Sweep, random: Random) -> str:
        found = sweep.stages()
        if not found:
            raise Missed
        return _harmed(random.choice(found), sweep, harm, random)

    return act


def _harmed(folder: Path, sweep: Sweep, harm: Harm, random: Random) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise Missed
    file = random.choice(files)
    return f"{file.relative_to(sweep.storage)} {harm(file, random)}"


def truncate(file: Path, random: Random) -> str:
    data = file.read_bytes()
    end = random.randrange(max(1, len(data)))
    file.write_bytes(data[:end])
    return f"cut to {end} of {len(data)} bytes"


def flip_bit(file: Path, random: Random) -> str:
    data = bytearray(file.read_bytes())
    if not data:
        raise Missed
    place = random.randrange(len(data))
    data[place] ^= 1 << random.randrange(8)
    file.write_bytes(data)
    return f"bit flipped in byte {place}"


def empty(file: Path, random: Random) -> str:
    file.write_bytes(b"")
    return "emptied"


def delete(file: Path, random: Random) -> str:
    file.unlink()
    return "deleted"


def delete_folder(file: Path, random: Random) -> str:
    shutil.rmtree(file.parent)
    return "deleted with its folder"


def cut_journal(sweep: Sweep, random: Random) -> str:
    """The last record is lost from a random byte on, as on a disk that lied about its flush."""
    data = sweep.journal.read_bytes()
    if not data:
        raise Missed
    start = data.rstrip(b"\n").rfind(b"\n") + 1
    end = random.randrange(start, len(data))
    kind = data[start:].partition(b'"kind":"')[2].partition(b'"')[0].decode()
    sweep.journal.write_bytes(data[:end])
    return f"record {kind!r} cut to {end - start} of {len(data) - start} bytes"


def tear_journal(sweep: Sweep, random: Random) -> str:
    """The first bytes of a record that was never acknowledged, as of a driver killed while it wrote."""
    data = sweep.journal.read_bytes()
    if not data.endswith(b"\n"):
        raise Missed
    lines = data.splitlines(keepends=True)
    _, number, rest = random.choice(lines).partition(b",")
    half = b'{"seq":%d%s%s' % (len(lines) + 1, number, rest)
    half = half[: random.randrange(1, len(half))]
    with sweep.journal.open("ab") as file:
        file.write(half)
    return f"{len(half)} bytes of half a record"


def leave_junk(sweep: Sweep, random: Random) -> str:
    """Drafts of writers that were killed before they could rename them."""
    mark = f"{random.randrange(1 << 32):08x}.tmp"
    trials = [sweep.folder / "trials" / key for key in sweep.unfinished()]
    trials = [trial for trial in trials if trial.is_dir()]
    if not trials:
        raise Missed
    trial = random.choice(trials)
    staging = trial / "checkpoints" / f".epoch-000-00001.{mark}"
    staging.mkdir(parents=True)
    (staging / "tensors.pt").write_bytes(random.randbytes(1000))
    (trial / f".config.json.{mark}").write_bytes(b'{"dataset": ')
    (trial / f".error.json.{mark}").write_bytes(b"")
    (trial / "results").mkdir(exist_ok=True)
    (trial / "results" / f".metrics.json.{mark}").write_bytes(b"{")
    return f"in trials/{trial.name}"


def garble_error(sweep: Sweep, random: Random) -> str:
    """The note that a dying trial leaves, unreadable in one of many ways, in every unfinished trial."""
    keys = [key for key in sweep.unfinished() if (sweep.folder / "trials" / key).is_dir()]
    if not keys:
        raise Missed
    text = random.choice(_GARBAGE)
    for key in keys:
        (sweep.folder / "trials" / key / "error.json").write_bytes(text)
    return f"{text!r} in {len(keys)} trials"


FAULTS = (
    Fault("checkpoint-truncated", When.BETWEEN, of_checkpoint(truncate)),
    Fault("checkpoint-flipped", When.BETWEEN, of_checkpoint(flip_bit)),
    Fault("checkpoint-emptied", When.BETWEEN, of_checkpoint(empty)),
    Fault("checkpoint-file-gone", When.BETWEEN, of_checkpoint(delete)),
    Fault("checkpoint-gone", When.BETWEEN, of_checkpoint(delete_folder)),
    Fault("stage-truncated", When.BETWEEN, of_stage(truncate)),
    Fault("stage-flipped", When.BETWEEN, of_stage(flip_bit)),
    Fault("stage-gone", When.BETWEEN, of_stage(delete_folder)),
    Fault("journal-cut", When.BETWEEN, cut_journal),
    Fault("journal-torn", When.BETWEEN, tear_journal),
    Fault("junk-drafts", When.BETWEEN, leave_junk),
    Fault("error-garbled", When.BETWEEN, garble_error),
)
