"""Who may import whom (the arrows between the packages)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = {"bacs", "trainables", "results", "search_spaces", "sweeps"}
ALLOWED = {
    "bacs": set(),
    "results": set(),
    "trainables": {"bacs"},
    "search_spaces": {"bacs", "results"},
    "sweeps": OURS,
}
FORBIDDEN = {"bacs": {"ray", "optuna", "mlflow"}, "results": {"ray", "torch", "optuna"}}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("package", sorted(OURS))
def test_imports_follow_the_layers(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        names = imported(path)
        assert (names & OURS) - {package} <= ALLOWED[package], path
        assert not names & FORBIDDEN.get(package, set()), path


def test_there_is_no_utils_module():
    assert not [path for package in OURS for path in (ROOT / package).rglob("util*.py")]
