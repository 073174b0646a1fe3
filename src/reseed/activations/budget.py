"""What a capture will cost, estimated before it is paid: bytes on disk, and hours at the measured rate."""

from __future__ import annotations

from dataclasses import dataclass

from reseed import ReseedError
from reseed.params import Budget

GIGABYTE = 1e9
HOUR = 3600.0


@dataclass(frozen=True)
class Estimate:
    """Bytes of the shards that are still to be written, and seconds until they are."""

    size: float
    seconds: float = 0.0


def estimate(rows: int, bytes_per_row: int, tokens: int = 0, tokens_per_second: float = 1.0) -> Estimate:
    """What so many rows take on disk, and so many tokens of a forward pass in time."""
    return Estimate(rows * bytes_per_row, tokens / tokens_per_second)


def check_budget(cost: Estimate, budget: Budget, subject: str) -> None:
    """Raise ReseedError for a capture that is estimated above params.yaml: budget."""
    pairs = (
        ("gigabytes", cost.size / GIGABYTE, "activations_gigabytes", budget.activations_gigabytes),
        ("hours", cost.seconds / HOUR, "gpu_hours", budget.gpu_hours),
    )
    for unit, found, key, most in pairs:
        if found > most:
            raise ReseedError(
                f"subjects/{subject}.yaml: capture: an estimated {found:.3g} {unit}, allowed: {most:g} (params.yaml: "
                f"budget.{key}); lower capture.rows or raise the budget"
            )
