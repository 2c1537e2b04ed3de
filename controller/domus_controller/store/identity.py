"""Which manager this is: agents obey the manager of one id, so a new machine takes the id of the one that it replaces."""

from __future__ import annotations

from pathlib import Path

from domus_core.errors import Conflict

from .database import Connection, Store


def check_may_become(directory: Path, manager_id: str) -> None:
    """Raise Conflict when the store in `directory` belongs to another manager that has servers."""
    store = Store(directory)
    try:
        number = len(store.rows("SELECT 1 FROM servers"))
        if number and store.manager_id != manager_id:
            problem = f"is another manager, which has {number} servers"
            raise Conflict(
                problem, object=f"manager {directory}", value=store.manager_id, remedy="Import the keys on a new machine, or release its servers first"
            )
    finally:
        store.close()


def become(directory: Path, manager_id: str) -> None:
    """Give the store in `directory`, made when it is not there, this manager's id."""

    def change(connection: Connection) -> int:
        return connection.execute("UPDATE about SET value = ? WHERE name = 'manager_id'", (manager_id,)).rowcount

    store = Store(directory)
    try:
        store.write(change)
    finally:
        store.close()
