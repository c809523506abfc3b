"""One run of a migration's verb on one host: under a lock that names its holder, every step noted in the host's journal."""

from __future__ import annotations

import getpass
import hashlib
import os
import secrets
import shlex
import socket
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from pyinfra import state
from pyinfra.api import DeployError, StringCommand, operation
from pyinfra.api.state import StateStage

from deploys.difference import Difference, locked
from deploys.facts.survey import Survey
from deploys.migration import window as windows
from deploys.migration.window import FOLDER, HOLDER, JOURNAL, OPEN, Window
from deploys.operations.converge import converge, fail
from deploys.site import Site
from deploys.stages.machine import STATE
from redkeep.migration.journal import STALE_SECONDS, Entry, Event, Holder
from redkeep.migration.stages import NAMES, Stage

# A client that reads its settings again does so within seconds; one that needs a person does not.
PATIENCE_SECONDS = 20

# A long step shows signs of life as long as its own process is there.
_ALIVE = f"(while sleep 10 && kill -0 $$ 2>/dev/null; do touch -c {HOLDER}; done) </dev/null >/dev/null 2>&1 & alive=$!"

_SINCE = "has worked on this migration since this run began: run again."

# A judgement of the host as it is now: a sentence when the stage may not go on, nothing otherwise.
Check = Callable[["Passage", Survey], str]
# What proves a stage: a sentence when it is not proved, and what was seen.
Proof = Callable[["Passage", Survey], tuple[str, Mapping[str, str | int]]]
# What shall be, one concern of it: like a site's, and it knows the passage.
Wish = Callable[["Passage", Survey], "Iterable[Difference]"]


@cache
def machine() -> str:
    """Tells this machine from others, and from itself after its next start, without telling what it is."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    text = f"{uuid.getnode()} {boot.read_text() if boot.exists() else socket.gethostname()}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def who() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()}"[:80]


@cache
def run_name() -> str:
    return secrets.token_hex(4)


@dataclass
class Passage:
    """``stage`` is the one this run is about; ``level`` the number of the stage whose state the host shall have at its end:
    the stage itself on the way forward, the one before it on the way back, -1 before all."""

    site: Site
    verb: Literal["migrate", "rollback"]
    stage: Stage
    level: int
    window: Window
    again: bool = False
    stragglers: bool = False
    old_backup: str = ""
    leave_unknown: bool = False

    @property
    def holder(self) -> Holder:
        return Holder(who(), run_name(), machine(), os.getpid(), self.verb, self.stage.name)

    @property
    def purpose(self) -> str:
        """What this run does to the stage, in its words for that way."""
        return self.stage.description if self.verb == "migrate" else self.stage.rollback

    @property
    def keeps_journal(self) -> bool:
        """Only the server's host has one; an app host follows it."""
        return self.site.bundle.is_redis

    def refresh(self) -> Window:
        """Read the window again."""
        self.window = windows.read(self.site.run, self.site.bundle.engine)
        return self.window

    def entry(self, event: Event, what: str, evidence: Mapping[str, str | int] | None = None) -> str:
        """Shell that adds one entry to the journal: whole, or not at all."""
        line = Entry(self.stage.name, event, what, who(), run_name(), evidence=evidence or {}).line()
        return (
            # A copy that fails, on a full disk, must not count as an empty one.
            f"{{ [ ! -e {JOURNAL} ] || cat {JOURNAL}; printf '%s\\n' {shlex.quote(line)}; }} > {JOURNAL}.new\n"
            f"chmod 0600 {JOURNAL}.new; sync {JOURNAL}.new; mv -f {JOURNAL}.new {JOURNAL}"
        )

    def dressed(self, difference: Difference) -> str:
        """A difference's script as a step: only with the lock, a sign of life before and after, and noted when done."""
        if not self.keeps_journal:
            return difference.script
        return (
            f"{self.guarded()}\n{_ALIVE}\n(\n{difference.script}\n)\nkill $alive 2>/dev/null || true; touch {HOLDER}\n"
            f"{self.entry('action', difference.what)}"
        )

    def guarded(self) -> str:
        return (
            f"grep -qsF {shlex.quote(self.holder.line())} {HOLDER} || "
            f"{{ echo 'another run has taken over this migration: see {JOURNAL}.' >&2; exit 1; }}\ntouch {HOLDER}"
        )

    def others_worked(self, before: Window) -> bool:
        """Whether another run has written in the journal since ``before``: what this one shall do was judged by that."""
        return [run for run in self.window.runs if run != run_name()] != [run for run in before.runs if run != run_name()]

    def others_hold(self) -> str:
        """The sentence for a second run; empty when the lock is free, stale, or its holder's process on this machine is gone."""
        other, silent = self.window.holder, self.window.silent
        if other is None or other.run == run_name() or silent >= STALE_SECONDS:
            return ""
        if other.machine == machine() and not _alive(other.process):
            return ""
        return other.refusal(silent=silent)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def at(level: int) -> str:
    """The name of the state after that many stages, for people."""
    return f"the state after {NAMES[level]}" if level >= 0 else "the state before the migration"


def step(passage: Passage, wish: Wish, *, name: str) -> None:
    """Bring the host to the passage's level in one concern, as an operation; each difference is a step of the journal."""
    converge(passage.site, lambda _, survey: wish(passage, survey), name=name, dress=passage.dressed)


@operation()
def take(passage: Passage) -> Generator[StringCommand, None, None]:
    """Take the host's lock and note the beginning. Refused with the holder's name when another run is at work, and when one
    was since this run has looked where the migration stands."""
    if passage.site.reporting:
        return
    event: Event = "begun" if passage.verb == "migrate" else "rolling back"
    if state.current_stage != StateStage.Execute:
        passage.site.say(f"would {passage.verb} {passage.stage.name}: {passage.purpose}")
    else:
        seen = passage.window
        passage.refresh()
        if sentence := passage.others_hold():
            yield fail(f"{passage.site.bundle.name}: {sentence}.")
            return
        if passage.others_worked(seen):
            yield fail(f"{passage.site.bundle.name}: another run {_SINCE}")
            return
        passage.site.say(f"{passage.verb} {passage.stage.name}: {passage.purpose}")
    other = passage.window.holder
    line = shlex.quote(passage.holder.line())
    free = f"grep -qsF {shlex.quote(other.line())} {HOLDER}" if other else "false"
    yield StringCommand(
        locked(
            f"install -d -m 0755 {STATE}; install -d -m 0700 {FOLDER}\n"
            f"[ ! -e {HOLDER} ] || {free} || grep -qsF {line} {HOLDER} || "
            "{ echo 'another run of this migration has just begun: run again when it has ended.' >&2; exit 1; }\n"
            f'[ "$(cat {JOURNAL} 2>/dev/null | grep -c .)" = {len(passage.window.runs)} ] || '
            f"{{ echo 'another run {_SINCE}' >&2; exit 1; }}\n"
            f"umask 077; printf '%s\\n' {line} > {HOLDER}.new; mv -f {HOLDER}.new {HOLDER}; touch {OPEN}\n"
            + passage.entry(event, passage.purpose)
        ),
        _sudo=passage.site.sudo,
    )


@operation()
def gate(passage: Passage, check: Check, patience: float = PATIENCE_SECONDS) -> Generator[StringCommand, None, None]:
    """Go no further when the check says so: its sentence is shown, noted in the journal, and fails the host.

    Asked before anything is touched as well, where that run would change nothing first. Clients may still follow their settings within
    ``patience`` seconds.
    """
    sentence = check(passage, passage.site.survey())
    waited = time.monotonic() + patience if state.current_stage == StateStage.Execute else 0.0
    while sentence and time.monotonic() < waited:
        time.sleep(1)
        passage.site.forget()
        sentence = check(passage, passage.site.survey())
    if not sentence:
        return
    if state.current_stage != StateStage.Execute:
        passage.site.say(f"would stop: {sentence}")
        return
    passage.site.run(locked(f"{passage.guarded()}\n{passage.entry('refused', sentence)}"))
    yield fail(f"{passage.site.bundle.name}: {sentence}")


@operation()
def conclude(passage: Passage, proof: Proof | None) -> Generator[StringCommand, None, None]:
    """Prove the stage, note it with what was seen, and let go of the lock. Fails the host when it is not proved."""
    if state.current_stage != StateStage.Execute:
        return
    site = passage.site
    problem, evidence = proof(passage, site.survey()) if proof else ("", {})
    if problem:
        site.run(locked(f"{passage.guarded()}\n{passage.entry('refused', problem)}"))
        yield fail(
            f"{site.bundle.name}: {passage.stage.name} is not validated: {problem} Fix that and run again, or go back with "
            "deploys/rollback.py."
        )
        return
    forward = passage.verb == "migrate"
    event: Event = "validated" if forward else "rolled back"
    what = passage.stage.validation if forward else passage.stage.rollback
    last = passage.level == len(NAMES) - 1 or passage.level < 0
    shut = f"rm -f {OPEN}\n" if last else ""
    ok, _, errors = site.run(
        locked(
            f"{passage.guarded()}\n{passage.entry(event, what, evidence)}\n{shut}rm -f {HOLDER}; rmdir {FOLDER} 2>/dev/null || true"
        )
    )
    if not ok:
        yield fail(f"{site.bundle.name}: {' '.join(errors) or 'the connection broke'}")
        return
    seen = ", ".join(f"{name} {value}" for name, value in evidence.items())
    site.say(f"{passage.stage.name} {event}" + (f": {seen}" if seen else ""))
    site.say(f"migration: {passage.refresh().position}")


def refuse(site: Site, sentence: str) -> None:
    """Stop before anything is touched, when there is a sentence."""
    if sentence:
        raise DeployError(f"{site.bundle.name}: {sentence}")
