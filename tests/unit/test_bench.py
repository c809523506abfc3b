"""The benchmark's arithmetic and its refusals; it runs on real servers in tests/redis."""

from __future__ import annotations

from pathlib import Path

import pytest

from redkeep.cli import main
from redkeep.cli.bench_report import Cell, Measured, document, picture, ratios, table
from redkeep.cli.bench_variants import value_of
from tests.performance.page import PAGE, replaced, verdict

CELL = Cell(
    2048, 16,
    {"base": [Measured(100, 4e-5, 0.1), Measured(200, 2e-5, 0.2), Measured(100, 4e-5, 0.1)],
     "our <cache>": [Measured(300, 1e-5, 0.1), Measured(200, 1e-5, 0.1), Measured(900, 1e-5, 0.2)]},
    {"base": 2000.0, "our <cache>": 1000.0},
)  # fmt: skip


def test_a_ratio_is_that_of_one_round() -> None:
    """Minimum, median and maximum are of ratios within a round, not of figures of different rounds."""
    found = ratios(CELL, "our <cache>", "base")
    assert (1.0, 3.0, 9.0) == found["ops"]
    assert (0.25, 0.25, 0.5) == found["cpu"]
    assert (0.5, 1.0, 2.0) == found["p99"]


def test_the_forms_agree() -> None:
    """Table, JSON and picture show the same median, and a name cannot break the picture."""
    assert "1.00 3.00 9.00" in table(CELL, "base", [("our <cache>", "base")])
    data = document([CELL], "base", {"cores": 2})
    assert 3.0 == data["cells"][0]["variants"]["our <cache>"]["ratios"]["ops"]["median"]
    assert ">3.00<" in picture(CELL, "base")
    assert "our &lt;cache&gt;" in picture(CELL, "base")


@pytest.mark.parametrize("size", [512, 2048, 10240])
def test_values_have_their_size(size: int) -> None:
    """As JSON, to a few bytes, and the same each time."""
    assert abs(len(value_of(size).json) - size) < 10
    assert value_of(size) == value_of(size)


def test_without_a_server(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is no redis-server, one sentence says what to install."""
    monkeypatch.setattr("redkeep.cli.bench_servers._BINARIES", ("no-such-server",))
    assert 2 == main(["bench", "--quick"])
    assert capsys.readouterr().err.startswith("redkeep: the benchmark needs redis-server or valkey-server")


@pytest.mark.parametrize("wrong", [["--size", "0"], ["--concurrency", "0"], ["--rounds", "-1"], ["--operations", "0"]])
def test_numbers_that_make_no_sense(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """They are refused before anything starts."""
    assert 2 == main(["bench", *wrong])
    assert "sizes begin at" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--json", "--svg"])
def test_a_file_that_cannot_be_written_is_named_before_minutes_of_measuring(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No server starts, and what stands there already is left as it is."""
    monkeypatch.setattr("redkeep.cli.bench_servers._BINARIES", ("no-such-server",))
    kept = tmp_path / "kept"
    kept.write_text("before")
    assert 2 == main(["bench", "--quick", "--json", str(kept), option, str(tmp_path / "none" / "figures")])
    assert f"redkeep: {option} {tmp_path}/none/figures cannot be written: No such file or directory" in capsys.readouterr().err
    assert kept.read_text() == "before"


@pytest.mark.parametrize("name", ["how", "all", "sizes", "others", "batches", "once", "deploy", "bar"])
def test_the_page_has_a_place_for_its_figures(name: str) -> None:
    """New figures replace the old ones in docs/performance.md, and nothing else."""
    text = PAGE.read_text()
    made = replaced(text, name, "| new |")
    assert f"<!-- figures: {name} -->\n| new |\n<!-- end -->" in made
    assert text.count("<!-- end -->") == made.count("<!-- end -->")
    assert "reached" in verdict("x", (1, 2, 3), lambda value: value > 1)
    assert "**not reached**" in verdict("x", (1, 2, 3), lambda value: value > 2)
