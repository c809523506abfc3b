"""Whose entries a run is about: the server's that the settings name, or behind Sentinels the primary's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from redkeep.access.sentinel import Primary, Sentinels
from redkeep.errors import ConfigurationError
from redkeep.migration.census import RATE, Census
from redkeep.migration.cluster import take_census_by_settings
from redkeep.target import Target


@asynccontextmanager
async def at_primary(target: Target, fields: Mapping[str, Any]) -> AsyncIterator[Target]:
    """The target for a run; `fields` are the settings of FOR_THE_CACHE. Behind Sentinels it is the primary of the beginning.

    Raises ServerUnavailableError when no Sentinel names one, and ConfigurationError at the end when they name another by then: a
    replica that was promoted may have had entries that were on the way.
    """
    if fields.get("redis_client") != "sentinel":
        yield target
        return
    primary = Primary(target, Sentinels.of(fields))
    host, port = await primary.find()
    yield target._replace(address=target.address._replace(host=host, port=port))
    primary.forget()
    if (now := await primary.find()) != (host, port):
        raise ConfigurationError(
            f"the primary was {host}:{port} at the beginning and is {now[0]}:{now[1]} now, so entries may have been left out; run again"
        )


async def take_census_there(target: Target, fields: Mapping[str, Any], *, rate: float = RATE) -> Census:
    """The census of the server, of its Cluster, or of the primary. Raises as `take_census` and `at_primary` do."""
    async with at_primary(target, fields) as found:
        return await take_census_by_settings(found, client=str(fields["redis_client"]), rate=rate)
