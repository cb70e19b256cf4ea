"""Text from templates: Jinja2 in its sandbox, an undefined name is an error. Pure."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any, Final

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from fleet.control.errors import PermanentError
from fleet.control.kinds import Json

LARGEST: Final = 1 << 20  # bytes of what is rendered


class _Environment(ImmutableSandboxedEnvironment):
    """Templates see plain data only: no attribute of a Python object is reachable but keys of mappings."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return isinstance(obj, dict | str | list) and super().is_safe_attribute(obj, attr, value)


_environment: Final = _Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
_environment.globals = {k: v for k, v in _environment.globals.items() if k in ("dict", "namespace", "joiner")}


@lru_cache(maxsize=4_096)
def _compiled(text: str) -> Template:
    return _environment.from_string(text)


def syntax_problem(text: str) -> str:
    """Why the text is no template, with the line; "" = it is one. Whether its names are known shows when it is rendered."""
    try:
        _environment.parse(text)
    except TemplateError as error:
        return f"line {getattr(error, 'lineno', '?')}: {error.message}"
    return ""


def render(text: str, values: Json, where: str) -> str:
    """The text; PermanentError with the template's line when it cannot be rendered. `where`: for people."""
    if "{" not in text:
        return text
    try:
        out = _compiled(text).render(values)
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        at = f", line {line}" if line else ""
        raise PermanentError("TemplateError", f"{where}{at}: {error.message or error}") from error
    except (ArithmeticError, LookupError, TypeError, ValueError, RecursionError, MemoryError) as error:
        raise PermanentError("TemplateError", f"{where}: {type(error).__name__}: {error}") from error
    if len(out) > LARGEST:
        raise PermanentError("TemplateError", f"{where}: what is rendered is larger than 1 MiB")
    return out


def sha256(text: str) -> str:
    """Hex digest of the text as UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()
