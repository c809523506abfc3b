"""A control: one thing that must hold, and what a probe of the live system found."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

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
