"""The recorded answers, as they stand in the repository."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from tests.api.recorder.probe import Reply

RECORDED = Path(__file__).parent.parent / "fixtures" / "recorded.json"


@functools.cache
def recorded() -> dict[str, list[tuple[str, str, Reply]]]:
    """By probe: (method and path, body, answer) of each step."""
    out = {}
    for probe in json.loads(RECORDED.read_text())["probes"]:
        out[probe["name"]] = [(s["request"], s["body"], _reply(s["reply"])) for s in probe["steps"]]
    return out


def _reply(raw: dict[str, object]) -> Reply:
    code, kind, warnings = raw["code"], raw.get("content_type", ""), raw.get("warnings", ())
    assert isinstance(code, int)
    assert isinstance(kind, str)
    assert isinstance(warnings, list | tuple)
    return Reply(code, raw.get("body"), tuple(warnings), kind)
