"""What `-i key=value` means, and where a MODEL is asked to run. Pure but for reading the files that are named."""

import base64
import json
import mimetypes
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

FILE_BYTES_MAX = 10_000_000  # beyond it a `data:` URI makes the request too heavy for Replicate: it wants a link then

_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
_MODEL = re.compile(rf"({_NAME})/({_NAME})", re.ASCII)
_VERSION = re.compile(rf"(?:{_NAME}/{_NAME}:)?[A-Za-z0-9]{{1,64}}", re.ASCII)
_DEPLOYMENT = re.compile(rf"deployments/({_NAME})/({_NAME})", re.ASCII)


def target(model: str) -> tuple[str, dict[str, Any]]:
    """The path to post to and what the body holds beside the input. Raises click.BadParameter."""
    if match := _DEPLOYMENT.fullmatch(model):
        return f"/v1/deployments/{match[1]}/{match[2]}/predictions", {}
    if match := _MODEL.fullmatch(model):
        return f"/v1/models/{match[1]}/{match[2]}/predictions", {}
    if _VERSION.fullmatch(model):
        return "/v1/predictions", {"version": model}
    raise click.BadParameter(
        f"{model!r} is no model: it would be owner/name, owner/name:version, a version or deployments/owner/name",
        param_hint="MODEL",
    )


def read_inputs(pairs: Iterable[str]) -> dict[str, Any]:
    """The input object. `key=value` is JSON where it is JSON and text otherwise, `key=@file` the file's content.

    Raises click.BadParameter.
    """
    inputs: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{pair!r} is not key=value or key=@file", param_hint="-i")
        if key in inputs:
            raise click.BadParameter(f"{key!r} is given twice; a list is written {key}='[…, …]'", param_hint="-i")
        inputs[key] = _file(text[1:]) if text.startswith("@") else _value(text)
    return inputs


def _value(text: str) -> Any:
    try:
        value = json.loads(text, parse_constant=_refuse)
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):  # no JSON, or 1e999, which JSON can't tell
        return text
    return value


def _refuse(name: str) -> Any:
    raise ValueError(name)


def _file(name: str) -> str:
    path = Path(name).expanduser()
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise click.BadParameter(f"{name!r} can't be read: {error.strerror}", param_hint="-i") from None
    if len(data) > FILE_BYTES_MAX:
        raise click.BadParameter(
            f"{name!r} is over {FILE_BYTES_MAX // 1_000_000} MB: put it where it has a URL and give that instead",
            param_hint="-i",
        )
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
