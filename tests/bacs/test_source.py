"""Import closures read from syntax trees: what they follow, and what counts as a change."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bacs import source
from bacs.source import closure, current, parse_source

ROOT = Path(__file__).parent.parent.parent
TELL = "import json, sys; from bacs.source import closure; print(json.dumps(closure(sys.argv[1:]).modules))"


FOR_CHECKERS = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from lab.d import D\n"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes files of a package outside the project, by path, and makes it importable."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(**files):
        for name, text in files.items():
            path = tmp_path / f"{name.replace('__', '/').replace('/init', '/__init__')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        forget()
        return tmp_path

    yield write
    forget()


def forget():
    for function in (source._kind, source._folders, source._path, source._names, source._read):
        getattr(function, "cache_clear", lambda: None)()


def test_a_closure_follows_what_is_used_and_looks_through_packages_that_only_pass_on(package):
    package(
        lab__init='"""Doc."""\nfrom lab.a import A\nfrom lab.b import B as C\n__all__ = ["A", "C"]\n',
        lab__a="import numpy\nfrom lab import C\nclass A(C): ...\n",
        lab__b=f"from .deep import inner\n{FOR_CHECKERS}",
        lab__d="D = 1\n",
        lab__deep__init="from lab.deep.inner import x\nfrom lab.deep.other import y\n",
        lab__deep__inner="def x():\n    import lab.late\n",
        lab__deep__other="y = 1\n",
        lab__late="import helper\n",
        helper="value = 2\n",
    )
    found = closure(["lab.a"])
    deep = {"lab.deep", "lab.deep.inner", "lab.deep.other"}
    assert set(found.modules) == {"lab", "lab.a", "lab.b", "lab.late", "helper", *deep}
    assert found.libraries == {"numpy"}
    assert set(closure(["lab.a"], never=("lab.b", "helper")).modules) == {"lab", "lab.a"}


def test_the_init_of_somebody_elses_package_counts_for_all_that_it_imports(package):
    package(
        lab__init="from lab import patch\n",
        lab__patch="import torch\ntorch.manual_seed(0)\n",
        lab__facade__init="from lab.facade.one import f as g\n",
        lab__facade__one="def f(): ...\n",
        lab__asks="from lab import facade\nfacade.g()\n",
        lab__stars="from lab.facade import *\n",
        lab__effects="import lab.facade\n",
    )
    for module in ("lab.asks", "lab.stars", "lab.effects"):
        found = set(closure([module]).modules)
        assert found == {module, "lab", "lab.patch", "lab.facade", "lab.facade.one"}


def test_packages_of_the_project_are_looked_through_unless_they_give_a_name_another_one(tmp_path, monkeypatch):
    init = "from bacs.f.one import f\nfrom bacs.f.two import g\n"
    for name, text in {
        "__init__": "",
        "f/__init__": init,
        "f/one": "",
        "f/two": "",
        "asks": "from bacs import f\nf.f()\n",
    }.items():
        path = tmp_path / "bacs" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(source, "_folders", lambda top: (tmp_path / "bacs",) if top == "bacs" else ())
    forget()
    assert set(closure(["bacs.asks"]).modules) == {"bacs.asks", "bacs.f.one"}
    (tmp_path / "bacs/f/__init__.py").write_text("from bacs.f.one import e as f\nfrom bacs.f.two import g\n")
    forget()
    assert set(closure(["bacs.asks"]).modules) == {"bacs.asks", "bacs.f", "bacs.f.one", "bacs.f.two"}
    monkeypatch.undo()
    forget()


@pytest.mark.parametrize("test", ["not TYPE_CHECKING", "X or TYPE_CHECKING", "MY_TYPE_CHECKING"])
def test_only_what_type_checkers_alone_read_is_left_out(test):
    texts = [f"if {test}:\n    x = {value}\n".encode() for value in (1, 2)]
    assert len({parse_source(text, "m", is_package=False).digest for text in texts}) == 2


def test_packages_that_run_code_count_for_every_module_in_them(package):
    package(lab__init="import torch\ntorch.manual_seed(0)\n", lab__a="x = 1\n")
    assert set(closure(["lab.a"]).modules) == {"lab", "lab.a"}


def test_installed_libraries_count_by_their_version_unless_they_are_a_root(package, tmp_path, monkeypatch):
    folder = tmp_path / "site-packages"
    monkeypatch.syspath_prepend(str(folder))
    package(lab="import kit\n")
    (folder / "kit").mkdir(parents=True)
    (folder / "kit/__init__.py").write_text("from kit.part import p\n")
    (folder / "kit/part.py").write_text("p = 1\n")
    forget()
    assert closure(["lab"]).modules.keys() == {"lab"}
    assert closure(["lab"]).libraries == {"kit"}
    assert closure(["kit.part"]).modules.keys() == {"kit", "kit.part"}


SAME = {
    "comments": "# new\nx = 1  # why\ndef f(a):\n    return a\n",
    "docstrings": '"""Doc."""\nx = 1\n"""Of x."""\ndef f(a):\n    """Doc."""\n    return a\n',
    "formatting": "x=1\n\n\ndef f( a ) :\n  return (\n    a\n  )\n",
    "for type checkers": f"{FOR_CHECKERS}x = 1\ndef f(a):\n    return a\n",
}


@pytest.mark.parametrize("name", SAME)
def test_what_does_not_act_does_not_count(name):
    plain = "x = 1\ndef f(a):\n    return a\n"
    if name == "for type checkers":
        plain = f"from typing import TYPE_CHECKING\n{plain}"
    digests = [parse_source(text.encode(), "m", is_package=False).digest for text in (plain, SAME[name])]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("edit", ["x = 2", "x = 1.0", "y = 1", "x: int = 1", "x = '1'", "x = 1\nx = 1"])
def test_what_acts_counts(edit):
    assert parse_source(edit.encode(), "m", is_package=False) != parse_source(b"x = 1", "m", is_package=False)


def test_files_that_python_cannot_read_count_by_their_bytes():
    broken = [parse_source(text, "m", is_package=False) for text in (b"x = (", b"x = [", b"x = '\xff'")]
    assert len({found.digest for found in broken}) == 3


def tell(folder: Path, *modules: str, python: str = sys.executable, writes: bool = True) -> dict[str, str]:
    environment = os.environ | {"PYTHONPATH": str(folder)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [python, *([] if writes else ["-B"]), "-c", TELL, *modules]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd="/", timeout=60)
    return json.loads(done.stdout)


def other_pythons() -> list[str]:
    """Other minor versions from 3.11 on beside this one, where a version manager keeps several."""
    own = f"python3.{sys.version_info.minor}"
    found = Path(sys.base_prefix).parent.glob("*/bin/python3.1[1-9]")
    return [str(path) for path in found if path.name != own]


@pytest.mark.parametrize("python", ["this one", "another one"])
def test_two_folders_an_installed_copy_and_another_python_agree(tmp_path, python):
    others = other_pythons()
    if python == "another one" and not others:
        pytest.skip("no other Python of 3.11 or later beside this one")
    for place in ("working", "lib/site-packages"):
        shutil.copytree(ROOT / "bacs", tmp_path / place / "bacs", ignore=shutil.ignore_patterns("__pycache__"))
    roots = ("bacs.run", "bacs.losses.plop", "bacs.data.voc", "bacs.networks.transeg", "bacs.media.media")
    expected = closure(roots).modules
    assert len(expected) > 60
    for place in ("working", "lib/site-packages"):
        for executable in [sys.executable] if python == "this one" else others:
            for writes in (False, True, True):  # the third reads what the second has kept
                assert tell(tmp_path / place, *roots, python=executable, writes=writes) == expected
    kept = list((tmp_path / "working").rglob("*.source.json"))
    assert len(kept) >= len(expected)
    for path in kept:
        path.write_text(path.read_text().replace("a", "b"))  # of other bytes, so not believed
    assert tell(tmp_path / "working", *roots) == expected


def test_modules_that_are_gone_have_no_digest(package):
    package(lab__init="", lab__a="x = 1\n")
    assert current(["lab.a", "lab.b", "nowhere.c"]) == {
        "lab.a": current(["lab.a"])["lab.a"],
        "lab.b": "",
        "nowhere.c": "",
    }
    assert source.file_of("lab.a") == "lab/a.py"
    assert source.file_of("lab") == "lab/__init__.py"
    assert source.file_of("nowhere.c") == "nowhere/c.py"
