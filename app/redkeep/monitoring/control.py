"""A control: one thing that must hold, and what a probe of the live system found."""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple

State = Literal["ok", "weak", "unknown", "not applicable"]
STATES: Final[tuple[State, ...]] = ("ok", "weak", "unknown", "not applicable")


class Control(NamedTuple):
    """`evidence` is what was seen, in a few words; `remedy` the next step, empty when there is nothing to do.

    A probe that could not run is "unknown", never "ok". "not applicable" says that the question does not arise here.
    """

    name: str
    state: State
    evidence: str
    remedy: str = ""

    @property
    def group(self) -> str:
        """What it is about: login, TLS, rights, data, network, files, or host."""
        return _GROUPS.get(self.name, "host")

    def as_dict(self) -> dict[str, Any]:
        """The control as plain data: name, state, evidence, remedy, group."""
        return {**self._asdict(), "group": self.group}


_GROUPS: Final = {
    **dict.fromkeys(("login", "default user", "no login without password", "wrong password", "users' passwords"), "login"),
    **dict.fromkeys(("TLS version", "server certificate", "certificate expiry", "TLS downgrade", "mutual TLS"), "TLS"),
    **dict.fromkeys(("cache user's rights", "users' rights", "default user's rights", "dangerous commands"), "rights"),
    **dict.fromkeys(("plaintext port", "plaintext on the TLS port", "network reach", "connected ports"), "network"),
    **dict.fromkeys(("env file", "client key file", "CA file"), "files"),
    "sealed round trip": "data",
    **dict.fromkeys(("unknown users", "connected users"), "rights"),
}
