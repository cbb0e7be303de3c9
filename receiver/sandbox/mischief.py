"""The misbehaviour that can be asked for, in one vocabulary for a single prediction and for the whole sandbox.

For one prediction it is an object under `sandbox` in its input, which every model takes:

    {"prompt": "a cat", "sandbox": {"webhook": "drop", "files": ["once:500", "truncated"]}}

For everybody it is `Options.mischief` or a `POST /_sandbox/mischief` with such an object (an empty one ends it); what
a prediction asks for itself goes before. A word is `kind`, `kind:value`, `once:kind` or `3x:kind:value`: that many
times, then no more, counted per file, per prediction, or in general for all calls of its kind. Seconds are real
seconds. Several words in a list are tried in turn: the first that is not used up strikes. For webhooks all of them do.

webhook
    drop         the final webhook is lost             never        no webhook at all
    repeat:3     the final one comes 3 times           repeat_new:3 likewise, each time under a new id
    reorder      the final one first, then the others  delay:5      each is 5 s late
    forge        before each one a forged one          wrong_secret signed with a secret nobody knows
    old_secret   signed with the secret before the rotation
    unsigned     no signature headers                  stale:600    a timestamp that many seconds old
    two_ids      the id header twice                   svix         names of svix instead of the standard ones
    garbage      signed, but no JSON                   deep:5000    signed JSON of that depth
    odd          signed JSON with NaN, \\u0000, a lone surrogate, a key told twice, numbers beyond 64 bits
    huge:bytes   logs of that size                     no_retry     the final one is tried once
    slow:5       the body takes 5 s                    twin         the final one is told again by a 2nd sender at once
    no_output    the final one lacks its output        data_removed the final one comes when all is removed
files (a text or list of texts per output, in the order of the outputs; a single text holds for all)
    404 403 410 429:5 500 503 …   that status (429 and 503 with that Retry-After)
    slow:10      takes 10 s                            stall:60     stops half-way for 60 s
    truncated    half the bytes, whole Content-Length  reset        half the bytes, then the connection is torn
    hang:60      says nothing for 60 s                 no_length    chunked, without Content-Length
    closed       no length, ended by closing           closed_early the same, but half the bytes
    wrong_length Content-Length and body 7 bytes short corrupt      one byte differs from the hashes
    wrong_md5    ETag and x-goog-hash of other bytes   odd_etag     32 hex digits that are no MD5, no x-goog-hash
    no_hash      neither ETag nor x-goog-hash          stored_gzip  x-goog-hash is that of a stored gzip
    gzip         compressed though not asked for       html         an error page with status 200
    empty        200 with no bytes                     no_range     Range is not known
    bad_range    206 with bytes from elsewhere         redirect     302 to the same file, unharmed
    redirect_loop, redirect_private   302 for ever, 302 to a cloud's metadata address
    expires:5    gone 5 s after completion             wrong_type   application/octet-stream
    ok           nothing: a place without mischief
api (asking for the prediction; in general every call of the API)
    401 402 404 429:5 500 502 503 …    hang:60    reset    html    redirect    truncated
create (likewise for the creating call; a prediction's own `once:` counts equal requests)
    the same, and lost: it is created, but the answer is not received; late:5 likewise, the answer takes 5 s more;
    no_location
secret, list (in general only): the words of api for the secret's endpoint and for the list of predictions
    and for the list also hide: the list is empty; lean: its items lack input, output and logs
wait         "early": the answer to `Prefer: wait` comes as soon as the outputs are there, still `processing`
stale_get    for so many seconds after the end, asking tells what was true before it
status       how it ends: succeeded, failed, canceled, aborted (never starts, and no webhook says so), or never (runs on
             until it is canceled)
error        the error's text          logs_bytes   as long as that
output       any JSON instead of the model's; in it the text "file:png" becomes a file (also webp, mp4, wav, mp3, flac,
             glb, svg, tar, bytes), "inline:png" a `data:` URI
queue_s, duration_s   how long it waits and runs, as told by a model (scaled by the speed)
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

WEBHOOK = frozenset(
    {
        *("ok", "drop", "never", "repeat", "repeat_new", "reorder", "delay", "forge", "wrong_secret", "old_secret"),
        *(
            "unsigned",
            "stale",
            "two_ids",
            "svix",
            "garbage",
            "odd",
            "deep",
            "huge",
            "no_retry",
            "slow",
            "twin",
            "no_output",
        ),
        "data_removed",
    }
)
FILES = frozenset(
    {
        *("ok", "slow", "stall", "truncated", "reset", "hang", "no_length", "closed", "closed_early", "wrong_length"),
        *("corrupt", "wrong_md5", "odd_etag", "no_hash", "stored_gzip", "gzip", "html", "empty", "no_range"),
        *("bad_range", "redirect", "redirect_loop", "redirect_private", "expires", "wrong_type"),
    }
)
API = frozenset(["hang", "reset", "html", "redirect", "truncated", "ok"])
CREATE = API | {"lost", "late", "no_location"}
LIST = API | {"hide", "lean"}
STATUSES = ("succeeded", "failed", "canceled", "aborted", "never")
WORDS = {"webhook": WEBHOOK, "api": API, "create": CREATE, "secret": API, "list": LIST}
NUMBERS = ("duration_s", "queue_s", "stale_get", "logs_bytes")
KINDS = (*WORDS, "files", "status", "wait", "error", "output", *NUMBERS)
WORDS_MAX = 64  # a list of misbehaviour longer than this is a mistake
SECONDS_MAX = 3600.0

_WORD = re.compile(
    r"(?:(once|[1-9][0-9]{0,5}x):)?"
    r"([a-z][a-z_0-9]*|[1-5][0-9][0-9])"
    r"(?::([0-9]{1,12}(?:\.[0-9]{1,6})?))?\Z"
)


@dataclass(frozen=True, slots=True)
class Prank:
    """One misbehaviour. `kind` is a word or a status in digits; `times` None is for ever."""

    kind: str
    value: float | None = None
    times: int | None = None

    def value_or(self, default: float) -> float:
        return default if self.value is None else self.value

    @property
    def status(self) -> int | None:
        return int(self.kind) if self.kind.isdigit() else None


@dataclass(frozen=True, slots=True)
class Mischief:
    """What was asked for. `files` holds one row of pranks per output; `every_file` says one row is for all."""

    webhook: tuple[Prank, ...] = ()
    files: tuple[tuple[Prank, ...], ...] = ()
    every_file: bool = False
    api: tuple[Prank, ...] = ()
    create: tuple[Prank, ...] = ()
    secret: tuple[Prank, ...] = ()
    list: tuple[Prank, ...] = ()
    status: str | None = None
    wait: str | None = None
    error: str | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    output: Any = None
    has_output: bool = False

    def file(self, index: int) -> tuple[Prank, ...]:
        if self.every_file:
            return self.files[0]
        return self.files[index] if index < len(self.files) else ()

    def number(self, name: str) -> float | None:
        return self.numbers.get(name)


def read(told: Any) -> Mischief:
    """The misbehaviour that a JSON object asks for; ValueError with a sentence when it makes no sense."""
    if not isinstance(told, Mapping):
        raise ValueError("sandbox must be an object")  # noqa: TRY004 - the caller's value is wrong, not our code
    known: dict[str, Any] = {}
    numbers: dict[str, float] = {}
    for key, value in told.items():
        if key in WORDS:
            known[key] = row(value, WORDS[key], key)
        elif key == "files":
            known["files"], known["every_file"] = _files(value)
        elif key in ("status", "wait", "error"):
            known[key] = _choice(key, value)
        elif key == "output":
            known.update(output=value, has_output=True)
        elif key in NUMBERS:
            numbers[key] = _number(key, value)
        else:
            raise ValueError(f"sandbox.{key} is not known, kinds are {', '.join(KINDS)}")
    return Mischief(numbers=numbers, **known)


def row(value: Any, words: frozenset[str], where: str) -> tuple[Prank, ...]:
    """A word or a list of words."""
    told = value if isinstance(value, list) else [] if value is None else [value]
    if len(told) > WORDS_MAX:
        raise ValueError(f"sandbox.{where} has more than {WORDS_MAX} words")
    return tuple(_prank(word, words, where) for word in told)


def over(own: Mischief, general: Mischief, name: str) -> tuple[Prank, ...]:
    """The pranks of that name: the prediction's own if it asked for any, the general ones otherwise."""
    found: tuple[Prank, ...] = getattr(own, name) or getattr(general, name)
    return found


def _files(value: Any) -> tuple[tuple[tuple[Prank, ...], ...], bool]:
    if isinstance(value, list):
        if len(value) > WORDS_MAX:
            raise ValueError(f"sandbox.files has more than {WORDS_MAX} words")
        return tuple(row(item, FILES, "files") for item in value), False
    return ((row(value, FILES, "files"),), True) if value else ((), False)


def _prank(word: Any, words: frozenset[str], where: str) -> Prank:
    match = _WORD.match(str(word)) if isinstance(word, str | int) and not isinstance(word, bool) else None
    if match is None or not (match[2] in words or (match[2].isdigit() and words is not WEBHOOK)):
        raise ValueError(f"sandbox.{where}: {word!r} is not known, words are {', '.join(sorted(words))}")
    times = None if match[1] is None else 1 if match[1] == "once" else int(match[1][:-1])
    return Prank(match[2], None if match[3] is None else float(match[3]), times)


def _choice(key: str, value: Any) -> str | None:
    allowed = {"status": STATUSES, "wait": ("early",)}.get(key)
    if value is not None and (not isinstance(value, str) or (allowed and value not in allowed)):
        raise ValueError(f"sandbox.{key} must be {'one of ' + ', '.join(allowed) if allowed else 'text'}")
    return value


def _number(key: str, value: Any) -> float:
    bound = 100_000_000.0 if key == "logs_bytes" else SECONDS_MAX
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= bound:
        raise ValueError(f"sandbox.{key} must be a number from 0 to {bound:.0f}")
    return float(value)
