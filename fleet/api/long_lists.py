"""Lists without a limit: streamed page by page, so that neither the whole list nor its text ever stands in memory."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator
from dataclasses import replace

import orjson
from asgiref.sync import sync_to_async
from django.http import HttpRequest, StreamingHttpResponse
from django.utils import timezone

from fleet.api import table
from fleet.api.redact import redact
from fleet.api.storage import ListQuery, Page, Storage
from fleet.control.kinds import API_VERSION, Json


def streamed(
    request: HttpRequest, storage: Storage, query: ListQuery, first: Page, meta: Json, form: str
) -> StreamingHttpResponse:
    """The rest of a list behind its first page. An error on the way cuts the connection: half a list never looks whole."""
    include = request.GET.get("includeObject", "Metadata")
    lines = _texts(storage, query, first, meta, form, include)
    packed = "gzip" in request.headers.get("Accept-Encoding", "")
    response = StreamingHttpResponse(_gzip(lines) if packed else lines, content_type="application/json")
    response["Cache-Control"] = "no-cache, private"
    response["Vary"] = "Accept-Encoding"
    if packed:
        response["Content-Encoding"] = "gzip"
    return response


async def _texts(
    storage: Storage, query: ListQuery, page: Page, meta: Json, form: str, include: str
) -> AsyncIterator[bytes]:
    head, key = _head(storage, meta, form)
    yield orjson.dumps(head)[:-1] + b',"' + key + b'":['
    separator = b""
    while True:
        shown = _page(storage, page, form, include)
        if shown:
            yield separator + shown
            separator = b","
        if not page.next_name:
            break
        query = replace(query, after=page.next_name)
        page = await sync_to_async(next_page, thread_sensitive=False)(storage, query, form)
    yield b"]}\n"


def next_page(storage: Storage, query: ListQuery, form: str) -> Page:
    """One page, as ready text where the storage has that."""
    plain = storage.text_page(query) if form == "json" else None
    return plain or storage.page(query)


def _head(storage: Storage, meta: Json, form: str) -> tuple[Json, bytes]:
    kind = storage.kind
    if form == "table":
        columns = table.columns_of(kind)
        head = {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "columnDefinitions": columns}
        return head, b"rows"
    if form in ("partial", "partial-list"):
        return {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": meta}, b"items"
    return {"apiVersion": API_VERSION, "kind": f"{kind.kind}List", "metadata": meta}, b"items"


def _page(storage: Storage, page: Page, form: str, include: str) -> bytes:
    """The page's objects, as the inside of a JSON list."""
    kind = storage.kind
    objects = [redact(kind, o) for o in page.objects]
    if form == "table":
        now = timezone.now()
        objects = [table.row(kind, o, include, now) for o in objects]
    elif form in ("partial", "partial-list"):
        objects = [table.partial(o) for o in objects]
    return orjson.dumps(objects)[1:-1]


async def _gzip(texts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    packer = zlib.compressobj(1, wbits=31)
    async for text in texts:
        if packed := packer.compress(text):
            yield packed
    yield packer.flush()
