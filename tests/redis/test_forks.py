"""A fork while connections are up: the child has others, and its parent's go on."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import traceback
from collections.abc import Callable, Iterator

import pytest

from redkeep.access.event_loop import loop_factory
from redkeep.access.redis_py import RedisPyClient
from redkeep.access.transport import Transport
from redkeep.cache.sync import SyncCache
from tests.redis.caches import secure
from tests.redis.server import Server

Client = Transport | RedisPyClient


@pytest.fixture
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop() if request.param == "asyncio" else loop_factory()()
    yield made
    made.close()


async def work(client: Client) -> bytes:
    """What is read, 20 times, and the name of the connection; what is garbage is collected where a loop runs."""
    gc.collect()
    found = {await client.execute("GET", "ai_cache:child") for _ in range(20)}
    return b"%a by %d" % (found, await client.execute("CLIENT", "ID"))


def in_child(ask: Callable[[], bytes]) -> bytes:
    """What a child says, in twenty seconds at most."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            signal.alarm(20)
            os.write(writer, ask())
        except BaseException:
            os.write(writer, traceback.format_exc().encode()[-2000:])
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


@pytest.mark.parametrize("kind", [Transport, RedisPyClient])
# uvloop itself does not survive a fork.
@pytest.mark.parametrize(("loop", "same_loop"), [("asyncio", False), ("asyncio", True), ("uvloop", False)], indirect=["loop"])
def test_a_child_leaves_its_parent_s_connections_alone(
    server: Server, loop: asyncio.AbstractEventLoop, kind: type[Client], same_loop: bool
) -> None:
    """In a loop of the child's own, and in its parent's, it reads what it asked for over a connection that is not its parent's; and
    the parent's is still the one that it was: nothing of the child's went out on it, no goodbye of TLS either."""
    client = kind(server.target())
    ask = loop.run_until_complete
    for key in ("parent", "child"):
        ask(client.execute("SET", f"ai_cache:{key}", key, "EX", 60))
    ours = ask(client.execute("CLIENT", "ID"))
    theirs = loop if same_loop else asyncio.new_event_loop()
    said = in_child(lambda: theirs.run_until_complete(work(client)))
    assert said.startswith(b"{b'child'} by "), said.decode()
    assert said != b"{b'child'} by %d" % ours
    assert {ask(client.execute("GET", "ai_cache:parent")) for _ in range(20)} == {b"parent"}
    assert ask(client.execute("CLIENT", "ID")) == ours
    ask(client.close())


@pytest.mark.parametrize("connected", [False, True], ids=["before its first call", "at work"])
def test_a_synchronous_cache_goes_on_in_a_child(server: Server, connected: bool) -> None:
    """As in the workers of a preloaded WSGI server: each child has a loop and a thread of its own, and closes them."""
    cache, name = SyncCache(secure(server)), f"fork:{connected}"
    if connected:
        cache.set(name, "parent")

    def asked() -> bytes:
        cache.set("fork:child", "child")
        said = f"{cache.get(name)} {cache.get('fork:child')}"
        cache.close()
        return said.encode()

    assert [in_child(asked) for _ in range(2)] == [b"parent child" if connected else b"None child"] * 2
    assert cache.get("fork:child") == "child"
    cache.close()
