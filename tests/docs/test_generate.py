from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from docs import generate
from gatewatch.events import KINDS, VERSION, Event, decode_line, encode, json_schema


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_there_is_an_example_of_every_kind() -> None:
    assert list(generate.EXAMPLES) == list(KINDS)
    assert all(type(event) is KINDS[kind] for kind, event in generate.EXAMPLES.items())


@pytest.mark.parametrize("kind", KINDS)
def test_every_example_decodes_to_itself_and_fits_the_schema(kind: str, validator: Any) -> None:
    event = generate.EXAMPLES[kind]
    line = encode(event)
    assert decode_line(line) == event
    assert json.loads(line)["kind"] == kind
    validator.validate(json.loads(line))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "change",
    [
        {"at_ms": -1},
        {"at_ms": "now"},
        {"at_ms": 1.5},
        {"gateway": ""},
        {"gateway": None},
        {"seq": -1},
        {"kind": "unheard-of"},
        {"v": VERSION + 1},
    ],
    ids=str,
)
def test_what_the_decoder_refuses_the_schema_refuses(
    kind: str, change: dict[str, Any], validator: Any
) -> None:
    line = {**json.loads(encode(generate.EXAMPLES[kind])), **change}
    refused = not isinstance(decode_line(msgspec.json.encode(line)), KINDS[kind])
    assert refused
    assert not validator.is_valid(line)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_required_field_is_refused_by_both(kind: str, validator: Any) -> None:
    whole = json.loads(encode(generate.EXAMPLES[kind]))
    info = msgspec.inspect.type_info(KINDS[kind])
    required = {field.name for field in info.fields if field.required}  # type: ignore[attr-defined]
    assert {"at_ms", "gateway"} <= required
    for name in required:
        line = {key: value for key, value in whole.items() if key != name}
        assert not isinstance(decode_line(msgspec.json.encode(line)), KINDS[kind])
        assert not validator.is_valid(line)


def test_a_field_of_a_later_version_is_accepted_by_both(validator: Any) -> None:
    for event in generate.EXAMPLES.values():
        line = {**json.loads(encode(event)), "a_field_of_the_future": 1}
        assert decode_line(msgspec.json.encode(line)) == event
        validator.validate(line)


def test_the_schema_has_every_kind_with_every_field() -> None:
    schema = json_schema()
    assert schema["discriminator"]["mapping"].keys() == KINDS.keys()
    for kind, struct in KINDS.items():
        definition = schema["$defs"][struct.__name__]
        assert definition["properties"]["kind"] == {"enum": [kind]}
        assert set(struct.__struct_fields__) | {"kind"} == set(definition["properties"])


def test_the_page_explains_every_field_of_every_kind() -> None:
    page = generate.event_page()
    for kind in KINDS:
        assert f"\n## {kind}\n" in page
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        assert cells[-1] not in ("", "|"), f"no meaning: {row}"
    documented = {row.split("`")[1] for row in rows}
    for struct in KINDS.values():
        assert set(struct.__struct_fields__) <= documented


def test_the_committed_files_are_what_the_code_says() -> None:
    assert generate.stale() == [], "run `make generate` and commit"


def test_check_accepts_what_was_just_written_and_refuses_every_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate.main(["--check", "--root", str(tmp_path)]) == 1  # nothing is there yet
    assert generate.main(["--root", str(tmp_path)]) == 0
    assert generate.main(["--check", "--root", str(tmp_path)]) == 0
    capsys.readouterr()
    for name in generate.GENERATED:
        path = tmp_path / name
        text = path.read_text("utf-8")
        path.write_text(text.replace("e", "f", 1), "utf-8")
        assert generate.main(["--check", "--root", str(tmp_path)]) == 1
        error = capsys.readouterr().err
        assert name in error
        assert "make generate" in error
        assert path.read_text("utf-8") != text  # it checks, and repairs nothing
        assert generate.write(tmp_path) == [name]


def test_an_unknown_type_of_the_contract_is_not_left_out_silently() -> None:
    with pytest.raises(TypeError, match="no words for"):
        generate._type(msgspec.inspect.BytesType())


def test_examples_hold_nothing_beyond_the_contract() -> None:
    def fields(event: Event) -> set[str]:
        return set(json.loads(encode(event))) - {"kind"}

    for event in generate.EXAMPLES.values():
        assert fields(event) <= set(type(event).__struct_fields__)
