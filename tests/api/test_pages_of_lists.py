"""Lists page by page while objects come and go."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from fleet.api.actions import Write, create_object, delete_object
from fleet.api.rights import SYSTEM
from fleet.api.storage import ListQuery, storage_for
from fleet.control.kinds import API_VERSION, Json


def test_a_page_whose_objects_are_deleted_while_it_is_read_does_not_end_the_list(
    fleet_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Write(by=SYSTEM)
    for name in "abcd":
        create_object(
            "idcs", {"apiVersion": API_VERSION, "kind": "Idc", "metadata": {"name": name}, "spec": {}}, write=write
        )
    storage = storage_for("idcs")
    read = storage.by_ids

    def late(ids: Sequence[int]) -> dict[int, Json]:
        """Both objects of the first page go between the look at names and the look at objects."""
        monkeypatch.setattr(storage, "by_ids", read)
        for name in "ab":
            delete_object("idcs", name, write=write)
        return read(ids)

    monkeypatch.setattr(storage, "by_ids", late)
    first = storage.page(ListQuery(limit=2))
    assert (first.objects, first.next_name) == ([], "b")
    rest = storage.page(ListQuery(limit=2, after=first.next_name))
    assert [o["metadata"]["name"] for o in rest.objects] == ["c", "d"]
