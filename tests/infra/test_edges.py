"""The proxy and the unit around the service: nothing redirected that would be lost, nothing logged that is secret."""

import configparser
import re
from pathlib import Path

import pytest

from receiver.cli.frame import START_AGAIN

INFRA = Path(__file__).parents[2] / "infra"
CADDYFILE = (INFRA / "Caddyfile").read_text("utf-8")


def block(opening: str, text: str = CADDYFILE) -> str:
    """What stands between the braces of the first block that opens with these words."""
    start = text.index(f"{opening} {{\n") + len(opening) + 2
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start:place]
    raise AssertionError(f"{opening} never ends")


def unit() -> configparser.ConfigParser:
    # systemd takes a key more than once; what is asked of here stands once or adds to itself.
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(INFRA / "outkeep.service", "utf-8")
    return parser


def test_plain_http_redirects_everything_but_the_webhooks():
    assert "auto_https disable_redirects" in CADDYFILE
    plain = block("http://{$DOMAIN}")
    assert "@callbacks path /webhooks/*" in plain
    assert block("handle @callbacks", plain).split() == ["import", "outkeep"]
    assert "redir" in block("handle", plain.replace("handle @callbacks", "other"))
    assert CADDYFILE.count("redir ") == 1


@pytest.mark.parametrize("deadline", ["read_header", "read_body", "idle"])
def test_the_proxy_has_the_deadlines_that_the_server_lacks(deadline: str):
    assert re.search(rf"^\s*{deadline} \d+[sm]$", block("timeouts"), re.MULTILINE)


def test_the_proxy_leaves_it_to_the_service_to_refuse_a_webhook_that_is_too_large():
    size = re.search(r"max_size (\d+)MiB", block("request_body @webhooks"))
    assert size is not None
    assert int(size[1]) > 32


def test_the_log_of_the_proxy_holds_no_header_and_no_link():
    fields = block("fields")
    assert "request>headers delete" in fields
    assert "resp_headers delete" in fields
    rule = re.search(r'request>uri regexp "(.*)" "(.*)"', fields)
    assert rule is not None
    pattern, put = rule[1], rule[2].replace("${1}", r"\g<1>")
    assert re.sub(pattern, put, "/files/AbCdEf/output.0.webp?key=x") == "/files/-/output.0.webp-"
    assert re.sub(pattern, put, "/shared/AbCdEf") == "/shared/-"
    assert re.sub(pattern, put, "/webhooks/replicate/token") == "/webhooks/replicate/token"


def test_no_site_logs_around_the_filter():
    assert CADDYFILE.count("log {") == 1
    assert "log_credentials" not in CADDYFILE


def test_the_unit_starts_the_service_again_and_asks_for_no_right():
    service = unit()["Service"]
    assert service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"] == "2"
    assert int(service["RestartForceExitStatus"]) == START_AGAIN
    assert int(service["TimeoutStopSec"]) > 10
    assert service["DynamicUser"] == service["NoNewPrivileges"] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert service["CapabilityBoundingSet"] == ""


def test_the_unit_works_in_the_folder_that_it_may_write():
    service = unit()["Service"]
    assert service["WorkingDirectory"] == f"%S/{service['StateDirectory']}"
