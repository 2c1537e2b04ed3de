"""What can be done to a host, and taken back. Powering off, resetting and reinstalling are in host.py."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

from .network import Direction, Network

if TYPE_CHECKING:
    from .cgroups import Group
    from .host import Host, Traits
    from .lab import Lab


class Faults(abc.ABC):
    """The faults that every host can have."""

    lab: Lab
    traits: Traits
    group: Group

    # -- network

    def cut(self, direction: Direction = "both", card: int = 0) -> None:
        """Lose every frame `from` the host, `to` it, or both. Its card still has a carrier: a switch failed, not the cable."""
        self._network.cut(self._port(card), direction)

    def part(self, other: Host, card: int = 0) -> None:
        """Lose every frame between this host and another one; both reach all others."""
        self._network.part(self._port(card), other._port(card))

    def degrade(self, delay: float = 0.0, loss: float = 0.0, rate: float = 0.0, direction: Direction = "both", card: int = 0) -> None:
        """Make the network bad: seconds of delay in each direction, share of lost frames (0 to 1), bytes per second (0: no limit)."""
        quality = {"delay": delay, "loss": loss, "rate": rate}
        sides = ("from", "to") if direction == "both" else (direction,)
        self._network.degrade(self._port(card), self.traits.segments[card], {side: quality for side in sides})

    def unplug(self, card: int = 0) -> None:
        """Pull the cable: the card loses its carrier."""
        self._plug(card, False)

    def restore(self, card: int = 0) -> None:
        """Make the network of a card whole again, whatever was done to it."""
        self._network.restore(self._port(card))
        self._plug(card, True)

    @abc.abstractmethod
    def _plug(self, card: int, carrier: bool) -> None:
        """Plug a card's cable in, or pull it."""

    # -- processes

    def freeze(self) -> None:
        """Stop the whole host where it is, as when its hypervisor stalls; it knows nothing of it afterwards."""
        self.group.freeze(True)

    def thaw(self) -> None:
        """Let it go on."""
        self.group.freeze(False)

    # -- disk and clock

    @abc.abstractmethod
    def fill_disk(self, leave: int = 0) -> None:
        """Make every further write fail with ENOSPC. `leave`: bytes that stay free."""

    @abc.abstractmethod
    def free_disk(self) -> None:
        """Give the disk its room back."""

    @abc.abstractmethod
    def move_clock(self, seconds: float, unit: str = "") -> None:
        """Move the wall clock: of a machine the whole one, in a container that of one unit."""

    @property
    def _network(self) -> Network:
        return self.lab.network

    def _port(self, card: int) -> str:
        return self._network.port(self.traits.index, card)
