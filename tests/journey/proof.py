"""The invariants, looked at from outside: the API, the feed, the bucket and what the sandbox knows to be true."""

import asyncio
import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import botocore.session
import httpx

from tests.journey.world import World, until

ARCHIVED, FILE = "outkeep.prediction.archived", "outkeep.output.archived"
SPOOL_MARK = ".id"  # whose spool it is
LINKED_BYTES_MAX = 2**20  # larger ones are read from the bucket alone: the same bytes, and sooner
SETTLED_S = 30.0


class Bucket:
    """What lies in a bucket, seen past the product's own code."""

    def __init__(self, place: World) -> None:
        url = place.environ["OUTKEEP_BUCKET_URL"]
        self.folder = Path(url.removeprefix("file:")) if url.startswith("file:") else None
        if self.folder is None:
            self.name, _, self.prefix = url.removeprefix("s3://").partition("/")
            credentials = (place.environ["AWS_ACCESS_KEY_ID"], place.environ["AWS_SECRET_ACCESS_KEY"])
            self._s3: Any = botocore.session.Session().create_client(
                "s3", "us-east-1", endpoint_url=place.environ["AWS_ENDPOINT_URL_S3"],
                aws_access_key_id=credentials[0], aws_secret_access_key=credentials[1],
            )  # fmt: skip

    def read(self, key: str) -> bytes | None:
        if self.folder is not None:
            path = self.folder / key
            return path.read_bytes() if path.is_file() else None
        try:
            return bytes(self._s3.get_object(Bucket=self.name, Key=key)["Body"].read())
        except self._s3.exceptions.NoSuchKey:
            return None

    def keys(self) -> set[str]:
        if self.folder is not None:
            return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()}
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=f"{self.prefix}/")
        return {item["Key"] for page in pages for item in page.get("Contents", ())}


@dataclass
class Reader:
    """Reads the feed from its start, keeps its cursor over every death, and looks for each file it is told of."""

    world: World
    bucket: Bucket
    told: list[dict[str, Any]] = field(default_factory=list)
    too_early: list[str] = field(default_factory=list)
    cursor: str = "0"

    @classmethod
    @contextlib.asynccontextmanager
    async def of(cls, place: World) -> AsyncIterator["Reader"]:
        reader = cls(place, Bucket(place))
        task = asyncio.create_task(reader._read())
        try:
            yield reader
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def archived(self, prediction_id: str) -> bool:
        return any(event["type"] == ARCHIVED and event["subject"] == prediction_id for event in reversed(self.told))

    async def _read(self) -> None:
        async with httpx.AsyncClient(base_url=self.world.http.base_url, trust_env=False, timeout=30) as http:
            while True:
                try:
                    page = (await http.get("/events", params={"after": self.cursor, "wait": "20"})).json()
                except httpx.TransportError:
                    await asyncio.sleep(0.02)
                    continue
                for event in page.get("events", ()):
                    await self._heard(event)
                self.cursor = page.get("next", self.cursor)

    async def _heard(self, event: dict[str, Any]) -> None:
        self.told.append(event)
        if event["type"] == FILE:
            output = event["data"]["output"]
            found = await asyncio.to_thread(self.bucket.read, output["key"])
            if found is None or hashlib.sha256(found).hexdigest() != output["sha256"]:
                self.too_early.append(output["key"])
        if event["type"] == ARCHIVED:
            key = event["data"]["manifest_key"]
            if await asyncio.to_thread(self.bucket.read, key) is None:
                self.too_early.append(key)


@dataclass
class Proof:
    """`settled` after every death, `whole` at the end."""

    world: World
    reader: Reader
    patience_s: float = SETTLED_S
    _proved: set[str] = field(default_factory=set)
    acknowledged: set[str] = field(default_factory=set)  # ids that a create was answered with

    async def settled(self) -> None:
        """Wait until all that the sandbox ever made is archived, and look at each of them once."""
        for told in await self.made():
            if told["id"] not in self._proved:
                await self._kept(told)
                self._proved.add(told["id"])
        await self._tidy()
        assert not self.reader.too_early, f"told before they could be read: {self.reader.too_early}"

    async def whole(self) -> None:
        """What holds over all predictions together."""
        await self.settled()
        made = await self.made()
        while any(told["id"] not in self._proved for told in made):  # a request that was given up may make one more
            await self.settled()
            made = await self.made()
        assert self.acknowledged <= {told["id"] for told in made}
        words = Counter(str(told["input"].get("prompt") or told["input"].get("bytes")) for told in made)
        assert max(words.values()) == 1, f"made twice: {words.most_common(3)}"
        known, ids = await self._known(), {told["id"] for told in made}
        assert known == ids, f"not known: {ids - known}, not made: {known - ids}"
        await self._feed()
        kept = await self._listed(ids)
        assert await asyncio.to_thread(self.reader.bucket.keys) == kept

    async def made(self) -> list[dict[str, Any]]:
        """What the sandbox knows of all predictions."""
        async with httpx.AsyncClient(trust_env=False) as client:
            return list((await client.get(f"{self.world.sandbox.url}/_sandbox/predictions")).json()["predictions"])

    async def _kept(self, told: dict[str, Any]) -> None:
        """I1, I2 and I3 for one prediction; the manifest says what the ledger says."""
        try:
            await until(lambda: self.reader.archived(told["id"]), patience_s=self.patience_s)
        except TimeoutError:
            known = await self.world.prediction(told["id"])
            raise AssertionError(f"never told as archived: {known or told}") from None
        (told,) = [one for one in await self.made() if one["id"] == told["id"]]
        known = await self._read(told)
        assert known["archived_at"], known
        assert known["status"] == told["status"], known
        truth = {file["path"]: file["sha256"] for file in told["truth"]} if told["status"] == "succeeded" else {}
        assert {output["path"]: output["sha256"] for output in known["outputs"]} == truth, known
        for output in known["outputs"]:
            found = await asyncio.to_thread(self.reader.bucket.read, output["key"]) or b""
            assert hashlib.sha256(found).hexdigest() == truth[output["path"]], output
            if len(found) < LINKED_BYTES_MAX:
                assert await self.world.bytes_at(output["url"]) == found
        await self._manifest(known)

    async def _read(self, told: dict[str, Any]) -> dict[str, Any]:
        """The prediction once every delivery that was answered 2xx is there and read."""
        answered = {attempt["webhook_id"] for attempt in told["webhooks"] if (attempt["status"] or 500) < 300}
        known: dict[str, Any] = {}

        async def read() -> bool:
            nonlocal known
            known = await self.world.prediction(told["id"])
            states = {delivery["id"]: delivery["state"] for delivery in known["deliveries"]}
            return answered <= states.keys() and "accepted" not in states.values()

        try:
            await until(read, patience_s=10)
        except TimeoutError:
            raise AssertionError(f"of {answered}, answered 2xx, only {known['deliveries']} are known") from None
        return known

    async def _manifest(self, known: dict[str, Any]) -> None:
        written = await asyncio.to_thread(self.reader.bucket.read, known["manifest_key"])
        assert written is not None, f"no manifest stands under {known['manifest_key']}"
        manifest = json.loads(written)
        assert manifest["prediction"]["status"] == known["status"]
        for name in ("path", "state", "key", "size", "sha256", "content_type", "attempts", "archived_at"):
            told = [output[name] for output in manifest["outputs"]]
            assert told == [output[name] for output in known["outputs"]], (name, manifest, known)

    async def _tidy(self) -> None:
        """I4: nothing is left lying in temporary places."""
        places = [Path(self.world.environ["OUTKEEP_SPOOL_DIR"])]
        if self.reader.bucket.folder is not None:
            places.append(self.reader.bucket.folder / ".tmp")

        def left() -> list[str]:
            return [str(path) for place in places for path in place.iterdir() if path.name != SPOOL_MARK]

        try:
            await until(lambda: not left(), patience_s=5)
        except TimeoutError:
            raise AssertionError(f"left lying: {left()}") from None

    async def _feed(self) -> None:
        """I5: numbered without a gap; whoever read all along has what is there now; every fact once."""
        now = await self.world.events()
        await until(lambda: len(self.reader.told) >= len(now), patience_s=10)
        assert self.reader.told == now
        assert [event["sequence"] for event in now] == [f"{number:016d}" for number in range(1, len(now) + 1)]
        assert len({event["id"] for event in now}) == len(now)
        facts = Counter(_fact(event) for event in now)
        assert max(facts.values()) == 1, facts.most_common(3)
        for subject in {event["subject"] for event in now}:
            types = [event["type"] for event in now if event["subject"] == subject]
            assert types[0] == "outkeep.prediction.created", types
            assert types[-1] == ARCHIVED, types

    async def _listed(self, ids: set[str]) -> set[str]:
        """Every key that the ledger knows of."""
        known = [await self.world.prediction(prediction_id) for prediction_id in ids]
        keys = [one["manifest_key"] for one in known] + [output["key"] for one in known for output in one["outputs"]]
        assert len(set(keys)) == len(keys)
        return set(keys)

    async def _known(self) -> set[str]:
        """The ids of all predictions that the service tells of."""
        ids: set[str] = set()
        after = ""
        while True:
            query = {"limit": "100", "after": after} if after else {"limit": "100"}
            page = (await self.world.http.get("/api/predictions", params=query)).json()
            ids |= {item["id"] for item in page["items"]}
            if not (after := page["next"]):
                return ids


def _fact(event: dict[str, Any]) -> tuple[Any, ...]:
    data = event["data"]
    path = data["output"]["path"] if event["type"].startswith("outkeep.output.") else None
    return event["subject"], event["type"], path, data.get("revision")
