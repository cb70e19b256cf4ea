"""All probes; each has a name of its own, which is also its object's name."""

from __future__ import annotations

from tests.api.recorder.probe import Probe
from tests.api.recorder.probes_apply import APPLIES
from tests.api.recorder.probes_create import CREATE
from tests.api.recorder.probes_read import READ
from tests.api.recorder.probes_write import DELETE, PATCHES, REPLACE, STATUS

PROBES: tuple[Probe, ...] = (*CREATE, *READ, *REPLACE, *PATCHES, *STATUS, *DELETE, *APPLIES)
