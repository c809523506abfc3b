"""One lane of the transport: the calls that share a connection, through all the connections it has in its life."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final

from redkeep.access.calls import Batch, Call
from redkeep.access.client import Command
from redkeep.access.commands import may_repeat, pack
from redkeep.access.dial import Dialer
from redkeep.access.failures import again, ambiguous, network_error
from redkeep.access.limits import Limits
from redkeep.access.reconnect import Reconnect
from redkeep.access.tracking import HEARTBEAT_SECONDS, Tracking
from redkeep.access.wire_protocol import WireProtocol
from redkeep.errors import RedkeepError, ServerUnavailableError

logger = logging.getLogger(__name__)

_GRAIN_SECONDS: Final = 0.001
"""Deadlines that fall into one millisecond are served together."""

_FULL_BATCH: Final = 12
"""So many commands do not wait for the end of the turn: the server works on them while the loop wakes more callers (measured at 16 to 64)."""

_GATHER_TURNS: Final = 3
"""While replies are on their way, what was asked meanwhile waits at most so many turns of the event loop for who they wake."""

_GRACE_SECONDS: Final = 0.1
"""When the last attempt failed, callers wait so long for the next one, and not until it is over: enough for one that succeeds."""

_RENEW_SECONDS: Final = 10.0
"""A server that has become a replica is looked up anew, at most so often."""


class Lane:
    """Calls in, one write an event-loop turn out, one timer for all deadlines.

    A call is in `_waiting` until its bytes are handed to the socket, then in `_sent` until its reply is there; it keeps that
    place when its caller has gone, so that no reply can reach another. Calls that wait when there is no connection start one.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        dialer: Dialer,
        limits: Limits,
        *,
        tracking: Tracking | None = None,
        idle_seconds: float = math.inf,
    ) -> None:
        self.peer = dialer.peer
        self.bytes_in_flight = 0
        self.wire: WireProtocol | None = None
        self._loop = loop
        self._dialer = dialer
        self._limits = limits
        self._tracking = tracking
        self._idle_seconds = idle_seconds
        self._reconnect = Reconnect(loop.time)
        self._waiting: deque[Call] = deque()
        self._packed: list[bytes] = []
        self._sent: deque[Call] = deque()
        self._last_batch = 0
        self._flush_planned = False
        self._gathered = 0
        self._arrival_seen = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = math.inf
        self._connecting: asyncio.Task[None] | None = None
        self._grace: asyncio.TimerHandle | None = None
        self._closed = False
        self._up_since = 0.0
        self._time = loop.time
        self._call_soon = loop.call_soon
        self._new_future = loop.create_future
        self._seconds = limits.seconds
        self._max_bytes, self._max_commands = limits.bytes_in_flight, limits.commands_in_flight

    @property
    def in_flight(self) -> int:
        """Calls that wait for the socket or for a reply."""
        return len(self._waiting) + len(self._sent)

    def submit(self, command: Command, packed: bytes) -> asyncio.Future[Any]:
        """Take one command; the future brings its reply. Raises ServerUnavailableError when too much is in flight."""
        size = len(packed)
        waiting = self._waiting
        if self.bytes_in_flight + size > self._max_bytes or len(waiting) + len(self._sent) >= self._max_commands or self._closed:
            raise self._full()
        self.bytes_in_flight += size
        future = self._new_future()
        deadline = self._time() + self._seconds
        waiting.append((future, deadline, size, command, 0))
        self._packed.append(packed)
        if deadline < self._timer_due:
            self._set_timer(deadline)
        if not self._flush_planned:
            if self._last_batch < 2 and not self._sent and ((wire := self.wire) is None or wire.answered < 2):
                self._flush()  # a lone caller: nothing comes that is worth a turn's wait
            else:
                self._plan_flush()
        elif len(waiting) >= _FULL_BATCH:
            self._flush()
        return future

    def submit_many(self, commands: Sequence[Command], packed: Sequence[bytes]) -> asyncio.Future[list[Any]]:
        """Take a batch; nothing comes between its commands. Raises as `submit` does."""
        size = sum(map(len, packed))
        if self._closed or self.bytes_in_flight + size > self._max_bytes or self.in_flight + len(commands) > self._max_commands:
            raise self._full()
        self.bytes_in_flight += size
        batch = Batch(self._new_future(), len(commands))
        deadline = self._time() + self._seconds
        self._waiting.extend((batch, deadline, len(data), command, 0) for command, data in zip(commands, packed, strict=True))
        self._packed.extend(packed)
        if deadline < self._timer_due:
            self._set_timer(deadline)
        if not self._flush_planned:
            self._plan_flush()
        return batch.future

    def _full(self) -> ServerUnavailableError:
        if self._closed:
            return ServerUnavailableError(f"{self.peer}: this client is closed")
        return ServerUnavailableError(
            f"{self.peer}: too many requests in flight ({self.in_flight} commands, {self.bytes_in_flight} bytes); send fewer at once"
        )

    def _plan_flush(self) -> None:
        """Flush once everybody had this turn of the loop to ask."""
        self._flush_planned = True
        if self.wire is not None:
            self._arrival_seen = self.wire.last_arrival
        self._call_soon(self._gather)

    def _gather(self) -> None:
        """Flush, or wait a turn more for callers whose replies are just coming: else they stay small groups for good, which costs more."""
        turns, wire = self._gathered, self.wire
        few = turns < _GATHER_TURNS and len(self._waiting) < _FULL_BATCH
        if wire is not None and few and (wire.last_arrival != self._arrival_seen or (self._sent and not turns)):
            self._gathered, self._arrival_seen = turns + 1, wire.last_arrival
            self._call_soon(self._gather)
        else:
            self._gathered = 0
            self._flush()

    def _flush(self) -> None:
        """Hand everything that waits to the socket, in one write."""
        self._flush_planned = False
        wire, waiting = self.wire, self._waiting
        if not waiting:
            return
        if wire is None:
            self._begin_connecting()
            return
        if wire.paused:  # `writable` comes back here
            return
        packed = self._packed
        count = len(packed)
        data = packed[0] if count == 1 else b"".join(packed)
        if count == 1:
            self._sent.append(waiting.popleft())
        else:
            self._sent.extend(waiting)
            waiting.clear()
        packed.clear()
        self._last_batch = count
        wire.write(data)

    def _requeue(self, calls: Iterable[Call]) -> None:
        """Let these calls, and after them those that wait already, be all that waits; drop whom nobody awaits."""
        every = [*calls, *self._waiting]
        self._waiting.clear()
        for call in every:
            if call[0].done():
                self.bytes_in_flight -= call[2]
            else:
                self._waiting.append(call)
        self._packed[:] = [pack(call[3]) for call in self._waiting]

    # What the connection reports.

    def lost(self, wire: WireProtocol, error: BaseException | None) -> None:
        """The connection is gone: calls that may go again wait for the next one, the others hear of it."""
        if wire is not self.wire:
            return
        self.wire = None
        self._reconnect.lost()
        if self._tracking:
            self._tracking.end()
        reason = network_error(error, self.peer)
        level = logging.WARNING if self._sent else logging.INFO  # an idle one that a server ends is nothing
        logger.log(level, "connection_lost", extra={"peer": str(self.peer), "reason": str(reason)})
        now, kept = self._time(), list[Call]()
        while self._sent:
            waiter, deadline, size, command, times = self._sent.popleft()
            if not waiter.done() and times < self._limits.replays and deadline > now and may_repeat(command):
                kept.append((waiter, deadline, size, command, times + 1))
                continue
            self.bytes_in_flight -= size
            if not waiter.done():
                waiter.set_exception(ambiguous(reason, command))
        self._requeue(kept)
        if self._closed:
            self._fail_waiting(self._full())
        elif self._waiting:
            self._begin_connecting()

    def writable(self, wire: WireProtocol) -> None:
        """The socket takes bytes again."""
        if wire is self.wire and self._waiting:
            self._requeue(())
            self._flush()

    def pushed(self, message: list[Any]) -> None:
        """A push message came. Raises WireError for one that was not asked for."""
        (self._tracking or Tracking()).push(message)

    def refused(self, wire: WireProtocol, code: str) -> None:
        """The caller has the error; here is what it means for the connection."""
        if wire is not self.wire:
            return
        if code == "NOAUTH" or (code == "READONLY" and self._time() - self._up_since > _RENEW_SECONDS):
            wire.abort(ServerUnavailableError(f"{self.peer}: the connection is being replaced ({code})"))

    # Deadlines.

    def _tick(self) -> None:
        """Tell overdue callers; their places stay. Replace a connection that is silent although something is overdue."""
        self._timer, self._timer_due = None, math.inf
        now = self._time()
        upcoming = [due for calls in (self._sent, self._waiting) if (due := self._expire(calls, now)) is not None]
        wire, limit = self.wire, self._limits.stall_seconds
        if wire is not None:
            silent_since = wire.last_arrival
            if self._sent:
                stalled_at = max(self._sent[0][1], silent_since) + limit
                if stalled_at <= now:
                    wire.abort(ServerUnavailableError(f"{self.peer}: the server has not answered for too long"))
                    upcoming = [call[1] for call in self._waiting][:1]
                elif self._sent[0][1] <= now:
                    upcoming.append(stalled_at)
            elif self._tracking and self._tracking.active:
                if silent_since + HEARTBEAT_SECONDS <= now:
                    self._heartbeat()
                    return
                upcoming.append(silent_since + HEARTBEAT_SECONDS)
            elif not self._waiting and self._idle_seconds < math.inf:
                if silent_since + self._idle_seconds <= now:
                    self._rest(wire)
                else:
                    upcoming.append(silent_since + self._idle_seconds)
        if upcoming and min(upcoming) + _GRAIN_SECONDS < self._timer_due:
            self._set_timer(min(upcoming) + _GRAIN_SECONDS)

    def _rest(self, wire: WireProtocol) -> None:
        """Nothing came for a while: end the connection; the next call makes one."""
        self.wire = None
        wire.close()

    def _set_timer(self, moment: float) -> None:
        """Look at the deadlines at `moment`, which is sooner than what was planned: that may be a look at a silent server."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_due = self._loop.call_at(moment, self._tick), moment

    def _expire(self, calls: Iterable[Call], now: float) -> float | None:
        """Tell those whose deadline has passed; returns the next deadline to come."""
        for waiter, deadline, _, _, _ in calls:  # in the order of their deadlines: all have the same length
            if deadline > now:
                return deadline
            if not waiter.done():
                waiter.set_exception(ServerUnavailableError(f"{self.peer}: no answer within {self._seconds:g} seconds"))
        return None

    def _heartbeat(self) -> None:
        command: Command = ("PING",)
        self.submit(command, pack(command)).add_done_callback(lambda pong: pong.cancelled() or pong.exception())

    # Connecting.

    def _begin_connecting(self) -> None:
        if self._closed:
            return
        if self._reconnect.gives_up():
            if self._connecting is None and self._reconnect.delay():
                self._fail_while_down()
                return
            if self._grace is None:
                self._grace = self._loop.call_later(_GRACE_SECONDS, self._fail_while_down)
        if self._connecting is not None:
            return
        self._connecting = self._loop.create_task(self._connect(), name="redkeep-connect")
        self._connecting.add_done_callback(self._connected)

    def _fail_while_down(self) -> None:
        self._grace = None
        error = self._reconnect.error
        if self.wire is None and error is not None:
            self._fail_waiting(error)

    async def _connect(self) -> None:
        while self._waiting:
            if delay := self._reconnect.delay():
                await asyncio.sleep(delay)
                self._requeue(())
            try:
                wants = self._tracking is not None and self._tracking.wanted
                wire, tracked = await self._dialer.dial(self, tracking=wants)
            except RedkeepError as error:
                self._reconnect.failed(error)
                if self._reconnect.gives_up():
                    raise
                continue
            self._adopt(wire, tracked=tracked)
            return

    def _adopt(self, wire: WireProtocol, *, tracked: bool) -> None:
        self._reconnect.up()
        self._up_since = self._time()
        self._last_batch = 0
        self.wire = wire
        wire.adopt(self._sent)
        if tracked and self._tracking:
            self._tracking.begin()
        self._requeue(())
        self._flush()

    def _connected(self, task: asyncio.Task[None]) -> None:
        self._connecting = None
        if task.cancelled():
            self._fail_waiting(ServerUnavailableError(f"{self.peer}: connecting was cancelled; the event loop is ending"))
        elif error := task.exception():
            if not isinstance(error, RedkeepError):
                logger.error("connect_failed", exc_info=error)
                error = ServerUnavailableError(f"{self.peer}: connecting failed ({type(error).__name__}); see the log")
            self._fail_waiting(error)
        elif self._waiting and self.wire is None:  # lost again before this task was seen to be done
            self._begin_connecting()

    def _fail_waiting(self, error: RedkeepError) -> None:
        failed = list(self._waiting)
        self._waiting.clear()
        self._packed.clear()
        for waiter, _, size, _, _ in failed:
            self.bytes_in_flight -= size
            if not waiter.done():
                waiter.set_exception(again(error))

    def hurry(self) -> None:
        """Forget the delay before the next attempt: what was wrong may be mended."""
        self._reconnect.forget()

    async def close(self, *, seconds: float) -> None:
        """Take nothing new, give what was asked before `seconds` to be answered, then end the connection."""
        if self.wire is not None:
            self._flush()
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        self._fail_waiting(self._full())
        end = self._time() + seconds
        while self._sent and self.wire is not None and self._time() < end:
            await asyncio.sleep(0.005)
        wire, self.wire = self.wire, None
        for timer in (self._timer, self._grace):
            if timer is not None:
                timer.cancel()
        self._timer = self._grace = None
        self._timer_due = math.inf
        if self._tracking:
            self._tracking.end()
        while self._sent:
            waiter, *_ = self._sent.popleft()
            if not waiter.done():
                waiter.set_exception(self._full())
        if wire is not None:
            wire.close()
            try:
                await asyncio.wait_for(asyncio.shield(wire.closed), 1.0)
            except TimeoutError:
                wire.kill()

    def abandon(self, *, loop_usable: bool) -> None:
        """Drop the connection without a word. When the event loop is closed, or after a fork the parent's, only this process's
        socket is closed: a shutdown, a goodbye of TLS or a change to the loop's selector would reach into the parent."""
        self._closed = True
        wire, self.wire = self.wire, None
        if wire is not None and loop_usable:
            wire.kill()
        elif wire is not None:
            wire.socket.close()
        if self._tracking:
            self._tracking.end()
