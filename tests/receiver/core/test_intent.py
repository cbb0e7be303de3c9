import pytest

from receiver.core.intent import Likeness, likeness, model_of
from receiver.core.prediction import Prediction

HEX = "5c7d5dc6" * 8
INPUT = {"prompt": "a cat", "steps": 4}


def made(**told: object) -> Prediction:
    known = {"status": "starting", "model": "owner/name", "version": HEX, "input": INPUT}
    return Prediction("p1", {**known, **told}, 0, 0)


@pytest.mark.parametrize(
    ("path", "request_body"),
    [
        ("/models/owner/name/predictions", {}),
        ("/predictions", {"version": HEX}),
        ("/predictions", {"version": f"owner/name:{HEX}"}),
        ("/predictions", {"version": "owner/name"}),
        ("/deployments/owner/fast/predictions", {}),
    ],
)
def test_a_prediction_of_the_model_and_input_asked_for_fits(path, request_body):
    assert likeness(path, {**request_body, "input": INPUT}, made()) == Likeness.SAME_INPUT


@pytest.mark.parametrize(
    ("path", "request_body", "told"),
    [
        ("/models/owner/other/predictions", {}, {}),
        ("/predictions", {"version": "0" * 64}, {}),
        ("/predictions", {"version": f"owner/other:{HEX}"}, {}),
        ("/predictions", {"version": "owner/other"}, {}),
        ("/deployments/owner/fast/predictions", {}, {"deployment": "owner/slow"}),
        ("/models/owner/name/predictions", {}, {"input": {"prompt": "a dog", "steps": 4}}),
        ("/models/owner/name/predictions", {}, {"input": {"prompt": "a cat"}}),
        ("/models/owner/name/predictions", {}, {"input": None}),
    ],
)
def test_one_of_another_model_or_input_does_not(path, request_body, told):
    assert likeness(path, {**request_body, "input": INPUT}, made(**told)) == Likeness.NONE


def test_an_input_with_defaults_filled_in_fits_less_well_than_the_same():
    more = made(input={**INPUT, "seed": 7})
    assert likeness("/models/owner/name/predictions", {"input": INPUT}, more) == Likeness.INPUT_WITHIN
    assert likeness("/models/owner/name/predictions", {"input": {}}, more) == Likeness.INPUT_WITHIN


def test_an_input_that_was_removed_can_not_be_compared():
    gone = made(input={}, data_removed=True)
    assert likeness("/models/owner/name/predictions", {"input": {}}, gone) == Likeness.NONE


def test_a_request_names_its_model_or_a_version_alone():
    assert model_of("/models/owner/name/predictions", {}) == "owner/name"
    assert model_of("/predictions", {"version": f"owner/name:{HEX}"}) == "owner/name"
    assert model_of("/predictions", {"version": HEX}) is None
    assert model_of("/deployments/owner/name/predictions", {}) is None
