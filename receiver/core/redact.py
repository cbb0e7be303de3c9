"""Take secrets out of what people put into predictions, before anything is stored or told."""

import re
from collections.abc import Iterator
from typing import Any

REDACTED = "[redacted]"

_TOKEN = re.compile(
    r"\b(?:r8_[A-Za-z0-9]{8,}|whsec_[A-Za-z0-9+/=]{8,}|sk-[A-Za-z0-9_-]{16,}|hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{16,}"
    r"|github_pat_[A-Za-z0-9_]{16,}|AKIA[A-Z0-9]{16}|xox[abprs]-[A-Za-z0-9-]{10,})"
)
_TOKENS_BEGIN = ("r8_", "whsec_", "sk-", "hf_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "AKIA", "xox")
_BEARER = re.compile(r"\b(Bearer|Token) +[A-Za-z0-9._~+/=-]{8,}")
# The parts of a presigned URL that make it one (S3, Google, Azure, CloudFront): without them it opens nothing.
_SIGNATURES = (
    "X-Amz-Signature|X-Amz-Credential|X-Amz-Security-Token|X-Goog-Signature|X-Goog-Credential|Signature"
    "|AWSAccessKeyId|GoogleAccessId|Key-Pair-Id|Policy|sig"
)
_PRESIGNED = re.compile(rf"(?i)([?&](?:{_SIGNATURES})=)[^&#\s\"']+")
_SIGNED = re.compile(rf"(?i)([?&](?:{_SIGNATURES}|token|access_token|api_key|apikey)=)[^&#\s\"']+")
_USER_INFO = re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+@")
_PIECE_CHARACTERS = 64 * 1024  # searched at once: while a pattern is searched for, nobody else in this process gets on
_CUT = re.compile(r"\s(?<!Bearer\s)(?<!Token\s)(?<!\s\s)")  # whitespace that is in nothing we look for
_SECRET_NAMES = frozenset(
    ("auth", "authorization", "token", "secret", "password", "passwd", "api_key", "apikey", "api_token", "access_token",
     "auth_token", "secret_key", "private_key", "replicate_api_token", "hf_token", "openai_api_key", "webhook_secret")
)  # fmt: skip
_SECRET_MEMBER = re.compile(
    rf'("(?:{"|".join(sorted(_SECRET_NAMES)).replace("_", "[_-]")})"\s*+:\s*+)"[^"\\]*+(?:\\.[^"\\]*+)*+"?',
    re.IGNORECASE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(?:/|u00((?!22|5c)[2-7][0-9a-f]))", re.IGNORECASE)  # of what JSON could as well say plainly


def redact(value: Any) -> Any:
    """The same JSON with tokens, passwords and the signatures of presigned URLs replaced by `[redacted]`."""
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, dict):
        return {key: _member(key, item) for key, item in value.items()}
    if isinstance(value, list):
        return [redact(item) for item in value]
    return value


def redact_presigned(value: Any) -> Any:
    """The same JSON with the signatures of presigned URLs replaced, and nothing else: for what a model has written."""
    if isinstance(value, str):
        presigned = "://" in value and not value.startswith("data:")
        return _PRESIGNED.sub(rf"\1{REDACTED}", value) if presigned else value
    if isinstance(value, dict):
        return {key: redact_presigned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [redact_presigned(item) for item in value]
    return value


def redact_text(text: str) -> str:
    """The same text without what opens something. `data:` URIs are left alone: they are long and hold no names."""
    if text.startswith("data:") and " " not in text and "\n" not in text:
        return text
    if len(text) > _PIECE_CHARACTERS:
        return "".join(map(_redacted, _pieces(text)))
    return _redacted(text)


def redact_unread(text: str) -> str:
    """The same for text that was meant as JSON, and was not read: by the names of its members, and with its escapes."""
    text = _SECRET_MEMBER.sub(rf'\1"{REDACTED}"', text)
    return redact_text(_ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else "/", text))


def _pieces(text: str) -> Iterator[str]:
    """The text in pieces, cut where nothing secret can be cut in two."""
    start = 0
    while cut := _CUT.search(text, start + _PIECE_CHARACTERS):
        yield text[start : cut.start()]
        start = cut.start()
    yield text[start:]


def _redacted(text: str) -> str:
    # To look for a word takes a hundredth of the time that a pattern takes, and most texts hold none of them.
    if any(word in text for word in _TOKENS_BEGIN):
        text = _TOKEN.sub(REDACTED, text)
    if "Bearer " in text or "Token " in text:
        text = _BEARER.sub(rf"\1 {REDACTED}", text)
    if "://" in text:
        text = _SIGNED.sub(rf"\1{REDACTED}", text)
        text = _USER_INFO.sub(f"{REDACTED}@", text)
    return text


def _member(name: str, item: Any) -> Any:
    if isinstance(item, str) and item and name.lower().replace("-", "_") in _SECRET_NAMES:
        return REDACTED
    return redact(item)
