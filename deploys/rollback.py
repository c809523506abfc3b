"""Undo the last stage of a migration.

pyinfra inventory deploys/rollback.py                         the last stage
pyinfra inventory deploys/rollback.py --data stage=tls        every stage back to that one, the last one first
"""

from deploys.migration.course import back, question
from deploys.site import open_site

back(open_site(question))
