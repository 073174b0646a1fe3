"""The sparse kernels against torch: dense selections, autograd of the dense form, torch.optim.Adam."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from reseed import ReseedError
from reseed.saes import kernels
from reseed.saes.kernels import (
    Code,
    SparseGradients,
    adam_update,
    project_and_norm,
    select_batchtopk,
    select_topk,
    sparse_gradients,
    squared_errors,
    squared_norm,
)
from tests.conftest import ROOT
from tests.saes.builders import write_plain, written

FIRST_RUN = """
import hashlib, json, sys
import torch
from pathlib import Path
from reseed.activations.store import read_activations
from reseed.saes import kernels
from reseed.saes.train import train_saes
from tests.conftest import train_of
from tests.saes.builders import CPU, case
from tests.saes.resumable import TOLERANCE, TRAINING

torch.set_num_threads(2)
kernels.ready()
random = torch.Generator().manual_seed(0)
pre, x = torch.randn(5, 128, 32, generator=random), torch.randn(5, 128, 16, generator=random)
W = torch.randn(5, 32, 16, generator=random)
found = kernels.sparse_gradients(x, W, W, torch.zeros(5, 16), kernels.select_topk(pre, 16))
digest = hashlib.sha256()
digest.update(found.g_benc.numpy().tobytes())
training = TRAINING.model_copy(update={"max_steps": 100, "min_steps": 60, "checkpoint_every": 0})
activations, seeds = read_activations(Path(sys.argv[1])), train_of((3, 0, 1), TOLERANCE)
for name in ("topk", "batchtopk", "jumprelu"):
    for sae in train_saes(case(name), training, seeds, activations, CPU):
        for tensor in sae.weights.values():
            digest.update(tensor.contiguous().numpy().tobytes())
missed = sum(sum(f.stats.cache_misses.values()) for f in vars(kernels).values() if hasattr(f, "stats"))
print(json.dumps([digest.hexdigest(), missed]))
"""

SHAPES = [(3, 70, 24, 130, (4, 1, 9)), (2, 33, 128, 64, (8, 8)), (1, 1, 7, 5, (5,)), (5, 128, 17, 128, (4,) * 5)]
"""S, B, d_in, d_sae and each member's k; of all sizes that are no multiple of a block or of a SIMD lane."""


def _first_of_largest(row: Tensor, n: int) -> Tensor:
    """Values of the n largest, the earlier of equal ones first, zero elsewhere; then ReLU."""
    order = torch.sort(row, descending=True, stable=True).indices[:n]
    kept = torch.zeros_like(row)
    kept[order] = row[order]
    return kept.relu()


def _dense_topk(pre: Tensor, ks: tuple[int, ...]) -> Tensor:
    return torch.stack([torch.stack([_first_of_largest(row, k) for row in of]) for of, k in zip(pre, ks, strict=True)])


def _dense_batchtopk(pre: Tensor, ks: tuple[int, ...]) -> Tensor:
    flat = [_first_of_largest(of.flatten(), k * len(of)) for of, k in zip(pre, ks, strict=True)]
    return torch.stack(flat).view(pre.shape)


def _pre_activations(kind: str, S: int, B: int, d_sae: int) -> Tensor:
    random = torch.Generator().manual_seed(B + d_sae)
    pre = torch.randn(S, B, d_sae, generator=random)
    if kind == "ties":
        return (pre * 2).round()
    if kind == "few positive":
        return pre - 2.5
    if kind == "none positive":
        return -pre.abs()
    if kind == "uneven rows":  # a few rows, and a few latents, hold almost all of the large values
        pre[:, ::9] *= 50
        pre[..., : d_sae // 4] *= 10
    return pre


KINDS = ["plain", "ties", "few positive", "none positive", "uneven rows"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [*SHAPES, (2, 40, 8, 1024, (32, 7)), (1, 9, 8, 1000, (300,))])
def test_selections_are_those_of_a_stable_sort(shape: tuple[int, int, int, int, tuple[int, ...]], kind: str) -> None:
    S, B, _, d_sae, ks = shape
    pre = _pre_activations(kind, S, B, d_sae)
    assert torch.equal(select_topk(pre, ks).dense(d_sae), _dense_topk(pre, ks))
    code = select_batchtopk(pre, np.array(ks))
    assert torch.equal(code.dense(d_sae), _dense_batchtopk(pre, ks))
    assert torch.equal(code.fired(d_sae), (code.dense(d_sae) > 0).any(1))
    used = code.rowptr[:, -1]
    assert (used <= torch.tensor(ks) * B).all()
    assert all((code.value[s, : used[s]] > 0).all() for s in range(S))


def test_top_k_agrees_with_torch_and_writes_to_an_earlier_code() -> None:
    pre = _pre_activations("plain", 2, 50, 300)
    earlier = select_topk(pre - 1, 10)
    code = select_topk(pre, 10, earlier)
    top = torch.topk(pre, 10, sorted=False)
    assert torch.equal(code.dense(300), torch.zeros_like(pre).scatter_(2, top.indices, top.values).relu())
    assert code.value.data_ptr() == earlier.value.data_ptr()
    ascending = code.index.view(2, 50, 10).long().diff()  # every row is full, so that slots are rows
    assert (ascending > 0).all()


def _stack(S: int, B: int, d_in: int, d_sae: int, shared: bool) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(d_in)
    x = torch.randn(1 if shared else S, B, d_in, generator=random).expand(S, B, d_in)
    if not shared:
        x = x.contiguous()
    return {
        "x": x,
        "W_encT": torch.randn(S, d_sae, d_in, generator=random) / d_in**0.5,
        "W_dec": normalize(torch.randn(S, d_sae, d_in, generator=random), dim=-1),
        "b_dec": torch.randn(S, d_in, generator=random) / 5,
        "b_enc": torch.randn(S, d_sae, generator=random) / 5,
    }


def _select(p: dict[str, Tensor], ks: tuple[int, ...]) -> Code:
    pre = torch.baddbmm(p["b_enc"][:, None], p["x"] - p["b_dec"][:, None], p["W_encT"].transpose(1, 2))
    pre[:, 0] = -1  # a row that no latent is active in
    pre[..., -1] = -1  # a latent that never is
    return select_topk(pre, ks)


def _sparse(p: dict[str, Tensor], code: Code) -> SparseGradients:
    return sparse_gradients(p["x"], p["W_encT"], p["W_dec"], p["b_dec"], code)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_those_of_autograd(shape: tuple[int, int, int, int, tuple[int, ...]], shared: bool) -> None:
    S, B, d_in, d_sae, ks = shape
    p = _stack(S, B, d_in, d_sae, shared)
    code = _select(p, ks)
    found = _sparse(p, code)
    on = code.dense(d_sae) > 0
    assert not on[:, 0].any()
    assert not on[..., -1].any()

    double = {name: tensor.double().requires_grad_(name != "x") for name, tensor in p.items()}
    pre = (double["x"] - double["b_dec"][:, None]) @ double["W_encT"].transpose(1, 2) + double["b_enc"][:, None]
    pre.retain_grad()
    residual = double["x"] - ((pre * on) @ double["W_dec"] + double["b_dec"][:, None])
    loss = residual.square().sum(-1).mean(1)
    loss.sum().backward()
    assert pre.grad is not None

    entries = Code(code.rowptr, code.index, found.g_pre_value)
    pairs = [
        (found.loss, loss),
        (found.residual, residual),
        (entries.dense(d_sae), pre.grad),
        (found.g_dec, double["W_dec"].grad),
        (found.g_encT, double["W_encT"].grad),
        (found.g_benc, double["b_enc"].grad),
        (found.g_bdec, double["b_dec"].grad),
    ]
    for ours, theirs in pairs:
        assert theirs is not None
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5)
    errors = squared_errors(p["x"], p["W_dec"], p["b_dec"], code)
    torch.testing.assert_close(errors, residual.detach().square().sum((1, 2)), rtol=1e-5, atol=0)
    assert not found.g_dec[:, -1].any()
    assert not found.g_encT[:, -1].any()


def test_gradients_written_to_an_earlier_result_are_the_same() -> None:
    p = _stack(2, 40, 16, 48, shared=True)
    first = _sparse(p, _select(p, (3, 3)))
    p["x"] = p["x"] + 1
    code = _select(p, (3, 3))
    fresh = [tensor.clone() for tensor in _parts(_sparse(p, code), code)]
    again = sparse_gradients(p["x"], p["W_encT"], p["W_dec"], p["b_dec"], code, first)
    assert again.g_dec.data_ptr() == first.g_dec.data_ptr()
    assert all(torch.equal(a, b) for a, b in zip(fresh, _parts(again, code), strict=True))


def _parts(found: SparseGradients, code: Code) -> list[Tensor]:
    """Every field, of g_pre_value only what is in use."""
    used = [found.g_pre_value[s, : code.rowptr[s, -1]] for s in range(len(code.rowptr))]
    fields = (found.loss, found.residual, found.g_dec, found.g_encT, found.g_benc, found.g_bdec)
    return [*fields, torch.cat(used)]


def _whole_step(p: dict[str, Tensor], ks: tuple[int, ...], batch: bool) -> dict[str, Tensor]:
    """A step of every kernel; the pre-activations come in `pre`, since only the kernels are tested here."""
    S = len(ks)
    code = (select_batchtopk if batch else select_topk)(p["pre"], ks)
    g = _sparse(p, code)
    made = {"dec": project_and_norm(g.g_dec, p["W_dec"]), "enc": squared_norm(g.g_encT), "loss": g.loss}
    clip = 1 / (made["dec"] + made["enc"]).sqrt()
    gradients = {"W_dec": g.g_dec, "W_encT": g.g_encT, "b_dec": g.g_bdec, "b_enc": g.g_benc}
    for name, gradient in gradients.items():
        value, m, v = p[name].clone(), torch.zeros_like(gradient), torch.zeros_like(gradient)
        adam_update(value, gradient, m, v, torch.full((S,), 1e-3), clip, 1, unit_rows=name == "W_dec")
        made |= {name: value, f"{name}.m": m, f"{name}.v": v}
    return made


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_member_alone_equals_the_member_in_a_stack_bit_for_bit(batch: bool, threads: int) -> None:
    S, B, d_in, d_sae = 3, 100, 40, 200
    ks = (4, 9, 6)
    p = _stack(S, B, d_in, d_sae, shared=True)
    p["pre"] = torch.einsum("sbi,sji->sbj", p["x"], p["W_encT"]) + p["b_enc"][:, None]
    together = _whole_step(p, ks, batch)
    again = _whole_step(p, ks, batch)
    assert all(torch.equal(together[name], again[name]) for name in together)
    torch.set_num_threads(threads)
    for s in range(S):
        alone = _whole_step({name: tensor[s : s + 1] for name, tensor in p.items()}, ks[s : s + 1], batch)
        assert all(torch.equal(together[name][s], alone[name][0]) for name in together)


def test_projection_leaves_what_is_orthogonal_to_the_rows() -> None:
    p = _stack(2, 4, 50, 33, shared=True)
    W_dec, g = p["W_dec"], p["W_encT"]
    expected = g - (g.double() * W_dec).sum(-1, keepdim=True) * W_dec
    norms = project_and_norm(g, W_dec)
    torch.testing.assert_close(g.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(norms.double(), expected.square().sum((1, 2)), rtol=1e-5, atol=0)


@pytest.mark.parametrize("shape", [(3, 7), (2, 100, 300), (2, 1, 5000)])
def test_squared_norms(shape: tuple[int, ...]) -> None:
    g = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(squared_norm(g).double(), g.double().square().flatten(1).sum(1), rtol=1e-5, atol=0)


@pytest.mark.parametrize("shape", [(2, 7), (2, 100, 130), (2, 1, 30)])
@pytest.mark.parametrize("unit_rows", [False, True])
def test_adam_is_that_of_torch(shape: tuple[int, ...], unit_rows: bool) -> None:
    random = torch.Generator().manual_seed(1)
    rate, clip = torch.tensor([1e-2, 3e-3]), torch.tensor([1.0, 0.3])
    ours = normalize(torch.randn(shape, generator=random), dim=-1)
    theirs = [row.clone().requires_grad_(True) for row in ours]
    peers = [torch.optim.Adam([row], lr=float(lr), betas=(0.9, 0.99)) for row, lr in zip(theirs, rate, strict=True)]
    m, v = torch.zeros(shape), torch.zeros(shape)
    for step in range(1, 21):
        gradient = torch.randn(shape, generator=random)
        adam_update(ours, gradient, m, v, rate, clip, step, beta2=0.99, unit_rows=unit_rows)
        for s, (row, peer) in enumerate(zip(theirs, peers, strict=True)):
            row.grad = gradient[s] * clip[s]
            peer.step()
            if unit_rows:
                with torch.no_grad():
                    row.div_(torch.linalg.vector_norm(row, dim=-1, keepdim=True))
    torch.testing.assert_close(ours, torch.stack(theirs).detach(), rtol=1e-5, atol=1e-6)
    for s, (row, peer) in enumerate(zip(theirs, peers, strict=True)):
        torch.testing.assert_close(m[s], peer.state[row]["exp_avg"], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(v[s], peer.state[row]["exp_avg_sq"], rtol=1e-5, atol=1e-7)


def test_moments_that_decay_reach_zero_before_they_are_denormal() -> None:
    p, g, m, v = (torch.full((1, 64, 16), value) for value in (1.0, 0.0, 2e-30, 1.1e-37))
    for step in range(1, 200):
        adam_update(p, g, m, v, torch.tensor([1e-3]), torch.tensor([1.0]), step)
    assert torch.equal(p, torch.ones_like(p))
    assert not m.any()
    assert not v.any()


def test_a_parameter_that_is_not_contiguous_is_refused() -> None:
    p = torch.zeros(2, 6, 4)
    with pytest.raises(ValueError, match="not contiguous"):
        adam_update(p.transpose(1, 2), p.transpose(1, 2), p, p, torch.ones(2), torch.ones(2), 1)


@pytest.mark.slow
def test_the_first_run_of_a_checkout_gives_the_bytes_of_every_later_one(tmp_path: Path) -> None:
    # without `ready`, the sum of a latent's gradients over 64 rows differs between a process that compiles and others
    folder = tmp_path / "activations"
    write_plain(written(), folder)
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    command = [sys.executable, "-P", "-c", FIRST_RUN, str(folder)]
    runs = [
        subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True) for _ in range(2)
    ]
    first, later = (json.loads(run.stdout) for run in runs)
    assert first == later
    assert first[1] == 0  # nothing was compiled in the process that trained
    assert "compiling the kernels" in runs[0].stderr
    assert "compiling" not in runs[1].stderr


def test_kernels_leave_the_threads_of_torch_as_they_were() -> None:
    """numba tells OpenMP, which torch uses too, to take all cores when it starts its threads: once a process."""
    script = """
import torch
from reseed.saes.kernels import ready, squared_norm
ready()
torch.set_num_threads(1)
squared_norm(torch.ones(2, 300, 300))
print(torch.get_num_threads())
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "1"


def test_kernels_that_cannot_be_compiled_stop_the_training_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numba.__version__", "0")  # no stamp is known of it
    monkeypatch.setattr(sys, "executable", str(shutil.which("false")))
    with pytest.raises(ReseedError, match=r"__pycache__: the kernels could not be compiled \(no message\), allowed: a"):
        kernels.ready()
