"""probes: the probe tasks of a subject and what can be read without any SAE, once for all its variants."""

from typing import Any

from reseed.activations.capture import capture, check_capture
from reseed.activations.store import read_activations
from reseed.artifacts import activations_dir, lm_dir, probes_dir, tokens_dir, write_json, writing
from reseed.benchmarks.tasks import balanced_classes, baselines, probe_scale
from reseed.models.transformer import load_transformer
from reseed.params import TRAINED, load_params, load_subject
from reseed.stage import device, run_stage
from reseed.subjects.modular import key_frequencies, probe_tasks
from reseed.text.tokens import read_tokens


def probes(subject: str) -> dict[str, Any]:
    params, config = load_params(), load_subject(subject)
    tokens = read_tokens(tokens_dir(subject))
    check_capture(config.capture, tokens)
    activations = read_activations(activations_dir(subject, TRAINED))
    operands = {
        split: rows[:, [tokens.position("a"), tokens.position("b")]].long() for split, rows in tokens.splits.items()
    }
    p = config.data.p
    frequencies = key_frequencies(activations.splits["train"].float(), operands["train"].sum(1) % p, p)
    labels = {
        split: probe_tasks(operands[split], p, list(frequencies)[: params.saebench.frequencies])
        for split in ("train", "test")
    }
    sizes = {"train": params.saebench.probe_train_rows, "test": params.saebench.probe_test_rows}
    tasks = {
        task: {split: balanced_classes(labels[split][task], size, f"{task}/{split}") for split, size in sizes.items()}
        for task in labels["train"]
    }
    layer = config.capture.hook_name.split(".")[1]
    transformer = load_transformer(config.model, lm_dir(subject), subject)
    neurons = capture(
        transformer, tokens, f"blocks.{layer}.mlp.hook_post", config.capture.positions, device(params.compute)
    )
    scaled = {
        name: {split: rows.float() * probe_scale(splits["train"].float()) for split, rows in splits.items()}
        for name, splits in (("model", activations.splits), ("neurons", neurons))
    }
    records = baselines(tasks, scaled["model"], scaled["neurons"], params.saebench)
    with writing(probes_dir(subject)) as path:
        path.mkdir()
        write_json(path / "tasks.json", tasks)
        write_json(path / "baselines.json", {"key_frequencies": frequencies, "records": records})
    return {"saebench": params.saebench}


if __name__ == "__main__":
    run_stage(probes)
