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
tooling could notice. Their documented faults are planted here, each in a small clean run, in its artefacts, parameters
or code; the same attempt without the planted edit must succeed. `make faults` plants what is here and writes this page.
The numbers are those of a review of the two systems. In messages, \u2026 stands for a hash and # for a fraction, which
differ from machine to machine. Exhibits of one cause in several guises may be refused in the same words. Four are
refused by figures and by no sentence of the pipeline's, so that the one that is shown is put together from them:
`latent_that_only_reads` (no concept passes), `labels_of_indices`, `majority_class` (not above their nulls) and
`variance_given_up` (no arm is accepted).

A mistake in a formula gives results that look like any other, and no run would refuse them. What trains and what
measures is therefore tried on cases of known answer, a closed form, scipy or scikit-learn, before it is believed
(`stability/instruments.py`); random latents are drawn a thousand times before any stands beside an effect, and the
states of a world are drawn again before they are called known.

No exhibit has what this project has nothing like: queues that wait for the name of a process, commands through a
shell, a tracker that must be there or was never switched on, the interfaces of other packages that moved (HUSAI 1.4);
the auditor of reasoning traces with its scores, prompts and controls, and its mix of hidden states and latents
(RL-Decoder 2.3). Nor what is no edit of a run: hypotheses that were withdrawn and limits that were stated (HUSAI 1.4),
a second model and a stronger penalty that were never tried (RL-Decoder 2.3)."""


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
