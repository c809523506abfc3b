"""When the transport tries again, on a clock that does not tick by itself."""

from __future__ import annotations

import pytest

from redkeep.access import reconnect
from redkeep.access.limits import Limits, limits_of
from redkeep.access.reconnect import CAP_SECONDS, LOST_CAP_SECONDS, PATIENCE_SECONDS, REFUSED_SECONDS, Reconnect
from redkeep.errors import AuthenticationError, ConfigurationError, ServerUnavailableError, TLSError
from redkeep.target import build_target


class Clock:
    """Seconds, moved by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock, and jitter that always draws the longest delay."""
    monkeypatch.setattr(reconnect.random, "uniform", lambda low, high: high)
    return Clock()


def test_the_first_attempt_is_at_once(clock: Clock) -> None:
    """Nothing has failed: no delay, nothing to give up."""
    fresh = Reconnect(clock)
    assert fresh.delay() == 0
    assert not fresh.gives_up()


def test_delays_double_up_to_the_cap(clock: Clock) -> None:
    """Each failure doubles the longest delay until the cap; a login begins anew."""
    attempts = Reconnect(clock)
    delays = []
    for _ in range(12):
        attempts.failed(ServerUnavailableError("down"))
        delays.append(round(attempts.delay(), 6))
    assert delays[:4] == [0.02, 0.04, 0.08, 0.16]
    assert delays[-1] == CAP_SECONDS
    attempts.up()
    attempts.failed(ServerUnavailableError("down"))
    assert round(attempts.delay(), 6) == 0.02


def test_jitter_is_full() -> None:
    """Delays fill the whole range from zero: clients of one server do not come back together."""
    delays = []
    for _ in range(400):
        attempts = Reconnect(lambda: 100.0)
        for _ in range(5):
            attempts.failed(ServerUnavailableError("down"))
        delays.append(attempts.delay())
    assert max(delays) <= 0.32
    assert min(delays) < 0.05
    assert max(delays) > 0.27


@pytest.mark.parametrize("error", [AuthenticationError("no"), TLSError("no"), ConfigurationError("no")])
def test_a_refusal_waits_longer_and_is_told_at_once(clock: Clock, error: Exception) -> None:
    """A refused login is tried no more than once a second, and callers hear of it without patience."""
    attempts = Reconnect(clock)
    attempts.up()
    attempts.lost()
    attempts.failed(error)  # type: ignore[arg-type]
    assert attempts.gives_up()
    assert attempts.delay() >= REFUSED_SECONDS
    attempts.forget()
    assert attempts.delay() == 0


def test_a_short_absence_is_waited_for(clock: Clock) -> None:
    """After a loss failures are not told before patience is over; a server that was never there is told of at once."""
    attempts = Reconnect(clock)
    attempts.failed(ServerUnavailableError("down"))
    assert attempts.gives_up()
    attempts.up()
    attempts.lost()
    attempts.failed(ServerUnavailableError("down"))
    assert not attempts.gives_up()
    clock.now += PATIENCE_SECONDS + 0.01
    assert attempts.gives_up()


def test_callers_hear_of_a_lost_server_soon_after_patience(clock: Clock) -> None:
    """While they wait attempts are never far apart, so the one that ends the wait is not; afterwards delays double from there."""
    attempts = Reconnect(clock)
    attempts.up()
    clock.now += 60
    attempts.lost()
    lost = clock.now
    while True:
        clock.now += attempts.delay()
        attempts.failed(ServerUnavailableError("down"))
        if attempts.gives_up():
            break
    assert clock.now - lost <= PATIENCE_SECONDS + LOST_CAP_SECONDS
    first = attempts.delay()
    assert first <= 2 * LOST_CAP_SECONDS
    attempts.failed(ServerUnavailableError("down"))
    assert attempts.delay() == pytest.approx(2 * first)


def test_a_flapping_server_is_not_besieged(clock: Clock) -> None:
    """Connections that do not last are made anew with longer delays, up to a cap; one that lasts begins anew."""
    attempts = Reconnect(clock)
    delays = []
    for _ in range(8):
        attempts.up()
        attempts.lost()
        delays.append(round(attempts.delay(), 6))
    assert delays[:3] == [0.02, 0.04, 0.08]
    assert delays[-1] == LOST_CAP_SECONDS
    attempts.up()
    clock.now += 2
    attempts.lost()
    assert round(attempts.delay(), 6) == 0.02


def test_limits_come_from_the_url() -> None:
    """The query of REDIS_URL sets what it has names for; nonsense there is a ConfigurationError."""

    def limits(query: str) -> Limits:
        return limits_of(build_target(environment="development", redis_url=f"redis://127.0.0.1:1/0?{query}"))

    assert limits("") == Limits()
    assert limits("socket_timeout=2&socket_connect_timeout=1.5&client_name=mine") == Limits(
        seconds=2.0, connect_seconds=1.5, client_name="mine"
    )
    for wrong in ("soon", "0", "-1", "nan", "inf"):
        with pytest.raises(ConfigurationError):
            limits(f"socket_timeout={wrong}")
    for query in ("client_name=a%20b", "client_name=%0a", "socket_connect_timeout=0"):
        with pytest.raises(ConfigurationError):
            limits(query)


@pytest.mark.parametrize(
    "change", [{"seconds": 0}, {"commands_in_flight": 0}, {"replays": -1}, {"reply_bytes": 0}, {"client_name": "é"}]
)
def test_limits_are_sane(change: dict[str, float | str]) -> None:
    """A limit that would stop everything is refused when it is set."""
    with pytest.raises(ConfigurationError):
        Limits(**change)  # type: ignore[arg-type]
