"""Whether we can be reached: on the address where we listen, and under the public URL as Replicate would."""

import httpx

from receiver.runtime import parsing
from receiver.runtime.findings import Finding, Level, failed
from receiver.runtime.settings import Settings

ANSWER_S = 5.0  # Replicate gives a webhook a few seconds, no more
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - listening everywhere includes here
_HEALTHY = {"status": "ok"}


def own_url(settings: Settings) -> str:
    """Where this machine finds our web."""
    host = _EVERYWHERE.get(settings.host, settings.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


async def serves(settings: Settings) -> bool:
    """Whether a service answers where the settings have it listen."""
    answer = await _get(f"{own_url(settings)}/healthz")
    return isinstance(answer, httpx.Response) and _healthy(answer)


async def says_ready(settings: Settings) -> bool:
    """Whether that service can take deliveries."""
    answer = await _get(f"{own_url(settings)}/readyz")
    return isinstance(answer, httpx.Response) and answer.is_success


async def public_url(settings: Settings, *, serving: bool) -> Finding:
    """What Replicate and readers find under `OUTKEEP_PUBLIC_URL`; `serving` says whether we answer locally."""
    url = settings.public_url
    if parsing.is_loopback_url(url) and not settings.asks_for_webhooks:
        says = f"{url} is this machine: no webhook is asked for, open predictions are asked for every 2 s instead."
        mend = "Set OUTKEEP_PUBLIC_URL to an https URL that Replicate can reach."
        return Finding(Level.WARNING, "public url", f"{says} {mend}")
    if not url.startswith("https:") and not parsing.is_loopback_url(settings.replicate_url):
        return failed(
            "public url", f"{url} is not https: put a proxy with TLS in front of us and set OUTKEEP_PUBLIC_URL."
        )
    answer = await _get(f"{url}/healthz")
    if isinstance(answer, httpx.Response) and answer.is_redirect:
        says = f"{url} answers with a redirect, and Replicate follows none: set OUTKEEP_PUBLIC_URL to where it leads."
        return failed("public url", says)
    if isinstance(answer, httpx.Response) and _healthy(answer):
        return Finding(Level.OK, "public url", f"{url} leads to a service, without a redirect.")
    if not serving:
        says = f"{url} could not be tried, since no service runs here: start `outkeep serve` and check again."
        return Finding(Level.WARNING, "public url", says)
    found = f"answers {answer.status_code}" if isinstance(answer, httpx.Response) else f"can't be reached ({answer})"
    return failed("public url", f"{url} {found}: look at its DNS entry, certificate, proxy and firewall.")


async def _get(url: str) -> httpx.Response | str:
    """The answer, or in a word what came instead."""
    try:
        async with httpx.AsyncClient(timeout=ANSWER_S, trust_env=False, follow_redirects=False) as client:
            return await client.get(url)
    except httpx.HTTPError as error:
        return type(error).__name__


def _healthy(answer: httpx.Response) -> bool:
    try:
        return answer.is_success and bool(answer.json() == _HEALTHY)
    except ValueError:
        return False
