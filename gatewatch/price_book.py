"""Prices as data: which price a call has, by provider, model, service tier, time and contract.

A :class:`PriceBook` holds two tables, by default those that ship with the package, and rows of the
owner's own:

- ``price_data/genai_prices.json``, made from genai-prices (MIT) by ``make generate``;
- ``price_data/declared.toml``, kept by hand for what genai-prices lacks, with sources and dates;
- :class:`Contract` rows: negotiated prices, discounts, mark-ups, currencies, free deployments, and what an
  Azure deployment or a Bedrock profile really is.

:meth:`PriceBook.resolve` gives a :class:`Price`, in which everything is a plain integer, or an
:class:`Unpriced` with the reason and the nearest known names. A name that is not known is never
guessed. Nothing is fetched, and nothing here reads a clock.

For columns, resolve once for each distinct (provider, model, service tier, deployment, tenant,
segment) and evaluate ``Price.charges`` on the rows of each; :mod:`gatewatch.pricing` says how. Within a
segment (:meth:`PriceBook.segment`) no price of any model changes.
"""

from __future__ import annotations

import difflib
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from functools import cache
from typing import Final

import msgspec
from msgspec import Struct

from gatewatch.charge import PARTS, TOKEN_RATES, UNCOUNTED, Charge, Gap, Rates, charges_of, scaled, steps_of
from gatewatch.contract import Contract, best_contract, check_contract, contract_rates, names_model
from gatewatch.model_name import SELF_HOSTED, fold, provider_alias, spellings, unresolvable
from gatewatch.price_table import (
    DAY_MS,
    Clause,
    Declared,
    Model,
    PriceError,
    Provider,
    Table,
    Tier,
    day_ms,
    exact_names,
    fixed_rate,
    holds,
    is_match,
    is_weekend,
    minute_ms,
    pattern,
    per_thousand,
    row_at,
    tables,
    within,
)

__all__ = [
    "PARTS",
    "Charge",
    "Contract",
    "Gap",
    "Price",
    "PriceBook",
    "PriceError",
    "Unpriced",
    "default_book",
    "standard_tier",
]

_MAX_NAME: Final = 512
_MEMO: Final = 1 << 12
"""So many look-ups are remembered; names come from outside, and memory must not grow with them."""


class Price(Struct, frozen=True, kw_only=True):
    """What the calls of one model cost, in one tier, within one span of time."""

    price_id: str
    provider: str
    model: str
    service_tier: str
    """``standard``, ``batch``, ``flex``, ``priority``, ..., as asked for."""
    tier_reason: str = ""
    """Where the tier's rates come from, where it is not the standard one."""
    thresholds: tuple[int, ...] = ()
    """Input tokens, cached ones included: a call with *more* pays the next rate for all of its tokens."""
    charges: tuple[Charge, ...] = ()
    gaps: tuple[Gap, ...] = ()
    notes: tuple[str, ...] = ()
    """Why every cost at this price is partial, whatever was used."""
    tools: tuple[str, ...] = ()
    """Names of ``tool_requests`` that a charge or the fact that they are free covers."""
    expects: tuple[str, ...] = ()
    """Of ``input_tokens`` and ``output_tokens``, those that are charged: a cost without them is partial."""
    free: bool = False
    valid_from: str = ""
    """The day from which it holds (UTC), empty where the list does not say."""
    valid_to: str = ""
    """The day on which another price begins, empty where none is known."""
    daily: str = ""
    """The time of day in which it holds, UTC, where the price depends on it."""
    source: str = ""
    source_date: str = ""


class Unpriced(Struct, frozen=True):
    """No price, and why. :meth:`PriceBook.nearest` gives the known names that are near."""

    reason: str
    provider: str = ""
    """The provider as the price list names it; empty where it is the provider that is not known."""
    name: str = ""
    """The name that was looked for, if it could be looked for."""


_STANDARD: Final = frozenset(
    # "auto" is what a request may say; where an answer does not say more, the project's default served it.
    {"", "default", "standard", "auto", "on_demand", "ondemand", "standard_only", "none", "null"}
    | {"not_available", "traffic_type_unspecified", "unspecified", "service_tier_unspecified", "regular"}
)
_TIER_NAMES: Final = {
    "on_demand_flex": "flex",
    "on_demand_priority": "priority",
    "global_batch": "batch",
    "batch_api": "batch",
    "batches": "batch",
    "provisioned_throughput": "provisioned",
    "reserved": "provisioned",
}


def standard_tier(service_tier: str) -> str:
    """One name for a service tier: ``standard``, or ``batch``, ``flex``, ``priority``, ``scale``, ..."""
    name = re.sub(r"[\s-]+", "_", service_tier.strip().lower())
    return "standard" if name in _STANDARD else _TIER_NAMES.get(name, name)


_BOUGHT: Final = frozenset({"scale", "provisioned"})


class _Found(Struct, frozen=True):
    """A model of the price list."""

    provider: Provider
    owner: Provider
    model: Model
    name: str
    route: str


class PriceBook:
    """All prices, and the rows of the owner's own.

    Parameters
    ----------
    contracts
        Rows that override, in the order in which they were made.
    from_tables
        The list and the declared table (:func:`gatewatch.price_table.read_tables`); by default the package's.

    Raises
    ------
    PriceError
        A contract that says nothing, or that cannot be computed.
    """

    def __init__(
        self, contracts: Sequence[Contract] = (), from_tables: tuple[Table, Declared] | None = None
    ) -> None:
        table, declared = from_tables or tables()
        self._table = table
        self._declared = declared
        self._providers = {provider.id: provider for provider in table.providers}
        self._contracts = tuple(contracts)
        self._contract_rates = {row.contract_id: contract_rates(row) for row in self._contracts}
        if len(self._contract_rates) != len(self._contracts):
            raise PriceError("two contracts have the same contract_id")
        for row in self._contracts:
            check_contract(row)
        self.by_tenant = any(row.tenant for row in self._contracts)
        """Whether a price can depend on the tenant; likewise :attr:`by_deployment`."""
        self.by_deployment = any(row.deployment for row in self._contracts)
        self.changes_ms, self.daily_changes_ms = self._changes()
        """Instants at which some price begins or ends, and times of day (from midnight, UTC) likewise."""
        self._memo: dict[tuple[str, str, str, str, str, int], Price | Unpriced] = {}
        self._found: dict[tuple[str, str], _Found | Unpriced] = {}
        self._indexes: dict[str, tuple[dict[str, int], list[int]]] = {}
        self._placed: dict[tuple[str, str], tuple[Price, Price]] = {}

    @property
    def source(self) -> str:
        """The price list and its version, such as ``genai-prices 0.2.3``."""
        return f"{self._table.about.name} {self._table.about.version}"

    @property
    def contracts(self) -> tuple[Contract, ...]:
        """The rows of the owner's own, in their order."""
        return self._contracts

    @property
    def providers(self) -> tuple[Provider, ...]:
        """The providers of the list, with their models."""
        return tuple(self._table.providers)

    def segment(self, at_ms: int) -> int:
        """A number that is the same for all times between which no price changes.

        For a column, with ``day = 86_400_000``: ``(np.searchsorted(book.changes_ms, at_ms, "right") *
        (len(book.daily_changes_ms) + 1) + np.searchsorted(book.daily_changes_ms, at_ms % day, "right")) * 2
        + ((at_ms // day + 3) % 7 >= 5)``. Any time of a segment may stand for all of them.
        """
        daily = self.daily_changes_ms
        date_and_time = bisect_right(self.changes_ms, at_ms) * (len(daily) + 1) + bisect_right(
            daily, at_ms % DAY_MS
        )
        return date_and_time * 2 + is_weekend(at_ms)

    def resolve(
        self,
        provider: str,
        model: str,
        at_ms: int,
        service_tier: str = "",
        *,
        deployment: str = "",
        tenant: str = "",
    ) -> Price | Unpriced:
        """The price of a call.

        Parameters
        ----------
        provider, model
            As the gateway sends them, in any spelling that is in use.
        at_ms
            When the call was made, milliseconds since 1970 UTC: prices have dates and times of day.
        service_tier
            The tier that served the call, as the provider or the gateway names it; empty is standard.
        deployment, tenant
            For contracts only.

        Returns
        -------
        A price or the reason why there is none. Never raises for any strings. Memoised: the same arguments
        within a segment cost a look-up in a dictionary.
        """
        key = (
            provider,
            model,
            service_tier,
            deployment if self.by_deployment else "",
            tenant if self.by_tenant else "",
            self.segment(at_ms),
        )
        found = self._memo.get(key)
        if found is None:
            if len(self._memo) >= _MEMO:
                del self._memo[next(iter(self._memo))]  # the oldest
            found = self._memo[key] = self._resolve(provider, model, at_ms, service_tier, deployment, tenant)
        return found

    def models(self, provider: str) -> list[str]:
        """The names of a provider's models in the price list; empty for a provider that is not known."""
        found = self._provider(provider)
        return [model.id for model in found.models] if isinstance(found, Provider) else []

    def provider_id(self, name: str) -> str | None:
        """The provider's id in the price list, for a name in any spelling; None where it is not known."""
        found = self._provider(name)
        return found.id if isinstance(found, Provider) else None

    def listed_price(
        self, provider: Provider, model: Model, at_ms: int, service_tier: str = "standard"
    ) -> Price | Unpriced:
        """What a model of the list costs, contracts aside: for listing prices, not for pricing calls."""
        return self._listed_price(self._as_found(provider, model), service_tier, at_ms)

    def listed_tiers(self, provider: Provider, model: Model) -> list[str]:
        """The service tiers for which a model has rates at some time, the standard one first."""
        declared = [entry.tier for entry in self._declared_tiers(provider, model)]
        return list(dict.fromkeys(["standard", *declared, *(row.tier for row in model.tiers)]))

    def listed_changes(self, provider: Provider, model: Model) -> list[int]:
        """The midnights, in ms, at which some listed price of a model may change."""
        days = {row.from_ for row in (*model.prices, *model.tiers)}
        for tier in self._declared_tiers(provider, model):
            days |= {tier.from_, tier.to}
        for fee in self._declared.fee:
            if fee.provider == provider.id:
                days |= {fee.from_, fee.to}
        return sorted(day_ms(day) for day in days if day)

    def _declared_tiers(self, provider: Provider, model: Model) -> list[Tier]:
        name = self._as_found(provider, model).name
        return [
            entry
            for entry in self._declared.tier
            if entry.provider == provider.id and is_match(entry.models, name) and name not in entry.except_
        ]

    def _as_found(self, provider: Provider, model: Model) -> _Found:
        """A model as if it had been asked for by a name that it goes by."""
        names = [model.id.lower(), *exact_names(model.match)]
        name = next((name for name in names if is_match(model.match, name)), names[0])
        return _Found(provider, provider, model, name, "")

    # --- names

    def _provider(self, name: str) -> Provider | str:
        """The provider who bills, or why it is not known."""
        text = name.strip().lower()
        if not text:
            return "no provider is named"
        if text in self._providers:
            return self._providers[text]
        alias = provider_alias(name)
        if alias is not None and alias in self._providers:
            return self._providers[alias]
        folded = fold(name)
        for provider in self._providers.values():
            if fold(provider.id) == folded:
                return provider
        if SELF_HOSTED.search(folded):
            return f"{name!r} is a server that somebody runs; give it a price, or make it free, by a contract"
        if "." in text:
            url = text if "://" in text else f"https://{text}"
            for provider in self._providers.values():
                if provider.host and pattern(provider.host).match(url):
                    return provider
        for provider in self._providers.values():
            if provider.match is not None and _names_provider(provider.match, text):
                return provider
        return f"the provider {name!r} is not known"

    def _find(self, provider_name: str, model_name: str) -> _Found | Unpriced:
        key = (provider_name, model_name)
        found = self._found.get(key)
        if found is None:
            if len(self._found) >= _MEMO:
                del self._found[next(iter(self._found))]
            found = self._found[key] = self._look_up(provider_name, model_name)
        return found

    def _look_up(self, provider_name: str, model_name: str) -> _Found | Unpriced:
        if len(model_name) > _MAX_NAME or len(provider_name) > _MAX_NAME:
            return Unpriced(f"a name is longer than {_MAX_NAME} characters")
        if not model_name.strip():
            return Unpriced("no model is named")
        head, slash, rest = model_name.strip().partition("/")
        if fold(provider_name) in _ROUTERS:
            # The gateway is named, and the provider stands in the model's name.
            if not slash or isinstance(self._provider(head), str):
                return Unpriced(
                    f"{provider_name!r} is a gateway and {model_name!r} does not begin with a provider's name"
                )
            provider_name, model_name = head, rest
        provider = self._provider(provider_name)
        if isinstance(provider, str):
            return Unpriced(provider, name=provider_name.strip().lower())
        private = unresolvable(model_name)
        if private is not None:
            return Unpriced(private)
        owners = {provider.id, *provider.fallback}

        def is_owner(prefix: str) -> bool:
            named = self._provider(prefix)
            return not isinstance(named, str) and named.id in owners

        names = spellings(model_name, is_owner)
        for name, route in names:
            for owner in (provider, *(self._providers[other] for other in provider.fallback)):
                model = self._model(owner, name)
                if model is not None:
                    return _Found(provider, owner, model, name, route)
        hint = ""
        if provider.id == "azure":
            hint = "; a deployment's name needs a contract row that says which model it is"
        return Unpriced(
            f"{provider.id} has no model {model_name!r} in {self.source}{hint}", provider.id, names[-1][0]
        )

    def _model(self, owner: Provider, name: str) -> Model | None:
        """The first model of a list that a name matches: whole names by look-up, the few others in turn."""
        index = self._indexes.get(owner.id)
        if index is None:
            whole: dict[str, int] = {}
            others = []
            for place, model in enumerate(owner.models):
                clauses = model.match if isinstance(model.match, list) else [model.match]
                for clause in clauses:
                    if isinstance(clause, str) and clause[0] == "=":
                        whole.setdefault(clause[1:], place)
                if not all(isinstance(clause, str) and clause[0] == "=" for clause in clauses):
                    others.append(place)
            index = self._indexes[owner.id] = (whole, others)
        whole, others = index
        first = whole.get(name, len(owner.models))
        tuned = name.startswith("ft:") or ".ft-" in name
        for place in others:
            if place >= first:
                break
            model = owner.models[place]
            # A fine-tune costs more than what it was made from, whose name it contains.
            if is_match(model.match, name) and (not tuned or "ft" in re.split(r"[^a-z]", model.id)):
                return model
        return owner.models[first] if first < len(owner.models) else None

    def nearest(self, unpriced: Unpriced) -> tuple[str, ...]:
        """The known names that are nearest to one that is not: of models, or of providers.

        Takes a few milliseconds, so it is asked for where a person reads the answer.
        """
        if not unpriced.name:
            return ()
        provider = self._providers.get(unpriced.provider)
        if provider is None:
            known = list(self._providers)
        else:
            known = [model.id for model in provider.models]
            known += [name for model in provider.models for name in exact_names(model.match)]
            known += [model.id for other in provider.fallback for model in self._providers[other].models]
        return tuple(difflib.get_close_matches(unpriced.name, list(dict.fromkeys(known)), 3, 0.6))

    # --- prices

    def _resolve(
        self, provider: str, model: str, at_ms: int, service_tier: str, deployment: str, tenant: str
    ) -> Price | Unpriced:
        tier = standard_tier(service_tier)
        asked = {model.strip().lower(), *(name for name, _ in spellings(model, lambda _: False))}
        rows = [
            row
            for row in self._contracts
            if (row.valid_from_ms is None or at_ms >= row.valid_from_ms)
            and (row.valid_to_ms is None or at_ms < row.valid_to_ms)
            and (not row.tenant or row.tenant == tenant)
            and (not row.deployment or row.deployment in (deployment, model))
            and (not row.service_tier or standard_tier(row.service_tier) == tier)
            and (not row.provider or self._same_provider(row.provider, provider))
        ]
        alias = best_contract(rows, lambda row: bool(row.same_as_model) and names_model(row, asked))
        if alias is not None:
            provider = alias.same_as_provider or provider
            model = alias.same_as_model
            asked |= {model.strip().lower()}
        found = self._find(provider, model)
        if isinstance(found, _Found):
            asked |= {found.name, found.model.id.lower()}
        own = best_contract(rows, lambda row: bool(row.free or row.rates) and names_model(row, asked))
        if own is not None:
            price: Price | Unpriced = self._own_price(own, provider, model, tier)
        elif isinstance(found, Unpriced):
            return found
        else:
            price = self._listed_price(found, tier, at_ms)
        if isinstance(price, Unpriced):
            return price
        adjusting = [row for row in rows if row.adjust_bp and names_model(row, asked)]
        # What the provider takes off, and then what the tenant is charged on top of that.
        for of_tenant in (False, True):
            adjust = best_contract(
                (row for row in adjusting if bool(row.tenant) == of_tenant), lambda _: True
            )
            if adjust is not None:
                price = _adjusted(price, adjust)
        return price

    def _same_provider(self, wanted: str, sent: str) -> bool:
        if fold(wanted) == fold(sent):
            return True
        one, other = self._provider(wanted), self._provider(sent)
        return isinstance(one, Provider) and isinstance(other, Provider) and one.id == other.id

    def _own_price(self, row: Contract, provider: str, model: str, tier: str) -> Price:
        rates = self._contract_rates[row.contract_id]
        thresholds, charges, gaps, tools = charges_of(rates, (), provider)
        currency = (
            "" if row.currency == "USD" else f" at {row.usd_per_unit} USD a {row.currency} ({row.rate_date})"
        )
        return Price(
            price_id=f"contract:{row.contract_id}",
            provider=provider,
            model=model,
            service_tier=tier,
            thresholds=thresholds,
            charges=() if row.free else tuple(charges),
            gaps=() if row.free else tuple(gaps),
            # Why it is free, and where else its cost may be found, stands with every call.
            notes=(row.source,) if row.free and row.source else (),
            tools=tuple(tools),
            expects=() if row.free else _expects(rates),
            free=row.free,
            valid_from=_day_of(row.valid_from_ms),
            valid_to=_day_of(row.valid_to_ms),
            source=(row.source or f"contract {row.contract_id}") + currency,
            source_date=row.source_date,
        )

    def _listed_price(self, found: _Found, tier: str, at_ms: int) -> Price | Unpriced:
        provider, owner, model = found.provider, found.owner, found.model
        price_id = (
            f"{provider.id}/{model.id}" if provider is owner else f"{provider.id}/{owner.id}/{model.id}"
        )
        row = row_at(model.prices, at_ms)
        rates = {name: steps_of(rate) for name, rate in row.rates.items()}
        refused = list(row.refused)
        notes = []
        tier_reason = ""
        tiered = False
        listed = f"{self.source}, {owner.sources[0]}" if owner.sources else self.source
        source = row.source or model.source or listed
        free = next(
            (
                entry
                for entry in self._declared.free
                if entry.provider == provider.id and is_match(entry.models, found.name)
            ),
            None,
        )
        if free is not None:
            return Price(
                price_id=price_id,
                provider=provider.id,
                model=model.id,
                service_tier=tier,
                free=True,
                source=free.source,
                source_date=free.date,
            )
        sources = self._add_declared(found, rates, at_ms)
        if tier != "standard":
            tier_reason, tier_rates, tier_refused = self._tier_rates(found, tier, at_ms, rates)
            if tier_rates is None:
                notes.append(tier_reason)
                tier_reason = "standard rates"
            else:
                tiered = True
                rates |= tier_rates
                refused = [name for name in refused if name not in tier_rates] + tier_refused
                for name in tier_refused:
                    rates.pop(name, None)
        if not any(name in rates for name in ("input", "output", "request", *TOKEN_RATES)):
            units = sorted({UNCOUNTED[name] for name in rates if name in UNCOUNTED})
            if refused:
                return Unpriced(f"{price_id}: the rates in {self.source} are finer than a pico-USD")
            if units:
                return Unpriced(f"{price_id} is sold by {', '.join(units)}, which usage does not count")
            return Unpriced(f"{price_id} is in {self.source} without a price")
        units = sorted({UNCOUNTED[name] for name in rates if name in UNCOUNTED})
        notes += [f"it is also sold by {unit}, which usage does not count" for unit in units]
        if any(
            entry.provider == provider.id and is_match(entry.models, model.id)
            for entry in self._declared.request
        ):
            notes.append(_FEE_DEPENDS)
        if found.route in _OPEN_ROUTES:
            notes.append(f"the route :{found.route} {_OPEN_ROUTES[found.route]}")
        thresholds, charges, gaps, tools = charges_of(rates, refused, provider.id)
        if row.from_:
            price_id += f"@{row.from_}"
        if tiered:
            price_id += f"+{tier}"
        if row.daily or any(other.daily for other in model.prices):
            price_id += f"~{'-'.join(row.daily) if row.daily else 'other'}"
        dated = [*model.prices, *(r for r in model.tiers if r.tier == tier and provider is owner)]
        begins = [r.from_ for r in dated if r.from_]
        later = [day for day in begins if day_ms(day) > at_ms]
        earlier = [day for day in begins if day_ms(day) <= at_ms]
        return Price(
            price_id=price_id,
            provider=provider.id,
            model=model.id,
            service_tier=tier,
            tier_reason=tier_reason,
            thresholds=thresholds,
            charges=tuple(
                msgspec.structs.replace(charge, source=sources[charge.name])
                if charge.name in sources
                else charge
                for charge in charges
            ),
            gaps=tuple(gaps),
            notes=tuple(notes),
            tools=tuple(tools),
            expects=_expects(rates),
            valid_from=max(earlier, default=""),
            valid_to=min(later, default=""),
            daily="-".join(row.daily) if row.daily else ("other hours" if "~" in price_id else ""),
            source=source,
            source_date=model.source_date,
        )

    def _add_declared(self, found: _Found, rates: Rates, at_ms: int) -> dict[str, str]:
        """Add what our own table knows of the model's standard price; gives the sources by charge."""
        sources = {}
        for life in self._declared.lifetime:
            if (
                life.provider == found.provider.id
                and "cache_write" in rates
                and "cache_write_1h" not in rates
                and is_match(life.models, found.name)
            ):
                rates["cache_write_1h"] = scaled(rates["input"], Fraction(life.share))
                sources["cache_write_1h"] = f"{life.source} ({life.date})"
        for fee in self._declared.fee:
            name = "web_search" if fee.tool == "web_search" else f"tool:{fee.tool}"
            if (
                fee.provider == found.provider.id
                and name not in rates
                and is_match(fee.models, found.name)
                and within(fee.from_, fee.to, at_ms)
            ):
                rates[name] = (per_thousand(fee.usd_per_thousand),)
                sources[fee.tool] = f"{fee.source} ({fee.date})"
        return sources

    def _tier_rates(
        self, found: _Found, tier: str, at_ms: int, rates: Rates
    ) -> tuple[str, Rates | None, list[str]]:
        """A tier's rates, with where they come from, or why there are none."""
        if found.provider is found.owner:
            own: Rates = {}
            refused: list[str] = []
            rows = [row for row in found.model.tiers if row.tier == tier and holds(row, at_ms)]
            for row in rows:
                for name, rate in row.rates.items():
                    own.setdefault(name, steps_of(rate))
                refused += row.refused
            if rows:
                since = f" from {rows[0].from_}" if rows[0].from_ else ""
                return f"{tier} rates of {self.source}{since}", own, refused
        for entry in self._declared.tier:
            if (
                entry.provider == found.provider.id
                and entry.tier == tier
                and is_match(entry.models, found.name)
                and found.name not in entry.except_
                and within(entry.from_, entry.to, at_ms)
            ):
                share = Fraction(entry.share)
                wanted = entry.rates or TOKEN_RATES
                shared = {name: scaled(rate, share) for name, rate in rates.items() if name in wanted}
                shared |= {name: fixed_rate(steps) for name, steps in entry.fixed.items()}
                return f"{tier}, {entry.share} of standard rates ({entry.source}, {entry.date})", shared, []
        if tier in _BOUGHT:
            reason = (
                f"the tier {tier!r} is capacity that was bought, not tokens; these are the standard rates"
            )
        else:
            reason = (
                f"no price of the tier {tier!r} is known for {found.provider.id}/{found.model.id} "
                "at that time; these are the standard rates"
            )
        return reason, None, []

    def at_place(self, price: Price, place: str) -> Price:
        """The price of a call that was processed in one place on request (Anthropic's ``inference_geo``)."""
        key = (price.price_id, place)
        found = self._placed.get(key)
        if found is not None and found[0] is price:
            return found[1]
        placed = price
        for entry in self._declared.place:
            if (
                entry.provider == price.provider
                and entry.place == place
                and is_match(entry.models, price.model)
            ):
                reason = f"{entry.share} of it in {place} ({entry.source}, {entry.date})"
                placed = _multiplied(price, Fraction(entry.share), f"{price.price_id}/{place}", price.source)
                placed = msgspec.structs.replace(
                    placed, tier_reason=f"{price.tier_reason or price.service_tier + ' rates'}, {reason}"
                )
                break
        if len(self._placed) >= _MEMO:
            self._placed.clear()
        self._placed[key] = (price, placed)
        return placed

    def with_search_context(self, price: Price, size: str) -> Price | None:
        """The price of a request that searched so much (Perplexity); None where that makes no difference."""
        key = (price.price_id, f"search {size}")
        known = self._placed.get(key)
        if known is not None and known[0] is price:
            return known[1]
        for entry in self._declared.request:
            fee = entry.usd_per_thousand.get(size)
            if fee is None or entry.provider != price.provider or not is_match(entry.models, price.model):
                continue
            charges = tuple(
                msgspec.structs.replace(
                    charge,
                    rates=(per_thousand(fee),) * len(charge.rates),
                    name=f"request ({size} search context)",
                    source=f"{entry.source} ({entry.date})",
                )
                if charge.part == "request"
                else charge
                for charge in price.charges
            )
            notes = tuple(note for note in price.notes if note != _FEE_DEPENDS)
            found = msgspec.structs.replace(price, charges=charges, notes=notes)
            if len(self._placed) >= _MEMO:
                self._placed.clear()
            self._placed[key] = (price, found)
            return found
        return None

    def _changes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        days: set[str] = set()
        minutes: set[str] = set()
        for provider in self._table.providers:
            for model in provider.models:
                for row in (*model.prices, *model.tiers):
                    days.add(row.from_)
                    minutes.update(row.daily)
        for tier in self._declared.tier:
            days |= {tier.from_, tier.to}
        for fee in self._declared.fee:
            days |= {fee.from_, fee.to}
        days.discard("")
        at = {day_ms(day) for day in days}
        for contract in self._contracts:
            at |= {end for end in (contract.valid_from_ms, contract.valid_to_ms) if end is not None}
        return tuple(sorted(at)), tuple(sorted(map(minute_ms, minutes)))


def _names_provider(clause: Clause, text: str) -> bool:
    """Whether a provider's clause is met, where a name that is contained must begin a word.

    Otherwise anything multimodal would be billed by Modal.
    """
    if isinstance(clause, str) and clause[0] == "~":
        return re.search(rf"(?<![a-z0-9]){re.escape(clause[1:])}", text) is not None
    if isinstance(clause, list):
        return any(_names_provider(part, text) for part in clause)
    if isinstance(clause, dict):
        return all(_names_provider(part, text) for part in clause["all"])
    return is_match(clause, text)


_ROUTERS: Final = frozenset(
    {"litellm", "litellm.proxy", "portkey", "helicone", "bifrost", "envoy", "gatewatch"}
)

_FEE_DEPENDS: Final = (
    "the fee of a request depends on its search context size, which was not said; the highest is taken"
)
_OPEN_ROUTES: Final = {
    "nitro": "may be served by a dearer provider than the list's",
    "floor": "may be served by a cheaper provider than the list's",
    "exacto": "may be served by a dearer provider than the list's",
    "online": "adds a fee for web results, which usage does not count",
}


def _expects(rates: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(f"{side}_tokens" for side in ("input", "output") if side in rates)


def _day_of(at_ms: int | None) -> str:
    return "" if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC).date().isoformat()


def _adjusted(price: Price, row: Contract) -> Price:
    share = Fraction(10_000 + row.adjust_bp, 10_000)
    percent = Decimal(row.adjust_bp) / 100
    source = f"{price.source}, {percent:+f} % by contract {row.contract_id}"
    return _multiplied(price, share, f"{price.price_id}*{row.contract_id}", source, tools=True)


def _multiplied(price: Price, share: Fraction, price_id: str, source: str, *, tools: bool = False) -> Price:
    """A price with all rates of tokens times a share, and those of tools and requests where asked for."""
    charges = tuple(
        msgspec.structs.replace(charge, rates=tuple(round(rate * share) for rate in charge.rates))
        if tools or charge.part not in ("tools", "request")
        else charge
        for charge in price.charges
    )
    return msgspec.structs.replace(price, price_id=price_id, charges=charges, source=source)


@cache
def default_book() -> PriceBook:
    """The book without contracts, made once."""
    return PriceBook()
