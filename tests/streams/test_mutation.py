"""The histories of test_delivery notice what they are there to notice.

All rules: ``python -m tests.streams.mutation``. Here are the ones that are found soonest, one of each
sort: a patched rule, another world, other arithmetic.
"""

from __future__ import annotations

import pytest

from sinks.clickhouse import Sink
from sinks.schema import TABLES
from tests.streams.mutation import MUTATIONS, Mutation, hunt

SOON = [
    mutation
    for mutation in MUTATIONS
    if mutation.name.startswith(("1 what is committed", "5 sequence numbers", "10 sketches"))
]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutation", SOON, ids=[mutation.name for mutation in SOON])
def test_a_rule_that_is_left_out_is_noticed(sink: Sink, mutation: Mutation) -> None:
    caught = hunt(sink, mutation, most=40, tries=0)
    assert caught is not None
    assert caught.mismatch


def test_mutations_have_names_of_their_own() -> None:
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)


def test_a_planted_table_is_put_back(sink: Sink) -> None:
    """Also when what runs in between fails."""
    planted = next(mutation for mutation in MUTATIONS if mutation.name.startswith("calls: the last"))
    engine = "SELECT engine FROM system.tables WHERE database = 'gatewatch_store' AND name = 'calls'"
    with pytest.raises(RuntimeError), planted.plant(sink):
        assert sink.rows(engine)[0][0] == "ReplacingMergeTree"
        raise RuntimeError
    declared = next(table for table in TABLES if table.name == "calls").engine
    assert sink.rows(engine)[0][0] == declared
