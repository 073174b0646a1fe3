"""The `reseed` command: what a reader of the project looks at. The work itself is done by DVC's stages."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from reseed import ReseedError
from reseed.artifacts import lm_dir
from reseed.params import load_params
from reseed.reports import history, plots, readme, studies
from reseed.review import commands as review
from reseed.sweeps import commands as sweeps
from reseed.sweeps import side_by_side

DEFAULT_JOBS = min(2, len(os.sched_getaffinity(0)))

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(sweeps.app, name="sweep")
app.add_typer(review.app, name="claims")


@app.callback()
def reseed() -> None:
    """Do the features survive a reseed? `make repro` runs the pipeline; these commands report on it."""


@app.command()
def log(commits: Annotated[int, typer.Option(help="how many commits to go back")] = 20) -> None:
    """Print the experiment log: states with their headline metrics, and the last run of every stage."""
    console = Console()
    results = Table(title="Results: the workspace, DVC experiments, commits", title_justify="left")
    for column in ("revision", "date", "what", "kappa of pw_mcc, trained arm", "claims"):
        results.add_column(column, overflow="fold")
    for state in history.states(limit=commits):
        results.add_row(
            state.revision[:7],
            state.date,
            state.name,
            "\n".join(f"{name} {kappa:.3f}" for name, kappa in state.kappas.items()),
            "\n".join(f"{name}: {verdict}" for name, verdict in state.verdicts.items()),
        )
    console.print(results)
    stages = Table(title="Stages: the last run of each", title_justify="left")
    for column in ("started (UTC)", "command", "revision", "took", "device", "artefacts (md5 in dvc.lock)"):
        stages.add_column(column, overflow="fold")
    for run in history.stage_runs():
        stages.add_row(
            run.started.removesuffix("+00:00").replace("T", " "),
            run.command.removeprefix("python "),
            run.revision[:7] + (f" +{run.uncommitted_code} changed files" if run.uncommitted_code else ""),
            f"{run.duration_s:.1f} s",
            run.device,
            "\n".join(f"{path} {md5[:8]}" for path, md5 in run.artefacts.items()),
        )
    console.print(stages)


@app.command()
def repro(
    targets: Annotated[list[str], typer.Argument(help="what `dvc repro` takes, such as studies/walker/dvc.yaml")],
    jobs: Annotated[int, typer.Option(help="stages at once, each on cores of its own")] = DEFAULT_JOBS,
) -> None:
    """Run `dvc repro` with stages that wait for no other side by side."""
    side_by_side.repro(targets, jobs)


@app.command()
def table() -> None:
    """Write the result tables of the README and docs/studies.md from the metrics."""
    print("README.md: result tables written" if readme.update() else "README.md: result tables are up to date")
    print("docs/studies.md: written" if studies.update() else "docs/studies.md: up to date")


@app.command()
def benchmarks(subject: Annotated[str, typer.Argument(help="a language subject, such as gsm8k-gpt")]) -> None:
    """Print which of SAEBench's evals can run here on a subject, and why the others cannot."""
    # TransformerLens takes seconds to import, which the other commands need not wait for
    from reseed.benchmarks import evals
    from reseed.models.language import is_encoder

    encoder, hub, settings = is_encoder(lm_dir(subject)), evals.hub_reachable(), load_params().evals.settings
    found = Table(title=f"SAEBench on {subject}", title_justify="left")
    for column in ("eval", "runs here", "why not", "may gate a claim"):
        found.add_column(column, overflow="fold")
    for name, one in evals.EVALS.items():
        why = evals.preflight(name, subject, encoder, hub, settings.get(name, {}))
        found.add_row(name, "no" if why else "yes", "; ".join(why), "yes" if one.gates else "no")
    Console().print(found)


@app.command()
def evaluate(
    subject: Annotated[str, typer.Argument(help="a language subject whose activations are captured")],
    source: Annotated[str, typer.Argument(help="a folder with an SAE or folders of SAEs, or release:id of SAELens")],
    hook_name: Annotated[str | None, typer.Option(help="what the SAE reads, if its own files do not say")] = None,
    name: Annotated[str | None, typer.Option(help="of the report; the folder's, if not given")] = None,
    out: Annotated[Path, typer.Option(help="where the report goes")] = Path("evaluations"),
) -> None:
    """Judge SAEs that were trained elsewhere: SAELens, sparsify or dictionary_learning."""
    import torch

    from reseed.benchmarks import evaluate as evaluation
    from reseed.stage import device

    params, label = load_params(), name or source.rstrip("/").replace(":", "/").rpartition("/")[2]
    torch.set_num_threads(params.compute.threads)
    evaluation.evaluate(subject, source, label, hook_name, params, device(params.compute), out)
    report = studies.benchmarks(out, f"{subject}/{label}")
    (out / subject / label / "report.md").write_text(report.lstrip())
    Console().print(Markdown(report))


@app.command()
def audit(
    remote: Annotated[list[str] | None, typer.Option(help="a DVC remote to rehash too; may be repeated")] = None,
    allow_stale: Annotated[bool, typer.Option(help="exit with 0 for locks of older code that git has")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
) -> None:
    """Rehash what DVC trusts, check every lock and experiment. Exits with 0: clean, 1: findings, 2: could not look."""
    from reseed.sweeps import findings
    from reseed.sweeps.audit import audit as look

    try:
        report = look(remotes=remote or ())
    except ReseedError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from error
    if as_json:
        print(findings.as_json(report))
    else:
        findings.show(report, allow_stale, Console())
    raise typer.Exit(int(report.failed(allow_stale)))


@app.command()
def publish(
    seed_set: Annotated[str, typer.Argument(help="SUBJECT/VARIANT whose SAEs of all seeds are published")],
    repo_id: Annotated[str | None, typer.Option(help="USER/NAME on the Hugging Face hub")] = None,
    out: Annotated[Path, typer.Option(help="where the folder <subject>/<variant> goes")] = Path("publish"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only list what the folder would hold")] = False,
    send: Annotated[bool, typer.Option("--upload", help="send the folder to the hub (HF_TOKEN)")] = False,
) -> None:
    """Lay out a seed set and its model card as a Hugging Face repository; nothing is sent without --upload."""
    from reseed.reports import publish as publishing

    found = publishing.seed_set(seed_set, repo_id)
    files, folder = publishing.contents(found), out / found.subject / found.variant
    hub = publishing.hub(repo_id) if send and not dry_run else None
    if not dry_run:
        publishing.write(files, folder)
    for name, content in files.items():
        print(f"{publishing.size(content):>13,}  {name}")
    total = sum(map(publishing.size, files.values()))
    print(f"{total:>13,}  bytes in {len(files)} files, for {repo_id or 'no repository yet (--repo-id)'}")
    if hub:
        print(f"uploaded: {publishing.upload(hub, folder, found)}")
    else:
        print("dry run: nothing was written or sent" if dry_run else f"written: {folder}; nothing was sent")


@app.command(name="plots")
def draw(
    revisions: Annotated[list[str] | None, typer.Argument(help="git revisions to draw together")] = None,
    out: Annotated[Path, typer.Option(help="folder for the pictures")] = Path("dvc_plots"),
) -> None:
    """Draw every DVC plot as SVG and PNG, without network."""
    for path in plots.render(out, tuple(revisions or ())):
        print(path)


@app.command()
def report(
    out: Annotated[Path, typer.Option(help="folder for the site; what is there is replaced")] = Path("site"),
) -> None:
    """Write a static site of the metrics, which opens from disk: claims, variants, frontier, benchmarks, latents."""
    from reseed.reports.site import build

    pages = build(out)
    print(f"{pages[0]}: open it in a browser ({len(pages)} pages)")


def main() -> None:
    """Run the command; bad input is one sentence and exit code 1."""
    try:
        app()
    except ReseedError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
