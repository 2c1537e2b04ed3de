"""login and completion: making the command ready for a person."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import click
from click.shell_completion import get_completion_class
from domus_core.clients.manager import ManagerClient
from domus_core.errors import InvalidSpec, Unauthorized

from ..profile import DEFAULT_URL, Profile, profile_path, save_profile


@click.command("login")
@click.option("--url", default=DEFAULT_URL, show_default=True, help="The manager.")
@click.option("--ca", type=click.Path(exists=True, dir_okay=False, resolve_path=True), help="The authority of its certificate, a PEM file.")
@click.option("--user", default="admin", show_default=True, help="Who you are.")
@click.option("--password-file", type=click.File(), help="The file of your password; else it is asked for.")
@click.option("--certificate", type=click.Path(exists=True, dir_okay=False), help="Your certificate and its key, one PEM file, in place of name and password.")
def login_command(url: str, ca: str | None, user: str, password_file: IO[str] | None, certificate: str | None) -> None:
    """Get a token from the manager and keep it for the following commands."""
    name = {"name": f"domus on {socket.gethostname()}"}
    if certificate is not None:
        made = _with_certificate(url, ca, certificate).post("/api/v1/tokens", name)
        _keep(url, made, ca)
        return
    password = password_file.read().rstrip("\n") if password_file else click.prompt(f"Password of {user}", hide_input=True)
    try:
        made = ManagerClient(url, authority_path=ca, login=(user, password)).post("/api/v1/tokens", name)
    except Unauthorized as error:
        error.remedy = "Try again; `domus-manager reset-password` on the manager makes a new one"
        raise
    _keep(url, made, ca)


def _with_certificate(url: str, ca: str | None, certificate: str) -> ManagerClient:
    client = ManagerClient(url, authority_path=ca)
    try:
        if client.context is not None:
            client.context.load_cert_chain(certificate)
    except OSError as error:
        remedy = "It must hold the certificate and its key: domus user certificate"
        raise InvalidSpec(f"can not be used: {error.strerror or error}", object=f"file {certificate}", remedy=remedy) from None
    return client


def _keep(url: str, made: Mapping[str, Any], ca: str | None) -> None:
    path = profile_path(os.environ)
    save_profile(Profile(url, str(made["token"]), ca), Path(path))
    click.echo(f"logged in to {url} as {made['user']}; the token is in {path}")


@click.command("completion", short_help="Print the shell's completion script.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(context: click.Context, shell: str) -> None:
    """Print the shell's completion script: eval "$(domus completion bash)"."""
    shell_class = get_completion_class(shell)
    assert shell_class is not None  # click knows all three
    click.echo(shell_class(context.find_root().command, {}, "domus", "_DOMUS_COMPLETE").source())
