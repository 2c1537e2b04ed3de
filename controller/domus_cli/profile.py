"""Where the manager is, and who we are: from the environment, else from a file."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from domus_core.documents import dump_document, read_document
from domus_core.errors import InvalidSpec

DEFAULT_URL = "https://127.0.0.1:7002"


@dataclasses.dataclass(frozen=True)
class Profile:
    """A manager's URL, a token for it, and the file of the authority that signed its certificate (None: the system's)."""

    url: str = DEFAULT_URL
    token: str = ""
    authority: str | None = None


def profile_path(environment: Mapping[str, str]) -> Path:
    """The file of the profile: $DOMUS_CONFIG, else domus/config.yml in the user's configuration directory."""
    if environment.get("DOMUS_CONFIG"):
        return Path(environment["DOMUS_CONFIG"])
    home = environment.get("XDG_CONFIG_HOME") or os.path.join(environment.get("HOME") or "/root", ".config")
    return Path(home) / "domus" / "config.yml"


def load_profile(environment: Mapping[str, str]) -> Profile:
    """The profile: $DOMUS_URL, $DOMUS_TOKEN and $DOMUS_CA go before the file. Raises InvalidSpec."""
    path = profile_path(environment)
    kept: Any = {}
    try:
        kept = read_document(str(path))
    except FileNotFoundError:
        pass
    except OSError as error:
        raise InvalidSpec(f"can not be read: {error.strerror}", object=str(path)) from None
    if not isinstance(kept, Mapping) or not set(kept) <= {"url", "token", "ca"}:
        raise InvalidSpec("is not a mapping of url, token and ca", object=str(path), remedy="Write it again: domus login")
    known = str(kept.get("url") or DEFAULT_URL)
    url = str(environment.get("DOMUS_URL") or known)
    if not url.startswith("https://"):
        raise InvalidSpec(
            "is not an https URL: the token would be sent unencrypted", field="DOMUS_URL", value=url, remedy="Like https://manager.example.org:7002"
        )
    # A token is for the manager that gave it, and for no other.
    ours = kept if url == known else {}
    authority = environment.get("DOMUS_CA") or ours.get("ca")
    return Profile(url, str(environment.get("DOMUS_TOKEN") or ours.get("token") or ""), None if authority is None else str(authority))


def save_profile(profile: Profile, path: Path) -> None:
    """Write the profile so that only its owner can read it. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    values = {"url": profile.url, "token": profile.token, **({"ca": profile.authority} if profile.authority else {})}
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(dump_document(values))
    temporary.rename(path)
