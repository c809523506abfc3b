"""Turn the hosts of an inventory into a hardened Redis with the encrypted cache beside it.

pyinfra inventory deploys/secure_redis.py            this machine
pyinfra inventories/single.py deploys/secure_redis.py    other hosts, over SSH
Add --dry to see what would change, and why. A second run changes nothing.
"""

from deploys.site import open_site
from deploys.stages import preflight
from deploys.stages.proof import proof
from deploys.stages.whole import whole

site = open_site(preflight.question)
preflight.preflight(site)

whole(site)
if site.bundle.is_app:
    proof(site=site)
