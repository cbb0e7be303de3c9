import pytest

from receiver.core.errors import Misconfigured
from receiver.runtime import parsing, settings

KEY = "app=0123456789abcdefghij"
PUBLIC = {"OUTKEEP_PUBLIC_URL": "https://keep.example.com/base/", "OUTKEEP_API_KEYS": KEY}


def test_with_nothing_set_everything_has_its_default():
    read = settings.read({})
    assert (read.host, read.port, read.public_url) == ("127.0.0.1", 8080, "http://127.0.0.1:8080")
    assert read.output_bytes_max == 20 * 2**30
    assert read.database_url == "sqlite:///outkeep-data/ledger.db"
    assert (read.replicate_token, read.api_keys, read.sinks, read.keys_file) == (None, (), (), None)
    assert read.loopback_only
    assert not read.asks_for_webhooks


def test_a_public_url_asks_for_webhooks_and_loses_its_last_slash():
    read = settings.read(PUBLIC)
    assert read.public_url == "https://keep.example.com/base"
    assert read.asks_for_webhooks
    assert not read.loopback_only


def test_a_sandbox_on_this_machine_can_call_a_loopback_address():
    assert settings.read({"OUTKEEP_REPLICATE_URL": "http://localhost:9100/v1"}).asks_for_webhooks


def test_an_ipv6_address_stands_in_brackets():
    assert settings.read({"OUTKEEP_HOST": "::1"}).public_url == "http://[::1]:8080"


WRONG = [
    ({"OUTKEEP_PORT": "http"}, "OUTKEEP_PORT is wrong: 'http' is not a port from 0 to 65535"),
    ({"OUTKEEP_PORT": "70000"}, "OUTKEEP_PORT"),
    ({"OUTKEEP_HOST": "a b"}, "OUTKEEP_HOST"),
    ({"OUTKEEP_WORKERS": "0"}, "a whole number from 1 to 256"),
    ({"OUTKEEP_WORKERS": "٣"}, "OUTKEEP_WORKERS"),
    ({"OUTKEEP_OUTPUT_TTL_S": "-1"}, "a number of seconds from 1 to 31536000."),
    ({"OUTKEEP_OUTPUT_BYTES_MAX": "lots"}, "a size like 20GiB"),
    ({"OUTKEEP_SPOOL_BYTES_MAX": "0"}, "at least one byte"),
    ({"OUTKEEP_LOG_FORMAT": "xml"}, "one of auto, console, json"),
    ({"OUTKEEP_DATABASE_URL": "mysql://me:hunter2@db/x"}, "sqlite:///path or postgresql://"),
    ({"OUTKEEP_BUCKET_URL": "gs://bucket"}, "file:PATH or s3://bucket"),
    ({"OUTKEEP_PUBLIC_URL": "keep.example.com", "OUTKEEP_API_KEYS": KEY}, "an http:// or https:// URL"),
    ({"OUTKEEP_PUBLIC_URL": "https://u:p@keep.example.com", "OUTKEEP_API_KEYS": KEY}, "without user name"),
    ({"OUTKEEP_PUBLIC_URL": "https://keep.example.com:99999", "OUTKEEP_API_KEYS": KEY}, "an http:// or https:// URL"),
    ({"OUTKEEP_API_KEYS": "app=short"}, "keys of 20 characters or more"),
    ({"OUTKEEP_API_KEYS": f"{KEY} {KEY}"}, "every name once"),
    ({"OUTKEEP_WEBHOOK_SECRETS": "whsec_abc"}, "24 to 64 bytes"),
    ({"OUTKEEP_SIGNING_SECRET": "secret"}, "whsec_ and"),
    ({"REPLICATE_API_TOKEN": "r8 x"}, "a token as Replicate shows it"),
    ({"OUTKEEP_OUTPUT_HOSTS": "https://user@host"}, "OUTKEEP_OUTPUT_HOSTS"),
    ({"OUTKEEP_OUTPUT_HOSTS": "https://u:hunter2@host"}, "OUTKEEP_OUTPUT_HOSTS is wrong: 'https://…@host' is not"),
    ({"OUTKEEP_OUTPUT_HOSTS": "http://host/path"}, "like http://127.0.0.1:9100."),
    ({"OUTKEEP_BUCKET_URL": "s3://me:hunter2/@bucket"}, "OUTKEEP_BUCKET_URL is wrong: 's3://…@bucket' is not"),
    ({"OUTKEEP_REPLICATE_URL": "https://host/v1?token=hunter2"}, "'https://host/v1?…' is not an http:// or https://"),
    ({"OUTKEEP_KEYS_FILE": "a\0b"}, "a path"),
    ({"OUTKEEP_HOST": "0.0.0.0"}, "OUTKEEP_PUBLIC_URL is missing"),
    ({"OUTKEEP_PUBLIC_URL": "https://keep.example.com"}, "OUTKEEP_API_KEYS is missing"),
    ({"REPLICATE_API_TOKEN": "  "}, "REPLICATE_API_TOKEN is blank"),
]


@pytest.mark.parametrize(("environ", "sentence"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_value_is_named_with_what_would_be_right_and_no_secret(environ, sentence):
    with pytest.raises(Misconfigured) as problem:
        settings.read(environ)
    told = str(problem.value)
    assert sentence in told
    assert not told.endswith("..")
    for secret in ("hunter2", "short", "whsec_abc", "r8 x", "0123456789abcdefghij"):
        assert secret not in told


def test_overrides_win_over_the_environment():
    assert settings.read({"OUTKEEP_PORT": "1"}, port="2").port == 2


def test_secrets_are_not_in_the_repr():
    assert "0123456789" not in repr(settings.read(PUBLIC))


def test_a_misspelt_name_is_noticed():
    told = settings.strangers({"OUTKEEP_BUCKETURL": "x", "OUTKEEP_KEY": "y", "OUTKEEP_ZZZ": "z", "PATH": "p"})
    assert told == [
        "OUTKEEP_BUCKETURL is not a setting; did you mean OUTKEEP_BUCKET_URL?",
        "OUTKEEP_ZZZ is not a setting.",
    ]


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("1.5KiB", 1536), ("2 MB", 2_000_000), ("3g", 3_000_000_000), ("1TiB", 2**40), ("7B", 7)],
)
def test_sizes_are_read_with_their_units(text, size):
    assert parsing.byte_count(text) == size


@pytest.mark.parametrize(
    ("name", "loopback"),
    [("127.9.9.9", True), ("::1", True), ("localhost", True), ("LOCALHOST.", True), ("a.localhost", True),
     ("10.0.0.1", False), ("example.com", False), ("0.0.0.0", False), ("", False)],
)  # fmt: skip
def test_loopback_is_this_machine_alone(name, loopback):
    assert parsing.is_loopback(name) is loopback


def test_postgres_urls_have_one_spelling():
    assert parsing.database_url("postgres://h/d") == "postgresql://h/d"
