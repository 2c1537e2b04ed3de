"""An authority that follows another: whatever a crash leaves, one signs, and all that were given are believed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from cryptography import x509
from domus_controller.security import succession
from domus_controller.security.authority import DAY, PEOPLE, SERVERS, Authority, expires_at
from domus_controller.security.key_backup import export_keys, import_keys, read_keys

from tests.unit.domus_controller.security.test_authority import SERVER, request

LONG = 3650 * DAY


class Aged(Authority):
    """Authorities with a clock of their own."""

    def __init__(self, directory: Path) -> None:
        self.now = 1_800_000_000.0
        super().__init__(directory, lambda: self.now)
        self.ensure()

    def signs(self) -> tuple[str, ...]:
        """Whose signature a new certificate has, of those that are believed: by their place."""
        issued = x509.load_pem_x509_certificate(self.issue_server(request()[0], SERVER).pem.encode())
        found = []
        for place, one in enumerate(x509.load_pem_x509_certificates(self.servers_ca_pem.encode())):
            try:
                issued.verify_directly_issued_by(one)
                found.append(f"{place}:{one.serial_number:x}")
            except Exception:  # another's
                continue
        return tuple(found)


@pytest.fixture
def aged(tmp_path: Path) -> Aged:
    return Aged(tmp_path / "keys")


def serials(authority: Authority) -> list[str]:
    return [f"{one.serial_number:x}" for one in x509.load_pem_x509_certificates(authority.servers_ca_pem.encode())]


def test_one_is_believed_before_it_signs_and_the_other_until_it_ends(aged: Aged) -> None:
    (first,) = serials(aged)
    aged.now += LONG - 300 * DAY
    aged.prepare(SERVERS)
    aged.prepare(SERVERS)
    first_again, second = serials(aged)
    assert first_again == first and aged.signs() == (f"0:{first}",)
    aged.promote(SERVERS)
    aged.promote(SERVERS)
    assert serials(aged) == [second, first] and aged.signs() == (f"0:{second}",) and aged.coming(SERVERS) is None
    assert len(x509.load_pem_x509_certificates(aged.people_ca_pem.encode())) == 1, "of that one nobody spoke"
    aged.now += 301 * DAY
    assert serials(aged) == [second]
    succession.forget_ended(aged.directory, SERVERS, aged.now)
    assert not (aged.directory / "servers.before.crt").exists() and serials(aged) == [second]


def test_a_certificate_ends_with_its_authority_and_is_then_renewed_by_the_next(aged: Aged) -> None:
    aged.now += LONG - 100 * DAY
    last = aged.issue_server(request()[0], SERVER).pem
    assert expires_at(last) == pytest.approx(aged.expires_at(SERVERS), abs=2)
    certificate, dummy = aged.issue_manager("m")
    aged.now += 20 * DAY
    before = certificate.read_text()
    aged.issue_manager("m")
    assert certificate.read_text() == before, "another one would end with the authority, too"
    aged.prepare(SERVERS)
    aged.promote(SERVERS)
    aged.issue_manager("m")
    assert certificate.read_text() != before and expires_at(certificate.read_text()) > expires_at(last)


@pytest.mark.parametrize("done", range(4))
def test_a_promotion_that_was_broken_off_is_completed(aged: Aged, tmp_path: Path, done: int) -> None:
    """After each of its steps: nothing, the one before kept, the key in place, all."""
    aged.now += LONG - 100 * DAY
    (first,) = serials(aged)
    aged.prepare(SERVERS)
    second = serials(aged)[1]
    directory = aged.directory
    if done == 3:
        aged.promote(SERVERS)
    if done in (1, 2):
        shutil.copy(directory / "servers.crt", directory / "servers.before.crt")
    if done == 2:
        os.replace(directory / "servers.next.key", directory / "servers.key")
    signer = second if done > 1 else first
    assert {first, second} == set(serials(aged)), "nobody is locked out meanwhile"
    assert [one.partition(":")[2] for one in aged.signs()] == [signer]
    good_for = expires_at(aged.issue_server(request()[0], SERVER).pem) - aged.now
    assert good_for == pytest.approx((365 if done > 1 else 100) * DAY, abs=DAY), "key and certificate belong together"
    again = Authority(directory, lambda: aged.now)
    again.ensure()
    assert set(serials(again)) == {first, second} and serials(again)[0] == signer
    again.promote(SERVERS)
    assert serials(again) == [second, first]


def test_who_believes_it_is_kept_and_only_for_this_one(aged: Aged) -> None:
    succession.note_who_believes(aged.directory, SERVERS, ["a"])
    assert succession.who_believes(aged.directory, SERVERS) == set(), "there is none to believe"
    aged.prepare(SERVERS)
    succession.note_who_believes(aged.directory, SERVERS, ["b", "a"])
    assert succession.who_believes(aged.directory, SERVERS) == {"a", "b"}
    aged.promote(SERVERS)
    aged.prepare(SERVERS)
    assert succession.who_believes(aged.directory, SERVERS) == set()


def test_the_keys_as_a_file_hold_what_is_under_way(aged: Aged, tmp_path: Path) -> None:
    aged.prepare(SERVERS)
    aged.prepare(PEOPLE)
    aged.promote(PEOPLE)
    export_keys(aged.directory, "m", "a long passphrase", tmp_path / "keys.json")
    import_keys(tmp_path / "new", read_keys(tmp_path / "keys.json", "a long passphrase")["files"])
    there = Authority(tmp_path / "new", lambda: aged.now)
    assert (there.servers_ca_pem, there.people_ca_pem) == (aged.servers_ca_pem, aged.people_ca_pem)
    assert there.coming(SERVERS) == aged.coming(SERVERS)
