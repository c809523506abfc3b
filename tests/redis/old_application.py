"""What an application with the old class leaves in Redis: its names, its pickles, its times to live."""

from __future__ import annotations

import json
import pickle
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from cryptography.fernet import Fernet

from redkeep.cache.keys import CacheKeyGenerator
from tests.redis.server import Server


class Request(NamedTuple):
    """What was asked, and the answer."""

    text: str
    operation: str
    options: dict[str, Any]
    question: str | None
    answer: dict[str, Any]

    @property
    def name(self) -> str:
        """Where the old class keeps it."""
        return CacheKeyGenerator().generate_cache_key(self.text, self.operation, self.options, self.question)


def requests(count: int) -> Iterator[Request]:
    """Requests of every kind that names and values differ by: short and long texts, options, questions, small and large answers."""
    for number in range(count):
        text = f"secret words {number} | a:b" + (" and more" * 200 if number % 3 == 1 else "")
        yield Request(
            text,
            ("summarize", "sentiment", "qa")[number % 3],
            {"max_length": number} if number % 2 else {},
            "why?" if number % 5 == 0 else None,
            {"answer": f"secret answer {number}", "list": [number, None, 1.5], "filler": "x" * (1500 if number % 7 == 0 else 10)},
        )


def value(answer: dict[str, Any], number: int, *, fernet_key: str = "") -> bytes:
    """The stored bytes of an answer: raw and compressed pickles, JSON, and the PRD's Fernet forms when there is a key for them."""
    stored = {**answer, "cached_at": "2026-01-01T00:00:00", "cache_hit": True, "text_length": 5, "compression_used": False}
    payload = pickle.dumps(stored)
    forms = [b"raw:" + payload, b"compressed:" + zlib.compress(payload), json.dumps(stored).encode()]
    if fernet_key:
        token = Fernet(fernet_key.encode()).encrypt(payload)
        forms += [b"encrypted:" + token, b"compressed_encrypted:" + zlib.compress(b"encrypted:" + token)]
    return forms[number % len(forms)]


def fill(server: Server, asked: list[Request], *, seconds: int = 3600, fernet_key: str = "") -> None:
    """Write the answers as the old class does, each a second longer than the one before."""
    with server.log_in() as operator:
        for first in range(0, len(asked), 500):
            part = asked[first : first + 500]
            replies = operator.ask(
                *(
                    ("SET", each.name, value(each.answer, first + place, fernet_key=fernet_key), "PX", str((seconds + first + place) * 1000))
                    for place, each in enumerate(part)
                )
            )
            assert replies == ["OK"] * len(part)
