"""An application of before: Debian's redis-py, many connections, no password of its own; it follows its settings file.

Runs on the lab's hosts, so it needs nothing but python3-redis: `old_app.py FOLDER CLIENTS OPERATIONS_A_SECOND ENTRIES`. It
reads the entries of before and writes its own; each is read back and compared. An operation that finds the connection
broken is tried again until its deadline; it has failed when that is over, or when another value comes back.

While FOLDER has a file `sealed`, entries may lie under names that it does not know: then nothing is found, which is counted
and no failure. Any other value is one.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from typing import Any

import redis

SETTINGS = "/etc/redkeep/cache.env"
DEADLINE_SECONDS = 10.0
TTL_SLACK_SECONDS = 2
GONE = -2


def text_of(number: int) -> bytes:
    """The value of an entry of before, in the base class's form."""
    return b'raw:{"summary": "text %d", "cached_at": "2026-11-24T10:00:00", "cache_hit": true}' % number


def key_of(number: int) -> str:
    """Its key."""
    return f"ai_cache:op:summarize|txt:text {number}"


def held(stored: bytes | None) -> Any:
    """What an entry holds, in either readable form: the old class' own, or the plain JSON of the way back."""
    try:
        return None if stored is None else json.loads(stored.removeprefix(b"raw:"))
    except ValueError:
        return stored


def version() -> float:
    """Changes when the settings do; 0.0 while there are none."""
    try:
        return os.stat(SETTINGS).st_mtime_ns
    except FileNotFoundError:
        return 0.0


def connect() -> tuple[Any, str]:
    """A client by the settings there are now, without any as it always was; and its user and port."""
    common = {"socket_timeout": 5, "socket_connect_timeout": 5}
    try:
        with open(SETTINGS, encoding="utf-8") as file:
            env = dict(line.rstrip("\n").split("=", 1) for line in file if line[0] not in "#\n")
    except FileNotFoundError:
        return redis.Redis(**common), "default:6379"
    login = {"username": env["REDIS_USERNAME"], "password": env["REDIS_PASSWORD"]}
    if env["REDIS_TLS_ENABLED"] == "true":
        login |= {
            "ssl_ca_certs": env["REDIS_TLS_CA_FILE"],
            "ssl_certfile": env["REDIS_TLS_CERT_FILE"],
            "ssl_keyfile": env["REDIS_TLS_KEY_FILE"],
        }
    way = f"{env['REDIS_USERNAME']}:{env['REDIS_URL'].rpartition(':')[2].partition('/')[0]}"
    return redis.Redis.from_url(env["REDIS_URL"], **login, **common), way


class Client(threading.Thread):
    """One connection, and what it met."""

    def __init__(self, number: int, folder: str, pause: float, expiries: list[float]) -> None:
        super().__init__()
        self.number, self.folder, self.pause, self.expiries = number, folder, pause, expiries
        self.operations, self.retried, self.missed, self.slowest = 0, 0, 0, 0.0
        self.failed: list[str] = []
        self.ways: list[str] = []
        self._link: Any = None
        self._version = -1.0

    def _linked(self) -> Any:
        if (now := version()) != self._version or self._link is None:
            if self._link is not None:
                self._link.connection_pool.disconnect()
            self._link, self._version = None, now
            link, way = connect()
            link.ping()
            self._link = link
            self.ways.append(way)
        return self._link

    def _try(self, what: str, *arguments: Any, **options: Any) -> Any:
        began, refusal = time.monotonic(), ""
        while time.monotonic() - began < DEADLINE_SECONDS:
            try:
                answer = getattr(self._linked(), what)(*arguments, **options)
            except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
                refusal = f"{type(error).__name__}: {str(error)[:120]}"
                if self._link is not None:
                    self._link.connection_pool.disconnect()
                self._link = None
                self.retried += 1
                time.sleep(0.05)
                continue
            except redis.RedisError as error:
                refusal = f"{type(error).__name__}: {str(error)[:120]}"
                break
            self.operations += 1
            self.slowest = max(self.slowest, time.monotonic() - began)
            return answer
        self.failed.append(f"{what}: {refusal}")
        return None

    def _sealed(self) -> bool:
        return os.path.exists(f"{self.folder}/sealed")

    def _may_miss(self, found: Any, sealed: bool) -> bool:
        """Whether nothing was found, and entries lay elsewhere before or lie there now; it is counted."""
        allowed = found is None and (sealed or self._sealed())
        self.missed += allowed
        return allowed

    def run(self) -> None:
        """Write and read until told to stop."""
        key, turn, due = f"ai_cache:op:qa|txt:client {self.number}", 0, time.monotonic()
        while not os.path.exists(f"{self.folder}/stop"):
            value = b"raw:%d" % turn
            self._try("set", key, value, ex=7200)
            sealed = self._sealed()
            if held(found := self._try("get", key)) != turn and not self._may_miss(found, sealed):
                self.failed.append(f"own value: {found!r}")
            entry = random.randrange(len(self.expiries))  # noqa: S311 - which entry is looked at
            if held(found := self._try("get", key_of(entry))) != held(text_of(entry)) and not self._may_miss(found, sealed):
                self.failed.append(f"entry {entry}: {found!r}")
            left = self._try("ttl", key_of(entry))
            off = 0.0 if left is None else abs(time.time() + left - self.expiries[entry])
            if off > TTL_SLACK_SECONDS and not self._may_miss(None if left == GONE else left, sealed):
                self.failed.append(f"TTL of entry {entry}: {left}")
            turn += 1
            if turn == 2:
                open(f"{self.folder}/ready{self.number}", "w").close()
            # The rate is that of the turns, however long the answers take; what a standstill cost is not made up for.
            due = max(due + self.pause, time.monotonic() - self.pause)
            time.sleep(max(0.0, due - time.monotonic()))


def fill(entries: int) -> list[float]:
    """The entries of before, and when each expires (seconds since 1970)."""
    link, expiries = redis.Redis(), []
    for begin in range(0, entries, 1000):
        pipe = link.pipeline(transaction=False)
        for number in range(begin, min(begin + 1000, entries)):
            seconds = 7200 + number % 1000
            pipe.setex(key_of(number), seconds, text_of(number))
            expiries.append(time.time() + seconds)
        pipe.execute()
    return expiries


def compare(expiries: list[float]) -> tuple[int, float]:
    """How many entries of before are lost or changed, and by how many seconds the furthest TTL is off."""
    (link, _), lost, off = connect(), 0, 0.0
    for begin in range(0, len(expiries), 500):
        numbers = range(begin, min(begin + 500, len(expiries)))
        pipe = link.pipeline(transaction=False)
        for number in numbers:
            pipe.get(key_of(number)).pttl(key_of(number))
        answers = pipe.execute()
        lost += sum(held(value) != held(text_of(number)) for number, value in zip(numbers, answers[::2], strict=True))
        off = max([off, *(abs(time.time() + left / 1000 - expiries[n]) for n, left in zip(numbers, answers[1::2], strict=True))])
    return lost, off


def main() -> None:
    """Fill, work, and print what was met as one JSON document."""
    folder, clients, rate, entries = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    expiries, began = fill(entries), time.monotonic()
    # Four operations a turn.
    threads = [Client(number, folder, 4 * clients / rate, expiries) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lost, off = compare(expiries)
    print(
        json.dumps(
            {
                "operations": sum(t.operations for t in threads),
                "retried": sum(t.retried for t in threads),
                "missed": sum(t.missed for t in threads),
                "slowest": max(t.slowest for t in threads),
                "failed": [text for t in threads for text in t.failed][:50],
                "ways": threads[0].ways,
                "seconds": round(time.monotonic() - began),
                "lost": lost,
                "ttl_off": round(off, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
