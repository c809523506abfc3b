"""How far, how fast, how long: the numbers of a sweep; and what the command shows of them."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redkeep.cli.migrate_data import _default_state, line, summary
from redkeep.errors import ConfigurationError
from redkeep.migration.counts import Counts, Progress
from redkeep.migration.progress import Pace, span, swept


@pytest.mark.parametrize(("home", "says"), [(None, "this user has no home"), ("/proc/none", "cannot be kept in /proc/none/.local/state/redkeep")])
def test_a_user_without_a_home_is_told_to_name_a_file(home: str | None, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An account that is not in /etc/passwd, as in many containers, or whose folder cannot be made: one sentence."""

    def no_home() -> Path:
        if home is None:
            raise RuntimeError("Could not determine home directory.")
        return Path(home)

    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(ConfigurationError, match=rf"{says}.*name a file with --state"):
        _default_state()


@given(st.integers(1, 40), st.data())
def test_the_cursor_says_how_much_is_done(bits: int, data: st.DataObject) -> None:
    """Redis counts buckets with the bits reversed: whatever the size of the table, the part done comes out exactly."""
    bucket = data.draw(st.integers(1, 2**bits - 1))
    cursor = int(f"{bucket:0{bits}b}"[::-1], 2)
    assert swept(cursor) == bucket / 2**bits
    assert swept(0) == 1


def test_the_pace_is_kept_without_bursts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is taken at once is waited for afterwards; a long pause is made up for by a quarter of a second at most."""
    now, waited = 0.0, []

    async def sleep(seconds: float) -> None:
        nonlocal now
        waited.append(round(seconds, 6))
        now += seconds

    monkeypatch.setattr(asyncio, "sleep", sleep)

    async def work() -> None:
        nonlocal now
        pace = Pace(100, clock=lambda: now)
        for _ in range(3):
            await pace.take(10)
        now += 60
        for _ in range(4):
            await pace.take(10)
        await Pace(0).take(1e9)

    asyncio.run(work())
    assert waited == [0.1, 0.1, 0.1, 0, 0, 0.05, 0.1, 0]


@pytest.mark.parametrize(("seconds", "words"), [(0, "0 s"), (59.4, "59 s"), (61, "1 min 1 s"), (7500, "2 h 5 min")])
def test_times_for_people(seconds: float, words: str) -> None:
    """In the two largest units."""
    assert span(seconds) == words


def test_the_line_of_progress() -> None:
    """Bar, part, counts, and an estimate once there is one."""
    counts = Counts(seen=1000, readable=900)
    assert line(Progress(1, 0.25, 30, counts)) == "moving [######..................]  25%  900 moved of 1,000 seen, about 1 min 30 s left"
    assert line(Progress(2, 0.001, 30, counts)).startswith("checking [")
    assert Progress(1, 0.0, 1, counts).seconds_left == math.inf


def test_the_summary_of_the_way_back() -> None:
    """A sentence for each thing that was done or is left."""
    counts = Counts(returned=5, superseded=1, invalidated=2, without_old_name=3, left=4)
    said = summary(counts, seconds=5, dry_run=False, reverse=True).splitlines()
    assert said[0] == "5 entries restored to readable form under their old names, in 5 s; 0 of them read back and compared"
    assert [sentence.split()[0] for sentence in said[1:]] == ["2", "1", "3", "4"]
