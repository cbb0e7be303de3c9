"""Models, versions, deployments, uploads, streams: what stands around the predictions."""

import asyncio
import hashlib
import json
import time

import pytest

from receiver.sandbox import uploads
from receiver.sandbox.catalogue import MODELS
from receiver.sandbox.uploads import download_signature
from tests.receiver.sandbox.conftest import TINY

SDXL = next(model for model in MODELS if model.name == "sdxl")
MODEL_FIELDS = {
    *("url", "owner", "name", "description", "visibility", "is_official", "github_url", "paper_url", "license_url"),
    *("run_count", "cover_image_url", "default_example", "latest_version", "created_at"),
}


async def test_models_are_listed_with_all_their_fields(api):
    page = (await api.http.get("/models")).json()
    assert len(page["results"]) == len(MODELS)
    assert all(set(model) == MODEL_FIELDS for model in page["results"])
    other = (await api.http.get("/models?sort_direction=asc&sort_by=model_created_at")).json()
    assert other["results"][0]["name"] == page["results"][-1]["name"]
    assert (await api.http.get("/models?sort_by=name")).status_code == 422


async def test_a_version_tells_the_shape_of_input_and_output(api):
    told = (await api.http.get("/models/stability-ai/sdxl")).json()
    version = told["latest_version"]
    schemas = version["openapi_schema"]["components"]["schemas"]
    assert schemas["Output"]["items"]["format"] == "uri"
    assert schemas["Input"]["properties"]["width"]["type"] == "integer"
    assert (await api.http.get("/models/stability-ai/sdxl/versions")).json()["results"] == [version]
    assert (await api.http.get(f"/models/stability-ai/sdxl/versions/{version['id']}")).json() == version
    assert (await api.http.get(f"/models/stability-ai/sdxl/versions/{'0' * 64}")).status_code == 404
    assert (await api.http.delete(f"/models/stability-ai/sdxl/versions/{version['id']}")).status_code == 403


async def test_official_models_have_no_versions_to_list(api):
    assert (await api.http.get("/models/sandbox/image/versions")).json()["results"] == []
    hidden = (await api.http.get("/models/meta/meta-llama-3-8b-instruct")).json()
    assert hidden["is_official"]
    assert hidden["latest_version"] is None
    assert (await api.http.get("/models/meta/meta-llama-3-8b-instruct/versions")).status_code == 404


async def test_an_example_is_a_finished_prediction_whose_files_stay(api):
    told = (await api.http.get("/models/stability-ai/sdxl/examples")).json()["results"][0]
    assert told["status"] == "succeeded"
    await api.control("/expire", {"advance_s": 10_000})
    assert all([(await api.http.get(url)).status_code == 200 for url in told["output"]])
    assert (await api.http.get("/models/stability-ai/sdxl")).json()["default_example"] == told
    assert (await api.http.get("/models/sandbox/fails/examples")).json()["results"] == []
    assert (await api.http.get("/predictions")).json()["results"] == []


async def test_models_are_found_by_words(api):
    found = (await api.http.request("QUERY", "/models", content="short video")).json()["results"]
    assert [model["name"] for model in found] == ["video"]
    found = (await api.http.get("/search?query=melody&limit=1")).json()
    assert [item["model"]["name"] for item in found["models"]] == ["audio"]
    assert (await api.http.get("/search")).status_code == 400
    assert (await api.http.get("/search?query=x&limit=51")).status_code == 400


async def test_a_model_of_one_s_own_is_made_changed_and_deleted(api):
    body = {"owner": "sandbox", "name": "mine", "visibility": "private", "hardware": "cpu", "description": "a"}
    made = await api.http.post("/models", json=body)
    assert made.status_code == 201
    assert made.json()["latest_version"] is None
    assert (await api.http.post("/models", json=body)).status_code == 422
    assert (await api.http.post("/models", json={**body, "owner": "other"})).status_code == 403
    assert (await api.http.post("/models", json={**body, "name": "b", "visibility": "secret"})).status_code == 422
    assert (await api.http.post("/models", json={"owner": "sandbox"})).status_code == 422
    changed = await api.http.patch("/models/sandbox/mine", json={"description": "b", "readme": "# Mine"})
    assert changed.json()["description"] == "b"
    assert (await api.http.get("/models/sandbox/mine/readme")).text == "# Mine"
    assert "mine" not in {model["name"] for model in (await api.http.get("/models")).json()["results"]}
    assert (await api.http.get("/models/sandbox/mine/versions")).json()["results"] == []
    assert (await api.http.delete("/models/sandbox/mine")).status_code == 204
    assert (await api.http.get("/models/sandbox/mine")).status_code == 404
    assert (await api.http.patch("/models/sandbox/image", json={})).status_code == 403


async def test_account_hardware_and_collections_are_told(api):
    account = (await api.http.get("/account")).json()
    assert {"type", "username", "name"} <= set(account)
    hardware = (await api.http.get("/hardware")).json()
    assert {"name": "CPU", "sku": "cpu"} in hardware
    slugs = [item["slug"] for item in (await api.http.get("/collections")).json()["results"]]
    models = (await api.http.get(f"/collections/{slugs[0]}")).json()["models"]
    assert {model["name"] for model in models} == {"flux-schnell", "sdxl", "image"}
    assert (await api.http.get("/collections/nothing")).status_code == 404


async def test_a_deployment_runs_its_model(api):
    body = {"name": "mine", "model": "stability-ai/sdxl", "version": SDXL.version, "hardware": "gpu-t4"}
    made = (await api.http.post("/deployments", json=body)).json()
    assert made["current_release"]["number"] == 1
    assert (await api.http.post("/deployments", json=body)).status_code == 422
    told = (await api.http.post("/deployments/sandbox/mine/predictions", json={"input": TINY})).json()
    assert told["deployment"] == "sandbox/mine"
    assert (await api.finished(told))["status"] == "succeeded"
    changed = (await api.http.patch("/deployments/sandbox/mine", json={"max_instances": 3})).json()
    assert changed["current_release"]["number"] == 2
    assert changed["current_release"]["configuration"] == {
        "hardware": "gpu-t4",
        "min_instances": 0,
        "max_instances": 3,
    }
    for wrong in ({"hardware": "abacus"}, {"min_instances": -1}, {"version": "0" * 64}, {"foo": 1}):
        assert (await api.http.patch("/deployments/sandbox/mine", json=wrong)).status_code == 422
    assert [item["name"] for item in (await api.http.get("/deployments")).json()["results"]] == ["mine"]
    assert (await api.http.get("/deployments/sandbox/mine")).json() == changed
    assert (await api.http.delete("/deployments/sandbox/mine")).status_code == 204
    assert (await api.http.get("/deployments/sandbox/mine")).status_code == 404


async def test_a_file_is_uploaded_told_and_deleted(api):
    data = b"a\r\n--b\0\xff" * 100
    form = {"content": ("cat.png", data, "image/png")}
    made = await api.http.post("/files", files=form, data={"metadata": json.dumps({"a": 1})})
    told = made.json()
    assert made.status_code == 201
    assert (told["name"], told["content_type"], told["size"]) == ("cat.png", "image/png", len(data))
    assert told["checksums"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert told["metadata"] == {"a": 1}
    assert (await api.http.get(told["urls"]["get"])).json() == told
    assert (await api.http.get("/files")).json()["results"] == [told]
    assert (await api.http.delete(f"/files/{told['id']}")).status_code == 204
    assert (await api.http.get(f"/files/{told['id']}")).status_code == 404


async def test_an_upload_is_downloaded_with_a_signature_and_no_token(api):
    told = (await api.http.post("/files", files={"content": b"hi", "type": (None, "text/plain")})).json()

    async def asked(expiry, owner="sandbox", secret=api.running.secret):
        signature = download_signature(secret, owner, told["id"], expiry)
        query = {"owner": owner, "expiry": expiry, "signature": signature}
        headers = {"authorization": ""}
        return await api.http.get(f"/files/{told['id']}/download", params=query, headers=headers)

    soon = str(int(time.time()) + 100)
    good = await asked(soon)
    assert (good.status_code, good.content) == (200, b"hi")
    assert good.headers["content-type"].startswith("text/plain")
    refused = [await asked("100"), await asked("soon"), await asked(soon, owner="you"), await asked(soon, secret="x")]
    assert {answer.status_code for answer in refused} == {403}


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{}", "application/json", 400),
        (b"--x\r\n\r\nnothing", "multipart/form-data; boundary=x", 400),
        (
            b"--x\r\nContent-Disposition: form-data; name=other\r\n\r\nhi\r\n--x--\r\n",
            "multipart/form-data; boundary=x",
            422,
        ),
    ],
)
async def test_a_form_without_sense_is_refused(api, content, kind, status):
    answer = await api.http.post("/files", content=content, headers={"content-type": kind})
    assert answer.status_code == status


async def test_metadata_must_be_a_json_object(api):
    for wrong in ("{", "[]"):
        answer = await api.http.post("/files", files={"content": b"hi"}, data={"metadata": wrong})
        assert answer.status_code == 422


async def test_uploads_have_bounds(api, monkeypatch):
    monkeypatch.setattr(uploads, "FILE_BYTES_MAX", 100)
    monkeypatch.setattr(uploads, "ALL_BYTES_MAX", 150)
    too_large = await api.http.post("/files", files={"content": bytes(101)})
    assert too_large.status_code == 413
    assert too_large.json() == {"detail": "Files must be less than 100MB in size"}
    monkeypatch.setattr(uploads, "FORM_BYTES_MAX", 50)
    assert (await api.http.post("/files", files={"content": bytes(51)})).status_code == 413
    monkeypatch.setattr(uploads, "FORM_BYTES_MAX", 5000)
    made = [(await api.http.post("/files", files={"content": bytes(90)})).json()["id"] for _ in range(2)]
    assert [item["id"] for item in (await api.http.get("/files")).json()["results"]] == [made[1]]
    await api.control("/expire", {"advance_s": 90_000})
    assert (await api.http.get("/files")).json()["results"] == []


def events(text):
    for block in text.split("\n\n"):
        if block:
            told = [line.partition(": ") for line in block.split("\n")]
            yield told[0][2], next(v for k, _, v in told if k == "id"), "\n".join(v for k, _, v in told if k == "data")


async def test_tokens_are_streamed_one_event_each(api):
    told = await api.make("meta/meta-llama-3-8b-instruct", {"prompt": "x", "max_tokens": 5})
    async with asyncio.timeout(5):
        answer = await api.http.get(told["urls"]["stream"], headers={"authorization": ""})
    assert answer.headers["content-type"].startswith("text/event-stream")
    got = list(events(answer.text))
    done = await api.finished(told)
    assert [data for name, _, data in got if name == "output"] == done["output"]
    assert got[-1][0] == "done"
    assert got[-1][2] == "{}"
    rest = await api.http.get(told["urls"]["stream"], headers={"last-event-id": got[3][1]})
    assert next(events(rest.text))[1] == got[4][1]


async def test_a_stream_tells_of_failure_and_cancel(api):
    failed = await api.make("sandbox/slow", TINY, sandbox={"status": "failed", "error": "no"})
    text = (await api.http.get(failed["urls"]["stream"])).text
    assert [name for name, _, _ in events(text)][-2:] == ["error", "done"]
    canceled = await api.make("sandbox/slow", TINY, sandbox={"duration_s": 1000})
    await api.http.post(f"/predictions/{canceled['id']}/cancel")
    text = (await api.http.get(canceled["urls"]["stream"])).text
    assert list(events(text))[-1][2] == '{"reason": "canceled"}'
    assert (await api.http.get(f"{api.running.url}/stream/nothing")).status_code == 404
    assert "stream" not in (await api.make())["urls"]


async def test_a_silent_stream_ends(api, monkeypatch):
    monkeypatch.setattr("receiver.sandbox.streams.IDLE_S", 0.05)
    told = await api.make("sandbox/slow", TINY, sandbox={"queue_s": 3000})
    assert (await api.http.get(told["urls"]["stream"])).text == ":408: 408 Request Timeout\n\n"
