"""Writes docs/kinds/<kind>.md from the kinds' own schemas, so that the pages cannot say anything else. `python -m fleet.dev.kinds_docs`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import yaml

from fleet.control.kinds import Json, Kind, kinds

FOLDER = Path(__file__).resolve().parent.parent.parent / "docs" / "kinds"
_WRITERS = {
    "operator": "an operator in its cluster",
    "admin": "an admin",
    "approver": "an approver",
    "viewer": "a viewer",
}


def page(kind: Kind) -> str:
    """One page."""
    lines = [f"# {kind.kind}", "", kind.description, ""]
    who = "Fleet alone; it is read-only" if kind.read_only else _WRITERS[kind.writers]
    scope = f"scoped by `{kind.cluster_field}`" if kind.cluster_field else "not scoped by cluster"
    names = ", ".join(f"`{n}`" for n in (kind.plural, kind.singular, *kind.short_names))
    lines += [
        f"kubectl knows it as {names}. It is written by {who}, {scope}{'; its spec never changes' if kind.immutable else ''}.",
        "",
    ]
    if kind.example:
        lines += [
            "```yaml",
            yaml.safe_dump(kind.example, sort_keys=False, allow_unicode=True, width=100).strip(),
            "```",
            "",
        ]
    for part, schema in (("spec", kind.spec), ("status", kind.status)):
        rows = list(_rows(schema, part))
        if rows:
            lines += [f"## {part}", "", "| Field | Type | Meaning |", "|---|---|---|", *rows, ""]
    if kind.selectable:
        lines += ["Field selectors: " + ", ".join(f"`{s}`" for s in ("metadata.name", *kind.selectable)) + ".", ""]
    return "\n".join(lines)


def _rows(schema: Json, path: str) -> Iterator[str]:
    required = set(schema.get("required", ()))
    for name, inner in schema.get("properties", {}).items():
        here = f"{path}.{name}"
        text = " ".join(str(inner.get("description", "")).split())
        if "enum" in inner:
            text += f" One of {', '.join(map(str, inner['enum']))}."
        if name in required:
            text += " Required."
        yield f"| `{here}` | {_type(inner)} | {text.strip().replace('|', chr(92) + '|')} |"
        if inner.get("type") == "object":
            yield from _rows(inner, here)
        elif inner.get("type") == "array" and isinstance(inner.get("items"), dict):
            yield from _rows(inner["items"], f"{here}[]")


def _type(schema: Json) -> str:
    if "anyOf" in schema:
        return " or ".join(o["type"] for o in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"map to {_type(schema['additionalProperties'])}"
    return str(schema.get("type", "any"))


def pages() -> dict[Path, str]:
    """All pages by file."""
    out = {FOLDER / f"{k.singular}.md": page(k) for k in kinds().values()}
    listing = "\n".join(f"- [{k.kind}]({k.singular}.md): {k.description}" for k in kinds().values())
    toc = "\n".join(k.singular for k in kinds().values())
    out[FOLDER / "index.md"] = f"# Kinds\n\n{listing}\n\n```{{toctree}}\n:hidden:\n\n{toc}\n```\n"
    return out


def main() -> None:
    """Write them."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fleet.settings")
    os.environ.setdefault("FLEET_SECRET_KEY", "documentation")
    import django

    django.setup()
    for path, text in pages().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
