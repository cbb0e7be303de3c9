"""What models say about their outputs, asked for once, and only when an output names a file on a foreign host."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

from receiver.core.files import FileRule, schema_files
from receiver.core.output import leaves
from receiver.core.prediction import Update
from receiver.replicate.client import Replicate
from receiver.replicate.errors import NotFound, Rejected, ReplicateError

SCHEMAS_MAX = 256  # models whose schema is kept in memory
LEARN_S_MAX = 5.0  # for one of them: deliveries wait to be read meanwhile …
TROUBLE_S = 120.0  # … so after one that could not be had none is asked for: nobody waits twice in this time


@dataclass(slots=True)
class Schemas:
    """Models' OpenAPI schemas. One that there is not (a hidden version …) counts as saying nothing; so do, for a while,
    all that are not known when Replicate does not answer. `clock` gives seconds that never go back.
    """

    replicate: Replicate
    clock: Callable[[], float]
    _trouble_until_s: float = -inf
    _known: OrderedDict[tuple[str, str], Mapping[str, Any]] = field(default_factory=OrderedDict)

    def missing(self, update: Update, rule: FileRule) -> tuple[str, str] | None:
        """The model and version whose schema must be learned before this update can be judged, or None."""
        name = _name(update)
        if name in self._known or self.clock() < self._trouble_until_s:
            return None
        output = update.told.get("output")
        foreign = any(isinstance(leaf, str) and rule.is_foreign(leaf) for _, leaf in leaves(output))
        return name if foreign else None

    def files(self, update: Update) -> frozenset[str]:
        """The paths that the model's schema, if known, declares as files."""
        schema = self._known.get(_name(update))
        return schema_files(update.told.get("output"), schema) if schema else frozenset()

    async def learn(self, model: str, version: str) -> None:
        """Ask Replicate once; afterwards nothing is `missing`: the schema is known, or will be asked for later."""
        try:
            async with asyncio.timeout(LEARN_S_MAX):
                schema = await self._ask(model, version)
        except (NotFound, Rejected):
            schema = {}
        except (ReplicateError, TimeoutError):
            self._trouble_until_s = self.clock() + TROUBLE_S
            return
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
