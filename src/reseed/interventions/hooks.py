"""An edit inside a forward pass of any TransformerLens model, and what may be read behind it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache
from transformer_lens.hook_points import HookPoint

from reseed import ReseedError
from reseed.interventions.edits import Edit
from reseed.models.transformer import check_hook

RESIDUAL = re.compile(r"blocks\.(\d+)\.hook_resid_(pre|post)")


def intervene(
    model: HookedTransformer,
    tokens: Tensor,
    hook_name: str,
    edit: Edit,
    positions: Tensor | None = None,
    read: Sequence[str] = (),
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits [batch, n_ctx, d_vocab], and activations at the hook points `read`, with the activation edited.

    tokens [batch, n_ctx]. positions: [n], the same in every sequence, or [batch, n]; None edits all. The edit gets
    [batch, n, d_in]. Raises ReseedError for an unknown hook point, and for one in `read` that is not downstream.
    """
    for name in (hook_name, *read):
        check_hook(model, name)
    for name in read:
        check_downstream(model, tokens, hook_name, name)
    found: dict[str, Tensor] = {}

    def change(x: Tensor, hook: HookPoint) -> Tensor:  # noqa: ARG001
        if positions is None:
            return edit(x)
        at = positions.expand(len(x), -1)
        rows = torch.arange(len(x), device=x.device)[:, None]
        return x.index_put((rows, at), edit(x[rows, at]))

    def keep(x: Tensor, hook: HookPoint) -> None:
        found[str(hook.name)] = x

    logits = model.run_with_hooks(
        tokens, prepend_bos=False, fwd_hooks=[(hook_name, change), *((name, keep) for name in read)]
    )
    return logits, found


@torch.no_grad()
def check_downstream(model: HookedTransformer, tokens: Tensor, hook_name: str, read: str) -> None:
    """Raise ReseedError unless `read` is computed after the hook point and is not the same activation under a new name.

    What is read at the edit, or before it, moves by construction or not at all, and says nothing about the model.
    """
    order: list[str] = []
    seen: dict[str, Tensor] = {}

    def note(x: Tensor, hook: HookPoint) -> None:
        order.append(str(hook.name))
        seen[str(hook.name)] = x

    model.run_with_hooks(
        tokens[:1], prepend_bos=False, fwd_hooks=[(name, note) for name in dict.fromkeys((hook_name, read))]
    )
    same = seen[hook_name].shape == seen[read].shape and torch.equal(seen[hook_name], seen[read])
    if same or order.index(read) < order.index(hook_name):
        what = "the edited activation itself" if same else "a hook point before the edit"
        raise ReseedError(
            f"a read-out at {read!r} of an edit at {hook_name!r}: found {what}, "
            "allowed: a hook point strictly downstream, or the model's own output"
        )


def last_residual(model: HookedTransformer) -> str:
    return f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"


@dataclass(frozen=True)
class Continuation:
    """The rest of the forward pass behind one edited position a row, with everything before the position as it was.

    Only the edited position is computed again, on the keys and values of the positions before it: in a causal model
    nothing before it can change, and what comes later is not read. residual [rows, d_model]: unedited, at `hook_name`.
    past: the keys and values [rows, n_past, n_heads, d_head] of each layer from `layer` on; mask [rows, n_past + 1].
    """

    model: HookedTransformer
    hook_name: str
    layer: int
    residual: Tensor
    past: list[tuple[Tensor, Tensor]]
    mask: Tensor

    def __call__(self, edited: Tensor, final: bool = False) -> tuple[Tensor, Tensor | None]:
        """Logits [n_edits, rows, d_vocab] of residuals [n_edits, rows, d_model]; with `final` also the last one."""
        n, rows, d_model = edited.shape
        cache = None
        if self.past:
            cache = TransformerLensKeyValueCache.init_cache(self.model.cfg, edited.device, n * rows)
            for entry, (keys, values) in zip(cache.entries[self.layer :], self.past, strict=True):
                entry.past_keys, entry.past_values = _repeat(keys, n), _repeat(values, n)
            cache.freeze()
        kept: dict[str, Tensor] = {}
        last = last_residual(self.model)

        def keep(x: Tensor, hook: HookPoint) -> None:
            kept[str(hook.name)] = x

        logits = self.model.run_with_hooks(
            edited.reshape(n * rows, 1, d_model),
            start_at_layer=self.layer,
            past_kv_cache=cache,
            attention_mask=_repeat(self.mask, n) if self.past else None,
            fwd_hooks=[(last, keep)] if final else [],
        )
        read = kept[last].reshape(n, rows, d_model) if final else None
        return logits.reshape(n, rows, -1), read


def _repeat(x: Tensor, n: int) -> Tensor:
    return x.expand(n, *x.shape).flatten(0, 1)


def entry_layer(model: HookedTransformer, hook_name: str) -> int:
    """The layer whose input is the residual stream at `hook_name`; n_layers for the last residual stream.

    Raises ReseedError for a hook point that is not the residual stream between two blocks.
    """
    found = RESIDUAL.fullmatch(hook_name)
    if found is None:
        raise ReseedError(
            f"capture.hook_name: found {hook_name!r}, allowed where one position is edited: "
            "blocks.<layer>.hook_resid_pre or hook_resid_post"
        )
    check_hook(model, hook_name)
    return int(found[1]) + (found[2] == "post")


@torch.no_grad()
def continuation(model: HookedTransformer, tokens: Tensor, positions: Tensor, hook_name: str) -> Continuation:
    """What `Continuation` needs of sequences, tokens [rows, n_ctx], edited at positions [rows].

    Raises ReseedError as `entry_layer` does, and for a model that is not causal.
    """
    layer = entry_layer(model, hook_name)
    if model.cfg.attention_dir != "causal":
        raise ReseedError(
            f"a {model.cfg.attention_dir} model: allowed: a causal one, where later positions cannot matter"
        )
    n_past = int(positions.max())
    names = [f"blocks.{one}.attn.hook_{kind}" for one in range(layer, model.cfg.n_layers) for kind in "kv"]
    _, cache = model.run_with_cache(tokens[:, : n_past + 1].long(), prepend_bos=False, names_filter=[hook_name, *names])
    rows = torch.arange(len(tokens), device=positions.device)
    # right-aligned, so that the distances between positions are those of the sequence
    before = positions[:, None] - n_past + torch.arange(n_past, device=positions.device)
    mask = torch.cat([before >= 0, torch.ones_like(positions[:, None], dtype=torch.bool)], dim=1).int()
    taken = [cache[name][rows[:, None], before.clamp(min=0)] for name in names]
    past: list[Any] = list(zip(taken[::2], taken[1::2], strict=True))
    return Continuation(model, hook_name, layer, cache[hook_name][rows, positions], past, mask)
