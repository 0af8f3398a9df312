"""FOCUS 1.4, Cost and Usage, as rules that a file keeps or breaks: what exports are checked with.

Written from the specification, not from ``sinks.focus``: what both say is said twice, on purpose. A rule is
known by a short name, so that a test can say which one a planted fault breaks.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["Fault", "faults", "read"]

Record = Mapping[str, str | None]


def _names(text: str) -> set[str]:
    return set(text.split())


MANDATORY: Final = _names(
    """
    BilledCost BillingAccountId BillingAccountName BillingCurrency BillingPeriodEnd BillingPeriodStart
    ChargeCategory ChargeClass ChargeDescription ChargePeriodEnd ChargePeriodStart ContractedCost
    EffectiveCost HostProviderName InvoiceIssuerName ListCost PricingQuantity PricingUnit
    ServiceCategory ServiceName ServiceProviderName
    """
)
# Of what is conditional, what a gateway meets: usage is measured, unit and list prices, contracts, several
# pricing categories, tenants, deployments, tags.
EXPECTED: Final = MANDATORY | _names(
    """
    ConsumedQuantity ConsumedUnit ContractedUnitPrice ListUnitPrice PricingCategory ResourceId
    ResourceName ResourceType SkuId SkuMeter SkuPriceDetails SkuPriceId SubAccountId SubAccountName Tags
    """
)
KNOWN: Final = EXPECTED | _names(
    """
    AllocatedMethodDetails AllocatedMethodId AllocatedResourceId AllocatedResourceName AllocatedTags
    AvailabilityZone BillingAccountType CapacityReservationId CapacityReservationStatus ChargeFrequency
    CommitmentDiscountCategory CommitmentDiscountId CommitmentDiscountName CommitmentDiscountQuantity
    CommitmentDiscountStatus CommitmentDiscountType CommitmentDiscountUnit
    CommitmentProgramEligibilityDetails ContractApplied InvoiceDetailId InvoiceId PricingCurrency
    PricingCurrencyContractedUnitPrice PricingCurrencyEffectiveCost PricingCurrencyListUnitPrice
    RegionId RegionName ServiceSubcategory SubAccountType
    """
)
DECIMALS: Final = _names(
    """
    BilledCost ConsumedQuantity ContractedCost ContractedUnitPrice EffectiveCost ListCost ListUnitPrice
    PricingQuantity x_CallCount
    """
)
TIMES: Final = {"BillingPeriodEnd", "BillingPeriodStart", "ChargePeriodEnd", "ChargePeriodStart"}
OBJECTS: Final = {"SkuPriceDetails", "Tags"}
NOT_NULL: Final = (
    (MANDATORY - {"BillingAccountName", "ChargeClass", "ChargeDescription", "PricingQuantity", "PricingUnit"})
    - {"HostProviderName"}
) | {"ChargeFrequency", "ServiceSubcategory"}
ALLOWED: Final = {
    "ChargeCategory": {"Usage", "Purchase", "Tax", "Credit", "Adjustment"},
    "ChargeClass": {"Correction"},
    "ChargeFrequency": {"One-Time", "Recurring", "Usage-Based"},
    "PricingCategory": {"Standard", "Dynamic", "Committed", "Other"},
    "ServiceCategory": {
        "AI and Machine Learning",
        "Analytics",
        "Business Applications",
        "Compute",
        "Databases",
        "Developer Tools",
        "Multicloud",
        "Identity",
        "Integration",
        "Internet of Things",
        "Management and Governance",
        "Media",
        "Migration",
        "Mobile",
        "Networking",
        "Security",
        "Storage",
        "Web",
        "Other",
    },
}
AI_SUBCATEGORIES: Final = {
    "AI Platforms",
    "Bots",
    "Generative AI",
    "Machine Learning",
    "Natural Language Processing",
    "Other (AI and Machine Learning)",
}
# Of a usage charge that is no correction.
NOT_NULL_OF_USAGE: Final = (
    *("PricingQuantity", "PricingUnit", "PricingCategory", "SkuId", "SkuPriceId", "SkuMeter"),
    *("ListUnitPrice", "ContractedUnitPrice", "ConsumedQuantity", "ConsumedUnit"),
)
TOGETHER: Final = (
    *(("ConsumedQuantity", "ConsumedUnit"), ("PricingQuantity", "PricingUnit")),
    *(("SubAccountId", "SubAccountName"), ("ResourceId", "ResourceName"), ("ResourceId", "ResourceType")),
    *(("SkuPriceId", "ListUnitPrice"), ("SkuPriceId", "ContractedUnitPrice"), ("SkuPriceId", "SkuId")),
)
NUMBER: Final = re.compile(r"-?\d+(\.\d+)?(E-?\d+)?", re.ASCII)
TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
UNIT: Final = re.compile(r"([1-9]\d* )?[A-Z][a-z]+s", re.ASCII)
NANO: Final = Decimal("1e-9")


class Fault(NamedTuple):
    """A rule that is broken, and where."""

    rule: str
    column: str
    row: int


def read(path: Path) -> list[dict[str, str | None]]:
    """The records of a file, by its ending; of Parquet, as their texts in CSV would be.

    Raises
    ------
    AssertionError
        A column of a Parquet file has another type than its values are of.
    """
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            return [
                {name: value or None for name, value in record.items()}
                for record in csv.DictReader(file, strict=True)
            ]
    table = pq.read_table(path)
    for field in table.schema:
        if field.name in DECIMALS:
            assert pa.types.is_decimal(field.type), field
        elif field.name in TIMES:
            assert pa.types.is_timestamp(field.type), field
            assert field.type.tz == "UTC", field
        else:
            assert pa.types.is_string(field.type), field
    return [{name: _text(value) for name, value in record.items()} for record in table.to_pylist()]


def _text(value: object) -> str | None:
    if isinstance(value, Decimal):
        whole, _, rest = f"{value:f}".partition(".")
        return f"{whole}.{rest.rstrip('0') or 0}"
    if isinstance(value, datetime):
        assert value.utcoffset() == timedelta(0)
        return value.strftime("%Y-%m-%dT%H:%M:%SZ")
    return None if value is None else str(value)


def faults(names: Sequence[str], records: Sequence[Record]) -> set[Fault]:
    """All rules that a file breaks: its header, then row by row (rows from 0; -1 is the header)."""
    found = {Fault("presence", name, -1) for name in EXPECTED - set(names)}
    found |= {Fault("unknown", name, -1) for name in names if name not in KNOWN and not name.startswith("x_")}
    found |= {Fault("repeated", name, -1) for name in names if names.count(name) > 1}
    custom = [index for index, name in enumerate(names) if name.startswith("x_")]
    if custom and min(custom) < len(names) - len(custom):
        found.add(Fault("order", names[min(custom)], -1))
    found |= {
        Fault("name", name, -1) for name in names if not re.fullmatch(r"(x_)?[A-Z][A-Za-z]{1,49}", name)
    }
    parents: dict[str, str] = {}
    categories: dict[str, str] = {}
    for index, record in enumerate(records):
        with localcontext(prec=100):
            found |= {Fault(rule, column, index) for rule, column in _row_faults(record)}
        # A SKU price is one SKU's, and a service of one category, in the whole file.
        for child, parent, seen in (
            ("SkuPriceId", "SkuId", parents),
            ("ServiceName", "ServiceCategory", categories),
        ):
            key = record.get(child)
            if key and seen.setdefault(key, record.get(parent) or "") != (record.get(parent) or ""):
                found.add(Fault("one parent", child, index))
    return found


def _row_faults(record: Record) -> Iterator[tuple[str, str]]:
    get = record.get
    for name, value in record.items():
        if value is None:
            if name in NOT_NULL:
                yield "null", name
            continue
        if not value.strip():
            yield "blank", name
        if name in DECIMALS and not NUMBER.fullmatch(value):
            yield "number", name
        if name in TIMES and not _is_time(value):
            yield "time", name
        if name in OBJECTS:
            yield from ((rule, name) for rule in _object_faults(name, value))
        if value not in ALLOWED.get(name, {value}):
            yield "allowed", name
    if (
        get("ServiceCategory") == "AI and Machine Learning"
        and get("ServiceSubcategory") not in AI_SUBCATEGORIES
    ):
        yield "allowed", "ServiceSubcategory"
    if not re.fullmatch(r"[A-Z]{3}", get("BillingCurrency") or "", re.ASCII):
        yield "currency", "BillingCurrency"
    for name in ("ConsumedUnit", "PricingUnit"):
        if (unit := get(name)) is not None and not UNIT.fullmatch(unit):
            yield "unit", name
    for one, other in TOGETHER:
        if (get(one) is None) != (get(other) is None):
            yield "together", other
    if get("ChargeCategory") in ("Usage", "Purchase") and get("ChargeClass") is None:
        for name in NOT_NULL_OF_USAGE:
            if get(name) is None:
                yield "null of usage", name
    yield from _period_faults(record)
    yield from _cost_faults(record)


def _object_faults(name: str, text: str) -> Iterator[str]:
    try:
        pairs = json.loads(text, object_pairs_hook=list)
    except ValueError:
        pairs = None
    # An object within an object, or a list in it, is a list here.
    if not isinstance(pairs, list) or text.lstrip()[:1] != "{":
        yield "object"
        return
    if any(isinstance(value, list) for _, value in pairs):
        yield "flat"
    if len({key for key, _ in pairs}) < len(pairs):
        yield "unique keys"
    if name == "SkuPriceDetails" and not all(key.startswith("x_") for key, _ in pairs):
        yield "own keys"  # none of those that the specification names applies to tokens


def _is_time(text: str) -> bool:
    if not TIME.fullmatch(text):
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _period_faults(record: Record) -> Iterator[tuple[str, str]]:
    found = {name: record.get(name) or "" for name in TIMES}
    if not all(map(_is_time, found.values())):
        return
    times = {name: datetime.fromisoformat(text) for name, text in found.items()}
    start, end = times["ChargePeriodStart"], times["ChargePeriodEnd"]
    if start >= end:
        yield "period order", "ChargePeriodEnd"
    if not times["BillingPeriodStart"] <= start < times["BillingPeriodEnd"]:
        yield "within", "ChargePeriodStart"
    if not times["BillingPeriodStart"] < end <= times["BillingPeriodEnd"]:
        yield "within", "ChargePeriodEnd"


def _cost_faults(record: Record) -> Iterator[tuple[str, str]]:
    numbers = {
        name: Decimal(text)
        for name in DECIMALS
        if (text := record.get(name)) is not None and NUMBER.fullmatch(text)
    }
    for name in ("ListUnitPrice", "ContractedUnitPrice"):
        if numbers.get(name, Decimal(0)) < 0:
            yield "negative", name
    for cost, price in (("ListCost", "ListUnitPrice"), ("ContractedCost", "ContractedUnitPrice")):
        known = {cost, price, "PricingQuantity"} <= numbers.keys()
        if known and numbers[cost] != numbers[price] * numbers["PricingQuantity"]:
            yield "product", cost
    if {"BilledCost", "EffectiveCost"} <= numbers.keys() and numbers["BilledCost"] != numbers[
        "EffectiveCost"
    ]:
        yield "not covered", "EffectiveCost"
    if {"BilledCost", "ContractedCost", "x_CallCount"} <= numbers.keys():
        # Each call's cost is rounded to nano-dollars, and what two meters share is shared in whole ones.
        apart = abs(numbers["BilledCost"] - numbers["ContractedCost"])
        if apart > (numbers["x_CallCount"] + 1) * NANO:
            yield "rounding", "BilledCost"
    if numbers.get("BilledCost", Decimal(0)) % NANO:
        yield "nano", "BilledCost"
