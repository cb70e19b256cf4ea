"""The client side of `fence.sh`: what is sent to start or poll a step, and what its answer means. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Final, get_args

from machines.hosts import StepOrder, StepRef, StepResult, StepState

SCRIPT: Final[str] = Path(__file__).with_name("fence.sh").read_text(encoding="utf-8")
SCRIPT_HASH: Final[str] = hashlib.sha256(SCRIPT.encode()).hexdigest()
PLACE: Final[str] = "/usr/local/lib/fleet/fence"
OUTPUT_LIMIT: Final[int] = 4096
EVIDENCE_LIMIT: Final[int] = 65536  # of what a host shows of itself before it is changed
EVIDENCE: Final = "collect-evidence"
STATES: Final[frozenset[str]] = frozenset(get_args(StepState))

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# What PostgreSQL and a terminal cannot bear: NUL, other controls but tab and newline, lone surrogates.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


def clean(text: str, limit: int = 1000) -> str:
    """Text from a host, safe to store and show: no controls, no surrogates, bounded."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text[:limit])


def word(value: str, field: str) -> str:
    """The value if it is a plain word that `fence.sh` takes; ValueError names the field otherwise."""
    if not _WORD.fullmatch(value):
        raise ValueError(f"{field} is not a plain word of letters, digits, dot, dash and underscore: {value[:60]!r}")
    return value


def heredoc(text: str) -> str:
    """`<<'MARK'` with the text as its body: the shell expands nothing in it. The mark is the text's own hash."""
    mark = "FLEET_" + hashlib.sha256(text.encode()).hexdigest()
    return f"<<'{mark}'\n{text if text.endswith(chr(10)) else text + chr(10)}{mark}"


def start_script(order: StepOrder, step_script: str, nonce: str) -> str:
    """The one command of `act`: reinstall the fence if its hash differs, then start the step through it.

    All of it stands inside braces: a shell that gets only half of it over a dying connection runs nothing.
    """
    body = step_script if step_script.endswith("\n") else step_script + "\n"
    arguments = [
        word(order.installation, "installation"),
        word(order.target.uid, "target.uid"),
        str(int(order.incarnation)),
        str(int(order.epoch)),
        word(order.ref.operation, "ref.operation"),
        word(order.ref.step, "ref.step"),
        str(int(order.ref.attempt)),
        str(max(1, int(order.action.timeout_seconds))),
        hashlib.sha256(body.encode()).hexdigest(),
    ]
    if order.take_over:
        arguments.append(word(order.take_over, "take_over"))
    return f"""{{
umask 022
fence=${{FLEET_ROOT:-}}{PLACE}
have=$(sha256sum 2>/dev/null <"$fence")
if [ "${{have%% *}}" != {SCRIPT_HASH} ]; then
mkdir -p "${{fence%/*}}" && cat >"$fence.$$" {heredoc(SCRIPT)}
have=$(sha256sum <"$fence.$$")
if [ "${{have%% *}}" = {SCRIPT_HASH} ]; then chmod 0755 "$fence.$$" && sync "$fence.$$" && mv -f "$fence.$$" "$fence"; fi
rm -f "$fence.$$"
fi
printf '@@%s step\\n' {shlex.quote(nonce)}
/bin/sh "$fence" start {" ".join(shlex.quote(a) for a in arguments)} {heredoc(body)}
printf '@@%s end\\n' {shlex.quote(nonce)}
exit 0
}}
"""


def poll_command(ref: StepRef) -> str:
    """One shell command that prints how an attempt stands; a host without fence says Unknown."""
    argv = [word(ref.operation, "ref.operation"), word(ref.step, "ref.step"), str(int(ref.attempt))]
    return (
        f'if [ -x "${{FLEET_ROOT:-}}{PLACE}" ]; then /bin/sh "${{FLEET_ROOT:-}}{PLACE}" poll {shlex.join(argv)} </dev/null; '
        "else printf 'state Unknown\\nreason NoSuchStep\\nmessage the host has no fence\\n'; fi"
    )


def parse_answer(ref: StepRef, lines: Iterable[str]) -> StepResult:
    """The fence's answer as a StepResult; anything else is Unknown/Garbled. Never raises."""
    state, reason, message, output = "", "", "", ""
    code: int | None = None
    facts: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(" ")
        if key == "state" and not state:
            state = value.strip()
        elif key == "reason" and not reason:
            reason = clean(value.strip(), 60)
        elif key == "message" and not message:
            message = clean(value.strip())
        elif key == "exit" and value.strip().isdecimal():
            code = int(value.strip()[:6])
        elif key == "fact" and len(facts) < 100:
            name, _, text = value.partition(" ")
            facts[clean(name, 60)] = clean(text.strip())
        elif key == "output":
            output = _log(value, EVIDENCE_LIMIT if EVIDENCE in ref.step else OUTPUT_LIMIT)
    if state not in STATES:
        return StepResult(ref, "Unknown", "Garbled", f"not an answer of the fence: {clean(state, 100)!r}")
    return StepResult(ref, state, reason, message, code, output, facts)  # type: ignore[arg-type]  # checked above


def _log(encoded: str, limit: int) -> str:
    try:
        raw = base64.b64decode(encoded.strip()[: limit * 2], validate=True)
    except (binascii.Error, ValueError):
        return ""
    text = raw[-limit:].decode("utf-8", errors="replace")
    return clean(text.replace("\r\n", "\n").replace("\r", "\n"), limit)
