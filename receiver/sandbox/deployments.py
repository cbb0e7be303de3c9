"""Deployments: a name of one's own for a version of a model on some hardware."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from receiver.sandbox import bodies, errors, pages
from receiver.sandbox.library import HARDWARE, account_json
from receiver.sandbox.sandbox import ACCOUNT, of
from receiver.sandbox.wire import answer, stamp

SHAPE = ("hardware", "min_instances", "max_instances")
INSTANCES_MAX = 20


async def deployments(request: Request) -> Response:
    sandbox = of(request)
    told = list(sandbox.deployments.values())
    return answer(pages.page(request, sandbox.origin, told, key=lambda item: str(item["name"])))


async def create_deployment(request: Request) -> Response:
    body = await bodies.read_body(request, frozenset({"name", "model", "version", *SHAPE}))
    bodies.required(body, "name", "model", "version", "hardware")
    sandbox, full_name = of(request), f"{ACCOUNT}/{body['name']}"
    if full_name in sandbox.deployments:
        raise errors.invalid(("name", "unique", "A deployment with that name already exists"))
    release = _release(request, body, {"number": 0, "model": body["model"], "configuration": {}})
    told = {"owner": ACCOUNT, "name": body["name"], "current_release": release}
    sandbox.deployments[full_name] = told
    return answer(told)


async def deployment(request: Request) -> Response:
    return answer(_found(request))


async def edit_deployment(request: Request) -> Response:
    body = await bodies.read_body(request, frozenset({"version", *SHAPE}))
    told = _found(request)
    told["current_release"] = _release(request, body, told["current_release"])
    return answer(told)


async def delete_deployment(request: Request) -> Response:
    told = _found(request)
    del of(request).deployments[f"{told['owner']}/{told['name']}"]
    return Response(status_code=204)


def _found(request: Request) -> dict[str, Any]:
    told = of(request).deployments.get(f"{request.path_params['owner']}/{request.path_params['name']}")
    if told is None:
        raise errors.not_found()
    return told


def _release(request: Request, body: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    """The next release: what the body says, and what the old one said about the rest."""
    sandbox = of(request)
    version = str(body.get("version", old.get("version")))
    model = sandbox.models.get(old["model"])
    if model is None or sandbox.versions.get(version) is not model:
        raise errors.no_such_version()
    shape = {"min_instances": 0, "max_instances": 1} | old["configuration"]
    shape |= {key: body[key] for key in SHAPE if key in body}
    if shape.get("hardware") not in {sku for _name, sku in HARDWARE}:
        raise errors.invalid(("hardware", "enum", "is not a known SKU"))
    for name in ("min_instances", "max_instances"):
        if type(shape[name]) is not int or not 0 <= shape[name] <= INSTANCES_MAX:
            raise errors.invalid((name, "range", f"must be a number from 0 to {INSTANCES_MAX}"))
    return {
        "number": old["number"] + 1,
        "model": model.full_name,
        "version": version,
        "created_at": stamp(sandbox.now_ns()),
        "created_by": account_json(),
        "configuration": shape,
    }
