"""Answers of the API: bodies in what was accepted, errors as Status objects, streams, compression; the guard around every view."""

from __future__ import annotations

import gzip
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
import yaml
from django.core.exceptions import RequestDataTooBig, SuspiciousOperation
from django.db import InterfaceError, OperationalError, close_old_connections
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse, UnreadablePostError
from django.http.response import HttpResponseBase
from django.views import defaults

from fleet.api import errors, full, negotiation
from fleet.api.errors import ApiError
from fleet.api.jsonbody import MAX_BYTES
from fleet.control.kinds import Json

log = logging.getLogger("fleet.api")
GZIP_FROM = 100_000


class Answer(HttpResponse):
    """A response that can hold several Warning headers; Django's map of headers has room for one of a name."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.warnings: list[str] = []

    def items(self) -> Any:
        return [*super().items(), *(("Warning", w) for w in self.warnings)]


def respond(body: Json, accepted: negotiation.Accepted, code: int = 200, warnings: list[str] | None = None) -> Answer:
    """A JSON (or YAML) answer; Warning headers one per problem."""
    if accepted.is_yaml:
        data = yaml.safe_dump(body, sort_keys=False).encode()
    else:
        data = orjson.dumps(body) + b"\n"
    response = Answer(data, status=code, content_type=accepted.content_type)
    for warning in warnings or []:
        text = warning.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ").replace("\r", " ")
        response.warnings.append(f'299 - "{text}"'.encode("latin-1", "replace").decode("latin-1"))
    response["Cache-Control"] = "no-cache, private"
    return response


def failure(error: ApiError) -> HttpResponse:
    """A Status object."""
    response = HttpResponse(orjson.dumps(error.status()) + b"\n", status=error.code, content_type="application/json")
    for name, value in error.headers.items():
        response[name] = value
    return response


def stream_of(lines: AsyncIterator[bytes]) -> StreamingHttpResponse:
    """A stream that no proxy holds back."""
    response = StreamingHttpResponse(lines, content_type="application/json")
    response["Cache-Control"] = "no-cache, private"
    response["X-Accel-Buffering"] = "no"
    return response


def squeeze(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    """gzip at a low level for what is big; never a stream."""
    if len(response.content) >= GZIP_FROM and "gzip" in request.headers.get("Accept-Encoding", ""):
        response.content = gzip.compress(response.content, 1)
        response["Content-Encoding"] = "gzip"
        response["Vary"] = "Accept-Encoding"
    return response


_API = ("/apis", "/api", "/openapi", "/version", "/livez", "/readyz", "/healthz", "/metrics")


def refused_early(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's handler400: what is refused before a view is reached (a foreign Host header)."""
    if request.path.startswith(_API):
        return failure(errors.bad_request("the request was refused: its Host header or its form is not accepted"))
    return defaults.bad_request(request, exception)


def failed_early(request: HttpRequest) -> HttpResponse:
    """Django's handler500."""
    return failure(errors.internal()) if request.path.startswith(_API) else defaults.server_error(request)


_AWAY = "Fleet's database does not answer. Try again in a moment."
_UNSURE = " Look first: it may have gone after the change was made."  # between COMMIT and its answer nobody can tell


def guarded(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """Every error is a Status object: refusals as they are, a lost database as 503, a bug as 500 without its trace."""

    def inner(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        close_old_connections()
        try:
            return view(request, *args, **kwargs)
        except ApiError as error:
            return failure(error)
        except RequestDataTooBig:
            return failure(ApiError(413, "RequestEntityTooLarge", f"the body is larger than {MAX_BYTES} bytes"))
        except (SuspiciousOperation, UnreadablePostError) as error:
            return failure(errors.bad_request(str(error) or "the request cannot be read"))
        except (OperationalError, InterfaceError) as error:
            if full.is_full(error):
                return failure(full.refusal(error))
            log.warning(
                "the database did not answer: %s", str(error).splitlines()[0] if str(error) else type(error).__name__
            )
            close_old_connections()
            return failure(errors.unavailable(_AWAY if request.method in ("GET", "HEAD") else _AWAY + _UNSURE))
        except Exception:
            log.exception("unhandled error at %s %s", request.method, request.path)
            return failure(errors.internal())

    inner.__name__ = getattr(view, "__name__", "view")
    return inner
