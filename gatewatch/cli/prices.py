"""`gatewatch prices`: the ledger of prices: list it, compare versions, add to it, check it."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import os
import sys
import time
from collections.abc import Iterator, Sequence
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gatewatch.cli.connection import Data, advised, failures_said, moment_ms, opened
from gatewatch.cli.message import CommandError, fail, say, wrong_usage
from gatewatch.cli.row import CsvFormat, CsvOutput, decimal_text, iso_text, print_rows

if TYPE_CHECKING:
    from gatewatch.contract import Contract
    from gatewatch.price_book import PriceBook
    from gatewatch.price_ledger import PriceDocuments, PriceVersion
    from gatewatch.price_row import PriceRow
    from gatewatch.second_source import Disagreement
    from sinks.clickhouse import Sink
    from sinks.price import PriceUse

commands = typer.Typer(
    no_args_is_help=True,
    help="The prices, in versions with dates: list, compare, import, and check them against a second list.",
)

_NAME: Final = "prices"
_TABLE_ROWS: Final = 1000
_CHANGES_SHOWN: Final = 20
_FILE_MOST: Final = 64 << 20


class Kind(StrEnum):
    """What a file holds."""

    CONTRACTS = "contracts"
    GENAI_PRICES = "genai-prices"


@commands.command("list")
def list_(
    provider: Annotated[str | None, typer.Option(help="Only of this provider.", show_default=False)] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Only of this model, or of all that have this in their names.", show_default=False),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(help="Rates that hold at this day or time (UTC); now if left out.", show_default=False),
    ] = None,
    history: Annotated[bool, typer.Option("--history", help="Rates of all times.")] = False,
    version: Annotated[
        int | None,
        typer.Option(min=1, help="Of this version, not of the one in effect.", show_default=False),
    ] = None,
    versions: Annotated[bool, typer.Option("--versions", help="The versions, not their rates.")] = False,
    output: CsvOutput = None,
    data: Data = None,
) -> None:
    """List rates, each with its dates and where it comes from.

    Example: gatewatch prices list --provider anthropic --model claude-sonnet-4-5
    """
    from gatewatch.price_row import price_rows

    if history and at is not None:
        wrong_usage(_NAME, "--history is of all times: leave --at out")
    at_ms = _now_ms() if at is None else moment_ms(_NAME, "--at", at, _now_ms())
    with _ledger(data) as ledger:
        if versions:
            _print(output, [_version_row(known, ledger.in_effect) for known in ledger.versions])
            return
        book = ledger.book(version)
        rows = price_rows(book)
        if provider is not None:
            known = book.provider_id(provider) or provider.lower()
            rows = [row for row in rows if row.provider in (known, provider)]
        if model is not None:
            rows = _of_model(book, rows, provider, model, at_ms)
        if not history:
            rows = [
                row
                for row in rows
                if (row.valid_from_ms is None or row.valid_from_ms <= at_ms)
                and (row.valid_to_ms is None or at_ms < row.valid_to_ms)
            ]
        if not rows:
            fail(_NAME, f"no rate is listed for that{_nearest(book, provider, model)}")
        _print(output, [_rate_row(row) for row in rows])


@commands.command()
def diff(
    before: Annotated[
        int | None, typer.Argument(min=1, help="A version; the one before the newest if left out.")
    ] = None,
    after: Annotated[int | None, typer.Argument(min=1, help="A version; the newest if left out.")] = None,
    output: CsvOutput = None,
    data: Data = None,
) -> None:
    """Compare two versions, rate by rate.

    Example: gatewatch prices diff 3 4
    """
    with _ledger(data) as ledger:
        newest = ledger.versions[-1].version
        after = after or newest
        before = before or max(1, after - 1)
        rows = _changes(ledger.book(before), ledger.book(after))
        _print(output, rows)
        say(_NAME, _counted(rows) + f" from version {before} to version {after}")


@commands.command("import")
def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="- is standard input.")],
    kind: Annotated[
        Kind | None,
        typer.Option(help="What the file holds, where that is not plain from it.", show_default=False),
    ] = None,
    note: Annotated[str, typer.Option(help="Why, for those who look at the versions later.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
    takes_effect: Annotated[
        str | None,
        typer.Option(
            "--takes-effect",
            metavar="ISO",
            help="When (UTC), within 7 days; as soon as possible, in a minute, if left out.",
            show_default=False,
        ),
    ] = None,
    data: Data = None,
) -> None:
    """Make a new version of the prices from contracts, or from genai-prices' published data.

    A file of contracts has a [[contract]] table for each (TOML), or an object a line (JSON), and is the
    whole truth: it replaces all contracts that there are. genai-prices' prices/data.json replaces the list.
    What was stored before keeps its prices, until `gatewatch reprice`.

    Example: gatewatch prices import contracts.toml --note "2027 agreement"
    """
    from gatewatch.price_ledger import LEAD_MS
    from gatewatch.price_table import PriceError
    from sinks.price import PriceRaceError, fill_rows, make_version

    if len(note) > 500 or not note.isprintable():
        wrong_usage(_NAME, "--note is longer than 500 characters or holds a control character")
    takes_effect_ms = (
        None if takes_effect is None else moment_ms(_NAME, "--takes-effect", takes_effect, _now_ms())
    )
    content = _read(file)
    name = "standard input" if file == "-" else file
    with _ledger(data, needs_store=not dry_run) as ledger:
        newest = ledger.newest
        try:
            documents = _imported(content, kind, newest)
            book = documents.book()
        except PriceError as error:
            wrong_usage(_NAME, f"{name}: {error}. Nothing was stored")
        for contract in book.contracts:
            _warn_of_strangers(book, contract)
        changes = _changes(newest.book(), book)
        if dry_run:
            _print(None, changes)
            say(_NAME, f"{_counted(changes)}; nothing was stored")
            return
        assert ledger.sink is not None
        based_on = ledger.stored[-1] if ledger.stored else None
        try:
            made = make_version(
                ledger.sink, documents, note=note, based_on=based_on, takes_effect_ms=takes_effect_ms
            )
        except PriceError as error:
            wrong_usage(_NAME, f"{error}. Nothing was stored")
        except PriceRaceError as error:
            fail(_NAME, str(error))
        fill_rows(ledger.sink)
    number = made.version.version
    if not made.is_new:
        say(_NAME, f"version {number} holds exactly this already; nothing was stored")
        return
    if changes:
        print_rows(changes[:_CHANGES_SHOWN], False, "")
    if len(changes) > _CHANGES_SHOWN:
        print(f"... and {len(changes) - _CHANGES_SHOWN} more: gatewatch prices diff")
    begins = _iso(made.version.takes_effect_ms)
    if based_on is None:
        print(f"version {number} is stored, and holds from the beginning: {_counted(changes)}")
    else:
        print(
            f"version {number} is stored: {_counted(changes)}. It takes effect at {begins} "
            f"({LEAD_MS // 1000} s at least, for workers to learn of it), for events that Kafka receives "
            "from then on. For what is stored already, see `gatewatch reprice`"
        )


@commands.command()
def check(
    file: Annotated[str, typer.Argument(metavar="FILE", help="- is standard input.")],
    tolerance: Annotated[
        str, typer.Option(metavar="PERCENT", help="Differences up to this are none.")
    ] = "0.1",
    days: Annotated[int, typer.Option(min=1, max=400, help="Stored calls of so many days are counted.")] = 30,
    at: Annotated[
        str | None,
        typer.Option(help="Compare the rates of this day or time (UTC), not of now.", show_default=False),
    ] = None,
    version: Annotated[
        int | None,
        typer.Option(min=1, help="Check this version, not the one in effect.", show_default=False),
    ] = None,
    output: CsvOutput = None,
    data: Data = None,
) -> None:
    """Compare the listed prices with a second list, and say which stored calls a disagreement touches.

    Reads LiteLLM's model_prices_and_context_window.json and llm-prices' files. Contracts are left aside.
    Exits with 1 if there is a disagreement.

    Example: gatewatch prices check model_prices_and_context_window.json --days 7
    """
    from gatewatch.price_book import PriceBook
    from gatewatch.price_table import PriceError
    from gatewatch.second_source import compare, read_quotes

    try:
        share = Decimal(tolerance) / 100
    except InvalidOperation:
        wrong_usage(_NAME, f"--tolerance {tolerance!r} is no number of per cent")
    if not share.is_finite() or not 0 <= share <= 10:
        wrong_usage(_NAME, f"--tolerance {tolerance!r} is not within 0 and 1000 per cent")
    at_ms = _now_ms() if at is None else moment_ms(_NAME, "--at", at, _now_ms())
    content = _read(file)
    with _ledger(data, may_lack_store=True) as ledger:
        try:
            quotes = read_quotes(content, at_ms)
        except PriceError as error:
            wrong_usage(_NAME, f"{'standard input' if file == '-' else file}: {error}")
        book = PriceBook((), ledger.documents(version).tables())
        found = compare(book, quotes, at_ms, share)
        uses = None
        if ledger.sink is not None and found.disagreements:
            uses = _uses(ledger.sink, days, found.disagreements)
    rows = [_disagreement_row(item, uses) for item in found.disagreements]
    rows.sort(key=lambda row: (-(row["cost_usd"] or 0), -(row["calls"] or 0)))
    if rows:
        _print(output, rows)
    touched = ""
    if uses is None and rows:
        touched = "; no store was asked which calls they touch"
    elif rows:
        touched = f"; calls and cost_usd are those of the last {days} days that each touches"
    say(
        _NAME,
        f"{found.equal} rates are equal within {tolerance} %, {found.different} are not ({len(rows)} rows); "
        f"{found.unknown_models} models of the file have no price here{touched}",
    )
    if rows:
        raise typer.Exit(1)


# -- the ledger --------------------------------------------------------------------------------


@dataclasses.dataclass
class _Ledger:
    """The versions of a store, or the package's own list where there is none."""

    sink: Sink | None
    stored: list[PriceVersion]

    @property
    def versions(self) -> list[PriceVersion]:
        from gatewatch.price_ledger import package_ledger

        return self.stored or list(package_ledger().versions)

    @property
    def in_effect(self) -> int:
        from gatewatch.price_ledger import in_effect

        return in_effect(self.versions, _now_ms()).version

    @property
    def newest(self) -> PriceDocuments:
        return self.documents(self.versions[-1].version)

    def documents(self, version: int | None) -> PriceDocuments:
        """Those of a version, by default of the one in effect."""
        from gatewatch.price_ledger import PriceDocuments
        from sinks.price import read_version

        number = version or self.in_effect
        if number not in {known.version for known in self.versions}:
            wrong_usage(_NAME, f"there is no version {number}; versions are 1 to {self.versions[-1].version}")
        if self.sink is None or not self.stored:
            return PriceDocuments.of_package()
        documents = read_version(self.sink, number)
        assert documents is not None
        return documents

    def book(self, version: int | None) -> PriceBook:
        """The same as a price book."""
        from gatewatch.price_table import PriceError

        try:
            return self.documents(version).book()
        except PriceError as error:
            fail(_NAME, f"version {version or self.in_effect}: {error}; a later release may have made it")


@contextlib.contextmanager
def _ledger(
    data: Path | None, *, needs_store: bool = False, may_lack_store: bool = False
) -> Iterator[_Ledger]:
    """Open the store's ledger.

    Where no store was named and none answers, that of the package, unless one is needed; ``may_lack_store``
    does without one that was named, too.
    """
    from sinks.clickhouse import SinkError
    from sinks.price import read_versions

    named = data is not None or "GATEWATCH_CLICKHOUSE_URL" in os.environ
    with failures_said(_NAME), contextlib.ExitStack() as stack:
        sink: Sink | None = None
        stored: list[PriceVersion] = []
        try:
            sink = stack.enter_context(opened(_NAME, data))
            stored = read_versions(sink)
        except (CommandError, SinkError) as error:
            if needs_store or (named and not may_lack_store):
                raise
            why = advised(error) if isinstance(error, SinkError) else str(error)
            say(_NAME, f"these are the package's own prices, without contracts: {why}")
            sink = None
        yield _Ledger(sink, stored)


def _imported(content: bytes, kind: Kind | None, newest: PriceDocuments) -> PriceDocuments:
    from msgspec import structs

    from gatewatch.contract_file import contracts_document, read_contracts
    from gatewatch.price_list import import_list
    from gatewatch.price_table import PriceError

    if kind is None:
        head = content.lstrip()[:4096]
        is_list = head.startswith(b"[") and not head.startswith(b"[[")
        if is_list or (head.startswith(b"{") and b'"providers"' in head):
            kind = Kind.GENAI_PRICES
        elif b"litellm_provider" in content[:65536] or b"price_history" in content[:65536]:
            raise PriceError("this is a second list, which is compared: `gatewatch prices check`")
        else:
            kind = Kind.CONTRACTS
    if kind is Kind.CONTRACTS:
        return structs.replace(newest, contracts=contracts_document(read_contracts(content)))
    return structs.replace(newest, listed=import_list(content, newest.declared))


def _warn_of_strangers(book: PriceBook, contract: Contract) -> None:
    """A misspelt provider makes a contract that is for no call, and nobody would notice."""
    from gatewatch.price_book import Unpriced

    for provider in (contract.provider, contract.same_as_provider):
        if provider and book.provider_id(provider) is None:
            near = book.nearest(Unpriced("", name=provider.strip().lower()))
            if near:
                say(
                    _NAME,
                    f"contract {contract.contract_id}: the list has no provider {provider!r} (there is "
                    f"{', '.join(near)}); the row is only for calls whose provider is named so",
                )


# -- rows --------------------------------------------------------------------------------------


def _of_model(
    book: PriceBook, rows: list[PriceRow], provider: str | None, model: str, at_ms: int
) -> list[PriceRow]:
    """Rows of the model so named, of the one that prices calls of this name, or of all that have it."""
    from gatewatch.price_book import Price

    wanted = model.strip().lower()
    exact = [row for row in rows if row.model.lower() == wanted]
    if not exact and provider is not None:
        price = book.resolve(provider, model, at_ms)
        if isinstance(price, Price):
            exact = [row for row in rows if row.model == price.model]
    return exact or [row for row in rows if wanted in row.model.lower()]


def _nearest(book: PriceBook, provider: str | None, model: str | None) -> str:
    from gatewatch.price_book import Unpriced

    near: tuple[str, ...] = ()
    if provider is not None and book.provider_id(provider) is None:
        near = book.nearest(Unpriced("", name=provider.strip().lower()))
    elif model is not None:
        owners = [book.provider_id(provider)] if provider is not None else [p.id for p in book.providers]
        found = [book.nearest(Unpriced("", owner or "", model.strip().lower())) for owner in owners]
        near = tuple(dict.fromkeys(name for names in found for name in names))[:5]
    return f"; known names that are near: {', '.join(near)}" if near else ""


def _version_row(version: PriceVersion, current: int) -> dict[str, Any]:
    return {
        "version": version.version,
        "in_effect": "yes" if version.version == current else "",
        "made_at": _iso(version.made_ms),
        "takes_effect_at": _iso(version.takes_effect_ms),
        "source": version.source,
        "contracts": version.contract_count,
        "note": version.note,
        "digest": version.digest[:12],
    }


def _rate_row(row: PriceRow) -> dict[str, Any]:
    return {
        "provider": row.provider,
        "model": row.model,
        "service_tier": row.service_tier,
        "component": row.component,
        "usd": _amount(row),
        "unit": row.unit,
        "above_input_tokens": row.above_input_tokens,
        "daily": row.daily,
        "valid_from": "" if row.valid_from_ms is None else _iso(row.valid_from_ms),
        "valid_to": "" if row.valid_to_ms is None else _iso(row.valid_to_ms),
        "tenant": row.tenant,
        "deployment": row.deployment,
        "contract_id": row.contract_id,
        "kind": row.kind,
        "source": row.source,
        "source_date": row.source_date,
    }


def _amount(row: PriceRow) -> str:
    if row.usd_per_unit is not None:
        return decimal_text(row.usd_per_unit)
    return row.same_as or f"{Decimal(row.adjust_bp) / 100:+f} %"


def _changes(before: PriceBook, after: PriceBook) -> list[dict[str, Any]]:
    """The rates that differ between two books."""
    from gatewatch.price_row import price_rows

    old = {row.key: row for row in price_rows(before)}
    new = {row.key: row for row in price_rows(after)}
    rows = []
    for key in sorted(old.keys() | new.keys()):
        was, now = old.get(key), new.get(key)
        row = now or was
        assert row is not None
        amounts = [None if side is None else _amount(side) for side in (was, now)]
        if amounts[0] == amounts[1]:
            continue
        rows.append(
            {
                "change": "added" if was is None else "removed" if now is None else "changed",
                "provider": row.provider,
                "model": row.model,
                "service_tier": row.service_tier,
                "component": row.component,
                "unit": row.unit,
                "old": amounts[0],
                "new": amounts[1],
                "percent": _percent(was, now),
                "above_input_tokens": row.above_input_tokens,
                "daily": row.daily,
                "valid_from": "" if row.valid_from_ms is None else _iso(row.valid_from_ms),
                "tenant": row.tenant,
                "deployment": row.deployment,
                "contract_id": row.contract_id,
            }
        )
    return rows


def _percent(was: PriceRow | None, now: PriceRow | None) -> str | None:
    if was is None or now is None or not was.usd_per_unit or now.usd_per_unit is None:
        return None
    return f"{(now.usd_per_unit - was.usd_per_unit) / was.usd_per_unit * 100:+.2f}"


def _counted(changes: Sequence[dict[str, Any]]) -> str:
    if not changes:
        return "no rate differs"
    kinds = [row["change"] for row in changes]
    return ", ".join(
        f"{kinds.count(kind)} rates {kind}" for kind in ("changed", "added", "removed") if kind in kinds
    )


class _Uses:
    """What stored calls were charged, to be asked by disagreement."""

    def __init__(self, thresholds: list[int], uses: Sequence[PriceUse]) -> None:
        self._thresholds = thresholds
        self._by_price: dict[str, list[PriceUse]] = {}
        for use in uses:
            self._by_price.setdefault(use.price_id, []).append(use)

    def of(self, item: Disagreement) -> tuple[int, Decimal]:
        """Calls that a disagreement touches, and what they were charged for that part."""
        # A call is above as many thresholds as lie below it: those up to this one, at least.
        first = sum(threshold <= item.above_input_tokens for threshold in self._thresholds)
        last = len(self._thresholds)
        if item.to_input_tokens is not None:
            last = sum(threshold < item.to_input_tokens for threshold in self._thresholds)
        calls, usd = 0, Decimal(0)
        for use in self._by_price.get(item.price_id, ()):
            if first <= use.context <= last and item.touches(use.model):
                # What costs nothing with us leaves no trace in a cost.
                calls += use.part_calls.get(item.component, 0) if item.ours_pico_usd else use.calls
                usd += use.part_usd.get(item.component, Decimal(0))
        return calls, usd


def _uses(sink: Sink, days: int, items: Sequence[Disagreement]) -> _Uses:
    from sinks.price import price_uses

    bounds = {bound for item in items for bound in (item.above_input_tokens, item.to_input_tokens) if bound}
    thresholds = sorted(bounds)
    return _Uses(thresholds, price_uses(sink, days, thresholds))


def _disagreement_row(item: Disagreement, uses: _Uses | None) -> dict[str, Any]:
    calls, usd = uses.of(item) if uses is not None else (None, None)
    change = item.change
    return {
        "price_id": item.price_id,
        "component": item.component,
        "above_input_tokens": item.above_input_tokens,
        "ours_usd_per_million": decimal_text(Decimal(item.ours_pico_usd).scaleb(-6)),
        "theirs_usd_per_million": decimal_text(item.theirs_pico_usd.scaleb(-6)),
        "percent": None if change is None else f"{change * 100:+.2f}",
        "calls": calls,
        "cost_usd": usd,
        "their_names": ", ".join(item.names),
    }


# -- what is read and written ------------------------------------------------------------------


def _read(file: str) -> bytes:
    try:
        content = sys.stdin.buffer.read(_FILE_MOST + 1) if file == "-" else Path(file).read_bytes()
    except OSError as error:
        wrong_usage(_NAME, f"cannot read {file}: {error.strerror}")
    if len(content) > _FILE_MOST:
        wrong_usage(_NAME, f"{file} is larger than {_FILE_MOST >> 20} MiB, which no list of prices is")
    return content


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _print(output: CsvFormat | None, rows: list[dict[str, Any]]) -> None:
    chosen = output or (CsvFormat.TABLE if sys.stdout.isatty() else CsvFormat.JSON)
    if chosen is CsvFormat.CSV and rows:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(rows[0])
        writer.writerows(["" if value is None else value for value in row.values()] for row in rows)
        sys.stdout.flush()
    elif chosen is CsvFormat.JSON:
        print_rows(rows, True, "")
    elif rows:
        print_rows(rows[:_TABLE_ROWS], False, "")
        if len(rows) > _TABLE_ROWS:
            say(_NAME, f"{len(rows) - _TABLE_ROWS} more rows are not shown: say which, or use --format csv")


def _iso(at_ms: int) -> str:
    """As short as it can be: a day where it is one's beginning."""
    return iso_text(at_ms).removesuffix("T00:00:00.000Z").replace(".000Z", "Z")
