"""The performance family: calls, errors, tokens, times and cut streams.

Each number is taken from whichever event carries it, so a gateway may send one ``call`` event or
the parts of a call, as long as it sends each number once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import pyarrow as pa

from gatewatch.events import Call, Response
from signals.column import CALL_KINDS, RANK_ESTIMATED, RANK_SHIFT, coded
from signals.signal import Selected, Signal

__all__ = ["SIGNALS", "select"]

_CALLS = Signal(
    name="performance_calls_count",
    family="performance",
    stat="count",
    unit="calls",
    description="Calls that ended, well or not.",
)
_ERRORS = Signal(
    name="performance_errors_count",
    family="performance",
    stat="count",
    unit="calls",
    label="error_class",
    description="Calls that ended with an error, by class.",
)
_STREAMS_CUT = Signal(
    name="performance_streams_cut_count",
    family="performance",
    stat="count",
    unit="calls",
    label="stream_end",
    description="Streams that did not complete: the client left, the provider failed, or time ran out.",
)
_INPUT_TOKENS = Signal(
    name="performance_input_tokens_sum",
    family="performance",
    stat="sum",
    unit="tokens",
    description="Input tokens, cached ones included; n counts the calls whose usage is known.",
)
_OUTPUT_TOKENS = Signal(
    name="performance_output_tokens_sum",
    family="performance",
    stat="sum",
    unit="tokens",
    description="Output tokens, reasoning included; n counts the calls whose usage is known.",
)
_TTFT = Signal(
    name="performance_ttft_us",
    family="performance",
    stat="sketch",
    unit="us",
    description="From a call's start to its first generated token.",
)
_TPOT = Signal(
    name="performance_tpot_us",
    family="performance",
    stat="sketch",
    unit="us",
    description="Time per output token: (total - ttft) / (output tokens - 1).",
)
_LATENCY = Signal(
    name="performance_latency_us",
    family="performance",
    stat="sketch",
    unit="us",
    description="From a call's start to its end as the caller saw it.",
)

SIGNALS: Final = (
    _CALLS,
    _ERRORS,
    _STREAMS_CUT,
    _INPUT_TOKENS,
    _OUTPUT_TOKENS,
    _TTFT,
    _TPOT,
    _LATENCY,
)


def select(table: pa.Table) -> Iterator[tuple[Signal, Selected]]:
    """What the signals take from call events, encoded as :mod:`signals.column` says."""
    for signal in SIGNALS:
        for selected in _SELECT[signal.name](table):
            yield signal, selected


def _ended(table: pa.Table) -> Iterator[Selected]:
    parts = table["parts"].to_numpy()
    yield "", np.flatnonzero(parts & (CALL_KINDS[Response] | CALL_KINDS[Call])), None


def _labelled(column: str, *, without: str = "") -> Callable[[pa.Table], Iterator[Selected]]:
    def select_labelled(table: pa.Table) -> Iterator[Selected]:
        of_row, labels = coded(table, column)
        for code in np.unique(of_row).tolist():
            if labels[code] and labels[code] != without:
                yield labels[code], np.flatnonzero(of_row == code), None

    return select_labelled


def _tokens(column: str) -> Callable[[pa.Table], Iterator[Selected]]:
    def select_tokens(table: pa.Table) -> Iterator[Selected]:
        if column in table.column_names:
            encoded = table[column].to_numpy()
            # What a running stream has produced so far is no call's total.
            rows = np.flatnonzero(encoded >> RANK_SHIFT >= RANK_ESTIMATED)
            yield "", rows, encoded[rows] & ((1 << RANK_SHIFT) - 1)

    return select_tokens


def _times(column: str) -> Callable[[pa.Table], Iterator[Selected]]:
    def select_times(table: pa.Table) -> Iterator[Selected]:
        if column in table.column_names:
            encoded = table[column].to_numpy()
            rows = np.flatnonzero(encoded)
            yield "", rows, encoded[rows] - 1

    return select_times


_SELECT: Final = {
    _CALLS.name: _ended,
    _ERRORS.name: _labelled("error_class"),
    _STREAMS_CUT.name: _labelled("stream_end", without="complete"),
    _INPUT_TOKENS.name: _tokens("input_tokens"),
    _OUTPUT_TOKENS.name: _tokens("output_tokens"),
    _TTFT.name: _times("ttft_us"),
    _TPOT.name: _times("tpot_us"),
    _LATENCY.name: _times("total_us"),
}
