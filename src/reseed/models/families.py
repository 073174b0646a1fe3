"""Architecture families: a Hugging Face config and its weights as a TransformerLens model, weights unprocessed.

TransformerLens' own loader takes official names only, guesses the family from the path and knows Gemma by hard-coded
sizes, so the config is translated here, from what config.json says; its converters then rename the weights. No layer
norm is folded, nothing is centred and no value bias is folded: TransformerLens' `from_pretrained_no_processing`. What a
config asks and TransformerLens cannot compute is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformer_lens import HookedEncoder, HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained import weight_conversions
from transformer_lens.utilities.activation_functions import SUPPORTED_ACTIVATIONS
from transformers import (
    BertForPreTraining,
    Gemma2ForCausalLM,
    GemmaForCausalLM,
    GPT2LMHeadModel,
    GPTNeoXForCausalLM,
    LlamaForCausalLM,
    PhiForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2ForCausalLM,
)

from reseed import ReseedError

Hooked = HookedTransformer | HookedEncoder


@dataclass(frozen=True)
class Family:
    """How one architecture is read: transformers' class, the config's translation, TransformerLens' converter."""

    kind: type[PreTrainedModel]
    config: Callable[[Any], dict[str, Any]]
    convert: Callable[[Any, HookedTransformerConfig], dict[str, torch.Tensor]]
    optional: tuple[str, ...] = ()
    """Prefixes of weights that a checkpoint may lack (heads that no activation passes through); they become zero."""


def _gpt2(hf: Any) -> dict[str, Any]:
    act_fn = hf.activation_function
    _only(act_fn in SUPPORTED_ACTIVATIONS, "activation_function", act_fn, ", ".join(SUPPORTED_ACTIVATIONS))
    return {
        "d_model": hf.n_embd,
        "d_head": hf.n_embd // hf.n_head,
        "n_heads": hf.n_head,
        "d_mlp": hf.n_inner or 4 * hf.n_embd,
        "n_layers": hf.n_layer,
        "n_ctx": hf.n_positions,
        "eps": hf.layer_norm_epsilon,
        "act_fn": act_fn,
        "use_attn_scale": hf.scale_attn_weights,
        "scale_attn_by_inverse_layer_idx": hf.scale_attn_by_inverse_layer_idx,
        "normalization_type": "LN",
    }


def _common(hf: Any) -> dict[str, Any]:
    """What the families after GPT-2 spell alike."""
    act_fn = getattr(hf, "hidden_activation", None) or hf.hidden_act
    _only(act_fn in SUPPORTED_ACTIVATIONS, "hidden_act", act_fn, ", ".join(SUPPORTED_ACTIVATIONS))
    return {
        "d_model": hf.hidden_size,
        "d_head": getattr(hf, "head_dim", None) or hf.hidden_size // hf.num_attention_heads,
        "n_heads": hf.num_attention_heads,
        "d_mlp": hf.intermediate_size,
        "n_layers": hf.num_hidden_layers,
        "n_ctx": hf.max_position_embeddings,
        "act_fn": act_fn,
    }


def _rotary(hf: Any) -> dict[str, Any]:
    """Rotary positions, of part of the head where the config says so; Llama 3's rescaling is the only one known."""
    rope = dict(hf.rope_parameters)
    kind = rope.get("rope_type", "default")
    common = _common(hf)
    fields = {
        "positional_embedding_type": "rotary",
        "rotary_adjacent_pairs": False,
        "rotary_base": rope["rope_theta"],
        "rotary_dim": int(common["d_head"] * rope.get("partial_rotary_factor", 1.0)),
    }
    if kind == "llama3":
        fields |= {
            "use_NTK_by_parts_rope": True,
            "NTK_original_ctx_len": rope["original_max_position_embeddings"],
            "NTK_by_parts_low_freq_factor": rope["low_freq_factor"],
            "NTK_by_parts_high_freq_factor": rope["high_freq_factor"],
            "NTK_by_parts_factor": rope["factor"],
        }
    _only(kind in ("default", "llama3"), "rope_parameters.rope_type", kind, "default, llama3")
    return common | fields


def _neox(hf: Any) -> dict[str, Any]:
    _only(hf.attention_bias, "attention_bias", hf.attention_bias, "true")
    parallel = {"parallel_attn_mlp": hf.use_parallel_residual}
    return _rotary(hf) | parallel | {"normalization_type": "LN", "eps": hf.layer_norm_eps}


def _phi(hf: Any) -> dict[str, Any]:
    _only(not hf.qk_layernorm, "qk_layernorm", hf.qk_layernorm, "false")
    _only(
        hf.num_key_value_heads == hf.num_attention_heads,
        "num_key_value_heads",
        hf.num_key_value_heads,
        str(hf.num_attention_heads),
    )
    return _rotary(hf) | {"parallel_attn_mlp": True, "normalization_type": "LN", "eps": hf.layer_norm_eps}


def _gated(hf: Any) -> dict[str, Any]:
    """Llama and what descends from it: RMS norm, a gated MLP, rotary positions."""
    return _rotary(hf) | {
        "normalization_type": "RMS",
        "final_rms": True,
        "gated_mlp": True,
        "eps": hf.rms_norm_eps,
        "n_key_value_heads": hf.num_key_value_heads,
    }


def _llama(hf: Any) -> dict[str, Any]:
    _only(not hf.attention_bias, "attention_bias", hf.attention_bias, "false")
    _only(not hf.mlp_bias, "mlp_bias", hf.mlp_bias, "false")
    # the converter writes plain keys and values where every head has its own
    grouped = hf.num_key_value_heads != hf.num_attention_heads
    return _gated(hf) | {"n_key_value_heads": hf.num_key_value_heads if grouped else None}


def _qwen2(hf: Any) -> dict[str, Any]:
    _only(not hf.use_sliding_window, "use_sliding_window", hf.use_sliding_window, "false")
    return _gated(hf)


def _gemma(hf: Any) -> dict[str, Any]:
    _only(not hf.attention_bias, "attention_bias", hf.attention_bias, "false")
    return _gated(hf)


def _gemma2(hf: Any) -> dict[str, Any]:
    return _gemma(hf) | {
        "attn_scale": hf.query_pre_attn_scalar**0.5,
        "window_size": hf.sliding_window,
        "use_local_attn": True,
        "attn_types": ["local" if kind == "sliding_attention" else "global" for kind in hf.layer_types],
        "attn_scores_soft_cap": hf.attn_logit_softcapping or -1.0,
        "output_logits_soft_cap": hf.final_logit_softcapping or -1.0,
        "use_normalization_before_and_after": True,
    }


def _bert(hf: Any) -> dict[str, Any]:
    position = getattr(hf, "position_embedding_type", "absolute")
    _only(position == "absolute", "position_embedding_type", position, "absolute")
    _only(hf.type_vocab_size == 2, "type_vocab_size", hf.type_vocab_size, "2")
    return _common(hf) | {"attention_dir": "bidirectional", "normalization_type": "LN", "eps": hf.layer_norm_eps}


def _only(holds: bool, key: str, found: object, allowed: str) -> None:
    if not holds:
        raise ReseedError(f"config.json: {key}: found {found!r}, allowed with TransformerLens: {allowed}")


_CONVERTERS: Any = weight_conversions  # untyped
_BERT = Family(BertForPreTraining, _bert, _CONVERTERS.convert_bert_weights, ("cls.", "bert.pooler."))
FAMILIES = {
    "GPT2LMHeadModel": Family(GPT2LMHeadModel, _gpt2, _CONVERTERS.convert_gpt2_weights),
    "GPTNeoXForCausalLM": Family(GPTNeoXForCausalLM, _neox, _CONVERTERS.convert_neox_weights),
    "GemmaForCausalLM": Family(GemmaForCausalLM, _gemma, _CONVERTERS.convert_gemma_weights),
    "Gemma2ForCausalLM": Family(Gemma2ForCausalLM, _gemma2, _CONVERTERS.convert_gemma_weights),
    "LlamaForCausalLM": Family(LlamaForCausalLM, _llama, _CONVERTERS.convert_llama_weights),
    "PhiForCausalLM": Family(PhiForCausalLM, _phi, _CONVERTERS.convert_phi_weights),
    "Qwen2ForCausalLM": Family(Qwen2ForCausalLM, _qwen2, _CONVERTERS.convert_qwen2_weights),
    "BertModel": _BERT,
    "BertForMaskedLM": _BERT,
    "BertForPreTraining": _BERT,
}
"""By the name that `architectures` of a config.json gives."""


def hooked_config(family: Family, hf: PreTrainedConfig, architecture: str, name: str) -> HookedTransformerConfig:
    """The TransformerLens config of a Hugging Face config; raises ReseedError for what TransformerLens cannot do."""
    return HookedTransformerConfig(
        **family.config(hf),
        d_vocab=hf.vocab_size,
        original_architecture=architecture,
        model_name=name,
        init_weights=False,
        default_prepend_bos=False,
        device="cpu",
        dtype=torch.float32,
    )


@torch.no_grad()
def convert(family: Family, model: PreTrainedModel, config: HookedTransformerConfig) -> Hooked:
    """A transformers model as a TransformerLens model on the CPU, in float32 and eval mode, every weight its own.

    Raises ReseedError if a weight of the TransformerLens model got no value.
    """
    weights = family.convert(model, config)
    with warnings.catch_warnings():  # HookedEncoder says at every use that version 4 will drop it
        warnings.simplefilter("ignore", DeprecationWarning)
        hooked: Hooked = HookedEncoder(config) if family is _BERT else HookedTransformer(config)
    if "unembed.b_U" not in weights:  # GPT-2 has none
        weights["unembed.b_U"] = torch.zeros(config.d_vocab)
    missing = sorted({name for name, _ in hooked.named_parameters()} - weights.keys())
    if missing:
        raise ReseedError(f"{config.model_name}: no weights for {', '.join(missing[:3])} of the TransformerLens model")
    hooked.load_state_dict({name: weights[name].float() for name, _ in hooked.named_parameters()}, strict=False)
    return hooked.eval()
