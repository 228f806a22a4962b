"""Files of a user are small, regular and no bombs, whoever reads them; folders can be."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest

from bacs.compose import compose
from bacs.data.layout import read_list
from bacs.errors import RequestError
from bacs.paths import existing_folder, expanded, folder_faults
from bacs.reading import MOST_BYTES, read_text, read_yaml

LEVELS = "abcdefghi"
LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in pairwise(LEVELS)
)
MERGED = "a: &a {x: 1}\n" + "".join(f"k{i}: &k{i} {{<<: *a, y: [{', '.join(['*a'] * 900)}]}}\n" for i in range(99))
DOUBLED = (
    "training:\n  name: "
    + "x" * 99
    + "\n"
    + "".join(f"  name{i}: ${{training.name{i - 1 or ''}}}${{training.name{i - 1 or ''}}}\n" for i in range(1, 40))
)
NESTED = "k0: {b: 1}\n" + "".join(f"k{i}: {{x: '${{k{i - 1}}}', y: '${{k{i - 1}}}'}}\n" for i in range(1, 40))
BAD = {
    "laughs": (LAUGHS, "with its aliases written out"),
    "merged": (MERGED, "with its aliases written out"),
    "itself": ("a: &a [*a]", "contains itself"),
    "deep": ("[" * 5000, "nested more than"),
    "large": ("a: " + "x" * MOST_BYTES, "larger than"),
    "twice": ("a: 1\na: 2", "duplicate key"),
    "bytes": (b"a: \xff", "no UTF-8"),
    "code": ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_yaml_is_refused_as_a_file_a_preset_and_a_group(tmp_path, name):
    content, words = BAD[name]
    content = content.encode() if isinstance(content, str) else content
    (tmp_path / "loss").mkdir()
    for place in ("own.yaml", "loss/own.yml"):
        (tmp_path / place).write_bytes(content)
    (tmp_path / "base.yaml").write_text("defaults: [{loss: own}]")
    for attempt in (
        lambda: read_yaml(tmp_path / "own.yaml"),
        lambda: compose("own", [], tmp_path),
        lambda: compose("base", [], tmp_path),
    ):
        with pytest.raises(RequestError, match=words):
            attempt()


@pytest.mark.parametrize(("content", "words"), [
    (DOUBLED, "stands for more than"), (NESTED, "stands for more than"), ("a: ${b}\nb: ${a}", "cannot be composed"),
    ("x: b\na: ${k.${x}}\nk: {b: 2}", "builds the name"),
    ("hydra: {searchpath: ['pkg://antigravity']}", "hydra.searchpath"),
])  # fmt: skip
def test_interpolations_cannot_grow_without_bound_or_lead_elsewhere(tmp_path, content, words):
    (tmp_path / "own.yaml").write_text(content)
    with pytest.raises(RequestError, match=words):
        compose("own", [], tmp_path)


@pytest.mark.parametrize("ending", ["yaml", "yml"])
def test_both_endings_are_yaml(tmp_path, ending):
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / f"own.{ending}").write_text("_target_: bacs.losses.mib.Mib\nkd_weight: 3.5")
    (tmp_path / f"mine.{ending}").write_text("defaults: [{loss: own}]\ntraining: {name: '${oc.select:nothing,x}'}")
    for name in ("mine", f"mine.{ending}"):
        values = compose(name, ["loss=own"], tmp_path)
        assert (values["loss"]["kd_weight"], values["training"]["name"]) == (3.5, "x")


def test_a_name_with_its_ending_is_that_file(tmp_path):
    for ending in ("yaml", "yml"):
        (tmp_path / f"mine.{ending}").write_text(f"name: {ending}")
    assert [compose(name, [], tmp_path)["name"] for name in ("mine.yml", "mine.yaml", "mine")] == [
        "yml",
        "yaml",
        "yaml",
    ]


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    places = [tmp_path / "pipe.yaml", Path("/dev/zero"), Path("/dev/null"), tmp_path, tmp_path / "absent", Path("a\0b")]
    for path in [*places, tmp_path / ("x" * 300)]:
        for read in (read_text, read_yaml, read_list):
            with pytest.raises(RequestError, match=r"cannot be read|must be a regular file"):
                read(path)
    with pytest.raises(RequestError, match="is no configuration file"):
        compose("pipe", [], tmp_path)


@pytest.mark.parametrize("text", ["", " ", "a\0b", "~nobody-of-this-name/x", "x" * 256, "a/" * 2000, "s3://bucket/x"])
def test_texts_that_are_no_paths(text):
    for check in (expanded, lambda where, text: existing_folder(where, text, "give one")):
        with pytest.raises(RequestError, match=r"^key: is .*, but .*\n    -> "):
            check("key", text)


@pytest.mark.parametrize(
    "place", ["/dev/null", "/dev/null/x", "/etc/passwd/x", "/proc/x", "FILE", "LOOP", "GONE/x", "LONG"]
)
def test_folders_that_cannot_be_made(tmp_path, place):
    (tmp_path / "FILE").write_text("")
    (tmp_path / "LOOP").symlink_to(tmp_path / "LOOP")
    (tmp_path / "GONE").symlink_to(tmp_path / "nowhere")
    path = tmp_path / ("x" * 300) if place == "LONG" else tmp_path / place
    before = sorted(tmp_path.iterdir())
    (fault,) = folder_faults("key", path)
    assert fault.where == "key" and str(path) in fault.problem
    assert folder_faults("key", tmp_path / "a" / "b") == []
    assert sorted(tmp_path.iterdir()) == before, "nothing is made to find that out"
