"""``repoagent train``: from repositories to trained players, one command a stage."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from repoagent.errors import InputError
from training import corpus as corpora
from training.corpus import CorpusRepo

app = typer.Typer(
    help="Train the players: corpus, tasks, packing, supervised and reinforcement learning.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
corpus = typer.Typer(help="The repositories that training and evaluation use.", no_args_is_help=True)
app.add_typer(corpus, name="corpus")


class SplitName(StrEnum):
    """A split of the corpus."""

    train = "train"
    validation = "validation"
    test = "test"


SplitOption = Annotated[
    SplitName | None, typer.Option("--split", help="Only the repositories of this split.")
]
TreesOption = Annotated[
    Path, typer.Option("--trees", metavar="DIR", help="Where the tree of owner/name is DIR/owner__name.")
]
RepoOption = Annotated[
    list[str] | None, typer.Option("--repo", metavar="OWNER/NAME", help="Only this one; may be repeated.")
]


def _items(split: SplitName | None, repos: list[str] | None = None) -> list[CorpusRepo]:
    items = corpora.load(split.value if split else None)
    if unknown := set(repos or ()) - {i.repo for i in items}:
        raise InputError(f"{min(unknown)} is not in the corpus; see repoagent train corpus list.")
    return [i for i in items if not repos or i.repo in repos]


@corpus.command("list")
def list_(split: SplitOption = None) -> None:
    """Print the repositories: split, language, licence, name and commit, tab-separated."""
    for item in _items(split):
        typer.echo("\t".join((item.split, item.language, item.licence, item.repo, item.commit)))


@corpus.command()
def clone(
    dest: Annotated[Path, typer.Option("--dest", metavar="DIR", help="Folder for the trees.")],
    split: SplitOption = None,
    repo: RepoOption = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Fetches at the same time.")] = 4,
    history: Annotated[
        int, typer.Option("--history", metavar="N", min=0, help="Commits before the pinned one, for mining.")
    ] = 0,
    host: Annotated[
        str, typer.Option("--host", metavar="URL", help="Where owner/name.git lies.")
    ] = corpora.HOST,
) -> None:
    """Fetch every repository at its pinned commit; may be run again until all are there."""
    items = _items(split, repo)
    errors = corpora.clone(items, dest, host=host, history=history, jobs=jobs, report=typer.echo)
    for error in errors:
        typer.echo(error, err=True)
    if errors:
        raise InputError(f"{len(errors)} of {len(items)} repositories are missing; run the command again.")


@corpus.command()
def verify(trees: TreesOption, split: SplitOption = None, repo: RepoOption = None) -> None:
    """Check that every tree is at its commit and that the tasks' files and lines exist."""
    from training import tasks

    items = _items(split, repo)
    problems = [*corpora.verify(items, trees), *tasks.validate_corpus(items, trees)]
    for problem in problems:
        typer.echo(problem)
    if problems:
        raise InputError(f"{len(problems)} problems in {trees}; fetch what is missing with corpus clone.")
    typer.echo(f"{len(items)} repositories and their tasks are in order.")


@app.command()
def mine(
    trees: TreesOption,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the tasks.")],
    split: SplitOption = SplitName.train,
    repo: RepoOption = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Tasks per repository.")] = 250,
    git_dirs: Annotated[
        Path | None,
        typer.Option(
            "--git-dirs", metavar="FILE", help="Lines 'owner/name PATH': histories that are not in the trees."
        ),
    ] = None,
) -> None:
    """Mine tasks from doc comments, headings, configuration and history of the trees."""
    from training import mine as miner

    histories = miner.read_git_dirs(git_dirs) if git_dirs else {}
    total: Counter[str] = Counter()
    for name, counts in miner.mine_corpus(_items(split, repo), trees, out, git_dirs=histories, limit=limit):
        total += counts
        typer.echo(f"{name}: " + (", ".join(f"{k} {n}" for k, n in sorted(counts.items())) or "nothing"))
    typer.echo("all: " + ", ".join(f"{k} {n}" for k, n in sorted(total.items())))


@app.command()
def datasheet() -> None:
    """Print the counts of the datasheet (training/data/README.md) from the data."""
    from training import tasks

    typer.echo(tasks.counts())
