"""The numbers behind synthetic traffic, each with its source.

Distributions are quantiles that were computed over published traces; drawing inverts them, so
that medians and tails are the trace's own. What no trace publishes is an assumption and says so:
everything in :data:`ASSUMED` and the weights of :data:`ROUTES`. Nothing here is read from a file.

``docs/traffic_profile.md`` is generated from it, and a test computes the quantiles again where the
traces are at hand.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ASSUMED",
    "FAILURES",
    "HOURLY_CALLS",
    "PROBABILITIES",
    "ROUTES",
    "WORKLOADS",
    "Assumed",
    "Failure",
    "Quantiles",
    "Route",
    "Workload",
    "markdown",
]

PROBABILITIES: Final = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0)
_PROBABILITIES: Final = np.array(PROBABILITIES)


class Quantiles(NamedTuple):
    """A distribution of a non-negative quantity."""

    values: tuple[float, ...]
    """At :data:`PROBABILITIES`."""
    source: str

    @property
    def median(self) -> float:
        """The value that half of the draws stay under."""
        return self.values[PROBABILITIES.index(0.5)]

    def draw(self, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values for uniform numbers in [0, 1): the quantile function, log-linear between points."""
        logs: NDArray[np.float64] = np.interp(uniform, _PROBABILITIES, np.log1p(self.values))
        return np.expm1(logs)


_AZURE: Final = "Azure LLM inference trace 2023 (Splitwise, ISCA 2024), {} calls of the {} service"
_MOONCAKE: Final = "Mooncake FAST'25, conversation_trace, 12,031 calls"
_RAGPULSE: Final = "RAGPulse (arXiv 2511.12979), 7,106 calls"
_AGENT: Final = "semianalysisai/cc-traces-weka-no-subagents-051226, the first 5,000 calls"
_LLMPERF: Final = "ssong1/llmperf-bedrock, 350 calls of claude-instant-v1"

# Both are chat-sized prompts (252 and 1,024 tokens) through a managed API.
_TTFT_MS: Final = Quantiles((489, 541, 554, 568, 853, 1136, 1225, 1352, 1554, 2173, 3417, 3866), _LLMPERF)
_TPOT_MS: Final = Quantiles(
    # (e2e - ttft) / (tokens - 1). The file's own itl_ms is e2e / tokens: it contains the ttft.
    # Short answers come in one piece and say nothing about the speed of decoding.
    (6.57, 6.67, 6.93, 7.25, 7.85, 9.51, 11.81, 14.99, 18.01, 37.41, 45.64, 45.86),
    _LLMPERF + ", those 145 with more than 100 output tokens",
)
_AGENT_TTFT_MS: Final = Quantiles(
    (754, 1107, 1539, 1766, 2201, 2827, 4156, 6131, 8317, 15311, 24263, 34343),
    _AGENT + ", those 4,977 with a ttft",
)
_AGENT_TPOT_MS: Final = Quantiles(
    (0.01, 0.08, 3.51, 4.55, 6.47, 9.72, 13.5, 17.71, 21.31, 32.43, 76.34, 140.28),
    _AGENT + ", those 4,330 with more than 100 output tokens",
)


class Workload(NamedTuple):
    """What a call is for: it decides lengths and speeds."""

    operation: str
    input_tokens: Quantiles
    output_tokens: Quantiles
    ttft_ms: Quantiles
    tpot_ms: Quantiles
    calls_per_conversation: float


WORKLOADS: Final[dict[str, Workload]] = {
    "chat": Workload(
        "chat",
        Quantiles(
            (2, 29, 181, 207, 396, 1020, 1189, 2734, 4083, 4142, 6179, 14050),
            _AZURE.format("19,366", "conversation"),
        ),
        Quantiles(
            (7, 16, 41, 54, 85, 129, 395, 424, 451, 601, 954, 1000), _AZURE.format("19,366", "conversation")
        ),
        _TTFT_MS,
        _TPOT_MS,
        7106 / 3990,
    ),
    "completion": Workload(
        "text_completion",
        Quantiles(
            (3, 17, 75, 147, 578, 1469, 2744, 5188, 7303, 7436, 7437, 7437), _AZURE.format("8,819", "code")
        ),
        Quantiles((6, 6, 6, 7, 9, 13, 24, 55, 90, 251, 825, 1899), _AZURE.format("8,819", "code")),
        _TTFT_MS,
        _TPOT_MS,
        1.0,
    ),
    "long_chat": Workload(
        "chat",
        Quantiles((891, 894, 901, 964, 2306, 6909, 15367, 27367, 39550, 85400, 121301, 126195), _MOONCAKE),
        Quantiles((1, 3, 10, 24, 156, 350, 472, 597, 698, 1119, 2000, 2000), _MOONCAKE),
        # Mooncake publishes no latency; prompts this long behave more like an agent's than like a chat's.
        _AGENT_TTFT_MS,
        _AGENT_TPOT_MS,
        7106 / 3990,
    ),
    "rag": Workload(
        "chat",
        Quantiles((1052, 1052, 1055, 1110, 2754, 3140, 3437, 3958, 4425, 5438, 6433, 7712), _RAGPULSE),
        Quantiles((7, 36, 66, 83, 131, 234, 385, 563, 670, 891, 1182, 2183), _RAGPULSE),
        _TTFT_MS,
        _TPOT_MS,
        # 7,106 calls in 3,990 sessions; the trace is sampled, real conversations are longer.
        7106 / 3990,
    ),
    "agent": Workload(
        "chat",
        Quantiles(
            (908, 26708, 41814, 56507, 97971, 205149, 327687, 584663, 726189, 817397, 843919, 847831), _AGENT
        ),
        Quantiles((0, 10, 58, 91, 136, 248, 642, 1477, 2520, 6103, 13471, 24356), _AGENT),
        _AGENT_TTFT_MS,
        _AGENT_TPOT_MS,
        5000 / 21,
    ),
}

CACHED_SHARE: Final = Quantiles(
    # Of a prompt's tokens, those in blocks of 512 that an earlier prompt of the hour began with.
    (0.0, 0.007, 0.018, 0.028, 0.069, 0.363, 0.712, 0.948, 0.976, 0.999, 1.0, 1.0),
    _MOONCAKE + ", prefixes seen before, cache without limit",
)

HOURLY_CALLS: Final = (
    # Calls by hour of day, 0 to 23, over seven days that start at 12:00. RAGPulse, 7,106 calls.
    *(320, 107, 66, 25, 20, 22, 35, 108, 231, 311, 445, 453),
    *(382, 423, 479, 485, 446, 379, 435, 461, 376, 374, 398, 325),
)


class Route(NamedTuple):
    """A workload on a model of a provider."""

    workload: str
    provider: str
    model: str
    deployment: str
    weight: float
    """Share of all calls; assumed."""
    caches: bool = False
    """Whether the provider reports prompt caching."""
    cache_writes: bool = False
    """Whether it also reports what was written to the cache."""
    reasoning: float = 0.0
    """Mean share of the output that is reasoning; assumed."""


ROUTES: Final = (
    Route("chat", "openai", "gpt-4o-mini", "openai-primary", 0.16, caches=True),
    Route("chat", "openai", "gpt-4.1", "openai-primary", 0.10, caches=True),
    Route("chat", "openai", "o4-mini", "openai-primary", 0.05, caches=True, reasoning=0.6),
    Route("chat", "azure.ai.openai", "gpt-4o", "azure-westeurope", 0.12, caches=True),
    Route(
        "chat", "gcp.vertex_ai", "gemini-2.5-flash", "vertex-europe-west4", 0.10, caches=True, reasoning=0.3
    ),
    Route("completion", "azure.ai.openai", "gpt-4o-mini", "azure-westeurope", 0.08, caches=True),
    Route("completion", "openai", "gpt-4.1-mini", "openai-primary", 0.07, caches=True),
    Route("long_chat", "moonshot", "kimi-k2", "moonshot", 0.05, caches=True),
    Route(
        "long_chat",
        "gcp.vertex_ai",
        "gemini-2.5-pro",
        "vertex-europe-west4",
        0.03,
        caches=True,
        reasoning=0.5,
    ),
    Route("rag", "vllm", "Qwen2.5-14B-Instruct", "vllm-eu-1", 0.08),
    Route("rag", "aws.bedrock", "anthropic.claude-3-5-haiku-20241022-v1:0", "bedrock-eu-central-1", 0.06),
    # Within agents the shares are the trace's: 2,694, 2,235 and 71 of 5,000 calls.
    Route("agent", "anthropic", "claude-opus-4-7", "anthropic", 0.0539, caches=True, cache_writes=True),
    Route("agent", "anthropic", "claude-opus-4-6", "anthropic", 0.0447, caches=True, cache_writes=True),
    Route("agent", "anthropic", "claude-sonnet-4-6", "anthropic", 0.0014, caches=True, cache_writes=True),
)


class Failure(NamedTuple):
    """How a call can fail before its first token."""

    error_class: str
    status_code: int
    error_type: str
    share: float
    """Of all calls; assumed."""
    total_ms: float
    """Median time to fail; assumed."""


FAILURES: Final = (
    Failure("rate_limit", 429, "rate_limit_exceeded", 0.0040, 120),
    Failure("overload", 529, "overloaded_error", 0.0020, 400),
    Failure("server", 500, "internal_server_error", 0.0010, 900),
    Failure("timeout", 504, "timeout", 0.0010, 60_000),
    Failure("invalid_request", 400, "invalid_request_error", 0.0010, 90),
    Failure("context_length", 400, "context_length_exceeded", 0.0005, 110),
    Failure("content_filter", 400, "content_filter", 0.0005, 500),
    Failure("authentication", 401, "invalid_api_key", 0.0003, 60),
    Failure("quota", 429, "insufficient_quota", 0.0002, 80),
)


class Assumed(NamedTuple):
    """What no published trace says: our assumptions, in one place."""

    tenant_exponent: float = 1.0
    """Tenant k of n has a share of calls in proportion to 1 / k ** exponent (Zipf)."""
    users_per_tenant: int = 200
    stream_share: float = 0.7
    """Of calls other than an agent's; of the agent trace's calls 4,999 of 5,000 stream."""
    disconnect_share: float = 0.02
    """Streams that the client leaves."""
    upstream_error_share: float = 0.001
    """Streams that the provider breaks."""
    feedback_share: float = 0.02
    """Successful calls that a user judges."""
    feedback_positive_share: float = 0.8
    feedback_delay_s: float = 30.0
    """Mean, exponential."""
    cache_minimum_tokens: int = 1024
    """Shorter prompts are not cached: OpenAI's and Anthropic's documentation of prompt caching."""
    cache_step_tokens: int = 128
    """Cached prefixes are multiples of it: OpenAI's documentation of prompt caching."""
    cache_write_share: float = 0.8
    """Of an agent's prompt that was not read from the cache, what is written to it."""
    ttft_by_length_share: float = 0.6
    """Calls whose ttft has the rank of their prompt's length: the agent trace's rank correlation is 0.64."""
    queue_ms: float = 4.0
    """Mean wait in the gateway, exponential."""
    long_output_tokens: int = 3000
    long_tpot_ms: float = 24.8
    """No output above ``long_output_tokens`` was slower in the agent trace (198 calls)."""
    chars_per_token: float = 4.0
    """OpenAI's rule of thumb for English."""


ASSUMED: Final = Assumed()


def markdown() -> str:
    """``docs/traffic_profile.md``: every number of this module."""
    lines = [
        "# The numbers of synthetic traffic",
        "",
        "Generated from `traffic/profile.py` by `python -m docs.generate`. [traffic.md](traffic.md) says how "
        "they are used; `tests/traffic/test_profile.py` computes those with a source again from the traces.",
        "",
        "## Distributions",
        "",
        "| quantity | "
        + " | ".join(["min", *(f"{100 * p:g} %" for p in PROBABILITIES[1:-1]), "max"])
        + " | source |",
        "|---|" + "---:|" * len(PROBABILITIES) + "---|",
    ]
    tables = [
        (f"{name} `{field}`", getattr(workload, field))
        for name, workload in WORKLOADS.items()
        for field in ("input_tokens", "output_tokens", "ttft_ms", "tpot_ms")
    ]
    for title, table in [*tables, ("cached share of a prompt", CACHED_SHARE)]:
        lines.append(f"| {title} | {' | '.join(map(_number, table.values))} | {table.source} |")
    lines += ["", "Calls per conversation: " + ", ".join(_conversations()) + "."]
    lines += ["", "## Hours of the day", "", "RAGPulse, 7,106 calls of seven days that start at 12:00.", ""]
    lines += ["| hour | " + " | ".join(map(str, range(24))) + " |", "|---|" + "---:|" * 24]
    lines += ["| calls | " + " | ".join(map(str, HOURLY_CALLS)) + " |"]
    lines += ["", "## Routes", "", "The shares are assumed; within agents they are the trace's.", ""]
    lines += [
        "| workload | provider | model | share of calls | reports caching | mean share of reasoning |",
        "|---|---|---|---:|---|---:|",
    ]
    for route in ROUTES:
        caching = "reads and writes" if route.cache_writes else "reads" if route.caches else "no"
        lines.append(
            f"| {route.workload} | `{route.provider}` | `{route.model}` | {route.weight:.2%} | {caching} "
            f"| {_number(route.reasoning)} |"
        )
    lines += ["", "## Failures", "", "Assumed.", ""]
    lines += ["| error class | status | share of calls | median ms to fail |", "|---|---:|---:|---:|"]
    for failure in FAILURES:
        lines.append(
            f"| {failure.error_class} | {failure.status_code} | {failure.share:.2%} "
            f"| {_number(failure.total_ms)} |"
        )
    lines += ["", "## Assumed", "", "| name | value |", "|---|---:|"]
    lines += [f"| `{name}` | {_number(value)} |" for name, value in ASSUMED._asdict().items()]
    return "\n".join(lines) + "\n"


def _conversations() -> list[str]:
    return [f"{name} {workload.calls_per_conversation:.2f}" for name, workload in WORKLOADS.items()]


def _number(value: float) -> str:
    text = f"{value:,.3f}"
    return text.rstrip("0").rstrip(".")
