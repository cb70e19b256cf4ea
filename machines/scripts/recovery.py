"""What a host shows of itself before it is repaired, and room made on its disk by what may be thrown away. Pure."""

from __future__ import annotations

from typing import Final

from machines.hosts import Action
from machines.scripts.shell import checked, quote, script

CLEANINGS: Final[dict[str, str]] = {
    "journal": "clean journal journalctl --rotate --vacuum-size=64M --vacuum-time=2d",
    "package-cache": """if command -v apt-get >/dev/null; then clean package-cache apt-get clean
elif command -v dnf >/dev/null; then clean package-cache dnf -q clean packages
fi""",
    "images": """if command -v crictl >/dev/null; then clean images timeout 300 crictl rmi --prune
elif command -v ctr >/dev/null; then clean images sh -c 'timeout 300 ctr -n k8s.io images prune --all || timeout 300 ctr -n k8s.io content prune references'
fi""",
}


def collect_evidence(action: Action) -> str:
    """Logs, kernel messages, units, file systems and what uses the machine, as text; `names` are units to tell of. Never fails."""
    units = [quote(checked(name, "unit", f"names[{number}]")) for number, name in enumerate(action.names)]
    told = "\n".join(f"part 'unit {unit}' systemctl status --no-pager --full --lines=0 -- {unit}\npart 'journal of {unit}' journalctl --no-pager -q -n 60 -u {unit}" for unit in units)  # fmt: skip
    body = f"""
part() {{
    printf '\\n==== %s ====\\n' "$1"; shift
    timeout 8 "$@" 2>&1 </dev/null | head -c 12000
}}
part 'when' date -u
part 'up' uptime
part 'failed units' systemctl --failed --no-pager --plain
{told}
part 'kernel' sh -c 'dmesg 2>&1 | tail -n 60'
part 'memory' cat /proc/meminfo
part 'pressure' sh -c 'for of in cpu memory io; do cat /proc/pressure/$of 2>/dev/null; done'
part 'file systems' df -Ph
part 'mounts' cat /proc/self/mounts
part 'processes' sh -c 'ps axo pid,ppid,stat,pcpu,pmem,etime,comm --sort=-pcpu 2>/dev/null | head -n 30'
part 'last of the journal' journalctl --no-pager -q -p warning -n 40
done_with 'the host has told what it knows'
"""
    return script(body)


def clean_disk(action: Action) -> str:
    """`names` of allow-listed cleanings; says how much is free before and after."""
    if not action.names:
        raise ValueError("names: say what may be cleaned")
    for number, name in enumerate(action.names):
        if name not in CLEANINGS:
            raise ValueError(f"names[{number}]: not one of {', '.join(CLEANINGS)}: {str(name)[:60]!r}")
    lines = "\n".join(CLEANINGS[name] for name in action.names)
    body = f"""
clean() {{
    what=$1; shift
    timeout 400 "$@" >>"$step/words" 2>&1 </dev/null || printf '%s: code %s\\n' "$what" $? >>"$step/words"
}}
before=$(free_kib /var)
{lines}
after=$(free_kib /var)
fact freedKiB $((after - before))
done_with "$(((after - before) / 1024)) MiB more are free in /var, $((after / 1024)) MiB in all"
"""
    return script(body)
