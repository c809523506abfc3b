"""pyinfra's defaults for this bundle."""

from pyinfra import config

config.REQUIRE_PYINFRA_VERSION = "~=3.10"
config.FAIL_PERCENT = 0
