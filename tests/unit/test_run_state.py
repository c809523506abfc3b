"""The state of `redkeep migrate-data` between runs: what the next one goes on with, and what it begins anew without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from redkeep.migration.counts import Counts
from redkeep.migration.run_state import RunState

SAVED = {"number": 2, "cursor": 640, "counts": vars(Counts(seen=9, readable=7))}


def state(path: Path, **identity: Any) -> RunState:
    return RunState(path, **{"server": "redis:6380/0", "reverse": False, **identity})


def test_a_run_goes_on_where_the_one_before_was(tmp_path: Path) -> None:
    """The sweep, the cursor and the counts; nothing of a run against another server or in the other direction."""
    path = tmp_path / "state.json"
    state(path).save(**SAVED)  # type: ignore[arg-type]
    assert {name: state(path).load()[name] for name in SAVED} == SAVED
    assert state(path, server="other:6380/0").load() == {}
    assert state(path, reverse=True).load() == {}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(None, id="cut off"),
        pytest.param({"version": 1}, id="of another version"),
        pytest.param({"counts": {"seen": 9}}, id="without a count"),
        pytest.param({"counts": [9]}, id="with counts of another form"),
        pytest.param({"cursor": "640"}, id="with a cursor that is text"),
        pytest.param({"number": None}, id="without a sweep"),
    ],
)
def test_a_state_that_cannot_be_used_is_begun_anew_and_replaced(
    change: dict[str, Any] | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is done twice is only looked at twice: no run is refused for it, the next one either, and the log says so once."""
    path = tmp_path / "state.json"
    state(path).save(**SAVED)  # type: ignore[arg-type]
    text = path.read_text()
    path.write_text(text[:20] if change is None else json.dumps({**json.loads(text), **change}))
    assert state(path).load() == {}
    assert [record.message for record in caplog.records] == ["migration_state_unusable"]
    state(path).save(**SAVED)  # type: ignore[arg-type]
    assert state(path).load()["cursor"] == 640


def test_a_state_that_others_can_write_is_not_followed(tmp_path: Path) -> None:
    """Who skips entries for us would have them stay readable."""
    path = tmp_path / "state.json"
    state(path).save(**SAVED)  # type: ignore[arg-type]
    path.chmod(0o666)
    assert state(path).load() == {}
