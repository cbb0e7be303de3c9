"""Which part of a file a request wants."""

import pytest

from receiver.web.ranges import Part, Unsatisfiable, part, unchanged

ETAG = '"abc"'


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("bytes=0-", Part(0, 10)),
        ("bytes=0-0", Part(0, 1)),
        ("bytes=2-4", Part(2, 3)),
        ("Bytes=2-4", Part(2, 3)),
        ("bytes=9-", Part(9, 1)),
        ("bytes=5-99", Part(5, 5)),
        ("bytes=-3", Part(7, 3)),
        ("bytes=-99", Part(0, 10)),
        ("bytes= 2-4 ", Part(2, 3)),
        (None, None),
        ("", None),
        ("bytes=-", None),
        ("bytes=4-2", None),
        ("bytes=0-1,3-4", None),
        ("items=0-1", None),
        ("bytes=a-b", None),
        ("bytes=²-", None),
        ("bytes=" + "9" * 30 + "-", None),
    ],
)
def test_a_range_is_a_part_and_what_is_none_means_the_whole(wanted, expected):
    assert part(wanted, None, etag=ETAG, size=10) == expected


@pytest.mark.parametrize(
    ("wanted", "size"), [("bytes=10-", 10), ("bytes=10-20", 10), ("bytes=-0", 10), ("bytes=0-", 0), ("bytes=-1", 0)]
)
def test_a_range_outside_the_file_can_not_be_had(wanted, size):
    with pytest.raises(Unsatisfiable):
        part(wanted, None, etag=ETAG, size=size)


@pytest.mark.parametrize(
    ("if_range", "expected"),
    [
        (ETAG, Part(0, 1)),
        (f" {ETAG} ", Part(0, 1)),
        ('"other"', None),
        (f"W/{ETAG}", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", None),
    ],
)
def test_a_part_of_another_version_is_not_given(if_range, expected):
    assert part("bytes=0-0", if_range, etag=ETAG, size=10) == expected


@pytest.mark.parametrize(
    ("told", "same"),
    [
        (None, False),
        (ETAG, True),
        (f"W/{ETAG}", True),
        (f'"x", {ETAG}', True),
        ("*", True),
        ('"x"', False),
        ("abc", False),
    ],
)
def test_a_client_that_has_the_file_is_told_so(told, same):
    assert unchanged(told, ETAG) is same
