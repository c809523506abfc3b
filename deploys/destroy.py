"""Remove everything Redkeep installed on the hosts: the server with its data, the package, users' files, rules.

pyinfra inventory deploys/destroy.py --data confirm=<name of the inventory>

The operator's secrets stay in secrets/<environment>: remove them by hand when nothing needs them any longer.
"""

from deploys.site import open_site
from deploys.stages.removal import confirm, question, removal

site = open_site(question)
confirm(site)
removal(site=site)
