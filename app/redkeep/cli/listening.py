"""A socket that listens, or one sentence why there is none."""

from __future__ import annotations

import os
import socket

from redkeep.errors import ConfigurationError


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ConfigurationError when the address or port cannot be had."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address, family=family)
    except OSError as error:
        # What create_server adds repeats the address; a name that does not resolve has a number of its own, below zero.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
        raise ConfigurationError(f"--host {host} --port {port} cannot be used: {reason}; choose another") from None
