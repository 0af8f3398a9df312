"""The pipeline family: what the pipeline knows of itself from the events.

What only a running worker knows (lag, insert errors, rows written) is in the ``workers`` table and
on ``/metrics``; sequence gaps and duplicates of emitters are in the ``emitters`` view.
"""

from __future__ import annotations

from typing import Final

from signals.signal import Signal

__all__ = ["SIGNALS"]

SIGNALS: Final = (
    Signal(
        name="pipeline_events_count",
        family="pipeline",
        stat="count",
        unit="events",
        label="kind",
        cuts=("gateway",),
        description="Events that were taken in, by kind.",
    ),
    Signal(
        name="pipeline_rejects_count",
        family="pipeline",
        stat="count",
        unit="lines",
        label="reason",
        cuts=("all",),
        description="Lines that are no events, by reason; each is a dead letter.",
    ),
    Signal(
        name="pipeline_late_events_count",
        family="pipeline",
        stat="count",
        unit="events",
        cuts=("gateway",),
        description="Events that reached the broker later than the grace period after their own time.",
    ),
    Signal(
        name="pipeline_duplicate_events_count",
        family="pipeline",
        stat="count",
        unit="events",
        cuts=("gateway",),
        description="Events that a chunk had seen before, by emitter and number; aggregates leave them out.",
    ),
)
