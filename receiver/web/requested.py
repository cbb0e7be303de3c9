"""The JSON object that somebody sends us, checked before anything is made of it."""

import asyncio
import json
import math
from typing import Any

from starlette.requests import Request

from receiver.web.bodies import Bodies
from receiver.web.problems import Problem

INLINE_BYTES_MAX = 256 * 1024
"""Longer bodies are parsed in a thread: a millisecond is what everybody else may wait."""

DEPTH_MAX = 100  # levels; inputs have a handful, and what walks through them goes deeper with each


async def json_object(request: Request, bodies: Bodies) -> dict[str, Any]:
    """The body as a JSON object; BodyRefused or Problem (400, 422) otherwise."""
    body = await bodies.read(request.scope["headers"], request.receive)
    if len(body) <= INLINE_BYTES_MAX:
        return _parsed(body)
    return await asyncio.to_thread(_parsed, body)


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        told = json.loads(body, parse_constant=_refuse)
        _check(told)
    except (ValueError, RecursionError):
        raise Problem(400, "Bad request", "The body is not JSON that we can pass on.") from None
    if not isinstance(told, dict):
        raise Problem(422, "Unprocessable entity", "The body has to be a JSON object.")
    return told


def _check(told: Any) -> None:
    """ValueError for what goes too deep, and for numbers that no double holds."""
    level = [told]
    for _ in range(DEPTH_MAX):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
            elif isinstance(value, float) and not math.isfinite(value):
                raise ValueError("not a number that JSON knows")
        if not below:
            return
        level = below
    raise ValueError("too deep")


def _refuse(constant: str) -> Any:
    raise ValueError(constant)
