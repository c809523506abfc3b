"""One fuzzing process: run by fuzz.py in an environment that has atheris. Arguments are libFuzzer's."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["redkeep", "pickletools"]):
    from tests.soak.decoder import check

atheris.Setup(sys.argv, check)
atheris.Fuzz()
