"""Turn a Redis that is in use, without a password or TLS, into a hardened one, a stage at a time.

pyinfra inventory deploys/migrate.py                          the next stage that is due
pyinfra inventory deploys/migrate.py --data stage=tls         that stage, when it is due
pyinfra --dry inventory deploys/migrate.py                    what the next stage would do
pyinfra inventory deploys/rollback.py                         the way back, a stage at a time
"""

from deploys.migration.course import forward, question
from deploys.site import open_site

forward(open_site(question))
