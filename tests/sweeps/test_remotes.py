"""Every kind of remote that the documentation names holds what was pushed, and is audited and read with suspicion."""

from __future__ import annotations

import getpass
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import s3fs

from reseed.sweeps.audit import audit
from tests.conftest import ROOT
from tests.scratch import dvc, environment
from tests.sweeps import toy
from tests.sweeps.toy import dvc_ok, git


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    return toy.copy(made, tmp_path / "project")


SHARD = "data/toy/train-00000.bin"


@dataclass(frozen=True)
class Server:
    """Where a remote is, its settings, and how to read, replace (None: delete) an object of it behind DVC's back."""

    url: str
    settings: dict[str, str]
    read: Callable[[str], bytes]
    replace: Callable[[str, bytes | None], None]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None, process.args
        time.sleep(0.1)
    pytest.fail(f"{process.args}: nothing answers on port {port}")


def in_folder(url: str, settings: dict[str, str], folder: Path) -> Server:
    def replace(name: str, content: bytes | None) -> None:
        path = folder / name
        path.unlink()  # it is write-protected
        if content is not None:
            path.write_bytes(content)

    return Server(url, settings, lambda name: (folder / name).read_bytes(), replace)


def local(folder: Path) -> Iterator[Server]:
    yield in_folder(str(folder / "remote"), {}, folder / "remote")


def ssh(folder: Path) -> Iterator[Server]:
    sshd = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
    if sshd is None:
        pytest.skip("no sshd on this machine; Debian has it in openssh-server")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    port, config = free_port(), folder / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\n"
        f"PidFile {folder}/sshd.pid\nUsePAM no\nStrictModes no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n"
    )
    separation = Path("/run/sshd")  # without it sshd does not start as root
    if getpass.getuser() == "root":
        separation.mkdir(exist_ok=True)
    with subprocess.Popen([sshd, "-D", "-e", "-f", config], stderr=subprocess.PIPE) as process:
        wait_for(port, process)
        remote = folder / "remote"
        yield in_folder(f"ssh://{getpass.getuser()}@127.0.0.1:{port}{remote}", {"keyfile": f"{folder}/user"}, remote)
        process.terminate()


def s3(folder: Path) -> Iterator[Server]:
    beside = Path(sys.executable).parent
    moto = shutil.which("moto_server", path=str(beside)) or shutil.which("moto_server")
    if moto is None:
        pytest.skip("no moto_server on this machine; it comes with the development packages")
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    with (folder / "moto.log").open("wb") as log:
        process = subprocess.Popen([moto, "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log)
    with process:
        wait_for(port, process)
        bucket = s3fs.S3FileSystem(
            key="nobody", secret="nothing", client_kwargs={"endpoint_url": endpoint}, use_listings_cache=False
        )
        bucket.mkdir("shelf")

        def replace(name: str, content: bytes | None) -> None:
            bucket.rm_file(f"shelf/reseed/{name}")
            if content is not None:
                bucket.pipe_file(f"shelf/reseed/{name}", content)

        settings = {"endpointurl": endpoint, "access_key_id": "nobody", "secret_access_key": "nothing"}
        yield Server("s3://shelf/reseed", settings, lambda name: bucket.cat_file(f"shelf/reseed/{name}"), replace)
        process.terminate()


@pytest.fixture(params=[local, ssh, s3], ids=lambda kind: kind.__name__)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "server"
    folder.mkdir()
    yield from request.param(folder)


def add_remote(folder: Path, name: str, server: Server) -> None:
    """As docs/remotes.md says."""
    dvc_ok(folder, "remote", "add", "--local", "--default", name, server.url)
    for key, value in ({"verify": "true"} | server.settings).items():
        dvc_ok(folder, "remote", "modify", "--local", name, key, value)


def name_of_object(folder: Path, path: str) -> str:
    inode = (folder / path).stat().st_ino
    (found,) = [file for file in (folder / ".dvc/cache/files").rglob("*") if file.stat().st_ino == inode]
    return str(found.relative_to(folder / ".dvc/cache"))


def test_what_was_pushed_comes_back_and_what_was_damaged_does_not(
    project: Path, server: Server, tmp_path: Path
) -> None:
    add_remote(project, "shelf", server)
    dvc_ok(project, "push", "--run-cache")
    report = audit(project, ["shelf"])
    assert report.findings == ()
    assert report.looked_at[1] == "4 objects (0.00 GB) of the remote shelf"
    name, whole = name_of_object(project, SHARD), (project / SHARD).read_bytes()
    assert server.read(name) == whole

    git(tmp_path, "clone", "-q", str(project), "clone")
    clone = tmp_path / "clone"
    shutil.copy(project / ".dvc/config.local", clone / ".dvc")
    dvc_ok(clone, "pull")
    assert (clone / SHARD).read_bytes() == whole

    server.replace(name, b"corrupt" + whole[7:])
    assert "in sync" in dvc_ok(project, "status", "--cloud")
    (corrupt,) = audit(project, ["shelf"]).findings
    assert (corrupt.kind, corrupt.where) == ("corrupt", f"remote shelf {name}")
    shutil.rmtree(clone / ".dvc/cache")
    shutil.rmtree(clone / "data")
    assert dvc(clone, "pull").returncode != 0  # because of `verify`
    assert not (clone / SHARD).exists()
    delete, _, push = corrupt.todo.partition(" there, then ")
    for listed in delete.removeprefix("delete ").split(" and "):
        server.replace(listed, None)
    dvc_ok(project, *push.split()[1:])
    assert audit(project, ["shelf"]).findings == ()
    assert server.read(name) == whole


def test_a_public_remote_to_read_and_a_private_one_to_write(project: Path, tmp_path: Path) -> None:
    dvc_ok(project, "remote", "add", "--default", "public", str(tmp_path / "public"))
    dvc_ok(project, "remote", "modify", "public", "verify", "true")
    dvc_ok(project, "push")
    git(project, "commit", "-qam", "a public remote")
    held = sorted(path for path in (tmp_path / "public").rglob("*") if path.is_file())

    git(tmp_path, "clone", "-q", str(project), "clone")
    clone = tmp_path / "clone"
    dvc_ok(clone, "pull")
    dvc_ok(clone, "remote", "add", "--local", "--default", "private", str(tmp_path / "private"))
    dvc_ok(clone, "remote", "modify", "--local", "private", "verify", "true")
    (clone / "params.yaml").write_text("toy:\n  n: 9\n")
    dvc_ok(clone, "repro")
    dvc_ok(clone, "push")
    assert sorted(path for path in (tmp_path / "public").rglob("*") if path.is_file()) == held
    assert len([path for path in (tmp_path / "private").rglob("*") if path.is_file()]) == 4
    assert git(clone, "status", "--porcelain", ".dvc") == ""  # the private remote is nobody else's affair
    assert audit(clone, ["private", "public"]).findings == ()


def _with_make(project: Path) -> None:
    for name in ("Makefile", "requirements.lock"):
        shutil.copy(ROOT / name, project)
    (project / ".venv").mkdir()
    (project / ".venv/.complete").touch()


def test_make_remotes_makes_a_folder_the_default_where_there_is_none(project: Path, tmp_path: Path) -> None:
    _with_make(project)
    command = ["make", "remotes", f"REMOTE={tmp_path / 'a shelf'}"]
    for _ in range(2):
        subprocess.run(command, cwd=project, env=environment(), check=True, capture_output=True)
    assert dvc_ok(project, "remote", "default").strip() == "shelf"
    dvc_ok(project, "push")
    assert len([path for path in (tmp_path / "a shelf").rglob("*") if path.is_file()]) == 4
    assert audit(project, ["shelf"]).findings == ()


def test_make_remotes_sets_verify_on_every_remote(project: Path) -> None:
    dvc_ok(project, "remote", "add", "public", "https://example.org/reseed")
    dvc_ok(project, "remote", "add", "--local", "private", "/nowhere")
    assert [finding.kind for finding in audit(project).findings] == ["unverified", "unverified"]
    _with_make(project)
    for _ in range(2):
        subprocess.run(["make", "remotes"], cwd=project, env=environment(), check=True, capture_output=True)
        assert audit(project).findings == ()
