"""`domus-manager token`: make a token where the manager is, or revoke one."""

from __future__ import annotations

import argparse
import sys
import time

from domus_core.errors import InvalidSpec

from .config import ManagerConfig
from .store import tokens
from .store.database import Store

DAY = 86400.0


def token(config: ManagerConfig, options: argparse.Namespace) -> int:
    """Show a new token, or revoke the one that standard input holds. Raises InvalidSpec, NotFound."""
    if options.days is not None and not 0 < options.days <= 36500:
        raise InvalidSpec("is not a number from 1 to 36500", field="days", value=options.days)
    store = Store(config.directory)
    try:
        if options.action == "create":
            expires_at = None if options.days is None else time.time() + options.days * DAY
            sys.stdout.write(tokens.create(store, options.user, options.name, options.role, expires_at)[1] + "\n")
        else:
            tokens.revoke_plaintext(store, sys.stdin.readline().strip())
    finally:
        store.close()
    return 0
