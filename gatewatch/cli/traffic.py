"""`gatewatch traffic`: synthetic traffic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gatewatch.cli import sending
from gatewatch.cli.message import wrong_usage

if TYPE_CHECKING:
    from traffic.replay import Summary

# In a shorter run a rhythm could not be seen; it would only make --rate mean something else at night.
_RHYTHM_FROM_S = 3600.0


def command(
    rate: Annotated[
        float, typer.Option(help="Calls per second; with a daily rhythm, their mean over a day.")
    ] = 200.0,
    duration: Annotated[str, typer.Option(help="How much event time: 60s, 15m, 24h.")] = "60s",
    forever: Annotated[bool, typer.Option("--forever", help="Until Ctrl-C.")] = False,
    seed: Annotated[int, typer.Option(help="The same seed and start give the same events.")] = 7,
    tenants: Annotated[
        int, typer.Option(help="How many tenants; the k-th has 1/k of the first's calls.")
    ] = 20,
    gateways: Annotated[int, typer.Option(help="How many gateways.")] = 3,
    split_share: Annotated[
        float,
        typer.Option(help="Calls told as request, token, response and latency events, not as one call."),
    ] = 0.3,
    feedback_share: Annotated[float, typer.Option(help="Successful calls that a user judges.")] = 0.02,
    rhythm: Annotated[
        str,
        typer.Option(help="daily, flat, or auto: daily from an hour of event time on, else flat."),
    ] = "auto",
    start: Annotated[
        str, typer.Option(help="Event time of the start: now, a date (UTC), or an age such as -24h.")
    ] = "now",
    speed: Annotated[float, typer.Option(help="Seconds of traffic to a second.")] = 1.0,
    flat_out: Annotated[
        bool,
        typer.Option("--flat-out", help="As fast as possible. From now means: over the DURATION until now."),
    ] = False,
    inject: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INCIDENT",
            help="latency:at=30s,duration=20s,provider=openai,factor=5; "
            "outage:provider=...,error=...,share=...; flood:tenant=...,factor=10; "
            "broken-telemetry:share=0.2. May be given several times.",
        ),
    ] = None,
    drain: Annotated[
        bool, typer.Option("--drain", help="Tell the calls in flight at the end to their end.")
    ] = False,
    environment: Annotated[str, typer.Option(help="Environment in the events.")] = "production",
    bootstrap: Annotated[
        str | None, typer.Option(help="Kafka's host:port; GATEWATCH_KAFKA unless given.", show_default=False)
    ] = None,
    batch_events: Annotated[int, typer.Option(help="Events to a Kafka record, 1 to 500.")] = 100,
    output: Annotated[
        str | None, typer.Option(help="Write JSON lines to this file instead, - for standard output.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Make everything at once, send nothing.")
    ] = False,
    json_summary: Annotated[
        bool, typer.Option("--json", help="Write the summary as JSON on standard output.")
    ] = False,
) -> None:
    """Send synthetic traffic to Kafka: several tenants, models and gateways, drawn from real traces.

    Example: gatewatch traffic --rate 200 --duration 60s
    --inject latency:at=30s,duration=20s,provider=openai,factor=5
    """
    from traffic.incident import IncidentError, parse_incident, seconds
    from traffic.replay import Pace
    from traffic.synthetic import Traffic, TrafficError

    if rhythm not in ("auto", "daily", "flat"):
        wrong_usage("traffic", f"--rhythm must be auto, daily or flat, not {rhythm!r}")
    if forever and (flat_out or dry_run):
        wrong_usage("traffic", "--forever needs a clock: give --duration with --flat-out or --dry-run")
    if len(environment) > 256:
        wrong_usage("traffic", "--environment must have at most 256 characters")
    sending.check_speed("traffic", speed)
    try:
        duration_s = None if forever else seconds(duration)
    except ValueError as error:
        wrong_usage("traffic", f"--duration: {error}")
    given_ms = sending.start_ms("traffic", start, sending.now_ms())
    start_ms = given_ms
    if start_ms is None:
        start_ms = sending.now_ms()
        if flat_out and duration_s is not None:
            # Event times of a rush into the future would be refused by the workers.
            start_ms = max(0, start_ms - round(duration_s / speed * 1000))
    try:
        incidents = [parse_incident(text) for text in inject or []]
        traffic = Traffic(
            seed,
            start_ms=start_ms,
            rate_per_s=rate,
            duration_s=duration_s,
            tenants=tenants,
            gateways=gateways,
            split_share=split_share,
            feedback_share=feedback_share,
            rhythm=rhythm == "daily"
            or (rhythm == "auto" and (duration_s is None or duration_s >= _RHYTHM_FROM_S)),
            drain=drain,
            environment=environment,
            incidents=incidents,
        )
    except (IncidentError, TrafficError) as error:
        wrong_usage("traffic", str(error))

    def details(summary: Summary) -> dict[str, Any]:
        return {
            "calls": traffic.calls_total,
            "broken": traffic.broken_total,
            "seed": seed,
            "start_ms": start_ms,
        }

    sending.run(
        "traffic",
        traffic,
        Pace(
            speed=speed,
            flat_out=flat_out or dry_run,
            start_ms=start_ms,
            # At its own speed the traffic's own times are the right ones.
            keep_time=speed == 1,
        ),
        output=output,
        dry_run=dry_run,
        bootstrap=bootstrap,
        gateway="gateway-1",
        batch_events=batch_events,
        json_summary=json_summary,
        details=details,
        origin_s=start_ms / 1000,
    )
