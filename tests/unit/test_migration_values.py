"""Stages, readiness and journal of a migration: plain values."""

from __future__ import annotations

import json

import pytest

from redkeep.errors import ConfigurationError
from redkeep.migration.journal import Entry, Event, Holder, Position, parse, position
from redkeep.migration.readiness import (
    OWN_NAME,
    among,
    bystanders,
    not_among,
    not_on_port,
    older_than,
    parse_client_list,
    refusal,
)
from redkeep.migration.stages import NAMES, STAGES, check_back, check_forward, find, following

LIST = f"""id=3 addr=127.0.0.1:40112 laddr=127.0.0.1:6379 fd=8 name= age=7300 flags=N db=0 cmd=get user=default lib-name=redis-py lib-ver=5.0.1
id=4 addr=10.0.0.5:40114 laddr=10.0.0.2:6380 fd=9 name=worker age=90 idle=0 flags=N db=0 cmd=set user=cache_service
id=5 addr=/run/redis/redis.sock:0 laddr=/run/redis/redis.sock:0 fd=10 name= age=1 idle=1 flags=U db=0 cmd=get user=default
id=6 addr=127.0.0.1:40118 laddr=127.0.0.1:6379 fd=11 name={OWN_NAME} age=0 idle=0 flags=N db=0 cmd=client|list user=operator
id=7 addr=10.0.0.9:40118 laddr=10.0.0.2:6379 fd=11 name= age=0 idle=0 flags=S db=0 cmd=replconf user=default
id=8 addr=127.0.0.1:40119 laddr=127.0.0.1:6379 fd=12 name={OWN_NAME} age=0 idle=0 flags=N db=0 cmd=get user=default
id=9 addr=10.0.0.3:6379 laddr=10.0.0.2:40120 fd=13 name= age=0 idle=0 flags=M db=0 cmd=set user=default
"""


def entry(stage: str, event: Event, what: str = "") -> Entry:
    return Entry(stage=stage, event=event, what=what, who="ann@desk", run="1")


def test_each_stage_says_all_of_itself() -> None:
    """Every stage has actions, a validation, a rollback, a risk and a duration; names are the PRD's, then close."""
    assert NAMES == ("preparation", "authentication", "tls", "application_encryption", "access_control", "close")
    for stage in STAGES:
        assert stage.actions
        assert stage.minutes > 0
        assert all((stage.description, stage.validation, stage.rollback, stage.risk))


def test_an_unknown_stage_is_refused_with_the_nearest() -> None:
    """A misspelled stage is named the right one, and all of them in their order."""
    with pytest.raises(ConfigurationError, match=r"did you mean authentication\? The stages are.*preparation, authentication"):
        find("authenticaton")
    assert find("tls_optional").name == "tls"


def test_stages_go_in_order() -> None:
    """The one due may run, the last one done may run again, all others are refused with the reason."""
    assert check_forward("preparation", ()).name == "preparation"
    assert check_forward("preparation", ("preparation",)).name == "preparation"
    with pytest.raises(ConfigurationError, match="tls is out of order; authentication comes first"):
        check_forward("tls", ("preparation",))
    with pytest.raises(ConfigurationError, match="preparation is already done; the last one done is authentication"):
        check_forward("preparation", NAMES[:2])
    assert following(NAMES) is None
    assert check_forward("close", NAMES).name == "close"


def test_the_way_back_is_the_way_in_reverse() -> None:
    """Going back before a stage undoes the last one first; what is not done cannot be undone."""
    assert [stage.name for stage in check_back("authentication", NAMES[:3])] == ["tls", "authentication"]
    with pytest.raises(ConfigurationError, match="close is not done, so there is nothing to undo; the last one done is tls"):
        check_back("close", NAMES[:3])
    with pytest.raises(ConfigurationError, match="none is done"):
        check_back("tls", ())


def test_the_list_of_clients_is_understood() -> None:
    """Ports, users, names and ages; a replica is a client, the server's own link to a primary is none."""
    found = parse_client_list(LIST)
    assert [(s.number, s.port, s.user, s.age) for s in found] == [
        (3, 6379, "default", 7300),
        (4, 6380, "cache_service", 90),
        (5, 0, "default", 1),
        (6, 6379, "operator", 0),
        (7, 6379, "default", 0),
        (8, 6379, "default", 0),
    ]


def test_nobody_hides_behind_the_name_of_our_survey() -> None:
    """Our own session is in nobody's way; whoever else takes its name is seen all the same."""
    assert [s.number for s in bystanders(parse_client_list(LIST))] == [3, 4, 5, 7, 8]


def test_who_is_not_ready_is_named() -> None:
    """A sentence names the address, user, port, time and library of each client in the way, and what to do."""
    found = parse_client_list("\n".join(LIST.splitlines()[:3]))
    assert [s.number for s in not_on_port(found, 6380)] == [3, 5]
    assert [s.number for s in not_among(found, {"cache_service"})] == [3, 5]
    assert [s.number for s in among(found, {"cache_service"})] == [4]
    assert [s.number for s in older_than(found, 91)] == [3]
    assert [s.number for s in older_than(found, 90)] == [3, 4]
    sentence = refusal(found, what="still use plaintext", remedy="Move them.")
    assert "3 clients still use plaintext" in sentence
    assert "127.0.0.1:40112 (user default, port 6379, connected for 2 h, redis-py 5.0.1)" in sentence
    assert "10.0.0.5:40114 'worker' (user cache_service, port 6380, connected for 90 s)" in sentence
    assert "(user default, the socket file, connected for 1 s)" in sentence
    assert sentence.endswith("Move them.")
    assert refusal((), what="x", remedy="y") == ""
    many = parse_client_list("\n".join([LIST.splitlines()[1]] * 20))
    assert "and 12 more" in refusal(many, what="w", remedy="")


def test_a_name_from_a_client_steers_no_terminal() -> None:
    """Control characters in what a client calls itself are shown, not obeyed."""
    found = parse_client_list("id=1 addr=1.2.3.4:5 laddr=1.2.3.5:6379 name=\x1b[2Jx user=default age=1 idle=1 flags=N")
    assert "\x1b" not in str(found[0])


@pytest.mark.parametrize(
    ("events", "wanted"),
    [
        ([], Position()),
        ([("preparation", "begun")], Position((), "preparation")),
        ([("preparation", "begun"), ("preparation", "validated")], Position(("preparation",))),
        ([("preparation", "validated"), ("preparation", "begun")], Position(("preparation",))),
        (
            [("preparation", "validated"), ("authentication", "begun"), ("authentication", "refused")],
            Position(("preparation",), "authentication"),
        ),
        ([("preparation", "validated"), ("preparation", "rolling back")], Position((), "preparation", True)),
        ([("preparation", "validated"), ("preparation", "rolling back"), ("preparation", "rolled back")], Position()),
        ([(name, "validated") for name in NAMES], Position(NAMES)),
    ],
)
def test_the_position_follows_from_the_journal(events: list[tuple[str, Event]], wanted: Position) -> None:
    """Done, begun or being undone: the lines alone say it, and it survives writing and reading."""
    lines = "\n".join(entry(stage, event).line() for stage, event in events)
    assert position(parse(lines)) == wanted


def test_a_position_in_words() -> None:
    """What a status shows of each state."""
    assert str(Position()) == "not begun"
    assert str(Position(NAMES)) == "complete"
    assert str(Position(NAMES[:2])) == "2 of 6 stages done, the last is authentication; next is tls"
    assert str(Position((), "preparation")) == "0 of 6 stages done; preparation is begun but not validated"
    assert str(Position((), "preparation", True)).endswith("preparation is being undone")


@pytest.mark.parametrize(
    ("line", "says"),
    [("nonsense", "line 1: not an entry"), ("[1]", "not an entry"), ('{"stage": "tls"}', "not an entry"),
     (json.dumps({"stage": "moon", "event": "begun", "what": "", "who": "", "run": ""}), "written by a later version")],
)  # fmt: skip
def test_a_damaged_journal_is_named(line: str, says: str) -> None:
    """A line that is no entry is refused with its number, not skipped."""
    with pytest.raises(ConfigurationError, match=says):
        parse(line)


def test_the_lock_names_its_holder() -> None:
    """Whoever comes second reads in one line who, what and since when; what a name may hold does not reach the terminal."""
    holder = Holder("bob\x1b[2J@lap", "b1", "m", 7, "migrate", "tls")
    assert Holder.parse(holder.line()) == holder
    says = holder.refusal(silent=3.4)
    assert says.startswith("'bob\\x1b[2J@lap' is running this migration (migrate tls, run b1, last sign of life 3 s ago): wait")
    assert "\x1b" not in says


def test_a_lock_file_that_names_nobody() -> None:
    """Half a line, or something else, is no holder."""
    assert Holder.parse("") is None
    assert Holder.parse('{"who": "x"}') is None
