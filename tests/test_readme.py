"""The first page: what it links to is there, and every document is linked."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_every_document_is_linked_and_every_link_leads_somewhere() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    linked = {link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link}
    assert [link for link in sorted(linked) if not (ROOT / link).exists()] == []
    documents = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    # A table that belongs to docs/traffic.md.
    assert documents - linked == {"docs/traffic_profile.md"}
