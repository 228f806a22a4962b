"""The options of ``pytest --pyargs bacs.contracts``, and the marker of slow tests.

pytest loads it as an installed plug-in (an entry point of the group ``pytest11``), because a ``conftest.py`` is found
too late for options where a package is named instead of a folder. In any other run of pytest it does next to nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bacs.contracts.base import Contract

HOW = "name the class to check: pytest --pyargs bacs.contracts --target mylab.methods.MyLoss [--set KEY=VALUE]"

asked: list[type[Contract]] = []
"""The contracts of the classes that the command line names; the tests of `bacs.contracts.test_targets`."""


def pytest_load_initial_conftests(parser: pytest.Parser, args: list[str]) -> None:
    if not any(re.match(r"bacs\.contracts(\.test_targets)?(::|$)", argument) for argument in args):
        return
    group = parser.getgroup("bacs.contracts", "contracts of methods, networks and datasets")
    text = "class to check: a method, a network or a dataset; may be given several times"
    group.addoption("--target", action="append", dest="contract_targets", metavar="CLASS", default=[], help=text)
    text = "key of the classes that have it, value as in YAML; may be given several times"
    group.addoption("--set", action="append", dest="contract_settings", metavar="KEY=VALUE", default=[], help=text)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than about half a minute")
    targets = config.getoption("contract_targets", None)
    if targets is None or config.option.help:
        return
    if not targets:
        raise pytest.UsageError(HOW)
    from bacs.contracts.targets import contracts_of
    from bacs.errors import RequestError

    try:
        asked[:] = contracts_of(targets, config.getoption("contract_settings"))
    except RequestError as error:
        raise pytest.UsageError(str(error)) from None


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if getattr(getattr(item, "function", None), "slow_contract", False):
            item.add_marker("slow")
