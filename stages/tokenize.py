"""tokenize: raw data into token shards, with a quality report that refuses leaks between the splits.

A corpus that is too large for one machine: `RESEED_WORKER=<rank>/<number> python -P stages/tokenize.py <subject>` on
each of the others (ranks from 1 on, a shared folder) makes its share of the parts, then rank 0, or the stage as it
always runs, makes what is missing and writes the tokens.
"""

import shutil
from typing import Any

from reseed.artifacts import raw_dir, tokens_dir, write_json, writing
from reseed.params import is_language, is_traced, load_language, load_subject, load_traced
from reseed.stage import run_stage
from reseed.text.integers import tokenize_addition
from reseed.text.packing import make_parts, plan_parts, training_texts, worker, write_language_tokens
from reseed.text.quality import quality_report, traces_report
from reseed.text.tokenizers import make_tokenizer
from reseed.text.tokens import write_tokens
from reseed.text.traces import read_instances, tokenize_traces, write_traces


def tokenize(subject: str) -> dict[str, Any]:
    if is_language(subject):
        return _tokenize_text(subject)
    if is_traced(subject):
        return _tokenize_traces(subject)
    config = load_subject(subject)
    tokens = tokenize_addition(raw_dir(subject), config.data.p)
    report = quality_report(tokens)
    with writing(tokens_dir(subject)) as path:
        write_tokens(tokens, path)
        write_json(path / "quality.json", report)
    return {"data": config.data}


def _tokenize_traces(subject: str) -> dict[str, Any]:
    data, raw = load_traced(subject).data, raw_dir(subject)
    traces = tokenize_traces(raw)
    report = traces_report(traces, read_instances(raw))
    with writing(tokens_dir(subject)) as path:
        write_traces(traces, path)
        write_json(path / "quality.json", report)
    return {"data": data}


def _tokenize_text(subject: str) -> dict[str, Any]:
    data, raw, out = load_language(subject).data, raw_dir(subject), tokens_dir(subject)
    work = out.with_name("tokens.parts")
    rank, world = worker()
    if rank > 0:
        make_parts(plan_parts(raw), make_tokenizer(data.tokenizer, training_texts(raw)), work, rank, world)
        return {"data": data}
    with writing(out) as path:
        write_language_tokens(data, raw, work, path, rank, world, f"subjects/{subject}.yaml")
    shutil.rmtree(work)
    return {"data": data}


if __name__ == "__main__":
    run_stage(tokenize)
