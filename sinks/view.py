"""What a view is, and what the statements of several have in common."""

from __future__ import annotations

from msgspec import Struct

from sinks.schema import VIEWS

__all__ = ["View", "create_view", "usd"]


class View(Struct, frozen=True):
    """A view: its query and, for the catalogue, what a row of it is."""

    name: str
    purpose: str
    query: str


def create_view(view: View) -> str:
    """The statement that creates or replaces a view."""
    return f"CREATE OR REPLACE VIEW {VIEWS}.{view.name} AS\n{view.query}"


def usd(nano: str) -> str:
    """Nano-USD as dollars, exactly."""
    return f"CAST(toDecimal128({nano}, 9) / 1000000000, 'Decimal(38, 9)')"
