"""A Slurm cluster of two nodes with a fake GPU each, and a Ray cluster of three, on this machine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

NODES = ("gpu1", "gpu2")
SLURM = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
SlurmdParameters=config_overrides
SlurmdTimeout=10
SlurmctldTimeout=10
MinJobAge=10
KillWait=10
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,sched_interval=1
NodeName=gpu[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[16821-16822] CPUs=2 Gres=gpu:1
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
GRES = "NodeName=gpu[1-2] Name=gpu File=/dev/tty0 Flags=nvidia_gpu_env\n"


def why_no_slurm() -> str:
    """Why the tests on Slurm cannot run here, or nothing."""
    missing = [name for name in ("slurmctld", "slurmd", "munged", "sbatch") if shutil.which(name) is None]
    if missing:
        packages = "slurmctld slurmd slurm-client munge"
        return f"{', '.join(missing)} not installed: apt-get install -y --no-install-recommends {packages}"
    return "" if os.geteuid() == 0 else "slurmd wants to be root"


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """A running cluster, found by SLURM_CONF in the environment; yields its daemons by node."""
    (folder / "state").mkdir(parents=True)
    host = subprocess.run(["hostname", "-s"], capture_output=True, text=True, check=True).stdout.strip()
    (folder / "slurm.conf").write_text(SLURM.format(host=host, folder=folder))
    (folder / "gres.conf").write_text(GRES)
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    daemons: dict[str, subprocess.Popen[bytes]] = {}
    munge = Path("/run/munge")
    # one that was killed leaves its socket behind
    mine = subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode != 0
    if mine:
        munge.mkdir(exist_ok=True)
        shutil.chown(munge, "munge", "munge")
        subprocess.run(["runuser", "-u", "munge", "--", "/usr/sbin/munged", "--force"], check=True)
    try:
        daemons["controller"] = daemon("slurmctld", "-D")
        for node in NODES:
            daemons[node] = daemon("slurmd", "-D", "-N", node)
        deadline = time.monotonic() + 60
        while idle() < len(NODES):
            assert time.monotonic() < deadline, (folder / "slurmctld.log").read_text()[-2000:]
            time.sleep(0.3)
        yield daemons
    finally:
        for process in daemons.values():
            process.send_signal(signal.SIGKILL)
            process.wait()
        if mine:
            os.kill(int((munge / "munged.pid").read_text()), signal.SIGTERM)
        del os.environ["SLURM_CONF"]


def daemon(*command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def idle() -> int:
    """Nodes that wait for work."""
    shown = subprocess.run(["sinfo", "-h", "-N", "-o", "%T"], capture_output=True, text=True, check=False).stdout
    return shown.split().count("idle")


def start_at_once() -> None:
    """Do not wait the two minutes for which Slurm holds a job that it has requeued."""
    shown = subprocess.run(
        ["squeue", "-h", "-t", "PENDING", "-o", "%i %r"], capture_output=True, text=True, check=False
    ).stdout
    for line in shown.splitlines():
        job, _, reason = line.partition(" ")
        if reason == "BeginTime":
            subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=False)


@contextmanager
def ray(nodes: int) -> Iterator[tuple[str, Callable[[], None]]]:
    """A running cluster of nodes with a fake GPU each; yields its address, and what takes one of the nodes away."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_AUTH_MODE"] = "disabled"
    # nodes have the project installed; here they have this checkout
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parents[2] / "src"), os.environ.get("PYTHONPATH", "")]
    )
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 1, "include_dashboard": False})
    try:
        others = [cluster.add_node(num_cpus=1, num_gpus=1) for _ in range(nodes - 1)]
        cluster.wait_for_nodes()
        yield cluster.address, lambda: cluster.remove_node(others.pop(), allow_graceful=False)
    finally:
        cluster.shutdown()
