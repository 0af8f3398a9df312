"""The live view: it fits its screen, and says what the overview says."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from msgspec.structs import replace
from rich.console import Console

from gatewatch.cli.live import Meter, Status, draw, line, picture
from signals.budget import Budget, BudgetStatus, Hour, Scope, assess
from streams.overview import DeadLetterCount, ModelRate, Overview, TenantRate, TenantSpend


def model(number: int) -> ModelRate:
    return ModelRate(
        provider="openai",
        model=f"model-{number}",
        calls_per_s=20.0 - number,
        errors={"overload": 3, "timeout": 1} if number == 0 else {},
        error_share=0.25 if number == 0 else 0.0,
        ttft_p50_ms=420.0,
        ttft_p95_ms=12_500.0,
        latency_p95_ms=None,
        input_tokens_per_s=2_500_000.0,
        output_tokens_per_s=999.0,
        usd_per_min=1.5,
    )


def burning() -> BudgetStatus:
    """A budget of which half was spent in the day's first hour."""
    at = datetime(2026, 11, 21, 1, tzinfo=UTC)
    budget = Budget(
        budget_id="acme-day",
        scope=Scope(tenant="acme"),
        period="daily",
        time_zone="UTC",
        amount_usd=Decimal(10),
    )
    hours = [Hour(datetime(2026, 11, 21, tzinfo=UTC), Decimal(5))]
    return assess(budget, budget.period_at(at), at, hours, {}, first_call=hours[0].start)


OVERVIEW = Overview(
    events=12_345,
    rejects=7,
    duplicates=0,
    late=2,
    lag_records=31,
    fresh_s=1.25,
    windows_closed=3,
    windows_open=1,
    calls_per_s=200.5,
    error_share=0.021,
    ttft_p50_ms=420.0,
    ttft_p95_ms=1500.0,
    input_tokens_per_s=90_000.0,
    output_tokens_per_s=8000.0,
    usd_per_min=31.415,
    usd=Decimal("1234.567890123"),
    models=[model(number) for number in range(20)],
    tenants=[TenantRate(f"tenant-{number}", 10.0, 0.0, 5000.0) for number in range(5)],
    budgets=[burning()],
    dearest=[TenantSpend(f"dear-{number}", Decimal(100 - number)) for number in range(3)],
    dead_letters=[DeadLetterCount("invalid_json", 5), DeadLetterCount("invalid_event", 2)],
)
NOTHING = Overview(
    events=0,
    rejects=0,
    duplicates=0,
    late=0,
    lag_records=None,
    fresh_s=None,
    windows_closed=0,
    windows_open=0,
    calls_per_s=0.0,
    error_share=0.0,
    ttft_p50_ms=None,
    ttft_p95_ms=None,
    input_tokens_per_s=0.0,
    output_tokens_per_s=0.0,
    usd_per_min=0.0,
    usd=Decimal(0),
    models=[],
    tenants=[],
    budgets=[],
    dearest=[],
    dead_letters=[],
)


def screen(overview: Overview, width: int, height: int) -> list[str]:
    status = Status(60.0, "traffic")
    status.update(30.0, 12_400, overview.events)
    status.notes.append("worker-0 runs again (process 1)")
    console = Console(width=width, height=height, file=io.StringIO(), record=True)
    console.print(draw(status, overview, width, height))
    return console.export_text().splitlines()


@pytest.mark.parametrize(("width", "height"), [(80, 30), (110, 40), (200, 60)])
def test_it_fits_the_screen(width: int, height: int) -> None:
    for overview in (OVERVIEW, NOTHING):
        lines = screen(overview, width, height)
        assert len(lines) <= height
        assert max(map(len, lines)) <= width


def test_it_shows_rates_errors_lag_and_dead_letters() -> None:
    text = "\n".join(screen(OVERVIEW, 120, 50))
    for shown in (
        "emitted 12,400",
        "stored 12,345",
        "lag 31 records",
        "1.2 s old",
        "3 closed, 1 open",
        "model-0",
        "overload 3 +1",
        "25.0%",
        "12.5 s",
        "2.5M",
        "tenant-4",
        "dear-2",
        "$98.0000",
        "$1,234.5679",
        "$/min",
        "31.4",
        "acme-day",
        "50% of $10.00, bursts in 60 min",
        "invalid_json",
        "worker-0 runs again",
    ):
        assert shown in text, shown


def test_a_model_without_a_price_does_not_cost_nothing() -> None:
    unpriced = replace(OVERVIEW, models=[replace(model(0), usd_per_min=None)])
    (row,) = [line for line in screen(unpriced, 120, 50) if "model-0" in line]
    assert row.rstrip().endswith(" -")


def test_lag_that_no_worker_tells_is_unknown_and_not_nothing() -> None:
    assert "lag unknown" in "\n".join(screen(NOTHING, 120, 50))
    assert "lag unknown" in line(Status(60.0, "traffic"), NOTHING)


def test_on_a_narrow_screen_what_is_stored_is_still_to_be_read() -> None:
    text = "\n".join(screen(OVERVIEW, 80, 24))
    assert "emitted 12,400" in text and "stored 12,345" in text


def test_models_without_a_row_of_their_own_are_summed_up() -> None:
    text = "\n".join(screen(OVERVIEW, 120, 30))
    shown = sum(f"model-{number}  openai" in text for number in range(20))
    assert shown < 20
    hidden = sum(20.0 - number for number in range(shown, 20))
    assert f"{20 - shown} more" in text
    assert f"{hidden:,.1f}" in text


def test_the_line_for_logs_is_one_line_without_colour() -> None:
    status = Status(60.0, "traffic")
    status.update(30.0, 12_400, 12_345)
    for overview in (OVERVIEW, NOTHING):
        text = line(status, overview)
        assert "\n" not in text and "\033" not in text
    assert "12,400" in line(status, OVERVIEW) and "7 dead letters" in line(status, OVERVIEW)
    assert "nothing stored yet" in line(status, NOTHING)


def test_the_picture_is_svg_that_fetches_nothing() -> None:
    status = Status(60.0, "traffic")
    status.update(30.0, 12_400, 12_345)
    svg = picture(status, OVERVIEW, "gatewatch demo")
    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    assert "url(http" not in svg and "@font-face" not in svg and "<image" not in svg
    assert "model-0" in svg


def test_markup_in_names_is_shown_and_not_obeyed() -> None:
    named = replace(model(0), model="[bold]x[/]", provider="[red]")
    overview = replace(
        OVERVIEW,
        models=[named],
        tenants=[TenantRate("[blink]t", 1.0, 0.0, 1.0)],
        dead_letters=[DeadLetterCount("[link=x]r", 1)],
    )
    text = "\n".join(screen(overview, 120, 40))
    assert "[bold]x[/]" in text and "[red]" in text
    assert "[blink]t" in text and "[link=x]r" in text


def test_a_meter_is_the_rate_over_the_last_ten_seconds() -> None:
    meter = Meter()
    assert meter.add(0, 100.0) == 0.0
    assert meter.add(50, 105.0) == 10.0
    assert meter.add(150, 110.0) == 15.0
    assert meter.add(350, 115.0) == 30.0  # from 105 s on
