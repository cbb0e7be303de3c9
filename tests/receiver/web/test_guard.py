"""Who may come in: with keys by key and scope, without keys from this machine alone."""

import hashlib

import pytest

from receiver.runtime.keys import Key, Keys
from receiver.web.guard import Guard, is_keyless, is_replicates, scope_of
from receiver.web.problems import Problem
from tests.receiver.web.conftest import KEY, signed

OTHER = "another-key-of-26-chars-xx"
LINK = "abcdefghijklmnopqrstuv"
KEYLESS = [
    f"/files/{LINK}/output.webp",
    "/streams/x",
    f"/shared/{LINK}",
    "/schemas/output.archived/1.json",
    "/ui/login",
    "/ui/static/app.css",
    "/healthz",
    "/readyz",
]
KEYED = [
    "/",
    "/metrics",
    "/events",
    "/api/predictions",
    "/api/predictions/p1",
    "/api/deliveries",
    "/api/outputs",
    "/v1/predictions",
    "/predictions",
    "/v1/v1/models",
    "/ui/predictions/p1",
    "/ui/static",
    "/files/short/output.webp",
    f"/files/{LINK}",
    f"/files/{LINK}/a/b",
    f"/files/{LINK}x/output.webp",
    "/healthz/x",
    "/webhooks",
    "/nothing",
]


def guard(*keys, public_url="http://127.0.0.1:8080", clock=lambda: 0.0):
    known = {hashlib.sha256(text.encode()).hexdigest(): key for text, key in keys}
    return Guard(Keys(known), public_url, clock)


def admit(watching, *headers, method="GET", path="/api/predictions", port=8080):
    return watching.admit(method, path, [(b"host", b"127.0.0.1:8080"), *headers], port=port)


def bearer(key, scheme="Bearer"):
    return (b"authorization", f"{scheme} {key}".encode())


def status_of(watching, *headers, **kwargs):
    try:
        admit(watching, *headers, **kwargs)
    except Problem as problem:
        return problem.status
    return 200


@pytest.mark.parametrize("path", KEYLESS)
def test_these_routes_need_no_key(path):
    assert is_keyless("GET", path)
    assert status_of(guard((KEY, Key("app"))), path=path) == 200


@pytest.mark.parametrize("path", KEYED)
def test_everything_else_asks_for_a_key(path):
    watching = guard((KEY, Key("app")))
    assert status_of(watching, path=path) == 401
    assert status_of(watching, bearer(KEY), path=path) == 200


def test_writing_to_a_permanent_link_asks_for_a_key():
    assert status_of(guard((KEY, Key("app"))), path=KEYLESS[0], method="PUT") == 401


@pytest.mark.parametrize(
    "header",
    [
        bearer(OTHER),
        bearer(KEY + "x"),
        (b"authorization", KEY.encode()),
        (b"authorization", b"Basic YTpi"),
        (b"authorization", b""),
        bearer(KEY, "Token"),
        (b"cookie", f"key={KEY}".encode()),
    ],
)
def test_what_is_no_key_of_ours_is_401(header):
    assert status_of(guard((KEY, Key("app"))), header) == 401


def test_two_authorizations_are_none():
    assert status_of(guard((KEY, Key("app"))), bearer(KEY), bearer(KEY)) == 401


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "Token", "token"])
def test_replicates_clients_may_say_token(scheme):
    assert admit(guard((KEY, Key("app"))), bearer(KEY, scheme), path="/v1/predictions").name == "app"


def test_errors_have_the_shape_of_the_family():
    watching = guard((KEY, Key("app")))
    with pytest.raises(Problem) as ours:
        admit(watching)
    assert ours.value.body["status"] == 401
    assert ours.value.headers == {"WWW-Authenticate": "Bearer"}
    with pytest.raises(Problem) as theirs:
        admit(watching, path="/v1/predictions")
    assert theirs.value.body == {
        "title": "Unauthenticated",
        "detail": "You did not pass a valid authentication token",
        "status": 401,
    }


def test_scopes_decide_what_a_key_may():
    watching = guard((KEY, Key("reader", frozenset(("read",)))), (OTHER, Key("maker", frozenset(("create",)))))
    assert status_of(watching, bearer(KEY)) == 200
    assert status_of(watching, bearer(KEY), method="POST", path="/v1/predictions") == 403
    assert status_of(watching, bearer(OTHER)) == 403
    assert status_of(watching, bearer(OTHER), method="POST", path="/predictions") == 200
    assert status_of(watching, bearer(OTHER), method="POST", path="/v1/models/o/n/predictions") == 200
    assert status_of(watching, bearer(OTHER), method="POST", path="/v1/predictions/p1/cancel") == 200
    assert status_of(watching, bearer(OTHER), method="DELETE", path="/v1/models/o/n") == 403


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/v1/predictions", "read"),
        ("HEAD", "/events", "read"),
        ("POST", "/deployments/o/n/predictions", "create"),
        ("POST", "/v1/files", "create"),
        ("POST", "/v1/v1/files", "create"),
        ("DELETE", "/v1/files/f1", "admin"),
        ("POST", "/v1/models", "admin"),
        ("POST", "/v1/models/files", "admin"),
        ("PATCH", "/v1/deployments/o/n", "admin"),
        ("POST", "/api/predictions", "admin"),
    ],
)
def test_each_request_needs_one_scope(method, path, scope):
    assert scope_of(method, path) == scope


def test_a_limit_counts_the_last_minute():
    now = [0.0]
    watching = guard((KEY, Key("app", requests_per_minute=2, predictions_per_minute=1)), clock=lambda: now[0])
    assert status_of(watching, bearer(KEY), method="POST", path="/v1/predictions") == 200
    now[0] = 20.0
    with pytest.raises(Problem) as caught:
        admit(watching, bearer(KEY), method="POST", path="/v1/predictions")
    assert caught.value.status == 429
    assert caught.value.headers == {"Retry-After": "40"}
    assert caught.value.body["retry_after"] == 40
    assert status_of(watching, bearer(KEY)) == 429
    now[0] = 60.0
    assert status_of(watching, bearer(KEY)) == 200


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8080", "localhost:8080", "LOCALHOST:8080", "[::1]:8080", "127.9.9.9:8080", "a.localhost:8080"]
)
def test_without_keys_this_machine_is_let_in_by_its_own_names(host):
    assert guard().admit("GET", "/", [(b"host", host.encode())], port=8080) is None


@pytest.mark.parametrize(
    "hosts",
    [
        ["evil.example"],
        ["evil.example:8080"],
        ["127.0.0.1:9999"],
        ["127.0.0.1"],
        ["localhost.evil.example:8080"],
        ["127.0.0.1:8080@evil.example"],
        ["[::1"],
        ["127.0.0.1:8080", "127.0.0.1:8080"],
        [],
        [""],
        ["2130706433:8080"],
    ],
)
def test_without_keys_another_host_is_refused(hosts):
    with pytest.raises(Problem) as caught:
        guard().admit("GET", "/", [(b"host", host.encode()) for host in hosts], port=8080)
    assert caught.value.status == 403


def test_the_public_urls_own_host_is_ours():
    watching = guard(public_url="http://localhost:9000/outkeep")
    assert watching.admit("GET", "/", [(b"host", b"localhost:9000")], port=8080) is None
    assert guard(public_url="https://localhost").admit("GET", "/", [(b"host", b"localhost:443")], port=8080) is None
    assert guard().admit("GET", "/", [(b"host", b"127.0.0.1:1")], port=None) is None


@pytest.mark.parametrize(
    "header",
    [
        (b"forwarded", b"for=1.2.3.4"),
        (b"x-forwarded-for", b"1.2.3.4"),
        (b"x-forwarded-host", b""),
        (b"x-forwarded-anything", b"x"),
        (b"origin", b"https://evil.example"),
        (b"origin", b"null"),
        (b"origin", b"http://127.0.0.1:3000"),
        (b"origin", b"file://127.0.0.1:8080"),
        (b"sec-fetch-site", b"cross-site"),
        (b"sec-fetch-site", b"same-site"),
    ],
)
def test_without_keys_a_proxy_or_a_foreign_page_is_refused_but_for_keyless_routes(header):
    watching = guard()
    assert status_of(watching, header) == 403
    assert status_of(watching, header, path="/v1/predictions", method="POST") == 403
    assert status_of(watching, header, path="/healthz") == 200
    assert status_of(watching, header, path=KEYLESS[0]) == 200


@pytest.mark.parametrize(
    "header",
    [
        bearer("anything"),
        (b"origin", b"http://127.0.0.1:8080"),
        (b"origin", b"http://localhost:8080"),
        (b"sec-fetch-site", b"same-origin"),
        (b"sec-fetch-site", b"none"),
    ],
)
def test_without_keys_our_own_pages_and_any_authorization_are_fine(header):
    assert status_of(guard(), header) == 200


def test_replicates_paths_are_told_from_ours():
    assert is_replicates("/v1/anything")
    assert is_replicates("/predictions/x")
    assert not is_replicates("/api/predictions")
    assert not is_replicates("/v1x")


async def test_a_service_without_keys_serves_its_own_machine_only(build):
    site = await build(keyless=True, OUTKEEP_PORT="0")
    assert (await site.get("/api/predictions")).status_code == 200
    assert (await site.get("/api/predictions", headers={"Authorization": "Bearer nonsense"})).status_code == 200
    assert (await site.get("/api/predictions", headers={"Host": "evil.example"})).status_code == 403
    assert (await site.get("/", headers={"X-Forwarded-For": "1.2.3.4"})).status_code == 403
    answer = await site.post(
        "/webhooks/replicate",
        content=b"{}",
        headers=signed(b"{}") | {"Host": "x.example", "X-Forwarded-For": "1.2.3.4"},
    )
    assert answer.status_code == 200


async def test_a_service_with_keys_tells_strangers_nothing(site):
    site.client.headers.pop("authorization")
    for path in KEYED:
        answer = await site.get(path)
        assert answer.status_code == 401, path
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["title"] == "Unauthenticated"
        assert answer.headers["cache-control"] == "no-store"


async def test_with_keys_a_proxy_in_front_is_welcome(site):
    answer = await site.get("/api/predictions", headers={"Host": "x.example", "X-Forwarded-For": "1.2.3.4"})
    assert answer.status_code == 200
