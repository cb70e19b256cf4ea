"""Faults of simulated hosts: put on, taken off, and the rate of those that come by themselves. Set-based."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import orjson
from django.db import connection

from simulator.box import default_seed
from simulator.timeline import LASTS, ONE_SHOT

# name: what it does. One-shot faults strike at the next look; lasting ones go after a while or when cleared; counted ones after so many times.
FAULTS: Final[dict[str, str]] = {
    "unreachable": "no route to the host",
    "hang": "takes the command and never answers",
    "slow": "every step takes eight times as long",
    "stuck": "steps never end and run into their time limit",
    "package-lock": "another program holds the package lock",
    "disk-full": "no space left on /var",
    "unhealthy": "health checks fail",
    "clock-skew": "the clock is 95 seconds ahead",
    "unattended-upgrades": "unattended-upgrades is on",
    "wrong-host": "another installation's host stands behind the address",
    "wrong-serial": "the serial number is another one",
    "wrong-key": "the host key is not the enrolled one",
    "reboot-ignored": "a reboot does not happen although the command succeeds",
    "never-returns": "the host does not come back from its next boot",
    "install-fails": "the next install fails",
    "download-fails": "the next download breaks off",
    "bad-checksum": "the next download has the wrong bytes",
    "start-fails": "the next start of a unit fails",
    "lost-answer": "the next step starts but its answer is lost",
    "reboot": "reboots now, in the middle of whatever runs",
    "crash": "loses power now",
    "power-off": "has no power until its controller switches it on",
    "bmc-silent": "its controller does not answer",
    "bmc-deaf": "its controller takes requests and does nothing",
    "provisioner-silent": "its provisioner does not answer",
    "provisioner-deaf": "its provisioner takes requests and does nothing",
    "reinstall-fails": "the next installation of its system fails",
    "reinstall-stuck": "an installation of its system never ends",
    "reinstall-answer-lost": "the next installation is asked for but the answer is lost",
    "bad-disk": "its controller calls a disk critical",
    "bad-memory": "its controller calls the memory critical",
    "bad-board": "its controller calls the board critical",
    "bad-nic": "its controller calls a network port critical",
    "drift-file": "somebody edits a file that Fleet wrote",
    "drift-unit": "somebody stops a unit",
    "drift-mask": "somebody masks a unit",
    "drift-package": "somebody removes a package",
    "drift-sysctl": "somebody resets a sysctl",
}
COUNTED: Final = frozenset(
    {"install-fails", "download-fails", "bad-checksum", "start-fails", "lost-answer", "reinstall-fails", "reinstall-answer-lost"}
)  # fmt: skip


class FaultError(ValueError):
    """A sentence for the person who asked."""


def find_machines(names: Sequence[str] = (), *, cluster: str = "", everywhere: bool = False) -> dict[str, str]:
    """uid -> name of the machines meant. Naming none and no cluster selects nothing: all is written out."""
    if not names and not cluster and not everywhere:
        raise FaultError("Name machines, a cluster, or say that all are meant.")
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT m.uid::text, m.name FROM machine m JOIN machine_state s ON s.id = m.id LEFT JOIN clusters_cluster c ON c.id = m.cluster_id
            WHERE s.simulated AND (%s OR m.name = ANY (%s) OR (%s <> '' AND c.name = %s)) ORDER BY m.name""",
            [everywhere, list(names), cluster, cluster],
        )
        found = dict(cursor.fetchall())
    missing = sorted(set(names) - set(found.values()))
    if missing:
        raise FaultError(f"There is no simulated machine named {missing[0]}.")
    return found


def inject(
    fault: str, uids: Sequence[str], *, seconds: float | None = None, count: int | None = None, now: float | None = None
) -> int:
    """Put a fault on boxes. `seconds` how long it lasts (None: until cleared), `count` how often it strikes."""
    if fault not in FAULTS:
        raise FaultError(f"There is no fault {fault!r}; there are {', '.join(sorted(FAULTS))}.")
    at = time.time() if now is None else now
    body: dict[str, float | int] = {"at": at}
    if seconds is not None and fault not in ONE_SHOT:
        body["until"] = at + seconds
    if fault in COUNTED:
        body["count"] = count or 1
    _merge(uids, {fault: body}, at)
    return len(uids)


def clear(uids: Sequence[str], fault: str = "") -> int:
    """Take one fault off, or all; a box that never came back from its boot is switched on. How many boxes had any."""
    with connection.cursor() as cursor:
        cursor.execute(
            """WITH lk AS MATERIALIZED (SELECT uid FROM simulated_host WHERE uid = ANY (%s::uuid[]) AND (faults <> '{}' OR boot_until = 'infinity') ORDER BY uid FOR UPDATE)
            UPDATE simulated_host h SET faults = CASE WHEN %s = '' THEN '{}' ELSE h.faults - %s END,
              boot_until = CASE WHEN h.boot_until = 'infinity' THEN now() + interval '20 s' ELSE h.boot_until END FROM lk WHERE h.uid = lk.uid""",
            [list(uids), fault, fault],
        )
        return int(cursor.rowcount)


def active() -> list[tuple[str, str]]:
    """(machine name, fault) of everything that is on now."""
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT m.name, f.key FROM simulated_host h JOIN machine m ON m.uid = h.uid, jsonb_object_keys(h.faults) AS f(key)
            WHERE h.faults <> '{}' AND coalesce((h.faults -> f.key ->> 'until')::float8 > extract(epoch FROM now()), true) ORDER BY 1, 2"""
        )
        return [(str(name), str(fault)) for name, fault in cursor.fetchall()]


def set_weather(rate: float) -> None:
    """Mishaps a machine and hour that come by themselves: 0.02 over 3,000 machines is one a minute; 0 = fair weather."""
    if not 0 <= rate <= 1:
        raise FaultError("The rate is between 0 and 1 mishaps a machine and hour.")
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO simulated_weather (id, rate) VALUES (1, %s) ON CONFLICT (id) DO UPDATE SET rate = excluded.rate, since = now()",
            [rate],
        )


def lasting(fault: str) -> float | None:
    """For how long a fault of the weather lasts at most; None for those that stay."""
    return LASTS[fault][1] if fault in LASTS else None


def _merge(uids: Sequence[str], faults: dict[str, dict[str, float | int]], at: float) -> None:
    wanted = sorted(set(uids))
    with connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO simulated_host AS h (uid, seed, settled_at, faults) SELECT n.uid, n.seed, to_timestamp(%s), %s::jsonb FROM unnest(%s::uuid[], %s::bigint[]) AS n(uid, seed) ORDER BY n.uid
            ON CONFLICT (uid) DO UPDATE SET faults = h.faults || excluded.faults""",
            [at, orjson.dumps(faults).decode(), wanted, [default_seed(uid) for uid in wanted]],
        )
