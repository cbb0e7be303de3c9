"""A running service, spoken to over HTTP: where it is, how it is asked, and what its refusals mean."""

import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from receiver.cli.frame import FAILED, WRONG_USAGE, Failure
from receiver.core.errors import Misconfigured
from receiver.runtime import parsing
from receiver.runtime.settings import SETTINGS

CONNECT_S = 5.0  # until a service that is there has taken the connection
ANSWER_S = 90.0  # beyond the longest that the service waits by itself: 60 s, for the feed and for `Prefer: wait`
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1", "[::]": "::1"}  # noqa: S104 - listening everywhere includes here


def service_url(environ: Mapping[str, str]) -> str:
    """`OUTKEEP_URL`, or where the settings have the service listen. Raises Misconfigured."""
    if told := environ.get("OUTKEEP_URL", "").strip():
        url: str = _checked("OUTKEEP_URL", told, parsing.web_url)
        return url
    host = _checked("OUTKEEP_HOST", _setting("host", environ), parsing.host)
    port = _checked("OUTKEEP_PORT", _setting("port", environ), parsing.port)
    host = _ANY.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _setting(field: str, environ: Mapping[str, str]) -> str:
    setting = next(setting for setting in SETTINGS if setting.field == field)
    return environ.get(setting.name, "").strip() or setting.default_text


def _checked(name: str, text: str, parse: Any) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        raise Misconfigured(f"{name} is wrong: {parsing.shown(text)} is not {error}.") from None


def _key_headers(environ: Mapping[str, str]) -> dict[str, str]:
    key = environ.get("OUTKEEP_KEY", "").strip()
    if any(not "\x21" <= character <= "\x7e" for character in key):
        raise Misconfigured("OUTKEEP_KEY is wrong: its value (not shown) is not a key of visible ASCII characters.")
    return {"Authorization": f"Bearer {key}"} if key else {}


class Unreachable(Failure):
    """The service gave no answer, or one that may be better next time."""


class Refused(Failure):
    """The service said no."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status
        self.ends_with = WRONG_USAGE if status == 400 else FAILED  # it is the service that knows what may be asked


class Service:
    """One service. Every method raises Unreachable or Refused with one sentence that says what to do."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.url = service_url(environ)
        self._headers = _key_headers(environ)
        self._client = httpx.AsyncClient(
            headers={"User-Agent": "outkeep", **self._headers},
            timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S),
            trust_env=not parsing.is_loopback(
                urlsplit(self.url).hostname or ""
            ),  # no proxy is between us and ourselves
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def get(self, path: str, **parameters: str | int | None) -> Any:
        """The JSON under a path; parameters that are None are left out."""
        given = {name: value for name, value in parameters.items() if value is not None}
        return await self._ask("GET", path, params=given)

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON that answers a JSON object."""
        content = json.dumps(body, ensure_ascii=True, allow_nan=False).encode("ascii")
        return await self._ask("POST", path, content=content, headers={"Content-Type": "application/json"})

    async def _ask(self, method: str, path: str, **request: Any) -> Any:
        try:
            response = await self._client.request(method, self.url + path, **request)
        except httpx.TransportError as error:
            raise Unreachable(self._unreachable(error)) from None
        except httpx.HTTPError as error:
            raise Unreachable(f"The answer from {self.url} can't be understood ({type(error).__name__}).") from None
        if response.is_success:
            try:
                return response.json()
            except ValueError:
                raise Unreachable(
                    f"There is something at {self.url}, but it is not Outkeep: see OUTKEEP_URL."
                ) from None
        raise self._refusal(response)

    def _unreachable(self, error: httpx.TransportError) -> str:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return f"No service answers at {self.url}: start one with `outkeep serve`, or set OUTKEEP_URL."
        return f"The service at {self.url} broke off the connection or took too long ({type(error).__name__})."

    def _refusal(self, response: httpx.Response) -> Failure:
        if response.status_code == 401:
            wrong = "does not know this key" if self._headers else "asks for a key"
            return Refused(f"The service at {self.url} {wrong}: set OUTKEEP_KEY to one of its API keys.", status=401)
        if response.is_redirect:
            return Refused(
                f"{self.url} answers with a redirect: set OUTKEEP_URL to where it leads.", status=response.status_code
            )
        said = _said(response) or f"it answered {response.status_code}"
        if response.status_code >= 500 or response.status_code == 429:
            return Unreachable(f"The service can't do this now: {said}.")
        return Refused(f"The service refused: {said}.", status=response.status_code)


def _said(response: httpx.Response) -> str:
    """The words of a problem body (RFC 9457), title and detail."""
    try:
        told = response.json()
    except ValueError:
        return ""
    if not isinstance(told, dict):
        return ""
    words = [told[name].strip().rstrip(".") for name in ("title", "detail") if isinstance(told.get(name), str)]
    return ": ".join(dict.fromkeys(word for word in words if word))
