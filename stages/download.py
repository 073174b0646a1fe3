"""download: the raw data of a subject, with a manifest of where they come from."""

from typing import Any

from reseed.artifacts import raw_dir, writing
from reseed.params import is_language, is_traced, load_language, load_subject, load_traced
from reseed.stage import run_stage
from reseed.subjects.corpora import write_corpus
from reseed.subjects.modular import write_raw
from reseed.subjects.states import write_raw_traces


def download(subject: str) -> dict[str, Any]:
    if is_language(subject):
        data = load_language(subject).data
        with writing(raw_dir(subject)) as path:
            source = write_corpus(data, path)
        return {"data": data, "source": source}
    if is_traced(subject):
        world = load_traced(subject).data
        with writing(raw_dir(subject)) as path:
            write_raw_traces(world, path)
        return {"data": world}
    config = load_subject(subject)
    with writing(raw_dir(subject)) as path:
        write_raw(config.data, path)
    return {"data": config.data}


if __name__ == "__main__":
    run_stage(download)
