"""Names of providers and models as gateways send them, brought towards the names that price lists use.

Nothing here knows a price. :func:`provider_id` names the provider who bills; :func:`spellings` lists what a
model may be called in that provider's list, the name as it was sent first. It takes off only what
does not change the price: where a model is served from, a route, an owner's prefix, a resource
path. A date, a size or a fine-tune is part of the name: taking it off would be guessing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from typing import Final

__all__ = ["SELF_HOSTED", "fold", "provider_alias", "spellings", "unresolvable"]

_ALIASES: Final = {
    # OpenTelemetry GenAI (gen_ai.provider.name), LiteLLM, and what people write -> genai-prices
    "aws.bedrock": "aws",
    "amazon.bedrock": "aws",
    "awsbedrock": "aws",
    "gcp.vertex.ai": "google",
    "gcp.gemini": "google",
    "gcp.gen.ai": "google",
    "gcp": "google",
    "azure.ai.openai": "azure",
    "azure.ai.inference": "azure",
    "azure.openai": "azure",
    "azureopenai": "azure",
    "azure.ai": "azure",
    "azure.text": "azure",
    "az.ai.openai": "azure",
    "az.ai.inference": "azure",
    "openai.azure": "azure",
    "mistral.ai": "mistral",
    "x.ai": "x-ai",
    "xai": "x-ai",
    "moonshot.ai": "moonshotai",
    "moonshot": "moonshotai",
    "together.ai": "together",
    "fireworks.ai": "fireworks",
    "cohere.chat": "cohere",
    "text.completion.openai": "openai",
    "openai.chat": "openai",
    "openai.responses": "openai",
    "z.ai": "zai",
    "zhipu": "zhipuai",
    "deepseek.ai": "deepseek",
    "groq.cloud": "groq",
    "novita.ai": "novita",
    "hugging.face": "huggingface",
}

SELF_HOSTED: Final = re.compile(
    r"vllm|ollama|llama\.?cpp|llamafile|lm\.?studio|sglang|tgi\b|triton|\bnim\b|self\.?hosted|on\.?prem|compatible|openai\.like|custom"
)
"""Providers, folded, whose calls no public list prices: somebody runs these servers."""


def fold(name: str) -> str:
    """A provider's name without the differences of spelling: case, spaces, ``_`` and ``-``."""
    return re.sub(r"[\s_./-]+", ".", name.strip().lower()).strip(".")


def provider_alias(name: str) -> str | None:
    """The price list's id for another spelling of a provider's name."""
    return _ALIASES.get(fold(name))


# Where Bedrock serves from stands in front of the model's name. Lists that price regions apart match
# the whole name; the bare name is tried last.
_REGION: Final = re.compile(r"^(us-gov|us|eu|apac|ap|global|jp|au|ca|sa|me|af|in|uk)\.(?=[a-z0-9-]+\.)")
_ARN: Final = re.compile(r"^arn:aws[a-z-]*:bedrock:[a-z0-9-]*:\d*:([a-z-]+)/(.+)$")
_PATH: Final = re.compile(r"^(?:.*/)?(?:publishers/([^/]+)/)?models/([^/]+)$")
_COMPACT_DATE: Final = re.compile(r"-(20\d{2})(\d{2})(\d{2})(?=$|[^\d])")
_ROUTE: Final = re.compile(r"^(.+):(beta|nitro|floor|exacto|thinking|extended|online)$")
_OWN_PATHS: Final = ("converse/", "converse_like/", "invoke/")


def unresolvable(model: str) -> str | None:
    """Why a name cannot be looked up in any public list, for names that stand for something private."""
    name = model.strip().lower()
    found = _ARN.match(name)
    if found and found[1] in (
        "application-inference-profile",
        "provisioned-model",
        "custom-model",
        "imported-model",
        "custom-model-deployment",
        "prompt-router",
        "default-prompt-router",
    ):
        return (
            f"an ARN of kind {found[1]} names a resource of the account's own and not a model; "
            "say with a contract row which model's price it has"
        )
    if "/endpoints/" in name or name.startswith("tunedmodels/"):
        return "an endpoint or tuned model of the project's own; say with a contract row which price it has"
    return None


def spellings(model: str, is_owner: Callable[[str], bool]) -> list[tuple[str, str]]:
    """What the model may be called in the list of the provider who bills, the likeliest first.

    Parameters
    ----------
    model
        The name as it was sent.
    is_owner
        Whether a prefix such as ``openai`` in ``openai/gpt-4o`` names the provider, or one whose
        models it sells; another prefix is part of the name.

    Returns
    -------
    Pairs of a name in lower case and the route that was taken off it (``nitro``, ``online``), often
    empty, which may change the price.
    """
    text = " ".join(model.lower().split())
    found: dict[str, str] = {}

    def add(name: str, route: str = "") -> None:
        if name and name not in found:
            found[name] = route

    add(text)
    if " " in text:
        text = text.replace(" ", "-")
        add(text)
    arn = _ARN.match(text)
    if arn:
        text = arn[2].rpartition("/")[2]
        add(text)
    while True:
        head, slash, rest = text.partition("/")
        if not slash or not rest or not (is_owner(head) or f"{head}/" in _OWN_PATHS):
            break
        text = rest
        add(text)
    path = _PATH.match(text)
    if path:
        text = path[2]
        add(text)
    for name in list(found):
        if name.startswith("ft:"):
            continue
        if "@" in name:
            bare, _, version = name.partition("@")
            add(name.replace("@", "-"))
            if version in ("default", "latest"):
                add(bare)
        routed = _ROUTE.match(name)
        if routed:
            add(routed[1], routed[2])
    for name, route in list(found.items()):
        dated = _COMPACT_DATE.sub(_dashed, name)
        add(dated, route)
    for name, route in list(found.items()):
        bare = _REGION.sub("", name)
        add(bare, route)
    return list(found.items())


def _dashed(found: re.Match[str]) -> str:
    """LiteLLM and OpenRouter write ``-20251211`` where OpenAI writes ``-2025-12-11``."""
    try:
        day = date(int(found[1]), int(found[2]), int(found[3]))
    except ValueError:
        return found[0]
    return f"-{day.isoformat()}"
