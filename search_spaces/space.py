"""Search spaces: YAML files of one of three kinds.

- ``dimensions``: configuration keys with their ranges and priors, for one method (``loss``).
- ``methods``: several methods, each with the dimensions of its own space. The method is a dimension itself, or, with
  ``equal_trials: true``, all of them get the same number of trials, each searched by itself.
- ``points``: a list of configurations; nothing is searched.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from bacs.errors import Fault, RequestError
from bacs.paths import expanded
from bacs.reading import YAML_SUFFIXES, read_yaml, yaml_file

SPACES_DIR = Path(__file__).parent
KINDS = ("float", "int", "choice")
_NUMBER_KEYS = {"kind", "low", "high", "log", "grid"}
DIMENSION_KEYS = {"choice": {"kind", "choices"}, "float": _NUMBER_KEYS, "int": _NUMBER_KEYS}
"""The settings of a dimension, by its kind."""

METHOD_KEY = "loss"
"""The key of the dimension that chooses the method; every other key is dotted."""

Params = dict[str, Any]
"""Dotted configuration key -> value."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """One configuration key that varies."""

    key: str
    """Dotted, such as ``loss.lkd``."""
    kind: str
    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    """The prior is uniform in the logarithm."""
    choices: tuple[Any, ...] = ()
    grid: tuple[Any, ...] = ()
    """The values of a grid search; a choice uses its choices."""
    when: str | None = None
    """The method whose knob it is, in a space over several methods; ``None``: it always varies."""

    @property
    def name(self) -> str:
        """Unique in a space, where several methods may have a knob of the same key."""
        return self.key if self.when is None else f"{self.when}: {self.key}"

    def varies(self, params: Params) -> bool:
        """Whether a configuration that has chosen these values so far has this knob."""
        return self.when is None or params.get(METHOD_KEY) == self.when

    def suggest(self, trial: optuna.Trial) -> Any:
        if self.kind == "choice":
            return trial.suggest_categorical(self.name, self.choices)
        if self.kind == "int":
            return trial.suggest_int(self.name, int(self.low or 0), int(self.high or 0), log=self.log)
        return trial.suggest_float(self.name, float(self.low or 0), float(self.high or 0), log=self.log)

    def distribution(self) -> optuna.distributions.BaseDistribution:
        if self.kind == "choice":
            return optuna.distributions.CategoricalDistribution(self.choices)
        if self.kind == "int":
            return optuna.distributions.IntDistribution(int(self.low or 0), int(self.high or 0), log=self.log)
        return optuna.distributions.FloatDistribution(float(self.low or 0), float(self.high or 0), log=self.log)

    def grid_values(self) -> tuple[Any, ...]:
        return self.choices if self.kind == "choice" else self.grid

    def contains(self, value: Any) -> bool:
        if self.kind == "choice":
            return value in self.choices
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return float(self.low or 0) <= value <= float(self.high or 0)

    def everything(self) -> Sequence[Any]:
        """All its values; empty: they cannot be counted."""
        if self.kind == "int":
            return range(int(self.low or 0), int(self.high or 0) + 1)
        return self.choices if self.kind == "choice" else ()

    def extremes(self) -> tuple[Any, ...]:
        """Values that stand for all: legal ends mean a legal range."""
        return self.choices if self.kind == "choice" else (self.low, self.high, *self.grid)

    def __str__(self) -> str:
        if self.kind == "choice":
            return f"{self.name} in {{{', '.join(str(choice) for choice in self.choices)}}}"
        return f"{self.name} in [{self.low:g}, {self.high:g}]" + (" (log)" if self.log else "")


@dataclass(frozen=True, slots=True)
class Space:
    """Named dimensions for one method or, with a first dimension that chooses it, for several."""

    name: str
    loss: str | None
    """The ``loss=`` group choice whose keys the space varies; ``None``: the file names none, or varies it."""
    dimensions: tuple[Dimension, ...]
    equal_trials: bool = False
    """Suggestions go round the methods, instead of choosing the method by its results."""
    points: tuple[Params, ...] = ()
    """The configurations of a space that only lists them; it has no dimensions."""

    @property
    def methods(self) -> tuple[str, ...]:
        """The values of ``loss`` that it varies over; empty: one method."""
        listed = dict.fromkeys(point[METHOD_KEY] for point in self.points if METHOD_KEY in point)
        return next((dimension.choices for dimension in self.dimensions if dimension.key == METHOD_KEY), tuple(listed))

    def enumerated_by(self, algorithm: str) -> bool:
        """Whether the suggestions of a search are those of :meth:`grid`, in order; listed ones always are."""
        return algorithm == "grid" or bool(self.points)

    def dimensions_of(self, params: Params) -> list[Dimension]:
        """The dimensions that a configuration with these values has."""
        return [dimension for dimension in self.dimensions if dimension.varies(params)]

    def only(self, method: str) -> Space:
        """The part of a space over methods that one of them has."""
        own = [dimension for dimension in self.dimensions if dimension.when == method]
        return Space(self.name, None, (Dimension(METHOD_KEY, "choice", choices=(method,)), *own))

    def describe(self) -> dict[str, dict[str, Any]]:
        """Every dimension by name, as the plain values that a journal keeps."""
        names = ("kind", "low", "high", "log", "choices", "grid", "when")
        plain = {d.name: {name: getattr(d, name) for name in names} for d in self.dimensions}
        return {
            name: fields | {key: list(fields[key]) for key in ("choices", "grid")} for name, fields in plain.items()
        }

    def contains(self, params: Params) -> bool:
        """Whether every dimension has one of its values."""
        return all(d.key in params and d.contains(params[d.key]) for d in self.dimensions_of(params))

    def everything(self) -> Iterator[Params]:
        """Every configuration, the last dimension fastest; nothing where they cannot be counted."""
        if all(dimension.everything() for dimension in self.dimensions):
            yield from self._extended({}, self.dimensions)

    def _extended(self, params: Params, dimensions: Sequence[Dimension]) -> Iterator[Params]:
        if not dimensions:
            yield params
            return
        first, rest = dimensions[0], dimensions[1:]
        for value in first.everything() if first.varies(params) else [None]:
            yield from self._extended(params | {first.key: value} if first.varies(params) else params, rest)

    def extremes(self) -> Iterator[Params]:
        """What stands for every configuration: the listed ones, and each dimension alone at each of its extremes."""
        yield from self.points
        for dimension in self.dimensions:
            method = {} if dimension.when is None else {METHOD_KEY: dimension.when}
            yield from (method | {dimension.key: value} for value in dict.fromkeys(dimension.extremes()))

    def grid(self) -> list[Params]:
        """The listed configurations, or every combination of the grid values, the last dimension fastest."""
        if self.points:
            return list(self.points)
        combinations: list[Params] = [{}]
        for dimension in self.dimensions:
            values = dimension.grid_values()
            combinations = [
                longer
                for params in combinations
                for longer in ([params | {dimension.key: v} for v in values] if dimension.varies(params) else [params])
            ]
        return combinations


def known_spaces() -> list[str]:
    return sorted(path.stem for path in SPACES_DIR.glob("*.yaml"))


def load_space(name: str, beside: Path | None = None, *, of_method: bool = False) -> Space:
    """A shipped space by name, or any YAML file by path.

    Args:
        name: of the space.
        beside: a folder whose spaces come before the shipped ones.
        of_method: it is one of several in a space over methods, and has none itself.

    Raises:
        RequestError: with every fault of the file.
    """
    path = expanded("search.space", name) if name.endswith(YAML_SUFFIXES) else yaml_file(SPACES_DIR, name)
    path = (yaml_file(beside, name) if beside is not None else None) or path
    if path is None or not os.path.lexists(path):
        known = ", ".join(known_spaces())
        raise RequestError.of("search.space", f"is {name[:100]!r}, which does not exist", f"known: {known}")
    raw: Any = read_yaml(path, "search.space")
    if odd := next(_keys_of_no_text(raw), None):
        problem = f"{path} has the key {odd[0]!r}, which is no text"
        raise RequestError.of("search.space", problem, "write keys of the configuration, such as loss.lkd")
    if of_method and isinstance(raw, dict) and raw.keys() & {"methods", "points"}:
        return Space(path.stem, None, ())
    if isinstance(raw, dict) and "methods" in raw:
        return _space_of_methods(path, raw)
    if isinstance(raw, dict) and "points" in raw:
        return _space_of_points(path, raw)
    if not isinstance(raw, dict) or not isinstance(raw.get("dimensions"), dict) or not raw["dimensions"]:
        raise RequestError.of("search.space", f"{path} has no dimensions", "list them under `dimensions:`")
    loss = raw.get(METHOD_KEY)
    return Space(path.stem, None if loss is None else str(loss), _dimensions(raw["dimensions"]))


def _keys_of_no_text(value: Any) -> Iterator[tuple[Any]]:
    """Those of all dictionaries inside, each in a tuple, as null may be one."""
    if isinstance(value, dict):
        yield from ((key,) for key in value if not isinstance(key, str))
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _keys_of_no_text(item)


def _dimensions(settings: dict[str, Any]) -> tuple[Dimension, ...]:
    dimensions, faults = [], []
    for key, value in settings.items():
        try:
            dimensions.append(_dimension(str(key), value))
        except RequestError as error:
            faults.extend(error.faults)
    if faults:
        raise RequestError(faults)
    return tuple(dimensions)


def _space_of_methods(path: Path, raw: dict[str, Any]) -> Space:
    """The choice of a method, and for each the dimensions of the space of its name, beside this one or shipped."""
    methods = raw["methods"]
    wrong = not isinstance(methods, list) or len(methods) < 2 or len(set(map(str, methods))) < len(methods)
    equal_trials = raw.get("equal_trials", False)
    if wrong or not raw.keys() <= {"methods", "equal_trials"} or not isinstance(equal_trials, bool):
        problem = f"{path} has {raw!r}, but a space over methods lists two or more, each once, and nothing else"
        remedy = "write methods: [mib, plop, ...] and, if each shall get as many trials, equal_trials: true"
        raise RequestError.of("search.space", problem, remedy)
    dimensions, faults = [Dimension(METHOD_KEY, "choice", choices=tuple(methods))], []
    for method in methods:
        try:
            own = load_space(str(method), path.parent, of_method=True)
        except RequestError as error:
            faults.extend(error.faults)
            continue
        if own.loss != method:
            problem = f"{path} lists {method!r}, which is a space of loss={own.loss}"
            faults.append(Fault("search.space", problem, "list methods that have a space of their name"))
        dimensions += [dataclasses.replace(dimension, when=method) for dimension in own.dimensions]
    if faults:
        raise RequestError(faults)
    return Space(path.stem, None, tuple(dimensions), equal_trials)


def _space_of_points(path: Path, raw: dict[str, Any]) -> Space:
    points = raw["points"]
    listed = isinstance(points, list) and points and all(isinstance(point, dict) and point for point in points)
    if not listed or raw.keys() != {"points"} or has_twins(points):
        problem = (
            f"{path} has {str(raw)[:1000]}, but a space of points lists configurations, each once, and nothing else"
        )
        raise RequestError.of("search.space", problem, "write points: [{loss: mib, loss.kd_weight: 1.0}, ...]")
    raise_method_faults("search.space", points)
    return Space(path.stem, None, (), points=tuple(points))


def has_twins(points: Sequence[Any]) -> bool:
    """Whether a configuration is listed twice; 1, 1.0 and true are one value."""
    texts = [json.dumps(_plain_number(point), sort_keys=True, default=str) for point in points]
    return len(set(texts)) < len(texts)


def _plain_number(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain_number(item) for key, item in value.items()}
    return float(value) if isinstance(value, bool | int) and abs(value) < 2**53 else value


def raise_method_faults(where: str, points: Sequence[Any]) -> None:
    """Raises: RequestError: a listed configuration has a method that is no text."""
    for point in points:
        if not isinstance(point.get(METHOD_KEY, ""), str):
            problem = f"has loss={point[METHOD_KEY]!r}, which is no method"
            raise RequestError.of(where, problem, "write loss: NAME, and its keys as loss.KEY")


def _dimension(key: str, settings: Any) -> Dimension:
    where = f"search.space: {key}"
    if not isinstance(settings, dict) or settings.get("kind") not in KINDS:
        raise RequestError.of(where, f"is {settings!r}, without a known kind", f"kind: one of {', '.join(KINDS)}")
    known = DIMENSION_KEYS[settings["kind"]]
    faults = [
        Fault(where, f"has the unknown setting {name!r}", f"known for {settings['kind']}: {', '.join(sorted(known))}")
        for name in settings
        if name not in known
    ]
    if settings["kind"] == "choice":
        faults += _choice_faults(where, settings.get("choices"))
    else:
        faults += _range_faults(where, settings)
    if faults:
        raise RequestError(faults)
    return Dimension(
        key,
        settings["kind"],
        low=settings.get("low"),
        high=settings.get("high"),
        log=bool(settings.get("log", False)),
        choices=tuple(settings.get("choices", ())),
        grid=tuple(settings.get("grid") or ()),
    )


def _choice_faults(where: str, choices: Any) -> list[Fault]:
    if not isinstance(choices, list) or len(choices) < 2:
        problem = f"is a choice of {choices!r}, fewer than two choices"
        return [Fault(where, problem, "give choices: [a, b, ...]")]
    plain = all(choice is None or isinstance(choice, bool | int | float | str) for choice in choices)
    if not plain or len(set(choices)) < len(choices):
        problem = f"has the choices {choices!r}, which are not all plain values, each once (1, 1.0 and true are equal)"
        return [Fault(where, problem, "list texts or numbers, each once")]
    return []


def _range_faults(where: str, settings: dict[str, Any]) -> list[Fault]:
    low, high, grid, log = (settings.get(key) for key in ("low", "high", "grid", "log"))
    wanted = int if settings["kind"] == "int" else (int, float)
    numbers = [low, high, *(grid if isinstance(grid, list) else () if grid is None else [grid])]
    if not all(isinstance(n, wanted) and not isinstance(n, bool) and abs(n) < 2**63 for n in numbers):
        text = f"has low {_shown(low)}, high {_shown(high)}, grid {_shown(grid)}"
        return [Fault(where, f"{text}, which are not all of kind {settings['kind']}", "give numbers of that kind")]
    assert isinstance(low, int | float) and isinstance(high, int | float)
    if low >= high:
        return [Fault(where, f"has low {low} >= high {high}", "low must be smaller than high")]
    if not isinstance(log, bool | None):
        return [Fault(where, f"has log {log!r}, which is neither true nor false", "write log: true, or leave it out")]
    if log and low <= 0:
        return [Fault(where, f"is logarithmic from {low}", "low must be > 0, or drop log")]
    if grid is not None and (not isinstance(grid, list) or not all(low <= n <= high for n in grid)):
        problem = f"has grid {grid!r}, which is no list of numbers from {low} to {high}"
        return [Fault(where, problem, "give grid: [a, b, ...] inside the range")]
    return []


def _shown(value: Any) -> str:
    """Python writes no number of thousands of digits."""
    return f"of {value.bit_length()} bits" if isinstance(value, int) and abs(value) >= 2**63 else repr(value)
