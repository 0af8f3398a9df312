"""What an hour of a GPU of one's own costs: rows with dates, of which every revision is kept.

A rate holds for the reports of GPUs that it selects (by gateway, deployment, model and name of the
resource, what is empty for all), from a whole hour on until it ends, or until a later row of the same
``rate_id`` begins.
Setting the same ``rate_id`` and ``valid_from`` again corrects that row; the earlier revision stays stored.
The views ``gpu_hours``, ``infrastructure`` and ``infrastructure_calls`` compute everything else.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import msgspec
import pyarrow as pa
from msgspec import Struct

from gatewatch.contract import Contract
from sinks.clickhouse import Sink
from sinks.schema import STORE

__all__ = [
    "CACHE_READ_WEIGHT",
    "HOUR_S",
    "MOST_NANO_USD",
    "OUTPUT_WEIGHT",
    "GpuRate",
    "RateError",
    "check_rate",
    "free_contract",
    "nano_usd",
    "parse_hour",
    "permille",
    "read_rates",
    "save_rate",
]

HOUR_S: Final = 3600
MOST_NANO_USD: Final = 10**14
"""A GPU-hour of more than $100,000 is a mistake, and the views' arithmetic is exact up to there."""
OUTPUT_WEIGHT: Final = 2000
"""An output token weighs as much as two of input: the cost function of Sheng et al., "Fairness in Serving
Large Language Models" (OSDI 2024, arXiv 2401.00588), made to account for the clients of one server."""
CACHE_READ_WEIGHT: Final = 100
"""A cached input token weighs a tenth: the share of input's price that Anthropic and OpenAI (GPT-5) ask."""
_MOST_WEIGHT: Final = 1_000_000
_NAME_MOST: Final = 256
_LATEST_S: Final = 4_102_444_800  # 2100-01-01


class RateError(ValueError):
    """A rate that says nothing, or that cannot be. The message says what to write."""


class GpuRate(Struct, frozen=True, kw_only=True):
    """A row of ``gpu_rates``."""

    rate_id: str
    nano_usd_per_gpu_hour: int
    valid_from_s: int
    """Seconds since 1970 UTC, a whole hour."""
    valid_to_s: int = 0
    """Likewise; 0 is open."""
    gateway: str = ""
    deployment: str = ""
    model: str = ""
    resource: str = ""
    """A name, or with a trailing ``*`` the beginning of one."""
    any_gateway: bool = False
    """Calls come through other gateways than the one that reports the GPUs."""
    output_weight_permille: int = OUTPUT_WEIGHT
    cache_read_weight_permille: int = CACHE_READ_WEIGHT
    source: str = ""
    removed: bool = False
    revision: int = 0
    """Milliseconds since 1970 at which it was set; the largest counts."""


def nano_usd(text: str) -> int:
    """Dollars as whole nano-USD.

    Raises
    ------
    RateError
        It is no number of dollars from 0 to 100,000, or finer than a nano-USD.
    """
    try:
        amount = Decimal(text) * 10**9
    except InvalidOperation:
        raise RateError(f"{text!r} is no number of dollars; write for example 2.49") from None
    if not amount.is_finite() or not 0 <= amount <= MOST_NANO_USD:
        raise RateError(f"{text!r} is not from 0 to {MOST_NANO_USD // 10**9:,} dollars for a GPU-hour")
    if amount != int(amount):
        raise RateError(f"{text!r} is finer than a nano-dollar")
    return int(amount)


def permille(text: str) -> int:
    """A weight as thousandths of an uncached input token's.

    Raises
    ------
    RateError
        It is no number from 0 to 1,000, or finer than a thousandth.
    """
    try:
        weight = Decimal(text) * 1000
    except InvalidOperation:
        raise RateError(f"{text!r} is no weight; write for example 2 or 0.1") from None
    if not weight.is_finite() or not 0 <= weight <= _MOST_WEIGHT or weight != int(weight):
        raise RateError(f"{text!r} is no weight from 0 to 1,000 with at most three decimals")
    return int(weight)


def check_rate(rate: GpuRate) -> None:
    """Raise :class:`RateError` for what cannot be."""
    if not rate.rate_id.strip() or not rate.rate_id.isprintable():
        raise RateError("a rate needs an id of printable characters, such as h100-eu")
    for name in ("rate_id", "gateway", "deployment", "model", "resource", "source"):
        if len(getattr(rate, name)) > _NAME_MOST:
            raise RateError(f"{name} has more than {_NAME_MOST} characters")
    if "*" in rate.resource[:-1] or rate.resource == "*":
        raise RateError("a resource is a name or the beginning of one with a trailing *, such as gpu:*")
    for name in ("gateway", "deployment", "model"):
        if "*" in getattr(rate, name):
            raise RateError(f"a {name} is named in full or left out; only a resource may end in *")
    for at_s in (rate.valid_from_s, rate.valid_to_s):
        if at_s % HOUR_S or not 0 <= at_s < _LATEST_S:
            raise RateError("a rate begins and ends at a whole hour (UTC) from 1970 to 2099")
    if rate.valid_to_s and rate.valid_to_s <= rate.valid_from_s:
        raise RateError("a rate ends after it begins")


def free_contract(provider: str, *, deployment: str = "", model: str = "") -> Contract:
    """The contract row by which calls to a server of one's own cost nothing at a provider's.

    Parameters
    ----------
    provider
        The name under which the calls come: ``vllm``, ...
    deployment, model
        Of the pool of GPUs that serves them; at least one.
    """
    return Contract(
        contract_id=":".join(["own-gpus", provider, *filter(None, (deployment, model))]),
        provider=provider,
        model=model,
        deployment=deployment,
        free=True,
        source="own GPUs: the call's share of their cost is in infrastructure_calls",
    )


def save_rate(sink: Sink, rate: GpuRate) -> None:
    """Store a revision. Repeating it changes nothing.

    Raises
    ------
    RateError, SinkError
        It cannot be, or it may or may not have been stored.
    """
    check_rate(rate)
    row: dict[str, Any] = {
        "rate_id": rate.rate_id,
        "valid_from": rate.valid_from_s,
        "revision": rate.revision,
        "valid_to": rate.valid_to_s,
        "gateway": rate.gateway,
        "deployment": rate.deployment,
        "model": rate.model,
        "resource": rate.resource,
        "any_gateway": int(rate.any_gateway),
        "nano_usd_per_gpu_hour": rate.nano_usd_per_gpu_hour,
        "output_weight_permille": rate.output_weight_permille,
        "cache_read_weight_permille": rate.cache_read_weight_permille,
        "source": rate.source,
        "removed": int(rate.removed),
    }
    table = pa.table({name: [value] for name, value in row.items()})
    time = pa.timestamp("s", "UTC")
    for name in ("valid_from", "valid_to"):
        table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(time))
    sink.insert(f"{STORE}.gpu_rates", table)


def read_rates(sink: Sink) -> list[GpuRate]:
    """The last revision of each rate and date, removed ones included, by id and date."""
    names = [name for name in GpuRate.__struct_fields__ if not name.startswith("valid_")]
    rows = sink.rows(
        "SELECT toInt64(toUnixTimestamp(valid_from)) AS valid_from_s, "
        f"toInt64(toUnixTimestamp(valid_to)) AS valid_to_s, {', '.join(names)} "
        f"FROM {STORE}.gpu_rates FINAL ORDER BY rate_id, valid_from, revision DESC "
        "LIMIT 1 BY rate_id, valid_from"
    )
    names = ["valid_from_s", "valid_to_s", *names]
    return [msgspec.convert(dict(zip(names, row, strict=True)), GpuRate, strict=False) for row in rows]


def parse_hour(text: str, now_s: int) -> int:
    """A whole hour: ``now`` (the hour that runs), or a date with or without an hour, UTC if it does not say.

    Raises
    ------
    RateError
        It is no time, or no whole hour.
    """
    if text == "now":
        return now_s - now_s % HOUR_S
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise RateError(f"{text!r} is no time; write now, 2026-12-01 or 2026-12-01T09:00") from None
    at_s = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if at_s != int(at_s) or int(at_s) % HOUR_S:
        raise RateError(f"{text!r} is not at a whole hour (UTC)")
    return int(at_s)
