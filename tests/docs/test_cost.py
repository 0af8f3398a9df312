"""docs/cost.md: every call on the page answers what the page says, and its Python runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

import pytest

from gatewatch.cli.price import answers
from gatewatch.contract_file import read_contracts
from gatewatch.price_book import PriceBook
from gatewatch.price_table import day_ms
from gatewatch.pricing import price

PAGE: Final = (Path(__file__).resolve().parents[2] / "docs" / "cost.md").read_text("utf-8")
EXAMPLES: Final = re.findall(r"^```json\n(.+)\n```\n\n> (.+)$", PAGE, flags=re.MULTILINE)
CODE: Final = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("call", "said"), EXAMPLES)
def test_a_worked_example_answers_what_the_page_says(call: str, said: str) -> None:
    (answer,) = answers([call.encode()])
    if answer["error"]:
        assert said == f"refused: {answer['error']}"
    elif answer["cost_status"] in ("free", "unpriced"):
        assert said == answer["explanation"]
    else:
        assert said == f"{answer['cost_status']}: {answer['explanation']}"
        assert f"= ${answer['cost_usd']};" in said


@pytest.mark.parametrize("code", CODE)
def test_python_on_the_page_runs(code: str) -> None:
    exec(compile(code, "docs/cost.md", "exec"), {})


def test_the_contracts_on_the_page_are_read_and_charged() -> None:
    (file,) = re.findall(r"^```toml\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    book = PriceBook(read_contracts(file.encode()))
    million = {"prompt_tokens": 1_000_000, "completion_tokens": 0}
    at_ms = day_ms("2027-01-01")
    asked = [("prod-chat", "", at_ms - 1), ("prod-chat", "", at_ms), ("prod-chat", "acme", at_ms)]
    costs = [
        price("azure", name, million, tenant=who, at_ms=at, book=book).cost_usd for name, who, at in asked
    ]
    assert costs == ["2.5", "2.125", "2.23125"]
    small = {"prompt_tokens": 10_000, "completion_tokens": 1_000_000}
    # 0.01 of 0.18 and 0.55 euros, at 1.0842 dollars.
    assert price("vllm", "llama-70b", small, book=book).cost_usd == "0.59826156"


def test_every_policy_has_an_example() -> None:
    assert len(EXAMPLES) >= 22
    assert len(CODE) >= 3
    assert PAGE.count("```json") == len(EXAMPLES)
    sections = re.split(r"^## ", PAGE.partition("## Contracts")[0], flags=re.MULTILINE)[1:]
    assert [text.splitlines()[0] for text in sections if "```json" not in text] == []
    statuses = {json.loads(call).get("cost_status", said.split(":")[0]) for call, said in EXAMPLES}
    assert statuses == {"priced", "partial", "unpriced", "free", "refused"}
