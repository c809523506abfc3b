"""What we do in pyinfra's place gives what pyinfra gives."""

from __future__ import annotations

from types import SimpleNamespace

import pyinfra
import pytest
from pyinfra.api.util import get_operation_order_from_stack

from deploys.pace import operation_order


def _both(state: object) -> tuple[list[int], list[int]]:
    return get_operation_order_from_stack(state), operation_order(state)


@pytest.mark.parametrize("name", ["deploys/secure_redis.py", "elsewhere.py", None])
@pytest.mark.parametrize("cli", [True, False])
def test_the_order_is_pyinfras_own(name: str | None, cli: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a deploy file that is executed, one that is not on the stack, or none, the lines equal pyinfra's."""
    monkeypatch.setattr(pyinfra, "is_cli", cli)
    state = SimpleNamespace(current_deploy_filename=name, current_op_file_number=3)
    namespace: dict[str, object] = {"both": _both, "state": state}
    exec(compile("def stage():\n    return both(state)\n\nfound = stage()\n", "deploys/secure_redis.py", "exec"), namespace)
    expected, actual = namespace["found"]  # type: ignore[misc]
    assert expected == actual
    assert name == "elsewhere.py" or len(actual) > 1
