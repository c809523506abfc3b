"""The allow-list of a deploy, as far as this process can see it: whether the kernel has the rules that were loaded.

The rules themselves are for root alone to read. What everybody sees is the file asking for them, and the note of their loading.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final, Literal

from redkeep.monitoring.host import in_container

RULES: Final = Path("/etc/redkeep/firewall.nft")
NOTE: Final = Path("/run/redkeep-firewall.sha256")
"""The digest of the tables' listing right after they were loaded; it goes when they are unloaded, and with a boot."""

NFT: Final = "/usr/sbin/nft"
TABLES: Final = (("inet", "redkeep"), ("bridge", "redkeep"))
_SECONDS: Final = 5.0

Sight = Literal["in force", "changed", "absent", "noted", "unseen"]


def look(*, note: Path = NOTE) -> Sight:
    """What there is of it. Never raises; for root two runs of nft, about 10 ms, otherwise one look at a file.

    "in force", "changed" and "absent" were read from the kernel. "noted": it was loaded since the boot, and whether it is there
    still cannot be told from here. "unseen": nothing can be told.
    """
    try:
        noted = note.read_text("ascii").strip()
    except (OSError, ValueError):
        noted = ""
    listing = _listing() if os.geteuid() == 0 else None
    if listing is None:
        return "noted" if noted else "unseen"
    if not listing:
        return "absent"
    return "in force" if hashlib.sha256(listing).hexdigest() == noted else "changed"


def _listing() -> bytes | None:
    """The tables as the kernel has them, without counters' state; empty when there is none, None when it does not say."""
    import subprocess  # needed by root alone, and where Redis is reached from elsewhere

    found = b""
    for family, name in TABLES:
        command = [NFT, "--stateless", "list", "table", family, name]
        try:
            told = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False, env={"LC_ALL": "C"})
        except FileNotFoundError:
            # Who deploys rules installs nft with them; but a container's own files say nothing of its host's.
            return None if in_container() else b""
        except (OSError, subprocess.TimeoutExpired):
            return None
        if told.returncode and b"No such file" not in told.stderr:
            return None
        found += told.stdout
    return found
