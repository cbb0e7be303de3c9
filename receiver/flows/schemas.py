"""What models say about their outputs, asked for once, and only when an output names a file on a foreign host."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from receiver.core.files import FileRule, schema_files
from receiver.core.output import leaves
from receiver.core.prediction import Update
from receiver.replicate.client import Replicate
from receiver.replicate.errors import ReplicateError

SCHEMAS_MAX = 256  # models whose schema is kept in memory
LEARN_S_MAX = 5.0  # for one of them: deliveries wait to be read meanwhile


@dataclass(frozen=True, slots=True)
class Schemas:
    """Models' OpenAPI schemas. One that Replicate does not give (hidden, unreachable …) counts as saying nothing."""

    replicate: Replicate
    _known: OrderedDict[tuple[str, str], Mapping[str, Any]] = field(default_factory=OrderedDict)

    def missing(self, update: Update, rule: FileRule) -> tuple[str, str] | None:
        """The model and version whose schema must be learned before this update can be judged, or None."""
        name = _name(update)
        if name in self._known:
            return None
        output = update.told.get("output")
        foreign = any(isinstance(leaf, str) and rule.is_foreign(leaf) for _, leaf in leaves(output))
        return name if foreign else None

    def files(self, update: Update) -> frozenset[str]:
        """The paths that the model's schema, if known, declares as files."""
        schema = self._known.get(_name(update))
        return schema_files(update.told.get("output"), schema) if schema else frozenset()

    async def learn(self, model: str, version: str) -> None:
        """Ask Replicate once; afterwards the schema is known, if only as an empty one."""
        try:
            async with asyncio.timeout(LEARN_S_MAX):
                schema = await self._ask(model, version)
        except (ReplicateError, TimeoutError):
            schema = {}
        self._known[model, version] = schema
        while len(self._known) > SCHEMAS_MAX:
            self._known.popitem(last=False)

    async def _ask(self, model: str, version: str) -> Mapping[str, Any]:
        owner, _, name = model.partition("/")
        if not owner or not name:
            return {}
        if version in ("", "hidden"):
            told = (await self.replicate.model(owner, name)).get("latest_version")
        else:
            told = await self.replicate.version(owner, name, version)
        schema = told.get("openapi_schema") if isinstance(told, dict) else None
        return schema if isinstance(schema, dict) else {}


def _name(update: Update) -> tuple[str, str]:
    return str(update.told.get("model") or ""), str(update.told.get("version") or "")
