"""`gatewatch infrastructure`: what GPUs of one's own cost an hour, and what that makes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Final

import typer

from gatewatch.cli.connection import Data, connected
from gatewatch.cli.message import fail, say, wrong_usage
from gatewatch.cli.row import Format, Output, print_rows

if TYPE_CHECKING:
    from sinks.clickhouse import Sink

commands = typer.Typer(
    no_args_is_help=True,
    help="What GPUs of one's own cost an hour: set, list and remove rates, and see what they make.",
)

_NAME: Final = "infrastructure"


RateId = Annotated[str, typer.Argument(metavar="ID", help="A name of your own, such as h100-eu.")]


@commands.command("set")
def set_(
    rate_id: RateId,
    usd_per_gpu_hour: Annotated[str, typer.Argument(metavar="USD", help="Dollars for an hour of one GPU.")],
    gateway: Annotated[str, typer.Option(help="Only GPUs that this gateway reports.")] = "",
    deployment: Annotated[str, typer.Option(help="Only GPUs of this deployment.")] = "",
    model: Annotated[str, typer.Option(help="Only GPUs that serve this model.")] = "",
    resource: Annotated[str, typer.Option(help="Only this resource; gpu:* is all that begin so.")] = "",
    from_: Annotated[str, typer.Option("--from", help="Whole hour from which it holds, UTC.")] = "now",
    to: Annotated[str, typer.Option("--to", help="Whole hour at which it ends; open without.")] = "",
    any_gateway: Annotated[
        bool,
        typer.Option("--any-gateway", help="Calls come through other gateways than the one that reports."),
    ] = False,
    output_weight: Annotated[
        str, typer.Option(help="What an output token weighs, an uncached input token being 1.")
    ] = "2",
    cache_read_weight: Annotated[str, typer.Option(help="What a cached input token weighs.")] = "0.1",
    source: Annotated[str, typer.Option(help="Where the amount comes from: an invoice, a contract.")] = "",
    data: Data = None,
) -> None:
    """Say what an hour of a GPU costs. The same ID and --from again correct it; every revision is kept.

    Example: gatewatch infrastructure set h100-eu 2.49 --model llama-3.3-70b --from 2026-11-01
    """
    from sinks.gpu_rate import GpuRate, RateError, check_rate, nano_usd, parse_hour, permille, save_rate
    from sinks.infrastructure import listed_rates

    now_ms = time.time_ns() // 1_000_000
    try:
        rate = GpuRate(
            rate_id=rate_id,
            nano_usd_per_gpu_hour=nano_usd(usd_per_gpu_hour),
            valid_from_s=parse_hour(from_, now_ms // 1000),
            valid_to_s=parse_hour(to, now_ms // 1000) if to else 0,
            gateway=gateway,
            deployment=deployment,
            model=model,
            resource=resource,
            any_gateway=any_gateway,
            output_weight_permille=permille(output_weight),
            cache_read_weight_permille=permille(cache_read_weight),
            source=source,
            revision=now_ms,
        )
        check_rate(rate)
    except RateError as error:
        wrong_usage(_NAME, str(error))
    with connected(_NAME, data) as sink:
        save_rate(sink, rate)
        print_rows(listed_rates(sink, rate_id=rate_id), False, "")


@commands.command("list")
def list_(
    all_: Annotated[bool, typer.Option("--all", help="Also revisions that no longer count.")] = False,
    output: Output = Format.TABLE,
    data: Data = None,
) -> None:
    """List the rates.

    Example: gatewatch infrastructure list --all
    """
    from sinks.infrastructure import listed_rates

    with connected(_NAME, data) as sink:
        print_rows(
            listed_rates(sink, all_revisions=all_),
            output is Format.JSON,
            "no rates; `gatewatch infrastructure set` makes one",
        )


@commands.command()
def remove(
    rate_id: RateId,
    from_: Annotated[
        str, typer.Option("--from", help="Only the one that holds from then on; else all of the ID.")
    ] = "",
    data: Data = None,
) -> None:
    """Take a rate out of use, as if it had never been set. To end one, set it with --to.

    Example: gatewatch infrastructure remove h100-eu --from 2026-11-01
    """
    import msgspec

    from sinks.gpu_rate import RateError, parse_hour, read_rates, save_rate

    now_ms = time.time_ns() // 1_000_000
    try:
        only_s = parse_hour(from_, now_ms // 1000) if from_ else None
    except RateError as error:
        wrong_usage(_NAME, str(error))
    with connected(_NAME, data) as sink:
        rates = [rate for rate in read_rates(sink) if not rate.removed]
        chosen = [rate for rate in rates if rate.rate_id == rate_id and only_s in (None, rate.valid_from_s)]
        if not chosen:
            known = ", ".join(sorted({rate.rate_id for rate in rates})) or "none"
            fail(_NAME, f"there is no such rate {rate_id!r}; in use: {known}")
        for rate in chosen:
            revision = max(now_ms, rate.revision + 1)
            save_rate(sink, msgspec.structs.replace(rate, removed=True, revision=revision))
        print(f"{len(chosen)} removed; `gatewatch infrastructure list --all` still shows them")


@commands.command()
def status(
    from_: Annotated[
        str, typer.Option("--from", help="Whole hour from which on to look, UTC; else the last 24 hours.")
    ] = "",
    to: Annotated[str, typer.Option("--to", help="Whole hour up to which to look.")] = "",
    output: Output = Format.TABLE,
    data: Data = None,
) -> None:
    """What own GPUs cost, by pool, and what is missing. Ends with 1 where something is.

    Example: gatewatch infrastructure status --from 2026-11-01
    """
    from sinks.gpu_rate import HOUR_S, RateError, parse_hour
    from sinks.infrastructure import pools

    now_s = time.time_ns() // 1_000_000_000
    try:
        begin_s = parse_hour(from_, now_s) if from_ else now_s - now_s % HOUR_S - 23 * HOUR_S
        end_s = parse_hour(to, now_s) if to else now_s - now_s % HOUR_S + HOUR_S
    except RateError as error:
        wrong_usage(_NAME, str(error))
    if begin_s >= end_s:
        wrong_usage(_NAME, "--to is not after --from")
    with connected(_NAME, data) as sink:
        rows = pools(sink, begin_s, end_s)
        print_rows(rows, output is Format.JSON, "no GPU reported, and no call was to a pool with a rate")
        missing = []
        for row in rows:
            pool = "/".join(row[part] or "-" for part in ("gateway", "deployment", "model"))
            for column, what in _MISSING.items():
                if float(row[column]):
                    missing.append(f"{pool}: {row[column]} {what}")
        if _hint(sink, begin_s, end_s):
            missing.append("calls to own GPUs are unpriced, see above")
        for line in missing:
            say(_NAME, line)
        if missing:
            raise typer.Exit(1)


_MISSING: Final = {
    "hours_without_reports": "hours with calls and no report of a GPU: their cost is not known",
    "unrated_gpu_hours": "GPU-hours without a rate: `gatewatch infrastructure set` gives them one",
    "unusable_reports": "reports without gpu_count or interval_s, or absurd ones: they count no GPU-hours",
}


def _hint(sink: Sink, begin_s: int, end_s: int) -> bool:
    """Say which contracts keep calls to own GPUs from counting as unpriced; whether there are any."""
    import msgspec

    from gatewatch.contract import Contract
    from sinks.gpu_rate import free_contract
    from sinks.infrastructure import unpriced_pools

    found = unpriced_pools(sink, begin_s, end_s)
    for provider, deployment, model, calls in found:
        contract = msgspec.structs.asdict(free_contract(provider, deployment=deployment, model=model))
        usual = msgspec.structs.asdict(Contract(contract_id=""))
        said = {name: value for name, value in contract.items() if value != usual[name]}
        row = msgspec.json.encode(said).decode()
        say(_NAME, f"{calls:,} calls to {provider} count as unpriced; this contract makes them free: {row}")
    return bool(found)
