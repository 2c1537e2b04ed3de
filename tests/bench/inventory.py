"""`inventory`: the inventory plugin with thousands of VMs, asked anew and out of Ansible's cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from tests.support.made_up import fill
from tests.support.stack import WEB_AUTHORITY, Stack

from .measuring import BIN, ROOT, alternate, format_seconds, line, median, spread

VMS = 5000
ROUNDS = 5
# From when Ansible begins to read the inventory until it has all hosts and groups; Ansible's own start is told beside it.
PROGRAM = """
import json, sys, time
from ansible.parsing.dataloader import DataLoader
from ansible.inventory.manager import InventoryManager
from ansible.plugins.loader import init_plugin_loader
init_plugin_loader()
began = time.perf_counter()
inventory = InventoryManager(loader=DataLoader(), sources=[sys.argv[1]])
seconds = time.perf_counter() - began
hosts = inventory.get_hosts("domus_vms")
print(json.dumps({"seconds": seconds, "hosts": len(hosts), "groups": len(inventory.groups), "addressed": sum("ansible_host" in one.vars for one in hosts)}))
"""


def measure(directory: Path) -> Iterator[str]:
    """A real manager over TLS; groups by tag and by server. Cold: the cache is told to forget, and is written."""
    stack = Stack(())
    try:
        stack.up()
        fill(stack, VMS)
        source = directory / "vms.domus.yml"
        source.write_text(yaml.safe_dump(_configuration(stack, directory)))
        environment = _environment(stack, directory)
        cold, cached = alternate(ROUNDS, lambda: _read(source, directory, environment, False), lambda: _read(source, directory, environment, True))
        command = [str(BIN / "ansible-inventory"), "-i", str(source), "--graph"]
        whole = alternate(3, lambda: _run(command, environment)[0], lambda: _run([*command[:2], "localhost,", "--graph"], environment)[0])
    finally:
        stack.close()
    facts = (f"cached={format_seconds(median(cached))}", f"vms={VMS}", f"spread={spread(cold)}", f"cached_spread={spread(cached)}")
    commands = (f"command_cached={format_seconds(median(whole[0]))}", f"command_alone={format_seconds(median(whole[1]))}")
    yield line("inventory", median(cold), None, *facts, *commands, "wanted<=3s,cached<=0.7s")


def _configuration(stack: Stack, directory: Path) -> dict[str, object]:
    groups = [{"key": "domus_tags", "prefix": "tag"}, {"key": "domus_server", "prefix": "on"}]
    cache = {"cache": True, "cache_plugin": "ansible.builtin.jsonfile", "cache_timeout": 3600, "cache_connection": str(directory / "cache")}
    return {"plugin": "domus.virt.domus", "url": stack.url, "ca": str(stack.manager_directory / WEB_AUTHORITY), "keyed_groups": groups, **cache}


def _environment(stack: Stack, directory: Path) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")},
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"),
        "ANSIBLE_HOME": str(directory / "ansible"),
        "DOMUS_TOKEN": (stack.client.authorization or "").partition(" ")[2],
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }


def _read(source: Path, directory: Path, environment: dict[str, str], cached: bool) -> float:
    """Seconds until Ansible has the inventory. Raises RuntimeError when hosts are missing."""
    if not cached:
        for path in (directory / "cache").glob("*"):
            path.unlink()
    told = json.loads(_run([sys.executable, "-c", PROGRAM, str(source)], environment)[1].splitlines()[-1])
    if told["hosts"] != VMS or told["addressed"] != VMS or told["groups"] < 40:
        raise RuntimeError(str(told))
    return float(told["seconds"])


def _run(command: list[str], environment: dict[str, str]) -> tuple[float, str]:
    began = time.perf_counter()
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    if done.returncode != 0:
        raise RuntimeError(done.stdout[-1000:] + done.stderr[-2000:])
    return seconds, done.stdout
