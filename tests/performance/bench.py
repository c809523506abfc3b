"""`redkeep bench` with other caches beside it: `make bench`, which installs them into an environment of their own."""

from __future__ import annotations

import argparse
import sys

from redkeep.cli import bench
from redkeep.errors import RedkeepError
from tests.performance.peers import peers


def main() -> int:
    """The command's own arguments. Returns the exit code; what went wrong is one line on the error output."""
    parser = argparse.ArgumentParser(description=__doc__)
    bench.register(parser.add_subparsers(required=True))
    try:
        return bench.run(parser.parse_args(["bench", *sys.argv[1:]]), also=peers())
    except RedkeepError as error:
        print(f"redkeep: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
