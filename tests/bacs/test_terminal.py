"""Text of data and values on a terminal and in tables for spreadsheets."""

from __future__ import annotations

import subprocess
import sys

import pytest
from rich.table import Table
from rich.text import Text

from bacs.report.writer import _cell
from bacs.terminal import Terminal, printable
from results.rows import csv_cell

HOSTILE = "\x1b]0;owned\x07\x1b[31mred\rover\u202egnp.exe"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("zebra à rayures 道路", "zebra à rayures 道路"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\u202egnp", "\\u202egnp"),
        ("می\u200cخواهم", "می\u200cخواهم"),
    ],
)
def test_what_is_no_printable_character_is_an_escape(text, shown):
    assert printable(text) == shown


def test_nothing_printed_acts_on_the_terminal(capsys):
    console = Terminal(width=200)
    table = Table()
    table.add_column("class")
    table.add_row(Text(HOSTILE))
    console.print(table)
    console.say(f"{HOSTILE}\nsecond line")
    written = capsys.readouterr().out
    assert not {"\x1b", "\x07", "\r", "\u202e"} & set(written)
    assert "\\x1b[31mred" in written
    assert "\nsecond line" in written


def test_an_encoding_without_our_signs_is_no_error():
    code = "from bacs.terminal import Terminal; c = Terminal(width=20); c.say('réseau 道路'); c.print('┏━┓ ±')"
    environment = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "PYTHONPATH": ".", "PATH": "/usr/bin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"r\\xe9seau" in done.stdout


@pytest.mark.parametrize("cell", [csv_cell, _cell])
def test_no_cell_is_a_formula(cell):
    for text in ("=1+1", "+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1"):
        assert cell(text) == f"'{text}"
    for value in ("disc", "", -1.5, None, 0):
        assert cell(value) == value
