"""API keys: read from the environment and from a file, found by their text alone."""

import hashlib

import pytest

from receiver.core.errors import Misconfigured
from receiver.runtime.keys import Key, Keys
from receiver.runtime.settings import read

CI_KEY = "ci-key-of-twenty-six-chars"
APP_KEY = "app=key=with=equal=signs=inside"
DIGEST = hashlib.sha256(CI_KEY.encode()).hexdigest()


def load(tmp_path, text=None, **environ):
    if text is not None:
        file = tmp_path / "keys.toml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        environ["OUTKEEP_KEYS_FILE"] = str(file)
    return Keys.load(read(environ))


def entry(**fields):
    lines = {"name": '"ci"', "sha256": f'"{DIGEST}"', "scopes": '["read"]'} | fields
    return "[[keys]]\n" + "".join(f"{name} = {value}\n" for name, value in lines.items() if value is not None)


def test_without_any_key_none_is_required_and_none_is_found(tmp_path):
    keys = load(tmp_path)
    assert not keys.required
    assert keys.find(CI_KEY) is None


def test_a_key_of_the_environment_has_every_scope(tmp_path):
    keys = load(tmp_path, OUTKEEP_API_KEYS=f"app={APP_KEY} other=another-key-of-twenty-chars")
    assert keys.required
    found = keys.find(APP_KEY)
    assert found == Key("app")
    assert all(found.may(scope) for scope in ("read", "create", "admin"))
    assert keys.find("another-key-of-twenty-chars").name == "other"


@pytest.mark.parametrize("presented", ["", "app", APP_KEY + " ", APP_KEY[:-1], APP_KEY.upper(), "ключ", "x" * 100_000])
def test_only_the_exact_text_of_a_key_finds_it(tmp_path, presented):
    assert load(tmp_path, OUTKEEP_API_KEYS=f"app={APP_KEY}").find(presented) is None


def test_a_key_of_the_file_has_the_scopes_and_limits_written_there(tmp_path):
    keys = load(
        tmp_path,
        entry(sha256=f'"{DIGEST.upper()}"', scopes='["read", "create"]', limits="{ requests_per_minute = 60 }"),
        OUTKEEP_API_KEYS=f"app={APP_KEY}",
    )
    found = keys.find(CI_KEY)
    assert found == Key("ci", frozenset(("read", "create")), requests_per_minute=60)
    assert not found.may("admin")
    assert keys.find(APP_KEY).name == "app"


def test_admin_holds_every_scope(tmp_path):
    assert load(tmp_path, entry(scopes='["admin"]')).find(CI_KEY).may("create")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "[[keys]]"),
        ("keys = []", "[[keys]]"),
        ('keys = "x"', "[[keys]]"),
        (entry() + "\n[other]\n", "[[keys]]"),
        ("keys = [1]", "needs a name"),
        (entry(name=None), "needs a name"),
        (entry(name='"a b"'), "needs a name"),
        (entry(sha256='"abc"'), "64 hex digits"),
        (entry(sha256=None), "64 hex digits"),
        (entry(scopes=None), "scopes of 'ci'"),
        (entry(scopes="[]"), "scopes of 'ci'"),
        (entry(scopes='["write"]'), "scopes of 'ci'"),
        (entry(scopes="[[1]]"), "scopes of 'ci'"),
        (entry(key='"oops"'), "has 'key'"),
        (entry(limits="3"), "limits of 'ci'"),
        (entry(limits="{ bytes = 3 }"), "limits of 'ci'"),
        (entry(limits="{ requests_per_minute = 0 }"), "limits of 'ci'"),
        (entry(limits="{ requests_per_minute = true }"), "limits of 'ci'"),
        (entry() + entry(name='"other"'), "there twice"),
        (entry() + entry(sha256=f'"{"a" * 64}"'), "there twice"),
        ("[[keys", "not TOML"),
        (b"\xff", "not TOML"),
    ],
)
def test_a_file_that_makes_no_sense_stops_the_start_in_one_sentence(tmp_path, text, sentence):
    with pytest.raises(Misconfigured, match=r"^OUTKEEP_KEYS_FILE is wrong: ") as caught:
        load(tmp_path, text)
    assert sentence in str(caught.value)
    assert str(caught.value).endswith(".")


def test_a_file_that_is_not_there_stops_the_start(tmp_path):
    with pytest.raises(Misconfigured, match="can't be read"):
        load(tmp_path, OUTKEEP_KEYS_FILE=str(tmp_path / "none.toml"))


def test_two_names_for_one_key_are_refused_without_showing_it(tmp_path):
    with pytest.raises(Misconfigured, match="two names have the same key") as caught:
        load(tmp_path, OUTKEEP_API_KEYS=f"a={APP_KEY} b={APP_KEY}")
    assert APP_KEY not in str(caught.value)
