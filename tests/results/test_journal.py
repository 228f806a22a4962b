import json
import math
import os
import signal
import subprocess
import threading

import numpy as np
import pytest

from results import Journal, ResultsError, SweepState, journal, read_journal
from results.journal import is_being_written

HOLD = """
import sys, time
from results import Journal
with Journal(sys.argv[1]) as journal:
    print("open", flush=True)
    time.sleep(60)
"""

APPEND_FOR_EVER = """
import sys
from results import Journal
with Journal(sys.argv[1]) as journal:
    for number in range(10**9):
        record = journal.append("edited", changes={"number": number, "filler": "x" * 3000})
        print(record["seq"], flush=True)
"""


def write(path, count=3):
    with Journal(path) as opened:
        return [opened.append("edited", changes={"number": number}) for number in range(count)]


def test_what_is_appended_is_read_back(tmp_path):
    path = tmp_path / "new" / "journal.jsonl"
    written = write(path)
    records, end = read_journal(path)
    assert records == written
    assert [record["seq"] for record in records] == [1, 2, 3]
    assert end == path.stat().st_size
    assert read_journal(path, end) == ([], end)


def test_numbering_goes_on_after_reopening_and_readers_go_on_from_their_offset(tmp_path):
    path = tmp_path / "journal.jsonl"
    write(path)
    _, end = read_journal(path)
    write(path, 2)
    records, _ = read_journal(path, end)
    assert [record["seq"] for record in records] == [4, 5]


def test_values_json_has_no_word_for(tmp_path):
    path = tmp_path / "journal.jsonl"
    values = [float("nan"), float("inf"), -float("inf"), np.float32(0.5), np.int64(3), (1, 2), 0.1 + 0.2]
    with Journal(path) as opened:
        opened.append("reported", points=values, where=tmp_path, none=None, flag=True)

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    json.loads(path.read_text(), parse_constant=refuse)
    (record,), _ = read_journal(path)
    assert math.isnan(record["points"][0])
    assert record["points"][1:] == [math.inf, -math.inf, 0.5, 3, [1, 2], 0.1 + 0.2]
    assert (record["where"], record["none"], record["flag"]) == (str(tmp_path), None, True)


def test_what_cannot_be_written_leaves_no_trace(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as opened:
        with pytest.raises(TypeError, match="cannot be written"):
            opened.append("edited", changes={"a": object()})
        with pytest.raises(ValueError, match="seq"):
            opened.append("edited", seq=7)
        assert opened.append("edited", changes={})["seq"] == 1
    with pytest.raises(ResultsError, match="closed"):
        opened.append("edited", changes={})


def test_a_tail_torn_at_any_byte_is_ignored_by_readers_and_cut_off_by_the_next_writer(tmp_path):
    path = tmp_path / "journal.jsonl"
    written = write(path)
    whole = path.read_bytes()
    start = whole[:-1].rindex(b"\n") + 1
    for size in range(start, len(whole)):
        path.write_bytes(whole[:size])
        assert read_journal(path) == (written[:2], start)
        with Journal(path) as opened:
            assert opened.repaired_bytes == size - start
            assert opened.append("edited", changes={})["seq"] == 3
        assert len(read_journal(path)[0]) == 3


def test_a_bit_flipped_anywhere_before_the_last_line_is_found_with_its_line_number(tmp_path):
    path = tmp_path / "journal.jsonl"
    write(path)
    whole = path.read_bytes()
    second = whole.index(b"\n") + 1
    third = whole.index(b"\n", second) + 1
    for position in range(second, third):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        with pytest.raises(ResultsError, match="line 2"):
            read_journal(path)
        with pytest.raises(ResultsError, match="line 2"):
            read_journal(path, second)
        with pytest.raises(ResultsError, match="line 2"):
            Journal(path)
        assert path.read_bytes() == damaged  # a writer that refuses changes nothing


def test_a_missing_line_is_found(tmp_path):
    path = tmp_path / "journal.jsonl"
    write(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[2])
    with pytest.raises(ResultsError, match="line 2"):
        read_journal(path)
    path.write_bytes(b"".join(lines[1:]))
    with pytest.raises(ResultsError, match="line 1"):
        read_journal(path)


def test_an_offset_inside_a_line_is_refused(tmp_path):
    path = tmp_path / "journal.jsonl"
    write(path)
    with pytest.raises(ResultsError, match="not the start of a line"):
        read_journal(path, 5)


def test_no_journal_is_said_so(tmp_path):
    with pytest.raises(ResultsError, match="cannot read"):
        SweepState.load(tmp_path / "journal.jsonl")


def test_a_write_that_takes_only_a_part_is_continued(tmp_path, monkeypatch):
    path = tmp_path / "journal.jsonl"
    real_write = os.write
    with Journal(path) as opened:
        monkeypatch.setattr(journal.os, "write", lambda fd, data: real_write(fd, data[:10]))
        opened.append("edited", changes={"number": 1})
    assert [record["changes"]["number"] for record in read_journal(path)[0]] == [1]


def test_threads_share_a_journal(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as opened:
        threads = [
            threading.Thread(target=lambda: [opened.append("edited", changes={}) for _ in range(25)]) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(read_journal(path)[0]) == 100


def test_a_second_writer_is_refused_and_told_whom_to_ask(tmp_path, spawn):
    path = tmp_path / "journal.jsonl"
    holder = spawn("-c", HOLD, path, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"open\n"
    with pytest.raises(ResultsError) as caught:
        Journal(path)
    assert f"process {holder.pid} on {os.uname().nodename}" in caught.value.message
    assert f"kill {holder.pid}" in caught.value.hint
    assert read_journal(path) == ([], 0)  # readers need no lock
    assert is_being_written(path)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert not is_being_written(path)
    write(path)  # the lock went with its holder


def test_a_second_writer_in_the_same_process_is_refused_too(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path), pytest.raises(ResultsError, match=str(os.getpid())):
        Journal(path)
    write(path)


def test_a_writer_killed_while_appending_loses_nothing_it_was_told_is_written(tmp_path, spawn):
    path = tmp_path / "journal.jsonl"
    for _ in range(3):
        writer = spawn("-c", APPEND_FOR_EVER, path, stdout=subprocess.PIPE)
        told = [writer.stdout.readline() for _ in range(20)]
        writer.send_signal(signal.SIGKILL)
        told += writer.stdout.read().splitlines(keepends=True)
        writer.wait()
        acknowledged = max(int(line) for line in told if line.endswith(b"\n"))
        with Journal(path) as opened:
            assert opened.append("edited", changes={})["seq"] > acknowledged >= 20
        records, end = read_journal(path)
        assert end == path.stat().st_size
        assert [record["seq"] for record in records] == list(range(1, len(records) + 1))
