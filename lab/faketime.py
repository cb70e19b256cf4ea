"""Another time for one process, by libfaketime. The machine's own clock is never set."""

from __future__ import annotations

from pathlib import Path

from lab.requirements import LabError

_LIBRARIES = Path("/usr/lib")


def preload(offset: str) -> dict[str, str]:
    """Environment of a process whose wall clock is `offset` ('+2h', '-90m') beside this machine's; its monotonic clock stays."""
    found = next(_LIBRARIES.glob("*/faketime/libfaketimeMT.so.1"), None)
    if found is None:
        raise LabError("The lab needs libfaketime: install it with 'apt-get install libfaketime'.")
    return {"LD_PRELOAD": str(found), "FAKETIME": offset, "DONT_FAKE_MONOTONIC": "1"}
