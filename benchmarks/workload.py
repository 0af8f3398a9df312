"""The events that benchmarks send: `call` events of 24 fields and some 460 bytes, the same every time.

Sizes and spreads follow the synthetic traffic (docs/traffic.md); what matters for speed is how many
fields an event has, how many distinct tenants and models there are, and how wide latencies spread.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from gatewatch.events import Call, encode

__all__ = ["calls", "records"]

_MODELS = (
    ("openai", "gpt-4o"),
    ("openai", "gpt-4o-mini"),
    ("anthropic", "claude-sonnet-4-5"),
    ("anthropic", "claude-haiku-4-5"),
    ("gcp.vertex_ai", "gemini-2.5-flash"),
    ("mistral_ai", "mistral-large-latest"),
)


def calls(n: int, now_ms: int, seed: int = 1, emitter_id: str = "") -> Iterator[Call]:
    """``n`` calls that ended within the ten seconds before ``now_ms``, numbered from 0."""
    draw = random.Random(seed)
    emitter_id = emitter_id or f"bench{seed:08d}"
    for seq in range(n):
        provider, model = _MODELS[min(int(draw.paretovariate(1.2)) - 1, len(_MODELS) - 1)]
        tenant = min(int(draw.paretovariate(0.8)), 50)
        total_ms = round(draw.lognormvariate(7, 0.9), 3)
        output_tokens = max(2, int(draw.lognormvariate(5, 1)))
        ttft_ms = round(total_ms * draw.uniform(0.05, 0.4), 3)
        ended_ms = now_ms - draw.randrange(10_000)
        failed = draw.random() < 0.01
        yield Call(
            at_ms=ended_ms,
            gateway=f"eu-{draw.randrange(3)}",
            environment="production",
            emitter_id=emitter_id,
            seq=seq,
            call_id=f"{draw.getrandbits(128):032x}",
            started_at_ms=ended_ms - int(total_ms),
            provider=provider,
            model=model,
            deployment=f"{model}-1",
            tenant=f"tenant-{tenant}",
            team=f"team-{tenant % 7}",
            total_ms=total_ms,
            ttft_ms=ttft_ms,
            tpot_ms=round((total_ms - ttft_ms) / (output_tokens - 1), 3),
            stream=True,
            stream_end="upstream_error" if failed else "complete",
            status_code=503 if failed else 200,
            error_class="overload" if failed else None,
            usage_source="provider",
            input_tokens=int(draw.lognormvariate(7, 1.2)),
            cache_read_tokens=0,
            output_tokens=output_tokens,
        )


def records(events: Iterator[Call], per_record: int) -> Iterator[bytes]:
    """Values of Kafka records that hold ``per_record`` events each."""
    batch: list[bytes] = []
    for event in events:
        batch.append(encode(event))
        if len(batch) == per_record:
            yield b"\n".join(batch)
            batch = []
    if batch:
        yield b"\n".join(batch)
