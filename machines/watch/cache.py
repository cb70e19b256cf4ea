"""The packed cache of one cluster's nodes: what was written of each, so that only changes go to PostgreSQL.

A node is a name and one byte string: two fingerprints (of the row, of the conditions), the machine's id with one bit for
Ready, and the packed conditions as written last. About 300 bytes with the name and its place in the dictionary.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final

from machines.watch.seen import Node, fields_print

_WORD: Final = struct.Struct("<q")
_PRINTS: Final = struct.Struct("<qq")
SAME, FIELDS, CONDITIONS = 0, 1, 2  # bits


class NodeCache:
    """Nodes by name. Changed by the one task that reads the stream and the one that writes, on one event loop."""

    def __init__(self) -> None:
        self._entries: dict[str, bytes] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def names(self) -> Iterable[str]:
        """All names known."""
        return self._entries.keys()

    def put(self, name: str, machine_id: int, packed: Sequence[int]) -> None:
        """What stands in PostgreSQL; the fingerprints match nothing, so that the next sight of the node is written."""
        self._entries[name] = _PRINTS.pack(0, 0) + _word(machine_id, False) + _array(packed)

    def take(self, node: Node) -> int:
        """What of a node is news (bits); remembered at once, so that a change back within one batch is news again."""
        fields, conditions = fields_print(node), hash(node.status.conditions)
        prints = _PRINTS.pack(fields, conditions)
        name = node.metadata.name
        entry = self._entries.get(name)
        if entry is None:
            self._entries[name] = prints + _word(0, _ready(node))
            return FIELDS | CONDITIONS
        if entry.startswith(prints):
            return SAME
        self._entries[name] = prints + _word(_WORD.unpack_from(entry, 16)[0] >> 1, _ready(node)) + entry[24:]
        return (SAME if entry[:8] == prints[:8] else FIELDS) | (SAME if entry[8:16] == prints[8:] else CONDITIONS)

    def doubt(self, names: Iterable[str]) -> None:
        """Forget the fingerprints: what was taken last is not written, or no longer true."""
        for name in names:
            entry = self._entries.get(name)
            if entry is not None:
                self._entries[name] = _PRINTS.pack(0, 0) + entry[16:]

    def machine(self, name: str) -> int:
        """The machine's id, 0 for a node that nobody declared."""
        entry = self._entries.get(name)
        return 0 if entry is None else int(_WORD.unpack_from(entry, 16)[0]) >> 1

    def ready(self) -> int:
        """How many nodes said Ready when they were seen last."""
        return sum(entry[16] & 1 for entry in self._entries.values())

    def packed(self, name: str) -> tuple[int, ...]:
        """The conditions as written last."""
        entry = self._entries.get(name, b"")[24:]
        return struct.unpack(f"<{len(entry) // 8}q", entry)

    def written(self, name: str, machine_id: int, packed: Sequence[int]) -> None:
        """The row stands: whose machine it is and which conditions it holds. A name that was dropped meanwhile stays dropped."""
        entry = self._entries.get(name)
        if entry is not None:
            self._entries[name] = entry[:16] + _word(machine_id, bool(entry[16] & 1)) + _array(packed)

    def drop(self, name: str) -> bool:
        """The node is gone; whether it was known."""
        return self._entries.pop(name, None) is not None


def _word(machine_id: int, ready: bool) -> bytes:
    return _WORD.pack(machine_id << 1 | ready)


def _ready(node: Node) -> bool:
    return any(c.type == "Ready" and c.status == "True" for c in node.status.conditions)


def _array(packed: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(packed)}q", *packed)
