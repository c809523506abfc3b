"""A real Redis Cluster on loopback: three servers with our users and TLS, also between themselves."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redkeep.access.slots import SLOTS, slot_of
from redkeep.cache.secure import SecureAIResponseCache
from redkeep.migration.cluster import ClusterMigration
from redkeep.migration.counts import Counts
from redkeep.settings import Settings
from redkeep.target import build_target
from tests.redis.moving import answers
from tests.redis.old_application import Request, value
from tests.redis.server import Files, Server, free_port, start_server

RIGHTS = ("+cluster|slots", "+asking")


@dataclass
class Cluster:
    """Its servers. `settings` are those of the cache user, by the first of them."""

    servers: list[Server]

    @property
    def settings(self) -> dict[str, Any]:
        return {**self.servers[0].settings, "redis_client": "cluster"}

    def entries(self) -> dict[str, tuple[bytes, int]]:
        """Every entry on any server with its value and its milliseconds to live, as the operators see it."""
        found: dict[str, tuple[bytes, int]] = {}
        for server in self.servers:
            with server.log_in() as operator:
                (names,) = operator.ask(("KEYS", "ai_cache:*"))
                for name in names:  # type: ignore[union-attr]
                    stored, left = operator.ask(("GET", name), ("PTTL", name))
                    text = name.decode("utf-8", "surrogatepass")
                    if isinstance(stored, bytes) and not text.startswith(("ai_cache:epoch:", "ai_cache:lock:")):
                        assert text not in found, "on two servers"
                        found[text] = (stored, int(left))  # type: ignore[arg-type]
        return found

    def readable(self) -> int:
        """How many entries on all servers have the name of before."""
        found = 0
        for server in self.servers:
            with server.log_in() as operator:
                (names,) = operator.ask(("KEYS", "ai_cache:op:*"))
                found += sum(b"|h:" not in name for name in names)  # type: ignore[union-attr]
        return found

    def empty(self) -> None:
        for server in self.servers:
            with server.log_in() as operator:
                assert operator.ask(("FLUSHALL",)) == ["OK"]

    def fill(self, asked: list[Request], *, seconds: int = 3600) -> None:
        """Write the answers as an old application does that speaks to a Cluster, each a second longer than the one before."""
        for number, server in enumerate(self.servers):
            first, last = _part(number, len(self.servers))
            mine = [(place, each) for place, each in enumerate(asked) if first <= slot_of(each.name) <= last]
            with server.log_in() as operator:
                commands = [("SET", each.name, value(each.answer, place), "PX", str((seconds + place) * 1000)) for place, each in mine]
                for start in range(0, len(commands), 500):
                    part = commands[start : start + 500]
                    assert operator.ask(*part) == ["OK"] * len(part)

    def move(self, slots: Iterable[int], *, source: int, target: int) -> None:
        """Give slots from one server to another while both are in use, entry by entry, as `redis-cli --cluster reshard` does."""
        new = self.servers[target]
        with ExitStack() as stack:
            ends = [stack.enter_context(each.log_in()) for each in self.servers]
            (old_id,), (new_id,) = (ends[number].ask(("CLUSTER", "MYID")) for number in (source, target))
            to = ("127.0.0.1", str(new.port), "", "0", "5000", "AUTH2", "operator", new.passwords["operator"], "KEYS")
            for slot in map(str, slots):
                assert ends[target].ask(("CLUSTER", "SETSLOT", slot, "IMPORTING", _text(old_id))) == ["OK"]
                assert ends[source].ask(("CLUSTER", "SETSLOT", slot, "MIGRATING", _text(new_id))) == ["OK"]
                while names := ends[source].ask(("CLUSTER", "GETKEYSINSLOT", slot, "10"))[0]:
                    said = ends[source].ask(("MIGRATE", *to, *map(_text, names)))  # type: ignore[arg-type]
                    assert said in (["OK"], ["NOKEY"]), said
                time.sleep(0.02)  # so long an entry is where nobody looks without being told
                for end in (ends[target], ends[source], *ends):
                    assert end.ask(("CLUSTER", "SETSLOT", slot, "NODE", _text(new_id))) == ["OK"]


def _text(word: object) -> str:
    return word.decode("utf-8", "surrogatepass") if isinstance(word, bytes) else str(word)


def _part(number: int, of: int) -> tuple[int, int]:
    return SLOTS * number // of, SLOTS * (number + 1) // of - 1


@contextmanager
def cluster_of(files: Files, folder: Path, *, count: int = 3) -> Iterator[Cluster]:
    """A Cluster whose servers have the same users and passwords; the cache user may ask for the servers."""
    cert, key = files.pair("node", ["localhost", "127.0.0.1"], use="replication")
    servers: list[Server] = []
    try:
        for number in range(count):
            servers.append(
                start_server(
                    files, folder / f"node{number}", passwords=servers[0].passwords if servers else None, cluster_enabled="yes",
                    tls_cluster="yes", cluster_port=str(free_port()), cluster_node_timeout="2000", databases="1",
                    tls_cert_file=str(cert), tls_key_file=str(key),
                )
            )
        for number, server in enumerate(servers):
            first, last = _part(number, count)
            with server.log_in() as operator:
                commands = [("ACL", "SETUSER", "cache_service", *RIGHTS), ("CLUSTER", "ADDSLOTSRANGE", str(first), str(last))]
                assert operator.ask(*commands) == ["OK", "OK"]
        for server in servers[1:]:
            with servers[0].log_in() as operator:
                (bus,) = re.findall(r"^cluster-port (\d+)$", (server.folder / "redis.conf").read_text(), re.MULTILINE)
                assert operator.ask(("CLUSTER", "MEET", "127.0.0.1", str(server.port), bus)) == ["OK"]
        end = time.monotonic() + 20
        while not all(_is_whole(server) for server in servers):
            assert time.monotonic() < end, "the Cluster does not come up"
            time.sleep(0.05)
        yield Cluster(servers)
    finally:
        for server in servers:
            server.stop()


def _is_whole(server: Server) -> bool:
    with server.log_in() as operator:
        (info, slots) = operator.ask(("CLUSTER", "INFO"), ("CLUSTER", "SLOTS"))
    assert isinstance(info, bytes | str)
    text = info.decode() if isinstance(info, bytes) else info
    return "cluster_state:ok" in text and isinstance(slots, list) and len(slots) == 3


def settings_of(cluster: Cluster, **changes: Any) -> Settings:
    """The cache user's settings on the Cluster, with changes."""
    return Settings(**{**cluster.settings, **changes})


def secure(cluster: Cluster, **changes: Any) -> SecureAIResponseCache:
    """A cache on the Cluster that keeps nothing in memory."""
    return SecureAIResponseCache.from_settings(settings_of(cluster, **changes), memory_cache_size=0)


def target_of(cluster: Cluster, **changes: Any) -> Any:
    """Where a migration goes, with the janitor's password."""
    given = {**cluster.settings, "redis_janitor_password": cluster.servers[0].passwords["cache_janitor"], **changes}
    return build_target(**{name: value for name, value in given.items() if name != "redis_client"})


def migration(cluster: Cluster, *, changes: dict[str, Any] | None = None, **options: Any) -> ClusterMigration:
    """A migration at full rate; `changes` are to its target."""
    return ClusterMigration(target_of(cluster, **(changes or {})), **{"rate": 0, **options})


def migrate(cluster: Cluster, **options: Any) -> Counts:
    """Run one."""
    return asyncio.run(migration(cluster, **options).run())


def read(cluster: Cluster, asked: list[Request], **changes: Any) -> list[Any]:
    """What a new cache answers, without an error."""
    async def work() -> list[Any]:
        async with secure(cluster, **changes) as cache:
            assert cache.redis is not None, cache.last_error
            found = await answers(cache, asked)
            assert sum(cache.error_counts.values()) == 0, cache.last_error
            return found

    return asyncio.run(work())
