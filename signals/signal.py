"""What a signal is: one declaration from which rows, views, panels and alert rules follow.

A signal is aggregated over *cuts*: the sets of dimensions by which somebody looks at it. Each cut's
series are exact on their own, so no cut has to be rebuilt from another's capped series.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from msgspec import Struct

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["CUTS", "DIMENSIONS", "OTHER", "Cut", "Family", "Selected", "Signal", "Stat"]

Family: TypeAlias = Literal["performance", "cost", "pipeline"]
Stat: TypeAlias = Literal["count", "sum", "sketch"]
Selected: TypeAlias = "tuple[str, NDArray[np.int64], NDArray[np.int64] | None]"
"""What a signal takes from a batch: a label, the rows that count for it, and their values, if it has any."""

DIMENSIONS: Final = ("gateway", "provider", "model", "deployment", "operation", "tenant", "team")

OTHER: Final = "__other__"
"""Stands in every dimension of the series that takes what is past a cut's limit."""


class Cut(Struct, frozen=True):
    """A set of dimensions to aggregate by.

    The total over everything needs no cut of its own: ``gateway`` adds up to it exactly.
    """

    name: str
    dimensions: tuple[str, ...]


CUTS: Final = (
    Cut("gateway", ("gateway",)),
    Cut("model", ("provider", "model")),
    Cut("deployment", ("provider", "model", "deployment")),
    Cut("operation", ("operation",)),
    Cut("tenant", ("tenant",)),
    Cut("team", ("tenant", "team")),
    Cut("tenant_model", ("tenant", "provider", "model")),
)

SERIES_BITS: Final = 18
"""A chunk numbers its series with so many bits."""
SERIES_LIMIT_MOST: Final = ((1 << SERIES_BITS) - 1) // (len(CUTS) + 1)
"""The largest ``series_limit``: so many series of every cut, and ``__other__`` in each, have a number."""

SHARDS: Final = 16
"""Shards of series, by hash; also the number of partitions of ``gatewatch.progress.v1``."""


class Signal(Struct, frozen=True, kw_only=True):
    """One thing that is measured.

    ``stat`` says what is stored beside ``n``, the number of events that count: ``count`` nothing
    more, ``sum`` the integer sum, ``sketch`` the sum and a :mod:`signals.sketch` of the values.
    """

    name: str
    """``family_subject_stat``."""
    family: Family
    stat: Stat
    unit: str
    """Unit of the stored sum: ``calls``, ``tokens``, ``us``, ``nano_usd``."""
    label: str = ""
    """What the label of each row says, where the signal has one: ``error_class``, ``stream_end``, ..."""
    cuts: tuple[str, ...] = tuple(cut.name for cut in CUTS)
    description: str
