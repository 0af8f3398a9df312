"""Error classes: documented codes of every provider, SDKs' exceptions, and the recorded bodies."""

from __future__ import annotations

import asyncio
import collections
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gatewatch.events import ErrorClass
from gatewatch.failure import classify

CLASSES = frozenset(get_args(ErrorClass))


def openai(code: str | None, type_: str, message: str = "no") -> dict[str, Any]:
    return {"error": {"message": message, "type": type_, "param": None, "code": code}}


def anthropic(type_: str, message: str = "no") -> dict[str, Any]:
    return {"type": "error", "error": {"type": type_, "message": message}, "request_id": "req_1"}


def google(code: int, status: str, message: str = "no", details: list[Any] | None = None) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "status": status, "details": details or []}}


BODIES: list[tuple[str, int | None, object, ErrorClass]] = [
    ("openai rate limit", 429, openai("rate_limit_exceeded", "tokens"), "rate_limit"),
    ("openai quota", 429, openai("insufficient_quota", "insufficient_quota"), "quota"),
    ("openai hard limit", 400, openai("billing_hard_limit_reached", "invalid_request_error"), "quota"),
    ("openai context", 400, openai("context_length_exceeded", "invalid_request_error"), "context_length"),
    ("openai key", 401, openai("invalid_api_key", "invalid_request_error"), "authentication"),
    ("openai model", 404, openai("model_not_found", "invalid_request_error"), "invalid_request"),
    ("openai server", 500, openai(None, "server_error"), "server"),
    ("openai slow down", 503, openai("slow_down", "server_error"), "overload"),
    ("openai images", 400, openai("moderation_blocked", "image_generation_user_error"), "content_filter"),
    (
        "openai flagged",
        400,
        openai(
            "invalid_prompt",
            "invalid_request_error",
            "Invalid prompt: your prompt was flagged as potentially violating our usage policy.",
        ),
        "content_filter",
    ),
    (
        "azure filter",
        400,
        {
            "error": {
                "message": "The response was filtered",
                "code": None,
                "status": 400,
                "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {}},
            }
        },
        "content_filter",
    ),
    ("azure deployment", 404, openai("DeploymentNotFound", "invalid_request_error"), "invalid_request"),
    ("azure key", 401, {"error": {"code": "401", "message": "Access denied"}}, "authentication"),
    ("anthropic rate limit", 429, anthropic("rate_limit_error"), "rate_limit"),
    ("anthropic overload", 529, anthropic("overloaded_error"), "overload"),
    ("anthropic overload in a stream", 200, anthropic("overloaded_error"), "overload"),
    ("anthropic server", 500, anthropic("api_error"), "server"),
    ("anthropic timeout", 504, anthropic("timeout_error"), "timeout"),
    ("anthropic permission", 403, anthropic("permission_error"), "authentication"),
    ("anthropic billing", 402, anthropic("billing_error"), "quota"),
    ("anthropic too large", 413, anthropic("request_too_large"), "invalid_request"),
    (
        "anthropic context",
        400,
        anthropic("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"),
        "context_length",
    ),
    (
        "anthropic context with output",
        400,
        anthropic(
            "invalid_request_error",
            "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000",
        ),
        "context_length",
    ),
    (
        "anthropic credit",
        400,
        anthropic("invalid_request_error", "Your credit balance is too low to access the Claude API."),
        "quota",
    ),
    (
        "anthropic filter",
        400,
        anthropic("invalid_request_error", "Output blocked by content filtering policy"),
        "content_filter",
    ),
    ("gemini rate limit", 429, google(429, "RESOURCE_EXHAUSTED"), "rate_limit"),
    ("gemini rate limit as a list", 429, [google(429, "RESOURCE_EXHAUSTED")], "rate_limit"),
    ("gemini overload", 503, google(503, "UNAVAILABLE", "The model is overloaded."), "overload"),
    ("gemini deadline", 504, google(504, "DEADLINE_EXCEEDED"), "timeout"),
    ("gemini internal", 500, google(500, "INTERNAL"), "server"),
    ("gemini permission", 403, google(403, "PERMISSION_DENIED"), "authentication"),
    (
        "gemini key",
        400,
        google(400, "INVALID_ARGUMENT", "no", [{"reason": "API_KEY_INVALID", "domain": "googleapis.com"}]),
        "authentication",
    ),
    (
        "gemini context",
        400,
        google(
            400,
            "INVALID_ARGUMENT",
            "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
        ),
        "context_length",
    ),
    ("gemini refused prompt", 200, {"promptFeedback": {"blockReason": "SAFETY"}}, "content_filter"),
    ("bedrock throttling", 429, {"__type": "ThrottlingException", "message": "slower"}, "rate_limit"),
    ("bedrock not ready", 429, {"__type": "ModelNotReadyException"}, "overload"),
    ("bedrock quota", 400, {"__type": "ServiceQuotaExceededException"}, "quota"),
    ("bedrock timeout", 408, {"__type": "ModelTimeoutException"}, "timeout"),
    ("bedrock model", 424, {"__type": "ModelErrorException"}, "server"),
    ("bedrock access", 403, {"__type": "com.amazon.coral#AccessDeniedException:http://x"}, "authentication"),
    ("bedrock context", 400, {"message": "Input is too long for requested model."}, "context_length"),
    ("bedrock validation", 400, {"message": "The provided model identifier is invalid."}, "invalid_request"),
    ("bedrock throttled tokens", 429, {"message": "Too many tokens, please wait"}, "rate_limit"),
    ("mistral capacity", 429, {"type": "service_tier_capacity_exceeded", "code": "3505"}, "overload"),
    (
        "mistral context",
        400,
        {"message": "Prompt contains 40000 tokens, too large for model with 32768 maximum context length"},
        "context_length",
    ),
    ("cohere tokens", 400, {"message": "too many tokens: size limit exceeded by 100"}, "context_length"),
    ("cohere model", 404, {"id": "8bd5", "message": "model 'x' not found"}, "invalid_request"),
    ("cohere cancelled", 499, {"message": "request cancelled"}, "cancelled"),
    ("groq capacity", 498, {"error": {"code": "capacity_exceeded"}}, "overload"),
    ("groq too large for a minute", 413, openai("rate_limit_exceeded", "tokens"), "rate_limit"),
    ("deepseek balance", 402, openai("invalid_request_error", "unknown_error"), "quota"),
    ("openrouter credits", 402, {"error": {"code": 402, "message": "Insufficient credits"}}, "quota"),
    (
        "openrouter moderation",
        403,
        {"error": {"code": 403, "message": "no", "metadata": {"flagged_input": "x", "reasons": ["y"]}}},
        "content_filter",
    ),
    (
        "openrouter quotes the provider",
        400,
        {
            "error": {
                "code": 400,
                "message": "Provider returned error",
                "metadata": {"raw": json.dumps(openai("insufficient_quota", "invalid_request_error"))},
            }
        },
        "quota",
    ),
    ("openrouter in a stream", 200, {"error": {"code": 502, "message": "upstream"}}, "server"),
    ("xai guidelines", 403, {"code": "403", "error": "Content violates usage guidelines."}, "content_filter"),
    (
        "xai key",
        400,
        {"code": "Client specified an invalid argument", "error": "Incorrect API key provided"},
        "authentication",
    ),
    (
        "vllm context",
        400,
        {
            "object": "error",
            "type": "BadRequestError",
            "code": 400,
            "message": "This model's maximum context length is 4096 tokens.",
        },
        "context_length",
    ),
    ("ollama model", 404, {"error": "model 'x' not found"}, "invalid_request"),
    ("litellm budget", 400, {"error": {"type": "budget_exceeded", "code": "400"}}, "quota"),
    ("html of a proxy", 502, b"<html><body>Bad Gateway</body></html>", "server"),
    ("cloudflare timeout", 524, "error code: 524", "timeout"),
    ("broken json", 429, b'{"error": ', "rate_limit"),
    ("no body", 401, None, "authentication"),
    ("body only", None, openai("rate_limit_exceeded", "requests"), "rate_limit"),
    ("general code only", None, openai(None, "invalid_request_error"), "invalid_request"),
    ("nothing", None, None, "other"),
    ("a success", 200, {"choices": []}, "other"),
]


@pytest.mark.parametrize(
    ("status", "body", "expected"), [case[1:] for case in BODIES], ids=[case[0] for case in BODIES]
)
def test_documented_error_has_its_class(status: int | None, body: object, expected: ErrorClass) -> None:
    assert classify(status, body) == expected
    if isinstance(body, dict | list):
        assert classify(status, json.dumps(body)) == expected
        assert classify(status, json.dumps(body).encode()) == expected
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        assert classify(status, body["error"]) == expected


# --- exceptions -----------------------------------------------------------------------------------


class APIStatusError(Exception):
    """As OpenAI's and Anthropic's SDKs have it."""

    def __init__(self, status_code: int, body: object) -> None:
        super().__init__(f"Error code: {status_code}")
        self.status_code = status_code
        self.body = body


class RateLimitError(APIStatusError):
    pass


class PermissionDeniedError(APIStatusError):
    pass


class APIConnectionError(Exception):
    pass


class APITimeoutError(APIConnectionError):
    pass


class ClientError(Exception):
    """As botocore has it."""

    def __init__(self, code: str, status: int) -> None:
        super().__init__("An error occurred")
        self.response = {
            "Error": {"Code": code, "Message": "no"},
            "ResponseMetadata": {"HTTPStatusCode": status},
        }


class HTTPStatusError(Exception):
    """As httpx has it."""

    def __init__(self, status: int) -> None:
        super().__init__("status")
        self.response = SimpleNamespace(status_code=status)


class GoogleError(Exception):
    """As google-genai has it: the number in code, the name in status."""

    def __init__(self, code: int, status: str) -> None:
        super().__init__("no")
        self.code = code
        self.status = status


class ReadTimeout(Exception):
    pass


EXCEPTIONS: list[tuple[BaseException, ErrorClass]] = [
    (RateLimitError(429, {"code": "insufficient_quota"}), "quota"),
    (RateLimitError(429, None), "rate_limit"),
    (APIStatusError(400, {"error": {"code": "context_length_exceeded"}}), "context_length"),
    (APIStatusError(529, None), "overload"),
    (PermissionDeniedError(403, None), "authentication"),
    (PermissionDeniedError(403, {"error": "Content violates usage guidelines"}), "content_filter"),
    (APITimeoutError("timed out"), "timeout"),
    (APIConnectionError("refused"), "server"),
    (ClientError("ThrottlingException", 429), "rate_limit"),
    (ClientError("ValidationException", 400), "invalid_request"),
    (ClientError("SomethingNew", 503), "overload"),
    (HTTPStatusError(503), "overload"),
    (GoogleError(429, "RESOURCE_EXHAUSTED"), "rate_limit"),
    (GoogleError(400, "INVALID_ARGUMENT"), "invalid_request"),
    (ReadTimeout(), "timeout"),
    (TimeoutError(), "timeout"),
    (ConnectionResetError(), "server"),
    (asyncio.CancelledError(), "cancelled"),
    (GeneratorExit(), "cancelled"),
    (KeyboardInterrupt(), "cancelled"),
    (ValueError("a bug in the caller"), "other"),
]


@pytest.mark.parametrize(("error", "expected"), EXCEPTIONS, ids=[repr(case[0]) for case in EXCEPTIONS])
def test_exception_has_its_class(error: BaseException, expected: ErrorClass) -> None:
    assert classify(None, error=error) == expected


def raised_from(error: Exception, cause: BaseException) -> Exception:
    try:
        try:
            raise cause
        except BaseException:
            raise error  # noqa: B904 - the context is what is tested
    except Exception as caught:
        return caught


def test_exception_that_says_nothing_is_judged_by_its_cause() -> None:
    assert classify(None, error=raised_from(RuntimeError("it failed"), ReadTimeout())) == "timeout"


def test_exception_that_says_something_is_not_judged_by_an_earlier_attempt() -> None:
    assert classify(None, error=raised_from(APIStatusError(401, None), ReadTimeout())) == "authentication"


def test_causes_that_go_in_circles_end() -> None:
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first
    assert classify(None, error=first) == "other"


class Hostile(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("no attributes")


def test_hostile_exception_is_still_classified() -> None:
    assert classify(None, error=Hostile()) == "other"
    assert classify(503, error=Hostile()) == "overload"


def test_status_given_wins_over_the_exceptions() -> None:
    assert classify(503, error=HTTPStatusError(401)) == "overload"


# --- recorded and arbitrary -----------------------------------------------------------------------


def test_every_recorded_error_has_its_class(shared_data: Path) -> None:
    lines = (shared_data / "cost/recorded_usage/error_responses.jsonl").read_text().splitlines()
    found: collections.Counter[tuple[int, str]] = collections.Counter()
    for row in map(json.loads, lines):
        error_class = classify(row["http_status"], {"error": row["error"]})
        assert classify(row["http_status"], row["error"]) == error_class
        found[row["http_status"], error_class] += 1
    # Read one by one: the recordings hold no quota, context length, filter or overload.
    assert found == {
        (400, "invalid_request"): 61,
        (401, "authentication"): 10,
        (403, "authentication"): 3,
        (404, "invalid_request"): 27,
        (409, "invalid_request"): 1,
        (429, "rate_limit"): 3,
    }


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "error",
                    "code",
                    "type",
                    "status",
                    "message",
                    "metadata",
                    "raw",
                    "details",
                    "promptFeedback",
                    "errors",
                    "detail",
                ]
            )
            | st.text(max_size=5),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=300)
@given(status=st.none() | st.integers(), body=documents)
@example(status=None, body="[" * 100_000)
@example(status=None, body={"message": "x" * 5_000_000})
def test_classify_is_total(status: int | None, body: object) -> None:
    assert classify(status, body) in CLASSES


@given(status=st.integers(100, 999))
def test_status_alone_has_a_class_if_it_is_an_error(status: int) -> None:
    assert (classify(status) == "other") == (not 400 <= status < 600)


def test_deep_bodies_are_searched_to_a_bound() -> None:
    body: dict[str, Any] = {"code": "context_length_exceeded"}
    for _ in range(5000):
        body = {"error": body}
    assert classify(400, body) == "invalid_request"
