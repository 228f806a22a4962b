"""Whatever happens to the bytes of a journal is found; only a lost end passes for an older journal."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from results import Journal, ResultsError, SweepState, read_journal
from tests.damage import damaged
from tests.results.conftest import Scribe


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    """Where damaged journals are written."""
    return tmp_path_factory.mktemp("spoilt") / "journal.jsonl"


def _small_sweep(folder):
    scribe = Scribe(folder / "journal.jsonl")
    scribe.created()
    scribe.run_trial(0)
    scribe.run_trial(1, lkd=2.0)
    scribe.end()
    scribe.journal.close()
    return scribe.path.read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return _small_sweep(tmp_path_factory.mktemp("whole"))


def text(records):
    """Comparable, although NaN is not NaN."""
    return repr(records)


def test_every_corruption_is_found_or_is_a_lost_end(whole, spoilt):
    spoilt.write_bytes(whole)
    written, _ = read_journal(spoilt)
    accepted = []

    @settings(max_examples=600, deadline=None, database=None)
    @given(damaged(whole))
    def check(data):
        spoilt.write_bytes(data)
        try:
            records, end = read_journal(spoilt)
        except ResultsError as error:
            assert "line" in error.message
            assert error.hint
            with pytest.raises(ResultsError):
                SweepState.load(spoilt)
            return
        # What was accepted is the beginning of what was written, byte by byte ...
        assert data[:end] == whole[:end]
        assert text(records) == text(written[: len(records)])
        # ... and what follows looks like a write that was cut short, which nobody was told had succeeded.
        rest = data[end:]
        assert b"\n" not in rest or b"\0" in rest
        assert len(SweepState.load(spoilt).trials) <= 2
        accepted.append(len(records))

    check()
    assert accepted


def test_a_writer_goes_on_from_a_lost_end_and_refuses_everything_else(whole, spoilt):
    @settings(max_examples=60, deadline=None, database=None)
    @given(damaged(whole))
    def check(data):
        spoilt.write_bytes(data)
        try:
            known, end = read_journal(spoilt)
        except ResultsError:
            with pytest.raises(ResultsError):
                Journal(spoilt)
            assert spoilt.read_bytes() == data
            return
        with Journal(spoilt) as journal:
            assert journal.repaired_bytes == len(data) - end
            assert journal.append("edited", changes={})["seq"] == len(known) + 1
        assert len(read_journal(spoilt)[0]) == len(known) + 1

    check()


def test_every_bit_of_the_last_line_counts(whole, spoilt):
    """A flip there is no torn write: it has its newline."""
    start = whole[:-1].rindex(b"\n") + 1
    for place in range(start, len(whole)):
        for bit in range(8):
            data = bytearray(whole)
            data[place] ^= 1 << bit
            spoilt.write_bytes(data)
            with pytest.raises(ResultsError, match="damaged"):
                read_journal(spoilt)


@pytest.mark.parametrize("tail", [b"\0" * 700, b'{"seq":%d,"time":17' + b"\0" * 600, b"\0" * 600 + b'crc":"00"}\n'])
def test_blocks_that_a_power_cut_left_unwritten_are_a_torn_end(whole, spoilt, tail):
    spoilt.write_bytes(whole)
    count = len(read_journal(spoilt)[0])
    spoilt.write_bytes(whole + (tail % (count + 1) if b"%d" in tail else tail))
    records, end = read_journal(spoilt)
    assert (len(records), end) == (count, len(whole))


def test_junk_after_the_last_line_is_no_torn_write(whole, spoilt):
    for junk in (b"x", b'{"seq":1,"time":1', b"\xff\xfe\x00", b"<<<<<<< mine"):
        spoilt.write_bytes(whole + junk)
        with pytest.raises(ResultsError, match="damaged"):
            read_journal(spoilt)


def test_a_reader_that_goes_on_sees_that_a_line_is_missing(whole, spoilt):
    lines = whole.splitlines(keepends=True)
    spoilt.write_bytes(b"".join(lines[:3]))
    state = SweepState.load(spoilt)
    spoilt.write_bytes(b"".join(lines[:3] + lines[4:]))
    with pytest.raises(ResultsError, match="line 4 is damaged"):
        state.refresh(spoilt)
    spoilt.write_bytes(whole)
    assert len(state.refresh(spoilt)) == len(lines) - 3
