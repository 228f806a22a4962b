"""The settings of a sweep, beside those of the run that it repeats."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bacs.components import keys_of
from bacs.compose import compose, group_section, named_plugins
from bacs.config import GROUPS, RunConfig
from bacs.errors import Fault, RequestError
from bacs.interpolation import has_reference, hidden_faults, is_reference, looked_up
from bacs.paths import existing_folder, expanded
from bacs.plugins import allow
from bacs.reading import YAML_SUFFIXES, yaml_file
from bacs.schema import knob, parse_all
from results.mlflow_database import sqlite_uri
from results.mlflow_store import is_sqlite, sqlite_path
from results.state import SELECTION_METRIC
from search_spaces.points import space_of_listed
from search_spaces.propose import ALGORITHMS
from search_spaces.space import METHOD_KEY, Params, Space, load_space
from search_spaces.stopping import StoppingSettings
from sweeps.search_rules import algorithm_faults, search_faults

PRESETS_DIR = Path(__file__).parent / "presets"
REFERENCES = ("joint", "finetune")
DEFAULT_SPACE = "bacs"
SPACES = "search_spaces"
"""Folder of a user's own spaces in his ``config_path``."""
PATHS = (
    ("dataset", "root"),
    ("dataset", "cache"),
    ("ood", "root"),
    ("ood", "cache"),
    ("training", "stages"),
    ("network", "backbone_weights_path"),
)
"""Keys of a run that name files and folders."""
RESERVED_NAMES = ("cache", "stages")
"""Folders that lie beside the sweeps in a storage folder."""
MOST_TRIALS = 10_000
"""Configurations of a split that a sweep may ask for."""
MOST_RUNS = 50_000
"""Trials of a sweep, over all splits and seeds."""
MOST_GRID = 1_000_000
"""Points of a grid, which are all made before the first is tried."""
NAME_RULE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True, kw_only=True)
class LaunchSettings:
    """Keys of ``sweep``: where a sweep lives. They never change a result."""

    name: str = knob()
    storage: str = knob("runs")
    """Folder of the journal, checkpoints and caches; on a cluster a folder that every node mounts at this place."""
    tracking_uri: str | None = knob(None)
    """MLflow tracking server or database; null: MLFLOW_TRACKING_URI, else sqlite in the storage folder. It may be a
    reference ``${oc.env:NAME}``, and is recorded as that."""
    tracking_optional: bool = knob(False)
    """Also run while the tracking server does not answer; it gets everything when it does, or from `sync`."""
    config_path: str | None = knob(None)
    """A folder of your own with groups (``loss/``, ``network/``, ``dataset/``), presets and ``search_spaces/``."""
    address: str | None = knob(None)
    """Ray cluster; null: RAY_ADDRESS, else a Ray of its own on this machine."""
    max_failures: int = knob(2, ge=0, le=1000)
    """Times a trial that was killed or raised an exception is started again, from its own last checkpoint, counted
    anew by every `resume`. Of these: never after a divergence or the same exception twice, always after its machine was
    lost, drained or pre-empted. Running out of memory does not count: it is tried once more, with every batch in two
    pieces."""
    time_budget_minutes: float | None = knob(None, gt=0)
    """Stops handing out work after this time, counted anew by every driver; `resume` goes on."""
    budget_hours: float | None = knob(None, gt=0)
    """Stops handing out work once trials have held their resources for so many GPU-hours or, where a trial takes no
    GPU, CPU core hours; counted from the journal over all drivers, lost work included. Running trials finish, so a
    little more may be spent; `resume` with more goes on."""
    target_metric: float | None = knob(None, ge=0, le=1)
    """Stops handing out work once every split has a configuration with this mean ``final/val_miou`` (0..1) over all
    seeds. Running trials finish; `resume` with a higher one goes on."""


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """Keys of ``search``: what is tried."""

    space: str = knob(DEFAULT_SPACE)
    """A file of search_spaces/ by name, or any YAML file by path."""
    points: dict[str, Any] = knob({})
    """Configurations by split and name, tried in the place of a space, which then is not read:
    ``{2-2: {small: {loss.buffer_size: 50}, as it is: {}}}``."""
    confirms: str | None = knob(None)
    """Name of the sweep whose winners the points are; `confirm` sets it."""
    confirms_uid: str | None = knob(None)
    """Its identity, as names may be used again."""
    algorithm: str = knob("tpe", choices=ALGORITHMS)
    """tpe (tree-structured Parzen estimator, multivariate), nsga2 (evolution, for two objectives), gp (Gaussian
    process; up to a few hundred trials), quasi_random (scrambled Sobol points), random, grid. In a space over methods
    nsga2 and gp need `equal_trials`: they model only the knobs that all configurations of a study have. gp compares
    choices as equal or not; quasi_random gives each choice its share of one coordinate."""
    objectives: list[str] = knob([SELECTION_METRIC])
    """final/val_miou, which alone decides who wins, and with nsga2 one cost beside it, which is minimised: replay/mb
    (megabytes of the replay memory after the last step), time/total_seconds or time/total_cpu_seconds (of all steps).
    The report then has the Pareto front."""
    population_size: int = knob(16, ge=2, le=MOST_TRIALS)
    """Results that make a generation of nsga2; those of the first are random."""
    robust: bool = knob(False)
    """One study over all splits: every configuration runs on each and counts by the plain mean of its val mIoU over
    them. The splits are related problems in one unit, whose mean is meaningful (Demsar 2006, 3.1.1). Taking off what is
    usual on each (the default's mIoU, say) would shift all means by one constant, as a configuration counts only once
    it has finished on every split, and so change no choice."""
    warm_start: list[str] = knob([])
    """Earlier sweeps in the same storage folder, whose finished configurations the search knows from the start. They
    must be of the same run, split and space; their seeds may be others, and so may threads, device and ranks, on which
    only last digits depend. They are not run again and count as no trials of this sweep, which keeps a copy."""
    trials: int = knob(8, ge=1, le=MOST_TRIALS)
    """Configurations per split; a grid is cut off here. `resume` takes more."""
    splits: list[Any] = knob(["2-2"])
    """Task splits; each has a study of its own, because mIoU is comparable only inside a split."""
    seeds: list[int] = knob([42], ge=0)
    """Every configuration runs once with each; the search sees their mean."""
    references: list[str] = knob(list(REFERENCES))
    """Run once per split and seed beside the trials: joint training above, fine-tuning below."""
    include_default: bool = knob(True)
    """The first configuration of every split is the method's default (in a space over methods, that of each)."""
    seed: int = knob(0, ge=0)
    """Of the suggestions."""
    startup_trials: int = knob(4, ge=1, le=MOST_TRIALS)
    """Random suggestions before tpe and gp model the results."""
    lag: int = knob(3, ge=0, le=MOST_TRIALS)
    """A suggestion looks only at results at least this many suggestions older (the rest counts as running). It must
    be at least the number of trials of a split that run at once less one, or workers wait; fixed, so that a sweep
    suggests the same whatever finishes first."""


@dataclass(frozen=True, kw_only=True)
class ResourceSettings:
    """Keys of ``resources``: what one trial takes."""

    cpus_per_trial: int = knob(1, ge=1, le=65_536)
    """Also the threads of the trial's process. `resume` takes another number; trials that have begun keep their
    threads, on which the last digits of sums depend."""
    gpus_per_trial: float = knob(0.0, ge=0, le=1024)
    max_concurrent: int | None = knob(None, ge=1, le=MOST_TRIALS)
    """Trials at once; null: as many as fit."""


SECTIONS: dict[str, type] = {
    "sweep": LaunchSettings,
    "search": SearchSettings,
    "resources": ResourceSettings,
    "stopping": StoppingSettings,
}


@dataclass(frozen=True, slots=True)
class SweepConfig:
    """A checked sweep."""

    launch: LaunchSettings
    search: SearchSettings
    resources: ResourceSettings
    stopping: StoppingSettings
    space: Space
    base: dict[str, Any]
    """The resolved configuration of the run that trials vary."""
    resolved: dict[str, Any]
    """The plain dictionary that rebuilds this object."""

    @property
    def folder(self) -> Path:
        return Path(self.launch.storage) / self.launch.name

    @property
    def defaults(self) -> list[Params]:
        """The default configuration as a point of the space; in a space over methods that of each, in a list none."""
        if self.space.points:
            return []
        starts: list[Params] = [{METHOD_KEY: method} for method in self.space.methods] or [{}]
        return [self._default(start) for start in starts]

    def _default(self, start: Params) -> Params:
        run = RunConfig.from_dict(configured(self.base, start, self.launch.config_path))
        # What null stands for in keys that spaces vary; null itself lies in no range.
        implied = {
            "training.lr_next": run.optimizer.settings["lr"],
            "training.new_head_init": run.loss.factory.heads_start(run.loss.settings),
        }
        for dimension in self.space.dimensions_of(start):
            if dimension.key != METHOD_KEY:
                value = lookup(run.resolved, _key_before(dimension.key))
                start[dimension.key] = implied.get(dimension.key) if value is None else value
        return start

    def space_of(self, study: str) -> Space:
        """What a study searches; listed points are those of a split, whose name the study then has."""
        if not self.search.points:
            return self.space
        return dataclasses.replace(self.space, points=tuple(self.search.points[study].values()))

    @property
    def tracking_uri(self) -> str:
        """Raises: RequestError: it is a reference to what the environment does not have."""
        return tracking_uri_of(self.launch.tracking_uri, Path(self.launch.storage))

    @property
    def has_cache(self) -> bool:
        """Whether the folder is there in which its dataset keeps what it has made; also where it keeps nothing."""
        folder = self.base["dataset"].get("cache")
        return folder is None or expanded("dataset.cache", looked_up(folder, "dataset.cache")).is_dir()

    def cached_in(self, folder: Path) -> SweepConfig:
        """The same sweep with another cache for its dataset."""
        return dataclasses.replace(self, base=nested(self.base, {"dataset.cache": str(folder)}))

    @property
    def stages(self) -> Path | None:
        """The folder of shared steps; ``None``: nothing is shared."""
        folder = self.base["training"].get("stages")
        return None if folder is None else expanded("training.stages", looked_up(folder, "training.stages"))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], space: Space | None = None) -> SweepConfig:
        """Checks everything that needs no service.

        Args:
            values: the composed dictionary.
            space: that of the journal, for a sweep that exists; ``None``: ``search.space`` names the file.

        Raises:
            RequestError: with the faults of all sections together.
        """
        faults: list[Fault] = []
        parts: dict[str, Any] = {}
        for name in SECTIONS:
            parts[name], found = _section(name, values)
            faults += found
        if parts["sweep"] is not None and parts["sweep"].tracking_uri:
            uri = absolute_uri(parts["sweep"].tracking_uri)
            parts["sweep"] = dataclasses.replace(parts["sweep"], tracking_uri=uri)
        run = {key: value for key, value in values.items() if key not in SECTIONS}
        base, tried, base_faults = _base(run, parts["sweep"], parts["search"])
        faults += base_faults
        own = parts["sweep"].config_path if parts["sweep"] is not None else None
        if own is not None:
            try:
                expanded("sweep.config_path", own)
            except RequestError as error:
                own, faults = None, faults + error.faults
        space, search_faults = _check_search(parts["search"], base if base is not None else tried, own, space)
        search_faults = _beyond(base_faults, search_faults)
        faults += search_faults + _check_stopping(parts["stopping"], base)
        faults += name_faults("sweep.name", parts["sweep"].name) if parts["sweep"] is not None else []
        if faults or space is None or base is None:
            raise RequestError(hidden_faults(list(dict.fromkeys(faults))))
        resolved = {name: dataclasses.asdict(parts[name]) for name in SECTIONS} | base
        return cls(parts["sweep"], parts["search"], parts["resources"], parts["stopping"], space, base, resolved)

    @classmethod
    def recorded(cls, values: Mapping[str, Any], space: Space | None) -> SweepConfig:
        """That of a journal, for whoever only looks at it: its run is not checked, and none of its classes loaded.

        Args:
            values: the journal's.
            space: the journal's; ``None``: it is of an earlier version, so ``search.space`` is asked.

        Raises:
            RequestError: its space cannot be read.
        """
        parts: dict[str, Any] = {name: _section(name, values)[0] for name in SECTIONS}
        space = space or _space(parts["search"])
        base = {key: value for key, value in values.items() if key not in SECTIONS}
        resolved = {name: dataclasses.asdict(parts[name]) for name in SECTIONS} | base
        return cls(parts["sweep"], parts["search"], parts["resources"], parts["stopping"], space, base, resolved)


def _section(name: str, values: Mapping[str, Any]) -> tuple[Any, list[Fault]]:
    """A part of the settings; its tracking URI may be a reference, which is looked up when it is used."""
    section = values.get(name) or {}
    if name == "search" and isinstance(section, Mapping) and isinstance(section.get("splits"), str):
        section = {**section, "splits": [section["splits"]]}  # one may stand without its list
    uri = section.get("tracking_uri") if isinstance(section, Mapping) else None
    if name != "sweep" or not has_reference(uri):
        return parse_all(SECTIONS[name], section, name)
    parsed, faults = parse_all(SECTIONS[name], {**section, "tracking_uri": None}, name)
    if not isinstance(uri, str) or not is_reference(uri):  # no file of others sends a secret to their address
        problem = f"is {uri!r}, which pastes a part of the environment into an address"
        faults.append(Fault("sweep.tracking_uri", problem, "put the whole address into one variable"))
    return (None if parsed is None else dataclasses.replace(parsed, tracking_uri=uri)), faults


def tracking_uri_of(given: str | None, storage: Path) -> str:
    """The place that results are tracked in. Raises: RequestError: as :func:`bacs.interpolation.looked_up`."""
    return looked_up(given, "sweep.tracking_uri") if given else default_tracking_uri(storage)


def name_faults(where: str, name: str) -> list[Fault]:
    """What is wrong with the name of a sweep, which is also that of its folder. Args: where: it was given."""
    if not NAME_RULE.fullmatch(name):
        remedy = "use letters, digits, '.', '_' and '-', at most 63, the first a letter or digit"
        return [Fault(where, f"is {name!r}, which is no legal name", remedy)]
    if name in RESERVED_NAMES:
        return [Fault(where, f"is {name}, which is the name of a folder that sweeps share", "choose another name")]
    return []


def default_tracking_uri(storage: Path) -> str:
    """The tracking database of sweeps that name none."""
    return sqlite_uri(storage.absolute() / "mlflow.db")


def absolute_uri(uri: str) -> str:
    """A tracking URI that means the same in every folder."""
    path = sqlite_path(uri)
    is_relative = is_sqlite(uri) and path.name not in ("", ":memory:") and not path.is_absolute()
    return sqlite_uri(path.absolute()) if is_relative else uri


def compose_preset(preset: str, overrides: Sequence[str], launch: Mapping[str, Any]) -> dict[str, Any]:
    """The dictionary behind ``PRESET [OVERRIDE...]`` and the command line's own options.

    Args:
        preset: a file of sweeps/presets by name, or any YAML file by path.
        overrides: Hydra overrides of the groups of a run and of ``search``, ``resources`` and ``sweep``. Packages that
            they name under ``plugins`` are allowed from now on.
        launch: options that were given (not ``None``), by key of ``sweep``. Presets, groups and spaces of
            ``config_path`` come before the shipped ones.
    """
    own = _own_folder(launch.get("config_path"))
    directory, file, name = PRESETS_DIR, preset, preset
    if preset.endswith(YAML_SUFFIXES):
        path = expanded("PRESET", preset)
        directory, file, name = path.parent, path.name, path.stem
    elif own is not None and yaml_file(own, preset) is not None:
        directory = own
    _refuse_enumerated(overrides)
    trusted = directory == own
    values = compose(file, overrides, directory, own, schemas=SECTIONS, trusted=trusted)
    allow(named_plugins(overrides, values if trusted else None))
    own_section = values.get("sweep") or {}
    if not isinstance(own_section, Mapping):
        raise RequestError.of("sweep", f"is {own_section!r}, not a group of keys", "write sweep.KEY=VALUE")
    section = {"name": name, **own_section}
    section |= {key: value for key, value in launch.items() if value is not None}
    section["storage"] = _folder(section.get("storage") or "runs")
    if own is not None:
        section["config_path"] = str(own)
        search = values.get("search") or {}
        if isinstance(search, Mapping):
            space = yaml_file(own / SPACES, str(search.get("space", DEFAULT_SPACE)))
            values |= {"search": {**search, "space": str(space)}} if space is not None else {}
    search = values.get("search") or {}
    if isinstance(search, Mapping) and str(search.get("space")).endswith(YAML_SUFFIXES):
        values |= {"search": {**search, "space": str(expanded("search.space", str(search["space"])).absolute())}}
    return values | {"sweep": section}


def _own_folder(given: Any) -> Path | None:
    if given is None:
        return None
    return existing_folder("--config-path", str(given), "give the folder of your files")


def _refuse_enumerated(overrides: Sequence[str]) -> None:
    """These keys of a run would be silently replaced by those that a sweep enumerates."""
    for key in ("split", "seed"):
        given = [text for text in overrides if text.partition("=")[0].lstrip("+") == f"training.{key}"]
        if given:
            problem = f"is given by {given[-1]}, but a sweep runs what search.{key}s lists"
            raise RequestError.of(f"training.{key}", problem, f"write search.{key}s=[...]")


def _folder(storage: Any) -> str:
    """Absolute, as trials run in folders of their own."""
    if not isinstance(storage, str):
        problem = f"is {storage!r}, but must be a folder, on a cluster one that every node mounts at this place"
        raise RequestError.of("sweep.storage", problem, "give its path with --storage")
    if has_reference(storage):
        problem = f"is {storage}, but Ray and MLflow write down where it is"
        raise RequestError.of("sweep.storage", problem, 'let the shell look it up: --storage "$NAME"')
    return str(expanded("sweep.storage", storage).absolute())


def split_name(split: Any) -> str:
    """The text of a split as users wrote it; lists without blanks."""
    return split if isinstance(split, str) else json.dumps(split, separators=(",", ":"))


def nested(values: Mapping[str, Any], changes: Params) -> dict[str, Any]:
    """A deep copy of a nested dictionary with dotted keys set. Raises: TypeError: a part of one is a plain value."""
    changed = copy.deepcopy(dict(values))
    for key, value in changes.items():
        *groups, last = key.split(".")
        section = changed
        for group in groups:
            section = section.setdefault(group, {})
            if not isinstance(section, dict):
                raise TypeError(f"{group} of {key} is a plain value")
        section[last] = value
    return changed


def configured(base: Mapping[str, Any], params: Params, config_path: str | None) -> dict[str, Any]:
    """The run that a point of the space makes of the base.

    A value of ``loss`` itself is a method: its settings as they are shipped, or as they stand in ``config_path``, take
    the place of the base's, unless the base has the same method, with the settings that the sweep was asked for.
    """
    method = params.get(METHOD_KEY)
    if method is not None:
        section = method_section(method, config_path)
        if section["_target_"] != _target_of(base):
            base = {**base, METHOD_KEY: section}
    return nested(base, {key: value for key, value in params.items() if key != METHOD_KEY})


def _target_of(run: Mapping[str, Any]) -> Any:
    """The class of the method of a run, which may be unchecked."""
    section = run.get(METHOD_KEY)
    return section.get("_target_") if isinstance(section, Mapping) else None


def method_section(method: str, config_path: str | None) -> dict[str, Any]:
    """What ``loss=method`` stands for."""
    try:
        return group_section(METHOD_KEY, method, None if config_path is None else Path(config_path))
    except RequestError as error:
        raise RequestError.of(
            "search.space", f"names loss={method}, which is unknown", error.faults[0].remedy
        ) from None


def lookup(values: Mapping[str, Any], key: str) -> Any:
    """The value under a dotted key; ``KeyError`` if there is none."""
    found: Any = values
    for part in key.split("."):
        found = found[part]
    return found


def _key_before(key: str) -> str:
    """The key of the loss that a key of ``training.overrides_from_step`` changes from a step on; others as they are."""
    parts = key.split(".")
    return ".".join(parts[3:]) if parts[:2] == ["training", "overrides_from_step"] else key


def _base(
    run: dict[str, Any], launch: LaunchSettings | None, search: SearchSettings
) -> tuple[dict[str, Any] | None, dict[str, Any], list[Fault]]:
    """(resolved run configuration, the same as given, what is wrong with it under any split), with absolute paths."""
    run = copy.deepcopy(run)
    dataset = run.get("dataset")
    # A class of the user's may have no such key.
    if isinstance(dataset, dict) and launch is not None and "cache" in keys_of("dataset", dataset):
        dataset.setdefault("cache", str(Path(launch.storage) / "cache"))
    training = run.get("training")
    if isinstance(training, dict) and launch is not None:
        training.setdefault("stages", str(Path(launch.storage) / "stages"))
    faults = _make_absolute(run)
    splits = search.splits or [None]
    if isinstance(dataset, dict) and dataset.get("val_share") == 0:
        problem = "is 0, but a sweep chooses by validation images"
        faults.append(Fault("dataset.val_share", problem, "give a share such as 0.2"))
    base, tried = None, run
    for split in splits:
        changes = {} if split is None else {"training.split": split}
        try:
            tried = nested(run, changes)
            base = RunConfig.from_dict(tried).resolved
        except RequestError as error:
            faults += error.faults
        except TypeError as error:  # a group given as a plain value
            faults.append(Fault("training", f"cannot be read: {error}", f"groups: {', '.join(GROUPS)}"))
    return (None if faults else base), tried, faults


def _make_absolute(run: dict[str, Any]) -> list[Fault]:
    """Trials run in folders of their own. A path that refers to the environment must be absolute with its value."""
    faults = []
    for group, key in PATHS:
        section = run.get(group)
        if not isinstance(section, dict) or not isinstance(text := section.get(key), str) or not text.strip():
            continue
        where = f"{group}.{key}"
        try:
            path = expanded(where, looked_up(text, where))
        except RequestError as error:
            faults += error.faults
            continue
        if not has_reference(text):
            section[key] = str(path.absolute())
        elif not path.is_absolute():
            faults.append(Fault(where, f"is {text}, which is not absolute", "let it begin with / or ~"))
    return faults


def _space(search: SearchSettings) -> Space:
    if not search.points:
        return load_space(search.space)
    return space_of_listed(search.points, [split_name(split) for split in search.splits])


def _check_search(
    search: SearchSettings, base: dict[str, Any], config_path: str | None, space: Space | None
) -> tuple[Space | None, list[Fault]]:
    faults = []
    runs = search.trials * len(search.seeds) * len(search.splits)
    if runs > MOST_RUNS:
        problem = f"asks for {runs:,} trials over all splits and seeds, more than {MOST_RUNS:,}"
        faults.append(Fault("search.trials", problem, "ask for fewer trials, seeds or splits"))
    if search.confirms is not None:
        faults += name_faults("search.confirms", search.confirms)
    for name in search.warm_start:
        faults += name_faults("search.warm_start", name)
    for key, values in (("splits", search.splits), ("seeds", search.seeds)):
        texts = [str(value) for value in values]
        if not values or len(set(texts)) < len(texts) or None in values:
            faults.append(Fault(f"search.{key}", f"is {values}, empty or with repetitions or null", "list each once"))
    if len(set(search.references)) < len(search.references):
        faults.append(Fault("search.references", f"is {search.references}, with repetitions", "list each once"))
    for role in search.references:
        if role not in REFERENCES:
            known = ", ".join(REFERENCES)
            faults.append(Fault("search.references", f"has {role!r}, which is unknown", f"known: {known}"))
    faults += search_faults(search)
    try:
        space = space or _space(search)
    except RequestError as error:
        return None, faults + error.faults
    faults += algorithm_faults(search, space)
    if search.algorithm == "grid":
        faults += [
            Fault(f"search.space: {dimension.key}", "has no grid values", "give grid: [a, b, ...]")
            for dimension in space.dimensions
            if not dimension.grid_values()
        ]
        points = math.prod(len(dimension.grid_values()) for dimension in space.dimensions)
        if points > MOST_GRID:
            problem = f"is grid, of {points:,} points"
            faults.append(Fault("search.algorithm", problem, f"choose another, or at most {MOST_GRID:,} points"))
    return space, faults + _check_dimensions(space, base, config_path)


def _beyond(base: list[Fault], faults: list[Fault]) -> list[Fault]:
    """Those of a space that its configuration does not have without it."""
    known = {(fault.where, fault.problem) for fault in base}
    return [fault for fault in faults if (fault.where.rpartition(": ")[2], fault.problem) not in known]


def _check_stopping(stopping: StoppingSettings, base: dict[str, Any] | None) -> list[Fault]:
    """Rungs inside steps lie where something is measured."""
    every = stopping.epoch_rungs
    if every is None or base is None:
        return []
    where, training = "stopping.epoch_rungs", base["training"]
    if training["steps_per_class"] is not None:
        problem = f"is {every}, but steps are measured in iterations: training.steps_per_class is set"
        return [Fault(where, problem, "set training.epochs instead, or stop only after steps: null")]
    if every % training["val_every"]:
        problem = f"is {every}, but val/miou is measured every {training['val_every']} epochs (training.val_every)"
        return [Fault(where, problem, f"give a multiple of {training['val_every']}")]
    return []


def _check_method(space: Space, base: dict[str, Any], config_path: str | None) -> list[Fault]:
    """A space of one method fits the run's."""
    if space.loss is None:
        return []
    try:
        wanted = method_section(space.loss, config_path)["_target_"]
    except RequestError as error:
        return error.faults
    found = _target_of(base)
    problem = f"is {space.name}, a space of loss={space.loss}, but the run has {found}"
    remedy = f"add loss={space.loss}, or choose a space of that method"
    return [] if wanted == found else [Fault("search.space", problem, remedy)]


def _check_dimensions(space: Space, base: dict[str, Any], config_path: str | None) -> list[Fault]:
    """Every value that a dimension can take must make a legal run."""
    faults = _check_method(space, base, config_path)
    if faults:
        return faults
    varied = {dimension.key for dimension in space.dimensions}.union(*space.points)
    for key in ("training.split", "training.seed"):
        if key in varied:
            remedy = f"list the values under search.{key.split('.')[1]}s"
            faults.append(Fault(f"search.space: {key}", "is not searched but enumerated", remedy))
    for key in sorted(varied & {f"{group}.{name}" for group, name in PATHS if name != "backbone_weights_path"}):
        faults.append(Fault(f"search.space: {key}", "is a place that all trials share", "give it outside of the space"))
    if faults:
        return faults
    for point in space.extremes():
        faults += _check_point(space, base, point, config_path)
    return faults


def _check_point(space: Space, base: dict[str, Any], point: Params, config_path: str | None) -> list[Fault]:
    try:
        RunConfig.from_dict(configured(base, point, config_path))
    except RequestError as error:
        return [
            Fault(f"search.space {space.name}: {fault.where}", fault.problem, fault.remedy) for fault in error.faults
        ]
    except TypeError:  # a part of a key is a plain value
        problem = "leads into a plain value, but must name a key of a group"
        keys = ", ".join(key for key in point if key != METHOD_KEY)
        return [Fault(f"search.space {space.name}: {keys}", problem, "write GROUP.KEY")]
    return []
