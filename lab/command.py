"""Run a tool of the system and turn its failure into one sentence."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.requirements import LabError, missing_tool


def run(
    argv: Sequence[str | Path],
    *,
    stdin: str | None = None,
    timeout: float = 600,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """The finished command, its output as text. LabError if the tool is missing, too slow, or (with `check`) fails."""
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
            check=False,
            env=None if env is None else dict(env),
            cwd=cwd,
        )
    except FileNotFoundError:
        raise missing_tool(words[0]) from None
    except subprocess.TimeoutExpired:
        raise LabError(f"'{shlex.join(words)[:300]}' took longer than {timeout:g} s.") from None
    if check and done.returncode != 0:
        tail = (done.stderr.strip() or done.stdout.strip())[-1500:]
        raise LabError(f"'{shlex.join(words)[:300]}' ended with code {done.returncode}: {tail}")
    return done
