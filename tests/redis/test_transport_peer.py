"""Hostile and broken streams: the connection is dropped with an error that has a name, and no caller gets another's reply."""

from __future__ import annotations

import asyncio
import random
import resource
import socket
import time
from collections.abc import Callable
from contextlib import suppress

import pytest
from hiredis import pack_command

from redkeep.access.failures import WireError
from redkeep.access.limits import Limits
from redkeep.access.transport import Transport
from redkeep.errors import AuthenticationError, RedkeepError, ServerUnavailableError
from tests.redis.server import Server, free_port
from tests.redis.transport_peer import HELLO, Script, peer, proxy, says

ONCE = Limits(seconds=1.0, connect_seconds=1.0, replays=0, stall_seconds=0.3)


def error_of(script: Script, *, limits: Limits = ONCE) -> RedkeepError:
    """What a GET gets from such a peer, in well under its deadline and a second."""

    async def work() -> RedkeepError:
        async with peer(script) as target, Transport(target, limits=limits) as transport:
            with pytest.raises(RedkeepError) as caught:
                async with asyncio.timeout(3):
                    await transport.execute("GET", "ai_cache:a")
            assert transport.in_flight == (0, 0)
            return caught.value

    return asyncio.run(work())


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", "not in the Redis protocol", id="http"),
        pytest.param(b"\x16\x03\x03\x00\x7a\x02\x00\x00", "not in the Redis protocol", id="tls-record"),
        pytest.param(b"$-5\r\n", "not in the Redis protocol", id="negative-length"),
        pytest.param(b"$99999999999999999999999\r\n", "not in the Redis protocol", id="length-over-64-bit"),
        pytest.param(b"%1\r\n*1\r\n+a\r\n+b\r\n", "not in the Redis protocol", id="unhashable-key"),
        pytest.param(b"*1\r\n" * 40 + b":1\r\n", "", id="deep-nesting"),
        pytest.param(b":7\r\n", "does not fit its command", id="integer-for-get"),
        pytest.param(b"*1\r\n$1\r\nx\r\n", "does not fit its command", id="list-for-get"),
        pytest.param(b"|1\r\n+a\r\n+b\r\n$1\r\nx\r\n", "does not fit its command", id="attribute-before-the-reply"),
        pytest.param(b"#t\r\n", "does not fit its command", id="boolean-for-get"),
        pytest.param(b">2\r\n$7\r\nunknown\r\n$1\r\nx\r\n", "pushed something that was not requested ('unknown')", id="unknown-push"),
        pytest.param(b">3\r\n+message\r\n+c\r\n+x\r\n", "pushed something that was not requested ('message')", id="pubsub-push"),
        pytest.param(b">2\r\n+invalidate\r\n*1\r\n+k\r\n", "pushed something that was not requested", id="invalidate-without-tracking"),
        pytest.param(b">0\r\n", "pushed something that was not requested", id="empty-push"),
        pytest.param(b">1\r\n+\x1b[31m\r\n", "pushed something that was not requested ('\\x1b[31m')", id="push-with-escapes"),
    ],
)
def test_nonsense_ends_the_connection_with_a_name(answer: bytes, words: str) -> None:
    """Whatever is no reply to what was asked is a WireError, which the cache takes as a miss."""
    error = error_of(says(answer))
    assert isinstance(error, WireError)
    assert words in str(error)


@pytest.mark.parametrize("surplus", [b"$1\r\nb\r\n", b"bcdef\r\n"], ids=["a-reply", "bytes"])
def test_what_nobody_asked_for_ends_the_connection(surplus: bytes) -> None:
    """The first reply is the caller's, the rest has no owner: the next call needs a new connection."""

    async def work() -> tuple[object, bool]:
        async with peer(says(b"$1\r\na\r\n" + surplus)) as target, Transport(target, limits=ONCE) as transport:
            got = await transport.execute("GET", "ai_cache:a")
            await asyncio.sleep(0.05)
            return got, transport.connected

    assert asyncio.run(work()) == (b"a", False)


def test_an_endless_bulk_is_cut_off() -> None:
    """A reply that does not end is dropped at the limit, however long it says it will be, and costs no more than that."""

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await says(b"$9000000000000\r\n", stay=False)(reader, writer)
        while True:
            writer.write(b"x" * 65_536)
            await writer.drain()

    error = error_of(endless, limits=Limits(seconds=5.0, replays=0, reply_bytes=4 * 1024 * 1024))
    assert isinstance(error, WireError)
    assert "longer than 4194304 bytes" in str(error)


@pytest.mark.parametrize(
    "endless", [b"+" + b"x" * 65_000, b"*2000000\r\n" + b"+x\r\n" * 16_000], ids=["line", "array"]
)
def test_other_replies_without_end_are_cut_off(endless: bytes) -> None:
    """A line without its end, or a list that goes on, is no way around the limit."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await says(endless, stay=False)(reader, writer)
        while True:
            writer.write(endless.lstrip(b"*20").lstrip(b"\r\n"))
            await writer.drain()

    assert isinstance(error_of(script, limits=Limits(seconds=5.0, replays=0, reply_bytes=1024 * 1024)), WireError)


@pytest.mark.parametrize("nested", [1, 7])
@pytest.mark.parametrize("promise", [b"*4294967295\r\n", b"*400000000\r\n", b"%200000000\r\n"], ids=["most", "list", "map"])
def test_a_list_is_not_made_on_a_promise(promise: bytes, nested: int) -> None:
    """A header that promises more elements than a cache asks for ends the connection; no memory was taken for it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    error = error_of(says(b"*1\r\n" * (nested - 1) + promise))
    assert isinstance(error, WireError)
    assert "announced a longer list" in str(error)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024  # KiB


@pytest.mark.parametrize(
    ("login", "kind", "words"),
    [
        (b"-NOPROTO unsupported protocol version\r\n", WireError, "RESP2 only"),
        (b"-ERR unknown command `HELLO`, with args beginning with: `3`\r\n", WireError, "RESP2 only"),
        (b"*2\r\n$6\r\nserver\r\n$5\r\nredis\r\n", WireError, "does not accept HELLO 3"),
        (b"+OK\r\n", WireError, "does not accept HELLO 3"),
        (b"-WRONGPASS invalid username-password pair or user is disabled.\r\n", AuthenticationError, "was refused"),
        (b"-NOAUTH HELLO must be called with the client already authenticated\r\n", AuthenticationError, "was refused"),
        (b"-ERR max number of clients reached\r\n", ServerUnavailableError, "maxclients"),
        (b"-DENIED Redis is running in protected mode\r\n", ServerUnavailableError, "protected mode"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", WireError, "not in the Redis protocol"),
    ],
)
def test_a_refused_login_says_why(login: bytes, kind: type[RedkeepError], words: str) -> None:
    """A server that speaks RESP2 only is named so; so is each other reason."""
    error = error_of(says(login=login))
    assert type(error) is kind
    assert words in str(error)


def test_a_peer_that_never_answers_costs_no_more_than_its_time() -> None:
    """A peer that accepts and is silent fails the caller within the time to connect."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(10)

    error = error_of(silent, limits=Limits(seconds=1.0, connect_seconds=0.2))
    assert type(error) is ServerUnavailableError
    assert "no answer in time" in str(error)


@pytest.mark.parametrize("kind", ["one lane", "two lanes"])
def test_a_close_that_is_cancelled_leaves_no_connection(kind: str) -> None:
    """Its caller gives up while a reply is owed: nobody else has the connections, so they end all the same, and so does the call."""
    ended = 0

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal ended
        await reader.read(65_536)
        writer.write(HELLO)
        with suppress(OSError):
            while await reader.read(65_536):
                pass
        ended += 1

    async def work() -> None:
        async with peer(silent) as target:
            transport = Transport(target, limits=Limits(seconds=0.5, large_bytes=100))
            values = ["a"] if kind == "one lane" else ["a", "b" * 200]
            calls = [asyncio.create_task(transport.execute("SET", "ai_cache:a", value)) for value in values]
            await asyncio.sleep(0.1)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(transport.close(), 0.05)
            assert {type(each) for each in await asyncio.gather(*calls, return_exceptions=True)} == {ServerUnavailableError}
            assert ended == len(values)

    asyncio.run(work())


def test_after_a_failed_attempt_nobody_waits_for_the_next_one() -> None:
    """Behind a peer that accepts and is silent, the first caller waits for the attempt, and later ones a moment."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(10)

    async def main() -> list[float]:
        took = []
        async with peer(silent) as target, Transport(target, limits=Limits(connect_seconds=0.6)) as transport:
            for _ in range(12):
                began = time.monotonic()
                with pytest.raises(ServerUnavailableError, match="no answer in time"):
                    await transport.execute("GET", "ai_cache:a")
                took.append(time.monotonic() - began)
                await asyncio.sleep(0.02)
        return took

    first, *later = asyncio.run(main())
    assert first > 0.55
    assert max(later) < 0.35


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        ("LOADING Redis is loading the dataset in memory", ServerUnavailableError, "still loading"),
        ("READONLY You can't write against a read only replica.", ServerUnavailableError, "replica"),
        ("MISCONF Redis is configured to save RDB snapshots", ServerUnavailableError, "could not save"),
        ("OOM command not allowed when used memory > 'maxmemory'.", ServerUnavailableError, "out of memory"),
        ("CLUSTERDOWN The cluster is down", ServerUnavailableError, "cluster is down"),
        ("MOVED 3999 10.0.0.1:6381", ServerUnavailableError, "cluster node"),
        ("BUSY Redis is busy running a script.", ServerUnavailableError, "script"),
        ("NOAUTH Authentication required.", AuthenticationError, "was refused"),
        ("ERR unknown command 'GET', with args beginning with: 's3cret-key'", RedkeepError, "rejects GET"),
    ],
)
def test_error_replies_become_our_errors(reply: str, kind: type[RedkeepError], words: str) -> None:
    """Each error reply has its leaf and its sentence, and nothing of the server's text, which can repeat arguments."""
    error = error_of(says(f"-{reply}\r\n".encode()))
    assert isinstance(error, kind)
    assert words in str(error)
    assert "s3cret-key" not in str(error)
    assert "10.0.0.1" not in str(error)


def test_noauth_makes_a_new_connection() -> None:
    """A connection that is no longer logged in is replaced: the next call logs in anew."""

    async def work() -> bytes:
        logins = 0

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal logins
            logins += 1
            await says(b"-NOAUTH Authentication required.\r\n" if logins == 1 else b"$1\r\nv\r\n")(reader, writer)

        async with peer(script) as target, Transport(target, limits=ONCE) as transport:
            with pytest.raises(AuthenticationError):
                await transport.execute("GET", "ai_cache:a")
            value: bytes = await transport.execute("GET", "ai_cache:a")
            return value

    assert asyncio.run(work()) == b"v"


PIECES = (
    b"$5\r\nhello\r\n", b"+OK\r\n", b":1\r\n", b"_\r\n", b"*2\r\n$1\r\na\r\n$1\r\nb\r\n", b"-ERR no\r\n", b"%1\r\n+a\r\n:1\r\n",
    b">2\r\n+invalidate\r\n_\r\n", b",1.5\r\n", b"#t\r\n", b"(12\r\n", b"~1\r\n:1\r\n", b"=5\r\ntxt:a\r\n", b"$-1\r\n", b"*-1\r\n",
    b"\r\n", b"$",
)  # fmt: skip


def test_random_streams_break_nothing() -> None:
    """Pieces of the protocol in any order, with bytes changed, dropped and doubled: every call ends in time with bytes, None or
    one of our errors, and nothing reaches the event loop's exception handler."""
    choose = random.Random(11)
    unhandled: list[object] = []

    def stream() -> bytes:
        made = bytearray(b"".join(choose.choices(PIECES, k=choose.randrange(1, 12))))
        for _ in range(min(len(made) - 1, choose.randrange(4))):
            place = choose.randrange(len(made))
            if choose.random() < 0.5:
                made[place] = choose.randrange(256)
            else:
                del made[place]
        return bytes(made)

    async def work() -> int:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: unhandled.append(context))
        dropped = 0
        limits = Limits(seconds=0.05, connect_seconds=1.0, replays=0)
        for _ in range(250):
            async with peer(says(stream(), stay=False)) as target, Transport(target, limits=limits) as transport:
                calls = [transport.execute("GET", f"ai_cache:{number}") for number in range(4)]
                for got in await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 3):
                    assert got is None or isinstance(got, bytes | RedkeepError)
                    dropped += isinstance(got, WireError)
        return dropped

    assert asyncio.run(work()) > 60
    assert unhandled == []


def test_a_server_that_became_a_replica_is_looked_up_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """READONLY is the caller's error once; the connection is then made anew, and the name may lead to the new primary."""
    monkeypatch.setattr("redkeep.access.lane._RENEW_SECONDS", -1)

    async def work() -> bytes:
        logins = 0

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal logins
            logins += 1
            await says(b"-READONLY You can't write against a replica.\r\n" if logins == 1 else b"+OK\r\n")(reader, writer)

        async with peer(script) as target, Transport(target, limits=ONCE) as transport:
            with pytest.raises(ServerUnavailableError, match="READONLY"):
                await transport.execute("SET", "ai_cache:a", "v", "EX", 60)
            answer: bytes = await transport.execute("SET", "ai_cache:a", "v", "EX", 60)
            return answer

    assert asyncio.run(work()) == b"OK"


COMMANDS = [("GET", f"ai_cache:cut:{number}") for number in range(6)] + [("MGET", "ai_cache:cut:1", "ai_cache:cut:9")]


def recorded(start: Callable[..., Server]) -> tuple[bytes, list[int], list[object]]:
    """What a real server says to a login and COMMANDS: the bytes, where each reply ends, and the values."""
    server = start(tls_port="", port=str(free_port()), aclfile="")
    values: list[object] = [b"value \r\n of %d" % number for number in range(5)]
    with socket.create_connection(("127.0.0.1", server.plain_port)) as plain:
        plain.settimeout(3)

        def ask(*command: str | bytes) -> bytes:
            plain.sendall(pack_command(command))
            return plain.recv(65_536)

        stream = ask("HELLO", "3")
        for number, value in enumerate(values):
            ask("SET", f"ai_cache:cut:{number}", value)  # type: ignore[arg-type]
        ends = []
        for command in COMMANDS:
            stream += ask(*command)
            ends.append(len(stream))
    return stream, ends, [*values, None, [values[1], None]]


def test_replies_cut_at_every_byte(start: Callable[..., Server]) -> None:
    """A recorded stream, split in two at every byte, gives every caller its value; ended there, each caller gets its value or
    an error and never a part or another's."""
    stream, ends, wanted = recorded(start)
    login = stream.index(b"$13\r\nvalue")
    cuts = range(1, len(stream))

    async def work() -> None:
        for hang_up in (False, True):
            for cut in cuts:

                async def script(
                    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cut: int = cut, hang_up: bool = hang_up
                ) -> None:
                    await reader.read(65_536)
                    writer.write(stream[: min(cut, login)])
                    if cut > login:
                        await reader.read(65_536)
                        writer.write(stream[login:cut])
                    if hang_up:
                        return
                    await asyncio.sleep(0)
                    writer.write(stream[cut : max(cut, login)])
                    if cut <= login:
                        await reader.read(65_536)
                    writer.write(stream[max(cut, login) :])
                    await reader.read(65_536)

                async with peer(script) as target, Transport(target, limits=ONCE) as transport:
                    calls = [transport.execute(*command) for command in COMMANDS]
                    got = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 3)
                for value, wants, end in zip(got, wanted, ends, strict=True):
                    if not hang_up or end <= cut:
                        assert value == wants
                    else:
                        assert isinstance(value, ServerUnavailableError)

    asyncio.run(work())


def test_tls_byte_by_byte(server: Server) -> None:
    """TLS records that arrive a few bytes at a time make the same handshake and the same replies."""

    async def work() -> list[object]:
        async with proxy(server.port, chunk=3) as between:
            target = server.target(redis_url=f"rediss://127.0.0.1:{between.port}/0")
            async with Transport(target) as transport:
                await transport.execute("SET", "ai_cache:slow", b"s" * 3000, "EX", 60)
                return list(await asyncio.gather(*(transport.execute("GET", "ai_cache:slow") for _ in range(3))))

    assert asyncio.run(work()) == [b"s" * 3000] * 3


def test_a_login_reply_is_all_that_a_login_may_bring() -> None:
    """Bytes that follow the login's reply before anything was asked end the connection."""

    async def work() -> RedkeepError:
        async with peer(says(login=HELLO + b"$5\r\nextra\r\n")) as target, Transport(target, limits=ONCE) as transport:
            with pytest.raises(RedkeepError) as caught:
                await transport.execute("GET", "ai_cache:a")
            return caught.value

    assert isinstance(asyncio.run(work()), ServerUnavailableError)
