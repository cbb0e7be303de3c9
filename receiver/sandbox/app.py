"""The stand-in for Replicate: its API, its signed webhooks, its delivery of files, and its misbehaviour on request.

What it can be made to do wrong stands in `mischief.py`, what can be asked of the sandbox itself in `control.py`.
"""

import asyncio
import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route, Router

from receiver.sandbox import api, control, delivery, deployments, library, streams, uploads, webhooks
from receiver.sandbox.catalogue import MODELS
from receiver.sandbox.errors import Problem, problem_response
from receiver.sandbox.gate import Gate
from receiver.sandbox.options import Options
from receiver.sandbox.sandbox import Sandbox

API = (
    ("GET", "/predictions", api.listing),
    ("POST", "/predictions", api.create),
    ("GET", "/predictions/{id}", api.get),
    ("POST", "/predictions/{id}/cancel", api.cancel),
    ("POST", "/models/{owner}/{name}/predictions", api.create_on_model),
    ("POST", "/deployments/{owner}/{name}/predictions", api.create_on_deployment),
    ("GET", "/trainings", api.listing),
    ("GET", "/trainings/{id}", api.get),
    ("POST", "/trainings/{id}/cancel", api.cancel),
    ("GET", "/models", library.models),
    ("POST", "/models", library.create_model),
    ("QUERY", "/models", library.query_models),
    ("GET", "/models/{owner}/{name}", library.model),
    ("PATCH", "/models/{owner}/{name}", library.edit_model),
    ("DELETE", "/models/{owner}/{name}", library.delete_model),
    ("GET", "/models/{owner}/{name}/readme", library.readme),
    ("GET", "/models/{owner}/{name}/examples", library.examples),
    ("GET", "/models/{owner}/{name}/versions", library.versions),
    ("GET", "/models/{owner}/{name}/versions/{id}", library.version),
    ("DELETE", "/models/{owner}/{name}/versions/{id}", library.delete_version),
    ("POST", "/models/{owner}/{name}/versions/{id}/trainings", api.train),
    ("GET", "/deployments", deployments.deployments),
    ("POST", "/deployments", deployments.create_deployment),
    ("GET", "/deployments/{owner}/{name}", deployments.deployment),
    ("PATCH", "/deployments/{owner}/{name}", deployments.edit_deployment),
    ("DELETE", "/deployments/{owner}/{name}", deployments.delete_deployment),
    ("GET", "/files", uploads.uploads),
    ("POST", "/files", uploads.upload),
    ("GET", "/files/{id}", uploads.uploaded),
    ("DELETE", "/files/{id}", uploads.delete_upload),
    ("GET", "/files/{id}/download", uploads.download),
    ("GET", "/hardware", library.hardware),
    ("GET", "/account", library.account),
    ("GET", "/collections", library.collections),
    ("GET", "/collections/{slug}", library.collection),
    ("GET", "/search", library.search),
    ("GET", "/webhooks/default/secret", control.signing_secret),
)


def create_app(options: Options) -> Starlette:
    """The whole sandbox as one ASGI app; its state is `app.state.sandbox`. Lifespan must be on."""
    sandbox = Sandbox(options)
    for model in MODELS:
        sandbox.add_model(model)
    app = Starlette(
        routes=[*_api(), *_files(), *control.routes()],
        exception_handlers={Problem: problem_response, HTTPException: _unlisted},
        lifespan=_lifespan,
    )
    app.router.redirect_slashes = False
    app.add_middleware(Gate, sandbox=sandbox)
    app.state.sandbox = sandbox
    return app


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    sandbox: Sandbox = app.state.sandbox
    await asyncio.to_thread(importlib.import_module, "svix.webhooks")
    async with webhooks.client(sandbox.options.webhook_timeout_s) as client:
        sandbox.client = client
        try:
            yield
        finally:
            await sandbox.stop()


def _api() -> list[BaseRoute]:
    routes = [Route(path, answerer, methods=[method]) for method, path, answerer in API]
    return [Mount("/v1", app=Router(routes, redirect_slashes=False))]


def _files() -> list[BaseRoute]:
    return [
        Route("/stream/{key}", streams.stream, methods=["GET"]),
        Route("/p/{id}", control.page, methods=["GET"]),
        *(Route(path, delivery.deliver) for path in ("/{folder}/{key}/{name}", "/plain/{folder}/{key}/{name}")),
    ]


async def _unlisted(_request: Request, error: Exception) -> Response:
    """404 and 405 in the API's own shape."""
    assert isinstance(error, HTTPException)
    return Problem(error.status_code, {"detail": error.detail, "status": error.status_code}).response()
