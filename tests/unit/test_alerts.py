"""The alert manager's rules: from how many on, how often, over, owed; with channels that only note what they are given."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from redkeep.cli.watch import line
from redkeep.dashboard.words import kind
from redkeep.errors import AlertError
from redkeep.monitoring.alert import Alert
from redkeep.monitoring.alert_settings import AlertSettings
from redkeep.monitoring.alerts import SimpleAlertManager
from redkeep.monitoring.events import SecurityMonitor


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class Noted:
    """A channel that keeps what it is given, or fails as it is told."""

    deadline_seconds = 1.0

    def __init__(self, name: str = "email", *, fails: Exception | None = None) -> None:
        self.name = name
        self.fails = fails
        self.taken: list[Alert] = []

    async def send(self, alert: Alert) -> None:
        if self.fails:
            raise self.fails
        self.taken.append(alert)


class Scene:
    """A manager with its monitor, its clock, a channel, and what was kept each time."""

    def __init__(self, *channels: Noted, **values: Any) -> None:
        self.clock = Clock()
        self.monitor = SecurityMonitor(clock=self.clock)
        self.channel = channels[0] if channels else Noted()
        self.kept: list[dict[str, Any]] = []
        self.manager = SimpleAlertManager(
            self.monitor, settings=AlertSettings(**values), channels=channels or [self.channel], keep=self.keep, clock=self.clock,
            private=["hunter2hunter2"],
        )  # fmt: skip

    async def keep(self) -> None:
        self.kept.append(self.manager.snapshot())

    def check(self, weak: dict[str, str] | None = None, *, unknown: Sequence[str] = ()) -> list[str]:
        """State and title of what a check tells; it is delivered before this returns."""

        async def run() -> list[Alert]:
            found = await self.manager.check_and_send_alerts(weak, unknown=unknown)
            await self.manager.close()
            return found

        return [f"{alert.state}: {alert.title}" for alert in asyncio.run(run())]


@pytest.mark.parametrize(
    ("kind", "least", "title"),
    [
        ("decryption_failure", 5, "Encryption Errors Detected"),
        ("downgrade_refused", 5, "Encryption Errors Detected"),
        ("node_down", 20, "Connection Failures Detected"),
        ("tls_failure", 20, "Connection Failures Detected"),
    ],
)
def test_the_threshold_is_where_it_fires(kind: Any, least: int, title: str) -> None:
    """One less is silence, the PRD's number is an alert, and an hour later it is over, told once."""
    scene = Scene()
    scene.monitor.record(kind, count=least - 1)
    assert [] == scene.check()
    scene.monitor.record(kind)
    assert [f"firing: {title}"] == scene.check()
    scene.clock.now += 3_700
    assert [f"resolved: {title}"] == scene.check()
    assert [] == scene.check()
    assert ["firing", "resolved"] == [alert.state for alert in scene.channel.taken]


def test_slow_failures_alarm_by_the_hour_and_guessing_at_once() -> None:
    """Ten failed logins in an hour; or five within five minutes, which says so and is an error."""
    slow, fast = Scene(), Scene()
    for _ in range(10):
        assert [] == slow.check()
        slow.clock.now += 330
        slow.monitor.record("auth_attempt", username="a", address="10.0.0.5")
    assert ["firing: High Authentication Failures"] == slow.check()
    assert ("warning", "a (10)") == (slow.channel.taken[0].severity, slow.channel.taken[0].details["users"])
    for _ in range(5):
        fast.monitor.record("auth_attempt")
    assert ["firing: High Authentication Failures"] == fast.check()
    assert ("error", True) == (fast.channel.taken[0].severity, "is guessing passwords" in fast.channel.taken[0].message)


def test_what_lasts_is_repeated_after_the_cooldown() -> None:
    """Once in fifteen minutes while it goes on, whatever the number of checks."""
    scene = Scene()
    told = 0
    for _ in range(60):
        scene.monitor.record("decryption_failure", count=6)
        told += len(scene.check())
        scene.clock.now += 60
    assert 4 == told


def test_what_goes_up_and_down_is_told_once_a_cooldown() -> None:
    """Around its threshold, minute by minute: one alert and one end in fifteen minutes, not one of each a minute."""
    scene = Scene()
    scene.monitor.record("decryption_failure", count=5)
    told = scene.check()
    for minute in range(61, 61 + 14):
        scene.clock.now = 1_700_000_000 + minute * 60
        told += scene.check()
        scene.monitor.record("decryption_failure", count=5, when=scene.clock.now - 3_600)
        told += scene.check()
    assert ["firing", "resolved", "firing", "resolved"] == [each.partition(":")[0] for each in told]


def test_guessing_is_told_at_once() -> None:
    """Slow failures were told of a minute ago; when somebody begins to guess that is another alert, and the only one."""
    scene = Scene()
    for _ in range(10):
        scene.monitor.record("auth_attempt")
        scene.clock.now += 330
    assert ["firing: High Authentication Failures"] == scene.check()
    scene.clock.now += 60
    scene.monitor.record("auth_attempt", count=50)
    assert ["firing: High Authentication Failures"] == scene.check()
    for _ in range(13):
        scene.clock.now += 60
        scene.monitor.record("auth_attempt", count=3)
        assert [] == scene.check()
    assert ["warning", "error"] == [alert.severity for alert in scene.channel.taken]


def test_a_weak_control_is_told_once_and_another_is_news() -> None:
    """The same weakness is not repeated within the cooldown, healed in between or not; one more is told at once; None leaves it as it is."""
    scene = Scene()
    login, both = {"login": "deploy again"}, {"login": "deploy again", "mutual TLS": ""}
    found = [scene.check(each) for each in (login, login, both, login, None, both, {}, {}, login, {})]
    assert [1, 0, 1, 0, 0, 0, 1, 0, 0, 0] == list(map(len, found))
    assert "resolved: Posture Weakened" == found[6][0]
    assert "see `redkeep status`" == scene.channel.taken[1].details["mutual TLS"]
    scene.clock.now += 900
    assert ["firing: Posture Weakened"] == scene.check(login)


def test_of_several_weak_controls_one_heals() -> None:
    """No alert: what lasts names from then on only what is weak still, with its remedy, as does what is repeated; the end names what was told."""
    scene = Scene()
    assert ["firing: Posture Weakened"] == scene.check({"login on a:1": "deploy", "mutual TLS": "", "login on b:1": "deploy again"})
    assert [] == scene.check({"login on b:1": "deploy again"})
    (lasts,) = scene.manager.report()["active"]
    assert ("Weak: login on b:1", {"login on b:1": "deploy again"}) == (lasts["message"], lasts["details"])
    scene.manager.restore(scene.manager.snapshot())
    assert [] == scene.check({"login on b:1": "deploy again"})
    assert "Weak: login on b:1" == scene.manager.report()["active"][0]["message"]
    scene.clock.now += 900
    assert ["firing: Posture Weakened"] == scene.check({"login on b:1": "deploy again"})
    assert ["resolved: Posture Weakened"] == scene.check({})
    both = "Weak: login on a:1, login on b:1, mutual TLS"
    assert [both, "Weak: login on b:1", "Over: Weak: login on b:1"] == [alert.message for alert in scene.channel.taken]


def test_many_weak_controls_are_counted_not_listed() -> None:
    """Ten nodes that lost everything make no endless line."""
    scene = Scene()
    scene.check({f"login on n{number:02}:1": "" for number in range(30)})
    (alert,) = scene.channel.taken
    assert alert.message.endswith("login on n07:1 and 22 more")
    assert 8 == len(alert.details)


def test_a_weak_control_that_lasts_is_repeated() -> None:
    """Once in fifteen minutes while it goes on, as every other kind; its end is told once."""
    scene = Scene()
    told = []
    for _ in range(120):
        told += scene.check({"login": ""})
        scene.clock.now += 30
    assert ["firing: Posture Weakened"] * 4 == told
    assert ["resolved: Posture Weakened"] == scene.check({}) + scene.check({})


def test_a_control_that_goes_up_and_down_is_told_once_a_cooldown() -> None:
    """Weak and healed every thirty seconds, over a restart too: one alert and one end in fifteen minutes; another control is news."""
    scene, told = Scene(), []
    for _ in range(15):
        for weak in ({"login": ""}, {}):
            told += scene.check(weak)
            scene.clock.now += 29
        scene.manager.restore(scene.manager.snapshot())
    assert ["firing: Posture Weakened", "resolved: Posture Weakened"] == told
    assert ["firing: Posture Weakened"] == scene.check({"mutual TLS": ""})


def test_a_weakness_is_not_over_because_nobody_can_look() -> None:
    """The server does not answer: what was weak may be weak still, and is neither over nor news when it is seen again; healed, it is over."""
    scene = Scene()
    assert ["firing: Posture Weakened"] == scene.check({"mutual TLS": "", "login": ""})
    assert [] == scene.check({}, unknown=["mutual TLS", "login", "wrong password"])
    assert [("posture", "Cannot be checked now, was weak: login, mutual TLS", {})] == [
        (each["kind"], each["message"], each["details"]) for each in scene.manager.report()["active"]
    ]
    assert [] == scene.check({"mutual TLS": "", "login": ""})
    assert [] == scene.check({"login": ""}, unknown=["mutual TLS"])
    assert "Weak: login. Cannot be checked now, was weak: mutual TLS" == scene.manager.report()["active"][0]["message"]
    assert [] == scene.check({"mutual TLS": ""})
    assert ["resolved: Posture Weakened"] == scene.check({}, unknown=["login"])
    scene.clock.now += 900
    assert ["firing: Posture Weakened"] == scene.check({"mutual TLS": "", "login": ""})
    assert [] == scene.check({}, unknown=["login"])
    scene.clock.now += 900
    assert ["firing: Posture Weakened"] == scene.check({"mutual TLS": ""}, unknown=["login"])


def test_what_nobody_could_tell_is_no_alert() -> None:
    """A control that is unknown and was not weak before is told by the posture, not by an alert."""
    assert [] == Scene().check({}, unknown=["mutual TLS"])


def test_no_secret_stands_in_an_alert() -> None:
    """A password typed as a user name does not go out by mail."""
    scene = Scene()
    scene.monitor.record("auth_attempt", username="hunter2hunter2", count=20)
    scene.check()
    assert "[REDACTED] (20)" == scene.channel.taken[0].details["users"]


def test_an_alert_is_told_everywhere(caplog: pytest.LogCaptureFixture) -> None:
    """In the log with all its fields, a warning while it fires and no longer at its end; as an event; in the report, the last one first,
    and as active until it is over."""
    scene = Scene()
    scene.monitor.record("auth_attempt", count=20)
    scene.monitor.record("decryption_failure", count=20)
    with caplog.at_level("INFO"):
        scene.check()
        assert {"auth_failures_per_hour", "encryption_errors_per_hour"} == {each["kind"] for each in scene.manager.report()["active"]}
        scene.clock.now += 3_700
        scene.check()
    report = scene.manager.report()
    assert ([], ["resolved", "resolved", "firing", "firing"]) == (report["active"], [each["state"] for each in report["recent"]])
    told = [record for record in caplog.records if record.message == "security_alert"]
    assert ["WARNING", "WARNING", "INFO", "INFO"] == [record.levelname for record in told]
    assert {"High Authentication Failures", "Encryption Errors Detected"} == {vars(record)["alert_title"] for record in told}
    assert all(alert.host for alert in scene.channel.taken)
    events = [event for event in scene.monitor.security_events if event.type == "alert"]
    assert [("firing", True), ("firing", True), ("resolved", True), ("resolved", True)] == [(e.details["state"], e.success) for e in events]


def test_the_event_says_what_was_sent_and_how() -> None:
    """Message and channels, on the line of `redkeep watch` and in the words of the page; without a channel neither says "sent"."""
    with_two, alone = Scene(Noted("email"), Noted("webhook")), Scene()
    alone.manager = SimpleAlertManager(alone.monitor, settings=AlertSettings(), channels=[], clock=alone.clock)
    for scene in (with_two, alone):
        scene.monitor.record("decryption_failure", count=7)
        scene.check()
    sent, unsent = (next(event for event in scene.monitor.security_events if event.type == "alert") for scene in (with_two, alone))
    assert ("email, webhook", "") == (sent.details["channels"], unsent.details["channels"])
    assert "alert sent" == kind(sent.as_dict())
    assert "told=7 values that could not be decrypted in the last hour  channels=email, webhook" in line(sent)
    assert "alert, in the log only" == kind(unsent.as_dict())
    assert "alert due, watch sends none  alert=encryption_errors_per_hour  state=firing" in line(unsent)
    assert "sent" not in line(unsent)


def test_a_channel_that_works_again() -> None:
    """The report shows its last error until it delivers."""
    scene = Scene(Noted(fails=AlertError("no")))
    scene.monitor.record("auth_attempt", count=20)
    scene.check()
    report = {each["name"]: each for each in scene.manager.report()["channels"]}
    assert ("no", None, 1) == (report["email"]["last_error"], report["email"]["last_delivered"], report["email"]["failed"])
    scene.channel.fails = None
    scene.clock.now += 3_700
    scene.check()
    report = {each["name"]: each for each in scene.manager.report()["channels"]}
    assert ("", 1, 1) == (report["email"]["last_error"], report["email"]["delivered"], report["email"]["failed"])
    assert str(report["email"]["last_delivered"]).endswith("+00:00")


def test_owed_is_kept_before_and_struck_out_after() -> None:
    """Before a channel is tried the alert is in the snapshot as owed, after it is not; a failure for good is not owed either."""
    refuses = Noted("webhook", fails=AlertError("no"))
    scene = Scene(Noted(), refuses)
    scene.monitor.record("auth_attempt", count=20)
    scene.check()
    assert [2, 0] == [len(scene.kept[0]["owed"]), len(scene.kept[-1]["owed"])]
    assert 1 == scene.monitor.count("alert_not_delivered")
    channels = {each["name"]: (each.get("delivered"), each.get("failed")) for each in scene.manager.report()["channels"]}
    assert {"log": (None, None), "email": (1, 0), "webhook": (0, 1)} == channels


def test_a_restart_sends_what_was_owed() -> None:
    """The first check after a restart delivers it, the same by its id, to the channels that are still there; and nothing twice."""
    before = Scene()
    before.monitor.record("auth_attempt", count=20)
    before.check()
    owing = before.kept[0]
    after = Scene()
    after.monitor.record("auth_attempt", count=20)
    after.manager.restore({**owing, "owed": [*owing["owed"], ["pager", owing["owed"][0][1]]]})
    assert [] == after.check()
    assert before.channel.taken == after.channel.taken
    assert [] == after.check()
    assert 1 == len(after.channel.taken) == len(after.manager.report()["recent"])


def test_a_channel_with_a_fault_of_its_own() -> None:
    """An exception that no channel should raise is that channel's failure, named by its type alone."""
    scene = Scene(Noted("webhook", fails=RuntimeError("hunter2")), Noted())
    results = asyncio.run(scene.manager.send_test_alert())
    assert {"ok": False, "detail": "failed unexpectedly (RuntimeError)"} == results["webhook"]
    assert ({"ok": True, "detail": ""},) * 2 == (results["log"], results["email"])


def test_deliveries_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """When too many hang, the next is a failure that says so, not one more task."""
    monkeypatch.setattr("redkeep.monitoring.alerts._UNDER_WAY", 1)
    scene = Scene()
    scene.monitor.record("auth_attempt", count=20)
    scene.monitor.record("decryption_failure", count=20)
    assert 2 == len(scene.check())
    assert 1 == len(scene.channel.taken)
    (event,) = [each for each in scene.monitor.security_events if each.type == "alert_not_delivered"]
    assert "too many deliveries" in event.details["reason"]


def test_a_channel_that_never_ends_is_owed_at_the_end() -> None:
    """`close` ends it after its seconds, and the alert stays owed."""

    class Hangs(Noted):
        deadline_seconds = 60.0

        async def send(self, alert: Alert) -> None:
            await asyncio.Event().wait()

    scene = Scene(Hangs())
    scene.monitor.record("auth_attempt", count=20)

    async def run() -> None:
        await scene.manager.check_and_send_alerts()
        await scene.manager.close(seconds=0.05)

    asyncio.run(run())
    assert 1 == len(scene.manager.snapshot()["owed"])


@pytest.mark.parametrize(
    "saved",
    [
        {},
        {"firing": 3},
        {"firing": {}, "told": {}, "owed": [["email"]], "recent": []},
        {"firing": {"k": [1]}, "told": {}, "owed": [], "recent": []},
    ],
)
def test_a_snapshot_of_something_else(saved: dict[str, Any]) -> None:
    """It is refused, and what was there stays."""
    scene = Scene()
    before = scene.manager.snapshot()
    with pytest.raises(ValueError, match=r"no snapshot of alerts|not enough values"):
        scene.manager.restore(saved)
    assert before == scene.manager.snapshot()
