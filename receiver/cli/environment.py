"""What the environment and the `.env` file in the working directory say; the environment wins."""

import os
from collections.abc import Mapping
from io import StringIO
from pathlib import Path

FILE = Path(".env")
_BOTO3_PREFIX = "AWS_"  # boto3 reads these by itself, from the process's own environment


def environment() -> dict[str, str]:
    """All that is set. `AWS_…` from the file is put into the process's environment too. Raises Misconfigured."""
    told = _file()
    for name, value in told.items():
        if name.startswith(_BOTO3_PREFIX):
            os.environ.setdefault(name, value)
    return {**told, **os.environ}


def called() -> str:
    """How this command is called from here: `uv run` puts it on the path of nobody but itself."""
    return "uv run outkeep" if os.environ.get("UV_RUN_RECURSION_DEPTH") else "outkeep"


def _file() -> Mapping[str, str]:
    if not FILE.is_file():
        return {}
    from dotenv import dotenv_values

    from receiver.core.errors import Misconfigured

    try:
        text = FILE.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise Misconfigured(f"The file .env can't be read: {why}. Mend or remove it.") from None
    values = dotenv_values(stream=StringIO(text), interpolate=False)
    return {name: value for name, value in values.items() if value is not None}
