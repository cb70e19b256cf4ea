"""What Fleet writes of a machine's metadata: a person's word is taken away once it was used; a retired machine goes."""

from __future__ import annotations

from collections.abc import Sequence

from fleet.api.actions import Write, change_object
from fleet.api.errors import ApiError
from fleet.api.rights import SYSTEM
from fleet.api.storage import storage_for
from fleet.control.kinds import Json
from machines.decommission import FINALIZER

MANAGER = "fleet-machine-operator"


def take_words(used: Sequence[tuple[str, tuple[str, ...]]]) -> None:
    """Remove annotations that were used, by machine name; audited like every write."""
    for name, words in used:

        def change(live: Json, words: tuple[str, ...] = words) -> Json:
            kept = {k: v for k, v in live["metadata"].get("annotations", {}).items() if k not in words}
            live["metadata"]["annotations"] = kept
            return live

        _change(name, change)


def let_go(names: Sequence[str]) -> None:
    """Remove Fleet's finalizer from retired machines; without others of upper apps they are gone."""

    def change(live: Json) -> Json:
        live["metadata"]["finalizers"] = [f for f in live["metadata"].get("finalizers", []) if f != FINALIZER]
        return live

    for name in names:
        _change(name, change)


def _change(name: str, change: object) -> None:
    """A machine that is gone meanwhile needs nothing."""
    try:
        change_object("machines", name, change, write=Write(by=SYSTEM, manager=MANAGER), verb="update")  # type: ignore[arg-type]
    except ApiError as error:
        if error.code != 404:
            raise


def known(name: str) -> bool:
    """Whether a machine of that name is stored."""
    return storage_for("machines").read(name) is not None
