"""`python -m tests.api.recorder`: run every probe against a real kube-apiserver and write the answers down."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from tests.api.recorder.build import KUBERNETES, binaries
from tests.api.recorder.fixtures import RECORDED
from tests.api.recorder.probe import Probe, Reply, run
from tests.api.recorder.probes import PROBES
from tests.api.recorder.server import reference


def _written(probe: Probe, replies: list[Reply]) -> dict[str, Any]:
    steps = []
    for step, reply in zip(probe.steps, replies, strict=True):
        answer = {k: v for k, v in asdict(reply).items() if v not in ((), "")}
        steps.append({"request": f"{step.method} {step.path}", "body": step.body[:2000], "reply": answer})
    return {"name": probe.name, "steps": steps}


def main() -> None:
    with reference(binaries()) as server:
        recorded = [_written(probe, run(probe, server.send)) for probe in PROBES]
    # One line a step: small to read in a diff when a new version of Kubernetes answers otherwise.
    lines = [json.dumps(each, sort_keys=True, ensure_ascii=True) for each in recorded]
    RECORDED.parent.mkdir(exist_ok=True)
    RECORDED.write_text(f'{{"kubernetes": "{KUBERNETES}", "probes": [\n' + ",\n".join(lines) + "\n]}\n")


if __name__ == "__main__":
    main()
