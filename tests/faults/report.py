"""What the museum shows: a score as a metric, and a page that tells the faults from the same objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.faults.museum import Fault, Outcome

METRICS = Path("metrics") / "faults.json"
PAGE = Path("docs") / "faults.md"
INTRODUCTION = """\
Two earlier systems published headline figures that were artefacts: HUSAI asked whether SAEs of several seeds agree,
RL-Decoder-using-SAE-Features looked for reasoning in the latents of language models. Nobody lied, and nothing in their
tooling could notice. Many of their documented faults are planted here, each in a small clean run, in its artefacts,
parameters or code; the same attempt without the planted edit must succeed. Not all are: there is no exhibit of a
routed or Matryoshka SAE loaded as a TopK one, of an ablation that ablates nothing, or of most faults that the second
system admitted itself. `make faults` plants what is here and writes this page. The numbers are those of a review of the
two systems. In messages, \u2026 stands for a hash and # for a fraction, which differ from machine to machine."""


def metrics(faults: Sequence[Fault], outcomes: Mapping[str, Outcome], verdicts: Mapping[str, str]) -> dict[str, Any]:
    """The content of metrics/faults.json: 1 is what should be. verdicts: of the clean claims on known features."""
    each = {
        fault.name: {
            "source": fault.source,
            "refused": int(outcomes[fault.name].for_its_own_reason(fault)),
            "accepted": int(outcomes[fault.name].twin_refused is None),
        }
        for fault in faults
    }
    return {
        "planted": len(each),
        "refused": sum(one["refused"] for one in each.values()),
        "clean": len(each),
        "accepted": sum(one["accepted"] for one in each.values()),
        "positives": len(verdicts),
        "supported": sum(verdict == "supported" for verdict in verdicts.values()),
        "faults": each,
    }


def score(content: Mapping[str, Any]) -> str:
    return (
        f"refused for the right reason {content['refused']}/{content['planted']}, "
        f"clean twins accepted {content['accepted']}/{content['clean']}, "
        f"clean claims on known features supported {content['supported']}/{content['positives']}"
    )


def page(faults: Sequence[Fault], outcomes: Mapping[str, Outcome], verdicts: Mapping[str, str]) -> str:
    """docs/faults.md."""
    lines = [
        "# Planted faults",
        "",
        INTRODUCTION,
        "",
        f"**{score(metrics(faults, outcomes, verdicts)).capitalize()}.**",
        "",
    ]
    for fault in faults:
        message = outcomes[fault.name].refused or "Nothing refused it."
        lines += [
            f"## {fault.title}", "",
            f"*{fault.source}* · `{fault.name}`", "",
            fault.story, "",
            f"**Planted:** {fault.planted}", "",
            f"> {message}", "",
        ]  # fmt: skip
    lines += ["## Clean claims on worlds of known features", "", "| world | verdict |", "|---|---|"]
    lines += [f"| `{name}` | {verdict} |" for name, verdict in verdicts.items()]
    return "\n".join([*lines, ""])
