"""The cost family: what calls cost, and whatever keeps a cost from being whole.

Each number is taken from the event that ended its call, as :mod:`signals.cost` priced it. Money is whole
nano-USD. Shares are made by whoever reads: of calls with the ``n`` of ``cost_status_count``, of tokens with
the performance family's sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from signals.column import RANK_ESTIMATED, RANK_PROVIDER, RANK_SHIFT, coded, numbers
from signals.cost import AMOUNT_BITS, COLUMNS, CONTRADICTION, STATUSES, statuses
from signals.signal import Selected, Signal

__all__ = ["PARTS", "SIGNALS", "select"]

PARTS: Final = tuple(column.removeprefix("cost_") for column in COLUMNS)
"""Labels of ``cost_parts_sum``."""

_WHO_AND_WHAT: Final = ("gateway", "model", "tenant", "team")
_SPEND: Final = Signal(
    name="cost_spend_sum",
    family="cost",
    stat="sum",
    unit="nano_usd",
    description="What calls cost; n counts those whose cost is known, be it in part.",
)
_PARTS: Final = Signal(
    name="cost_parts_sum",
    family="cost",
    stat="sum",
    unit="nano_usd",
    label="part",
    cuts=_WHO_AND_WHAT,
    description="The same by part: `input`, `cache_read`, `cache_write`, `output`, `reasoning`, `other`.",
)
_STATUS: Final = Signal(
    name="cost_status_count",
    family="cost",
    stat="count",
    unit="calls",
    label="cost_status",
    cuts=_WHO_AND_WHAT,
    description="Calls that ended, by how much is known of their cost.",
)
_UNPRICED: Final = Signal(
    name="cost_unpriced_tokens_sum",
    family="cost",
    stat="sum",
    unit="tokens",
    cuts=_WHO_AND_WHAT,
    description="Input and output tokens of calls that have no price.",
)
_USAGE: Final = Signal(
    name="cost_usage_count",
    family="cost",
    stat="count",
    unit="calls",
    label="usage_source",
    cuts=_WHO_AND_WHAT,
    description="Calls that ended, by where their usage comes from: `provider`, `estimated` or `missing`.",
)
_ZERO: Final = Signal(
    name="cost_zero_count",
    family="cost",
    stat="count",
    unit="calls",
    cuts=_WHO_AND_WHAT,
    description="Calls that used tokens, are not free, and cost nothing.",
)
_CONTRADICTORY: Final = Signal(
    name="cost_contradictory_count",
    family="cost",
    stat="count",
    unit="calls",
    cuts=_WHO_AND_WHAT,
    description="Calls whose counts contradict each other, such as more cached input than input: not priced.",
)
_REPORTED: Final = Signal(
    name="cost_reported_sum",
    family="cost",
    stat="sum",
    unit="nano_usd",
    cuts=_WHO_AND_WHAT,
    description="What the gateway itself says that calls cost, where they have a price and it can be one.",
)
_REPORTED_OURS: Final = Signal(
    name="cost_reported_ours_sum",
    family="cost",
    stat="sum",
    unit="nano_usd",
    cuts=_WHO_AND_WHAT,
    description="What the same calls cost by their prices.",
)

SIGNALS: Final = (
    _SPEND,
    _PARTS,
    _STATUS,
    _UNPRICED,
    _USAGE,
    _ZERO,
    _CONTRADICTORY,
    _REPORTED,
    _REPORTED_OURS,
)

Ints = NDArray[np.int64]

_AMOUNT: Final = (1 << AMOUNT_BITS) - 1
_COUNT: Final = (1 << RANK_SHIFT) - 1
_UNPRICED_STATUS: Final = STATUSES.index("unpriced") + 1
_REPORTED_STATUS: Final = STATUSES.index("provider_reported") + 1
_FREE_STATUS: Final = STATUSES.index("free") + 1


class _Costs:
    """What the signals have in common of a table of call events."""

    def __init__(self, table: pa.Table) -> None:
        of, prices = coded(table, "price")
        status, reason = statuses(prices)
        self.status: Ints = np.array(status, dtype=np.int64)[of]
        self.contradicts: NDArray[np.bool_] = np.array([r.startswith(CONTRADICTION) for r in reason])[of]
        self.parts: dict[str, Ints] = {
            part: table[column].to_numpy() & _AMOUNT for part, column in zip(PARTS, COLUMNS, strict=True)
        }
        self.total: Ints = sum(self.parts.values(), np.zeros(table.num_rows, dtype=np.int64))
        used = [numbers(table, name) for name in ("input_tokens", "output_tokens")]
        self.rank: Ints = np.maximum(*used) >> RANK_SHIFT
        self.tokens: Ints = (used[0] & _COUNT) + (used[1] & _COUNT)
        self.reported = numbers(table, "reported_cost_nano_usd")

    @property
    def ended(self) -> NDArray[np.bool_]:
        return self.status > 0

    @property
    def known(self) -> NDArray[np.bool_]:
        """Rows whose cost is known, be it in part."""
        return self.status > _UNPRICED_STATUS

    @property
    def ours(self) -> NDArray[np.bool_]:
        """Rows for which there are two costs: the gateway's, if it can be one, and one by a price."""
        possible = (self.reported > 0) & (self.reported <= 1 << AMOUNT_BITS)
        ours: NDArray[np.bool_] = self.known & (self.status != _REPORTED_STATUS) & possible
        return ours


def select(table: pa.Table) -> Iterator[tuple[Signal, Selected]]:
    """What the signals take from call events, encoded as :mod:`signals.cost` says.

    A table that was not priced has nothing for them.
    """
    if "price" not in table.column_names:
        return
    costs = _Costs(table)
    for signal in SIGNALS:
        for selected in _SELECT[signal.name](costs):
            yield signal, selected


def _spend(costs: _Costs) -> Iterator[Selected]:
    rows = np.flatnonzero(costs.known)
    yield "", rows, costs.total[rows]


def _parts(costs: _Costs) -> Iterator[Selected]:
    for part, amount in costs.parts.items():
        rows = np.flatnonzero(amount)
        yield part, rows, amount[rows]


def _status(costs: _Costs) -> Iterator[Selected]:
    for code, status in enumerate(STATUSES, 1):
        yield status, np.flatnonzero(costs.status == code), None


def _unpriced(costs: _Costs) -> Iterator[Selected]:
    rows = np.flatnonzero((costs.status == _UNPRICED_STATUS) & (costs.tokens > 0))
    yield "", rows, costs.tokens[rows]


def _usage(costs: _Costs) -> Iterator[Selected]:
    yield "provider", np.flatnonzero(costs.ended & (costs.rank == RANK_PROVIDER)), None
    yield "estimated", np.flatnonzero(costs.ended & (costs.rank == RANK_ESTIMATED)), None
    yield "missing", np.flatnonzero(costs.ended & (costs.rank < RANK_ESTIMATED)), None


def _zero(costs: _Costs) -> Iterator[Selected]:
    charged = costs.known & (costs.status != _FREE_STATUS)
    yield "", np.flatnonzero(charged & (costs.total == 0) & (costs.tokens > 0)), None


def _contradictory(costs: _Costs) -> Iterator[Selected]:
    yield "", np.flatnonzero(costs.contradicts), None


def _reported(costs: _Costs) -> Iterator[Selected]:
    rows = np.flatnonzero(costs.ours)
    yield "", rows, costs.reported[rows] - 1


def _reported_ours(costs: _Costs) -> Iterator[Selected]:
    rows = np.flatnonzero(costs.ours)
    yield "", rows, costs.total[rows]


_SELECT: Final[Mapping[str, Callable[[_Costs], Iterator[Selected]]]] = {
    _SPEND.name: _spend,
    _PARTS.name: _parts,
    _STATUS.name: _status,
    _UNPRICED.name: _unpriced,
    _USAGE.name: _usage,
    _ZERO.name: _zero,
    _CONTRADICTORY.name: _contradictory,
    _REPORTED.name: _reported,
    _REPORTED_OURS.name: _reported_ours,
}
