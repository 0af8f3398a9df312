"""Synthetic traffic: a pure function of its seed and parameters.

Calls arrive as a Poisson process whose rate follows the hours of a day. Each call takes a route
(workload, provider, model), a tenant, a user and a gateway, lengths and times drawn from the
quantiles of published traces (:mod:`traffic.profile`), an outcome, and becomes either one ``call``
event or its parts: a ``request`` when it starts, ``token`` events while it streams, ``response``
and ``latency`` at its end, in either order. Some calls get feedback later.

Everything is drawn for blocks of calls in columns, from a generator that is seeded by the traffic's
seed and the block's number, and before incidents apply. So an incident changes what it strikes and
nothing else, and the same parameters give the same bytes on every machine with the same numpy.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from gatewatch.events import Call, ErrorClass, Event, Feedback, Latency, Request, Response, Token
from traffic.incident import BrokenTelemetry, Flood, Incident, LatencyIncident, Outage, broken_line
from traffic.profile import ASSUMED, CACHED_SHARE, FAILURES, HOURLY_CALLS, ROUTES, WORKLOADS
from traffic.trace import Timed

__all__ = ["Traffic", "TrafficError"]

_Floats = NDArray[np.float64]
_DAY_S: Final = 86_400.0

# The kinds of which each call has one.
_CALL_STARTS: Final = (Call, Request)

# Outcomes beside the index of a failure.
_OK: Final = -1
_DISCONNECT: Final = -2
_UPSTREAM: Final = -3

_FAILURE_OF: Final = {failure.error_class: index for index, failure in enumerate(FAILURES)}


class TrafficError(ValueError):
    """A parameter that makes no traffic; the message says what would be right."""


class _Rhythm:
    """Arrivals as a time-rescaled Poisson process: load is time in which calls arrive evenly.

    One unit of load is one mean second. ``load(t)`` is the integral of the relative rate, a
    linear interpolation between the middles of the hours of :data:`HOURLY_CALLS`, since midnight UTC.
    """

    def __init__(self, daily: bool) -> None:
        steps = 24 * 12  # of five minutes
        self._times: _Floats = np.linspace(0.0, _DAY_S, steps + 1)
        if daily:
            mean = sum(HOURLY_CALLS) / 24
            middles = (np.arange(-1, 25) + 0.5) * 3600
            rates = np.array([HOURLY_CALLS[hour % 24] / mean for hour in range(-1, 25)])
            rate = np.interp(self._times, middles, rates)
        else:
            rate = np.ones(steps + 1)
        steps_load = (rate[1:] + rate[:-1]) / 2 * (_DAY_S / steps)
        loads = np.concatenate(([0.0], np.cumsum(steps_load)))
        # Interpolation between the middles of hours changes the day's sum a little; now it is exact.
        self._loads: _Floats = loads * (_DAY_S / loads[-1])

    def load(self, time_s: float) -> float:
        days, rest = divmod(time_s, _DAY_S)
        return days * _DAY_S + float(np.interp(rest, self._times, self._loads))

    def time(self, load: _Floats) -> _Floats:
        days = np.floor(load / _DAY_S)
        inverse: _Floats = days * _DAY_S + np.interp(load - days * _DAY_S, self._loads, self._times)
        return inverse


class _Tenant(NamedTuple):
    name: str
    teams: tuple[str, ...]
    keys: tuple[str, ...]
    users: tuple[str, ...]
    home: int
    """The gateway that most of its calls go through."""


class _Place(NamedTuple):
    """What the calls of one route have in common."""

    workload: str
    operation: str
    provider: str
    model: str
    deployment: str
    tags: dict[str, str]


class Traffic:
    """Synthetic events in order of their times.

    Parameters
    ----------
    seed
        The same seed and parameters give the same events.
    start_ms
        Event time of the start, milliseconds since 1970 UTC.
    rate_per_s
        Calls per second: the mean over a day where there is a rhythm.
    duration_s
        Event time that is covered; ``None`` never ends. What calls in flight at the end would still
        say is left out unless ``drain``.
    tenants, gateways
        How many there are: ``tenant-01``, ... and ``gateway-1``, ...
    split_share
        Calls that are told in parts; the others are single ``call`` events.
    feedback_share
        Successful calls that get feedback.
    rhythm
        Whether the rate follows the hours of the day (UTC).
    drain
        Whether calls that are in flight at the end are told to their end, beyond ``duration_s``.
    environment
        Of all events.
    incidents
        See :mod:`traffic.incident`.

    Attributes
    ----------
    calls_total, broken_total
        Counted while iterating: calls told of, by a request or a call event; lines broken on purpose.

    Raises
    ------
    TrafficError
        A parameter is out of its range, or an incident names something that this traffic does not have.

    Examples
    --------
    >>> traffic = Traffic(7, start_ms=1_700_000_000_000, rate_per_s=10, duration_s=60, split_share=0.0)
    >>> {type(item.payload).__name__ for item in traffic} <= {"Call", "Feedback"}
    True
    """

    _BLOCK_CALLS: Final = 4096

    def __init__(
        self,
        seed: int,
        *,
        start_ms: int,
        rate_per_s: float = 200.0,
        duration_s: float | None = None,
        tenants: int = 20,
        gateways: int = 3,
        split_share: float = 0.3,
        feedback_share: float = ASSUMED.feedback_share,
        rhythm: bool = True,
        drain: bool = False,
        environment: str = "production",
        incidents: Iterable[Incident] = (),
    ) -> None:
        _between("seed", seed, 0, 2**63 - 1)
        _between("start", start_ms, 0, 9_000_000_000_000)
        _between("rate", rate_per_s, 1e-6, 1e7)
        _between("tenants", tenants, 1, 10_000)
        _between("gateways", gateways, 1, 1000)
        _between("split share", split_share, 0, 1)
        _between("feedback share", feedback_share, 0, 1)
        if duration_s is not None:
            _between("duration", duration_s, 1e-3, 1e9)
        self.calls_total = 0
        self.broken_total = 0
        self.start_ms = start_ms
        self.duration_s = duration_s
        self._seed = seed
        self._rate_per_s = rate_per_s
        self._split_share = split_share
        self._feedback_share = feedback_share
        self._drain = drain
        self._environment = environment
        self._rhythm = _Rhythm(rhythm)
        self._gateways = [f"gateway-{index + 1}" for index in range(gateways)]
        self._tenants = [self._tenant(index, tenants) for index in range(tenants)]
        weights = np.arange(1, tenants + 1, dtype=np.float64) ** -ASSUMED.tenant_exponent
        self._tenant_shares: _Floats = weights / weights.sum()
        route_weights = np.array([route.weight for route in ROUTES])
        self._route_bounds: _Floats = np.cumsum(route_weights / route_weights.sum())
        self._failure_bounds: _Floats = np.cumsum([failure.share for failure in FAILURES])
        # A run of the same seed at another time is another set of calls.
        self._prefix = f"s{seed:x}-{start_ms:x}"
        self._incidents = tuple(incidents)
        self._check_incidents()

    def _tenant(self, index: int, tenants: int) -> _Tenant:
        width = max(2, len(str(tenants)))
        name = f"tenant-{index + 1:0{width}d}"

        def secret(what: str) -> str:
            return hashlib.blake2b(f"{name}/{what}".encode(), digest_size=8).hexdigest()

        return _Tenant(
            name,
            tuple(f"team-{number + 1}" for number in range(1 + index % 3)),
            tuple(f"{name}-key-{number + 1}" for number in range(2)),
            tuple(secret(f"user-{number}") for number in range(ASSUMED.users_per_tenant)),
            index % len(self._gateways),
        )

    def _check_incidents(self) -> None:
        known: dict[str, Sequence[str]] = {
            "tenant": [tenant.name for tenant in self._tenants],
            "gateway": self._gateways,
            "provider": sorted({route.provider for route in ROUTES}),
            "model": sorted({route.model for route in ROUTES}),
        }
        for incident in self._incidents:
            for what, names in known.items():
                name = getattr(incident, what, "")
                if name and name not in names:
                    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
                    raise TrafficError(
                        f"{incident.name}: this traffic has no {what} {name!r}; it has {shown}"
                    )

    # --- Blocks of calls ---------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Timed]:
        self.calls_total = self.broken_total = 0
        broken = [incident for incident in self._incidents if isinstance(incident, BrokenTelemetry)]
        items = self._timed()
        return self._breaking(items, broken) if broken else (Timed(ms / 1000, event) for ms, event in items)

    def _breaking(
        self, items: Iterable[tuple[int, Event]], incidents: Sequence[BrokenTelemetry]
    ) -> Iterator[Timed]:
        generator = np.random.Generator(np.random.PCG64([self._seed, 2]))
        ways = itertools.count()
        for at_ms, event in items:
            offset_s = (at_ms - self.start_ms) / 1000
            payload: Event | bytes = event
            for incident in incidents:
                if (
                    incident.at_s <= offset_s < incident.until_s
                    and incident.gateway in ("", event.gateway)
                    and generator.random() < incident.share
                ):
                    payload = broken_line(event, next(ways))
                    self.broken_total += 1
                    break
            yield Timed(at_ms / 1000, payload)

    def _timed(self) -> Iterator[tuple[int, Event]]:
        """Events with their times, in order."""
        start_s = self.start_ms / 1000
        end_ms = math.inf if self.duration_s is None else self.start_ms + self.duration_s * 1000
        load = self._rhythm.load(start_s)
        pending: list[tuple[int, Event]] = []
        numbers = itertools.count()
        conversations: dict[int, int] = {}
        floods = [
            (position, incident, itertools.count(), dict[int, int]())
            for position, incident in enumerate(self._incidents)
            if isinstance(incident, Flood)
        ]
        began_s = start_s
        for block in itertools.count():
            generator = np.random.Generator(np.random.PCG64([self._seed, 0, block]))
            steps = -np.log1p(-generator.random(self._BLOCK_CALLS)) / self._rate_per_s
            arrivals_load = load + np.cumsum(steps)
            arrivals_s = self._rhythm.time(arrivals_load)
            next_load = float(arrivals_load[-1])
            until_s = float(arrivals_s[-1])
            tenants = np.searchsorted(
                np.cumsum(self._tenant_shares)[:-1], generator.random(self._BLOCK_CALLS), side="right"
            )
            self._tell(
                pending, self._columns(generator, arrivals_s, tenants), "", numbers, conversations, end_ms
            )
            for position, flood, flood_numbers, flood_conversations in floods:
                extra = self._flood(flood, position, block, began_s, until_s)
                if extra is not None:
                    self._tell(pending, extra, f"f{position}-", flood_numbers, flood_conversations, end_ms)
            # Stable, so that what happens in the same millisecond keeps the order in which it was told.
            pending.sort(key=itemgetter(0))
            frontier_ms = min(math.floor(until_s * 1000), math.inf if self._drain else end_ms)
            ready = 0
            for at_ms, event in pending:
                if at_ms >= frontier_ms:
                    break
                ready += 1
                if isinstance(event, _CALL_STARTS):
                    self.calls_total += 1
                yield at_ms, event
            del pending[:ready]
            if until_s * 1000 >= end_ms:
                if self._drain:
                    for at_ms, event in pending:
                        self.calls_total += isinstance(event, _CALL_STARTS)
                        yield at_ms, event
                return
            load, began_s = next_load, until_s

    def _flood(
        self, flood: Flood, position: int, block: int, began_s: float, until_s: float
    ) -> dict[str, Any] | None:
        """The calls that a flood adds between two times."""
        start_s = self.start_ms / 1000
        low = max(began_s, start_s + flood.at_s)
        high = min(until_s, start_s + flood.until_s)
        if low >= high:
            return None
        names = [tenant.name for tenant in self._tenants]
        tenant = names.index(flood.tenant)
        low_load, high_load = self._rhythm.load(low), self._rhythm.load(high)
        rate = self._rate_per_s * float(self._tenant_shares[tenant]) * (flood.factor - 1)
        generator = np.random.Generator(np.random.PCG64([self._seed, 1, position, block]))
        count = int(generator.poisson(rate * (high_load - low_load)))
        if not count:
            return None
        loads = np.sort(low_load + (high_load - low_load) * generator.random(count))
        return self._columns(generator, self._rhythm.time(loads), np.full(count, tenant))

    def _columns(
        self, generator: np.random.Generator, arrivals_s: _Floats, tenants: NDArray[np.int64]
    ) -> dict[str, Any]:
        """Everything about a block's calls, a column each."""
        count = len(arrivals_s)

        def uniform() -> _Floats:
            return generator.random(count)

        def exponential(mean: float) -> _Floats:
            return -np.log1p(-generator.random(count)) * mean

        route = np.searchsorted(self._route_bounds[:-1], uniform(), side="right")
        of = _ROUTE_COLUMNS
        u_input, u_output, u_ttft, u_tpot = uniform(), uniform(), uniform(), uniform()
        # With the rank of the prompt's length or one of its own: the distribution is the same either way.
        u_ttft = np.where(uniform() < ASSUMED.ttft_by_length_share, u_input, u_ttft)
        input_tokens, output_tokens = np.zeros(count), np.zeros(count)
        ttft_ms, tpot_ms = np.zeros(count), np.zeros(count)
        workload = of.workload[route]
        for index, kind in enumerate(WORKLOADS.values()):
            rows = workload == index
            input_tokens[rows] = np.rint(kind.input_tokens.draw(u_input[rows]))
            output_tokens[rows] = np.rint(kind.output_tokens.draw(u_output[rows]))
            ttft_ms[rows] = kind.ttft_ms.draw(u_ttft[rows])
            tpot_ms[rows] = kind.tpot_ms.draw(u_tpot[rows])
        tpot_ms = np.where(
            output_tokens > ASSUMED.long_output_tokens, np.minimum(tpot_ms, ASSUMED.long_tpot_ms), tpot_ms
        )

        step = ASSUMED.cache_step_tokens
        read = np.floor(input_tokens * CACHED_SHARE.draw(uniform()) / step) * step
        caches = of.caches[route] & (input_tokens >= ASSUMED.cache_minimum_tokens)
        read = np.where(caches, read, 0)
        written = np.where(
            of.cache_writes[route] & caches, np.floor((input_tokens - read) * ASSUMED.cache_write_share), 0
        )
        share = of.reasoning[route] * (0.5 + uniform())
        reasoning = np.floor(output_tokens * np.minimum(share, 0.95))

        streams = (uniform() < ASSUMED.stream_share) | (workload == _AGENT)
        u_outcome, u_end, ended = uniform(), uniform(), uniform()
        outcome = np.searchsorted(self._failure_bounds, u_outcome, side="right")
        outcome = np.where(outcome == len(FAILURES), _OK, outcome)
        leaves = streams & (outcome == _OK) & (u_end < ASSUMED.disconnect_share)
        breaks = (
            streams
            & (outcome == _OK)
            & (u_end >= ASSUMED.disconnect_share)
            & (u_end < ASSUMED.disconnect_share + ASSUMED.upstream_error_share)
        )
        outcome = np.where(leaves, _DISCONNECT, np.where(breaks, _UPSTREAM, outcome))

        home = np.array([tenant.home for tenant in self._tenants])[tenants]
        roams, roamed = uniform() < 0.2, np.floor(uniform() * len(self._gateways)).astype(np.int64)
        gateway = np.where(roams, roamed, home)

        u_outage = uniform()
        offset_s = arrivals_s - self.start_ms / 1000
        for incident in self._incidents:
            if isinstance(incident, LatencyIncident | Outage):
                hit = (offset_s >= incident.at_s) & (offset_s < incident.until_s)
                hit &= self._selected(incident, route, tenants, gateway)
                if isinstance(incident, LatencyIncident):
                    ttft_ms[hit] *= incident.factor
                    tpot_ms[hit] *= incident.factor
                else:
                    hit &= u_outage < incident.share
                    outcome[hit] = _FAILURE_OF[incident.error]

        queue_ms = exponential(ASSUMED.queue_ms)
        failed = outcome >= 0
        fail_ms = _FAIL_MS[np.maximum(outcome, 0)] * np.exp(generator.standard_normal(count) * 0.4)
        # A stream that was cut has shown a part of its output.
        output_tokens = np.where(
            (outcome == _DISCONNECT) | (outcome == _UPSTREAM), np.floor(output_tokens * ended), output_tokens
        )
        total_ms = np.where(failed, fail_ms, ttft_ms + tpot_ms * np.maximum(output_tokens - 1, 0))
        total_ms = np.minimum(total_ms + queue_ms, _LONGEST_MS)
        ttft_ms = np.minimum(ttft_ms + queue_ms, total_ms)
        answer_ms = np.minimum(ttft_ms + reasoning * tpot_ms, total_ms)
        gap_ms = np.minimum(tpot_ms * (2 + exponential(3.0)), total_ms)
        started_ms = np.floor(arrivals_s * 1000)
        return {
            "started_ms": started_ms.astype(np.int64).tolist(),
            "ended_ms": (started_ms + np.ceil(total_ms)).astype(np.int64).tolist(),
            "route": route.tolist(),
            "tenant": tenants.tolist(),
            "gateway": gateway.tolist(),
            # Some users call much more than others.
            "user": np.floor(uniform() ** 2 * ASSUMED.users_per_tenant).astype(np.int64).tolist(),
            "pick": np.floor(uniform() * 6).astype(np.int64).tolist(),
            "input": input_tokens.astype(np.int64).tolist(),
            "output": output_tokens.astype(np.int64).tolist(),
            "read": read.astype(np.int64).tolist(),
            "written": written.astype(np.int64).tolist(),
            "reasoning": reasoning.astype(np.int64).tolist(),
            "ttft_ms": np.round(ttft_ms, 3).tolist(),
            "answer_ms": np.round(answer_ms, 3).tolist(),
            "tpot_ms": np.round((total_ms - ttft_ms) / np.maximum(output_tokens - 1, 1), 4).tolist(),
            "gap_ms": np.round(gap_ms, 3).tolist(),
            "total_ms": np.round(total_ms, 3).tolist(),
            "queue_ms": np.round(np.minimum(queue_ms, total_ms), 3).tolist(),
            "stream": streams.tolist(),
            "outcome": outcome.tolist(),
            "split": (uniform() < self._split_share).tolist(),
            "swapped": (uniform() < 0.5).tolist(),
            "continues": (uniform() < of.continues[route]).tolist(),
            "judged": (uniform() < self._feedback_share).tolist(),
            "liked": (uniform() < ASSUMED.feedback_positive_share).tolist(),
            "judged_after_ms": np.rint(exponential(ASSUMED.feedback_delay_s * 1000))
            .astype(np.int64)
            .tolist(),
        }

    def _selected(
        self,
        incident: LatencyIncident | Outage,
        route: NDArray[np.int64],
        tenants: NDArray[np.int64],
        gateway: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Which calls an incident is about."""
        rows = np.ones(len(route), dtype=np.bool_)
        if incident.provider:
            rows &= np.array([place.provider == incident.provider for place in ROUTES])[route]
        if incident.model:
            rows &= np.array([place.model == incident.model for place in ROUTES])[route]
        if incident.tenant:
            rows &= np.array([tenant.name == incident.tenant for tenant in self._tenants])[tenants]
        if incident.gateway:
            rows &= gateway == self._gateways.index(incident.gateway)
        return rows

    # --- Events ------------------------------------------------------------------------------------

    def _tell(
        self,
        pending: list[tuple[int, Event]],
        columns: dict[str, Any],
        mark: str,
        numbers: Iterator[int],
        conversations: dict[int, int],
        end_ms: float,
    ) -> None:
        """Append the events of a block's calls, in the order of the calls."""
        prefix, environment = self._prefix, self._environment
        for (
            started_ms,
            ended_ms,
            route,
            tenant_index,
            gateway_index,
            user,
            pick,
            input_tokens,
            output_tokens,
            read,
            written,
            reasoning,
            ttft_ms,
            answer_ms,
            tpot_ms,
            gap_ms,
            total_ms,
            queue_ms,
            stream,
            outcome,
            split,
            swapped,
            continues,
            judged,
            liked,
            judged_after_ms,
        ) in zip(*columns.values(), strict=True):
            if started_ms >= end_ms:
                return
            place = _PLACES[route]
            route_facts = ROUTES[route]
            tenant = self._tenants[tenant_index]
            person = tenant_index * ASSUMED.users_per_tenant + user
            conversation = conversations.get(person, 0) + (not continues)
            conversations[person] = conversation
            common: dict[str, Any] = {
                "gateway": self._gateways[gateway_index],
                "environment": environment,
                "call_id": f"{prefix}-{mark}{next(numbers):x}",
                "started_at_ms": started_ms,
                "provider": place.provider,
                "model": place.model,
                "operation": place.operation,
                "deployment": place.deployment,
                "tenant": tenant.name,
                "team": tenant.teams[pick % len(tenant.teams)],
                "key_alias": tenant.keys[pick % 2],
                "user_hash": tenant.users[user],
                "conversation_id": f"{mark}c{person:x}-{conversation:x}",
                "tags": place.tags,
            }
            asked: dict[str, Any] = {
                "stream": stream,
                "max_output_tokens": 4096 if output_tokens <= 4096 else 32_768,
                "message_count": 1 + pick,
                "input_chars": int(input_tokens * ASSUMED.chars_per_token),
            }
            timed: dict[str, Any] = {
                "total_ms": total_ms,
                "queue_ms": queue_ms,
                "upstream_ms": round(total_ms - queue_ms, 3),
            }
            outcome_facts: dict[str, Any]
            if outcome >= 0:
                failure = FAILURES[outcome]
                outcome_facts = {
                    "status_code": failure.status_code,
                    "error_class": cast(ErrorClass, failure.error_class),
                    "error_type": failure.error_type,
                    "usage_source": "missing",
                    "attempt": 0,
                }
            else:
                outcome_facts = {
                    "status_code": 200,
                    "attempt": 0,
                    "response_model": place.model,
                    "input_tokens": input_tokens,
                    "output_tokens": output_tokens,
                }
                if outcome == _OK:
                    outcome_facts["usage_source"] = "provider"
                    outcome_facts["finish_reason"] = "stop"
                    if route_facts.caches:
                        outcome_facts["cache_read_tokens"] = read
                    if route_facts.cache_writes:
                        outcome_facts["cache_write_tokens"] = written
                        outcome_facts["cache_write_5m_tokens"] = written
                    if route_facts.reasoning:
                        outcome_facts["output_reasoning_tokens"] = reasoning
                else:
                    # The provider's usage comes with a stream's last chunk, which never came.
                    outcome_facts["usage_source"] = "estimated"
                    # As gatewatch.call classes them; the status was sent with the first chunk.
                    outcome_facts["error_class"] = "server" if outcome == _UPSTREAM else "cancelled"
                    outcome_facts["error_type"] = _STREAM_ENDS[outcome]
                if stream:
                    outcome_facts["stream_end"] = _STREAM_ENDS[outcome]
                    if output_tokens:
                        timed["max_gap_ms"] = gap_ms
                        if output_tokens > 1:
                            timed["tpot_ms"] = tpot_ms
                        if reasoning < output_tokens:
                            timed["ttfat_ms"] = answer_ms
            streamed = bool(stream and outcome < 0 and output_tokens)
            if not split:
                if streamed:
                    timed["ttft_ms"] = ttft_ms
                pending.append((ended_ms, Call(at_ms=ended_ms, **common, **asked, **timed, **outcome_facts)))
            else:
                pending.append((started_ms, Request(at_ms=started_ms, **common, **asked)))
                if streamed:
                    first_ms = min(started_ms + int(ttft_ms), ended_ms)
                    # The first token's event has the ttft, so the latency event has it not: each number once.
                    pending.append(
                        (first_ms, Token(at_ms=first_ms, ttft_ms=ttft_ms, output_tokens_so_far=1, **common))
                    )
                    if output_tokens >= 100:
                        half_ms = (first_ms + ended_ms) // 2
                        half = output_tokens // 2
                        pending.append((half_ms, Token(at_ms=half_ms, output_tokens_so_far=half, **common)))
                response = (ended_ms, Response(at_ms=ended_ms, stream=stream, **common, **outcome_facts))
                latency = (ended_ms, Latency(at_ms=ended_ms, **common, **timed))
                pending.extend((latency, response) if swapped else (response, latency))
            if judged and outcome == _OK:
                at_ms = ended_ms + judged_after_ms
                pending.append(
                    (
                        at_ms,
                        Feedback(
                            at_ms=at_ms,
                            gateway=common["gateway"],
                            environment=environment,
                            call_id=common["call_id"],
                            name="thumbs",
                            score=1.0 if liked else 0.0,
                            label="up" if liked else "down",
                            tenant=tenant.name,
                            user_hash=common["user_hash"],
                        ),
                    )
                )


_STREAM_ENDS: Final = {_OK: "complete", _DISCONNECT: "client_disconnect", _UPSTREAM: "upstream_error"}
_AGENT: Final = list(WORKLOADS).index("agent")
_LONGEST_MS: Final = 3_600_000.0
_FAIL_MS: Final = np.array([failure.total_ms for failure in FAILURES])
_PLACES: Final = tuple(
    _Place(
        route.workload,
        WORKLOADS[route.workload].operation,
        route.provider,
        route.model,
        route.deployment,
        {"workload": route.workload},
    )
    for route in ROUTES
)


class _RouteColumns(NamedTuple):
    workload: NDArray[np.int64]
    caches: NDArray[np.bool_]
    cache_writes: NDArray[np.bool_]
    reasoning: _Floats
    continues: _Floats
    """The chance that a call goes on with its user's last conversation: 1 - 1 / calls per conversation."""


_ROUTE_COLUMNS: Final = _RouteColumns(
    np.array([list(WORKLOADS).index(route.workload) for route in ROUTES]),
    np.array([route.caches for route in ROUTES]),
    np.array([route.cache_writes for route in ROUTES]),
    np.array([route.reasoning for route in ROUTES]),
    np.array([1 - 1 / WORKLOADS[route.workload].calls_per_conversation for route in ROUTES]),
)


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise TrafficError(f"{name} must be from {low:g} to {high:g}, got {value:g}")
