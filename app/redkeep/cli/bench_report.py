"""What the benchmark found: as tables for the terminal, as JSON, and as a picture."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from html import escape
from typing import Any, Final, NamedTuple

from redkeep.cli.table import render

FIGURES: Final = ("ops", "cpu", "p99")
_ROW: Final = 30
_LEFT: Final = 250
_WIDE: Final = 460


class Measured(NamedTuple):
    """One round of one variant: operations a second, seconds of client CPU an operation, seconds."""

    ops: float
    cpu: float
    p99: float


class Cell(NamedTuple):
    """All rounds of one size and concurrency, by variant in order; bytes in the server's memory an entry; keys a call."""

    size: int
    concurrency: int
    rounds: dict[str, list[Measured]]
    memory: dict[str, float]
    batch: int = 1

    @property
    def title(self) -> str:
        """What was measured."""
        of_many = f", batches of {self.batch}" if self.batch > 1 else ""
        return f"{self.size / 1024:g} KB{of_many}, {self.concurrency} concurrent"


def ratios(cell: Cell, name: str, base: str) -> dict[str, tuple[float, float, float]]:
    """Minimum, median and maximum of the rounds' ratios, by figure."""
    pairs = list(zip(cell.rounds[name], cell.rounds[base], strict=True))
    found = {}
    for figure in FIGURES:
        each = [getattr(one, figure) / getattr(other, figure) for one, other in pairs]
        found[figure] = (min(each), statistics.median(each), max(each))
    return found


def table(cell: Cell, base: str, also: Sequence[tuple[str, str]]) -> str:
    """The cell in lines: figures, and each variant against `base`; `also` are further pairs to compare."""
    count = len(cell.rounds[base])
    lines = [f"{cell.title}, {count} rounds; ratios to {base}: minimum median maximum"]
    rows = []
    for name, measured in cell.rounds.items():
        against = ratios(cell, name, base)
        rows.append([
            name, f"{statistics.median(each.ops for each in measured):.0f}",
            f"{statistics.median(each.p99 for each in measured) * 1e3:.2f}",
            f"{statistics.median(each.cpu for each in measured) * 1e6:.0f}", f"{cell.memory[name]:.0f}",
            *(" ".join(f"{value:.2f}" for value in against[figure]) for figure in FIGURES),
        ])  # fmt: skip
    head = ["variant", "ops/s", "p99 ms", "CPU us", "bytes", "ops/s ratio", "CPU ratio", "p99 ratio"]
    lines.append(render(head, rows))
    for name, other in also:
        against = ratios(cell, name, other)
        lines.append(f"{name} to {other}: ops/s {_three(against['ops'])}, CPU {_three(against['cpu'])}")
    return "\n".join(lines)


def document(cells: Sequence[Cell], base: str, about: dict[str, Any]) -> dict[str, Any]:
    """Everything as plain data."""
    return {
        **about, "base": base,
        "cells": [
            {
                "bytes": cell.size, "concurrency": cell.concurrency, "batch": cell.batch,
                "variants": {
                    name: {
                        "memory_bytes_an_entry": cell.memory[name],
                        "rounds": [each._asdict() for each in measured],
                        "ratios": {
                            figure: dict(zip(("minimum", "median", "maximum"), three, strict=True))
                            for figure, three in ratios(cell, name, base).items()
                        },
                    }
                    for name, measured in cell.rounds.items()
                },
            }
            for cell in cells
        ],
    }  # fmt: skip


def picture(cell: Cell, base: str) -> str:
    """Operations a second against `base` as bars: the median, and a line from minimum to maximum."""
    found = {name: ratios(cell, name, base)["ops"] for name in cell.rounds}
    scale = _WIDE / max(three[2] for three in found.values())
    height = 60 + _ROW * len(found)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDE + 80}" height="{height}" font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="12" y="24" font-size="15">Operations a second against {escape(base)}: '
        f"{cell.title}</text>",
    ]
    for row, (name, (least, middle, most)) in enumerate(found.items()):
        top = 44 + row * _ROW
        colour = "#2a7f62" if name.startswith("our") else "#8a94a0"
        lines += [
            f'<text x="{_LEFT - 8}" y="{top + 15}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{_LEFT}" y="{top}" width="{middle * scale:.1f}" height="20" fill="{colour}"/>',
            f'<line x1="{_LEFT + least * scale:.1f}" x2="{_LEFT + most * scale:.1f}" y1="{top + 10}" y2="{top + 10}" stroke="#1b1f24"/>',
            f'<text x="{_LEFT + most * scale + 8:.1f}" y="{top + 15}">{middle:.2f}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def _three(values: tuple[float, float, float]) -> str:
    return "{:.2f} {:.2f} {:.2f}".format(*values)
