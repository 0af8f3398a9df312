from __future__ import annotations

import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

from signals.chunk import Chunk
from signals.signal import SERIES_LIMIT_MOST
from streams.setting import OTHER_VARIABLES, Secret, SettingError, Settings, declarations, markdown

ROOT = Path(__file__).resolve().parents[2]


def test_without_any_variable_everything_has_its_default() -> None:
    assert Settings.from_environment({"HOME": "/root", "PATH": ""}) == Settings()


def test_an_empty_variable_counts_as_not_set() -> None:
    assert Settings.from_environment({"GATEWATCH_SERIES_LIMIT": ""}) == Settings()


def test_variables_are_read_with_their_types() -> None:
    settings = Settings.from_environment(
        {
            "GATEWATCH_KAFKA": "a:1, b:2",
            "GATEWATCH_CLICKHOUSE_URL": "https://clickhouse.example:8443/",
            "GATEWATCH_FLUSH_INTERVAL_S": "0.25",
            "GATEWATCH_CHUNK_RECORDS": "50",
            "GATEWATCH_DATA_DIR": "/var/lib/gatewatch",
        }
    )
    assert settings.kafka == "a:1,b:2"
    assert settings.clickhouse_url == "https://clickhouse.example:8443"
    assert settings.flush_interval_s == 0.25
    assert settings.chunk_records == 50
    assert settings.data_dir == Path("/var/lib/gatewatch")


def test_what_is_written_for_another_process_is_read_there_alike() -> None:
    settings = Settings.from_environment(
        {
            "GATEWATCH_CLICKHOUSE_PASSWORD": "p w",
            "GATEWATCH_GRACE_S": "12.3456789",
            "GATEWATCH_PENDING_BYTES": "123456789",
        }
    )
    environment = settings.to_environment()
    assert environment["GATEWATCH_CLICKHOUSE_PASSWORD"] == "p w"
    assert Settings.from_environment(environment) == settings


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("GATEWATCH_SERIES_LIMIT", "x", "GATEWATCH_SERIES_LIMIT='x' must be an integer, 1 to 32767"),
        ("GATEWATCH_SERIES_LIMIT", "0", "GATEWATCH_SERIES_LIMIT='0' must be from 1 to 32767"),
        ("GATEWATCH_SERIES_LIMIT", "32768", "must be from 1 to 32767"),
        ("GATEWATCH_SERIES_LIMIT", "1.5", "must be an integer"),
        ("GATEWATCH_FLUSH_INTERVAL_S", "nan", "must be from 0.05 to 60"),
        ("GATEWATCH_FLUSH_INTERVAL_S", "inf", "must be from 0.05 to 60"),
        ("GATEWATCH_FLUSH_INTERVAL_S", "soon", "must be a number"),
        ("GATEWATCH_METRICS_PORT", "65536", "must be from 0 to 65535"),
        ("GATEWATCH_KAFKA", "kafka", "must be HOST:PORT"),
        ("GATEWATCH_KAFKA", "kafka:9092,", "must be HOST:PORT"),
        ("GATEWATCH_KAFKA", "PLAINTEXT://kafka:9092", "must be HOST:PORT"),
        ("GATEWATCH_CLICKHOUSE_URL", "localhost:8123", "must be http://HOST:PORT"),
        ("GATEWATCH_CLICKHOUSE_URL", "http://", "must be http://HOST:PORT"),
        ("GATEWATCH_CLICKHOUSE_URL", "http://host:x", "Port could not be cast"),
        ("GATEWATCH_CONSUMER_GROUP", "  ", "must not be empty"),
    ],
)
def test_a_value_that_cannot_be_read_is_an_error_that_names_it(
    variable: str, value: str, message: str
) -> None:
    with pytest.raises(SettingError, match=variable) as caught:
        Settings.from_environment({variable: value})
    assert message in str(caught.value)


def test_a_password_in_the_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(SettingError, match="must not hold a user or password") as caught:
        Settings.from_environment({"GATEWATCH_CLICKHOUSE_URL": "http://me:hunter2@host:8123"})
    assert "hunter2" not in str(caught.value)


def test_a_misspelt_variable_is_an_error_that_knows_better() -> None:
    with pytest.raises(SettingError, match=r"GATEWATCH_FLUSH_INTERVALL_S \(did you mean GATEWATCH_FLUSH_IN"):
        Settings.from_environment({"GATEWATCH_FLUSH_INTERVALL_S": "1"})


def test_variables_that_kubernetes_adds_for_services_are_not_misspelt_settings() -> None:
    environment = {
        "GATEWATCH_WORKER_SERVICE_HOST": "10.0.0.1",
        "GATEWATCH_WORKER_SERVICE_PORT": "80",
        "GATEWATCH_WORKER_SERVICE_PORT_HTTP": "80",
        "GATEWATCH_WORKER_PORT": "tcp://10.0.0.1:80",
        "GATEWATCH_WORKER_PORT_80_TCP": "tcp://10.0.0.1:80",
        "GATEWATCH_WORKER_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    assert Settings.from_environment(environment) == Settings()


def test_a_secret_shows_itself_nowhere() -> None:
    settings = Settings.from_environment({"GATEWATCH_CLICKHOUSE_PASSWORD": "hunter2"})
    secret = settings.clickhouse_password
    shown = [repr(settings), str(secret), f"{secret}", "%s" % secret, f"{secret!r}"]  # noqa: UP031
    assert not [text for text in shown if "hunter2" in text]
    with pytest.raises(TypeError, match="not written"):
        pickle.dumps(secret)
    assert secret.reveal() == "hunter2"
    assert secret == Secret("hunter2")
    assert secret != Secret("hunter3")
    assert not Secret("")


def test_every_setting_says_what_it_means_and_its_default_can_be_read() -> None:
    found = declarations()
    assert len({setting.variable for setting in found}) == len(found)
    assert not {setting.variable for setting in found} & set(OTHER_VARIABLES)
    for setting in found:
        assert setting.variable == "GATEWATCH_" + setting.name.upper()
        assert setting.description.endswith(".")
        if not setting.secret:
            Settings.from_environment({setting.variable: setting.default})
    units = {"s", "records", "days", "series", "bytes", "port", ""}
    assert {setting.unit for setting in found} <= units


def test_the_largest_series_limit_is_one_that_chunks_take() -> None:
    settings = Settings.from_environment({"GATEWATCH_SERIES_LIMIT": str(SERIES_LIMIT_MOST)})
    Chunk(settings.series_limit)
    with pytest.raises(ValueError, match="too large"):
        Chunk(settings.series_limit + 1)


def test_the_page_has_every_variable_once_and_no_secret() -> None:
    page = markdown()
    variables = re.findall(r"^\| `(\w+)` \|", page, re.M)
    assert len(set(variables)) == len(variables)
    for setting in declarations():
        assert f"| `{setting.variable}` |" in page
    for variable in OTHER_VARIABLES:
        assert f"| `{variable}` |" in page
    (row,) = [line for line in page.splitlines() if "GATEWATCH_CLICKHOUSE_PASSWORD" in line]
    assert "| secret | none |" in row


def test_settings_can_be_read_where_the_pipelines_packages_are_missing() -> None:
    """`gatewatch doctor` says which packages are missing, so it must not need them itself."""
    code = "import sys, streams.diagnosis; sys.exit(bool({'numpy', 'pyarrow', 'faust'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 0
