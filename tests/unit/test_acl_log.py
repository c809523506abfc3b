"""The book of ACL LOG, held against a model of the server's list: what the server refused is what is counted, once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redkeep.errors import ServerUnavailableError
from redkeep.monitoring.acl_log import AclBook, first_entries, parse_acl_log, split_probes
from redkeep.monitoring.probes import PROBE_NAME, PROBED_USER_OBJECT

KINDS = [("auth", "toplevel", b"AUTH", f"user{n}".encode()) for n in range(14)] + [("command", "multi", b"keys", b"cache_service")]


@dataclass
class Log:
    """What Redis does in acl.c, addACLLogEntry: a refusal like one of the first ten within 60 s counts that one up."""

    ids: bool
    length: int = 1_024
    now: float = 0.0
    number: int = 0
    entries: list[dict[str, Any]] = field(default_factory=list)

    def refuse(self, kind: tuple[str, str, bytes, bytes], *, client: str = "id=1 addr=10.0.0.5:4711 name= user=default", times: int = 1) -> None:
        for _ in range(times):
            same = next((each for each in self.entries[:10] if each["kind"] == kind and self.now - each["at"] <= 60), None)
            if same:
                self.entries.remove(same)
                same["count"] += 1
            else:
                same = {"kind": kind, "count": 1, "id": self.number}
                self.number += 1
            same |= {"at": self.now, "client": client}
            self.entries.insert(0, same)
            del self.entries[self.length :]

    def reply(self, first: int) -> list[list[object]]:
        found = []
        for each in self.entries[:first]:
            reason, context, what, user = each["kind"]
            row: list[object] = [b"count", each["count"], b"reason", reason.encode(), b"context", context.encode(), b"object", what]
            row += [b"username", user, b"age-seconds", f"{self.now - each['at']:.3f}".encode(), b"client-info", each["client"].encode()]
            found.append([*row, b"entry-id", each["id"]] if self.ids else row)
        return found


@pytest.mark.parametrize("ids", [True, False])
@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, len(KINDS) - 1), st.integers(1, 4), st.sampled_from([0, 0, 0, 1, 30, 61])), max_size=12),
        min_size=1, max_size=8,
    ),
    st.booleans(),
)  # fmt: skip
def test_every_refusal_is_counted_once(ids: bool, looks: list[list[tuple[int, int, int]]], restarts: bool) -> None:
    """Any refusals between any looks, over three connections, with restarts of ours between or not: the sums agree by user."""
    log, book = Log(ids), AclBook()
    refused: dict[str, int] = {}
    counted: dict[str, int] = {}
    for look in looks:
        most = 0
        for place, times, pause in look:
            log.now += pause
            log.refuse(KINDS[place], client=f"id={place % 3} addr=10.0.0.5:{place} age={int(log.now)} user=default", times=times)
            name = KINDS[place][3].decode()
            refused[name] = refused.get(name, 0) + times
            most += times
        for denial, growth in book.enter(parse_acl_log(log.reply(first_entries(most))), most=most) if most else ():
            counted[denial.user] = counted.get(denial.user, 0) + growth
        if restarts:
            book = AclBook(book.snapshot())
    assert refused == counted


def test_an_entry_says_who_and_from_where() -> None:
    """User, address without the port, age; names are harmless already."""
    log = Log(ids=True, now=5.0)
    log.refuse(("auth", "toplevel", b"AUTH", b"x\r\n\x1b"), client="id=7 addr=[2001:db8::1]:4711 laddr=x name=n\x1b user=default")
    log.now = 7.5
    (denial,) = parse_acl_log(log.reply(1))
    assert ("x\\r\\n\\x1b", "2001:db8::1", "default", "n\\x1b", 2.5) == (
        denial.user, denial.address, denial.client_user, denial.client_name, denial.age,
    )  # fmt: skip


@pytest.mark.parametrize("reply", [b"OK", 3, None, [b"x"], [[b"count"]], [3]])
def test_no_acl_log(reply: object) -> None:
    """A reply that no Redis would send is said to be one."""
    with pytest.raises(ServerUnavailableError, match="ACL LOG"):
        parse_acl_log(reply)


def test_odd_fields_do_no_harm() -> None:
    """Fields that are missing, or of another type, become values that say so."""
    (denial,) = parse_acl_log([[b"reason", b"new-reason", b"age-seconds", b"soon", b"count", b"many"]])
    assert ("command", "", "", 1, 0.0) == (denial.reason, denial.user, denial.address, denial.times, denial.age)


def test_a_snapshot_of_something_else_is_refused() -> None:
    """Rows that are no entries."""
    for rows in ([[1, 2, 3]], [["a", "b", "c"]]):
        with pytest.raises(ValueError, match="not an entry"):
            AclBook({"entries": rows})


def test_probes_are_told_from_attacks() -> None:
    """What our posture tries counts as probes, but only so many at once; the same words from anybody else are an attack."""
    log = Log(ids=True)
    ours, probe = ("auth", "toplevel", PROBED_USER_OBJECT.encode(), PROBE_NAME.encode()), f"id=1 addr=x:1 name={PROBE_NAME} user=default"
    log.refuse(ours, times=10)
    log.refuse(("auth", "toplevel", PROBED_USER_OBJECT.encode(), b"default"), client=probe)
    log.refuse(("auth", "toplevel", b"AUTH", b"default"), client=probe)
    own = ("auth", "toplevel", PROBED_USER_OBJECT.encode(), b"cache_service")
    log.refuse(own, client=f"id=2 addr=x:2 name={PROBE_NAME} user=cache_service")
    log.now += 61
    log.refuse(own, client=f"id=3 addr=x:3 name={PROBE_NAME} user=cache_janitor")
    log.refuse(("auth", "toplevel", b"AUTH", PROBE_NAME.encode()))
    log.refuse(("command", "multi", b"keys", b"cache_service"), client=probe)
    log.refuse(("command", "multi", b"flushall", b"cache_service"), client=probe)
    log.refuse(("command", "toplevel", b"keys", b"cache_service"), client=probe)
    tried = ("auth", "toplevel", PROBED_USER_OBJECT.encode(), b"operator")
    log.refuse(tried, client="id=4 addr=x:4 name= user=monitor")
    log.now += 61
    log.refuse(tried, client=f"id=5 addr=x:5 name={PROBE_NAME} user=cache_service")
    others, probes = split_probes(AclBook().enter(parse_acl_log(log.reply(20))))
    assert 8 + 1 + 1 + 1 + 1 == probes
    told = [(denial.user, denial.object, growth) for denial, growth in others]
    assert [("redkeep-probe", "AuTh", 2), ("default", "AUTH", 1), ("cache_service", "AuTh", 1), ("redkeep-probe", "AUTH", 1)] == told[:4]
    assert [("cache_service", "flushall", 1), ("cache_service", "keys", 1)] == told[4:6]
    assert [("operator", "AuTh", 1)] == told[6:]
