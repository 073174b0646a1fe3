"""Faults of SAEs: their shape, their sparsity, their seeds, their files and the figures that stand beside them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE
from sae_lens.saes import topk_sae
from torch.nn.functional import normalize

import reseed.saes.export as export_room
import reseed.saes.record as record_room
import reseed.saes.train as train_room
from reseed.activations.store import read_activations
from reseed.artifacts import activations_dir, sae_dir
from reseed.params import TRAINED, Calibration, load_params, load_sae_training
from reseed.stability.calibration import check_calibration
from reseed.stability.dictionaries import read_seed_set
from tests.faults import bases
from tests.faults.attempts import (
    SUBJECT,
    change_metrics,
    change_model,
    change_params,
    change_saes,
    change_subject,
    check_seeds,
    core,
    read_seeds,
    run,
    several,
    turn,
)
from tests.faults.bases import SEEDS
from tests.faults.museum import Exhibit, Fault


def _turned_on_the_way_out(exhibit: Exhibit) -> None:
    real = export_room.as_saelens

    def turned(*arguments: Any) -> Any:
        lens = real(*arguments)
        lens.W_dec.data = normalize(lens.W_dec.data.T, dim=1).contiguous()
        return lens

    exhibit.replace(export_room, "as_saelens", turned)


def _set(variant: str, **fields: Any) -> Any:
    return lambda _: change_params(lambda params: params["variants"][variant].update(fields))


def _load_as_relu(_: Exhibit) -> None:
    def dropped(config: dict[str, Any]) -> None:
        config["architecture"] = "standard"
        for key in ("k", "rescale_acts_by_decoder_norm"):
            del config[key]

    change_saes("wide", SUBJECT, dropped, ())


def _without_top_k(exhibit: Exhibit) -> None:
    exhibit.replace(topk_sae.TopK, "forward", lambda _, x: x)


def _matryoshka_as_topk(_: Exhibit) -> None:
    plain = {"architecture": "topk", "k": 4, "rescale_acts_by_decoder_norm": True}
    change_saes("nested", SUBJECT, lambda config: config.update(plain), ("threshold",))


def _router_dropped(_: Exhibit) -> None:
    def plain(config: dict[str, Any]) -> None:
        config |= {"architecture": "topk", "rescale_acts_by_decoder_norm": True}
        for key in ("n_layers", "routing", "decoder"):
            del config[key]

    change_saes("routed", "tiny", plain, ("W_router", "layer_mean", "layer_scale"))


def layers_read() -> int:
    """How many of the two layers a router is given."""
    return 2


def _encoded_by_a_router() -> None:
    rows = read_activations(activations_dir("tiny", TRAINED)).rows("test").whole()
    SAE.load_from_disk(sae_dir("tiny", "routed") / "seed_0", device="cpu").encode(rows[:, -layers_read() :].squeeze(1))


def _one_layer(exhibit: Exhibit) -> None:
    exhibit.replace(sys.modules[__name__], "layers_read", lambda: 1)


def _not_normalised(exhibit: Exhibit) -> None:
    real = train_room.fold

    def unequal(*arguments: Any) -> Any:
        weights = real(*arguments)
        rows = weights["W_dec"]
        return weights | {"W_dec": rows * torch.linspace(0.5, 2, len(rows))[:, None]}

    exhibit.replace(train_room, "fold", unequal)


def _scale_error(_: Exhibit) -> None:
    d_in = 32
    change_metrics("wide", lambda found: found.update(explained_variance=1 - (1 - found["explained_variance"]) / d_in))


def _total_loss_as_reconstruction(_: Exhibit) -> None:
    change_metrics("wide", lambda found: found.update(mse=found["mse"] + 15 * found["mse"]))


def _one_init(exhibit: Exhibit) -> None:
    exhibit.replace(train_room, "_init_key", lambda _train, _seed: "seeded after the model was made")


def _copied_seed(_: Exhibit) -> None:
    folder = sae_dir(SUBJECT, "wide")
    shutil.rmtree(folder / "seed_1")
    shutil.copytree(folder / "seed_0", folder / "seed_1")


def _other_arm(_: Exhibit) -> None:
    shutil.rmtree(sae_dir(SUBJECT, "wide"))
    shutil.copytree(sae_dir(SUBJECT, "wide", "random_model"), sae_dir(SUBJECT, "wide"))


def _other_run(_: Exhibit) -> None:
    """A run with another learning rate, killed after its first checkpoint."""

    def kill(seed: int, row: dict[str, float]) -> None:
        if row["step"] >= 100 and seed == SEEDS[-1]:
            raise InterruptedError

    params = load_params()
    training = load_sae_training(SUBJECT).model_copy(update={"lr": 0.1, "checkpoint_every": 50})
    checkpoint = Path("checkpoints") / SUBJECT / "wide.safetensors"
    activations = read_activations(activations_dir(SUBJECT, TRAINED))
    try:
        train_room.train_saes(
            params.variant("wide"), training, params.train, activations, torch.device("cpu"),
            checkpoint=checkpoint, log=kill,
        )  # fmt: skip
    except InterruptedError:
        assert checkpoint.is_file()


def _retrained_model(_: Exhibit) -> None:
    change_model(lambda name, weights: weights * 1.001 if name == "blocks.0.mlp.W_out" else weights)


def _killed_while_writing(exhibit: Exhibit) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    exhibit.replace(record_room, "write_curves", killed)


def _trained_from_nothing() -> None:
    folder = sae_dir(SUBJECT, "wide")
    shutil.rmtree(folder)
    try:
        run("train", SUBJECT, "wide", TRAINED)()
    except KeyboardInterrupt:
        assert not [*folder.parent.glob("*.partial"), *folder.parent.glob("wide")]
    read_seed_set(folder, load_params().variant("wide"), TRAINED, SEEDS)


def _calibration() -> None:
    params = load_params()
    check_calibration(
        Calibration.model_validate(params.calibration.model_dump()), params.variant("wide"), params.train.seeds
    )


TRAIN = run("train", SUBJECT, "wide", TRAINED)
CHECKED = check_seeds("wide")

FAULTS = (
    Fault(
        "transposed_decoder", "HUSAI 1.5.3", "A decoder turned by a guess from its shape",
        "`if dec.shape[0] > dec.shape[1]: dec = dec.T` turned the decoders with fewer latents than dimensions: 128 "
        "would-be features in 64 dimensions were compared with a null of 64 in 128, which made the largest "
        "published effect, +0.12.",
        "the decoders of 16 latents in 32 dimensions are saved as [d_in, d_sae].",
        bases.modular, lambda _: turn("narrow"), read_seeds("narrow"),
        r"snapshots\.safetensors step 0: W_dec has shape \[32, 16\], cfg\.json says \[d_sae, d_in\] = \[16, 32\]",
    ),
    Fault(
        "transposed_square_decoder", "HUSAI 1.5.3", "A turned decoder that keeps its shape",
        "The same where there are as many latents as dimensions: no shape tells, but the rows are no longer of unit"
        " norm.",
        "the decoders of 32 latents in 32 dimensions are saved transposed.",
        bases.modular, lambda _: turn("square"), read_seeds("square"),
        r"a row of W_dec has norm off one by #, allowed: #; rows must be latents of unit norm \(is it transposed\?\)",
    ),
    Fault(
        "transposed_and_normalised", "HUSAI 1.4", "A turned decoder of unit rows",
        "`F.normalize(dim=1)` on a decoder that lay the other way made rows of unit norm that are no latents: 88 % "
        "recovery at a similarity of 1.28 was withdrawn for 0 of 10 at 0.39.",
        "the code that saves an SAE turns its square decoder and normalises what are then its rows.",
        bases.modular, _turned_on_the_way_out, run("train", SUBJECT, "square", TRAINED),
        r"SAELens (en|de)codes \d+ of \d+ rows otherwise than the trained SAE",
    ),
    Fault(
        "identity", "RL-Decoder 2.4.5", "An SAE that keeps everything",
        "K was 3,686 in a model of 1,024 dimensions. An SAE whose L0 is not below d_in can be the identity, and how"
        " well it reconstructs says nothing of features.",
        "k is 32, which is d_in.",
        bases.modular, _set("wide", k=32), TRAIN,
        r"k: found 32, allowed: less than d_in \(32\); an SAE with L0 >= d_in is an identity",
    ),
    Fault(
        "dense_by_its_penalty", "HUSAI 1.5.11", "A penalty that makes nothing sparse",
        "At a 'matched budget' of 32 the ReLU SAE had an L0 of 654 and the JumpReLU SAE, whose penalty had no "
        "gradient, one of 976 of 1,024: dense autoencoders, which benchmarks reward.",
        "the coefficient of an L1 penalty is a millionth.",
        bases.modular, _set("penalised", objectives={"sparsity": {"penalty": "l1", "coefficient": 1e-6}}),
        several(run("train", SUBJECT, "penalised", TRAINED), check_seeds("penalised")),
        r"L0 is \S+ on the test rows, allowed: less than d_in \(32\)",
    ),
    Fault(
        "architecture_dropped", "RL-Decoder 2.3", "A TopK SAE loaded as a ReLU one",
        "The phase scripts passed an option of their own in the place of the checkpoint's, and the SAE that was read "
        "had another activation function than the one that was trained.",
        "cfg.json calls the SAE `standard` and has no k.",
        bases.modular, _load_as_relu, CHECKED,
        r"wide/seed_0: the SAE as loaded has explained_variance # on the test rows, its metrics\.json says #",
    ),
    Fault(
        "topk_as_linear", "RL-Decoder 2.4.4", "A TopK SAE loaded as a linear one",
        "A loader dropped `use_topk` and `topk_k`: no ReLU, no top-k. The 'TopK features' were dense linear maps of "
        "the residual, and an R2 of 0.977 that of a probe on the residual itself.",
        "the code that keeps the k largest pre-activations keeps all, negative ones too, when the SAE is loaded.",
        bases.modular, _without_top_k, CHECKED,
        r"wide/seed_0: the SAE as loaded has explained_variance -?# on the test rows, its metrics\.json says #",
    ),
    Fault(
        "matryoshka_as_topk", "HUSAI 1.5.12", "A Matryoshka SAE evaluated as a TopK one",
        "Matryoshka checkpoints were evaluated as plain TopK SAEs: what was benchmarked was not what was trained.",
        "cfg.json calls the SAE `topk` with its k, and its thresholds are left out of the weights.",
        bases.modular, _matryoshka_as_topk, check_seeds("nested"),
        r"prefix of an SAE: found topk, allowed: jumprelu, as which a Matryoshka SAE is saved",
    ),
    Fault(
        "router_dropped", "HUSAI 1.5.12", "A routed SAE evaluated without its router",
        "Routed checkpoints were evaluated as plain TopK SAEs, their router thrown away.",
        "cfg.json calls the SAE `topk`, and neither it nor the weights have the router any more.",
        bases.routed, _router_dropped, check_seeds("routed", "tiny"),
        r"routed/seed_0: the SAE as loaded has explained_variance -?# on the test rows, its metrics\.json says #",
    ),
    Fault(
        "router_on_one_layer", "HUSAI 1.1, 1.5.12", "A router that is given one layer",
        "What was called RouteSAE routed between slices of one layer's dictionary; routing over layers was never "
        "implemented, and benchmarks feed one hook point to whatever they are given.",
        "the SAE is given the rows of the last layer alone.",
        bases.routed, _one_layer, _encoded_by_a_router,
        r"routesae, shape of the input: found \[\d+, 8\], allowed: \[\.\.\., n_layers 2, d_in 8\]",
    ),
    Fault(
        "decoder_not_normalised", "HUSAI 1.4, RL-Decoder 2.3", "Decoder rows of any norm",
        "Several trainers lacked `normalize_decoder`: cosines, penalties and thresholds were of rows of any length.",
        "the code that gives the trained weights leaves decoder rows at norms between 0.5 and 2.",
        bases.modular, _not_normalised, TRAIN,
        r"wide\.partial/seed_0: SAELens encodes \d+ of \d+ rows otherwise than the trained SAE",
    ),
    Fault(
        "negative_decorrelation", "RL-Decoder 2.3", "A decorrelation that rewards correlation",
        "A decorrelation loss written anew in the scripts could become negative, and was then minimised by rows that "
        "point the same way.",
        "the coefficient of decoder_decorrelation is -0.01.",
        bases.modular, _set("wide", objectives={"decoder_decorrelation": -0.01}), load_params,
        r"variants\.wide\.objectives\.decoder_decorrelation: found #, allowed: greater than 0",
    ),
    Fault(
        "sparse_by_name", "RL-Decoder 2.3", "An SAE that nothing makes sparse",
        "An early run had a sparsity of zero, and was a sparse autoencoder by name.",
        "the variant has no penalty.",
        bases.modular, _set("penalised", objectives={}), load_params,
        r"variants\.penalised\.objectives\.sparsity: found nothing, allowed: a penalty, without which nothing",
    ),
    Fault(
        "penalty_without_gradient", "HUSAI 1.5.11, 1.4", "A penalty that moves no threshold",
        "JumpReLU was penalised by a count whose gradient is zero: its L0 stayed where it started, 976 of 1,024, and "
        "a claim about all architectures was withdrawn.",
        "the variant with the L1 penalty is a JumpReLU SAE.",
        bases.modular, _set("penalised", architecture="jumprelu"), load_params,
        r"allowed: l0 or tanh: an l1 penalty does not move a threshold",
    ),
    Fault(
        "one_seed", "HUSAI 1.4", "An interval of one seed",
        "A run of one seed crashed where it was summarised; with a mark in place of the interval it would have passed.",
        "train.seeds is [0].",
        bases.modular, lambda _: change_params(lambda params: params["train"].update(seeds=[0])), load_params,
        r"train\.seeds: found \[0\], allowed: at least 3 seeds: fewer give no interval",
    ),
    Fault(
        "more_experts_than_latents", "HUSAI 1.4", "Groups of latents that are not there",
        "num_experts was larger than d_sae, and some groups of latents were empty.",
        "a Matryoshka prefix is wider than d_sae.",
        bases.modular, _set("nested", widths=[16, 64]), load_params,
        r"variants\.nested\.widths: found \[16, 64\], allowed: increasing widths of which the last is d_sae \(48\)",
    ),
    Fault(
        "batch_larger_than_the_data", "HUSAI 1.4", "A pass without a batch",
        "With drop_last a batch larger than the data made passes without any step, and a division by their number.",
        "sae.batch_size is 4096.",
        bases.modular, lambda _: change_subject(lambda subject: subject["sae"].update(batch_size=4096)), TRAIN,
        r"sae\.batch_size: found 4096, allowed: at most the \d+ training rows",
    ),
    Fault(
        "more_latents_than_rows", "RL-Decoder 2.4.3, 2.3", "More latents than rows to learn from",
        "12,288 latents were trained on 1,045 token vectors, some 200 of them distinct: a latent a row reconstructs "
        "everything.",
        "d_sae is 4096.",
        bases.modular, _set("wide", d_sae=4096), TRAIN,
        r"d_sae: found 4096, allowed: at most the \d+ training rows",
    ),
    Fault(
        "explained_variance_scale", "HUSAI 1.5.7", "Explained variance off by a factor of d_in",
        "1 - (mean over elements) / (sum over dimensions) is too good by d_in: 0.9973 was -0.36, worse than the mean.",
        "metrics.json has 1 - (1 - explained variance) / d_in.",
        bases.modular, _scale_error, CHECKED,
        r"has explained_variance # on the test rows, its metrics\.json says #",
    ),
    Fault(
        "total_loss_as_reconstruction", "HUSAI 1.5.4", "A penalty counted as reconstruction",
        "An auxiliary loss of the wrong sign, fifteen times the squared error, was part of what was reported as "
        "reconstruction.",
        "metrics.json has the squared error and fifteen times as much beside as its mse.",
        bases.modular, _total_loss_as_reconstruction, CHECKED,
        r"has mse # on the test rows, its metrics\.json says #",
    ),
    Fault(
        "one_init", "HUSAI 1.4", "Seeds set after the model was made",
        "The seed was set when the model already stood, so that it did not decide the initialisation.",
        "every seed's initialisation is drawn from one key.",
        bases.modular, _one_init, several(TRAIN, CHECKED),
        r"the seeds 0 and 1 began from the same decoder, allowed: each from its own",
    ),
    Fault(
        "copied_seed", "HUSAI 1.5.13", "One seed counted twice",
        "Intervals were made of dependent values as if each were a run of its own; a copy is the plainest such value.",
        "the folder of seed 0 is copied to that of seed 1.",
        bases.modular, _copied_seed, read_seeds("wide"), r"seed_1/cfg\.json: seed: found 0, asked: 1",
    ),
    Fault(
        "seed_listed_twice", "HUSAI 1.5.13", "One seed listed twice",
        "The same, in the parameters.",
        "train.seeds is [0, 1, 1].",
        bases.modular, lambda _: change_params(lambda params: params["train"].update(seeds=[0, 1, 1])), load_params,
        r"train\.seeds: found .* allowed: every seed once: two runs of one seed are one run",
    ),
    Fault(
        "shared_reference", "HUSAI 1.5.5", "Seeds pulled to one reference",
        "All seeds were pulled to one frozen decoder and then compared with each other: the agreement measured "
        "obedience.",
        "a consistency objective couples all three seeds.",
        bases.modular,
        _set("wide", objectives={"consistency": {"partner": "nearest", "coefficient": 0.1, "group_size": 3}}), TRAIN,
        r"group_size: found 3 for 3 seeds, allowed: a size that divides them into 3 groups or more",
    ),
    Fault(
        "seeds_of_the_search", "HUSAI 1.2, 1.5.14", "Searched and reported on the same seeds",
        "The seeds that chose k = 4 were among those whose agreement at k = 4 was then reported.",
        "the seeds of the search are those of the variant.",
        bases.modular,
        lambda _: change_params(lambda params: params["calibration"].update(search_seeds=list(SEEDS))), _calibration,
        r"calibration\.search_seeds: found \[0, 1, 2\] among the seeds of the variant too, allowed: others",
    ),
    Fault(
        "another_arms_saes", "HUSAI 1.5.15", "Figures of other SAEs",
        "The agreement of 120-step SAEs was printed beside the explained variance of other checkpoints.",
        "the SAEs of the random model stand in the folder of the trained one's.",
        bases.modular, _other_arm, read_seeds("wide"), r"arm: found 'random_model', asked: 'trained'",
    ),
    Fault(
        "stale_activations", "RL-Decoder 2.3, 2.4.10", "A cache of another model",
        "An alignment cache was broken, and activations lay in a temporary folder: nothing tied either to the model"
        " that it was of.",
        "the model's weights are of another training, and the SAEs still of the first.",
        bases.modular, _retrained_model, core("wide"),
        r"the SAE reads .* of the trained model …, the benchmark asks for .* of the trained model …; run `dvc repro`",
    ),
    Fault(
        "stale_checkpoint", "HUSAI 1.5.15", "A run continued from another's checkpoint",
        "The agreement of one run stood beside figures of other checkpoints: nothing tied a checkpoint to its "
        "setting.",
        "a run of another learning rate was killed and left its checkpoint.",
        bases.modular, _other_run, TRAIN, r"a checkpoint of another run: its sae was .*, now ",
    ),
    Fault(
        "killed_while_writing", "HUSAI 1.1, 1.4", "Half an output",
        "Queues stalled half-way, and the smoke test asked only whether a file exists: half an output passes that.",
        "the stage is interrupted after it has written its SAEs and before its curves.",
        bases.modular, _killed_while_writing, _trained_from_nothing,
        r"models/modular/wide: found the seeds \[\], params\.yaml: train\.seeds asks for \[0, 1, 2\]",
    ),
    Fault(
        "unknown_knob", "HUSAI 1.5.16", "A parameter that nothing reads",
        "`sparsity_level` stood in the configuration and was never used; who set it believed it had been.",
        "a variant has the key sparsity_level.",
        bases.modular, _set("wide", sparsity_level=0.3), load_params,
        r"unknown key 'variants\.wide\.sparsity_level'; remove it or correct its spelling",
    ),
)  # fmt: skip
