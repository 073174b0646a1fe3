"""The architectures that SAELens lacks, as its inference classes; importing this module registers them with SAELens.

Shapes: `...` is any number of leading axes, also none. Latents are [..., d_sae]; W_enc [d_in, d_sae]; W_dec
[d_sae, d_in]; b_enc [d_sae]; b_dec [d_in].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, NoReturn

import torch
from sae_lens import SAE, JumpReLUSAE, JumpReLUSAEConfig, SAEConfig, TopKSAE, TopKSAEConfig, register_sae_class
from sae_lens.registry import SAE_CLASS_REGISTRY
from sae_lens.saes.topk_sae import TopK
from torch import Tensor, nn

from reseed import ReseedError


@dataclass(kw_only=True)
class HierarchicalTopKSAEConfig(TopKSAEConfig):  # type: ignore[misc]  # SAELens ships no types
    """k is the largest budget K; budgets are those that the training loss averaged over, ascending, the last one K.

    Raises ReseedError for other budgets.
    """

    budgets: list[int]

    @classmethod
    def architecture(cls) -> str:
        return "hierarchical_topk"

    def __post_init__(self) -> None:
        super().__post_init__()
        ascending = sorted(set(self.budgets))
        if self.budgets != ascending or not ascending or ascending[0] < 1 or ascending[-1] != self.k:
            allowed = f"ascending whole numbers from 1, the last one k {self.k}"
            _refuse("hierarchical_topk, budgets", self.budgets, allowed)
        _check_k("hierarchical_topk", self.k, self.d_sae)


class HierarchicalTopKSAE(TopKSAE):  # type: ignore[misc]
    """One TopK SAE that is good at every budget up to K (Balagansky et al. 2025, arXiv 2505.24473).

    With z_(i) the i-th largest latent, the reconstruction at a budget k is b_dec + sum_{i <= k} z_(i) W_dec[(i)], so
    the latents at a smaller budget are among those at a larger one. Decoder rows are meant to have unit norm.
    """

    def encode(self, x: Tensor) -> Tensor:
        """Latents at the largest budget of x [..., d_in]."""
        return self.encode_at(x, self.cfg.k)

    def encode_at(self, x: Tensor, k: int) -> Tensor:
        """Latents of x [..., d_in] at any budget k from 1 to K: ReLU of the k largest. Raises ReseedError beyond."""
        if not 1 <= k <= self.cfg.k:
            _refuse("hierarchical_topk, k", k, f"1 to {self.cfg.k}")
        pre = self.hook_sae_acts_pre(self.process_sae_in(x) @ self.W_enc + self.b_enc)
        if self.cfg.rescale_acts_by_decoder_norm:
            pre = pre * self.W_dec.norm(dim=-1)
        # the first k of the K largest, and not the k largest, so that budgets nest also where latents tie
        values, indices = pre.topk(self.cfg.k, dim=-1)
        kept = torch.zeros_like(pre).scatter(-1, indices[..., :k], values[..., :k].relu())
        acts: Tensor = self.hook_sae_acts_post(kept)
        return acts

    def reconstructions(self, x: Tensor) -> dict[int, Tensor]:
        """The reconstruction [..., d_in] of x [..., d_in] at each budget of the config."""
        return {k: self.decode(self.encode_at(x, k)) for k in self.cfg.budgets}


@dataclass(kw_only=True)
class RouteSAEConfig(SAEConfig):  # type: ignore[misc]
    """A RouteSAE of n_layers hook points; per_layer decoders need hard routing. Raises ReseedError if refused."""

    k: int
    n_layers: int
    routing: Literal["hard", "soft"]
    decoder: Literal["shared", "per_layer"]

    @classmethod
    def architecture(cls) -> str:
        return "routesae"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_layers < 1:
            _refuse("routesae, n_layers", self.n_layers, "1 or more")
        if self.routing not in ("hard", "soft"):
            _refuse("routesae, routing", self.routing, "hard or soft")
        if self.decoder not in ("shared", "per_layer"):
            _refuse("routesae, decoder", self.decoder, "shared or per_layer")
        if (self.routing, self.decoder) == ("soft", "per_layer"):
            _refuse("routesae, decoder", "per_layer with soft routing", "shared, because a mixture has no one layer")
        for name in ("normalize_activations", "reshape_activations"):
            if getattr(self, name) != "none":
                _refuse(f"routesae, {name}", getattr(self, name), "none, because it normalises each layer by itself")
        _check_k("routesae", self.k, self.d_sae)


class Route(NamedTuple):
    """Where a RouteSAE sends its input."""

    y: Tensor
    """[..., d_in]: what the SAE encodes, in normalised units."""
    layer: Tensor
    """[...]: the layer of the largest routing weight."""
    weight: Tensor
    """[...]: that layer's routing weight."""


class RouteSAE(SAE):  # type: ignore[misc]
    """One TopK SAE for many layers, with a router in front (Shi et al. 2025, arXiv 2503.08200).

    The input is [..., n_layers, d_in], raw activations of the same tokens at n_layers hook points. With
    x'_l = (x_l - layer_mean_l) * layer_scale_l, which is saved with the weights because layers meet before the encoder,
    r = softmax(sum_l x'_l W_router). Hard routing encodes y = r_l* x'_l* with l* = argmax r, soft routing
    y = sum_l r_l x'_l. W_router is [d_in, n_layers], layer_mean [n_layers, d_in], layer_scale [n_layers], and W_dec of
    per_layer decoders [n_layers, d_sae, d_in]. SAELens' error term does not apply: no model has a place for y.
    """

    W_enc: nn.Parameter
    b_enc: nn.Parameter
    W_dec: nn.Parameter
    b_dec: nn.Parameter
    W_router: nn.Parameter
    layer_mean: Tensor
    layer_scale: Tensor

    def initialize_weights(self) -> None:
        super().initialize_weights()
        n_layers, like = self.cfg.n_layers, {"dtype": self.dtype, "device": self.device}
        self.b_enc = nn.Parameter(torch.zeros(self.cfg.d_sae, **like))
        self.W_router = nn.Parameter(torch.zeros(self.cfg.d_in, n_layers, **like))
        self.register_buffer("layer_mean", torch.zeros(n_layers, self.cfg.d_in, **like))
        self.register_buffer("layer_scale", torch.ones(n_layers, **like))
        if self.cfg.decoder == "per_layer":
            self.W_dec = nn.Parameter(self.W_dec.data.expand(n_layers, -1, -1).clone())

    def get_activation_fn(self) -> TopK:
        return TopK(self.cfg.k)

    def route(self, x: Tensor) -> Route:
        """Route x [..., n_layers, d_in]. Raises ReseedError if the layer axis is missing or has another size."""
        n_layers, d_in = self.layer_mean.shape
        if x.shape[-2:] != (n_layers, d_in):
            _refuse("routesae, shape of the input", list(x.shape), f"[..., n_layers {n_layers}, d_in {d_in}]")
        x = (self.hook_sae_input(x.to(self.dtype)) - self.layer_mean) * self.layer_scale.unsqueeze(-1)
        r = (x.sum(-2) @ self.W_router).softmax(-1)
        weight, layer = r.max(-1)
        if self.cfg.routing == "soft":
            return Route((r.unsqueeze(-1) * x).sum(-2), layer, weight)
        routed = x.take_along_dim(layer[..., None, None], dim=-2).squeeze(-2)
        return Route(weight.unsqueeze(-1) * routed, layer, weight)

    def process_sae_in(self, sae_in: Tensor) -> Tensor:
        """What meets W_enc [..., d_in], of the input [..., n_layers, d_in]."""
        return self._centred(self.route(sae_in).y)

    def encode(self, x: Tensor) -> Tensor:
        """Latents of x [..., n_layers, d_in]: ReLU of the k largest of the routed activations."""
        return self._latents(self.route(x).y)

    def decode(self, feature_acts: Tensor, layer: Tensor | None = None) -> Tensor:
        """The reconstruction of y [..., d_in] from the latents; layer [...] is the route's, for per_layer decoders.

        Raises ReseedError if the decoders are per_layer and `layer` is missing.
        """
        if self.cfg.decoder == "shared":
            decoded = feature_acts @ self.W_dec
        elif layer is None:
            _refuse("routesae, layer to decode for", "none", "the one that `route` gives: each layer has its decoder")
        else:
            decoded = feature_acts.new_zeros(*feature_acts.shape[:-1], self.cfg.d_in)
            for index, W_dec in enumerate(self.W_dec):
                decoded[layer == index] = feature_acts[layer == index] @ W_dec
        out: Tensor = self.hook_sae_recons(decoded + self.b_dec)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction of y [..., d_in], in normalised units, of x [..., n_layers, d_in]."""
        y, layer, _ = self.route(x)
        out: Tensor = self.hook_sae_output(self.decode(self._latents(y), layer))
        return out

    def reconstruct(self, x: Tensor) -> Tensor:
        """The routed layer's activations in raw units [..., d_in], reconstructed, of x [..., n_layers, d_in].

        Raises ReseedError for soft routing, whose mixture of layers cannot be undone.
        """
        if self.cfg.routing == "soft":
            _refuse("routesae, reconstruct", "soft routing", "hard, because a mixture of layers cannot be undone")
        y, layer, weight = self.route(x)
        scale = (weight * self.layer_scale[layer]).unsqueeze(-1)
        return self.decode(self._latents(y), layer) / scale + self.layer_mean[layer]

    # NotImplementedError as in SAELens' TopKSAE, because SAEBench catches exactly that
    def fold_W_dec_norm(self) -> None:
        raise NotImplementedError("folding decoder norms may change which latents are the k largest")

    def fold_activation_norm_scaling_factor(self, scaling_factor: float) -> None:
        raise NotImplementedError(f"a RouteSAE scales each layer by itself, so {scaling_factor} has no place in it")

    def fold_activation_whitening(self, mean: Tensor, whitening_matrix: Tensor, unwhitening_matrix: Tensor) -> None:
        raise NotImplementedError("a RouteSAE normalises each layer by itself, so a whitening has no place in it")

    def _centred(self, y: Tensor) -> Tensor:
        return y - self.b_dec if self.cfg.apply_b_dec_to_input else y

    def _latents(self, y: Tensor) -> Tensor:
        pre = self.hook_sae_acts_pre(self._centred(y) @ self.W_enc + self.b_enc)
        acts: Tensor = self.hook_sae_acts_post(self.activation_fn(pre))
        return acts


def prefix(sae: JumpReLUSAE, width: int) -> JumpReLUSAE:
    """The SAE of the first `width` latents of a Matryoshka SAE (Bussmann et al. 2025, arXiv 2503.17547).

    SAELens keeps a Matryoshka SAE as a plain jumprelu; the widths whose prefixes were trained stand in its metadata as
    reseed_widths. Raises ReseedError if `sae` is of another architecture or `width` is none of them.
    """
    if not isinstance(sae, JumpReLUSAE):
        _refuse("prefix of an SAE", sae.cfg.architecture(), "jumprelu, as which a Matryoshka SAE is saved")
    widths = sae.cfg.metadata.reseed_widths or []
    if width not in widths:
        _refuse("prefix of an SAE, width", width, f"its reseed_widths {widths}")
    config = sae.cfg.to_dict()
    config["metadata"]["reseed_widths"] = [other for other in widths if other <= width]
    part = JumpReLUSAE(JumpReLUSAEConfig.from_dict(config | {"d_sae": width}))
    part.load_state_dict(
        {
            "W_enc": sae.W_enc[:, :width],
            "b_enc": sae.b_enc[:width],
            "threshold": sae.threshold[:width],
            "W_dec": sae.W_dec[:width],
            "b_dec": sae.b_dec,
        }
    )
    return part


def _check_k(what: str, k: int, d_sae: int) -> None:
    if not 1 <= k <= d_sae:
        _refuse(f"{what}, k", k, f"1 to d_sae {d_sae}")


def _refuse(what: str, found: object, allowed: str) -> NoReturn:
    raise ReseedError(f"{what}: found {found}, allowed: {allowed}")


for _sae, _config in ((HierarchicalTopKSAE, HierarchicalTopKSAEConfig), (RouteSAE, RouteSAEConfig)):
    _name = _config.architecture()
    # a reload of this module puts its new classes in place of the old; SAELens refuses anyone else's of that name
    if _name in SAE_CLASS_REGISTRY and SAE_CLASS_REGISTRY[_name][0].__module__ == __name__:
        del SAE_CLASS_REGISTRY[_name]
    register_sae_class(_name, _sae, _config)
