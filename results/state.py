"""What a sweep has come to: the journal folded, record by record, into plain dataclasses."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from results.errors import ResultsError
from results.journal import read_journal
from results.record_types import record_fault
from results.records import Record

STATUSES = ("pending", "running", "finished", "stopped", "failed")
"""In the order in which a trial meets them. ``stopped`` = pruned by early stopping."""

SELECTION_METRIC = "final/val_miou"
"""The only number a winner is chosen by. Test metrics (``final/miou*``) never choose anything."""

ROBUST = "all splits"
"""Name of the one study of a sweep whose configurations run on every split."""

REFERENCE_ROLES = ("joint", "finetune")


@dataclass(frozen=True, slots=True)
class Failure:
    """How an attempt ended that did not finish."""

    cause: str
    """``diverged``, ``out_of_memory``, ``exception``, ``storage`` (it refused writes) or ``died`` (without a Python
    error: killed, its machine lost); empty in journals of earlier versions."""
    reason: str


@dataclass(frozen=True, slots=True)
class StopDecision:
    """Early stopping's word that a trial should end."""

    step: int
    """Finished continual steps at that moment."""
    epoch: int
    """Finished epochs of the step under way; 0: a step had just ended."""
    reason: str
    audited: bool
    """It went on all the same, to tell what stopping costs."""


@dataclass(kw_only=True, slots=True)
class TrialState:
    """One trial. Written by `SweepState.apply` alone; everyone else reads."""

    key: str
    """12 hexadecimal digits, the same for ever."""
    number: int
    role: str
    """``trial``, or a reference: ``joint`` (above), ``finetune`` (below)."""
    split: str
    seed: int
    params: dict[str, Any]
    """The swept values under their dotted configuration names."""
    config: dict[str, Any]
    tags: dict[str, Any]
    suggested_at: float
    """Unix seconds, as all ``_at`` fields."""
    status: str = "pending"
    attempts: int = 0
    step: int = 0
    """Finished continual steps."""
    epoch: int = 0
    points: dict[tuple[str, int], tuple[float, float]] = field(default_factory=dict)
    """(metric, x) -> (value, unix seconds), as they arrived; the first write of a (metric, x) wins."""
    final: dict[str, float] = field(default_factory=dict)
    started_at: float | None = None
    """Start of the first attempt."""
    attempt_started_at: float | None = None
    ended_at: float | None = None
    seconds: float | None = None
    reason: str = ""
    """Why it was stopped or last failed."""
    traceback: str = ""
    failures: list[Failure] = field(default_factory=list)
    """All since it was suggested, or handed out again after it had failed for good."""
    charged: int = 0
    """Failures that count against the restarts it is allowed, since the sweep was last started or resumed."""
    notes: list[str] = field(default_factory=list)
    """What its attempts had to tell, such as checkpoints that were passed over; each text once."""
    stop: StopDecision | None = None
    """``None``: early stopping never objected to it."""
    origin: dict[str, Any] = field(default_factory=dict)
    """What its last attempt told of itself: ``fingerprint`` of code and libraries, ``commit``, ``dirty``,
    ``libraries``, ``devices``, ``mixed`` (what changed since its earlier steps). Empty in journals of before."""
    codes: list[str] = field(default_factory=list)
    """Fingerprints of the sweep's code under which its attempts ran, each once."""

    def total(self, metric: str) -> float:
        """The sum of all its points of a metric."""
        return sum(value for (name, _), (value, _) in self.points.items() if name == metric)

    @property
    def cause(self) -> str:
        """Of the last failure; empty if it finished in spite of it, or never failed."""
        return self.failures[-1].cause if self.failures and self.reason else ""

    @property
    def is_over(self) -> bool:
        """Whether no driver will run it again by itself."""
        return self.status in ("finished", "stopped", "failed")


@dataclass(frozen=True, slots=True)
class Configuration:
    """One suggestion: its finished trials, one a seed (and split, where it is looked at over several)."""

    number: int
    trials: tuple[TrialState, ...]

    @property
    def params(self) -> dict[str, Any]:
        return self.trials[0].params

    def mean(self, metric: str) -> float | None:
        """Mean of a final metric over the trials; ``None`` where one has none or NaN."""
        values = [trial.final.get(metric, math.nan) for trial in self.trials]
        mean = sum(values) / len(values)
        return None if math.isnan(mean) else mean


class SweepState:
    """A sweep as its journal tells it."""

    def __init__(self) -> None:
        self.sweep = ""
        self.uid = ""
        self.config: dict[str, Any] = {}
        """As it is now, with all edits."""
        self.space: dict[str, Any] = {}
        """What was searched from the first trial on; empty in journals that did not say."""
        self.warm: list[dict[str, Any]] = []
        """Configurations of earlier sweeps that the search began with: ``sweep``, ``splits``, ``seeds``, ``params`` and
        ``values``, one an objective."""
        self.versions: dict[str, Any] = {}
        self.codes: list[dict[str, Any]] = []
        """Of each driver that brought other code or libraries than the one before: ``fingerprint``, ``commit``,
        ``dirty``, ``code`` (module -> digest), ``libraries``. Empty in journals of earlier versions."""
        self.allows_other_code = False
        """Whether the user let it go on under other code."""
        self.trials: dict[str, TrialState] = {}
        self.edits: list[dict[str, Any]] = []
        """Of each edit the changes: dotted key -> [old, new]. They are in `config` already."""
        self.created_at: float | None = None
        self.updated_at: float | None = None
        self.ended = False
        self.ended_at: float | None = None
        self.end_status = ""
        self.end_bound = ""
        """Key of the setting that ended it before all trials were over, such as ``sweep.budget_hours``."""
        self.cpu_seconds = 0.0
        """CPU cores, busy or not, times the seconds for which trials held them: from the start of each attempt to its
        end, or to the last that was heard of it. Not in journals of earlier versions, as is `gpu_seconds`."""
        self.gpu_seconds = 0.0
        self.edited_code = ""
        """Files that were edited while it ran, for which it ended before all trials were over."""
        self.endings = 0
        """How many times the sweep ended: a resumed one ends again."""
        self.offset = 0
        """Bytes of the journal folded so far."""
        self.seq = 0
        """Number of the last record read from there."""

    @classmethod
    def load(cls, path: Path | str) -> SweepState:
        """Fold a whole journal.

        Raises:
            ResultsError: as `results.journal.read_journal`, or a record names an unknown trial, lacks a field or has
                one of another type.
        """
        state = cls()
        state.refresh(path)
        return state

    def refresh(self, path: Path | str) -> list[Record]:
        """Fold what was appended since the last call, and return it."""
        records, end = read_journal(path, self.offset, self.seq + 1)
        for record in records:
            if fault := record_fault(record):
                raise ResultsError(
                    f"{path}: line {record['seq']} ({record['kind']}) is no record of ours: {fault}",
                    "another program wrote it: restore the file from a copy, or keep the lines before it and `resume`",
                )
            self.apply(record)
        self.offset, self.seq = end, self.seq + len(records)
        return records

    def apply(self, record: Record) -> None:
        """Fold one record. Kinds that this version does not know are ignored."""
        kind = record["kind"]
        self.updated_at = record["time"]
        if kind == "suggested":
            self._suggest(record)
        elif kind in _TRIAL_KINDS:
            trial = self.trials.get(record["trial"])
            if trial is None:
                raise ResultsError(
                    f"record {record['seq']} ({kind}) names an unknown trial: {record['trial']}",
                    "the journal was edited or mixed with another one; restore it from a copy",
                )
            trial.tags |= record.get("tags") or {}
            trial.notes += [note for note in record.get("notes") or [] if note not in trial.notes]
            self._count_held(record.get("held_seconds", 0.0))
            _TRIAL_KINDS[kind](trial, record)
            if kind == "started" and self.code and self.fingerprint not in trial.codes:
                trial.codes.append(self.fingerprint)
        elif kind == "created":
            self.sweep, self.uid, self.config = record["sweep"], record["uid"], record.get("config") or {}
            self.space, self.warm = record.get("space") or {}, record.get("warm") or []
            self.versions, self.created_at = record.get("versions") or {}, record["time"]
            self._take_code(record)
        elif kind == "edited":
            self._edit(record["changes"])
        elif kind in ("resumed", "ended"):
            self._turn(record)
            self._take_code(record)

    def _take_code(self, record: Record) -> None:
        """A driver with other settings may ask for more modules; only those that both have can have changed."""
        code, before = record.get("code"), self.code
        self.allows_other_code |= bool(record.get("allow_other_code"))
        if not code:
            return
        parts = [(before.get(part) or {}, code[part]) for part in ("code", "libraries")]
        if before and not any(old[name] != new[name] for old, new in parts for name in old.keys() & new.keys()):
            self.codes[-1] = before | {"code": before["code"] | code["code"], "libraries": parts[1][0] | parts[1][1]}
        else:
            self.codes.append(code)

    @property
    def code(self) -> dict[str, Any]:
        """That of the last driver; empty where it did not tell."""
        return self.codes[-1] if self.codes else {}

    @property
    def fingerprint(self) -> str:
        """Of the code and libraries of the last driver."""
        return str(self.code.get("fingerprint", ""))

    @property
    def is_mixed(self) -> bool:
        """Whether its results come from several codes."""
        begun = [trial for trial in self.trials.values() if trial.attempts]
        return len({tuple(trial.codes) for trial in begun}) > 1 or any(len(trial.codes) > 1 for trial in begun)

    @property
    def confirms(self) -> str:
        """Name of the sweep whose winners this one confirms; empty in any other sweep."""
        return (self.config.get("search") or {}).get("confirms") or ""

    @property
    def points(self) -> dict[str, dict[str, Any]]:
        """The configurations that a sweep lists itself: split -> name -> params, in the order of their numbers."""
        return (self.config.get("search") or {}).get("points") or {}

    def counts(self) -> dict[str, int]:
        """Trials by status; every status is present."""
        found = dict.fromkeys(STATUSES, 0)
        for trial in self.trials.values():
            found[trial.status] += 1
        return found

    def splits(self) -> list[str]:
        """In the order of their first trial."""
        return list(dict.fromkeys(trial.split for trial in self.trials.values()))

    def finished(self, split: str, role: str = "trial") -> list[TrialState]:
        """The finished trials of a split, by number."""
        found = [t for t in self.trials.values() if (t.split, t.role, t.status) == (split, role, "finished")]
        return sorted(found, key=lambda trial: trial.number)

    @property
    def objectives(self) -> list[str]:
        """What the search looks at: the first decides who wins, a second is a cost."""
        return (self.config.get("search") or {}).get("objectives") or [SELECTION_METRIC]

    @property
    def is_robust(self) -> bool:
        """Whether every configuration runs on every split and counts by its mean over them."""
        return bool((self.config.get("search") or {}).get("robust"))

    def studies(self) -> dict[str, list[str]]:
        """The splits over which configurations are compared, by the name of the study."""
        splits = self.splits()
        return {ROBUST: splits} if self.is_robust else {split: [split] for split in splits}

    def configurations(self, *splits: str) -> list[Configuration]:
        """The configurations with a finished trial on each of these splits, by number, references apart."""
        groups: dict[int, list[TrialState]] = {}
        for trial in sorted((t for split in splits for t in self.finished(split)), key=lambda trial: trial.number):
            groups.setdefault(trial.number, []).append(trial)
        covering = {number: trials for number, trials in groups.items() if {t.split for t in trials} == set(splits)}
        return [Configuration(number, tuple(trials)) for number, trials in covering.items()]

    def contenders(self, splits: list[str], method: str | None = None) -> list[Configuration]:
        """The configurations that can be compared: scored, with the most finished seeds, as many on each split.

        So none wins by one lucky seed, or by having run on the easy split more often. Args: method: only those with
        this tag ``loss``.
        """
        scored = [
            c
            for c in self.configurations(*splits)
            if c.mean(SELECTION_METRIC) is not None
            and method in (None, c.trials[0].tags.get("loss"))
            and len({sum(t.split == split for t in c.trials) for split in splits}) == 1
        ]
        most = max((len(c.trials) for c in scored), default=0)
        return [c for c in scored if len(c.trials) == most]

    def best(self, split: str, method: str | None = None) -> Configuration | None:
        """The first of :meth:`ranked`."""
        return next(iter(self.ranked(split, method)), None)

    def ranked(self, split: str, method: str | None = None) -> list[Configuration]:
        """The configurations by their mean ``final/val_miou``, the largest first, with their trials on this split; of
        equals the oldest.

        In a robust sweep they are ranked by the mean over all splits, the same for each. Args: method: only those with
        this tag ``loss``.
        """
        splits = self.splits() if self.is_robust else [split]
        scored = [(c, c.mean(SELECTION_METRIC) or 0.0) for c in self.contenders(splits, method)]
        ranked = [c for c, _ in sorted(scored, key=lambda pair: pair[1], reverse=True)]
        return [Configuration(c.number, tuple(t for t in c.trials if t.split == split)) for c in ranked]

    def references(self, split: str) -> dict[str, list[TrialState]]:
        """Finished references by role (``joint``, ``finetune``; both keys are always present), by number."""
        return {role: self.finished(split, role) for role in REFERENCE_ROLES}

    def latest(self, trial: str, metric: str) -> tuple[int, float] | None:
        """(x, value) of a trial's point with the largest x; None before the first."""
        points = self.trials[trial].points
        last = max((x for name, x in points if name == metric), default=None)
        return None if last is None else (last, points[metric, last][0])

    def eta_seconds(self, total_trials: int, concurrency: int, now: float | None = None) -> float | None:
        """Seconds until ``total_trials`` are over, from the mean of the finished ones; None when unknown."""
        seconds = [t.seconds for t in self.trials.values() if t.status == "finished" and t.seconds is not None]
        counts = self.counts()
        left = total_trials - counts["finished"] - counts["stopped"] - counts["failed"]
        if left <= 0:
            return 0.0
        if not seconds:
            return None
        mean = sum(seconds) / len(seconds)
        moment = time.time() if now is None else now
        begun = [t.attempt_started_at for t in self.trials.values() if t.status == "running"]
        done = sum(min(mean, max(0.0, moment - start)) for start in begun if start is not None)
        return max(0.0, left * mean - done) / max(1, min(concurrency, left))

    def _suggest(self, record: Record) -> None:
        names = ("number", "role", "split", "seed", "params", "config")
        trial = TrialState(
            key=record["trial"],
            tags=dict(record.get("tags") or {}),
            suggested_at=record["time"],
            **{name: record[name] for name in names},
        )
        self.trials.setdefault(trial.key, trial)  # a resumed driver may plan the same trial again

    def _count_held(self, seconds: float) -> None:
        """Of one trial; edits may change later what a trial holds."""
        held = self.config.get("resources") or {}
        self.cpu_seconds += seconds * held.get("cpus_per_trial", 1)
        self.gpu_seconds += seconds * held.get("gpus_per_trial", 0.0)

    def _edit(self, changes: dict[str, Any]) -> None:
        self.edits.append(changes)
        for key, (_, new) in changes.items():
            *groups, last = key.split(".")
            section = self.config
            for group in groups:
                section = section.setdefault(group, {})
            section[last] = new

    def _turn(self, record: Record) -> None:
        """A driver ended, or a new one took over: no trial of the old one can still be running."""
        for trial in self.trials.values():
            if trial.status == "running":
                trial.status = "pending"
            trial.charged = 0
        self.ended = record["kind"] == "ended"
        self.ended_at = max(record["time"], self.created_at or 0.0) if self.ended else None
        self.end_status = record["status"] if self.ended else ""
        self.end_bound = (record.get("bound") or "") if self.ended else ""
        self.edited_code = (record.get("edited_code") or "") if self.ended else ""
        self.endings += self.ended


def _placed(trial: TrialState, record: Record) -> None:
    trial.config = record["config"]


def _started(trial: TrialState, record: Record) -> None:
    trial.origin = record.get("origin") or {}
    trial.attempts = max(trial.attempts + 1, int(record.get("attempt", 1)))
    trial.started_at = record["time"] if trial.started_at is None else trial.started_at
    trial.attempt_started_at = record["time"]
    if trial.status not in ("finished", "stopped"):  # what is known of these is never taken back
        trial.status, trial.ended_at = "running", None


def _reported(trial: TrialState, record: Record) -> None:
    trial.step = max(trial.step, record.get("step") or 0)
    trial.epoch = max(trial.epoch, record.get("epoch") or 0)
    for metric, x, value, moment in record["points"]:
        trial.points.setdefault((metric, int(x)), (value, moment))
    if record.get("stop") and trial.stop is None:
        trial.stop = StopDecision(**record["stop"])


def _ended(trial: TrialState, record: Record) -> None:
    if trial.status in ("finished", "stopped"):
        return
    # The clock may have been set back meanwhile: nothing ends before it began.
    trial.ended_at, trial.reason = max(record["time"], trial.attempt_started_at or 0.0), record.get("reason", "")
    trial.traceback = record.get("traceback") or ""
    trial.status = "pending" if record.get("will_retry") else record["kind"]
    trial.final = record.get("final") or {}
    trial.seconds = record.get("seconds")
    if trial.seconds is None and trial.attempt_started_at is not None:
        trial.seconds = trial.ended_at - trial.attempt_started_at


def _failed(trial: TrialState, record: Record) -> None:
    if trial.status not in ("finished", "stopped"):
        trial.failures.append(Failure(record.get("cause", ""), record.get("reason", "")))
        trial.charged += bool(record.get("charged"))
    _ended(trial, record)


def _reopened(trial: TrialState, record: Record) -> None:
    """The user asked for it again; it goes on from its checkpoint as if it had never failed."""
    if trial.status == "failed":
        trial.status, trial.reason, trial.traceback = "pending", "", ""
        trial.ended_at, trial.seconds = None, None
        trial.failures, trial.charged = [], 0


_TRIAL_KINDS = {
    "placed": _placed,
    "started": _started,
    "reported": _reported,
    "stopped": _ended,
    "finished": _ended,
    "failed": _failed,
    "reopened": _reopened,
}
