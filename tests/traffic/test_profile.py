"""The tables are what the traces say: computed again from the published files."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pytest

from traffic.profile import (
    CACHED_SHARE,
    FAILURES,
    HOURLY_CALLS,
    PROBABILITIES,
    ROUTES,
    WORKLOADS,
    Quantiles,
)


def opened(path: Path) -> TextIO:
    return gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")


def objects(path: Path) -> list[dict[str, Any]]:
    with opened(path) as lines:
        return [json.loads(line) for line in lines if line.strip()]


def rows(path: Path) -> list[list[str]]:
    with opened(path) as lines:
        return list(csv.reader(lines))[1:]


def assert_quantiles(table: Quantiles, values: list[float], digits: int = 0) -> None:
    computed = np.round(np.quantile(np.array(values, dtype=float), PROBABILITIES), digits)
    assert computed.tolist() == pytest.approx(list(table.values), abs=0.51 * 10**-digits)


@pytest.mark.parametrize(
    ("workload", "file"),
    [
        ("chat", "AzureLLMInferenceTrace_conv.csv.gz"),
        ("completion", "AzureLLMInferenceTrace_code.csv"),
    ],
)
def test_azure_lengths(workload: str, file: str, shared_data: Path) -> None:
    calls = rows(shared_data / "traces/azure_llm_2023" / file)
    assert_quantiles(WORKLOADS[workload].input_tokens, [int(row[1]) for row in calls])
    assert_quantiles(WORKLOADS[workload].output_tokens, [int(row[2]) for row in calls])


def test_mooncake_lengths_and_cached_shares(shared_data: Path) -> None:
    calls = objects(shared_data / "traces/mooncake_fast25/conversation_trace.jsonl.gz")
    assert_quantiles(WORKLOADS["long_chat"].input_tokens, [call["input_length"] for call in calls])
    assert_quantiles(WORKLOADS["long_chat"].output_tokens, [call["output_length"] for call in calls])
    seen: set[int] = set()
    shares = []
    for call in calls:
        known = 0
        for block in call["hash_ids"]:
            if block not in seen:
                break
            known += 1
        seen.update(call["hash_ids"])
        shares.append(min(known * 512, call["input_length"]) / call["input_length"])
    assert_quantiles(CACHED_SHARE, shares, 3)


def test_ragpulse_lengths_sessions_and_hours(shared_data: Path) -> None:
    calls = objects(shared_data / "traces/ragpulse/data/0_trace.jsonl.gz")
    assert_quantiles(WORKLOADS["rag"].input_tokens, [call["input_length"] for call in calls])
    assert_quantiles(WORKLOADS["rag"].output_tokens, [call["output_length"] for call in calls])
    sessions = len({call["session_id"] for call in calls})
    assert len(calls) / sessions == pytest.approx(WORKLOADS["rag"].calls_per_conversation)
    hours = Counter((12 + int(call["timestamp"]) // 3600) % 24 for call in calls)
    assert tuple(hours[hour] for hour in range(24)) == HOURLY_CALLS


def test_agent_lengths_and_times(shared_data: Path) -> None:
    calls = objects(shared_data / "traces/cc_traces_semianalysis/normalized_sample.jsonl.gz")
    agent = WORKLOADS["agent"]
    assert_quantiles(agent.input_tokens, [call["input_tokens"] for call in calls])
    assert_quantiles(agent.output_tokens, [call["output_tokens"] for call in calls])
    timed = [call for call in calls if "ttft_s" in call]
    assert_quantiles(agent.ttft_ms, [call["ttft_s"] * 1000 for call in timed])
    assert_quantiles(
        agent.tpot_ms,
        [
            (call["api_time_s"] - call["ttft_s"]) / (call["output_tokens"] - 1) * 1000
            for call in timed
            if call["output_tokens"] > 100
        ],
        2,
    )
    assert len(calls) / len({call["session_id"] for call in calls}) == pytest.approx(
        agent.calls_per_conversation
    )
    models = Counter(call["model_id"] for call in calls)
    weights = {route.model: route.weight for route in ROUTES if route.workload == "agent"}
    for model, weight in weights.items():
        assert weight / sum(weights.values()) == pytest.approx(models[model] / len(calls), abs=0.001)


def test_chat_times(shared_data: Path) -> None:
    calls = objects(shared_data / "traces/llmperf_bedrock/committed_normalized_sample.jsonl")
    chat = WORKLOADS["chat"]
    assert_quantiles(chat.ttft_ms, [call["ttft_ms"] for call in calls])
    assert_quantiles(
        chat.tpot_ms,
        [
            (call["e2e_latency_ms"] - call["ttft_ms"]) / (call["number_output_tokens"] - 1)
            for call in calls
            if call["number_output_tokens"] > 100
        ],
        2,
    )


def test_drawing_inverts_the_table() -> None:
    for workload in WORKLOADS.values():
        for table in (workload.input_tokens, workload.output_tokens, workload.ttft_ms, workload.tpot_ms):
            assert list(table.values) == sorted(table.values)
            assert table.draw(np.array(PROBABILITIES)).tolist() == pytest.approx(list(table.values))


def test_weights_are_shares() -> None:
    assert sum(route.weight for route in ROUTES) == pytest.approx(1)
    assert {route.workload for route in ROUTES} == set(WORKLOADS)
    assert 0.005 < sum(failure.share for failure in FAILURES) < 0.02
