"""The columns of FOCUS 1.4, dataset Cost and Usage, and what we put into each.

The newest release that could be found is 1.4 (June 2026). It has 65 columns; those that are conditional on
something that a gateway has not (commitments, reservations, regions, invoices) are declared here with the
reason, and left out of the file, as the specification wants it. Columns of our own begin with ``x_``.

The metadata that the specification asks for beside the data (:func:`metadata`) comes from the same table.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

import pyarrow as pa
from msgspec import Struct

__all__ = [
    "COLUMNS",
    "FOCUS_VERSION",
    "GENERATOR",
    "TAG_PREFIX",
    "WRITTEN",
    "Column",
    "Kind",
    "Level",
    "arrow_schema",
    "metadata",
]

FOCUS_VERSION: Final = "1.4"
GENERATOR: Final = "gatewatch"
GENERATOR_VERSION: Final = "1"
"""Of the logic that makes rows: raised when the same calls would give other rows."""
TAG_PREFIX: Final = "gatewatch/"
"""Begins the keys of the tags that we add to those of the calls."""

Kind: TypeAlias = Literal["string", "decimal", "datetime", "json"]
Level: TypeAlias = Literal["mandatory", "conditional", "recommended", "custom"]

_DIGITS: Final = 38


class Column(Struct, frozen=True):
    """A column of the specification, or one of our own."""

    name: str
    kind: Kind
    level: Level
    nullable: bool
    value: str
    """What we put in and why; for a column that is left out, why."""
    scale: int = 0
    """Digits after the point, for decimals."""
    allowed: tuple[str, ...] = ()
    written: bool = True


def _column(
    name: str,
    kind: Kind,
    level: Level,
    nullable: bool,
    value: str,
    *,
    scale: int = 0,
    allowed: tuple[str, ...] = (),
) -> Column:
    return Column(name, kind, level, nullable, value, scale, allowed)


def _left_out(name: str, why: str, *, kind: Kind = "string", level: Level = "conditional") -> Column:
    return Column(name, kind, level, True, why, written=False)


_SPLIT: Final = "no cost is split: every row is made of its own calls"
_RESERVED: Final = "gateways reserve no capacity"
_COMMITTED: Final = "commitments with a provider are not known here"
_CURRENCY: Final = "prices and costs are both in US dollars"
_INVOICE: Final = "there is no invoice"

COLUMNS: Final = (
    _left_out("AllocatedMethodDetails", _SPLIT, kind="json", level="recommended"),
    _left_out("AllocatedMethodId", _SPLIT),
    _left_out("AllocatedResourceId", _SPLIT),
    _left_out("AllocatedResourceName", _SPLIT),
    _left_out("AllocatedTags", _SPLIT, kind="json"),
    _left_out("AvailabilityZone", "a call does not say where it was served", level="recommended"),
    _column(
        "BilledCost",
        "decimal",
        "mandatory",
        False,
        "the cost of the view `calls`, to the nano-dollar: all rows sum to the sum of `cost_usd`",
        scale=9,
    ),
    _column(
        "BillingAccountId",
        "string",
        "mandatory",
        False,
        "`--billing-account`; `gatewatch` where it is not given",
    ),
    _column("BillingAccountName", "string", "mandatory", True, "the same"),
    _left_out("BillingAccountType", "there is one type"),
    _column(
        "BillingCurrency",
        "string",
        "mandatory",
        False,
        "`USD`; contracts in other currencies are converted when a call is priced",
        allowed=("USD",),
    ),
    _column("BillingPeriodEnd", "datetime", "mandatory", False, "the first moment after the month, UTC"),
    _column("BillingPeriodStart", "datetime", "mandatory", False, "the month of the calls' start, UTC"),
    _left_out("CapacityReservationId", _RESERVED),
    _left_out("CapacityReservationStatus", _RESERVED),
    _column(
        "ChargeCategory",
        "string",
        "mandatory",
        False,
        "`Usage`",
        allowed=("Usage", "Purchase", "Tax", "Credit", "Adjustment"),
    ),
    _column(
        "ChargeClass",
        "string",
        "mandatory",
        True,
        "null: a month that was repriced is exported again, as a whole",
        allowed=("Correction",),
    ),
    _column("ChargeDescription", "string", "mandatory", True, "the row in words: model, meter, tier"),
    _column(
        "ChargeFrequency",
        "string",
        "recommended",
        False,
        "`Usage-Based`",
        allowed=("One-Time", "Recurring", "Usage-Based"),
    ),
    _column("ChargePeriodEnd", "datetime", "mandatory", False, "the end of the day or hour, exclusive"),
    _column(
        "ChargePeriodStart",
        "datetime",
        "mandatory",
        False,
        "the day, or the hour with `--grain hour`, in which the calls started, UTC",
    ),
    _left_out("CommitmentDiscountCategory", _COMMITTED),
    _left_out("CommitmentDiscountId", _COMMITTED),
    _left_out("CommitmentDiscountName", _COMMITTED),
    _left_out("CommitmentDiscountQuantity", _COMMITTED, kind="decimal"),
    _left_out("CommitmentDiscountStatus", _COMMITTED),
    _left_out("CommitmentDiscountType", _COMMITTED),
    _left_out("CommitmentDiscountUnit", _COMMITTED),
    _left_out("CommitmentProgramEligibilityDetails", _COMMITTED, kind="json"),
    _column("ConsumedQuantity", "decimal", "conditional", True, "tokens, or requests"),
    _column("ConsumedUnit", "string", "conditional", True, "`Tokens` or `Requests`"),
    _left_out("ContractApplied", _COMMITTED, kind="json"),
    _column(
        "ContractedCost",
        "decimal",
        "mandatory",
        False,
        "ContractedUnitPrice × PricingQuantity, exactly, to the pico-dollar: BilledCost before the cost of "
        "each call was rounded to nano-dollars",
        scale=12,
    ),
    _column(
        "ContractedUnitPrice",
        "decimal",
        "conditional",
        True,
        "the rate at which the calls were priced, contracts included",
        scale=12,
    ),
    _column("EffectiveCost", "decimal", "mandatory", False, "BilledCost: nothing is paid ahead", scale=9),
    _column(
        "HostProviderName",
        "string",
        "mandatory",
        True,
        "ServiceProviderName: who hosts a provider is not said",
    ),
    _left_out("InvoiceDetailId", _INVOICE),
    _left_out("InvoiceId", _INVOICE),
    _column(
        "InvoiceIssuerName",
        "string",
        "mandatory",
        False,
        "`--issuer`, who charges the tenants; `gatewatch` where it is not given. Not the provider, whose own "
        "FOCUS data may stand beside this: the same money would be there twice under one name",
    ),
    _column(
        "ListCost",
        "decimal",
        "mandatory",
        False,
        "ListUnitPrice × PricingQuantity, exactly, to the pico-dollar",
        scale=12,
    ),
    _column(
        "ListUnitPrice",
        "decimal",
        "conditional",
        True,
        "the price list's rate without contracts; ContractedUnitPrice where the list has none for this meter",
        scale=12,
    ),
    _column(
        "PricingCategory",
        "string",
        "conditional",
        True,
        "`Standard`; `Other` where only the cost is known, not a unit price",
        allowed=("Standard", "Dynamic", "Committed", "Other"),
    ),
    _left_out("PricingCurrency", _CURRENCY),
    _left_out("PricingCurrencyContractedUnitPrice", _CURRENCY, kind="decimal"),
    _left_out("PricingCurrencyEffectiveCost", _CURRENCY, kind="decimal"),
    _left_out("PricingCurrencyListUnitPrice", _CURRENCY, kind="decimal"),
    _column(
        "PricingQuantity",
        "decimal",
        "mandatory",
        True,
        "ConsumedQuantity in PricingUnit; the cost itself where the unit is `Dollars`",
        scale=9,
    ),
    _column(
        "PricingUnit",
        "string",
        "mandatory",
        True,
        "`1000000 Tokens`, `Requests`, or `Dollars` where only the cost is known",
    ),
    _left_out("RegionId", "a call does not say where it was served"),
    _left_out("RegionName", "a call does not say where it was served"),
    _column("ResourceId", "string", "conditional", True, "the deployment, null where the calls name none"),
    _column("ResourceName", "string", "conditional", True, "the same"),
    _column(
        "ResourceType",
        "string",
        "conditional",
        True,
        "`Model Deployment`, null without a deployment",
        allowed=("Model Deployment",),
    ),
    _column(
        "ServiceCategory",
        "string",
        "mandatory",
        False,
        "`AI and Machine Learning`",
        allowed=("AI and Machine Learning",),
    ),
    _column("ServiceName", "string", "mandatory", False, "the provider's service, such as `Amazon Bedrock`"),
    _column(
        "ServiceProviderName",
        "string",
        "mandatory",
        False,
        "the provider by its usual name, or as the calls name it; `Not stated` where they name none",
    ),
    _column(
        "ServiceSubcategory",
        "string",
        "recommended",
        False,
        "`Generative AI`",
        allowed=(
            "AI Platforms",
            "Bots",
            "Generative AI",
            "Machine Learning",
            "Natural Language Processing",
            "Other (AI and Machine Learning)",
        ),
    ),
    _column("SkuId", "string", "conditional", True, "`provider/model/meter`"),
    _column("SkuMeter", "string", "conditional", True, "what is counted, such as `Cached Input Tokens`"),
    _column(
        "SkuPriceDetails",
        "json",
        "conditional",
        True,
        "`x_ServiceTier`, and `x_ContextTier` and `x_TimeOfDay` where the price depends on these",
    ),
    _column(
        "SkuPriceId",
        "string",
        "conditional",
        True,
        "SkuId, tier, and the context tier or time of day that the price depends on. The same for all dates "
        "and contracts, which the specification wants; `x_PriceId` tells these apart",
    ),
    _column("SubAccountId", "string", "conditional", True, "the tenant, null where the calls name none"),
    _column("SubAccountName", "string", "conditional", True, "the same"),
    _left_out("SubAccountType", "there is one type"),
    _column(
        "Tags",
        "json",
        "conditional",
        True,
        f"a JSON object: `{TAG_PREFIX}tenant`, `team`, `key_alias`, `gateway` and `environment`, each with "
        "that prefix, and the calls' own tags that `--tag` asks for",
    ),
    _column("x_CallCount", "decimal", "custom", False, "calls of the row; each stands in a row a meter"),
    _column(
        "x_CostStatus",
        "string",
        "custom",
        False,
        "how the cost is known, as in the view `calls`",
        allowed=("priced", "partial", "provider_reported", "free"),
    ),
    _column("x_Environment", "string", "custom", True, "the environment"),
    _column("x_Gateway", "string", "custom", True, "the gateway"),
    _column("x_KeyAlias", "string", "custom", True, "the name of the API key"),
    _column("x_Model", "string", "custom", True, "the model as the calls name it"),
    _column("x_PriceId", "string", "custom", True, "`price_id` of the view `calls`"),
    _column("x_ServiceTier", "string", "custom", True, "the tier as the calls name it"),
    _column("x_Team", "string", "custom", True, "the team"),
    _column(
        "x_UnitPriceSource",
        "string",
        "custom",
        False,
        "`price`, or `cost` where no unit price explains the cost: then the row is priced in dollars",
        allowed=("price", "cost"),
    ),
)
"""Those of the specification by name, then ours by name."""

WRITTEN: Final = tuple(column for column in COLUMNS if column.written)


def arrow_schema() -> pa.Schema:
    """The columns of a Parquet file."""
    return pa.schema([pa.field(column.name, _arrow_type(column), column.nullable) for column in WRITTEN])


def _arrow_type(column: Column) -> pa.DataType:
    match column.kind:
        case "string" | "json":
            return pa.string()
        case "datetime":
            return pa.timestamp("ms", tz="UTC")
        case "decimal":
            return pa.decimal128(_DIGITS, column.scale)


_TYPE_NAMES: Final = {"string": "STRING", "decimal": "DECIMAL", "datetime": "DATETIME", "json": "JSON"}


def metadata(*, written_at: datetime, start: datetime, end: datetime, grain: str) -> dict[str, Any]:
    """What the specification asks to be said beside the data: generator, dataset, schema and recency.

    Parameters
    ----------
    written_at
        When the rows were read, UTC.
    start, end
        The time whose calls are in the data, UTC.
    grain
        ``day`` or ``hour``.
    """
    columns: list[dict[str, Any]] = []
    for column in WRITTEN:
        said: dict[str, Any] = {"ColumnName": column.name, "DataType": _TYPE_NAMES[column.kind]}
        if column.kind == "decimal":
            said |= {"NumericPrecision": _DIGITS, "NumberScale": column.scale}
        elif column.kind == "string":
            said |= {"StringEncoding": "UTF-8"}
        if column.name == "Tags":
            said["ProviderTagPrefixes"] = [TAG_PREFIX]
        columns.append(said)
    version = f"{GENERATOR}/{GENERATOR_VERSION}/FOCUS {FOCUS_VERSION}/{[c.name for c in WRITTEN]}"
    dataset = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{GENERATOR}/CostAndUsage/{grain}"))
    at = written_at.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "DataGenerator": GENERATOR,
        "DatasetInstance": [
            {
                "DatasetInstanceId": dataset,
                "DatasetInstanceName": f"gatewatch cost and usage by {grain}",
                "FocusDatasetId": "CostAndUsage",
            }
        ],
        "Schema": {
            "SchemaId": str(uuid.uuid5(uuid.NAMESPACE_OID, version)),
            "CreationDate": "2026-11-21T00:00:00Z",
            "FocusVersion": FOCUS_VERSION,
            "DataGeneratorVersion": GENERATOR_VERSION,
            "DatasetInstanceId": dataset,
            "ColumnDefinition": columns,
        },
        "Recency": {
            "DatasetInstanceId": dataset,
            "RecencyLastUpdated": at,
            "TimeSectors": [
                {
                    "TimeSectorStart": start.strftime("%Y-%m-%dT%H:%M:%SZ"),
                    "TimeSectorEnd": end.strftime("%Y-%m-%dT%H:%M:%SZ"),
                    # Late events may still change what is over, for as long as calls are kept.
                    "TimeSectorComplete": False,
                    "TimeSectorLastUpdated": at,
                }
            ],
        },
    }
