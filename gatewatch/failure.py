"""Why a call failed: a status, a body and an exception become one error class.

:func:`classify` is total: whatever it is given, it answers and never raises. It looks at the
most telling evidence first: a provider's own code, then what only a message says (that a
prompt is too long, that a filter struck), then an exception's class where that is precise,
then the HTTP status, then codes and classes that cover many things.
Nothing of what it reads is kept or logged: messages may quote a prompt or a key.

What the classes mean, for those who count and alert on them:

========================  ====================================================================
``rate_limit``            too many requests or tokens in some time; waiting helps
``quota``                 money or an allowance is used up; waiting does not help, paying does
``context_length``        input and requested output do not fit the model
``content_filter``        a safety filter refused the input or the output
``authentication``        no key, a wrong key, or a right key without the permission
``overload``              the provider or the model has no capacity just now
``timeout``               nobody answered in time
``invalid_request``       the request is wrong: parameters, model name, size, state
``server``                the provider failed, or could not be reached
``cancelled``             the caller went away
``other``                 there is no evidence for any of these
========================  ====================================================================

Where codes are to be looked up: OpenAI "Error codes", Azure OpenAI "Content filtering",
Anthropic "Errors", Gemini "Troubleshooting" and ``google.rpc.Code``, Bedrock runtime API
reference and "Troubleshooting error codes", OpenRouter "Errors", Groq "Error codes", DeepSeek
"Error codes", Cohere "Errors", Mistral's and xAI's API references; and the recorded bodies that
the tests read. What is a provider's own precise code is in the tables below; phrases of messages are
the weaker evidence and are asked last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from gatewatch.events import ErrorClass

__all__ = ["classify"]


def classify(
    status: int | None, body: object | None = None, error: BaseException | None = None
) -> ErrorClass:
    """The class of a failed call.

    Parameters
    ----------
    status
        HTTP status of the provider's answer; None where there was none.
    body
        The answer's body as bytes, text or parsed JSON, whole or its ``error`` only.
    error
        The exception that an SDK or HTTP client raised. A status or body that it carries is
        read where the arguments give none.

    Returns
    -------
    The class; ``other`` where there is no evidence. Never raises.

    Examples
    --------
    >>> classify(429, {"error": {"code": "insufficient_quota", "message": "..."}})
    'quota'
    >>> classify(None, error=TimeoutError())
    'timeout'
    """
    try:
        return _classify(status, body, error)
    except Exception:  # whatever an SDK's object does when it is looked at, a gateway must not fail
        return _by_status(status) or "other"


def _classify(status: int | None, body: object | None, error: BaseException | None) -> ErrorClass:
    found = _judge(status, body, error)
    if found == "other":
        # An exception that says nothing may have been raised from one that does. One that says
        # something is believed: what it was raised from may be an earlier attempt.
        for cause in _causes(error):
            if (found := _judge(status, None, cause)) != "other":
                break
    return found


def _judge(status: int | None, body: object | None, error: BaseException | None) -> ErrorClass:
    evidence = _Evidence(status if isinstance(status, int) and not isinstance(status, bool) else None)
    evidence.read(_parsed(body))
    names: list[str] = []
    if error is not None:
        evidence.read_exception(error)
        names = [_normal(cls.__name__) for cls in type(error).__mro__]
        if not _CANCELLED.isdisjoint(names):
            return "cancelled"
    for code in evidence.codes:
        if (found := _BY_CODE.get(code)) is not None:
            return found
    by_status = _by_status(evidence.status)
    if by_status in _MESSAGE_DECIDES:
        text = " ".join(evidence.messages).lower()
        for found, phrases in _BY_PHRASE:
            if any(phrase in text for phrase in phrases):
                return found
    for name in names:
        if (found := _BY_CODE.get(name)) is not None:
            return found
    if by_status is not None:
        return by_status
    for code in (*evidence.codes, *names):
        if (found := _BY_GENERAL_CODE.get(code)) is not None:
            return found
    return "other"


# --- evidence -------------------------------------------------------------------------------------

# A body is searched this far and no further: errors are small, and this runs in a gateway.
_MAX_NODES: Final = 64
_MAX_TEXT_CHARS: Final = 4096
_MAX_BODY_BYTES: Final = 1 << 18
_MAX_CAUSES: Final = 5

_CODE_KEYS: Final = ("code", "type", "status", "reason", "error_type", "Code", "__type", "blockReason")
_MESSAGE_KEYS: Final = ("message", "msg", "Message", "detail", "error", "title", "raw")
_NESTED_KEYS: Final = (
    "error",
    "Error",
    "errors",
    "detail",
    "details",
    "innererror",
    "inner_error",
    "metadata",
    "promptFeedback",
    "response",
    "last_error",
)


class _Evidence:
    """What is known about one failure, the most outward first."""

    def __init__(self, status: int | None) -> None:
        self.status = status
        self.codes: list[str] = []
        self.messages: list[str] = []
        self._nodes = 0

    def read(self, value: object) -> None:
        """Collect codes and messages of a body, up to a bound."""
        self._nodes += 1
        if self._nodes > _MAX_NODES:
            return
        if isinstance(value, str):
            self._message(value)
        elif isinstance(value, list | tuple):
            for item in value[:8]:
                self.read(item)
        elif isinstance(value, Mapping):
            for key in _CODE_KEYS:
                self._code(value.get(key))
            if value.get("promptFeedback") and _get(value["promptFeedback"], "blockReason"):
                # Gemini answers 200 to a prompt that it refuses.
                self.codes.append("blockreason")
            if isinstance(_get(value.get("metadata"), "flagged_input"), str):
                # OpenRouter answers 403 to what its moderation refuses, with the flagged text.
                self.codes.append("flaggedinput")
            for key in _MESSAGE_KEYS:
                if isinstance(text := value.get(key), str):
                    self._message(text)
                    if key == "raw":
                        # OpenRouter quotes the provider's own body as text.
                        parsed = _parsed(text)
                        if not isinstance(parsed, str):
                            self.read(parsed)
            for key in _NESTED_KEYS:
                if isinstance(nested := value.get(key), Mapping | list):
                    self.read(nested)

    def read_exception(self, error: BaseException) -> None:
        """Collect what an SDK's exception carries: OpenAI, Anthropic, Google, Mistral, httpx, botocore."""
        response = _get(error, "response")
        for holder, names in (
            (error, ("status_code", "http_status", "status", "code")),
            (response, ("status_code", "status")),
        ):
            for name in names:
                if self.status is None and holder is not None:
                    self._status(_get(holder, name))
        if isinstance(response, Mapping):  # botocore
            if self.status is None:
                self._status(_get(response.get("ResponseMetadata"), "HTTPStatusCode"))
            self.read(response)
        for name in ("code", "type"):
            self._code(_get(error, name))
        for name in ("body", "details"):
            self.read(_parsed(_get(error, name)))
        try:
            self._message(str(error))
        except Exception:
            self.messages.append("")  # an exception that cannot be printed says nothing

    def _code(self, value: object) -> None:
        if isinstance(value, int) and not isinstance(value, bool):
            self._status_in_body(value)
        elif isinstance(value, str) and value:
            if value.isascii() and value.isdigit() and len(value) == 3:
                self._status_in_body(int(value))
            elif len(value) <= 256:
                # botocore and AWS headers append a colon and a URL to the type.
                self.codes.append(_normal(value.partition(":")[0].rpartition("#")[2]))

    def _status_in_body(self, value: int) -> None:
        """A status within the body counts where HTTP's says nothing: an error in a stream that began well."""
        if 400 <= value <= 599 and (self.status is None or self.status < 400):
            self.status = value

    def _status(self, value: object) -> None:
        if isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 999:
            self.status = int(value)

    def _message(self, text: str) -> None:
        if sum(map(len, self.messages)) < _MAX_TEXT_CHARS:
            self.messages.append(text[:_MAX_TEXT_CHARS])


def _parsed(body: object) -> object:
    """JSON where it is JSON, text where it is not."""
    if isinstance(body, bytes | bytearray | memoryview):
        body = bytes(body[:_MAX_BODY_BYTES]).decode("utf-8", "replace")
    if isinstance(body, str):
        text = body[:_MAX_BODY_BYTES].strip()
        if text[:1] in ("{", "["):
            try:
                return msgspec.json.decode(text)
            except (msgspec.DecodeError, RecursionError, ValueError):
                return text
        return text
    return body


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """What the exception was raised from, and that from, the nearest first."""
    for _ in range(_MAX_CAUSES):
        if error is None:
            return
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if error is not None:
            yield error


def _get(holder: object, name: str) -> Any:
    if holder is None:
        return None
    if isinstance(holder, Mapping):
        return holder.get(name)
    try:
        return getattr(holder, name, None)
    except Exception:  # a property of somebody's SDK may raise anything
        return None


def _normal(code: str) -> str:
    """``rate_limit_exceeded``, ``RateLimitExceeded`` and ``RATE_LIMIT_EXCEEDED`` are one code."""
    return code.lower().replace("_", "").replace("-", "").replace(" ", "").replace(".", "")


# --- what the evidence means ----------------------------------------------------------------------

_CANCELLED: Final = frozenset({"cancellederror", "generatorexit", "keyboardinterrupt", "clientdisconnect"})

# Codes that say enough by themselves, as _normal spells them.
_CODES: Final[dict[ErrorClass, tuple[str, ...]]] = {
    "rate_limit": (
        "rate_limit_exceeded",  # OpenAI, Groq
        "rate_limit_error",  # Anthropic
        "RateLimitReached",  # Azure
        "RateLimitError",  # SDKs, LiteLLM
        "rate_limited",  # Mistral
        "too_many_requests",
        "TooManyRequestsError",  # Cohere's SDK
        "TooManyRequestsException",  # AWS
        "ThrottlingException",  # Bedrock
        "Throttling",
        "throttling_error",  # LiteLLM
        "RESOURCE_EXHAUSTED",  # Gemini: also where the message speaks of a quota per minute or day
        "ResourceExhausted",
        "tokens",  # OpenAI's type of a limit per minute
        "requests",
    ),
    "quota": (
        "insufficient_quota",  # OpenAI, Azure
        "billing_hard_limit_reached",  # OpenAI
        "billing_not_active",
        "billing_error",  # Anthropic
        "insufficient_balance",
        "insufficient_credits",
        "quota_exceeded",
        "ServiceQuotaExceededException",  # Bedrock
        "budget_exceeded",  # LiteLLM
        "BudgetExceededError",
        "blocked_api_access",  # Groq: the spend limit was reached
        "payment_required",
        "PaymentRequiredError",
    ),
    "context_length": (
        "context_length_exceeded",  # OpenAI, Groq, OpenRouter
        "ContextWindowExceededError",  # LiteLLM
        "model_max_prompt_tokens_exceeded",
        "max_tokens_exceeded",
        "exceed_context_size_error",  # llama.cpp
    ),
    "content_filter": (
        "content_filter",  # Azure
        "content_filter_error",
        "ResponsibleAIPolicyViolation",  # Azure's inner error
        "content_policy_violation",  # OpenAI, Azure images
        "ContentPolicyViolationError",  # LiteLLM
        "ContentFilterFinishReasonError",  # OpenAI's SDK
        "moderation_blocked",  # OpenAI images
        "moderation_error",
        "data_inspection_failed",  # Qwen
        "guardrail_intervened",  # Bedrock
        "blockreason",
        "flaggedinput",
    ),
    "authentication": (
        "invalid_api_key",  # OpenAI, Groq
        "authentication_error",  # Anthropic, DeepSeek
        "AuthenticationError",
        "permission_error",  # Anthropic
        "permission_denied",  # Gemini
        "PermissionDeniedError",
        "unauthenticated",  # Gemini
        "unauthorized",
        "UnauthorizedError",
        "API_KEY_INVALID",  # Gemini answers 400 with this reason
        "API_KEY_EXPIRED",
        "account_deactivated",
        "access_terminated",
        "access_denied",
        "AccessDeniedException",  # Bedrock
        "UnrecognizedClientException",  # AWS
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "IncompleteSignature",
        "MissingAuthenticationToken",
        "ExpiredTokenException",
        "NotAuthorized",
        "NoCredentialsError",  # botocore
        "DefaultCredentialsError",  # google-auth
    ),
    "overload": (
        "overloaded_error",  # Anthropic
        "OverloadedError",
        "overloaded",
        "engine_overloaded",
        "server_overloaded",
        "slow_down",  # OpenAI
        "capacity_exceeded",  # Groq
        "service_tier_capacity_exceeded",  # Mistral
        "no_capacity",
        "ServerBusy",  # Azure
        "ModelNotReadyException",  # Bedrock answers 429 while a model is loaded
        "ServiceUnavailableException",  # Bedrock
        "ServiceUnavailableError",
        "ServiceUnavailable",
        "unavailable",  # Gemini
    ),
    "timeout": (
        "timeout",
        "timeout_error",  # Anthropic
        "TimeoutError",
        "TimeoutException",  # httpx
        "APITimeoutError",  # OpenAI's and Anthropic's SDKs
        "request_timeout",
        "gateway_timeout",
        "deadline_exceeded",  # Gemini
        "ModelTimeoutException",  # Bedrock
        "ReadTimeoutError",  # botocore, urllib3
        "ConnectTimeoutError",
        "ReadTimeout",
        "ConnectTimeout",
    ),
}
_BY_CODE: Final[dict[str, ErrorClass]] = {
    _normal(code): found for found, codes in _CODES.items() for code in codes
}

# Codes that cover many things, so that a message or a status that is more precise wins.
_GENERAL_CODES: Final[dict[ErrorClass, tuple[str, ...]]] = {
    "invalid_request": (
        "invalid_request_error",
        "invalid_request",
        "invalid_argument",
        "failed_precondition",
        "out_of_range",
        "not_found",
        "not_found_error",
        "model_not_found",
        "DeploymentNotFound",
        "already_exists",
        "bad_request",
        "BadRequestError",
        "NotFoundError",
        "ConflictError",
        "UnprocessableEntityError",
        "request_too_large",
        "invalid_prompt",
        "ValidationException",
        "ValidationError",
        "ResourceNotFoundException",
        "ParamValidationError",  # botocore
        "unimplemented",
    ),
    "server": (
        "server_error",
        "api_error",  # Anthropic
        "internal",
        "internal_error",
        "internal_server_error",
        "InternalServerError",
        "InternalServerException",
        "InternalFailure",
        "ModelErrorException",
        "ModelStreamErrorException",
        "unknown",
        "data_loss",
        "aborted",
        # The provider could not be reached, or went away: for its callers that is the same.
        "APIConnectionError",
        "ConnectionError",
        "ConnectError",
        "EndpointConnectionError",
        "NetworkError",
        "TransportError",
        "ProtocolError",
        "RemoteProtocolError",
        "ClientConnectionError",  # aiohttp
        "ServerDisconnectedError",
        "IncompleteRead",
        "gaierror",
        "SSLError",
    ),
    "cancelled": ("cancelled", "canceled"),
}
_BY_GENERAL_CODE: Final[dict[str, ErrorClass]] = {
    _normal(code): found for found, codes in _GENERAL_CODES.items() for code in codes
}

# Where the status leaves the cause open, these say it, for providers that have no code for it.
# Plain substrings of the first 4,096 characters: linear, and nothing to backtrack.
_MESSAGE_DECIDES: Final = (None, "invalid_request", "authentication", "server")
_BY_PHRASE: Final[tuple[tuple[ErrorClass, tuple[str, ...]], ...]] = (
    (
        "context_length",
        (
            "maximum context length",  # OpenAI, vLLM, Mistral, DeepSeek
            "context length exceeded",
            "context_length_exceeded",
            "context window",
            "exceed context limit",  # Anthropic: input length and max_tokens exceed context limit
            "exceeds the context limit",
            "available context size",  # llama.cpp
            "prompt is too long",  # Anthropic
            "input is too long",  # Bedrock
            "too many input tokens",  # Bedrock, Titan
            "exceeds the maximum number of tokens allowed",  # Gemini
            "too many tokens",  # Cohere
            "maximum prompt length",  # xAI
            "must have less than",  # TGI: inputs must have less than N tokens
            "`max_new_tokens` must be <=",  # TGI, Together
        ),
    ),
    (
        "quota",
        (
            "credit balance is too low",  # Anthropic answers 400
            "insufficient balance",  # DeepSeek
            "insufficient credits",  # OpenRouter
            "requires more credits",
            "used all available credits",  # xAI
            "spending limit",
            "usage limits",  # Anthropic: you have reached your specified API usage limits
        ),
    ),
    (
        "content_filter",
        (
            "content management policy",  # Azure
            "content filtering policy",  # Anthropic: output blocked by content filtering policy
            "content_filter",
            "content policy",
            "usage policy",  # OpenAI's reasoning models
            "usage guidelines",  # xAI answers 403
            "safety system",  # OpenAI images
            "requires moderation",  # OpenRouter answers 403
            "content exists risk",  # DeepSeek
        ),
    ),
    (
        "authentication",
        (
            "api key not valid",  # Gemini answers 400
            "incorrect api key",  # xAI answers 400
            "invalid api key",
            "invalid api token",  # Cohere
            "api key expired",
        ),
    ),
    ("overload", ("overloaded", "at capacity", "no healthy upstream")),
)


def _by_status(status: object) -> ErrorClass | None:
    if not isinstance(status, int) or isinstance(status, bool):
        return None
    if (found := _STATUSES.get(status)) is not None:
        return found
    if 400 <= status < 500:
        return "invalid_request"
    if 500 <= status < 600:
        return "server"
    return None


_STATUSES: Final[dict[int, ErrorClass]] = {
    401: "authentication",
    402: "quota",  # OpenRouter, DeepSeek: no credit left
    403: "authentication",
    407: "authentication",
    408: "timeout",
    424: "server",  # Bedrock: the model failed
    429: "rate_limit",
    498: "overload",  # Groq: flex tier capacity exceeded
    499: "cancelled",  # nginx, Cohere: the client closed the request
    503: "overload",
    504: "timeout",
    522: "timeout",  # Cloudflare
    524: "timeout",
    529: "overload",  # Anthropic
}
