"""The settings: one list, read from the environment and from `.env`, each with its rule and its sentence."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from receiver.core.errors import Misconfigured
from receiver.runtime import parsing

PREFIX = "OUTKEEP_"
CLIENT_SETTINGS = ("OUTKEEP_URL", "OUTKEEP_KEY")  # read by the commands that speak to a running service


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its name in the environment, what holds without it, how its text is read, what it means."""

    name: str
    field: str
    default_text: str
    parse: Callable[[str], Any]
    meaning: str
    secret: bool = False  # its value is never repeated, not even when it is wrong


SETTINGS: tuple[Setting, ...] = (
    Setting("REPLICATE_API_TOKEN", "replicate_token", "", parsing.token, "our own token for Replicate", secret=True),
    Setting(
        "OUTKEEP_REPLICATE_URL",
        "replicate_url",
        "https://api.replicate.com/v1",
        parsing.web_url,
        "Replicate's API (never read from `REPLICATE_BASE_URL`: apps beside us set that one to *us*)",
    ),
    Setting(
        "OUTKEEP_PUBLIC_URL",
        "public_url",
        "",
        parsing.web_url,
        "where Replicate and readers reach us, `http://HOST:PORT` when unset; base of the webhook URL and of permanent"
        " links; may have a path prefix; required when `OUTKEEP_HOST` is not loopback. When it is loopback and"
        " Replicate's API is not, no webhook is asked for and open predictions are polled every 2 s",
    ),
    Setting("OUTKEEP_HOST", "host", "127.0.0.1", parsing.host, "the address we listen on"),
    Setting("OUTKEEP_PORT", "port", "8080", parsing.port, "the port we listen on"),
    Setting(
        "OUTKEEP_DATABASE_URL",
        "database_url",
        "sqlite:///outkeep-data/ledger.db",
        parsing.database_url,
        "the ledger: `sqlite:///path` or `postgresql://…`",
        secret=True,
    ),
    Setting(
        "OUTKEEP_BUCKET_URL",
        "bucket_url",
        "file:outkeep-data/objects",
        parsing.bucket_url,
        "where outputs are kept: `file:PATH` or `s3://bucket[/prefix]`; endpoint and credentials of S3 come from"
        " boto3's own settings (`AWS_ENDPOINT_URL_S3`, `AWS_ACCESS_KEY_ID`, profiles, roles …)",
    ),
    Setting(
        "OUTKEEP_SINKS",
        "sinks",
        "",
        parsing.words,
        "where events are pushed, space-separated URLs; refused in this version, which has the feed (`GET /events`)",
        secret=True,
    ),
    Setting(
        "OUTKEEP_WEBHOOK_SECRETS",
        "webhook_secrets",
        "",
        parsing.secrets,
        "signing secrets of Replicate's webhooks (`whsec_…`), space-separated, any of them verifies; fetched from"
        " Replicate when unset",
        secret=True,
    ),
    Setting(
        "OUTKEEP_API_KEYS",
        "api_keys",
        "",
        parsing.named_keys,
        "`name=key` pairs, space-separated: who may use the API and the gallery, all scopes; keys of 20 characters or"
        " more."
        " Without any key both the listening address and the public URL must be loopback",
        secret=True,
    ),
    Setting(
        "OUTKEEP_KEYS_FILE",
        "keys_file",
        "",
        parsing.path,
        "TOML with more keys: name, SHA-256 of the key, scopes (`read`, `create`, `admin`), limits (see *Keys*)",
    ),
    Setting(
        "OUTKEEP_SIGNING_SECRET",
        "signing_secret",
        "",
        parsing.secret,
        "our own `whsec_…` that signs what we push; of no use yet, since this version pushes nothing",
        secret=True,
    ),
    Setting(
        "OUTKEEP_OUTPUT_HOSTS",
        "output_hosts",
        "replicate.delivery",
        parsing.output_hosts,
        "where outputs may be fetched from, space-separated. A bare host name means https, port 443, public addresses"
        " only, its subdomains included. A whole origin (`http://127.0.0.1:9100`) means exactly that origin, plain http"
        " and private addresses allowed: for sandboxes",
    ),
    Setting(
        "OUTKEEP_OUTPUT_TTL_S",
        "output_ttl_s",
        "3600",
        parsing.seconds(1, 31_536_000),
        "how long after completion the outputs can be expected to be there; one fetch is always tried after it",
    ),
    Setting("OUTKEEP_OUTPUT_BYTES_MAX", "output_bytes_max", "20GiB", parsing.byte_count, "cap on one output"),
    Setting("OUTKEEP_SPOOL_DIR", "spool_dir", "outkeep-data/spool", parsing.path, "where bytes lie on their way"),
    Setting("OUTKEEP_SPOOL_BYTES_MAX", "spool_bytes_max", "10GiB", parsing.byte_count, "cap on the spool"),
    Setting(
        "OUTKEEP_KEEP_EVENTS_DAYS", "keep_events_days", "90", parsing.whole(1, 36_500), "how long the feed is kept"
    ),
    Setting(
        "OUTKEEP_KEEP_DELIVERIES_DAYS",
        "keep_deliveries_days",
        "30",
        parsing.whole(1, 36_500),
        "how long raw deliveries are kept; predictions and outputs stay",
    ),
    Setting(
        "OUTKEEP_RECONCILE_AFTER_S",
        "reconcile_after_s",
        "60",
        parsing.seconds(0.1, 86_400),
        "silence about an open prediction after which we ask Replicate ourselves",
    ),
    Setting(
        "OUTKEEP_SWEEP_EVERY_S",
        "sweep_every_s",
        "300",
        parsing.seconds(0, 86_400),
        "how often the account's own list of predictions is compared with the ledger; 0 turns it off",
    ),
    Setting("OUTKEEP_WORKERS", "workers", "8", parsing.whole(1, 256), "outputs archived at once by one worker process"),
    Setting(
        "OUTKEEP_LOG_FORMAT",
        "log_format",
        "auto",
        parsing.one_of("auto", "console", "json"),
        "`console`, `json`, or `auto` (console on a terminal)",
    ),
)


@dataclass(frozen=True, slots=True, repr=False)
class Settings:
    """What the environment said, checked. Its repr holds no value, since some are secret."""

    replicate_token: str | None
    replicate_url: str
    public_url: str
    host: str
    port: int
    database_url: str
    bucket_url: str
    sinks: tuple[str, ...]
    webhook_secrets: tuple[str, ...]
    api_keys: tuple[tuple[str, str], ...]
    keys_file: Path | None
    signing_secret: str | None
    output_hosts: str
    output_ttl_s: float
    output_bytes_max: int
    spool_dir: Path
    spool_bytes_max: int
    keep_events_days: int
    keep_deliveries_days: int
    reconcile_after_s: float
    sweep_every_s: float
    workers: int
    log_format: str

    def __repr__(self) -> str:
        return f"Settings({len(fields(self))} values)"

    @property
    def loopback_only(self) -> bool:
        """Nobody but this machine reaches us, neither by address nor by name."""
        return parsing.is_loopback(self.host) and parsing.is_loopback_url(self.public_url)

    @property
    def asks_for_webhooks(self) -> bool:
        """Replicate can reach us: our public URL is not loopback, or its API is on this machine too."""
        return not parsing.is_loopback_url(self.public_url) or parsing.is_loopback_url(self.replicate_url)


def read(environ: Mapping[str, str], **overrides: str) -> Settings:
    """Check every setting. `overrides` are texts by field name (`port="0"`) that win over the environment.

    Raises Misconfigured with the setting's name, what was wrong and what would be right.
    """
    values = {setting.field: _value(setting, environ, overrides) for setting in SETTINGS}
    if values["public_url"] is None:
        values["public_url"] = _own_url(values["host"], values["port"])
    settings = Settings(**values)
    _refuse_open_doors(settings, environ)
    return settings


def _value(setting: Setting, environ: Mapping[str, str], overrides: Mapping[str, str]) -> Any:
    text = overrides.get(setting.field, environ.get(setting.name, "")).strip() or setting.default_text
    if not text:
        return () if setting.parse in (parsing.words, parsing.secrets, parsing.named_keys) else None
    try:
        return setting.parse(text)
    except ValueError as error:
        shown = "its value (not shown)" if setting.secret else parsing.shown(text)
        raise Misconfigured(f"{setting.name} is wrong: {shown} is not {error}.") from None


def _own_url(host: str, port: int) -> str:
    if not parsing.is_loopback(host):
        raise Misconfigured(
            f"OUTKEEP_PUBLIC_URL is missing: OUTKEEP_HOST is {host!r}, so tell us the URL under which Replicate and"
            " readers reach us, like https://outkeep.example.com."
        )
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _refuse_open_doors(settings: Settings, environ: Mapping[str, str]) -> None:
    if not settings.api_keys and settings.keys_file is None and not settings.loopback_only:
        raise Misconfigured(
            "OUTKEEP_API_KEYS is missing: without a key we serve on loopback only, and OUTKEEP_HOST or"
            " OUTKEEP_PUBLIC_URL is not. Set it to name=key with a key of 20 characters or more."
        )
    if settings.replicate_token is None and environ.get("REPLICATE_API_TOKEN"):
        raise Misconfigured("REPLICATE_API_TOKEN is blank: it would be r8_… as Replicate shows it.")


def strangers(environ: Mapping[str, str]) -> list[str]:
    """A sentence for every `OUTKEEP_…` name that is no setting of ours: most likely a slip of the pen."""
    known = [setting.name for setting in SETTINGS] + list(CLIENT_SETTINGS)
    sentences = []
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
            sentences.append(f"{name} is not a setting{f'; did you mean {close[0]}?' if close else '.'}")
    return sentences
