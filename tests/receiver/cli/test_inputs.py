"""What `-i key=value` means and where a MODEL runs."""

import base64

import click
import pytest

from receiver.cli.inputs import FILE_BYTES_MAX, read_inputs, target

VERSION = "5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa"


@pytest.mark.parametrize(
    ("model", "path", "body"),
    [
        ("owner/name", "/v1/models/owner/name/predictions", {}),
        ("black-forest-labs/flux-1.1-pro", "/v1/models/black-forest-labs/flux-1.1-pro/predictions", {}),
        ("deployments/acme/web", "/v1/deployments/acme/web/predictions", {}),
        (f"owner/name:{VERSION}", "/v1/predictions", {"version": f"owner/name:{VERSION}"}),
        (VERSION, "/v1/predictions", {"version": VERSION}),
    ],
)
def test_every_way_to_name_a_model_has_its_route(model, path, body):
    assert target(model) == (path, body)


@pytest.mark.parametrize(
    "model", ["", "/", "a/b/c", "../x", "a/../b", "owner/", "/name", "a b/c", "o/n:", "o/n:1/2", "ö/n", "x\n"]
)
def test_what_is_no_model_is_refused(model):
    with pytest.raises(click.BadParameter, match="is no model"):
        target(model)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a cat", "a cat"),
        ("", ""),
        ("20", 20),
        ("-1.5e3", -1500.0),
        ("true", True),
        ("null", None),
        ('"20"', "20"),
        ("[1, 2]", [1, 2]),
        ('{"a": {"b": []}}', {"a": {"b": []}}),
        ("a=b=c", "a=b=c"),
        ("NaN", "NaN"),
        ("Infinity", "Infinity"),
        ("1e999", "1e999"),
        ("[1", "[1"),
        ("007", "007"),
        ("[" * 100_000, "[" * 100_000),
        ("https://example.com/?a=1", "https://example.com/?a=1"),
    ],
)
def test_a_value_is_json_where_it_is_json_and_text_otherwise(text, value):
    assert read_inputs([f"key={text}"]) == {"key": value}


def test_a_file_becomes_a_data_uri_of_its_type(bare):
    (bare / "photo.png").write_bytes(b"\x89PNG\0")
    (bare / "odd").write_bytes(b"")
    told = read_inputs(["image=@photo.png", "other=@odd"])
    assert told["image"] == "data:image/png;base64," + base64.b64encode(b"\x89PNG\0").decode()
    assert told["other"] == "data:application/octet-stream;base64,"


def test_a_file_too_big_is_refused_and_the_largest_is_not(bare):
    (bare / "largest").write_bytes(b"\0" * FILE_BYTES_MAX)
    (bare / "larger").write_bytes(b"\0" * (FILE_BYTES_MAX + 1))
    assert len(read_inputs(["a=@largest"])["a"]) > FILE_BYTES_MAX
    with pytest.raises(click.BadParameter, match="over 10 MB"):
        read_inputs(["a=@larger"])


@pytest.mark.parametrize(
    ("pairs", "complaint"),
    [
        (["novalue"], "is not key=value"),
        (["=value"], "is not key=value"),
        (["a=1", "a=2"], "given twice"),
        (["a=@missing"], "No such file"),
        (["a=@."], "Is a directory"),
    ],
)
def test_a_wrong_input_is_told_in_a_sentence(pairs, complaint):
    with pytest.raises(click.BadParameter, match=complaint):
        read_inputs(pairs)
