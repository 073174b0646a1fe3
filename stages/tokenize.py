"""tokenize: raw data into token shards, with a quality report that refuses leaks between the splits."""

from typing import Any

from reseed.artifacts import raw_dir, tokens_dir, write_json, writing
from reseed.params import load_subject
from reseed.stage import run_stage
from reseed.text.integers import tokenize_addition
from reseed.text.quality import quality_report
from reseed.text.tokens import write_tokens


def tokenize(subject: str) -> dict[str, Any]:
    config = load_subject(subject)
    tokens = tokenize_addition(raw_dir(subject), config.data.p)
    report = quality_report(tokens)
    with writing(tokens_dir(subject)) as path:
        write_tokens(tokens, path)
        write_json(path / "quality.json", report)
    return {"data": config.data}


if __name__ == "__main__":
    run_stage(tokenize)
