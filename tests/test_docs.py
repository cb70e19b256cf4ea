"""The documentation says what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from fleet.dev.kinds_docs import pages

ROOT = Path(__file__).resolve().parent.parent


def test_the_pages_of_kinds_are_those_of_the_schemas() -> None:
    stale = [path.name for path, text in pages().items() if not path.exists() or path.read_text() != text]
    assert stale == [], "run: python -m fleet.dev.kinds_docs"


def test_every_setting_stands_in_the_table() -> None:
    names = set(re.findall(r'env\.\w+\("([A-Z_]+)"', (ROOT / "fleet" / "settings.py").read_text()))
    table = (ROOT / "docs" / "settings.md").read_text()
    assert [n for n in sorted(names) if f"`{n}`" not in table] == []


def test_links_between_pages_lead_somewhere() -> None:
    broken = []
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []
