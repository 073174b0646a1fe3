"""A run on disk, so that the same command continues it after a crash and ends with the same bytes.

One safetensors file: the tensors, and in its metadata everything else as JSON. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from reseed import ReseedError, installed_version
from reseed.activations.store import Activations
from reseed.artifacts import write_tensors, writing
from reseed.params import SaeTraining, Train, Variant
from reseed.saes.run import Member, Run, TrainedSae

Three = tuple[Tensor, Tensor, Tensor]
PLAIN = ("decay_from", "converged", "loss_fall", "cosine_change", "steps", "losses", "cosines", "curve")
TRAINED = ("seed", "group", "k", "converged", "steps", "constant_steps", "loss_fall", "cosine_change", "cosine_to_init")


@dataclass(frozen=True)
class Fingerprint:
    """What a checkpoint must share with the run that continues it, by name."""

    variant: str
    sae: str
    train: str
    ks: str
    activations: str
    code: str
    torch: str

    @classmethod
    def of(
        cls, variant: Variant, training: SaeTraining, train: Train, ks: tuple[int, ...] | None, activations: Activations
    ) -> Fingerprint:
        room = hashlib.sha256()
        for file in sorted(Path(__file__).parent.rglob("*.py")):
            room.update(file.read_bytes())
        return cls(
            variant=variant.model_dump_json(),
            sae=training.model_dump_json(),
            train=train.model_dump_json(),
            ks=json.dumps(ks),
            activations=hashlib.sha256(json.dumps(activations.index, sort_keys=True).encode()).hexdigest(),
            code=room.hexdigest(),
            torch=installed_version("torch") or "",
        )


def save_checkpoint(run: Run, path: Path, fingerprint: Fingerprint) -> None:
    """Write the run to `path`, whole or not at all; raises ReseedError when the disk is full."""
    tensors: dict[str, Tensor] = {"idle": run.idle}
    tensors |= {f"parameter/{name}": value for name, value in run.stack.parameters.items()}
    tensors |= {f"buffer/{name}": value for name, value in run.stack.buffers.items()}
    tensors |= {f"sum/{name}": value for name, value in run.sums.items()}
    for name, (m, v) in run.moments.items():
        tensors |= {f"m/{name}": m, f"v/{name}": v}
    members = []
    for i, member in enumerate(run.members):
        tensors |= _snapshot_tensors(f"member/{i}", member)
        tensors[f"member/{i}/init"] = member.init
        tensors[f"member/{i}/order"] = member.order.pass_began
        tensors[f"member/{i}/resampler"] = member.resampler.get_state()
        plain = {name: getattr(member, name) for name in PLAIN}
        members.append(plain | {"seed": member.seed, "k": member.k, "cursor": member.order.cursor})
    done = []
    for i, sae in enumerate(run.done):
        tensors |= _snapshot_tensors(f"done/{i}", sae)
        tensors |= {f"done/{i}/weight/{name}": value for name, value in sae.weights.items()}
        tensors[f"done/{i}/firing_counts"] = sae.firing_counts
        tensors |= {f"done/{i}/seen/{j}": value for j, value in enumerate(sae.seen)}
        done.append({name: getattr(sae, name) for name in TRAINED} | {"curve": sae.curve})
    state = {
        "fingerprint": fingerprint.__dict__,
        "step": run.step,
        "next_snapshot": run.next_snapshot,
        "members": members,
        "done": done,
    }
    with writing(path) as partial:
        write_tensors(partial, _apart(tensors), {"state": json.dumps(state)})


def load_checkpoint(run: Run, path: Path, fingerprint: Fingerprint, device: torch.device) -> None:
    """Bring a run that has not begun to where the checkpoint at `path` is, in place; nothing if there is none.

    Raises ReseedError for a file that is not whole, or of a run with other parameters, activations or code.
    """
    if not path.is_file():
        return
    tensors, state = _read(path)
    for field in fields(Fingerprint):
        found, wanted = state["fingerprint"].get(field.name), getattr(fingerprint, field.name)
        if found != wanted:
            raise ReseedError(
                f"{path}: a checkpoint of another run: its {field.name} was {_short(found)}, now {_short(wanted)}; "
                "restore that, or delete the file to train from the start"
            )

    here = {name: tensor.to(device) for name, tensor in tensors.items() if not name.startswith("member/")}
    places = {(member.seed, member.k): i for i, member in enumerate(run.members)}
    run.keep([places[saved["seed"], saved["k"]] for saved in state["members"]])
    # in the order of a new run: the file has them by name, and the order in which squares are added shows in the bytes
    run.stack.parameters = {name: here[f"parameter/{name}"] for name in run.stack.parameters}
    run.stack.buffers = _under(here, "buffer/")
    run.moments = {name: (here[f"m/{name}"], here[f"v/{name}"]) for name in run.stack.parameters}
    run.sums, run.idle = _under(here, "sum/"), here["idle"]
    run.step, run.next_snapshot = state["step"], state["next_snapshot"]
    for i, (member, saved) in enumerate(zip(run.members, state["members"], strict=True)):
        for name in PLAIN:
            setattr(member, name, saved[name])
        member.init = tensors[f"member/{i}/init"].to(device)
        member.snapshots = _snapshots(tensors, f"member/{i}/snapshot/", device)
        member.order.resume(tensors[f"member/{i}/order"], saved["cursor"])
        member.resampler.set_state(tensors[f"member/{i}/resampler"])
    run.done = [
        TrainedSae(
            **saved,
            weights=_under(here, f"done/{i}/weight/"),
            firing_counts=here[f"done/{i}/firing_counts"],
            seen=_three(here, f"done/{i}/seen/"),
            snapshots=_snapshots(tensors, f"done/{i}/snapshot/", device),
        )
        for i, saved in enumerate(state["done"])
    ]


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint that its finished run no longer needs."""
    path.unlink(missing_ok=True)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            # clones: the file is replaced while the run goes on
            tensors = {name: file.get_tensor(name).clone() for name in sorted(file.keys())}
            state: dict[str, Any] = json.loads((file.metadata() or {})["state"])
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ReseedError(f"{path}: not a whole checkpoint ({error}); delete it to train from the start") from error
    return tensors, state


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same numbers, none in another's memory: safetensors refuses that, and seeds that are done share rows."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return apart


def _snapshot_tensors(prefix: str, holder: Member | TrainedSae) -> dict[str, Tensor]:
    return {
        f"{prefix}/snapshot/{step:08d}/{i}": tensor
        for step, snapshot in holder.snapshots.items()
        for i, tensor in enumerate(snapshot)
    }


def _snapshots(tensors: dict[str, Tensor], prefix: str, device: torch.device) -> dict[int, Three]:
    found = {name: tensor.to(device) for name, tensor in _under(tensors, prefix).items()}
    steps = sorted({int(name.split("/")[0]) for name in found})
    return {step: _three(found, f"{step:08d}/") for step in steps}


def _three(tensors: dict[str, Tensor], prefix: str) -> Three:
    return tensors[f"{prefix}0"], tensors[f"{prefix}1"], tensors[f"{prefix}2"]


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _short(text: object) -> str:
    shown = str(text)
    return shown if len(shown) <= 60 else shown[:59] + "…"
