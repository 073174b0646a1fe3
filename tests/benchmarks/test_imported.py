"""SAEs of other libraries: encode and reconstruction equal theirs, and what cannot be judged is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
from safetensors.torch import save_file
from torch.nn.functional import normalize

from reseed import ReseedError
from reseed.benchmarks.arms import PUBLIC_SAES, public_sae
from reseed.benchmarks.imported import _official, equal_random, find, load
from tests.benchmarks.builders import HOOK, lens_sae
from tests.saes.peers import dictionary_learning

# square on purpose: a decoder turned around would fit
D = 12
MODULES = {"AutoEncoderTopK": "trainers.top_k", "BatchTopKSAE": "trainers.batch_top_k"}
MODULES |= {"MatryoshkaBatchTopKSAE": "trainers.matryoshka_batch_top_k"}
SHAPES: dict[str, tuple[Any, ...]] = {
    "AutoEncoder": (D, D), "GatedAutoEncoder": (D, D), "JumpReluAutoEncoder": (D, D), "AutoEncoderTopK": (D, D, 3),
    "BatchTopKSAE": (D, D, 3), "MatryoshkaBatchTopKSAE": (D, D, 3, [4, 8]),
}  # fmt: skip


def rows() -> torch.Tensor:
    return torch.randn(64, D, generator=torch.Generator().manual_seed(5))


def trained(kind: str) -> Any:
    """One of theirs with unit decoder rows and everything else random."""
    torch.manual_seed(0)
    made: Any = getattr(dictionary_learning(MODULES.get(kind, "dictionary")), kind)(*SHAPES[kind])
    with torch.no_grad():
        for name, weights in made.named_parameters():
            weights.copy_(torch.randn(weights.shape) * (0.3 if weights.ndim > 1 else 0.1))
            if name == "threshold":
                weights.abs_()
            if name == "decoder.weight":
                weights.copy_(normalize(weights, dim=0))
            if name == "W_dec":
                weights.copy_(normalize(weights, dim=1))
        if kind.endswith("BatchTopKSAE") or kind == "BatchTopKSAE":
            made.threshold.fill_(0.4)
    return made


def saved(kind: str, folder: Path) -> Any:
    made = trained(kind)
    folder.mkdir(parents=True)
    torch.save(made.state_dict(), folder / "ae.pt")
    (folder / "config.json").write_text(json.dumps({"trainer": {"dict_class": kind}, "buffer": {}}))
    return made


@pytest.mark.parametrize("kind", sorted(SHAPES))
def test_encode_and_reconstruction_are_those_of_dictionary_learning(kind: str, tmp_path: Path) -> None:
    theirs, x = saved(kind, tmp_path / "one"), rows()
    ours = load(str(tmp_path / "one"), HOOK, D, "tiny", stated=True)
    with torch.no_grad():
        acts = theirs.encode(x)
        assert 0 < (acts > 0).float().mean() < 0.9
        torch.testing.assert_close(ours.encode(x), acts, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ours.decode(ours.encode(x)), theirs.decode(acts), rtol=1e-5, atol=1e-5)
    assert (ours.cfg.metadata.hook_name, ours.cfg.metadata.model_name) == (HOOK, "tiny")


def sparsify(folder: Path, **config: Any) -> dict[str, torch.Tensor]:
    folder.mkdir(parents=True)
    torch.manual_seed(1)
    weights = {
        "encoder.weight": torch.randn(D, D), "encoder.bias": torch.randn(D) * 0.1,
        "W_dec": normalize(torch.randn(D, D), dim=1), "b_dec": torch.randn(D) * 0.1,
    }  # fmt: skip
    save_file(weights, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(
        json.dumps({"d_in": D, "num_latents": D, "k": 3, "normalize_decoder": True} | config)
    )
    return weights


def test_sparsify_keeps_its_k_and_its_decoder_the_right_way_up(tmp_path: Path) -> None:
    w, x = sparsify(tmp_path / "layers.3"), rows()
    ours = load(str(tmp_path / "layers.3"), HOOK, D, "tiny", stated=True)
    # its formula: relu of the affine encoder of x - b_dec, the k largest, times W_dec, plus b_dec
    pre = ((x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]).relu()
    top = pre.topk(3, dim=1)
    acts = torch.zeros_like(pre).scatter_(1, top.indices, top.values)
    torch.testing.assert_close(ours.encode(x), acts, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.decode(acts), acts @ w["W_dec"] + w["b_dec"], rtol=1e-5, atol=1e-5)


def test_a_folder_of_seeds_is_found_in_order_and_other_things_are_not(tmp_path: Path) -> None:
    for seed in (2, 0, 1):
        saved("AutoEncoderTopK", tmp_path / "set" / f"seed_{seed}")
    (tmp_path / "set" / "notes").mkdir()
    assert list(find(str(tmp_path / "set"))) == ["seed_0", "seed_1", "seed_2"]
    assert find(str(tmp_path / "set" / "seed_1")) == {"seed_1": str(tmp_path / "set" / "seed_1")}
    assert find("gemma-scope-2b-pt-res:layer_12/width_16k") == {
        "gemma-scope-2b-pt-res_layer_12_width_16k": "gemma-scope-2b-pt-res:layer_12/width_16k"
    }
    with pytest.raises(ReseedError, match=r"notes: found no SAE, allowed: sae_weights\.safetensors \(SAELens\)"):
        find(str(tmp_path / "set" / "notes"))
    with pytest.raises(ReseedError, match=r"nowhere: no folder, allowed: .* or release:id of SAELens"):
        find("nowhere")


def test_free_decoder_norms_are_folded_or_refused(tmp_path: Path) -> None:
    theirs = trained("AutoEncoder")
    x = rows()
    with torch.no_grad():
        theirs.decoder.weight *= torch.linspace(0.5, 3, D)
        folder = tmp_path / "free"
        folder.mkdir()
        torch.save(theirs.state_dict(), folder / "ae.pt")
        (folder / "config.json").write_text(json.dumps({"trainer": {"dict_class": "AutoEncoder"}}))
        ours = load(str(folder), HOOK, D, "tiny", stated=True)
        torch.testing.assert_close(ours.W_dec.norm(dim=1), torch.ones(D))
        torch.testing.assert_close(ours.decode(ours.encode(x)), theirs.decode(theirs.encode(x)), rtol=1e-4, atol=1e-5)
        topk = lens_sae(D, D, 3)
        topk.W_dec.mul_(2)
    topk.save_model(tmp_path / "topk")
    with pytest.raises(ReseedError, match=r"decoder rows of norm \S+ to \S+, which TopK cannot fold without"):
        load(str(tmp_path / "topk"), HOOK, D, "tiny", model_sha256="m" * 64)


def test_what_cannot_be_judged_is_refused_with_its_reason(tmp_path: Path) -> None:
    saved("AutoEncoderTopK", tmp_path / "topk")
    with pytest.raises(ReseedError, match=f"does not say which hook point it reads; if it is {HOOK}, say --hook-name"):
        load(str(tmp_path / "topk"), HOOK, D, "tiny")
    with pytest.raises(ReseedError, match=f"the SAE reads {D} dimensions, the subject's hook point has 99"):
        load(str(tmp_path / "topk"), HOOK, 99, "tiny", stated=True)
    other = lens_sae(D, D, 3)
    with torch.no_grad():
        other.W_dec.copy_(normalize(torch.randn(D, D), dim=1))
    other.save_model(tmp_path / "other")
    with pytest.raises(ReseedError, match=f"the SAE reads {HOOK}, allowed: blocks.5.hook_resid_post"):
        load(str(tmp_path / "other"), "blocks.5.hook_resid_post", D, "tiny", stated=True)
    with torch.no_grad():
        other.b_enc[0] = torch.nan
    other.save_model(tmp_path / "nan")
    with pytest.raises(ReseedError, match="b_enc holds NaN or infinite numbers"):
        load(str(tmp_path / "nan"), HOOK, D, "tiny", model_sha256="m" * 64)
    # the same hook point and width, of another model
    fine = lens_sae(D, D, 3)
    with torch.no_grad():
        fine.W_dec.copy_(normalize(torch.randn(D, D), dim=1))
    fine.save_model(tmp_path / "fine")
    with pytest.raises(ReseedError, match="the SAE reads the model 'tiny', allowed: 'gpt2'"):
        load(str(tmp_path / "fine"), HOOK, D, "gpt2", model_sha256="m" * 64)
    with pytest.raises(ReseedError, match="reads a model of the hash mmmmmmmmmmmm, allowed: nnnnnnnnnnnn"):
        load(str(tmp_path / "fine"), HOOK, D, "tiny", model_sha256="n" * 64)
    assert load(str(tmp_path / "fine"), HOOK, D, "tiny", model_sha256="m" * 64).cfg.k == 3
    fine.cfg.metadata.model_name = "owner/Tiny"
    fine.save_model(tmp_path / "fine")
    load(str(tmp_path / "fine"), HOOK, D, "tiny", model_sha256="m" * 64)
    (tmp_path / "half").mkdir()
    torch.save({"encoder.weight": torch.randn(D, D)}, tmp_path / "half" / "ae.pt")
    (tmp_path / "half" / "config.json").write_text(json.dumps({"trainer": {"dict_class": "AutoEncoder"}}))
    with pytest.raises(ReseedError, match=r"half: its files lack 'decoder\.weight', allowed: a whole checkpoint"):
        load(str(tmp_path / "half"), HOOK, D, "tiny", stated=True)
    with pytest.raises(ReseedError, match=r"no-such-release:x: SAELens could not fetch it \(ValueError: "):
        load("no-such-release:x", HOOK, D, "tiny")
    sparsify(tmp_path / "skip", skip_connection=True)
    with pytest.raises(ReseedError, match=r"found \{'skip_connection': True\}, allowed: a plain TopK SAE"):
        load(str(tmp_path / "skip"), HOOK, D, "tiny", stated=True)
    (tmp_path / "topk" / "config.json").write_text(json.dumps({"trainer": {"dict_class": "Crosscoder"}}))
    with pytest.raises(ReseedError, match=r"trainer\.dict_class: found 'Crosscoder', allowed: those of AutoEncoder"):
        load(str(tmp_path / "topk"), HOOK, D, "tiny", stated=True)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code ran",))


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "evil").mkdir()
    torch.save({"encoder.weight": Evil()}, tmp_path / "evil" / "ae.pt")
    (tmp_path / "evil" / "config.json").write_text(json.dumps({"trainer": {"dict_class": "AutoEncoder"}}))
    with pytest.raises(ReseedError, match=r"ae\.pt: not a file of weights alone"):
        load(str(tmp_path / "evil"), HOOK, D, "tiny", stated=True)
    assert "code ran" not in capsys.readouterr().out


def test_the_random_control_has_equal_width_and_l0(tmp_path: Path) -> None:
    saved("BatchTopKSAE", tmp_path / "one")
    ours = load(str(tmp_path / "one"), HOOK, D, "tiny", stated=True)
    random = equal_random(ours, 3.4, 0)
    assert random.cfg.d_sae == D
    assert (random.encode(rows()) > 0).sum(1).max() == 3
    assert not torch.equal(random.W_dec, equal_random(ours, 3.4, 1).W_dec)


def test_every_public_sae_is_one_of_saelens_of_that_model_hook_point_and_width() -> None:
    directory = get_pretrained_saes_directory()
    for (model, hook_name, d_sae), source in PUBLIC_SAES.items():
        release, _, sae_id = source.partition(":")
        assert _official(directory[release].model) == _official(model)
        assert sae_id in directory[release].saes_map
        layer = hook_name.split(".")[1]
        assert hook_name == sae_id or f"layer_{layer}/" in sae_id
        # 2^k latents, which one library counts in thousands and the other in 1,024s
        assert {f"{d_sae // 1024}k", f"{d_sae // 1000}k"} & set(re.split("[_/:-]", source))
    assert public_sae("gpt2-small", "blocks.6.hook_resid_post", 32768) == "gpt2-small-resid-post-v5-32k:" + (
        "blocks.6.hook_resid_post"
    )
    assert public_sae("gsm8k-gpt", "blocks.6.hook_resid_post", 32768) is None
    assert public_sae("gpt2-small", "blocks.6.hook_resid_post", 512) is None


def test_one_model_has_many_names() -> None:
    assert _official("gpt2-small") == _official("openai-community/gpt2") == _official("gpt2")
    assert _official("google/gemma-2-2b") == "gemma-2-2b"
    assert _official("owner/Tiny") == "tiny" != _official("gpt2")
