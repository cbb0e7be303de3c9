"""What operators read: log lines on standard error, for people or as JSON, without secrets."""

import json
import logging
import sys
from typing import TextIO

from receiver.core.clock import iso
from receiver.core.redact import redact_text

# They print whole URLs, and with them signatures, at INFO.
_TALKATIVE = (
    "httpx",
    "httpcore",
    "botocore",
    "boto3",
    "urllib3",
    "s3transfer",
    "asyncio",
    "alembic",
    "aiosqlite",
    "uvicorn",
)
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


class _Plain(logging.Formatter):
    """`08:00:03 info    archived output.0  prediction=gm3q…`."""

    def format(self, record: logging.LogRecord) -> str:
        facts = "".join(f"  {name}={value}" for name, value in _facts(record).items())
        line = f"{iso(int(record.created * 1000))[11:19]} {record.levelname.lower():<7} {record.getMessage()}{facts}"
        return redact_text(line + (f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""))


class _Json(logging.Formatter):
    """One JSON object a line: `time`, `level`, `message`, and the facts."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": iso(int(record.created * 1000)),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **_facts(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return redact_text(json.dumps(entry, default=str))


def configure(log_format: str, *, stream: TextIO | None = None, level: int = logging.INFO) -> None:
    """Log to `stream` (standard error) as `json`, `console` or `auto` (console on a terminal), and nowhere else."""
    target = sys.stderr if stream is None else stream
    as_json = log_format == "json" or (log_format == "auto" and not target.isatty())
    handler = logging.StreamHandler(target)
    handler.setFormatter(_Json() if as_json else _Plain())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)


def _facts(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}
