"""What a fault is: a name, the moment of a driver's life at which it strikes, and a function that does it."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from tests.chaos.sweep import Sweep


class When(enum.Enum):
    """The part of a driver's life that a fault belongs to."""

    START = "start"
    """Called instead of ``Sweep.start``."""
    RUN = "run"
    """Strikes a running driver, which is expected to go on; should it end, it is resumed."""
    STOP = "stop"
    """Ends the driver."""
    BETWEEN = "between"
    """Strikes files after one driver and before the next."""


class Place(enum.Enum):
    """The sweep that a fault needs."""

    ANY = "plain"
    RANKS = "two ranks a trial"
    SERVER = "tracking server"
    DISK = "small disk"
    DATABASE = "sqlite"
    """Any sweep that tracks into a file."""


class Missed(Exception):
    """There was nothing to strike; it is tried again later."""


Act = Callable[[Sweep, Random], str]
"""Does it, and says in a few words what was struck."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of fault."""

    key: str
    """As given to ``--kinds``."""
    when: When
    act: Act
    place: Place = Place.ANY
