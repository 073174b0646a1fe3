"""The command sequence of docs/sweeps.md for a rented box, with an sshd of this machine in the place of the box."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.sweeps.project import commit, experiments, metric, reseed

missing = [name for name in ("sshd", "ssh-keygen") if shutil.which(name, path="/usr/sbin:/usr/bin") is None]
missing += [name for name in ("ray", "grpc") if importlib.util.find_spec(name) is None]
pytestmark = [pytest.mark.weekly, pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")]
PORT, TUNNEL = 12223, 12224
SOURCES = Path(__file__).parents[2] / "src"


@pytest.fixture
def box(tmp_path: Path) -> Iterator[list[str]]:
    """The start of an ssh command to a machine that lets only this key in."""
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True)
    Path("/run/sshd").mkdir(exist_ok=True)
    daemon = subprocess.Popen(
        ["/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-p", str(PORT), "-h", str(tmp_path / "host"),
         "-o", f"AuthorizedKeysFile={tmp_path / 'user.pub'}", "-o", "StrictModes=no", "-o", "PidFile=none"],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    options = [
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        f"UserKnownHostsFile={tmp_path / 'known'}",
        "-o",
        "LogLevel=ERROR",
    ]
    command = ["ssh", "-F", "none", "-p", str(PORT), "-i", str(tmp_path / "user"), *options, "localhost"]
    deadline = time.monotonic() + 10
    while subprocess.run([*command, "true"], check=False, capture_output=True).returncode:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    yield command
    daemon.terminate()
    daemon.wait()


def ray_processes() -> list[str]:
    names = ("raylet", "gcs_server")
    return [p.info["name"] for p in psutil.process_iter(["name"]) if p.info["name"] in names]


def test_a_box_becomes_a_node_runs_the_sweep_and_keeps_nothing(
    here: Path, tmp_path: Path, box: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    Path(".dvc/config").write_text(f'[core]\n    remote = store\n[remote "store"]\n    url = {tmp_path / "store"}\n')
    Path("g.yaml").write_text("name: g\ngrid: {variants.topk.k: [2, 6]}\n")
    commit(here)
    before = ray_processes()
    paths = os.pathsep.join([str(SOURCES), *(path for path in sys.path if "site-packages" in path or "ray" in path)])
    variables = f"GRPC_ENABLE_FORK_SUPPORT=0 RAY_AUTH_MODE=disabled PYTHONPATH={paths}"
    setting = f"env {variables} {sys.executable} -m ray.scripts.scripts"
    start = f"{setting} start --head --port 6399 --ray-client-server-port 10001 --include-dashboard=false --num-gpus 1"
    socket = ["-S", str(tmp_path / "tunnel")]
    try:
        subprocess.run([*box, start], check=True, capture_output=True, timeout=90)
        forward = ["-fNM", *socket, "-o", "ExitOnForwardFailure=yes", "-L", f"{TUNNEL}:localhost:10001"]
        subprocess.run([box[0], *forward, *box[1:]], check=True)
        done = reseed("run", "g.yaml", "--engine", "ray", "--address", f"ray://localhost:{TUNNEL}", "--gpus", "1")
        assert "2 done, 0 failed, 0 left" in done.output, done.exception
    finally:
        subprocess.run([*box, f"{setting} stop --force"], check=True, capture_output=True, timeout=60)
        subprocess.run([box[0], *socket, "-O", "exit", *box[1:]], check=False, capture_output=True)
    found = experiments(here)
    scores = {name: json.loads(metric(here, at))["score"] for name, at in found.items()}
    assert scores == {"g-k2": 3002, "g-k6": 3006}
    assert len(Path("runs/ledger.jsonl").read_text().splitlines()) == 2
    assert ray_processes() == before
