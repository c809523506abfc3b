"""`redkeep migrate-data` on a host that the deploy made: package, settings and users of there, old entries, and their keys' count."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable

from redkeep.crypto.keyring import KeyRing
from redkeep.crypto.store import SecretStore
from tests.deploys.runner import Deployment
from tests.lab.lab import Lab

KIND = "redis80"
OLD = {f"ai_cache:op:qa|txt:secret words {number}": json.dumps({"answer": f"secret answer {number}"}) for number in range(50)}


def test_old_entries_on_a_deployed_host(deployed: Callable[[str], Deployment], lab: Lab) -> None:
    """The operator hands over the janitor's password for the one command; the entries are sealed under the ring's key, with their time."""
    site = deployed(KIND)
    host = lab[KIND]
    store = SecretStore.open(site.secrets)
    password = store.password("cache_janitor")

    def redkeep(*arguments: str, janitor: bool = True) -> str:
        variable = f"REDIS_JANITOR_PASSWORD={shlex.quote(password)} " if janitor else ""
        return host.run(f"{variable}redkeep migrate-data {' '.join(arguments)} 2>&1").out

    clear = "redkeep-cli --scan --pattern 'ai_cache:*' | tr '\\n' '\\0' | xargs -0 -r redkeep-cli UNLINK"
    host.check(clear)  # entries of other tests on this host
    for name, value in OLD.items():
        host.check(f"redkeep-cli SET {shlex.quote(name)} {shlex.quote(value)} EX 600")
    try:
        assert "REDIS_JANITOR_PASSWORD is not set" in redkeep(janitor=False)
        assert "50 entries would be encrypted" in redkeep("--dry-run")
        assert "50 entries encrypted: 50 were readable, 0 had an older key" in redkeep()
        names = host.check("redkeep-cli --scan --pattern 'ai_cache:op:qa|*'").split("\n")
        assert len([name for name in names if "|h:" in name]) == 50
        assert "secret" not in " ".join(names)
        one = next(name for name in names if "|h:" in name)
        assert 0 < int(host.check(f"redkeep-cli TTL {shlex.quote(one)}")) <= 600
        key_id = KeyRing.from_strings(store.encryption_keys()).primary.key_id.hex()
        assert json.loads(redkeep("--count", "--json"))["sealed"][key_id] >= 50
    finally:
        host.run(clear)
