"""The compose file follows the compose schema, and everything that it names exists."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from receiver.runtime.settings import SETTINGS

INFRA = Path(__file__).parents[2] / "infra"
COMPOSE = INFRA / "compose.yaml"
TOLD: dict[str, Any] = yaml.safe_load(COMPOSE.read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = TOLD["services"]
OURS = ("service", "worker", "migrate")


def texts(value: Any) -> Iterator[str]:
    """Every string in a document, keys of dicts excepted."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)
    elif isinstance(value, str):
        yield value


def example() -> dict[str, str]:
    """What infra/env.example sets, what it only suggests included."""
    lines = (INFRA / "env.example").read_text("utf-8").splitlines()
    return dict(re.findall(r"^#?([A-Z][A-Z0-9_]*)=(.*)$", "\n".join(lines), re.MULTILINE))


def test_the_compose_file_follows_the_schema_of_the_compose_specification():
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_schema_would_tell_a_misspelt_word(tmp_path: Path):
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(COMPOSE.read_text("utf-8").replace("healthcheck:", "healthchek:"))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(wrong)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 1
    assert "healthchek" in checked.stdout


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_names_only_what_exists(service: str):
    told = SERVICES[service]
    assert set(told["networks"]) <= set(TOLD["networks"])
    assert {config["source"] for config in told.get("configs", [])} <= set(TOLD["configs"])
    assert set(told.get("depends_on", {})) <= set(SERVICES)
    for volume in told.get("volumes", []):
        source = volume.split(":")[0]
        assert (INFRA / source).exists() if source.startswith("./") else source in TOLD["volumes"]


def test_nothing_is_declared_that_nobody_uses():
    volumes = {volume.split(":")[0] for told in SERVICES.values() for volume in told.get("volumes", [])}
    assert {volume for volume in volumes if not volume.startswith("./")} == set(TOLD["volumes"])
    assert {network for told in SERVICES.values() for network in told["networks"]} == set(TOLD["networks"])
    assert {config["source"] for told in SERVICES.values() for config in told.get("configs", [])} == set(
        TOLD["configs"]
    )


@pytest.mark.parametrize("service", SERVICES)
def test_who_is_waited_for_can_be_told_healthy_or_done(service: str):
    for awaited, how in SERVICES[service].get("depends_on", {}).items():
        match how["condition"]:
            case "service_healthy":
                # Ours bring their check in the image.
                assert awaited in OURS or "test" in SERVICES[awaited]["healthcheck"]
            case "service_completed_successfully":
                assert SERVICES[awaited]["restart"] == "no"
            case condition:
                pytest.fail(f"{service} only waits for {awaited} to have {condition}")


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_is_hardened_and_pinned(service: str):
    told = SERVICES[service]
    assert told["read_only"] is True
    assert told["cap_drop"] == ["ALL"]
    assert told["security_opt"] == ["no-new-privileges:true"]
    assert any(mount.startswith("/tmp:") for mount in told["tmpfs"])
    assert re.fullmatch(r"[\w./-]+:\d+\.\d+[\w.-]*|postgres:\d+-\w+", told["image"])
    assert "privileged" not in told
    assert set(told.get("cap_add", [])) <= {"NET_BIND_SERVICE"}


def test_only_the_proxy_is_reached_from_outside_and_ledger_bucket_and_broker_reach_nobody():
    assert [service for service, told in SERVICES.items() if "ports" in told] == ["caddy"]
    assert TOLD["networks"]["data"]["internal"] is True
    for service in ("postgres", "s3", "nats"):
        assert SERVICES[service]["networks"] == ["data"]
    assert "data" not in SERVICES["caddy"]["networks"]


@pytest.mark.parametrize("file", ["compose.yaml", "env.example", "outkeep.service", "Dockerfile", "Caddyfile"])
def test_every_setting_of_ours_that_is_named_exists(file: str):
    named = set(re.findall(r"\b(OUTKEEP_[A-Z_]+|REPLICATE_[A-Z_]+)\b", (INFRA / file).read_text("utf-8")))
    assert named <= {setting.name for setting in SETTINGS}


def test_every_value_that_compose_asks_for_stands_in_the_example():
    wanted = {name for text in texts(TOLD) for name in re.findall(r"(?<!\$)\$\{(\w+)", text)}
    assert wanted == {"DOMAIN", "POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY"}
    assert wanted <= set(example())


def test_no_secret_stands_in_the_files_themselves():
    assert {
        name: value for name, value in example().items() if re.search("TOKEN|KEYS|PASSWORD|SECRET", name) and value
    } == {}
    for text in texts(TOLD):
        assert re.search(r"r8_|whsec_", text) is None
        assert re.search(r"postgresql://\w+:(?!\$\{)", text) is None


def test_service_and_worker_share_ledger_and_bucket_and_wait_for_both():
    for service in ("service", "worker"):
        told = SERVICES[service]
        assert set(told["depends_on"]) == {"migrate", "bucket"}
        assert told["environment"] == SERVICES["migrate"]["environment"]
        assert told["env_file"] == [".env"]
    assert SERVICES["service"]["command"] == ["serve", "--no-worker"]
    assert SERVICES["worker"]["command"] == ["work"]
    assert SERVICES["migrate"]["command"] == ["migrate"]


def test_the_configuration_of_the_s3_server_is_json_that_takes_the_keys_we_use():
    filled = re.sub(r"\$\{(\w+):[^}]*\}", r"\1", TOLD["configs"]["s3"]["content"])
    (identity,) = json.loads(filled)["identities"]
    assert identity["credentials"] == [{"accessKey": "S3_ACCESS_KEY", "secretKey": "S3_SECRET_KEY"}]


def test_the_broker_accepts_its_configuration_and_syncs_before_it_acknowledges(tmp_path: Path):
    config = tmp_path / "nats.conf"
    config.write_text(TOLD["configs"]["nats"]["content"])
    server = Path(sys.executable).with_name("nats-server")
    checked = subprocess.run([server, "--config", config, "-t"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert "sync_interval: always" in config.read_text()


def test_nothing_starts_or_is_suggested_that_this_version_does_not_use():
    for name in ("nats", "stream"):
        assert TOLD["services"][name]["profiles"] == ["push"]
    assert "OUTKEEP_SINKS" not in (INFRA / "env.example").read_text("utf-8")
