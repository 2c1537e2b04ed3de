"""domus server balance and domus pool balance: what a policy would do with servers, and have it done once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click
from domus_core.clients.manager import ManagerClient

from ..following import follow_all
from ..output import Output, key
from .common import completes, connect, with_output

POOLS = "/api/v1/server-pools"

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
@click.option("--run", is_flag=True, help="Carry it out once, in each pool where there is something to do.")
@with_output
def balance_command(output: Output, mode: str, run: bool, **numbers: int | None) -> int:
    """Show what a policy would do with the servers now. Nothing is changed without --run."""
    asked: dict[str, Any] = {"mode": mode, **_given(numbers)}
    manager = connect()
    plan = manager.get("/api/v1/balance", **asked)
    if not run:
        show_plan(output, plan)
        return 0
    # The plan is made anew where it is carried out: what was shown a moment ago may not hold any more.
    begun = [manager.post(f"{POOLS}/{pool['pool']}/balance", asked) for pool in plan["pools"] if pool["moves"] or pool["switches"]]
    return _followed(manager, begun, output)


@click.command("balance")
@click.argument("pool", shell_complete=completes(POOLS))
@click.option("--mode", type=click.Choice(("drs", "dpm")), help="Spread VMs, or gather them on few servers (default: as the pool's policy, else drs).")
@_with_numbers
@click.option("--run", is_flag=True, help="Carry it out once.")
@with_output
def balance_pool_command(output: Output, pool: str, mode: str | None, run: bool, **numbers: int | None) -> int:
    """Show what the policy of a pool would do now, or with --run have it done once.

    By itself a policy does it on its schedule, once the pool's document says mode drs or dpm.
    """
    asked: dict[str, Any] = {**({"mode": mode} if mode else {}), **_given(numbers)}
    manager = connect()
    if run:
        return _followed(manager, [manager.post(f"{POOLS}/{pool}/balance", asked)], output)
    show_plan(output, manager.post(f"{POOLS}/{pool}/balance?check=true", asked))
    return 0


def _given(numbers: Mapping[str, int | None]) -> dict[str, int]:
    return {name: value for name, value in numbers.items() if value is not None}


def _followed(manager: ManagerClient, begun: Sequence[Mapping[str, Any]], output: Output) -> int:
    """Follow the jobs; an answer that is a plan had nothing to do."""
    jobs = [one for one in begun if "kind" in one]
    if jobs:
        return follow_all(manager, jobs, output, wait=True)
    if begun and not output.for_people:
        output.data(begun[0])
    output.say("Nothing is to be done.")
    return 0


def show_plan(output: Output, plan: Mapping[str, Any]) -> None:
    """What a policy would do, pool by pool."""
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
