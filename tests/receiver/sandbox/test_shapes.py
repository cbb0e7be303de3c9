"""What is told about a prediction: recorded shapes, lists, and the end of the data."""

import re

import jsonschema
import pytest

from receiver.sandbox.catalogue import MODELS
from tests.receiver.sandbox.conftest import TINY

REQUIRED = {
    *("id", "model", "version", "input", "output", "data_removed", "error", "status", "created_at", "urls"),
}


async def test_a_fresh_answer_lacks_what_is_not_known_yet(api):
    told = [await api.make() for _ in range(2)]
    assert "output" not in told[0]
    assert "output" in told[1]
    assert all("completed_at" not in item and "metrics" not in item for item in told)
    assert all(re.search(r"\.\d{3}Z$", item["created_at"]) for item in told)


async def test_answers_vary_between_two_backends(api):
    told = await api.run()
    other = (await api.http.get(f"/predictions/{told['id']}")).json()
    assert list(told) != list(other)
    assert len(told["created_at"]) != len(other["created_at"])
    assert told["created_at"][:23] == other["created_at"][:23]
    assert set(told) >= REQUIRED
    assert set(other) >= REQUIRED


async def test_without_variation_every_answer_has_every_key(start):
    api = await start(variation=False)
    told = await api.make()
    done = await api.finished(told)
    again = (await api.http.get(f"/predictions/{told['id']}")).json()
    assert set(told) == set(done) == set(again) >= REQUIRED


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.full_name)
async def test_every_model_gives_what_its_schema_says(api, model):
    told = dict(model.sample) or {"text": "x"}
    if "width" in model.inputs:
        told |= {"width": 16, "height": 16}
    done = await api.run(model.version, told)
    assert done["status"] == ("failed" if model.name == "fails" else "succeeded")
    if done["output"] is not None:
        jsonschema.validate(done["output"], dict(model.output))
        truth = (await api.belief(done))["truth"]
        for file in truth:
            if file["url"].startswith("http"):
                assert (await api.http.get(file["url"])).status_code == 200


async def test_a_failed_prediction_says_why(api):
    done = await api.run("sandbox/fails", {})
    assert done["error"].startswith("CUDA out of memory")
    assert done["output"] is None
    assert "Traceback" in done["logs"]


async def test_a_growing_output_is_told_as_it_grows(start):
    api = await start(speed=0.1)
    told = await api.make("sandbox/slow", {**TINY, "num_outputs": 6})
    lengths = set()
    while (now := (await api.http.get(f"/predictions/{told['id']}")).json())["status"] != "succeeded":
        lengths.add(len(now["output"] or []))
    assert len(lengths) > 2
    assert len(now["output"]) == 6


async def test_the_same_url_stands_in_three_places(api):
    output = (await api.run("sandbox/duplicate"))["output"]
    assert output["image"] == output["cover"] == output["thumbnails"][0] != output["thumbnails"][1]


async def test_a_model_that_trips_fails_its_prediction(api):
    done = await api.run("sandbox/image", sandbox={"output": {"x": 1}, "status": "succeeded"})
    assert done["output"] == {"x": 1}
    model = api.running.sandbox.models["sandbox/numbers"]
    broken = type(model)(
        owner="sandbox", name="broken", description="", make=lambda _ask: 1 / 0, output={}, official=True
    )
    api.running.sandbox.add_model(broken)
    done = await api.run("sandbox/broken")
    assert (done["status"], done["error"]) == ("failed", "ZeroDivisionError: division by zero")


async def test_the_list_has_pages_of_100_newest_first_with_absolute_cursors(api):
    made = [(await api.make("replicate/hello-world:" + MODELS[0].version, {"text": "x"}))["id"] for _ in range(205)]
    seen, url, pages = [], "/predictions", []
    while url:
        page = (await api.http.get(url)).json()
        pages.append(page)
        seen += [item["id"] for item in page["results"]]
        url = page["next"]
        if len(pages) == 1:
            await api.make()  # a new one does not shift what follows
    assert seen == made[::-1]
    assert [len(page["results"]) for page in pages] == [100, 100, 5]
    assert pages[0]["previous"] is None
    back = (await api.http.get(pages[2]["previous"])).json()
    assert [item["id"] for item in back["results"]] == [item["id"] for item in pages[1]["results"]]
    first = (await api.http.get(pages[1]["previous"])).json()
    assert len(first["results"]) == 100
    assert (await api.http.get("/predictions?cursor=%2A")).status_code == 400


async def test_the_list_is_narrowed_by_time_and_source(api):
    first, second = await api.run(), await api.run()
    listed = (await api.http.get("/predictions", params={"created_after": second["created_at"]})).json()["results"]
    assert [item["id"] for item in listed] == [second["id"]]
    listed = (await api.http.get("/predictions", params={"created_before": second["created_at"]})).json()["results"]
    assert [item["id"] for item in listed] == [first["id"]]
    assert (await api.http.get("/predictions?source=web")).json()["results"] == []
    assert (await api.http.get("/predictions?source=api")).status_code == 422
    assert (await api.http.get("/predictions?created_after=yesterday")).status_code == 422


async def test_a_training_is_told_like_a_prediction_and_leaves_a_version(api, hook):
    model = next(model for model in MODELS if model.name == "flux-dev-lora-trainer")
    route = f"/models/{model.full_name}/versions/{model.version}/trainings"
    body = {"destination": "sandbox/image", "input": {"steps": 10}, "webhook": hook.url}
    told = await api.http.post(route, json=body)
    assert told.status_code == 201
    assert told.headers["location"].endswith(f"/v1/trainings/{told.json()['id']}")
    calls = await hook.until(2)
    assert calls[-1].told["status"] == "succeeded"
    done = (await api.http.get(f"/trainings/{told.json()['id']}")).json()
    assert done["output"]["version"].startswith("sandbox/image:")
    assert (await api.http.get(f"/predictions/{done['id']}")).status_code == 404
    assert [item["id"] for item in (await api.http.get("/trainings")).json()["results"]] == [done["id"]]
    assert (await api.http.post(f"/trainings/{done['id']}/cancel")).json()["status"] == "succeeded"
    assert (await api.run(done["output"]["version"]))["status"] == "succeeded"


async def test_a_training_without_a_home_is_refused(api):
    model = MODELS[3]
    route = f"/models/{model.full_name}/versions/{model.version}/trainings"
    answer = await api.http.post(route, json={"destination": "nobody/nothing", "input": {}})
    assert answer.json() == {"detail": "The specified training destination does not exist", "status": 404}
    wrong = f"/models/{model.full_name}/versions/{'0' * 64}/trainings"
    assert (await api.http.post(wrong, json={"destination": "sandbox/image", "input": {}})).status_code == 422
    assert (await api.http.post(route, json={"input": {}})).status_code == 422


async def test_data_is_removed_after_its_time(start):
    api = await start(retention_s=0.3)
    done = await api.run()
    assert (await api.http.get(done["output"])).status_code == 200
    await api.control("/expire", {"advance_s": 1})
    gone = (await api.http.get(f"/predictions/{done['id']}")).json()
    assert (gone["data_removed"], gone["output"], gone["input"], gone["logs"]) == (True, None, {}, None)
    assert gone["status"] == "succeeded"
    expired = await api.http.get(done["output"])
    assert expired.status_code == 404
    assert b"NoSuchKey" in expired.content


async def test_a_file_goes_with_its_time_even_if_nobody_asks_for_the_prediction(api):
    done = await api.run()
    await api.control("/expire", {"advance_s": 3600})
    assert (await api.http.get(done["output"])).status_code == 404


async def test_memory_of_finished_predictions_is_bounded(start):
    api = await start(predictions_max=3)
    endless = await api.make(sandbox={"status": "never"})
    made = [await api.run() for _ in range(5)]
    listed = (await api.http.get("/predictions")).json()["results"]
    assert [item["id"] for item in listed] == [item["id"] for item in [*made[:2:-1], endless]]
    for _ in range(5):
        await api.make(sandbox={"status": "never"})
    assert len((await api.http.get("/predictions")).json()["results"]) == 6  # what runs is never forgotten
    assert (await api.http.get(made[0]["output"])).status_code == 404
    assert (await api.http.get(f"/predictions/{made[0]['id']}")).status_code == 404
