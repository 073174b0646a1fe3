"""claims: judge one registered claim from the metrics that it names."""

from pathlib import Path
from typing import Any

from reseed.artifacts import read_json, write_json
from reseed.claims.gates import Options
from reseed.claims.judge import judge
from reseed.claims.registry import load_claim
from reseed.params import load_params
from reseed.stage import run_stage


def claims(registry: str, claim: str) -> dict[str, Any]:
    registered = load_claim(Path(registry), claim)
    evidence = {path: read_json(Path(path)) for path in registered.sources}
    params = load_params()
    verdict = judge(registered, evidence, Options(params.stability, params.train.convergence))
    write_json(Path("metrics") / "claims" / f"{claim}.json", verdict)
    print(f"{claim}: {verdict['verdict']}", *verdict["reasons"], sep="\n  ")
    return {
        "claim": registered,
        "stability": params.stability,
        "train": {"convergence": params.train.convergence.model_dump()},
    }


if __name__ == "__main__":
    run_stage(claims)
