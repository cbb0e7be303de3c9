"""The kinds of columns: text and JSON that both databases hold alike, counters, moments."""

import json
import re
from typing import Any

import sqlalchemy as sa

LABEL_MAX = 256

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def storable(text: str) -> str:
    """The text with NUL and lone surrogates written as `\\u0000`: PostgreSQL refuses them where SQLite does not."""
    if text.isascii() and "\0" not in text:
        return str(text)  # plain str also for members of a StrEnum, which the drivers would take for something else
    return _UNSTORABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


class Plain(sa.types.TypeDecorator[str]):
    """Text from anywhere, also in comparisons: what is written and what is looked for become storable alike."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        del dialect
        return None if value is None else storable(value)


class Label(Plain):
    """Plain text to look for rows by, cut at LABEL_MAX characters: PostgreSQL refuses index entries beyond 2.7 KB."""

    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        text = super().process_bind_param(value, dialect)
        return None if text is None else text[:LABEL_MAX]


class Json(sa.types.TypeDecorator[Any]):
    """JSON as ASCII text, so that every string survives in every database."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str | None:
        del dialect
        return None if value is None else json.dumps(value, separators=(",", ":"))

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> Any:
        del dialect
        return None if value is None else json.loads(value)


# SQLite gives out row numbers only to a column that is exactly an INTEGER PRIMARY KEY.
Number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Moment = sa.BigInteger  # milliseconds since 1970
