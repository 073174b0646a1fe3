"""How an artefact is laid out, written, hashed and read: whole or not at all, finite numbers only, never pickled."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from reseed import ReseedError
from reseed.params import TRAINED

if TYPE_CHECKING:  # pandas and torch take seconds to import, and most commands need neither
    import pandas as pd
    import torch

SIGNIFICANT_DIGITS = 6
WRITTEN: set[Path] = set()
"""What this process has written whole; run facts tell the hash of each metric, which a lock alone does not prove."""


def raw_dir(subject: str) -> Path:
    return Path("data") / subject / "raw"


def tokens_dir(subject: str) -> Path:
    return Path("data") / subject / "tokens"


def activations_dir(subject: str, arm: str) -> Path:
    return Path("data") / subject / "activations" / arm


def probes_dir(subject: str) -> Path:
    return Path("data") / subject / "probes"


def prompts_dir(subject: str, arm: str) -> Path:
    return Path("data") / subject / "prompts" / arm


def baselines_dir(subject: str) -> Path:
    return Path("data") / subject / "prompts" / "baselines"


def lm_dir(subject: str) -> Path:
    return Path("models") / subject / "lm"


def sae_dir(subject: str, variant: str, arm: str = TRAINED) -> Path:
    return Path("models") / subject / (variant if arm == TRAINED else f"{variant}@{arm}")


def metrics_dir(subject: str, variant: str) -> Path:
    return Path("metrics") / subject / variant


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A temporary sibling of `path` that becomes `path` if the block succeeds and vanishes if it does not.

    The block may make it a file or a directory. Raises ReseedError when the disk is full.
    """
    partial = path.with_name(path.name + ".partial")
    _remove(partial)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        _remove(path)
        partial.rename(path)
        WRITTEN.add(path)
    except OSError as error:
        _remove(partial)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ReseedError(
                f"{path}: the disk is full; nothing was written, free some space and run again"
            ) from error
        raise
    except SafetensorError as error:
        _remove(partial)
        if "os error 28" in str(error).lower() or "no space" in str(error).lower():
            raise ReseedError(
                f"{path}: the disk is full; nothing was written, free some space and run again"
            ) from error
        raise
    except BaseException:
        _remove(partial)
        raise


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON with sorted keys and floats at 6 significant digits; raises ReseedError on a non-finite number."""
    text = json.dumps(_plain(content, path, ""), indent=1, sort_keys=True, allow_nan=False) + "\n"
    with writing(path) as partial:
        partial.write_text(text)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises ReseedError if it is missing, not JSON, or holds NaN or Infinity."""
    if not path.is_file():
        raise ReseedError(f"{path}: the file does not exist")

    def refuse(constant: str) -> Any:
        raise ReseedError(f"{path}: found {constant}, allowed: finite numbers")

    def number(text: str) -> float:
        return float(text) if math.isfinite(float(text)) else refuse(text)  # 1e999 is read as infinity

    try:
        content = json.loads(path.read_text(), parse_constant=refuse, parse_float=number)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ReseedError(
            f"{path}: not valid JSON ({error}); restore it with `dvc checkout` or run its stage"
        ) from error
    if not isinstance(content, dict):
        raise ReseedError(f"{path}: found {type(content).__name__}, allowed: a JSON object")
    return content


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows of equal keys as CSV, floats at 6 significant digits; raises ReseedError on a non-finite number."""
    header = list(rows[0])
    lines = [",".join(header)]
    for row in rows:
        if list(row) != header:
            raise ValueError(f"{path}: rows of different columns: {header} and {list(row)}")
        plain = _plain(row, path, "")
        lines.append(",".join(str(plain[name]) for name in header))
    with writing(path) as partial:
        partial.write_text("\n".join(lines) + "\n")


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    """Write a table with its floats at 6 significant digits; NaN is a missing value there."""
    rounded = table.copy()
    for name in rounded.columns:
        if rounded[name].dtype.kind == "f":
            rounded[name] = [float(f"{value:.{SIGNIFICANT_DIGITS}g}") for value in rounded[name]]
    with writing(path) as partial:
        rounded.to_parquet(partial, index=False)


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, world-readable (the library makes it private)."""
    from safetensors.torch import save_file

    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        path,
        dict(metadata or {}) or None,
    )
    path.chmod(0o644)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Memory-map a safetensors file; raises ReseedError if it is missing, truncated or not safetensors."""
    if not path.is_file():
        raise ReseedError(f"{path}: the file does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in sorted(file.keys())}
    except SafetensorError as error:
        raise ReseedError(f"{path}: not a whole safetensors file ({error}); run `dvc checkout` or its stage") from error


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_sha256(path: Path, expected: str) -> None:
    """Raise ReseedError unless the file exists and has the digest that its index promised."""
    if not path.is_file():
        raise ReseedError(f"{path}: the file does not exist, its index lists it; run `dvc checkout` or its stage")
    found = sha256(path)
    if found != expected:
        raise ReseedError(
            f"{path}: its sha256 is {found[:12]}…, its index says {expected[:12]}…: the file was truncated or edited; "
            "run `dvc checkout --force` or its stage"
        )


def fingerprint(folder: Path, *patterns: str) -> str:
    """Hex digest of the names and contents of the files of a folder that match; ReseedError if there are none."""
    files = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    if not files:
        raise ReseedError(f"{folder}: found no {' or '.join(patterns)}; run its stage or `dvc checkout`")
    lines = [f"{path.relative_to(folder).as_posix()} {sha256(path)}" for path in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def artefacts(subject: str, variant: str) -> dict[str, str]:
    """What a figure of a seed set was computed from, by content: its SAEs, and the activations that they read.

    Files that speak of one seed set belong together only if these are equal. {path: hex digest}.
    """
    saes, rows = sae_dir(subject, variant), activations_dir(subject, TRAINED)
    return {
        saes.as_posix(): fingerprint(saes, "seed_*/cfg.json", "seed_*/*.safetensors"),
        rows.as_posix(): fingerprint(rows, "index.json"),
    }


def derive_seed(*parts: object) -> int:
    """A 63-bit seed that depends on every part, so that each use of a run's seed owns an independent generator."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big") >> 1


def generator(*parts: object) -> torch.Generator:
    """A torch generator on the CPU seeded by `derive_seed(*parts)`."""
    import torch

    return torch.Generator().manual_seed(derive_seed(*parts))


def _plain(value: Any, path: Path, key: str) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item, path, f"{key}.{name}".lstrip(".")) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, path, f"{key}[{i}]") for i, item in enumerate(value)]
    if value is None:
        raise ReseedError(f"{path}: {key}: found null, allowed: numbers and strings (a missing value is left out)")
    if isinstance(value, str | int):
        return value
    number = float(value)
    if not math.isfinite(number):
        raise ReseedError(f"{path}: {key}: found {number}, allowed: finite numbers (a missing value is left out)")
    return float(f"{number:.{SIGNIFICANT_DIGITS}g}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
