"""The views that people read: plain names, decoded values, one row a thing.

They hide how rows are stored: encodings, versions, the parts of a call, and the seam between windows
that have closed (``measures``) and windows that are still open (merged from ``chunks``). Panels,
alert rules and documentation use views only; their names and columns are stable. A view may read those
that come before it in :data:`ALL_VIEWS`.
"""

from __future__ import annotations

from typing import Final

from sinks.view import View
from sinks.views import (
    budget,
    call,
    chargeback,
    driver,
    gap,
    infrastructure,
    measure,
    pipeline,
    price,
    repricing,
    saving,
)

__all__ = ["ALL_VIEWS"]

ALL_VIEWS: Final[tuple[View, ...]] = (
    *call.VIEWS,
    *measure.VIEWS,
    *pipeline.VIEWS,
    *repricing.VIEWS,
    *chargeback.VIEWS,
    *driver.VIEWS,
    *gap.VIEWS,
    *infrastructure.VIEWS,
    *saving.VIEWS,
    *budget.VIEWS,
    *price.VIEWS,
)
