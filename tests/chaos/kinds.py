"""All kinds of faults."""

from __future__ import annotations

from tests.chaos import damage, kills, outages
from tests.chaos.fault import Fault

KINDS: dict[str, Fault] = {fault.key: fault for fault in (*kills.FAULTS, *damage.FAULTS, *outages.FAULTS)}
