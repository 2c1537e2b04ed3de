"""Each check can find what it looks for, and says what to do."""

from __future__ import annotations

import datetime
import json
import sqlite3
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from domus_agent import doctor
from domus_agent.__main__ import main
from domus_agent.config import AgentConfig
from domus_agent.doctor import FAIL, OK, WARN, Finding, examine, judge_clock
from domus_agent.store import AgentStore


@pytest.fixture
def config(tmp_path: Path) -> AgentConfig:
    (tmp_path / "agent" / "identity").mkdir(parents=True)
    return AgentConfig(directory=str(tmp_path / "agent"), state_directory=str(tmp_path), uri="test:///default")


def check(config: AgentConfig, name: str) -> Finding:
    """What one check finds."""
    return next(finding for finding in examine(config) if finding.check == name)


def test_all_is_well_but_what_must_not_be(config: AgentConfig) -> None:
    findings = {finding.check: finding for finding in examine(config)}
    assert list(findings) == list(doctor.CHECKS)
    assert all(finding.verdict != FAIL for finding in findings.values()), findings
    assert findings["agent"].verdict == findings["qemu"].verdict == WARN
    assert all(finding.remedy for finding in findings.values() if finding.verdict != OK)


def test_a_package_that_is_missing(config: AgentConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MODULES", {"nowhere_to_be_found": "python3-nowhere"})
    monkeypatch.setattr(doctor, "TOOLS", {"nowhere-to-be-found": "nowhere-utils"})
    found = check(config, "packages")
    assert (found.verdict, found.remedy) == (FAIL, "apt-get install python3-nowhere nowhere-utils")


def test_a_libvirt_that_is_away_is_a_failure_and_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"directory": str(tmp_path / "agent"), "state_directory": str(tmp_path), "uri": "qemu:///system?socket=/nowhere/libvirt-sock"}
    (tmp_path / "agent.yml").write_text(yaml.safe_dump(settings))
    monkeypatch.setenv("DOMUS_AGENT_CONFIG", str(tmp_path / "agent.yml"))
    assert main(["doctor", "-o", "json"]) == 1
    findings = {finding["check"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert findings["libvirt"]["verdict"] == findings["qemu"]["verdict"] == FAIL
    assert "systemctl status libvirtd" in findings["libvirt"]["remedy"]


@pytest.mark.parametrize("little, too_little, verdict", [(0, 0, OK), (1 << 60, 0, WARN), (1 << 60, 1 << 60, FAIL)])
def test_a_full_disk(config: AgentConfig, monkeypatch: pytest.MonkeyPatch, little: int, too_little: int, verdict: str) -> None:
    monkeypatch.setattr(doctor, "LITTLE", little)
    monkeypatch.setattr(doctor, "TOO_LITTLE", too_little)
    found = check(config, "disk space")
    assert found.verdict == verdict
    assert verdict == OK or config.state_directory in found.message


@pytest.mark.parametrize("seconds, verdict", [(-1, OK), (1.9, OK), (2.0, WARN), (59, WARN), (60, FAIL), (3600, FAIL)])
def test_a_clock_that_differs(seconds: float, verdict: str) -> None:
    assert judge_clock(seconds)[0] == verdict


@pytest.mark.parametrize("days, verdict", [(90, OK), (29, WARN), (-1, FAIL)])
def test_a_certificate_that_ends(config: AgentConfig, days: int, verdict: str) -> None:
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.timezone.utc)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    made = made.not_valid_before(now - datetime.timedelta(days=365)).not_valid_after(now + datetime.timedelta(days=days))
    pem = made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    Path(config.directory, "identity", "certificate.pem").write_bytes(pem)
    assert doctor._examined("certificate", doctor.CHECKS["certificate"], config).verdict == verdict


def test_a_damaged_database(config: AgentConfig) -> None:
    store = AgentStore(config.directory)
    with store.transaction():
        for number in range(200):
            store.add_event("vm.started", data={"text": "x" * 200, "number": number})
    store.close()
    path = Path(store.path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    examined = doctor._examined("database", doctor.CHECKS["database"], config)
    assert examined.verdict == OK
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2 // 4096 * 4096)
        file.write(b"\xff" * 4096)
    examined = doctor._examined("database", doctor.CHECKS["database"], config)
    assert (examined.verdict, bool(examined.remedy)) == (FAIL, True)


def test_a_check_that_stumbles_is_a_finding(config: AgentConfig) -> None:
    def stumble(config: AgentConfig) -> tuple[str, str, str]:
        raise ZeroDivisionError("oh")

    assert doctor._examined("odd", stumble, config) == Finding("odd", FAIL, "ZeroDivisionError: oh", "Please report this")
