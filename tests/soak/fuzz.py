"""The decoder against any bytes: `python -m tests.soak.fuzz --seconds 600`.

Coverage-guided by atheris, which gets an environment of its own, build/fuzz; where there is no atheris for this Python, or with
`--engine hypothesis`, by hypothesis. Prints the figures; ends with 1 and the way to repeat it when there is a finding.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from tests.soak.decoder import SLICE, WAYS, check, seeds

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "fuzz"
PYTHON = FOLDER / "bin" / "python"
REQUIREMENTS = Path(__file__).with_name("requirements.lock")
MEMORY_MB = 512
"""Where libFuzzer calls it a finding: the worker starts with some 100."""

SLOW_SECONDS = 5


def main(arguments: list[str] | None = None) -> int:
    """Fuzz, and tell whether something was found: 0 or 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--workers", type=int, default=max(1, min(4, (os.cpu_count() or 1) // 2)))
    parser.add_argument("--engine", choices=("atheris", "hypothesis"), default="atheris")
    given = parser.parse_args(arguments)
    if given.engine == "atheris" and _has_atheris():
        return with_atheris(given.seconds, given.workers)
    if given.engine == "atheris":
        print("no atheris for this Python: hypothesis instead, which does not look at coverage", flush=True)
    runs, megabytes = with_hypothesis(given.seconds)
    print(f"hypothesis: {given.seconds} s, {runs} inputs, 0 findings, memory grew by {megabytes:.0f} MB")
    return 0


def with_hypothesis(seconds: float) -> tuple[int, float]:
    """How many inputs were tried and by how many MB memory grew. Raises what the decoder raised, with the smallest such input."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded
    from hypothesis import strategies as st

    known = list(seeds())
    cuts = st.tuples(st.sampled_from(known), st.integers(0, 400), st.integers(0, 8), st.binary(max_size=12))
    mutated = cuts.map(lambda cut: cut[0][: cut[1]] + cut[3] + cut[0][cut[1] + cut[2] :])
    noise = st.tuples(st.integers(0, len(WAYS) - 1), st.binary(max_size=600)).map(lambda pair: bytes([pair[0]]) + pair[1])
    runs = 0

    @settings(
        max_examples=400, deadline=None, database=None, phases=(Phase.generate, Phase.shrink), suppress_health_check=list(HealthCheck)
    )
    @given(st.one_of(mutated, noise))
    def one_round(data: bytes) -> None:
        nonlocal runs
        runs += 1
        check(data)

    for each in known:
        check(each)
    before = _peak_mb()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        seeded(int.from_bytes(os.urandom(8)))(one_round)()
    return runs + len(known), _peak_mb() - before


def with_atheris(seconds: int, workers: int) -> int:
    """Run `workers` processes on one corpus, print their figures, and tell whether something was found."""
    corpus, findings = FOLDER / "corpus", FOLDER / "findings"
    corpus.mkdir(parents=True, exist_ok=True)
    findings.mkdir(exist_ok=True)
    for number, seed in enumerate(seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    path = os.pathsep.join([str(ROOT), str(ROOT / "app"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    command = [
        str(PYTHON), "-m", "tests.soak.fuzz_worker", f"-max_total_time={seconds}", f"-max_len={SLICE // 8}", f"-timeout={SLOW_SECONDS}",
        f"-rss_limit_mb={MEMORY_MB}", f"-artifact_prefix={findings}{os.sep}", "-print_final_stats=1", "-reload=10", str(corpus),
    ]
    running = []
    for number in range(workers):
        with (FOLDER / f"worker-{number}.log").open("wb") as log:
            running.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}))
    failed, runs, covered, peak = 0, 0, 0, 0
    for number, worker in enumerate(running):
        code = worker.wait()
        text = (FOLDER / f"worker-{number}.log").read_text("utf-8", "replace")
        runs += _figure(r"stat::number_of_executed_units: *(\d+)", text)
        peak = max(peak, _figure(r"stat::peak_rss_mb: *(\d+)", text))
        covered = max(covered, _figure(r".* cov: (\d+)", text))
        if code:
            failed += 1
            print(f"worker {number} ended with {code}:\n{text[-4000:]}")
    left = sorted(each.name for each in findings.iterdir())
    print(
        f"atheris: {workers} workers, {seconds} s, {runs} inputs, {covered} edges covered, "
        f"peak {peak} MB, {len(left)} findings{': ' + ', '.join(left) if left else ''}"
    )
    if left:
        print(f"each is an input: tests.soak.decoder.check(Path('{findings.relative_to(ROOT)}/...').read_bytes())")
    return 1 if failed or left else 0


def _has_atheris() -> bool:
    """Whether build/fuzz has what the lock asks for; makes it if it can."""
    done = FOLDER / ".lock"
    wanted = REQUIREMENTS.read_text()
    if PYTHON.exists() and done.exists() and done.read_text() == wanted:
        return True
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(FOLDER)], check=True)
    pip = [str(PYTHON), "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--require-hashes"]
    if subprocess.run([*pip, "--requirement", str(REQUIREMENTS)], check=False).returncode:
        return False
    done.write_text(wanted)
    return True


def _figure(pattern: str, text: str) -> int:
    found = re.findall(pattern, text)
    return int(found[-1]) if found else 0


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
