"""download: the raw data of a subject, with a manifest of where they come from."""

from typing import Any

from reseed.artifacts import raw_dir, writing
from reseed.params import load_subject
from reseed.stage import run_stage
from reseed.subjects.modular import write_raw


def download(subject: str) -> dict[str, Any]:
    config = load_subject(subject)
    with writing(raw_dir(subject)) as path:
        write_raw(config.data, path)
    return {"data": config.data}


if __name__ == "__main__":
    run_stage(download)
