"""The running Redis as redis-cli and openssl tell it to the survey."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ServerState:
    """The running Redis. ``error`` says why it could not be asked; then all the rest is empty."""

    error: str = "not asked"
    info: dict[str, str] = field(default_factory=dict)
    config: dict[str, str] = field(default_factory=dict)
    acl: tuple[str, ...] = ()
    clients: tuple[dict[str, str], ...] = ()
    certificate: str = ""

    @property
    def reachable(self) -> bool:
        return not self.error


def server_of(parts: dict[str, list[str]]) -> ServerState:
    """The state that the survey's sections of redis-cli and openssl tell."""
    if "server" not in parts:
        return ServerState()
    if "clients" not in parts or "acl" not in parts:
        return ServerState(error=_reason(parts["server"] + parts.get("info", [])))
    refused = [
        line for name in ("info", "config", "acl", "clients") for line in parts.get(name, [])[:1] if line.startswith("(error)")
    ]
    if refused:
        return ServerState(error=f"the operator may not ask: {refused[0]}")
    info = _text_block(parts["info"])
    fingerprint = "".join(parts.get("certificate", []))
    return ServerState(
        error="",
        info={k: v for k, _, v in (line.partition(":") for line in info) if v},
        config=_config(parts["config"]),
        acl=tuple(_items(parts["acl"])),
        clients=tuple(
            dict(pair.split("=", 1) for pair in line.split(" ") if "=" in pair) for line in _text_block(parts["clients"]) if line
        ),
        certificate=fingerprint.partition("=")[2].replace(":", "").lower(),
    )


def _reason(lines: Sequence[str]) -> str:
    for line in lines:
        for mark in ("WRONGPASS", "NOAUTH", "refused", " yet", "Could not connect", "error", "timed out"):
            if mark in line:
                return line.strip()
    return next((line.strip() for line in lines if line.strip()), "no answer")


def _items(lines: Iterable[str]) -> list[str]:
    """redis-cli's numbered, quoted list (--no-raw): `1) "user default off"`."""
    found = []
    for line in lines:
        _, separator, value = line.strip().partition(") ")
        if separator:
            found.append(_unquote(value.strip()))
    return found


def _config(lines: Iterable[str]) -> dict[str, str]:
    """CONFIG GET as a list of names and values (RESP2)."""
    items = _items(lines)
    return dict(zip(items[::2], items[1::2], strict=False))


def _text_block(lines: Sequence[str]) -> list[str]:
    r"""A bulk string printed by --no-raw: one quoted line with \r\n inside, or plain lines for verbatim text."""
    text = "\n".join(lines).strip()
    return _unquote(text).replace("\r\n", "\n").split("\n") if text.startswith('"') else text.splitlines()


def _unquote(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return text[1:-1].encode("latin-1", "replace").decode("unicode_escape")
    return text
