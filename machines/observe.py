"""One command that looks at a whole host, built from a Target. Pure; `machines.observed` reads the answer."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Final

from machines import fence
from machines.hosts import Target

BASE: Final[str] = Path(__file__).with_name("observe.sh").read_text(encoding="utf-8")
FUNCTIONS: Final[str] = BASE.partition("#END-OF-FUNCTIONS")[0]
CONTENT_LIMIT: Final[int] = 64 * 1024
HEALTH_SECONDS: Final[int] = 5  # of one check inside an observe pass, which has 20 s in all
MANY: Final[int] = 2000  # things to look at on one host; more is a mistake of the caller

_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._~-]{0,199}")
_UNIT = re.compile(r"[A-Za-z0-9:_.@\\-]{1,255}")
_SYSCTL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./:-]{0,199}")
_MODULE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_PATH = re.compile(r"/[^\x00-\x1f\x7f]{1,1023}")

_PACKAGES = r"""
section ledger
for name in %(names)s; do
    real=$name
    if [ -f "$state/package/$name" ]; then
        printf '%%s\t' "$name"; head -c 1024 "$state/package/$name" | tr '\n' '\t'; printf '\n'
        real=$(sed -n 's/^package //p' "$state/package/$name" | head -n 1)
    fi
    case $real in [A-Za-z0-9]*) set -- "$@" "$real" ;; esac
done
if command -v dpkg-query >/dev/null && [ $# -gt 0 ]; then
    section deb
    dpkg-query -W -f '${Package}\t${Architecture}\t${Version}\t${Status}\n' -- "$@" 2>/dev/null | head -c 262144
fi
if command -v rpm >/dev/null && [ $# -gt 0 ] && [ ! -d /var/lib/dpkg/info ]; then
    section rpm
    rpm -q --qf '%%{NAME}\t%%{ARCH}\t%%{EPOCHNUM}:%%{VERSION}-%%{RELEASE}\t%%{INSTALLTIME}\n' -- "$@" 2>/dev/null | head -c 262144
fi
for name in %(names)s; do
    ledger=$state/tarball/$name
    [ -f "$ledger/meta" ] || continue
    section "tarball $name"
    head -c 2048 "$ledger/meta"
    # Sizes and change times first: hashing hundreds of megabytes at each look would cost the host too much.
    place=$(sed -n 's/^tree //p' "$ledger/meta")
    if ! cd "$place" 2>/dev/null; then echo broken missing
    elif [ "$(cut -c 67- "$ledger/manifest" | tr '\n' '\0' | xargs -0 stat -c '%%n %%s %%Z %%i %%a' -- 2>/dev/null | sha256sum)" = "$(cat "$ledger/seen" 2>/dev/null)" ]; then echo intact
    elif timeout 8 sha256sum --status -c "$ledger/manifest" 2>/dev/null; then echo intact
    else echo broken changed
    fi
    link=$(sed -n 's/^link //p' "$ledger/meta")
    if [ -n "$link" ] && [ "$(readlink -- "$link")" != "$place" ]; then echo broken link; fi
    cd /
done
"""

_FILES = r"""
section files
number=0
for path in %(paths)s; do
    if seen=$(stat -c '%%F|%%a|%%U:%%G|%%s' -- "$path" 2>/dev/null); then
        case $seen in
        regular*) sum=$(timeout 10 sha256sum <"$path") ;;
        *) sum= ;;
        esac
        printf '%%s|%%s|%%s\n' $number "${sum%%%% *}" "$seen"
    fi
    number=$((number + 1))
done
"""

_CONTENT = r"""
section content
number=0
for path in %(paths)s; do
    if [ -f "$path" ] && [ ! -L "$path" ] && [ "$(stat -c %%s -- "$path")" -le %(limit)s ]; then
        printf '%%s ' $number; head -c %(limit)s -- "$path" | base64 -w0; echo
    fi
    number=$((number + 1))
done
"""

_SYSCTLS = r"""
section sysctls
number=0
for path in %(paths)s; do
    if [ -r "/proc/sys/$path" ]; then
        printf '%%s %%s\n' $number "$(head -c 4096 "/proc/sys/$path" 2>/dev/null | tr -s '\t\n' '  ')"
    fi
    number=$((number + 1))
done
"""

_MODULES = r"""
section modules
for module in %(names)s; do
    if [ -d "/sys/module/$module" ] || grep -q "^$module " /proc/modules 2>/dev/null ||
        tr - _ 2>/dev/null <"/lib/modules/$(uname -r)/modules.builtin" | grep -q "/$module\.ko"; then echo "$module"; fi
done
"""

# Output goes to a file: a daemon that a check leaves behind must not hold our pipe open. All checks run side by side.
_HEALTH = r"""
section health
scratch=$(mktemp -d /run/fleet-health.XXXXXX 2>/dev/null || mktemp -d)
check() {
    number=$1; shift
    ( ulimit -f 16384; exec timeout -k 1 %(seconds)s "$@" ) >"$scratch/$number" 2>&1 </dev/null
    code=$?
    printf '%%s %%s %%s\n' $number $code "$(tail -c 600 "$scratch/$number" | tail -n 1 | base64 -w0)"
}
%(checks)s
wait
rm -rf "$scratch"
"""


def sysctl_path(name: str) -> str:
    """`net.ipv4.ip_forward` as the path under /proc/sys; dots and slashes swap as sysctl(8) has it."""
    if not _SYSCTL.fullmatch(name) or ".." in name or "//" in name:
        raise ValueError(f"sysctls: not a name of a sysctl: {name[:60]!r}")
    if "/" in name.split(".")[0]:
        return name
    return swapped(name)


def swapped(name: str) -> str:
    """Dots and slashes the other way round: a sysctl's name as its path, and back."""
    return name.translate(str.maketrans("./", "/."))


def _checked(values: tuple[str, ...], pattern: re.Pattern[str], field: str) -> str:
    """The values quoted for a shell; ValueError names the field and the value that may not pass."""
    if len(values) > MANY:
        raise ValueError(f"{field}: {len(values)} are too many")
    for value in values:
        if not pattern.fullmatch(value) or value.startswith("-"):
            raise ValueError(f"{field}: not acceptable: {value[:60]!r}")
    return " ".join(shlex.quote(value) for value in values)


def script(target: Target, nonce: str) -> str:
    """The POSIX sh script that prints everything `observed.facts_from` reads. ValueError names a field that may not pass."""
    # tail gathers what many small commands print: else each line would be an SSH packet of its own.
    parts = ["{ {\n", f"nonce={shlex.quote(fence.word(nonce, 'nonce'))}\n", BASE]
    if target.packages:
        parts.append("set --\n" + _PACKAGES % {"names": _checked(target.packages, _PACKAGE, "packages")})
    if target.files:
        parts.append(_FILES % {"paths": _checked(target.files, _PATH, "files")})
    if target.with_content_of:
        paths = _checked(target.with_content_of, _PATH, "with_content_of")
        parts.append(_CONTENT % {"paths": paths, "limit": CONTENT_LIMIT})
    if target.units:
        names = _checked(target.units, _UNIT, "units")
        parts.append(
            "section units\nsystemctl show --no-pager -p Id,Names,LoadState,UnitFileState,ActiveState "
            f"-- {names} 2>/dev/null | head -c 1048576\n"
        )
    if target.sysctls:
        paths = " ".join(shlex.quote(sysctl_path(name)) for name in target.sysctls)
        parts.append(_SYSCTLS % {"paths": paths})
    if target.modules:
        names = _checked(target.modules, _MODULE, "modules").replace("-", "_")
        parts.append(_MODULES % {"names": names})
    if target.health_checks:
        parts.append(_HEALTH % {"seconds": HEALTH_SECONDS, "checks": _health(target)})
    for number, ref in enumerate(target.polls):
        parts.append(f"section 'poll {number}'\n{fence.poll_command(ref)}\n")
    parts.append("section clock-after\ndate +%s.%N\nsection end\n} | tail -c +1\nexit 0\n}\n")
    return "".join(parts)


def _health(target: Target) -> str:
    lines = []
    for number, (name, argv) in enumerate(target.health_checks.items()):
        if not argv or any("\x00" in word for word in argv):
            raise ValueError(f"health_checks[{name[:60]}]: not an argv list")
        lines.append(f"check {number} {shlex.join(argv)} &")
    return "\n".join(lines)
