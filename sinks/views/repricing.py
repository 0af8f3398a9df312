"""The view ``reprices``: what `gatewatch reprice` did, and which of its runs have not ended."""

from __future__ import annotations

from typing import Final

from sinks.schema import STORE
from sinks.view import View, usd

__all__ = ["VIEWS"]

_REPRICES: Final = f"""\
SELECT
    started_at, if(state = 2, finished_at, NULL) AS finished_at,
    range_from, range_until, providers, models, tenants, price_version,
    if(state = 2, calls, NULL) AS calls,
    if(state = 2, changed, NULL) AS changed_calls,
    if(state = 2, {usd("before_nano_usd")}, NULL) AS before_usd,
    if(state = 2, {usd("after_nano_usd")}, NULL) AS after_usd,
    toString(run) AS run
FROM {STORE}.reprices FINAL"""

VIEWS: Final = (View("reprices", "One row for each run of `gatewatch reprice`.", _REPRICES),)
