"""user: people, and the certificates with which they log in."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import IO

import click
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ..output import Output, key, moment
from .common import connect, listed, with_output

CERTIFICATES, USERS = "/api/v1/certificates", "/api/v1/users"
ROLES = click.Choice(["viewer", "operator", "administrator"])
USER_COLUMNS = [key("NAME", "name"), key("ROLE", "role")]
COLUMNS = [key("SERIAL", "serial"), key("USER", "user"), key("ROLE", "role"), key("NAME", "name"), moment("UNTIL", "expires_at")]


@click.group("user")
def user_group() -> None:
    """People, and the certificates with which they log in."""


@user_group.command("add")
@click.argument("name")
@click.option("--role", type=ROLES, required=True, help="What the person may do.")
@click.option("--password-file", type=click.File(), help="The file with the password, - for standard input; else it is asked for.")
@with_output
def add_command(output: Output, name: str, role: str, password_file: IO[str] | None) -> None:
    """Let a person in, who then logs in with: domus login."""
    asked = None if password_file else click.prompt(f"Password of {name}", hide_input=True, confirmation_prompt=True)
    password = password_file.read().rstrip("\n") if password_file else asked
    made = connect().post(USERS, {"name": name, "role": role, "password": password})
    output.say(f"{name} may log in as {role}")
    if not output.for_people:
        output.data(made)


@user_group.command("list")
@with_output
def list_command(output: Output) -> None:
    """List people."""
    output.rows(listed(connect(), USERS, None), USER_COLUMNS, empty="There are none.")


@user_group.command("remove")
@click.argument("name")
@with_output
def remove_command(output: Output, name: str) -> None:
    """Let a person in no more; tokens and certificates end with it."""
    connect().delete(f"{USERS}/{name}")
    output.say(f"{name} may not log in any more")


@user_group.command("certificate")
@click.argument("user")
@click.option("--csr", type=click.File(), help="A signing request for an EC P-256 key; else a key is made here.")
@click.option("--out", type=click.Path(dir_okay=False), help="The file to write: certificate, and the key if it was made here. [default: USER.pem]")
@click.option("--name", default=lambda: socket.gethostname(), show_default="this host's name", help="What it is for.")
@click.option("--role", type=ROLES, help="What it may do; else what you may do.")
@with_output
def certificate_command(output: Output, user: str, csr: IO[str] | None, out: str | None, name: str, role: str | None) -> None:
    """Get a certificate for a person, good for a year: domus login --certificate FILE, or curl --cert FILE."""
    made, request = (None, csr.read()) if csr is not None else _new_request()
    body = {"csr": request, "name": name, **({} if role is None else {"role": role})}
    path = Path(out or f"{user}.pem")
    if path.exists():
        raise click.ClickException(f"{path} is there already: name another file with --out")
    given = connect().post(f"/api/v1/users/{user}/certificates", body)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(str(given["certificate"]) + (made or ""))
    output.say(f"{path}: a certificate of {user} as {given['role']}, until {given['expires_at']}")
    if not output.for_people:
        output.data({**given, "file": str(path)})


@user_group.command("certificates")
@with_output
def certificates_command(output: Output) -> None:
    """List your certificates; administrators see those of all."""
    output.rows(listed(connect(), CERTIFICATES, None), COLUMNS, empty="There are none: domus user certificate")


@user_group.command("revoke-certificate")
@click.argument("serial")
@with_output
def revoke_command(output: Output, serial: str) -> None:
    """Accept a certificate no more, from now on."""
    connect().delete(f"{CERTIFICATES}/{serial}")
    output.say(f"certificate {serial} is accepted no more")


def _new_request() -> tuple[str, str]:
    """A new key and a signing request for it; both PEM."""
    private = ec.generate_private_key(ec.SECP256R1())
    text = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(private, hashes.SHA256())
    return text, request.public_bytes(serialization.Encoding.PEM).decode()
