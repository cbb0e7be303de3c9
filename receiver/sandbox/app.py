"""The stand-in for Replicate: its API, its signed webhooks, its delivery of files, and its misbehaviour on request.

What it can be made to do wrong stands in `mischief.py`, what can be asked of the sandbox itself in `control.py`.
"""

import asyncio
import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount, Route

from receiver.sandbox import api, control, delivery, webhooks
from receiver.sandbox.catalogue import MODELS
from receiver.sandbox.errors import Problem, problem_response
from receiver.sandbox.gate import Gate
from receiver.sandbox.options import Options
from receiver.sandbox.sandbox import Sandbox


def create_app(options: Options) -> Starlette:
    """The whole sandbox as one ASGI app; its state is `app.state.sandbox`. Lifespan must be on."""
    sandbox = Sandbox(options)
    for model in MODELS:
        sandbox.add_model(model)
    app = Starlette(
        routes=[*_api(), *_files(), *control.routes()],
        exception_handlers={Problem: problem_response},
        lifespan=_lifespan,
    )
    app.router.redirect_slashes = False
    app.add_middleware(Gate, sandbox=sandbox)
    app.state.sandbox = sandbox
    return app


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    sandbox: Sandbox = app.state.sandbox
    await asyncio.to_thread(importlib.import_module, "standardwebhooks")
    async with webhooks.client(sandbox.options.webhook_timeout_s) as client:
        sandbox.client = client
        try:
            yield
        finally:
            await sandbox.stop()


def _api() -> list[BaseRoute]:
    routes = [
        Route("/predictions", api.listing, methods=["GET"]),
        Route("/predictions", api.create, methods=["POST"]),
        Route("/predictions/{id}", api.get, methods=["GET"]),
        Route("/predictions/{id}/cancel", api.cancel, methods=["POST"]),
        Route("/models/{owner}/{name}/predictions", api.create_on_model, methods=["POST"]),
        Route("/deployments/{owner}/{name}/predictions", api.create_on_deployment, methods=["POST"]),
        Route("/webhooks/default/secret", control.signing_secret, methods=["GET"]),
    ]
    return [Mount("/v1", routes=routes)]


def _files() -> list[BaseRoute]:
    return [Route(path, delivery.deliver) for path in ("/{folder}/{key}/{name}", "/plain/{folder}/{key}/{name}")]
