"""Reads what the observe script printed. Pure, and robust to a host that lies: bounded, and it never raises."""

from __future__ import annotations

import base64
import binascii
import re
import shlex
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final, TypeVar

from machines.fence import clean, parse_answer
from machines.hosts import Facts, FileFact, PackageFact, Target, UnitFact
from machines.observe import CONTENT_LIMIT, swapped

T = TypeVar("T")
Sections = Mapping[str, list[str]]

ARCHITECTURES: Final[Mapping[str, str]] = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "armhf",
    "i686": "i386",
    "i586": "i386",
}
_DEBIAN: Final[frozenset[str]] = frozenset({"debian", "ubuntu", "raspbian", "linuxmint", "devuan"})
_RHEL: Final[frozenset[str]] = frozenset(
    {"rhel", "centos", "fedora", "rocky", "almalinux", "ol", "amzn", "anolis", "alinux", "openeuler", "kylin"}
)
# What vendors write where a serial number should be.
_NO_SERIAL: Final[re.Pattern[str]] = re.compile(
    r"(to be filled.*|default string|not (specified|applicable|available|present|settable)|system serial number|"
    r"chassis serial number|none|n/?a|o\.?e\.?m\.?|unknown|empty|invalid|123456789|0123456789|[0.xX -]*|(?:x|\*|-)+)",
    re.IGNORECASE,
)


def facts_from(target: Target, nonce: str, raw: bytes, sent: float, received: float) -> Facts:
    """Facts of one host. `sent` and `received` are Fleet's clock in Unix seconds around the command."""
    sections = split(raw.decode("utf-8", errors="replace"), nonce)
    if "end" not in sections:
        return Facts(
            target.key, "Garbled", f"the answer of {target.address} is cut short or not an answer: {_peek(raw)!r}"
        )
    release = os_release(sections.get("os", []))
    steps = {}
    for number, ref in enumerate(target.polls):
        steps[ref.folder] = parse_answer(ref, sections.get(f"poll {number}", []))
    fence = _words(sections, "fence")
    mine = len(fence) == 3 and fence[2] == target.uid
    kernel = sections.get("kernel", [])
    disk = _words(sections, "disk")
    return Facts(
        key=target.key,
        marker=clean(" ".join(_words(sections, "identity")), 200),
        serial_number=serial(_text(sections, "serial")),
        os_id=clean(release.get("ID", ""), 60),
        os_version=clean(release.get("VERSION_ID", ""), 60),
        os_family=family(release),
        architecture=clean(ARCHITECTURES.get(_line(kernel, 1), _line(kernel, 1)), 60),
        kernel=clean(_line(kernel, 0), 200),
        boot_id=clean(_text(sections, "boot"), 64),
        boot_parameters=clean(_text(sections, "cmdline"), 8192),
        system_state=clean(_text(sections, "state"), 40),
        memory_bytes=_number(_at(_words(sections, "memory"), 1)) * 1024,
        memory_available_bytes=_number(_at(_words(sections, "memory"), 4)) * 1024,
        cpus=_number(_text(sections, "cpus")),
        read_only=tuple(clean(line, 200) for line in sections.get("read-only", [])[:32] if line.startswith("/")),
        disk_free_bytes=_number(_at(disk, 3)) * 1024,
        disk_total_bytes=_number(_at(disk, 1)) * 1024,
        load1=_decimal(_at(_words(sections, "load"), 0)),
        clock_offset_seconds=clock_offset(sections, sent, received),
        package_audit=clean(_text(sections, "audit"), 4096),
        package_lock_holder=clean(_text(sections, "lock"), 200),
        unattended_upgrades=any("'1'" in x or "'always'" in x for x in sections.get("unattended", [])),
        packages=_guard(lambda: packages(target, sections), {}),
        files=_guard(lambda: files(target, sections), {}),
        units=_guard(lambda: units(target.units, sections.get("units", [])), {}),
        sysctls=_numbered(target.sysctls, sections.get("sysctls", []), lambda v: " ".join(clean(v, 4096).split())),
        kept_sysctls=tuple(sorted(swapped(w) for w in _kept(sections, "sysctl"))),
        kept_modules=_kept(sections, "module"),
        kept_boot=_kept(sections, "boot"),
        modules={m: m.replace("-", "_") in sections.get("modules", []) for m in target.modules},
        health=health(tuple(target.health_checks), sections.get("health", [])),
        fence_epoch=_number(fence[1], -1) if mine else -1,
        fence_incarnation=_number(fence[0], -1) if mine else -1,
        steps=steps,
    )


def _kept(sections: Sections, sort: str) -> tuple[str, ...]:
    """Entries of one of Fleet's own lists."""
    found = (line.split(" ", 1) for line in sections.get("kept", [])[:1_000] if " " in line)
    return tuple(sorted({clean(word, 256) for what, word in found if what == sort}))


def split(text: str, nonce: str) -> dict[str, list[str]]:
    """The sections by name; a repeated name keeps its first."""
    found: dict[str, list[str]] = {}
    current: list[str] = []
    mark = f"@@{nonce} "
    for line in text.split("\n"):
        if line.startswith(mark):
            current = []
            found.setdefault(line[len(mark) :].strip(), current)
        else:
            current.append(line)
    return found


def os_release(lines: list[str]) -> Mapping[str, str]:
    """os-release(5): KEY=value with shell quoting; lines that are not are passed over."""
    return _os_release(tuple(lines[:200]))


@lru_cache(maxsize=256)
def _os_release(lines: tuple[str, ...]) -> Mapping[str, str]:
    """Read once for each text: a fleet has few, and shell quoting is slow to undo. Shared: never changed."""
    values: dict[str, str] = {}
    for line in lines:
        key, separator, value = line.strip().partition("=")
        if not separator or key.startswith("#"):
            continue
        try:
            values[key] = "".join(shlex.split(value)[:1])
        except ValueError:
            values[key] = value.strip("\"'")
    return values


def family(release: Mapping[str, str]) -> str:
    """debian, rhel or other, by ID and ID_LIKE; the lab's rpm host runs Debian's files under ID_LIKE=rhel."""
    like = release.get("ID_LIKE", "").lower().split()
    for names in (like, [release.get("ID", "").lower()]):
        if any(n in _RHEL for n in names):
            return "rhel"
        if any(n in _DEBIAN for n in names):
            return "debian"
    return "other"


def serial(text: str) -> str:
    """The DMI serial, empty when it is absent or a vendor's placeholder."""
    value = clean(text.strip(), 128)
    return "" if _NO_SERIAL.fullmatch(value) else value


def clock_offset(sections: Sections, sent: float, received: float) -> float:
    """Host minus Fleet in seconds, as NTP computes it; half the round trip is allowed for, so a slow path reads 0."""
    before, after = _decimal(_text(sections, "clock")), _decimal(_text(sections, "clock-after"))
    if before <= 0 or after < before:
        return 0.0
    offset = ((before - sent) + (after - received)) / 2
    doubt = max(0.0, (received - sent) - (after - before)) / 2
    return round(max(0.0, abs(offset) - doubt) * (1 if offset >= 0 else -1), 3)


def packages(target: Target, sections: Sections) -> dict[str, PackageFact]:
    """Installed packages by the name asked for; Fleet's ledger maps it to the host's name and to the declared version."""
    ledger = {line.split("\t")[0]: _fields(line.split("\t")[1:]) for line in sections.get("ledger", [])}
    rows: dict[str, list[tuple[str, str, int]]] = {}  # name -> (version, state, install time)
    for line in sections.get("deb", []):
        name, _, version, status = [*line.split("\t"), "", "", "", ""][:4]
        if status and not status.endswith("not-installed"):
            rows.setdefault(name, []).append((version, status.split()[-1], 0))
    for line in sections.get("rpm", []):
        columns = line.split("\t")
        if len(columns) == 4:
            rows.setdefault(columns[0], []).append((columns[2].removeprefix("0:"), "installed", _number(columns[3])))
    found: dict[str, PackageFact] = {}
    for name in target.packages:
        known = ledger.get(name, {})
        candidates = rows.get(known.get("package", name), [])
        if candidates:
            installed = [row for row in candidates if row[1] == "installed"] or candidates
            same = [row for row in installed if row[0] == known.get("version")]
            version, state, _ = (same or sorted(installed, key=lambda row: row[2]))[-1]
            declared = known.get("declared", "") if same else ""
            found[name] = PackageFact(clean(version, 200), clean(state, 40), clean(declared, 200))
        elif f"tarball {name}" in sections:
            meta = _fields(sections[f"tarball {name}"])
            version = clean(meta.get("declared", ""), 200)
            found[name] = PackageFact(version, "installed", version, intact="broken" not in meta and "intact" in meta)
    return found


def files(target: Target, sections: Sections) -> dict[str, FileFact]:
    """Files as seen. What is not a regular file has the hash "not-a-file", so that it never equals a wanted one."""
    found: dict[str, FileFact] = {}
    for line in sections.get("files", []):
        number, digest, kind, mode, owner, _ = [*line.split("|"), "", "", "", "", "", ""][:6]
        index = _number(number, -1)
        if 0 <= index < len(target.files) and kind:
            regular = kind.startswith("regular")
            sha = digest if re.fullmatch(r"[0-9a-f]{64}", digest) else ("unreadable" if regular else "not-a-file")
            found[target.files[index]] = FileFact(sha, clean(mode.zfill(4), 8), clean(owner, 80))
    texts = _numbered(target.with_content_of, sections.get("content", []), _content)
    for path, content in texts.items():
        seen = found.get(path, FileFact("unknown"))
        found[path] = FileFact(seen.sha256, seen.mode, seen.owner, content)
    for path in target.files:
        found.setdefault(path, FileFact())
    return found


def units(wanted: tuple[str, ...], lines: list[str]) -> dict[str, UnitFact]:
    """`systemctl show` answers one block a unit in the order asked; Names tells which, an alias is found by it too."""
    blocks = [_equals(block.split("\n")) for block in "\n".join(lines).strip("\n").split("\n\n")]
    blocks = [block for block in blocks if "LoadState" in block]
    found: dict[str, UnitFact] = {}
    for index, name in enumerate(wanted):
        full = name if "." in name else f"{name}.service"
        match = next((b for b in blocks if full == b.get("Id") or full in b.get("Names", "").split()), None)
        if match is None and len(blocks) == len(wanted):
            match = blocks[index]
        if match is not None:
            parts = (clean(match.get(key, ""), 40) for key in ("LoadState", "UnitFileState", "ActiveState"))
            found[name] = UnitFact(*parts)
    return found


def health(names: tuple[str, ...], lines: list[str]) -> dict[str, tuple[int, str]]:
    """Exit code and last line by package; a check that gave no answer counts as timed out (124, as timeout(1) has it)."""
    seen = _numbered(names, lines, lambda value: value)
    found = {}
    for name in names:
        code, _, text = seen.get(name, "124 ").partition(" ")
        found[name] = (_number(code, 124), clean(_decode(text, 1000), 300).strip())
    return found


def _content(encoded: str) -> str:
    return clean(_decode(encoded, CONTENT_LIMIT), CONTENT_LIMIT)


def _decode(encoded: str, limit: int) -> str:
    try:
        return base64.b64decode(encoded.strip()[: limit * 2], validate=True)[:limit].decode("utf-8", errors="replace")
    except (binascii.Error, ValueError):
        return ""


def _numbered(names: tuple[str, ...], lines: list[str], read: Callable[[str], T]) -> dict[str, T]:
    """Lines "INDEX value" as {name: value}; the index goes into the tuple that the script was built from."""
    found: dict[str, T] = {}
    for line in lines:
        number, _, value = line.partition(" ")
        index = _number(number, -1)
        if 0 <= index < len(names):
            found[names[index]] = read(value)
    return found


def _fields(lines: list[str]) -> dict[str, str]:
    return {key: value for key, _, value in (line.strip().partition(" ") for line in lines) if key}


def _equals(lines: list[str]) -> dict[str, str]:
    return {key: value for key, _, value in (line.partition("=") for line in lines)}


def _text(sections: Sections, name: str) -> str:
    return "\n".join(sections.get(name, [])).strip()


def _words(sections: Sections, name: str) -> list[str]:
    return _text(sections, name).split()


def _line(lines: list[str], index: int) -> str:
    return lines[index].strip() if index < len(lines) else ""


def _at(words: list[str], index: int) -> str:
    return words[index] if index < len(words) else ""


def _number(text: str, default: int = 0) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else default


def _decimal(text: str) -> float:
    return float(text) if re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,12})?", text) else 0.0


def _guard(read: Callable[[], T], default: T) -> T:
    """A section that surprises its parser spoils itself only."""
    try:
        return read()
    except (ValueError, IndexError, KeyError, TypeError):
        return default


def _peek(raw: bytes) -> str:
    return clean(raw[:200].decode("utf-8", errors="replace").strip(), 120)
