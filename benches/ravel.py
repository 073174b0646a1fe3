"""Does SAEBench's RAVEL run to a result in this environment? `make ravel` asks it in that of requirements.ravel.lock.

RAVEL knows two models by name and fetches them, and its prompts, from a hub. Here a GPT-NeoX of 32 random dimensions
and twelve prompts lie where it looks first, in a folder that is gone afterwards: its code runs whole and unmodified,
its scores mean nothing and are not kept. With transformers 5 it ends in `IndexError: too many indices for tensor`.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from sae_bench.evals.ravel import main as ravel
from sae_bench.evals.ravel.eval_config import RAVELEvalConfig
from sae_bench.evals.ravel.instance import get_instance_name
from sae_lens import TopKSAE, TopKSAEConfig
from sae_lens.saes.sae import SAEMetadata
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

NAME, FOLDER = "pythia-160m-deduped", "EleutherAI/pythia-160m-deduped"
CITIES = {
    "Paris": ("France", "Europe"), "Lyon": ("France", "Europe"), "Rome": ("Italy", "Europe"),
    "Tokyo": ("Japan", "Asia"), "Osaka": ("Japan", "Asia"), "Pune": ("India", "Asia"),
}  # fmt: skip
ATTRIBUTES = ("Country", "Continent")


def main() -> None:
    known = ["<eos>", "<pad>", "The", "of", "is", *(name.lower() for name in ATTRIBUTES), *CITIES]
    known += sorted({label for labels in CITIES.values() for label in labels})
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", pad_token="<pad>")
    tokenizer.save_pretrained(FOLDER)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=len(known), **shape)).save_pretrained(FOLDER)
    prompts = []
    for city, labels in CITIES.items():
        for attribute, label in zip(ATTRIBUTES, labels, strict=True):
            template = f"The {attribute.lower()} of %s is"
            ids = tokenizer(template % city).input_ids
            prompts.append(
                {
                    "text": template % city, "template": template, "attribute_type": attribute,
                    "attribute_label": label, "entity_label": city, "context_split": "train", "entity_split": "train",
                    "input_ids": ids, "attention_mask": [1] * len(ids), "final_entity_token_pos": -2,
                    "attribute_generation": label, "first_generated_token_id": known.index(label), "is_correct": True,
                }
            )  # fmt: skip
    config = RAVELEvalConfig(
        model_name=NAME, llm_dtype="float32", llm_batch_size=4, entity_attribute_selection={"city": list(ATTRIBUTES)},
        num_pairs_per_attribute=len(prompts), n_generated_tokens=2, top_n_entities=len(CITIES),
    )  # fmt: skip
    kept = Path(config.artifact_dir) / get_instance_name("city", FOLDER, None, len(CITIES))
    kept.parent.mkdir(parents=True)
    kept.write_text(json.dumps({"prompts": prompts, "config": {}}))
    metadata = SAEMetadata(
        model_name=NAME, hook_name="blocks.0.hook_resid_post", hook_head_index=None, prepend_bos=False,
        model_from_pretrained_kwargs={},
    )  # fmt: skip
    sae = TopKSAE(TopKSAEConfig(d_in=32, d_sae=64, k=4, device="cpu", dtype="float32", metadata=metadata))
    ravel.run_eval(config, [("one", sae)], "cpu", "out", force_rerun=True)
    found = json.loads(Path("out/one_custom_sae_eval_results.json").read_text())["eval_result_metrics"]["ravel"]
    print(f"RAVEL ran to a result here: {', '.join(sorted(found))}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        main()
