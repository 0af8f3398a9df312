"""genai-prices' table as the data file that gatewatch prices from.

The package genai-prices (MIT) is needed to make ``gatewatch/price_data/genai_prices.json`` and nowhere else:
neither the worker nor the wheel imports it, and nothing is fetched. Upgrading prices is raising its
version in ``pyproject.toml``, ``make lock generate``, and reading the difference of that file.

Here its objects are put into the form in which it publishes them; :mod:`gatewatch.price_list` does the rest,
for this file and for `gatewatch prices import` alike.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
from datetime import date, time
from typing import Any, Final

from genai_prices.data import providers
from genai_prices.types import ModelPrice

from gatewatch.price_list import list_document

__all__ = ["price_file", "published"]

# How data is read from answers; of no use to prices.
_LEFT_OUT: Final = frozenset({"extractors", "model_match"})


def price_file() -> str:
    """``gatewatch/price_data/genai_prices.json``: a model a line, so that a change of prices can be read."""
    return list_document(
        [published(provider) for provider in providers], importlib.metadata.version("genai-prices")
    )


def published(value: object) -> Any:
    """An object of genai-prices as its ``prices/data.json`` has it, decimals as they are."""
    if isinstance(value, ModelPrice):
        return {key: published(rate) for key, rate in value.__dict__.items() if rate is not None}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            part.name.removesuffix("_"): published(inner)
            for part in dataclasses.fields(value)
            if part.name not in _LEFT_OUT and (inner := getattr(value, part.name)) is not None
        }
    if isinstance(value, list | tuple):
        return [published(inner) for inner in value]
    if isinstance(value, date | time):
        return value.isoformat()
    return value
