"""domus server balance and what-if: what a policy would do, and what the loss of a server would mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from ..output import Output, key
from .common import connect, with_output

NUMBERS = (
    ("cpu_threshold", "Relieve servers with more percent of their processors in use."),
    ("memory_threshold", "The same for promised memory."),
    ("network_threshold", "The same for the network."),
    ("tolerance", "Percent that servers may be away from the mean."),
    ("most_moves", "How many VMs move at most."),
    ("spare_servers", "Keep room for the loss of so many servers."),
    ("least_on", "How many servers stay on at least."),
)
STEPS = [key("DO", "do"), key("VM", "vm"), key("FROM", "source"), key("TO", "server"), key("WHY", "reason")]


def _with_numbers(command: Any) -> Any:
    for name, text in reversed(NUMBERS):
        command = click.option(f"--{name.replace('_', '-')}", type=click.IntRange(0), help=text)(command)
    return command


@click.command("balance")
@click.option("--mode", type=click.Choice(("drs", "dpm")), default="drs", show_default=True, help="Spread VMs, or gather them on few servers.")
@_with_numbers
@with_output
def balance_command(output: Output, mode: str, **numbers: int | None) -> None:
    """Show what a policy would do with the servers now. Nothing is changed."""
    asked = {name: value for name, value in numbers.items() if value is not None}
    plan = connect().get("/api/v1/balance", mode=mode, **asked)
    if not output.for_people:
        output.data(plan)
        return
    for pool in plan["pools"]:
        output.say(f"pool {pool['pool']}: {len(pool['servers'])} servers, spread {pool['before']:.4f} -> {pool['after']:.4f}")
        output.rows(_steps(pool), STEPS, empty="Nothing is to be done.")
        for vm, why in pool["stuck"].items():
            output.say(f"vm {vm} stays: {why}")
        if pool["waiting"]:
            output.say(f"No server is switched off or woken: {pool['waiting']}")
        if pool["uncounted"]:
            output.say(f"Not every server tells how much it has of {', '.join(pool['uncounted'])}: that does not count.")


def _steps(pool: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [*({"do": "move", **move} for move in pool["moves"]), *({"do": switch["action"], **switch} for switch in pool["switches"])]
