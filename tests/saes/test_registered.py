"""Our architectures load through SAELens with their own structure: budgets, router, prefixes."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE, JumpReLUSAE, JumpReLUSAEConfig, TopKSAE, TopKSAEConfig
from sae_lens.registry import SAE_CLASS_REGISTRY
from sae_lens.saes.sae import SAEMetadata
from safetensors.torch import load_file, save_file
from torch import Tensor

from reseed import ReseedError
from reseed.artifacts import read_json
from reseed.saes.registered import HierarchicalTopKSAE, HierarchicalTopKSAEConfig, RouteSAE, RouteSAEConfig, prefix

D_IN, D_SAE, K, LAYERS = 6, 20, 8, 3
ROUTES = [("hard", "shared"), ("hard", "per_layer"), ("soft", "shared")]
HOOKS = {"hook_sae_input", "hook_sae_acts_pre", "hook_sae_acts_post", "hook_sae_recons", "hook_sae_output"}
LOAD = """
import importlib, sys
{imports}
import sae_lens, torch
from safetensors.torch import load_file

def kind():
    return type(SAE.load_from_disk(sys.argv[1])).__name__

for path in sys.argv[1:]:
    sae, saved = SAE.load_from_disk(path), load_file(path + "/io.safetensors")
    torch.testing.assert_close(sae.encode(saved["x"]), saved["acts"])
    torch.testing.assert_close(sae(saved["x"]), saved["out"])
    print(type(sae).__module__, type(sae).__name__)
assert type(sae_lens.__spec__.loader) is type(sae_lens.__loader__) is type(torch.__loader__)
importlib.reload(reseed)
importlib.reload(sys.modules["reseed.saes.registered"])
assert type(SAE.load_from_disk(path)) is sys.modules["reseed.saes.registered"].RouteSAE
assert sum(type(finder).__module__ == "reseed._saelens_hook" for finder in sys.meta_path) <= 1
"""
RESEED_FIRST = "import reseed\nassert not {'sae_lens', 'torch'} & set(sys.modules)\nfrom sae_lens import SAE"


def randomised(sae: Any, seed: int = 0) -> Any:
    random = torch.Generator().manual_seed(seed)
    state = {name: torch.randn(tensor.shape, generator=random) for name, tensor in sae.state_dict().items()}
    if "layer_scale" in state:
        state["layer_scale"] = state["layer_scale"].abs() + 0.1
    sae.load_state_dict(state)
    return sae


def rows(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def hierarchical(**changes: Any) -> HierarchicalTopKSAE:
    config: dict[str, Any] = {"d_in": D_IN, "d_sae": D_SAE, "k": K, "budgets": [1, 3, K]}
    return randomised(HierarchicalTopKSAE(HierarchicalTopKSAEConfig(**(config | changes))))


def router(routing: str = "hard", decoder: str = "shared", **changes: Any) -> RouteSAE:
    config = {"d_in": D_IN, "d_sae": D_SAE, "k": K, "n_layers": LAYERS, "routing": routing, "decoder": decoder}
    return randomised(RouteSAE(RouteSAEConfig(**(config | changes))))


def matryoshka() -> JumpReLUSAE:
    metadata = SAEMetadata(model_name="modular", reseed_widths=[5, 10, D_SAE])
    return randomised(JumpReLUSAE(JumpReLUSAEConfig(d_in=D_IN, d_sae=D_SAE, metadata=metadata)))


@pytest.mark.parametrize("imports", [RESEED_FIRST, "from sae_lens import SAE\nimport reseed"], ids=["before", "after"])
def test_a_fresh_process_that_imports_reseed_loads_them(imports: str, tmp_path: Path) -> None:
    for name, sae, x in (
        ("hierarchical", hierarchical(), rows(7, D_IN)),
        ("shared", router(), rows(7, LAYERS, D_IN)),
        ("per_layer", router("hard", "per_layer"), rows(7, LAYERS, D_IN)),
    ):
        sae.save_model(tmp_path / name)
        with torch.no_grad():
            save_file({"x": x, "acts": sae.encode(x), "out": sae(x)}, tmp_path / name / "io.safetensors")
    paths = [str(tmp_path / name) for name in ("hierarchical", "shared", "per_layer")]
    script = LOAD.format(imports=imports)
    done = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ours = "reseed.saes.registered"
    assert done.stdout.splitlines() == [f"{ours} HierarchicalTopKSAE", f"{ours} RouteSAE", f"{ours} RouteSAE"]


def test_both_are_registered_once() -> None:
    assert SAE_CLASS_REGISTRY["hierarchical_topk"] == (HierarchicalTopKSAE, HierarchicalTopKSAEConfig)
    assert SAE_CLASS_REGISTRY["routesae"] == (RouteSAE, RouteSAEConfig)


@pytest.mark.parametrize(
    "sae", [hierarchical(), *(router(*route) for route in ROUTES)], ids=["hierarchical", *map("-".join, ROUTES)]
)
def test_disk_keeps_config_and_tensors_and_every_hook_sees_its_tensor(sae: SAE, tmp_path: Path) -> None:
    for name in ("a", "b"):
        sae.save_model(tmp_path / name)
    assert read_json(tmp_path / "a/cfg.json") == read_json(tmp_path / "b/cfg.json")
    loaded = SAE.load_from_disk(tmp_path / "a")
    assert type(loaded) is type(sae)
    assert loaded.cfg == sae.cfg
    torch.testing.assert_close(dict(loaded.state_dict()), dict(sae.state_dict()), rtol=0, atol=0)
    assert {tensor.device.type for tensor in loaded.state_dict().values()} == {"cpu"}
    x = rows(4, D_IN) if isinstance(sae, HierarchicalTopKSAE) else rows(4, LAYERS, D_IN)
    out, cache = loaded.run_with_cache(x)
    assert set(cache) == HOOKS
    assert torch.equal(cache["hook_sae_acts_post"], sae.encode(x))
    assert torch.equal(out, sae(x))


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("k", [1, 3, 5, K])
def test_at_every_budget_it_is_a_plain_topk(k: int, rescale: bool) -> None:
    sae = hierarchical(rescale_acts_by_decoder_norm=rescale)
    plain = TopKSAE(TopKSAEConfig(d_in=D_IN, d_sae=D_SAE, k=k, rescale_acts_by_decoder_norm=rescale))
    plain.load_state_dict(sae.state_dict())
    x = rows(2, 7, D_IN)
    torch.testing.assert_close(sae.encode_at(x, k), plain.encode(x), rtol=0, atol=0)
    torch.testing.assert_close(sae.decode(sae.encode_at(x, k)), plain(x), rtol=0, atol=0)


def test_reconstructions_are_the_cumulative_sum_of_the_largest_latents() -> None:
    sae, x = hierarchical(), rows(7, D_IN)
    values, indices = ((x - sae.b_dec) @ sae.W_enc + sae.b_enc).relu().sort(dim=-1, descending=True)
    sums = (values.unsqueeze(-1) * sae.W_dec[indices]).cumsum(1) + sae.b_dec
    reconstructions = sae.reconstructions(x)
    assert list(reconstructions) == [1, 3, K]
    for k, out in reconstructions.items():
        torch.testing.assert_close(out, sums[:, k - 1])
    torch.testing.assert_close(reconstructions[K], sae(x))


def test_budgets_nest_where_latents_tie() -> None:
    sae = hierarchical()
    with torch.no_grad():
        sae.W_enc.zero_()
        sae.b_enc.fill_(1.0)
    active = [sae.encode_at(rows(3, D_IN), k) > 0 for k in range(1, K + 1)]
    for smaller, larger in pairwise(active):
        assert (smaller & ~larger).sum() == 0
        assert (larger & ~smaller).sum() == 3


def test_a_budget_beyond_those_trained_is_refused() -> None:
    for k in (0, K + 1):
        with pytest.raises(ReseedError, match=rf"^hierarchical_topk, k: found {k}, allowed: 1 to {K}$"):
            hierarchical().encode_at(rows(2, D_IN), k)
    for budgets in ([], [3, 1, K], [0, K], [1, 3], [1, K + 1], [1, 1, K]):
        with pytest.raises(ReseedError, match=r"budgets: found \[.*\], allowed: ascending .*, the last one k 8$"):
            hierarchical(budgets=budgets)
    with pytest.raises(ReseedError, match=r"^hierarchical_topk, k: found 21, allowed: 1 to d_sae 20$"):
        hierarchical(k=21, budgets=[21])


@pytest.mark.parametrize(("routing", "decoder"), ROUTES)
def test_routing_row_by_row(routing: str, decoder: str) -> None:
    sae, x = router(routing, decoder), rows(40, LAYERS, D_IN)
    y, layers, weights = sae.route(x)
    acts, out = sae.encode(x), sae(x)
    assert layers.unique().tolist() == list(range(LAYERS))
    for row in range(len(x)):
        normal = torch.stack([(x[row, i] - sae.layer_mean[i]) * sae.layer_scale[i] for i in range(LAYERS)])
        logits = normal.sum(0) @ sae.W_router
        r = logits.exp() / logits.exp().sum()
        layer = int(r.argmax())
        assert layers[row] == layer
        torch.testing.assert_close(weights[row], r[layer])
        wanted = r[layer] * normal[layer] if routing == "hard" else sum(r[i] * normal[i] for i in range(LAYERS))
        torch.testing.assert_close(y[row], wanted)
        pre = (wanted - sae.b_dec) @ sae.W_enc + sae.b_enc
        own = torch.zeros(D_SAE)
        own[pre.topk(K).indices] = pre.topk(K).values.relu()
        torch.testing.assert_close(acts[row], own)
        W_dec = sae.W_dec[layer] if decoder == "per_layer" else sae.W_dec
        torch.testing.assert_close(out[row], own @ W_dec + sae.b_dec)
        if routing == "hard":
            raw = (own @ W_dec + sae.b_dec) / r[layer] / sae.layer_scale[layer] + sae.layer_mean[layer]
            torch.testing.assert_close(sae.reconstruct(x)[row], raw, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("decoder", ["shared", "per_layer"])
def test_any_leading_axes(decoder: str) -> None:
    sae, x = router("hard", decoder), rows(2, 5, LAYERS, D_IN)
    flat = x.flatten(0, 1)
    for method in (sae.encode, sae, sae.reconstruct):
        torch.testing.assert_close(method(x), method(flat).unflatten(0, (2, 5)))
        torch.testing.assert_close(method(x[0, 0]), method(flat)[0])


def test_the_router_is_not_dropped(tmp_path: Path) -> None:
    sae = router()
    message = r"^routesae, shape of the input: found \[7, 6\], allowed: \[\.\.\., n_layers 3, d_in 6\]$"
    for method in (sae.encode, sae.route, sae, sae.reconstruct, sae.process_sae_in):
        with pytest.raises(ReseedError, match=message):
            method(rows(7, D_IN))
    with pytest.raises(ReseedError, match=r"found \[6\], allowed"):
        sae.encode(rows(D_IN))
    sae.save_model(tmp_path)
    weights = load_file(tmp_path / "sae_weights.safetensors")
    save_file({n: t for n, t in weights.items() if n != "W_router"}, tmp_path / "sae_weights.safetensors")
    with pytest.raises(RuntimeError, match=r"Missing key.*W_router"):
        SAE.load_from_disk(tmp_path)


def test_what_a_router_cannot_do_is_refused() -> None:
    sae = router("hard", "per_layer")
    with pytest.raises(ReseedError, match=r"^routesae, layer to decode for: found none, allowed: the one that `route`"):
        sae.decode(sae.encode(rows(2, LAYERS, D_IN)))
    with pytest.raises(ReseedError, match=r"^routesae, reconstruct: found soft routing, allowed: hard"):
        router("soft").reconstruct(rows(2, LAYERS, D_IN))
    # SAEBench catches NotImplementedError and no other
    with pytest.raises(NotImplementedError, match="may change which latents are the k largest"):
        sae.fold_W_dec_norm()
    with pytest.raises(NotImplementedError, match=r"scales each layer by itself, so 2\.0 has no place in it"):
        sae.fold_activation_norm_scaling_factor(2.0)
    with pytest.raises(NotImplementedError, match="normalises each layer by itself, so a whitening has no place"):
        sae.fold_activation_whitening(torch.zeros(D_IN), torch.eye(D_IN), torch.eye(D_IN))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"routing": "soft", "decoder": "per_layer"}, "decoder: found per_layer with soft routing, allowed: shared"),
        ({"routing": "medium"}, "routing: found medium, allowed: hard or soft"),
        ({"decoder": "none"}, "decoder: found none, allowed: shared or per_layer"),
        ({"n_layers": 0}, "n_layers: found 0, allowed: 1 or more"),
        ({"k": 21}, "k: found 21, allowed: 1 to d_sae 20"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations: found layer_norm, allowed: none"),
    ],
)
def test_router_configs_that_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ReseedError, match=f"^routesae, {message}"):
        router(**change)


@pytest.mark.parametrize("width", [5, 10, D_SAE])
def test_a_prefix_is_the_first_latents(width: int, tmp_path: Path) -> None:
    matryoshka().save_model(tmp_path)
    sae, x = SAE.load_from_disk(tmp_path), rows(7, D_IN)
    part = prefix(sae, width)
    acts = sae.encode(x)[:, :width]
    assert type(part) is JumpReLUSAE
    assert (part.cfg.d_sae, sae.cfg.d_sae) == (width, D_SAE)
    assert part.cfg.metadata.reseed_widths == [other for other in (5, 10, D_SAE) if other <= width]
    assert (sae.cfg.metadata.reseed_widths, part.cfg.metadata.model_name) == ([5, 10, D_SAE], "modular")
    torch.testing.assert_close(part.encode(x), acts)
    torch.testing.assert_close(part(x), acts @ sae.W_dec[:width] + sae.b_dec)
    part.save_model(tmp_path / "part")
    torch.testing.assert_close(SAE.load_from_disk(tmp_path / "part")(x), part(x))


def test_a_prefix_that_was_not_trained_is_refused() -> None:
    with pytest.raises(
        ReseedError, match=r"^prefix of an SAE, width: found 7, allowed: its reseed_widths \[5, 10, 20\]$"
    ):
        prefix(matryoshka(), 7)
    with pytest.raises(ReseedError, match=r"found 5, allowed: its reseed_widths \[\]$"):
        prefix(JumpReLUSAE(JumpReLUSAEConfig(d_in=D_IN, d_sae=D_SAE)), 5)
    with pytest.raises(ReseedError, match=r"^prefix of an SAE: found hierarchical_topk, allowed: jumprelu"):
        prefix(hierarchical(), 5)
