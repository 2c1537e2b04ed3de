"""The registry of kinds, in the order in which they depend on each other: a VM needs all before it."""

from __future__ import annotations

from .iso import ISO_KIND
from .kind import Kind
from .network import NETWORK_KIND
from .repository import REPOSITORY_KIND
from .server import SERVER_KIND
from .server_pool import SERVER_POOL_KIND
from .template import TEMPLATE_KIND
from .virtual_disk import VIRTUAL_DISK_KIND
from .vm import VM_KIND

KINDS: tuple[Kind, ...] = (SERVER_KIND, NETWORK_KIND, REPOSITORY_KIND, SERVER_POOL_KIND, TEMPLATE_KIND, ISO_KIND, VIRTUAL_DISK_KIND, VM_KIND)
BY_NAME: dict[str, Kind] = {kind.name: kind for kind in KINDS}
BY_SECTION: dict[str, Kind] = {kind.section: kind for kind in KINDS}
