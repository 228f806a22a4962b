"""What the contracts share: the class with its settings, and failures in words."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NoReturn, TypeVar

import pytest
from torch import Tensor

from bacs.components import Component, parse_component
from bacs.errors import RequestError
from bacs.plugins import allowing, package_of

Result = TypeVar("Result")
Test = TypeVar("Test", bound=Callable[..., None])
_SHOWN = 6


class Contract:
    """Tests of one class. pytest collects a subclass whose name begins with ``Test``."""

    target: ClassVar[str]
    """Import path of the class, ``mylab.methods.MyLoss``. Its package may be loaded while its tests run."""
    settings: ClassVar[dict[str, Any]] = {}
    """Keys of the class: those that it requires, and those that make it small."""
    group: ClassVar[str]
    """The group of the configuration that the class is for."""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def allowed(cls) -> Iterator[None]:
        module = cls.target.rpartition(".")[0]
        with allowing([] if package_of(module) else [module.partition(".")[0]]):
            yield

    @classmethod
    def component(cls, **changes: Any) -> Component:
        """The class with its settings. Raises: RequestError: with all that is wrong with them."""
        component, faults = parse_component(cls.group, {"_target_": cls.target, **cls.settings, **changes})
        if faults or component is None:
            raise RequestError(faults)
        return component

    def test_config_is_a_dataclass_of_knobs(self) -> None:
        schema = getattr(load(self.target), "Config", None)
        remedy = "give the class a Config: @dataclass(frozen=True, kw_only=True) with fields made by bacs.schema.knob()"
        require(dataclasses.is_dataclass(schema), f"Config of {self.target} is {schema!r}, no dataclass", remedy)
        plain = [field.name for field in dataclasses.fields(schema) if "acts_from" not in field.metadata]  # type: ignore[arg-type]
        problem = f"{listed(plain)} of Config {'is' if len(plain) == 1 else 'are'} not made by bacs.schema.knob()"
        require(not plain, problem, "write NAME: TYPE = knob(DEFAULT, acts_from=...), so that the key can be checked")

    def test_settings_are_accepted(self) -> None:
        with explained(f"reading the settings {self.settings} of {self.target}", _SETTINGS):
            self.component()


_SETTINGS = "give what it needs: settings = {...} in the subclass of the contract, or --set KEY=VALUE"


def load(target: str) -> type[Any]:
    """The class behind an import path. Raises: RequestError: where there is none."""
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever the code of others raises
        problem = f"cannot be imported: {type(error).__name__}: {error}"
        remedy = "write PACKAGE.MODULE.CLASS, and put the folder that holds the package on PYTHONPATH, or install it"
        raise RequestError.of(target, problem, remedy) from error
    if not inspect.isclass(found):
        raise RequestError.of(target, f"is {found!r}, no class", "write PACKAGE.MODULE.CLASS")
    return found


def slow(test: Test) -> Test:
    """Marks a test as `slow`, where this package is a plug-in of pytest (and so has registered the marker)."""
    test.slow_contract = True  # type: ignore[attr-defined]
    return test


def require(holds: object, problem: str, remedy: str) -> None:
    """Fails with a sentence of what is wrong and one of what to do about it."""
    __tracebackhide__ = True
    if not holds:
        fail(problem, remedy)


def fail(problem: str, remedy: str) -> NoReturn:
    """Ends the test in words."""
    __tracebackhide__ = True
    pytest.fail(f"{problem}\n    -> {remedy}", pytrace=False)


@contextlib.contextmanager
def explained(doing: str, remedy: str) -> Iterator[None]:
    """An error inside fails the test in words; that of foreign code keeps its traceback."""
    __tracebackhide__ = True
    try:
        yield
    except RequestError as error:
        faults = "\n".join(map(str, error.faults))
        fail(f"{doing} was refused:\n{faults}", remedy)
    except Exception as error:
        pytest.fail(f"{doing} raised {type(error).__name__}: {error}\n    -> {remedy}")


def listed(names: Sequence[object]) -> str:
    """The first of them."""
    shown = ", ".join(str(name) for name in names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    """Names of the tensors that are not bit-identical, or that only one of the two has."""
    alone = one.keys() ^ other.keys()
    return sorted(alone | {name for name in one.keys() & other.keys() if not one[name].equal(other[name])})


def in_another_process(function: Callable[..., Result], *arguments: Any, seconds: float = 300) -> Result:
    """What a function makes of arguments that another, new process got as copies."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply_async(function, arguments).get(seconds)
