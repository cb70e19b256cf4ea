"""The continue token of a page, found without reading the page."""

from __future__ import annotations

import orjson
import pytest

from clusters.kube import continue_of

ITEM = {"metadata": {"name": "n", "annotations": {"note": '"continue":"not mine"'}}}


def page(meta: object, *, first: str = "metadata") -> bytes:
    parts = {"metadata": meta, "items": [ITEM] * 100}
    return orjson.dumps({"kind": "NodeList", first: parts.pop(first), **parts})


@pytest.mark.parametrize(
    ("body", "token"),
    [
        pytest.param(page({"resourceVersion": "7", "continue": "abc=", "remainingItemCount": 3}), "abc=", id="there"),
        pytest.param(page({"resourceVersion": "7"}), "", id="not there, though an item speaks of it"),
        pytest.param(page({"resourceVersion": "7", "continue": ""}), "", id="empty"),
        pytest.param(page({"continue": "abc"}, first="items"), "abc", id="after the items"),
        pytest.param(page({"continue": 'a"b'}), 'a"b', id="escaped"),
        pytest.param(orjson.dumps({"metadata": {"continue": "x"}, "items": None}), "x", id="no items"),
        pytest.param(b'{"metadata": {"continue": "x y"}, "items": []}', "x y", id="written with spaces"),
        pytest.param(page({"selfLink": "/" * 5_000, "continue": "far"}), "far", id="a long head"),
    ],
)
def test_the_token_of_a_page(body: bytes, token: str) -> None:
    assert continue_of(body) == token
