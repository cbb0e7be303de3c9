import base64
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.core import clock, redact, retry
from receiver.core.files import REFUSED, FileRule, is_data_uri, schema_files
from receiver.core.output import OUTPUTS_MAX, TOO_MANY, files, leaves, replace, segment, without_files


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2023-09-08T16:19:34.765994Z", 1_694_189_974_765),
        ("2024-04-22T11:15:15.329Z", 1_713_784_515_329),
        ("2024-04-22T11:15:15Z", 1_713_784_515_000),
        ("2024-04-22T13:15:15.12345678+02:00", 1_713_784_515_123),
        ("2024-04-22T09:45:15.1-0130", 1_713_784_515_100),
        ("2024-04-22 11:15:15", 1_713_784_515_000),
        ("1960-01-01T00:00:00Z", None),
        ("2024-02-31T00:00:00Z", None),
        ("yesterday", None),
        ("٢٠٢٤-04-22T11:15:15Z", None),
        (None, None),
        (17, None),
    ],
)
def test_timestamps_are_read_as_replicate_writes_them(text, moment):
    assert clock.timestamp_ms(text) == moment


@given(st.integers(0, 4_000_000_000_000))
def test_a_moment_survives_being_written_and_read(moment_ms):
    assert clock.timestamp_ms(clock.iso(moment_ms)) == moment_ms
    assert clock.day(moment_ms) == clock.iso(moment_ms)[:10].replace("-", "/")


def test_no_moment_is_written_as_none():
    assert clock.iso_or_none(None) is None
    assert clock.iso_or_none(0) == "1970-01-01T00:00:00.000Z"


@given(st.integers(1, 60), st.floats(0, 1, exclude_max=True))
def test_gaps_grow_up_to_the_cap(attempts, chance):
    gap = retry.gap_ms(attempts, chance)
    assert gap == pytest.approx(chance * min(60_000, 500 * 2 ** (attempts - 1)), abs=1)


def test_what_the_other_side_asks_for_is_the_least_up_to_a_cap():
    assert retry.gap_ms(1, 0.0, asked_s=7) == 7000
    assert retry.gap_ms(1, 0.0, asked_s=7000) == 60_000
    assert retry.gap_ms(1, 0.0, asked_s=7000, asked_s_max=600) == 600_000
    assert retry.gap_ms(9, 0.5, asked_s=7, asked_s_max=600) == 30_000


def test_a_long_text_of_any_shape_is_searched_in_a_moment():
    began = time.process_time()
    for shape in ("a.", "a://b", "a:b@", "https://a:", "Bearer ", "Bearer", "?sig=", "r8_", "x" * 99 + "\n"):
        redact.redact_text("x://" + shape * (300_000 // len(shape)))
    assert time.process_time() - began < 5


@pytest.mark.parametrize("gap", [" ", "\n", "  ", "\t"])
def test_a_secret_is_found_wherever_it_stands_in_a_long_text(gap):
    for secret in (
        "r8_0123456789abcdef",
        "Bearer   0123456789abcdef",
        "https://me:hunter2@x.example",
        "Token 0123456789a",
    ):
        text = gap.join([secret] * 20_000)
        told = redact.redact_text(text)
        assert told.count("[redacted]") == 20_000
        assert "0123456789a" not in told
        assert "hunter2" not in told


def test_secrets_of_every_kind_are_taken_out_and_the_rest_stays():
    value = {
        "prompt": "use r8_0123456789abcdef please",
        "image": "https://b.s3.amazonaws.com/x.png?X-Amz-Signature=abc123&X-Amz-Date=1",
        "db": "postgresql://me:hunter2@db/x",
        "header": "Bearer abcdefghijkl",
        "nested": [{"Api-Key": "kkkkkkkk"}],
        "seed": 7,
        "file": "data:text/plain,token=abc",
    }
    told = redact.redact(value)
    assert told["prompt"] == "use [redacted] please"
    assert told["image"] == "https://b.s3.amazonaws.com/x.png?X-Amz-Signature=[redacted]&X-Amz-Date=1"
    assert told["db"] == "postgresql://[redacted]@db/x"
    assert told["header"] == "Bearer [redacted]"
    assert told["nested"] == [{"Api-Key": "[redacted]"}]
    assert (told["seed"], told["file"]) == (7, "data:text/plain,token=abc")


RULE = FileRule(lambda url: "replicate.delivery" in url)


def test_paths_say_where_a_file_stands():
    url = "https://replicate.delivery/x"
    output = {"frames": [{"image": url, "n": 1}], "a b": url, "t": "see https://replicate.delivery/x for more"}
    assert [found.path for found in files(output, RULE)] == ["output.frames.0.image", f"output.{segment('a b')}"]
    assert segment("a b").startswith("~")
    assert len(segment("a b")) == 17


def test_a_string_is_a_file_as_a_whole_or_not_at_all():
    assert [found.path for found in files("data:image/png;base64,aGk=", RULE)] == ["output"]
    assert files("data: the truth, at last", RULE) == ()
    assert files("ftp://replicate.delivery/x", RULE) == ()
    assert is_data_uri("DATA:,x")
    assert not is_data_uri("data:" + "x" * 600 + ",")


@pytest.mark.parametrize(
    "text",
    [
        "http://replicate.delivery/x.png",
        "https://pbxt.replicate.delivery:8443/x.png",
        "https://who@replicate.delivery/x.png",
        "HTTPS://Replicate.Delivery./x.png",
        "https://replicate.delivery?x",
        "https://replicate.delivery",
    ],
)
def test_a_link_of_replicates_that_may_not_be_fetched_is_a_lost_file_and_never_text(text):
    strict = FileRule(lambda _url: False)
    assert [found.lost for found in files({"a": text}, strict)] == [REFUSED]
    assert not strict.is_foreign(text)


@pytest.mark.parametrize(
    "text",
    ["https://replicate.delivery.example/x", "https://notreplicate.delivery/x", "https://replicate.delivery/x is gone"],
)
def test_what_only_looks_like_a_link_of_replicates_is_text(text):
    assert files(text, FileRule(lambda _url: False)) == ()


def test_the_same_url_in_two_places_is_two_files():
    assert len(files(["https://replicate.delivery/x"] * 2, RULE)) == 2


def test_beyond_the_cap_one_lost_file_stands_for_all():
    output = ["https://replicate.delivery/x"] * (OUTPUTS_MAX + 5)
    found = files(output, RULE)
    assert [item.lost for item in found] == [None] * OUTPUTS_MAX + [TOO_MANY]
    assert found[-1].path == f"output.{OUTPUTS_MAX}"
    assert without_files({"a": output}, RULE) == {"a": [None] * (OUTPUTS_MAX + 5)}


def test_presigned_urls_in_what_a_model_wrote_open_nothing_and_the_rest_stays():
    text = "see https://b.s3.amazonaws.com/x?X-Amz-Date=1&X-Amz-Signature=abc12345&v=2 and r8_0123456789abcdef"
    assert redact.redact_presigned({"a": [text, 3, "https://x.example/?token=12345678"]}) == {
        "a": [text.replace("abc12345", "[redacted]"), 3, "https://x.example/?token=12345678"]
    }
    assert redact.redact_presigned("data:text/plain,https://x?sig=1") == "data:text/plain,https://x?sig=1"


JSON = st.recursive(
    st.one_of(st.none(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=4)),
    max_leaves=12,
)


@given(JSON)
def test_every_leaf_has_its_own_path_and_can_be_replaced_there(output):
    places = list(leaves(output))
    assert len({path for path, _ in places}) == len(places)
    marked = replace(output, {path: index for index, (path, _) in enumerate(places)})
    assert [leaf for _, leaf in leaves(marked)] == list(range(len(places)))
    assert replace(output, {}) == output


def test_the_schema_tells_files_through_references_lists_and_objects():
    openapi = {
        "components": {
            "schemas": {
                "Output": {"allOf": [{"$ref": "#/components/schemas/Page"}]},
                "Page": {
                    "type": "object",
                    "properties": {
                        "images": {"type": "array", "items": {"type": "string", "format": "uri"}},
                        "title": {"type": "string"},
                        "self": {"$ref": "#/components/schemas/Page"},
                    },
                    "additionalProperties": {"type": "string", "format": "uri"},
                },
            }
        }
    }
    output = {"images": ["u", "v"], "title": "t", "other": "w", "self": {"images": ["x"], "self": {}}}
    paths = {"output.images.0", "output.images.1", "output.other", "output.self.images.0"}
    assert schema_files(output, openapi) == paths


@pytest.mark.parametrize("schema", [{}, {"components": []}, {"components": {"schemas": {"Output": 7}}}])
def test_a_schema_that_makes_no_sense_names_no_files(schema):
    assert schema_files(["x"], schema) == frozenset()


def test_a_schema_that_points_at_itself_comes_to_an_end():
    loop = {"components": {"schemas": {"Output": {"$ref": "#/components/schemas/Output"}}}}
    assert schema_files("x", loop) == frozenset()


def test_data_uris_with_parameters_are_files():
    assert is_data_uri(
        "data:image/svg+xml;charset=utf-8;base64," + base64.b64encode(random.Random(1).randbytes(9)).decode()
    )
