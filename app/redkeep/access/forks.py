"""What a forked child does with its parent's connections: it cuts itself off, before anything else runs in it.

Both have the same sockets. One byte of the child's, were it only TLS's goodbye when it collects garbage, ends the parent's
connection; and a TLS record that each of them writes has one nonce for two texts.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Parted(Protocol):
    """Who has connections."""

    def leave_to_parent(self) -> None:
        """Cut the connections off, and use others from now on."""
        ...


_clients: WeakSet[Parted] = WeakSet()


def part_at_fork(client: Parted) -> None:
    """Have it told in each child."""
    _clients.add(client)


def cut_off(descriptor: int) -> None:
    """Let the descriptor of a socket be one of /dev/null, for this process alone. Not closed: a loop that is used on, and whoever
    holds the socket, would close or watch what gets the number next."""
    if descriptor < 0:
        return
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.dup2(nothing, descriptor, inheritable=False)
    finally:
        os.close(nothing)


def _part() -> None:
    for client in list(_clients):
        client.leave_to_parent()


os.register_at_fork(after_in_child=_part)
