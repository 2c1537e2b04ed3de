"""Run modules in this process, through their `main`, as Ansible runs them on a server."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from tests.contract.fake_manager import ManagedServer
from tests.contract.servers import SERVERS

ROOT = Path(__file__).resolve().parents[2]
COLLECTIONS = ROOT / ".collections"
sys.path.insert(0, str(COLLECTIONS))


ALL_SERVERS = {**SERVERS, "manager": ManagedServer}


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.libvirt if name == "libvirt-qemu" else ()) for name in ALL_SERVERS])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A server with nothing on it but two images."""
    made = ALL_SERVERS[request.param](tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def run(server: Any) -> Any:
    """Run a module on the server and return its result: run("vm", {"name": "web1"}, check=True)."""
    assert COLLECTIONS.exists(), "the collection is not linked: run make setup"

    def run_module(name: str, arguments: dict[str, Any], *, check: bool = False) -> Any:
        module = importlib.import_module(f"ansible_collections.domus.virt.plugins.modules.{name}")
        told = io.StringIO()
        arguments = {**server.parameters, **arguments, "_ansible_check_mode": check, "_ansible_diff": True}
        with patch_module_args(arguments), contextlib.redirect_stdout(told), pytest.raises(SystemExit):
            module.main()
        return json.loads(told.getvalue())

    return run_module
