"""Views of the ledger of prices: the rates that hold, and how the prices came to be what they are."""

from __future__ import annotations

from typing import Final

from sinks.schema import STORE
from sinks.view import View

__all__ = ["VIEWS"]

# An insert that is repeated after its answer was lost is the same row; of two that differ, which the engine
# does not let happen, the first holds.
_FIRST: Final = f"""\
SELECT * EXCEPT (list, declared, contracts) FROM {STORE}.price_versions
ORDER BY version, made_at, digest LIMIT 1 BY version"""

# Before any other takes effect, and before its own time, the first version holds.
_IN_EFFECT: Final = f"""\
(SELECT if(countIf(takes_effect_at <= now64(3)) = 0, min(version),
    argMaxIf(version, (takes_effect_at, version), takes_effect_at <= now64(3)))
FROM {STORE}.price_versions)"""

_VERSIONS: Final = f"""\
SELECT version, made_at, takes_effect_at, ifNull(version = {_IN_EFFECT}, 0) AS is_in_effect,
    source, contract_count, note, digest
FROM ({_FIRST})"""

_DOCUMENTS: Final = f"""\
SELECT version, ifNull(version = {_IN_EFFECT}, 0) AS is_in_effect, list, declared, contracts
FROM (SELECT * FROM {STORE}.price_versions ORDER BY version, made_at, digest LIMIT 1 BY version)"""

_PRICES: Final = f"""\
SELECT version, provider, model, service_tier, component, usd_per_unit, unit, above_input_tokens, daily,
    nullIf(valid_from, toDateTime64(0, 3, 'UTC')) AS valid_from, valid_to,
    tenant, deployment, contract_id, adjust_bp, same_as, kind, source, source_date
FROM {STORE}.prices FINAL
WHERE version = {_IN_EFFECT}"""

VIEWS: Final = (
    View("prices", "One row for each rate of the prices in effect, with where it comes from.", _PRICES),
    View("price_versions", "One row for each version of the prices.", _VERSIONS),
    View("price_documents", "What each version of the prices holds, as programs read it.", _DOCUMENTS),
)
