"""Replicate's API around the predictions: models, versions, examples, hardware, account, collections, search."""

import asyncio
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from receiver.sandbox import bodies, errors, pages
from receiver.sandbox.api import model_of
from receiver.sandbox.mischief import Mischief
from receiver.sandbox.models import Ask, Made, Model, openapi_schema
from receiver.sandbox.play import bake, mint
from receiver.sandbox.predictions import Prediction, whole
from receiver.sandbox.sandbox import ACCOUNT, Sandbox, of
from receiver.sandbox.wire import answer, stamp

BORN_NS = 1_690_000_000_000_000_000  # models are older than the sandbox
LINKS = ("github_url", "paper_url", "license_url", "cover_image_url")
EDITABLE = frozenset({"description", "readme", "github_url", "paper_url", "license_url", "weights_url"})
CREATABLE = EDITABLE | {"owner", "name", "visibility", "hardware", "cover_image_url"}
SORTS = {"sort_by": ("model_created_at", "latest_version_created_at"), "sort_direction": ("asc", "desc")}
SEARCH_ITEMS_MAX = 50
# Recorded in 2023 with the four first; the others from the price list of 2026.
HARDWARE = (
    ("CPU", "cpu"),
    ("Nvidia T4 GPU", "gpu-t4"),
    ("Nvidia A40 GPU", "gpu-a40-small"),
    ("Nvidia A40 (Large) GPU", "gpu-a40-large"),
    ("Nvidia L40S GPU", "gpu-l40s"),
    ("Nvidia A100 (80GB) GPU", "gpu-a100-large"),
    ("Nvidia H100 GPU", "gpu-h100"),
)
COLLECTIONS = {
    "text-to-image": ("Generate images", "Models that make pictures of words", ("flux-schnell", "sdxl", "image")),
    "official": ("Official models", "Always on, with a stable API", ("flux-schnell", "meta-llama-3-8b-instruct")),
}


async def models(request: Request) -> Response:
    for name, allowed in SORTS.items():
        if request.query_params.get(name, allowed[0]) not in allowed:
            told = ", ".join(f'"{value}"' for value in allowed)
            raise errors.invalid((name, "enum", f"must be one of the following: {told}"))
    sandbox = of(request)
    chosen = [model for model in sandbox.models.values() if model.visibility == "public"]
    if request.query_params.get("sort_direction", "desc") == "desc":
        chosen.reverse()
    return await _page(request, chosen)


async def query_models(request: Request) -> Response:
    """QUERY /models, the words as text/plain."""
    words = (await bodies.read_raw(request, bodies.BODY_BYTES_MAX)).decode("utf-8", "replace")
    return await _page(request, matching(of(request), words))


async def search(request: Request) -> Response:
    sandbox, words = of(request), request.query_params.get("query", "")
    limit = request.query_params.get("limit", "20")
    if not words or not limit.isdecimal() or not 1 <= int(limit) <= SEARCH_ITEMS_MAX:
        raise errors.malformed("query is required, and limit must be between 1 and 50")
    found = [
        {"model": await model_json(sandbox, model), "metadata": {"tags": [], "score": 1.0}}
        for model in matching(sandbox, words)[: int(limit)]
    ]
    return answer({"query": words, "models": found, "collections": [], "pages": []})


async def model(request: Request) -> Response:
    return answer(await model_json(of(request), model_of(request)))


async def create_model(request: Request) -> Response:
    body = await bodies.read_body(request, CREATABLE)
    bodies.required(body, "owner", "name", "visibility", "hardware")
    sandbox = of(request)
    if body["owner"] != ACCOUNT:
        raise errors.forbidden()
    if f"{body['owner']}/{body['name']}" in sandbox.models:
        raise errors.invalid(("name", "unique", "A model with that name and owner already exists"))
    if body["visibility"] not in ("public", "private"):
        raise errors.invalid(("visibility", "enum", 'must be one of the following: "public", "private"'))
    made = Model(
        owner=ACCOUNT,
        name=body["name"],
        description=str(body.get("description") or ""),
        make=lambda _ask: Made(),
        output={},
        visibility=body["visibility"],
        links={key: value for key, value in body.items() if key in (*LINKS, "readme")},
        has_version=False,
    )
    sandbox.add_model(made)
    return answer(await model_json(sandbox, made), 201)


async def edit_model(request: Request) -> Response:
    body = await bodies.read_body(request, EDITABLE)
    sandbox, old = of(request), _own_model(request)
    links = dict(old.links) | {key: value for key, value in body.items() if key != "description"}
    changed = replace(old, description=str(body.get("description", old.description)), links=links)
    sandbox.models[changed.full_name] = changed
    return answer(await model_json(sandbox, changed))


async def delete_model(request: Request) -> Response:
    """Only models without versions can be deleted, and only one's own."""
    del of(request).models[_own_model(request).full_name]
    return Response(status_code=204)


async def readme(request: Request) -> Response:
    told = model_of(request)
    text = told.links.get("readme") or f"# {told.full_name}\n\n{told.description}\n"
    return Response(text, media_type="text/plain")


async def examples(request: Request) -> Response:
    found = await example(of(request), model_of(request))
    return answer({"next": None, "previous": None, "results": [] if found is None else [found]})


async def versions(request: Request) -> Response:
    """Empty for official models; some of them answer 404 in reality, as those that hide their schema do here."""
    told = model_of(request)
    if told.hides_schema:
        raise errors.not_found()
    shown = [] if told.official or not told.has_version else [version_json(told)]
    return answer(pages.page(request, of(request).origin, shown, key=lambda version: str(version["id"])))


async def version(request: Request) -> Response:
    told = _version(request)
    return answer(version_json(told))


async def delete_version(request: Request) -> Response:
    """Somebody else's version can't be deleted, and we have none of our own that could."""
    _version(request)
    raise errors.forbidden()


async def hardware(_request: Request) -> Response:
    return answer([{"name": name, "sku": sku} for name, sku in HARDWARE])


async def account(_request: Request) -> Response:
    return answer(account_json())


async def collections(request: Request) -> Response:
    told = [{"name": name, "slug": slug, "description": text} for slug, (name, text, _) in COLLECTIONS.items()]
    return answer(pages.page(request, of(request).origin, told, key=lambda item: item["slug"]))


async def collection(request: Request) -> Response:
    slug, sandbox = request.path_params["slug"], of(request)
    if slug not in COLLECTIONS:
        raise errors.not_found()
    name, text, members = COLLECTIONS[slug]
    found = [await model_json(sandbox, told) for told in list(sandbox.models.values()) if told.name in members]
    return answer({"name": name, "slug": slug, "description": text, "full_description": None, "models": found})


def account_json() -> dict[str, Any]:
    avatar = "https://github.com/replicate.png"
    return {"type": "organization", "username": ACCOUNT, "name": "Sandbox", "avatar_url": avatar, "github_url": None}


def version_json(told: Model) -> dict[str, Any]:
    schema = openapi_schema(told)
    return {"id": told.version, "created_at": stamp(BORN_NS), "cog_version": "0.16.2", "openapi_schema": schema}


async def model_json(sandbox: Sandbox, told: Model) -> dict[str, Any]:
    shown = told.has_version and not told.hides_schema
    return {
        "url": f"{sandbox.origin}/{told.full_name}",
        "owner": told.owner,
        "name": told.name,
        "description": told.description,
        "visibility": told.visibility,
        "is_official": told.official,
        **{link: told.links.get(link) for link in LINKS},
        "run_count": told.run_count,
        "created_at": stamp(BORN_NS),
        "default_example": await example(sandbox, told),
        "latest_version": version_json(told) if shown else None,
    }


async def example(sandbox: Sandbox, told: Model) -> dict[str, Any] | None:
    """A finished prediction with the model's sample input, made when first asked for and never removed."""
    if not told.sample:
        return None
    name = sandbox.name(f"example:{told.full_name}", 0)
    if name not in sandbox.examples:
        shown = Prediction(
            id=name,
            number=0,
            model=told,
            version=told.shown_version,
            input=dict(told.sample),
            created_ns=BORN_NS,
            started_ns=BORN_NS,
            mischief=Mischief(),
            status="succeeded",
            metrics={"predict_time": told.predict_s},
        )
        defaults = {key: schema["default"] for key, schema in told.inputs.items() if "default" in schema}
        ask = Ask(defaults | dict(told.sample), 1, sandbox.rng("example", told.full_name), sandbox.origin)
        output = told.make(ask).output
        await asyncio.to_thread(bake, sandbox, output)
        shown.output = mint(sandbox, shown, output)
        sandbox.examples[name] = shown
    return whole(sandbox.examples[name], sandbox.origin)


def matching(sandbox: Sandbox, words: str) -> list[Model]:
    """Public models that hold every word."""
    wanted = words.lower().split()
    return [
        told
        for told in sandbox.models.values()
        if told.visibility == "public"
        and all(word in f"{told.full_name} {told.description}".lower() for word in wanted)
    ]


async def _page(request: Request, chosen: list[Model]) -> Response:
    sandbox = of(request)
    page = pages.page(request, sandbox.origin, chosen, key=lambda told: told.full_name)
    return answer(page | {"results": [await model_json(sandbox, told) for told in page["results"]]})


def _own_model(request: Request) -> Model:
    told = model_of(request)
    if told.owner != ACCOUNT or told.has_version:
        raise errors.forbidden()
    return told


def _version(request: Request) -> Model:
    told = model_of(request)
    if told.official or of(request).versions.get(request.path_params["id"]) is not told:
        raise errors.not_found()
    return told
