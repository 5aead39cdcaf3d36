"""Kinds by template id: a template never changes once it is there, so each is read and decoded once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import asyncpg
import msgspec

from ...actors.messages import Kind

_MAX: Final = 20_000
_decode = msgspec.json.Decoder(Kind).decode


class Kinds:
    """The kinds that were asked for."""

    def __init__(self) -> None:
        self._known: dict[int, Kind] = {}

    async def of(self, connection: asyncpg.Connection, template_ids: Iterable[int]) -> dict[int, Kind]:
        """Return kinds by template id, in the order of the ids."""
        wanted = dict.fromkeys(template_ids)
        known = self._known
        missing = [id for id in wanted if id not in known]
        if missing:
            if len(known) + len(missing) > _MAX:
                known = self._known = {id: known[id] for id in wanted if id in known}
            for id, body in await connection.fetch(
                "select template_id, body from kinds where template_id = any($1)", missing
            ):  # fmt: skip
                known[id] = _decode(body)
        return {id: known[id] for id in wanted}
