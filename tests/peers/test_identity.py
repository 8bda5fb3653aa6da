"""An identity is backed up behind a passphrase, restored, and moved to another key for every run joined."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from rounds import name
from typer.testing import CliRunner, Result

from peers.identity import app
from peers.node.key_rotation import ROTATIONS_FILE, rotate, waiting_changes
from peers.protocol.key_change import KeyChange
from recipes.home import IDENTITY_KEY, run_folder
from recipes.keys.key_backup import write_backup
from recipes.keys.keys import PeerId, SigningKey, load_or_create_key

RUNS = (name("one run"), name("another run"))


class Machine:
    """A home folder with a key and two joined runs, and a place for backups."""

    def __init__(self, folder: Path) -> None:
        self.home, self.backups = folder / "home", folder / "backups"
        self.backups.mkdir()
        for run in RUNS:
            run_folder(self.home, run).mkdir(parents=True)
            (run_folder(self.home, run) / "recipe.toml").write_text("")
        self.peer = load_or_create_key(self.home / IDENTITY_KEY).peer_id
        self.passphrase = folder / "passphrase"
        self.passphrase.write_text("correct horse battery staple\n")

    def run(self, *words: object) -> Result:
        return CliRunner().invoke(app, [str(word) for word in (*words, "--home", self.home)])

    def open(self, *words: object) -> Result:
        return self.run(*words, "--passphrase-file", self.passphrase)

    def lose_key(self) -> None:
        (self.home / IDENTITY_KEY).unlink()

    @property
    def key(self) -> PeerId:
        return load_or_create_key(self.home / IDENTITY_KEY).peer_id

    def changes(self) -> list[KeyChange]:
        return [change for run in RUNS for change in waiting_changes(run_folder(self.home, run))]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_restored_backup_is_the_same_peer(machine: Machine) -> None:
    file = machine.backups / "key.pem"
    assert machine.open("backup", file).exit_code == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    machine.lose_key()
    assert machine.open("restore", file).exit_code == 0
    assert machine.key == machine.peer
    assert stat.S_IMODE((machine.home / IDENTITY_KEY).stat().st_mode) == 0o600
    assert machine.open("restore", file).exit_code == 0  # once more changes nothing


def test_the_key_in_a_backup_is_encrypted(machine: Machine) -> None:
    file = machine.backups / "key.pem"
    machine.open("backup", file)
    assert file.read_text().startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    assert load_or_create_key(machine.home / IDENTITY_KEY).seed not in file.read_bytes()
    machine.passphrase.write_text("another\n")
    result = machine.open("restore", file)
    assert result.exit_code == 7
    assert "does not open with this passphrase" in result.output


def test_a_passphrase_is_asked_for_twice_where_no_file_gives_it(machine: Machine) -> None:
    file = machine.backups / "key.pem"
    words = ["backup", str(file), "--home", str(machine.home)]
    assert CliRunner().invoke(app, words, input="one\nother\n").exit_code != 0
    assert not file.exists()
    assert CliRunner().invoke(app, words, input="one\none\n").exit_code == 0
    machine.passphrase.write_text("one\n")
    assert machine.open("restore", file).exit_code == 0


@pytest.mark.parametrize("content", [b"", b"-----END ENCRYPTED PRIVATE KEY-----\n", b"x" * (2 << 20)])
def test_what_is_no_backup_is_refused(machine: Machine, content: bytes) -> None:
    file = machine.backups / "key.pem"
    file.write_bytes(content)
    assert machine.open("restore", file).exit_code == 7
    assert machine.open("restore", machine.backups / "none").exit_code == 7
    assert machine.key == machine.peer


def test_a_key_of_another_kind_is_refused(machine: Machine) -> None:
    file = machine.backups / "key.pem"
    encryption = BestAvailableEncryption(machine.passphrase.read_bytes().strip())
    file.write_bytes(X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    result = machine.open("restore", file)
    assert result.exit_code == 7
    assert "not Ed25519" in result.output


def test_a_backup_overwrites_nothing_and_needs_a_passphrase(machine: Machine) -> None:
    file = machine.backups / "key.pem"
    file.write_text("mine")
    assert machine.open("backup", file).exit_code == 7
    assert file.read_text() == "mine"
    machine.passphrase.write_text("\n")
    assert machine.open("backup", machine.backups / "other.pem").exit_code == 7


def test_restoring_over_another_peers_key_takes_force_and_keeps_that_key(machine: Machine) -> None:
    file = machine.backups / "key.pem"
    machine.open("backup", file)
    machine.lose_key()
    other = machine.key  # made anew
    result = machine.open("restore", file)
    assert result.exit_code == 7
    assert other in result.output.replace("\n", "")
    assert machine.open("restore", file, "--force").exit_code == 0
    assert machine.key == machine.peer
    assert load_or_create_key(machine.home / f"identity-{other}.key").peer_id == other


def test_rotation_makes_a_new_key_that_both_keys_vouch_for_in_every_run(machine: Machine) -> None:
    result = machine.run("rotate")
    assert result.exit_code == 0
    assert machine.key != machine.peer
    assert len(machine.changes()) == len(RUNS)
    for change in machine.changes():
        moved = change.moved()
        assert moved is not None
        assert (moved.old, moved.new, moved.recovered) == (machine.peer, machine.key, False)
        assert all(part.holds() for part in change.parts())
    assert {change.given.body.run for change in machine.changes()} == set(RUNS)
    assert load_or_create_key(machine.home / f"identity-{machine.peer}.key").peer_id == machine.peer


def test_two_rotations_wait_one_after_the_other(machine: Machine) -> None:
    machine.run("rotate")
    middle = machine.key
    machine.run("rotate")
    waiting = [change.given.body for change in waiting_changes(run_folder(machine.home, RUNS[0]))]
    assert [(body.old, body.new) for body in waiting] == [(machine.peer, middle), (middle, machine.key)]


def test_a_rotation_that_was_cut_off_is_ended_by_the_next(machine: Machine) -> None:
    new = load_or_create_key(machine.home / "identity.next.key")  # written before anything is signed
    assert rotate(machine.home).new == new.peer_id
    assert not (machine.home / "identity.next.key").exists()
    load_or_create_key(machine.home / "identity.next.key")
    (machine.home / "identity.next.key").write_bytes(new.file_bytes())  # as if cut off after the exchange
    assert rotate(machine.home).new != new.peer_id


def test_a_recovery_key_moves_the_account_of_a_key_that_is_lost(machine: Machine) -> None:
    spare = machine.backups / "spare.pem"
    assert machine.open("backup", machine.backups / "key.pem", "--recovery", spare).exit_code == 0
    machine.lose_key()
    assert machine.open("rotate", "--recovery", spare).exit_code == 0
    assert len(machine.changes()) == len(RUNS)
    for change in machine.changes():
        moved = change.moved()
        assert moved is not None
        assert (moved.old, moved.new, moved.recovered) == (machine.peer, machine.key, True)
        assert all(part.holds() for part in change.parts())


def test_a_recovery_key_is_not_for_a_key_that_is_here(machine: Machine) -> None:
    spare = machine.backups / "spare.pem"
    machine.open("backup", machine.backups / "key.pem", "--recovery", spare)
    result = machine.open("rotate", "--recovery", spare)
    assert result.exit_code == 7
    assert machine.key == machine.peer
    assert machine.changes() == []


def test_a_key_that_no_peer_named_recovers_nothing(machine: Machine) -> None:
    spare = machine.backups / "spare.pem"
    machine.open("backup", machine.backups / "key.pem", "--recovery", spare)
    forged = machine.backups / "forged.pem"
    notes = spare.read_bytes().partition(b"KEY-----\n")[2].partition(b"KEY-----\n")[2]
    write_backup(forged, SigningKey.generate(), "correct horse battery staple", notes=notes)
    machine.lose_key()
    assert machine.open("rotate", "--recovery", forged).exit_code == 7
    assert machine.changes() == []


def test_a_damaged_file_of_changes_is_told_and_left_as_it_is(machine: Machine) -> None:
    path = run_folder(machine.home, RUNS[0]) / ROTATIONS_FILE
    path.write_text("{}\n")
    result = machine.run("rotate")
    assert result.exit_code == 7
    assert machine.key == machine.peer
    assert path.read_text() == "{}\n"


def test_show_tells_the_peer_its_runs_and_the_changes_that_wait(machine: Machine) -> None:
    machine.run("rotate")
    output = machine.run("show").output
    assert f"peer  {machine.key}" in output
    assert all(run in output for run in RUNS)
    assert f"{machine.peer} goes on as {machine.key}" in output


def test_without_a_key_there_is_no_identity(machine: Machine) -> None:
    machine.lose_key()
    for words in (["show"], ["rotate"]):
        assert machine.run(*words).exit_code == 7
    assert machine.open("backup", machine.backups / "key.pem").exit_code == 7
    assert not (machine.home / IDENTITY_KEY).exists()
