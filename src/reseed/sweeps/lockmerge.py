"""Git's merge driver for dvc.lock: three-way, stage by stage. `make setup` installs it.

A stage that both sides changed differently is left out: DVC then runs it or takes it from the run-cache, while a
mixture of both, or one side's choice, would say of the merged code that it had run.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dvc.utils.serialize import YAMLFileCorruptedError, dumps_yaml, parse_yaml

from reseed import ReseedError

SCHEMA = "2.0"


def merge(
    base: Mapping[str, Any], ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """The merged stages in our order, and the names of those that both sides changed differently and are left out."""
    merged, left_out = {}, []
    for name in dict.fromkeys([*ours, *theirs]):
        was, our, their = base.get(name), ours.get(name), theirs.get(name)
        if our == their or their == was:
            chosen = our
        elif our == was:
            chosen = their
        else:
            chosen = None
            left_out.append(name)
        if chosen is not None:
            merged[name] = chosen
    return merged, left_out


def read_stages(path: Path) -> dict[str, Any]:
    """The stages of a lock, none for the empty file that git gives as the base of a lock that both sides added.

    Raises ReseedError for anything that is not a dvc.lock.
    """
    try:
        content = parse_yaml(path.read_text(), path)
    except (YAMLFileCorruptedError, UnicodeDecodeError) as error:
        raise ReseedError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ReseedError(f"{path}: found {type(content).__name__}, allowed: stages, and schema {SCHEMA!r}")
    if content and (content.keys() - {"stages"} != {"schema"} or content["schema"] != SCHEMA):
        raise ReseedError(f"{path}: found {sorted(content)}, allowed: stages, and schema {SCHEMA!r}")
    stages: dict[str, Any] = content.get("stages", {})
    return stages


def main(arguments: list[str]) -> None:
    """Write the merge of BASE, OURS and THEIRS over OURS, and tell which stages of NAME it left out."""
    if len(arguments) != 4:
        raise ReseedError(f"lockmerge: found {len(arguments)} arguments, allowed: BASE OURS THEIRS NAME")
    base, ours, theirs = map(Path, arguments[:3])
    merged, left_out = merge(*map(read_stages, (base, ours, theirs)))
    partial = ours.with_name(f"{ours.name}.partial")
    partial.write_text(dumps_yaml({"schema": SCHEMA, "stages": merged}))
    partial.replace(ours)
    for name in left_out:
        print(f"{arguments[3]}: {name}: changed on both sides and left out; `dvc repro` runs or restores it")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ReseedError as error:
        sys.exit(f"error: {error}")
