"""`GET /`: the newest predictions and what was kept of them, as pages without any script.

Prompts, errors and model names are hostile text: everything is escaped, and the policy allows nothing but our own
pictures, sounds and films and this page's own style sheet.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from receiver.core.clock import iso
from receiver.core.output import OUTPUTS_MAX, Output
from receiver.core.prediction import Prediction
from receiver.core.telling import url, urls
from receiver.runtime.house import House
from receiver.web.files import is_shown
from receiver.web.parameters import ID
from receiver.web.problems import not_found

PREDICTIONS = 40  # on the page; the API has the rest
FILES_MAX = 8  # shown of each prediction among others
TEXT_MAX = 240  # characters of a prompt or an error

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--dim:#888}
body{font:15px/1.45 system-ui,sans-serif;margin:0 auto;max-width:76rem;padding:1.5rem}
header{display:flex;gap:1.25rem;align-items:baseline;flex-wrap:wrap;margin-bottom:1rem}
h1{font-size:1.3rem;margin:0}h1 a{color:inherit;text-decoration:none}h2{font-size:1rem;margin:0;overflow-wrap:anywhere}
ul{list-style:none;padding:0;display:grid;grid-template-columns:repeat(auto-fill,minmax(20rem,1fr));gap:1rem;align-items:start}
li{border:1px solid var(--line);border-radius:.6rem;padding:.9rem;display:grid;gap:.5rem;align-content:start}
p,blockquote{margin:0;overflow-wrap:anywhere}blockquote{border-left:3px solid var(--line);padding-left:.7rem}
.dim{color:var(--dim);font-size:.85rem}.lost{color:#c33}
.files{display:grid;grid-template-columns:repeat(auto-fit,minmax(7rem,1fr));gap:.4rem}
img,video{width:100%;border-radius:.35rem;display:block}audio{width:100%}
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()


@dataclass(frozen=True, slots=True)
class Page:
    """The endpoint."""

    house: House

    def routes(self) -> list[Route]:
        return [
            Route("/", self.newest, methods=["GET"]),
            Route("/ui/predictions/{id}", self.one, methods=["GET"]),
        ]

    async def newest(self, _: Request) -> Response:
        known = (await self.house.ledger.predictions(limit=PREDICTIONS)).items
        return await self._page(known, files=FILES_MAX)

    async def one(self, request: Request) -> Response:
        """The page that `urls.web` of a prediction names."""
        prediction_id = request.path_params["id"]
        known = await self.house.ledger.prediction(prediction_id) if ID.fullmatch(prediction_id) else None
        if known is None:
            raise not_found("There is no prediction of this id in the ledger.")
        return await self._page([known], files=OUTPUTS_MAX)

    async def _page(self, known: Sequence[Prediction], *, files: int) -> Response:
        outputs = await self.house.ledger.outputs_of([prediction.id for prediction in known])
        cards = "".join(self._card(prediction, outputs.get(prediction.id, []), files) for prediction in known)
        public_url = escape(self.house.links.public_url)
        text = (
            '<!doctype html><html lang="en"><meta charset="utf-8"><title>Outkeep</title>'
            '<meta name="viewport" content="width=device-width"><meta name="referrer" content="no-referrer">'
            f'<style>{_STYLE}</style><header><h1><a href="{public_url}/">Outkeep</a></h1>'
            f'<a href="{public_url}/api/predictions">predictions as JSON</a>'
            f'<a href="{public_url}/events">events</a></header><main>'
            f"{f'<ul>{cards}</ul>' if cards else '<p>Nothing is kept yet: create a prediction.</p>'}</main></html>"
        )
        headers = {
            "Cache-Control": "no-store",
            "Content-Security-Policy": self._policy(),
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }
        # A lone surrogate in a prompt can't be written as UTF-8.
        return Response(text.encode("utf-8", "replace"), headers=headers, media_type="text/html")

    def _policy(self) -> str:
        public = urlsplit(self.house.links.public_url)
        media = f"'self' {public.scheme}://{public.netloc}"
        return (
            f"default-src 'none'; img-src {media}; media-src {media}; style-src 'sha256-{_STYLE_HASH}';"
            " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )

    def _card(self, prediction: Prediction, outputs: Sequence[Output], files: int) -> str:
        shown = "".join(self._file(output) for output in outputs[:files])
        more, links = len(outputs) - files, self.house.links
        raw = f'<a href="{escape(links.public_url)}/api/predictions/{prediction.id}">JSON</a>'
        prompt, words = _prompt(prediction), _words(prediction, outputs)
        lines = [
            f'<h2><a href="{escape(urls(prediction.id, links)["web"])}">{_text(_title(prediction))}</a></h2>',
            f'<p class="dim">{_text(_state(prediction))} · {_moment(prediction.created_ms)} · {raw}</p>',
            f"<p>{_text(prompt)}</p>" if prompt else "",
            f'<div class="files">{shown}</div>' if shown else "",
            f"<blockquote>{_text(words)}</blockquote>" if words else "",
            f'<p class="dim">and {more} more</p>' if more > 0 else "",
            f'<p class="lost">{_text(prediction.told["error"])}</p>' if prediction.told.get("error") else "",
        ]
        return f"<li>{''.join(lines)}</li>"

    def _file(self, output: Output) -> str:
        link, path = escape(url(output, self.house.links) or ""), escape(output.path)
        if output.stored is None:
            kind = "lost" if output.reason else "dim"
            return f'<p class="{kind}">{path}: {_text(_absence(output))}</p>'
        family = output.stored.content_type.partition("/")[0]
        if not is_shown(output.stored.content_type):
            return f'<p><a href="{link}">{escape(output.stored.name)}</a></p>'
        if family == "image":
            return f'<a href="{link}"><img src="{link}" alt="{path}" loading="lazy"></a>'
        return f'<{family} src="{link}" controls preload="metadata"></{family}>'


def _title(prediction: Prediction) -> Any:
    return prediction.told.get("model") or prediction.id


def _state(prediction: Prediction) -> str:
    kept = "archived" if prediction.archived_ms is not None else "not archived yet"
    return kept if (prediction.status, kept) == ("succeeded", "archived") else f"{prediction.status}, {kept}"


def _absence(output: Output) -> str:
    """Why there is no file to show."""
    if output.reason:
        return f"lost ({output.reason})"
    if output.held_by or not output.attempts:
        return output.state  # its time does not run out, or it was not tried yet
    return f"{output.state}, attempts: {output.attempts}, vanishes {_moment(output.expires_ms)}"


def _prompt(prediction: Prediction) -> Any:
    given = prediction.told.get("input")
    return given.get("prompt", "") if isinstance(given, dict) else ""


def _words(prediction: Prediction, outputs: Sequence[Output]) -> str:
    """What came of a prediction that made no files: tokens put together, anything else as JSON."""
    told = prediction.told.get("output")
    if told is None or outputs:
        return ""
    if isinstance(told, list) and all(isinstance(part, str) for part in told):
        return "".join(told)
    return told if isinstance(told, str) else json.dumps(told, ensure_ascii=False)


def _moment(at_ms: int) -> str:
    """`2026-11-22 08:00 UTC`."""
    return f"{iso(at_ms)[:16].replace('T', ' ')} UTC"


def _text(value: Any) -> str:
    """The beginning of any value, escaped."""
    text = str(value)
    return escape(text if len(text) <= TEXT_MAX else text[: TEXT_MAX - 1] + "…")
