"""A campaign: one undisturbed sweep, then sweeps that are struck until every fault of the plan has happened."""

from __future__ import annotations

import contextlib
import itertools
import math
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from tests.chaos.comparison import Outcome, compare, leftovers, read_outcome
from tests.chaos.fault import Fault, Missed, Place, When
from tests.chaos.ground import Ground
from tests.chaos.kinds import KINDS
from tests.chaos.sweep import Sweep
from tests.conftest import SMALL

SETTINGS = [
    *SMALL,
    "training.val_every=1",
    "training.iterations_per_epoch=6",
    "search.splits=[2-2]",
    "search.trials=3",
    "search.lag=1",  # so that the third suggestion hangs on a result
    "search.startup_trials=1",
    "sweep.max_failures=100",  # deaths are the campaign's doing
]
TWO_RANKS = ["training.n_gpus=2", "resources.cpus_per_trial=2", "search.trials=1", "search.references=[finetune]"]
FAULTS_A_RIDE = {When.START: 1, When.RUN: 2, When.STOP: 1, When.BETWEEN: 2}
RIDES_A_SWEEP = 7
"""Drivers that are struck before the last one may finish; more would find nothing left to do."""
MOST_SWEEPS = 20
"""Where a campaign of 60 faults takes about six, this ends one that gets nowhere."""
TOLD = 20
"""Differences of a sweep that are printed."""
TRIES = 4
"""Times in a row that a kind of fault may find nothing to strike, and that Ray may be too slow."""


@dataclass(kw_only=True, slots=True)
class Hit:
    """One fault that happened."""

    fault: str
    sweep: str
    driver: int
    text: str
    at: float
    """Unix seconds, as in the journal."""
    turn: int
    """Hits of one turn struck before anything could react; what follows is laid at the door of each."""
    drivers: int = 0
    """Started because of it."""
    attempts: int = 0
    """Of trials, beyond the first, started because of it."""


@dataclass(kw_only=True, slots=True)
class Report:
    """What a campaign found."""

    seed: int
    hits: list[Hit] = field(default_factory=list)
    differences: dict[str, list[str]] = field(default_factory=dict)
    """Of every sweep; empty lists where all is well."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Kinds that cannot happen here, and why."""
    not_hit: list[str] = field(default_factory=list)
    """Faults of the plan that found nothing to strike, time after time."""
    seconds: float = 0.0

    @property
    def is_clean(self) -> bool:
        """Whether every kind of the plan has struck, if not as often as planned, and nothing differs."""
        struck = {hit.fault for hit in self.hits}
        return struck.issuperset(self.not_hit) and not any(self.differences.values())


def shortened(differences: Sequence[str]) -> list[str]:
    """The first of them; the JSON has all."""
    more = len(differences) - TOLD
    return [*differences[:TOLD], *([f"and {more} more, see --json"] if more > 0 else [])]


class Campaign:
    """Runs a plan drawn from a seed; the moments at which processes meet the faults are the machine's own."""

    def __init__(
        self, ground: Ground, kinds: Sequence[Fault], faults: int, seed: int, say: Callable[[str], None]
    ) -> None:
        self.report = Report(seed=seed)
        self._ground, self._say, self._random = ground, say, Random(seed)
        reason = ground.why_no_small_disk()
        if reason:
            self.report.skipped = {kind.key: reason for kind in kinds if kind.place is Place.DISK}
        self._waiting = self._plan([kind for kind in kinds if kind.key not in self.report.skipped], faults)
        self._misses: Counter[str] = Counter()
        self._undisturbed: dict[bool, Outcome] = {}
        self._names = itertools.count(1)
        self._turn = 0

    def run(self) -> Report:
        started = time.monotonic()
        while self._waiting and len(self.report.differences) < MOST_SWEEPS:
            sweep, place = self._new_sweep()
            self._strike(sweep, place)
            self._finish(sweep)
            self._compare(sweep, place)
            self.report.seconds = time.monotonic() - started
        self.report.not_hit += [fault.key for fault in self._waiting]
        return self.report

    # ------------------------------------------------------------------ plan

    def _plan(self, kinds: Sequence[Fault], faults: int) -> list[Fault]:
        """Every kind once, in random order, then again."""
        plan: list[Fault] = []
        while kinds and len(plan) < faults:
            plan += self._random.sample(kinds, len(kinds))
        return plan[:faults]

    def _take(self, place: Place, when: When, count: int) -> list[Fault]:
        """The next faults of the plan that a sweep of this place can suffer, those that need it first."""
        fits = {place, Place.ANY} | ({Place.DATABASE} if place is not Place.SERVER else set())
        found = [fault for fault in self._waiting if fault.when is when and fault.place in fits]
        found = sorted(found, key=lambda fault: fault.place is Place.ANY)[:count]
        for fault in found:
            self._waiting.remove(fault)
        return found

    def _give_back(self, fault: Fault, *, counts: bool) -> None:
        """To the end of the plan, until its kind has missed too often."""
        self._misses[fault.key] += counts
        if self._misses[fault.key] < TRIES:
            self._waiting.append(fault)
        else:
            self.report.not_hit.append(fault.key)

    # ------------------------------------------------------------------ sweeps

    def _new_sweep(self) -> tuple[Sweep, Place]:
        special = (Place.RANKS, Place.SERVER, Place.DISK)
        place = next((fault.place for fault in self._waiting if fault.place in special), Place.ANY)
        name = f"{next(self._names):02d}-{place.value.replace(' ', '-')}"
        self._reference(place is Place.RANKS)
        self._say(f"sweep {name}, {len(self._waiting)} faults to go")
        return self._make(name, place), place

    def _make(self, name: str, place: Place) -> Sweep:
        home = self._ground.folder / name
        settings = [*SETTINGS, *TWO_RANKS] if place is Place.RANKS else SETTINGS
        if place is Place.SERVER:
            server = self._ground.server(home / "server")
            self._ground.sessions.append(server.start())
            return Sweep(self._ground, name, settings, server=server)
        disk = self._ground.small_disk(home / "disk") if place is Place.DISK else None
        return Sweep(self._ground, name, settings, disk=disk)

    def _reference(self, ranks: bool) -> None:
        """The undisturbed sweep with these settings, once."""
        if ranks in self._undisturbed:
            return
        name = "undisturbed-ranks" if ranks else "undisturbed"
        sweep = self._make(name, Place.RANKS if ranks else Place.ANY)
        self._say(f"sweep {name}")
        self._finish(sweep)
        left = leftovers(sweep.storage)
        if sweep.complaints or left:
            raise RuntimeError(f"the undisturbed sweep is not well: {[*sweep.complaints, *left]}")
        self._undisturbed[ranks] = read_outcome(sweep.journal, sweep.database)

    def _strike(self, sweep: Sweep, place: Place) -> None:
        """Rides with faults, until the sweep is over or the plan has nothing more for it."""
        for _ in range(RIDES_A_SWEEP):
            wanted = {when: self._take(place, when, count) for when, count in FAULTS_A_RIDE.items()}
            if not any(wanted.values()):
                return
            for fault in self._ride(sweep, wanted):
                self._give_back(fault, counts=not sweep.ray_was_too_slow)
            if sweep.driver.process.returncode == 0:
                return

    def _ride(self, sweep: Sweep, wanted: dict[When, list[Fault]]) -> list[Fault]:
        """One driver from its start to its end, and the files it leaves. Returns: faults that did not happen."""
        before = len(self.report.hits)
        missed = [fault for fault in wanted[When.START] if not self._hit(fault, sweep)]
        if missed or not wanted[When.START]:
            sweep.start()
        for fault in wanted[When.RUN]:
            missed += [] if self._moment(sweep) and self._hit(fault, sweep) else [fault]
        # Files can be struck only where a driver was stopped; a kill that the plan does not ask for is a fault as well.
        unplanned = [KINDS["driver-kill"]] if wanted[When.BETWEEN] and not wanted[When.STOP] else []
        stops = wanted[When.STOP] + unplanned
        if stops and self._moment(sweep):
            self._keep_copy(sweep)
            missed += [fault for fault in stops if not self._hit(fault, sweep)]
        else:
            sweep.wait_for(lambda: False)
            missed += wanted[When.STOP]
            self._judge_end(sweep, self.report.hits[before:])
        over = sweep.driver.process.returncode == 0
        return missed + [fault for fault in wanted[When.BETWEEN] if over or not self._hit(fault, sweep)]

    def _hit(self, fault: Fault, sweep: Sweep) -> bool:
        """Lets it happen; whether there was anything to strike."""
        at = time.time()
        try:
            text = fault.act(sweep, self._random)
        except Missed:
            return False
        self._misses[fault.key] = 0
        if fault.when is not When.BETWEEN:
            self._turn += 1
        if fault.when is When.START:
            at = time.time()  # the driver that it belongs to is the consequence of an earlier one
        number = sweep.driver.number
        hit = Hit(fault=fault.key, sweep=sweep.name, driver=number, text=text, at=at, turn=self._turn)
        self.report.hits.append(hit)
        self._say(f"  {len(self.report.hits):3d} {fault.key}, driver {number}: {text}")
        return True

    def _moment(self, sweep: Sweep) -> bool:
        """Waits for a random moment of the driver's life; whether it still lived then."""
        if self._random.random() < 0.3:
            deadline = time.monotonic() + self._random.uniform(0.0, 12.0)
            return sweep.wait_for(lambda: time.monotonic() > deadline)
        target = sweep.n_lines() + self._random.randint(1, 24)
        return sweep.wait_for(lambda: sweep.n_lines() >= target)

    def _keep_copy(self, sweep: Sweep) -> None:
        """Of the tracking database, which a later fault may bring back."""
        if sweep.server is None:
            with contextlib.suppress(sqlite3.Error):  # not there yet, or just being made
                sweep.copy_database()

    def _judge_end(self, sweep: Sweep, hits: list[Hit]) -> None:
        """A driver ended by itself: because the sweep is over, or because of the last fault, or for no reason."""
        code = sweep.driver.process.returncode
        if code == 0:
            return
        if hits:
            hits[-1].text += f"; the driver ended with {code}"
            self._say(f"      the driver ended with {code}")
        elif not sweep.ray_was_too_slow:
            sweep.complain(f"ended with {code} by itself; it said: {sweep.last_words()}")

    def _finish(self, sweep: Sweep) -> None:
        """Whatever was done to it, one more driver must bring the sweep to its end."""
        for _ in range(TRIES):
            if sweep.drivers and sweep.driver.process.returncode == 0:
                return
            sweep.start()
            sweep.wait_for(lambda: False)
            if not sweep.ray_was_too_slow:
                break
        code = sweep.driver.process.returncode
        if code != 0:
            sweep.complain(f"should have finished the sweep but ended with {code}; it said: {sweep.last_words()}")

    def _compare(self, sweep: Sweep, place: Place) -> None:
        sweep.check_orphans()
        found = compare(self._undisturbed[place is Place.RANKS], sweep.journal, sweep.database)
        self.report.differences[sweep.name] = [*sweep.complaints, *found, *leftovers(sweep.storage)]
        self._count_costs(sweep)
        for text in shortened(self.report.differences[sweep.name]):
            self._say(f"  DIFFERENT {text}")
        if sweep.server is not None:
            sweep.server.kill()

    def _count_costs(self, sweep: Sweep) -> None:
        """Lays every further driver and attempt at the door of the last hits before it."""
        hits = [hit for hit in self.report.hits if hit.sweep == sweep.name]
        turns = {turn: list(group) for turn, group in itertools.groupby(hits, key=lambda hit: hit.turn)}
        starts = [group[0].at for group in turns.values()]
        again = [record["time"] for record in sweep.records() if record.get("attempt", 1) > 1]
        for group, start, end in zip(turns.values(), starts, [*starts[1:], math.inf], strict=True):
            for hit in group:
                hit.drivers = sum(start <= driver.started < end for driver in sweep.drivers)
                hit.attempts = sum(start <= moment < end for moment in again)
