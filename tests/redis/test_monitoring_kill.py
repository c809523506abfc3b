"""A monitoring that is killed, at any moment: nothing is counted twice or lost, and what was to be told is told."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.redis.receivers import webhook
from tests.redis.server import Files, Server
from tests.redis.watched import env_file, guess, monitoring_process, waited, webhook_settings

pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH")


def saved(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def refused_logins(path: Path) -> int:
    """How many the state file has counted."""
    return sum(total for kind, success, total, _ in saved(path)["events"]["tallies"] if (kind, success) == ("auth_attempt", False))


def test_killed_while_counting(start: Callable[..., Server], files: Files, tmp_path: Path) -> None:
    """200 wrong passwords while the monitoring is killed and started again, eight times: 200 are counted."""
    server, state = start(acllog_max_len="1024"), tmp_path / "state.json"
    path = env_file(server, tmp_path, security_monitor_state_file=state)
    attacker = threading.Thread(target=lambda: [(guess(server, times=10), time.sleep(0.1)) for _ in range(20)])
    with monitoring_process(path):
        assert waited(state.exists)
    attacker.start()
    chance = random.Random(6)
    for _ in range(8):
        with monitoring_process(path):
            time.sleep(0.3 + chance.random() / 2)
    attacker.join()
    with monitoring_process(path):
        assert waited(lambda: refused_logins(state) >= 200)
        time.sleep(0.3)
    assert 200 == refused_logins(state)


def test_killed_while_an_alert_is_under_way(start: Callable[..., Server], files: Files, tmp_path: Path) -> None:
    """A receiver that hangs, then the kill: the next start delivers the same alert, and the one after that does not."""
    server, state = start(), tmp_path / "state.json"
    with webhook(files) as (url, posts):
        path = env_file(server, tmp_path, security_monitor_state_file=state, **webhook_settings(files, url))
        hangs = threading.Event()

        def answer(number: int) -> tuple[int, dict[str, str]]:
            if number == 1:
                hangs.wait(30)
            return 200, {}

        posts.answer = answer
        guess(server, times=20)
        with monitoring_process(path):
            assert waited(lambda: len(posts.taken) == 1)
        hangs.set()
        with monitoring_process(path):
            assert waited(lambda: len(posts.taken) == 2)
            assert waited(lambda: not saved(state)["alerts"]["owed"])
        with monitoring_process(path):
            time.sleep(1.0)
        first, second = posts.documents()
        assert first == second


def test_killed_before_an_alert_arrives(start: Callable[..., Server], files: Files, tmp_path: Path) -> None:
    """The receiver is away while the alert fires and the monitoring is killed: it arrives when both are back."""
    server, state = start(), tmp_path / "state.json"
    with webhook(files) as (url, posts):
        posts.answer = lambda number: (503, {})
        path = env_file(server, tmp_path, security_monitor_state_file=state, **webhook_settings(files, url))
        guess(server, times=20)
        with monitoring_process(path):
            assert waited(lambda: bool(posts.taken))
        before = len(posts.taken)
        posts.answer = lambda number: (200, {})
        with monitoring_process(path):
            assert waited(lambda: not saved(state)["alerts"]["owed"])
        assert before + 1 == len(posts.taken)
        assert 1 == len({each["id"] for each in posts.documents()})
