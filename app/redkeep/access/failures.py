"""What went wrong, in the words of our error tree: from an error reply, or from an exception of the network."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from redkeep.access.client import Argument
from redkeep.access.commands import name_of
from redkeep.errors import (
    AuthenticationError,
    ConfigurationError,
    PermissionDeniedError,
    RedkeepError,
    ServerUnavailableError,
    TLSError,
)


class WireError(ServerUnavailableError):
    """The peer sent what no Redis would send; its connection was dropped, and with it every reply that was owed."""


class RedirectedError(ServerUnavailableError):
    """A node of a Cluster says where the key is: at `host` and `port`, for good, or with `once` for this one command."""

    host = ""
    port = 0
    once = False


class Peer(NamedTuple):
    """Who is at the other end, for messages."""

    host: str
    port: int
    user: str

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


_WITH_VERBS: Final = frozenset({"ACL", "CLIENT", "CLUSTER", "CONFIG"})
"""Commands whose second word says what is asked; it is a name, too, and no argument."""

_LOGIN: Final = frozenset({"NOAUTH", "WRONGPASS"})
_PASSING: Final = {
    "LOADING": "it is still loading its data",
    "BUSY": "it is running a long script",
    "READONLY": "it is a replica and accepts no writes",
    "MISCONF": "it accepts no writes because it could not save to disk",
    "OOM": "it is out of memory",
    "CLUSTERDOWN": "the cluster is down",
    "MOVED": "it is a cluster node, and the key is on another",
    "ASK": "it is a cluster node, and the key is moving",
    "TRYAGAIN": "it is a cluster node, and keys are moving",
    "CROSSSLOT": "it is a cluster node, and the keys are on several",
    "MASTERDOWN": "it is a replica that has lost its primary",
    "NOREPLICAS": "it has too few replicas",
    "DENIED": "its protected mode allows only clients on its own machine",
}


def code_of(reply: Exception) -> str:
    """The first word of an error reply, such as WRONGTYPE; ERR for what does not look like a code."""
    word = str(reply).partition(" ")[0]
    return word if word.isascii() and word.isupper() and len(word) < 32 else "ERR"


def reply_error(reply: Exception, command: Sequence[Argument], peer: Peer) -> RedkeepError:
    """The error for an error reply. No text of the server goes into it: that can repeat arguments."""
    code, text = code_of(reply), str(reply)
    if code == "NOPERM":
        return PermissionDeniedError(f"{peer}: the ACL refuses {_asked(command)} to user {peer.user}; see `redkeep status`")
    if code in _LOGIN or (code == "ERR" and " AUTH " in f"{text} "):
        return AuthenticationError(
            f"{peer}: the login of user {peer.user} was refused; compare REDIS_USERNAME and its password with the server's"
        )
    if code in ("MOVED", "ASK"):
        return _redirected(text, peer, once=code == "ASK")
    if code in _PASSING:
        return ServerUnavailableError(f"{peer}: the server cannot serve requests now ({code}): {_PASSING[code]}")
    if code == "ERR" and "max number of clients" in text:
        return ServerUnavailableError(f"{peer}: the server has reached its maxclients")
    if name_of(command) == "HELLO":
        return login_error(peer, resp2=code == "NOPROTO" or "unknown command" in text.lower())
    return ConfigurationError(f"{peer}: the server rejects {name_of(command)} ({code}); correct the command")


def _asked(command: Sequence[Argument]) -> str:
    name = name_of(command)
    return f"{name} {name_of(command[1:])}" if name in _WITH_VERBS and len(command) > 1 else name


def _redirected(text: str, peer: Peer, *, once: bool) -> ServerUnavailableError:
    """From `MOVED 3999 127.0.0.1:6381`; without a host the one that was asked is meant."""
    code, _, place = text.partition(" ")
    error = RedirectedError(f"{peer}: the server cannot serve requests now ({code}): {_PASSING[code]}")
    host, _, port = place.rpartition(" ")[2].rpartition(":")
    if port.isascii() and port.isdigit():
        error.host, error.port, error.once = host.strip("[]") or peer.host, int(port), once
    return error


def login_error(peer: Peer, *, resp2: bool = False) -> WireError:
    """The error for a server that does not take HELLO 3."""
    if resp2:
        return WireError(f"{peer}: the server speaks RESP2 only; Redis 6 or newer is needed, without a proxy in front of it")
    return WireError(f"{peer}: the server does not accept HELLO 3; check what listens on this port")


def network_error(error: BaseException | None, peer: Peer) -> RedkeepError:
    """The error for a connection that was not made or not kept; None is an end without a reason."""
    if isinstance(error, RedkeepError):
        return error
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return TLSError(
                f"{peer}: the server's certificate is not valid ({cause.verify_message}); check REDIS_TLS_CA_FILE"
            )
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            reason = (cause.reason or "handshake failed").lower().replace("_", " ")
            return TLSError(f"{peer}: the TLS handshake failed ({reason}); check the client certificate and REDIS_TLS_MIN_VERSION")
        if isinstance(cause, socket.gaierror):
            return ServerUnavailableError(f"{peer.host}: the name cannot be resolved; check REDIS_URL and DNS")
        if isinstance(cause, TimeoutError):
            return ServerUnavailableError(f"{peer}: no answer in time; check that Redis runs and that no firewall blocks it")
    return ServerUnavailableError(f"{peer}: cannot connect; check that Redis runs and listens there")


def again(error: RedkeepError) -> RedkeepError:
    """A fresh one of the same kind: an exception shared by many callers would collect all their tracebacks."""
    fresh = type(error)(*error.args)
    fresh.__dict__.update(error.__dict__)
    fresh.__cause__ = error.__cause__
    return fresh


def ambiguous(reason: RedkeepError, command: Sequence[Argument]) -> RedkeepError:
    """The error of a caller whose command was sent before the connection was lost, and must not be sent twice."""
    if isinstance(reason, ServerUnavailableError):
        return type(reason)(f"{reason}; whether {name_of(command)} was carried out is not known")
    return again(reason)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
