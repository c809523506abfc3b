"""A migration by root beside a server whose user is somebody's already: links that it plants lead nowhere."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.deploys.runner import Deployment
from tests.deploys.stock import fill, install
from tests.lab.lab import Lab

pytestmark = pytest.mark.soak

NAME = "links"
MARK = "for-root-alone"
# Everything that the server's user may reach is a link to root's file, again and again, and is read.
PLANT = f"""echo {MARK} > /root/secret; chmod 600 /root/secret
cat > /tmp/plant <<'end'
cd /var/lib/redis; while :; do
    for f in dump.rdb .redkeep-restore.*/dump.rdb .redkeep-restore.*/out .redkeep-restore.*/log /var/lib/redkeep/.redkeep-restore.*/dump.rdb \\
        /run/redkeep-try.*/log /run/redkeep-try.*/out; do ln -sfn /root/secret "$f"; cat "$f"; done
done >> /tmp/loot 2>/dev/null
end
chmod 644 /tmp/plant; systemd-run -q --unit=plant setpriv --reuid=redis --regid=redis --clear-groups sh /tmp/plant"""


def test_links_of_the_servers_user_lead_nowhere(single: Callable[..., Deployment], lab: Lab) -> None:
    """Its user neither reads a file of root's nor has one changed; without the links the stage succeeds."""
    site = single(NAME)
    host = lab[NAME]
    install(host)
    fill(host)
    host.check(PLANT)
    assert site.run("migrate", "--data", "stage=preparation").code != 0
    host.check("systemctl stop plant")
    assert host.check("stat -c '%a %U' /root/secret; cat /root/secret").split() == ["600", "root", MARK]
    assert MARK not in host.check("cat /tmp/loot")
    host.check("rm -f /var/lib/redis/dump.rdb")
    assert "preparation validated" in site.run("migrate", "--data", "stage=preparation").ok().output
