"""The figures of docs/performance.md, written from what `make bench` and `make bench-deploy` have measured.

python -m tests.performance.page [--bench build/bench.json] [--deploy build/bench-deploy.json]

Replaces what stands between `<!-- figures: NAME -->` and `<!-- end -->`; a file that is not there leaves its figures as they are.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from redkeep.cli.bench_variants import BASE, FULL, OLD, ON_REDIS_PY, OWN_PLAIN, PRD

PAGE = Path(__file__).resolve().parents[2] / "docs" / "performance.md"
PEERS = ("valkey-glide, TLS, AES-GCM", "aiocache, TLS, JSON", "cashews, TLS, signed pickle", "cachekit, TLS, AES-GCM")
TRACKED = f"{FULL}, tracked memory"
Three = tuple[float, float, float]


class Cell(NamedTuple):
    """One size and concurrency."""

    data: dict[str, Any]

    def ratio(self, name: str, other: str, figure: str) -> Three:
        """Minimum, median and maximum of the rounds' ratios."""
        variants = self.data["variants"]
        pairs = zip(variants[name]["rounds"], variants[other]["rounds"], strict=True)
        found = [one[figure] / two[figure] for one, two in pairs]
        return min(found), statistics.median(found), max(found)

    def row(self, name: str, *more: str, other: str = BASE) -> str:
        """Operations, CPU and p99 of one variant."""
        figures = [words(self.ratio(name, other, figure)) for figure in ("ops", "cpu", "p99")]
        return line(name, *figures, *more)


class Bench:
    """What `make bench` wrote."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        self.cells = {(c["bytes"], c["concurrency"], c["batch"]): Cell(c) for c in data["cells"]}

    def at(self, size: int, concurrency: int, batch: int = 1) -> Cell:
        return self.cells[size, concurrency, batch]

    def how(self) -> str:
        rounds = len(self.at(2048, 16).data["variants"][BASE]["rounds"])
        return (
            f"{rounds} rounds on {self.data['cores']} cores, Python {self.data['python']}; the machine's load was "
            f"{self.data['load']:.1f} before it began."
        )

    def all(self) -> str:
        cell = self.at(2048, 16)
        memory = {name: f"{each['memory_bytes_an_entry']:.0f}" for name, each in cell.data["variants"].items()}
        rows = [cell.row(name, memory[name]) for name in memory if name not in PEERS]
        return table(("variant", "ops/s", "client CPU", "p99", "server memory, bytes an entry"), rows)

    def sizes(self) -> str:
        rows = []
        for (size, concurrency, batch), cell in self.cells.items():
            if batch == 1:
                figures = [cell.ratio(FULL, BASE, figure) for figure in ("ops", "cpu", "p99")]
                figures += [cell.ratio(FULL, PRD, "ops"), cell.ratio(FULL, PRD, "cpu"), cell.ratio(FULL, OWN_PLAIN, "ops")]
                rows.append(line(f"{size / 1024:g} KB", str(concurrency), *map(words, figures)))
        head = ("size", "callers", "ops/s", "client CPU", "p99", "ops/s to the PRD's design", "CPU to the PRD's", "ops/s to our own plaintext")
        return table(head, rows)

    def others(self) -> str:
        few, many = self.at(2048, 16), self.at(2048, 64)
        names = (FULL, TRACKED, *PEERS, OLD, ON_REDIS_PY, PRD)
        rows = [line(n, *(words(cell.ratio(n, BASE, figure)) for cell in (few, many) for figure in ("ops", "cpu"))) for n in names]
        return table(("variant", "ops/s, 16", "client CPU, 16", "ops/s, 64", "client CPU, 64"), rows)

    def batches(self) -> str:
        (cell,) = (each for (_, _, batch), each in self.cells.items() if batch > 1)
        return table(("variant", "values/s", "client CPU a value", "p99 of a batch"), [cell.row(name) for name in cell.data["variants"]])

    def once(self) -> str:
        connects, used, grown = self.data["connect_ms"], self.data["connect_cpu_ms"], self.data["grown_mb"]
        rows = [
            line(name, f"{c[1]:.1f} ({c[0]:.1f}-{c[2]:.1f})", f"{used[name]:.1f}", f"{grown[name]:+.1f}") for name, c in connects.items()
        ]
        return table(("client", "ms until it is ready", "client CPU, ms", "MB more with 64 callers at work"), rows)

    def bar(self) -> str:
        few, many, one = self.at(2048, 16), self.at(2048, 64), self.at(2048, 1)
        rows = [
            verdict("16 callers, 2 KB: ops/s at least 2.5", few.ratio(FULL, BASE, "ops"), lambda value: value >= 2.5),
            verdict("64 callers, 2 KB: ops/s at least 3", many.ratio(FULL, BASE, "ops"), lambda value: value >= 3),
            verdict("one at a time, 2 KB: ops/s at least 0.9", one.ratio(FULL, BASE, "ops"), lambda value: value >= 0.9),
            verdict("16 callers, 2 KB: p99 at most 1", few.ratio(FULL, BASE, "p99"), lambda value: value <= 1),
            verdict("64 callers, 2 KB: p99 at most 1", many.ratio(FULL, BASE, "p99"), lambda value: value <= 1),
            verdict("16 callers, 2 KB: client CPU at most 0.40", few.ratio(FULL, BASE, "cpu"), lambda value: value <= 0.4),
            verdict("64 callers, 2 KB: client CPU at most 0.40", many.ratio(FULL, BASE, "cpu"), lambda value: value <= 0.4),
            verdict("16 callers, 10 KB: client CPU at most 0.70", self.at(10240, 16).ratio(FULL, BASE, "cpu"), lambda value: value <= 0.7),
            verdict("16 callers: client CPU at most 0.25 of the PRD's design", few.ratio(FULL, PRD, "cpu"), lambda value: value <= 0.25),
            *(
                verdict(f"{callers} callers: more ops/s than {peer.partition(',')[0]}", cell.ratio(FULL, peer, "ops"), lambda value: value > 1)
                for callers, cell in ((16, few), (64, many)) for peer in PEERS
            ),
            verdict("stock redis-py with full security: ops/s at least 0.90 of the old cache's", few.ratio(ON_REDIS_PY, OLD, "ops"),
                    lambda value: value >= 0.9),
            verdict("the same in client CPU: at most 1.11", few.ratio(ON_REDIS_PY, OLD, "cpu"), lambda value: value <= 1.11),
            verdict("TLS connect, ms: at most 5", tuple(next(iter(self.data["connect_ms"].values()))), lambda value: value <= 5),
            line("64 callers: at most 8 MB more", f"{next(iter(self.data['grown_mb'].values())):.1f}",
                 "reached" if next(iter(self.data["grown_mb"].values())) <= 8 else "**not reached**"),
        ]  # fmt: skip
        return table(("bar", "measured", ""), rows)


def deploy(every: list[dict[str, Any]]) -> str:
    """The table of the deploy."""
    rows = []
    for each in every:
        first, repeat = each["first"], each["repeat"]
        low, high = sorted(first["ours"])
        figures = [f"{low:.1f}, {high:.1f}", f"{first['ansible']:.1f}", *(words(repeat[which]) for which in ("ours", "ansible", "ratio"))]
        rows.append(line(str(each["hosts"]), *figures, f"{each['load']:.0f}"))
    head = ("hosts", "first run, s", "ansible's first run, s", "repeat, s", "ansible's repeat, s", "ratio of repeats", "load")
    return table(head, rows)


def verdict(what: str, found: Any, holds: Callable[[float], bool]) -> str:
    """A row of the bar: the median decides."""
    return line(what, words(found), "reached" if holds(found[1]) else "**not reached**")


def words(three: Any) -> str:
    """The median, and in brackets the least and the greatest."""
    low, middle, high = three
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def table(head: tuple[str, ...], rows: list[str]) -> str:
    return "\n".join([line(*head), line(*["---"] * len(head)), *rows])


def replaced(text: str, name: str, figures: str) -> str:
    """The page with new figures in one place. Raises AssertionError when it has no such place."""
    found = re.subn(rf"(<!-- figures: {name} -->\n).*?(<!-- end -->)", lambda m: f"{m[1]}{figures}\n{m[2]}", text, flags=re.DOTALL)
    assert found[1] == 1, name
    return found[0]


def main() -> None:
    """Read, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, default=Path("build/bench.json"))
    parser.add_argument("--deploy", type=Path, default=Path("build/bench-deploy.json"))
    arguments = parser.parse_args()
    text = PAGE.read_text()
    if arguments.bench.exists():
        bench = Bench(json.loads(arguments.bench.read_text()))
        for name in ("how", "all", "sizes", "others", "batches", "once", "bar"):
            text = replaced(text, name, getattr(bench, name)())
    if arguments.deploy.exists():
        text = replaced(text, "deploy", deploy(json.loads(arguments.deploy.read_text())))
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
