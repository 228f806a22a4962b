"""Any text goes through Hydra's grammar, into text keys, and out of printed commands."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from bacs.compose import compose
from bacs.errors import RequestError
from bacs.overrides import as_override, pasted, quoted
from tests.conftest import TINY

ODD = "é (1) #%2F,=?&~[x]'"
"""The name of a folder."""
ROOT = Path(__file__).parents[2]
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0$"), min_size=1)


@given(TEXT)
def test_hydra_reads_a_quoted_text_back(text):
    assert OverridesParser.create().parse_override(f"a={quoted(text)}").value() == text


@given(st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | TEXT, lambda inner: st.lists(inner, max_size=3)))
def test_a_printed_override_sets_the_value_again(value):
    (word,) = shlex.split(pasted("training.split", value))
    assert OverridesParser.create().parse_override(word).value() == value
    assert word == f"training.split={as_override(value)}"


@pytest.mark.parametrize(("written", "meant"), [
    *((text, text) for text in ("/data/a=b", "~/voc", "/data/道路", "/data/a,b", "/data/voc (1)", "größe", ODD, "2024",
                                "1e3", "true", "a:b", "[x]", "{a:1}", "range(1,3)", "a 'b'", "50%", "#", "*")),
    ('"~/voc"', "~/voc"), ("'a,b'", "a,b"), ("null", None), ("${training.split}/x=y", "2-2/x=y"),
])  # fmt: skip
@pytest.mark.parametrize("key", ["dataset.root", "training.name", "+training.exp_name"])
def test_a_text_key_takes_what_stands_behind_the_first_equals_sign(key, written, meant):
    group, name = key.lstrip("+").split(".")
    assert compose("config", [f"{key}={written}"])[group][name] == meant


def test_other_keys_are_read_by_hydra_and_lists_may_hold_any_script():
    values = compose("config", ["training.epochs=3", "training.epochs=5", "training.split=[[道路,b],['c,d']]"])
    assert values["training"]["epochs"] == 5
    assert values["training"]["split"] == [["道路", "b"], ["c,d"]]
    with pytest.raises(RequestError) as caught:
        compose("config", ["training.epochs=4=4", "loss.lkd=1,2", "loss=nope", "=3"])
    assert len(caught.value.faults) == 4


def test_a_clone_below_a_folder_of_any_name_works(tmp_path, digits_cache):
    clone = tmp_path / ODD
    for package in ("bacs", "results", "search_spaces", "sweeps", "trainables"):
        shutil.copytree(ROOT / package, clone / package, ignore=shutil.ignore_patterns("__pycache__"))
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(clone), "HOME": str(tmp_path)}
    (clone / "cache").symlink_to(digits_cache)
    single = ["bacs", *TINY, f"dataset.cache={clone}/cache", f"training.ckpt_dir={clone}/c", f"training.exp_name={ODD}"]
    small = ["dataset.train_scenes=40", "dataset.val_scenes=10", "dataset.test_scenes=10"]
    sweep = ["sweeps", "plan", "digits", "search.splits=5-5", *small, f"dataset.cache={clone}/own"]
    for words in (single, sweep):
        subprocess.run([sys.executable, "-m", *words], check=True, cwd=clone, env=environment)
    assert (clone / "c" / ODD / "results" / "metrics.json").is_file()
    assert {path.name for path in tmp_path.iterdir()} <= {ODD, ".cache", ".config"}, "nothing beside the clone"
