"""``repoagent train``: from repositories to trained players, one command a stage."""

from __future__ import annotations

import json
from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from repoagent.errors import InputError
from training import corpus as corpora
from training.cli_regimen import regimen
from training.cli_tune import REPOSITORY, PathOrCommand, repository
from training.corpus import CorpusRepo

app = typer.Typer(
    cls=PathOrCommand,
    help="Tune the bundled policy for your own repository: repoagent train PATH, the same as repoagent train "
    "repository PATH. Or train the players anew, by the other commands: corpus, tasks, packing, supervised "
    "and reinforcement learning. A first argument that is none of the commands is a path.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
app.command(REPOSITORY)(repository)
app.add_typer(regimen)
corpus = typer.Typer(help="The repositories that training and evaluation use.", no_args_is_help=True)
app.add_typer(corpus, name="corpus")
bundled = typer.Typer(help="The bundled encoder policy and its small reflector.", no_args_is_help=True)
app.add_typer(bundled, name="bundled")


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


OutFile = Annotated[Path, typer.Option("--out", metavar="PATH", help="Where the result is written.")]
PackOption = Annotated[
    list[Path], typer.Option("--pack", metavar="FILE", help="Packed decisions; may be repeated.")
]
MinutesOption = Annotated[float, typer.Option("--minutes", min=0.1, help="Time the schedule is planned for.")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads of torch.")]


def _rows(split: SplitName, files: list[Path] | None) -> list[dict[str, Any]]:
    from training import tasks

    found = files or sorted((tasks.TASKS / split.value).glob("*.jsonl"))
    if missing := [f for f in found if not f.is_file()]:
        raise InputError(f"{missing[0]} does not exist; name a file of tasks.")
    return [json.loads(line) for f in found for line in f.read_text("utf-8").split("\n") if line.strip()]


@bundled.command()
def pack(
    trees: TreesOption,
    out: OutFile,
    split: SplitOption = SplitName.train,
    tasks_file: Annotated[
        list[Path] | None, typer.Option("--tasks", metavar="FILE", help="Instead of the teacher's tasks.")
    ] = None,
) -> None:
    """Walk every task with the oracle and write its decisions into one file that training reads."""
    from training.pack import pack_rows

    out.parent.mkdir(parents=True, exist_ok=True)
    count = pack_rows(_rows(split or SplitName.train, tasks_file), trees, out)
    typer.echo(f"{count} decisions in {out}")


@bundled.command()
def scent(
    trees: TreesOption,
    every: Annotated[int, typer.Option("--every", min=1, help="Use every Nth training question.")] = 2,
) -> None:
    """Fit the weights by which the lexical scan orders its hits; prints them."""
    from training.scent_weights import run

    run(_rows(SplitName.train, None)[::every], _rows(SplitName.validation, None), trees)


@bundled.command("sft-policy")
def sft_policy(
    pack: PackOption,
    out: OutFile,
    minutes: MinutesOption = 60,
    epochs: Annotated[float, typer.Option("--epochs")] = 3.0,
    validation: Annotated[Path | None, typer.Option("--validation", metavar="FILE")] = None,
    reflection: Annotated[
        str, typer.Option("--reflection", help="Key of the reflections: reflection (teacher's) or generated.")
    ] = "reflection",
    init: Annotated[
        Path | None, typer.Option("--init", metavar="DIR", help="Checkpoint to go on from.")
    ] = None,
    weights: Annotated[
        list[float] | None,
        typer.Option("--weight", help="Share of each --pack, in their order; by size if left out."),
    ] = None,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="Of the adapter.")] = 2e-4,
    head_learning_rate: Annotated[float, typer.Option("--head-learning-rate")] = 6e-3,
    bf16: Annotated[bool, typer.Option("--bf16", help="Half precision in the encoder's products.")] = False,
    layers: Annotated[
        int,
        typer.Option(
            "--layers", min=0, max=6, help="Train the adapter of the last N layers alone; 0: of all."
        ),
    ] = 0,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    device: Annotated[str, typer.Option("--device")] = "cpu",
    threads: ThreadsOption = None,
) -> None:
    """Supervised fine-tuning of the bundled policy; resumes in --out."""
    import torch

    from training import sft_policy as sft

    if threads:
        torch.set_num_threads(threads)
    if weights and (len(weights) != len(pack) or min(weights) <= 0):
        raise InputError("give one --weight above 0 for each --pack, or none.")
    settings = sft.Settings(
        pack=tuple(map(str, pack)),
        pack_weights=tuple(weights or ()),
        validation=str(validation or ""),
        minutes=minutes,
        epochs=epochs,
        learning_rate=learning_rate,
        head_learning_rate=head_learning_rate,
        bf16=bf16,
        trained_layers=layers,
        reflection_key=reflection,
        init=str(init or ""),
        seed=seed,
    )
    sft.train(settings, out, device)


@bundled.command()
def calibrate(
    policy: Annotated[Path, typer.Option("--policy", metavar="DIR", help="Checkpoint of the policy.")],
    pack: PackOption,
    out: OutFile,
    reflection: Annotated[
        str, typer.Option("--reflection", help="Key of the reflections that the policy reads, if any.")
    ] = "",
    threads: ThreadsOption = None,
) -> None:
    """Refit a trained policy's head, temperature and threshold on validation repositories."""
    import torch

    from training import calibrate as calibration

    if threads:
        torch.set_num_threads(threads)
    for name, figures in calibration.run(policy, pack, out, reflection).items():
        typer.echo(f"{name}: {figures}")


@bundled.command()
def confidence(
    policy: Annotated[Path, typer.Option("--policy", metavar="DIR", help="Checkpoint; written to.")],
    trees: TreesOption,
    reflector: Annotated[str, typer.Option("--reflector", help="The reflector it plays with.")] = "bundled",
    every: Annotated[int, typer.Option("--every", min=1, help="Use every Nth validation question.")] = 1,
    threads: ThreadsOption = None,
) -> None:
    """Fit how sure the policy is of its answers, on episodes with the validation questions."""
    import torch

    from repoagent.encoder import EncoderPolicy
    from repoagent.models import load_players
    from training import confidence_fit, tasks

    if threads:
        torch.set_num_threads(threads)
    players = load_players(str(policy), reflector)
    if not isinstance(players[0], EncoderPolicy) or not policy.is_dir():
        raise InputError(f"{policy} is no folder of an encoder policy; name one that sft-policy wrote.")
    questions = tasks.load("validation")[every - 1 :: every]
    for name, value in confidence_fit.run(*players, policy, questions, trees, typer.echo).items():
        typer.echo(f"{name}: {value}")


@bundled.command()
def passages(trees: TreesOption, out: OutFile, seed: Annotated[int, typer.Option("--seed")] = 0) -> None:
    """Pack the passages that the reader learns from: right and wrong ones for every training question."""
    from training import tasks
    from training.passages import pack_passages

    count = pack_passages(tasks.load("train"), trees, out, seed)
    typer.echo(f"{count} questions in {out}")


@bundled.command("sft-reader")
def sft_reader(
    pack: Annotated[Path, typer.Option("--pack", metavar="FILE", help="What `passages` wrote.")],
    out: OutFile,
    minutes: MinutesOption = 60,
    epochs: Annotated[float, typer.Option("--epochs")] = 2.0,
    first_layer: Annotated[
        int, typer.Option("--first-layer", min=0, help="Layers below it have no adapter.")
    ] = 14,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Questions of an update.")] = 4,
    learning_rate: Annotated[float, typer.Option("--learning-rate", min=0)] = 2e-4,
    start: Annotated[
        Path | None, typer.Option("--start", metavar="DIR", help="Reader that the run continues from.")
    ] = None,
    bf16: Annotated[bool, typer.Option("--bf16/--no-bf16", help="Half precision in products.")] = True,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    device: Annotated[str, typer.Option("--device")] = "cpu",
    threads: ThreadsOption = None,
) -> None:
    """Supervised fine-tuning of the bundled reader; resumes in --out."""
    import torch

    from training import sft_reader as sft

    if threads:
        torch.set_num_threads(threads)
    settings = sft.Settings(
        pack=str(pack), minutes=minutes, epochs=epochs, first_layer=first_layer, bf16=bf16, seed=seed,
        batch=batch, learning_rate=learning_rate, start=str(start or ""),
    )  # fmt: skip
    sft.train(settings, out, device)


@bundled.command()
def reading(
    reader: Annotated[Path, typer.Option("--reader", metavar="DIR", help="Checkpoint; written to.")],
    trees: TreesOption,
    policy: Annotated[str, typer.Option("--policy", help="The encoder that proposes.")] = "encoder",
    reflector: Annotated[str, typer.Option("--reflector", help="The reflector it plays with.")] = "bundled",
    files: Annotated[int, typer.Option("--files", min=2, help="Files read at a decision.")] = 10,
    passages: Annotated[int, typer.Option("--passages", min=1, help="Passages read of each.")] = 2,
    every: Annotated[int, typer.Option("--every", min=1, help="Use every Nth validation question.")] = 1,
    threads: ThreadsOption = None,
) -> None:
    """Fit what the reader's second reading counts for, and the confidence of both together."""
    import torch

    from repoagent.encoder import EncoderPolicy
    from repoagent.models import load_players
    from repoagent.reading import Reading
    from training import reading_fit, tasks

    if threads:
        torch.set_num_threads(threads)
    players = load_players(policy, reflector)
    if not isinstance(players[0], EncoderPolicy):
        raise InputError(f"{policy} is no encoder policy; name one that sft-policy wrote.")
    questions = tasks.load("validation")[every - 1 :: every]
    start = Reading(files=files, passages=passages)
    found = reading_fit.run(*players, reader, questions, trees, typer.echo, start)
    for name, value in found.items():
        typer.echo(f"{name}: {value}")


@bundled.command("sft-reflector")
def sft_reflector(
    pack: PackOption,
    out: OutFile,
    minutes: MinutesOption = 40,
    epochs: Annotated[float, typer.Option("--epochs")] = 4.0,
    validation: Annotated[Path | None, typer.Option("--validation", metavar="FILE")] = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    device: Annotated[str, typer.Option("--device")] = "cpu",
    threads: ThreadsOption = None,
) -> None:
    """Supervised fine-tuning of the bundled reflector, from scratch; resumes in --out."""
    import torch

    from training import sft_reflector as sft

    if threads:
        torch.set_num_threads(threads)
    settings = sft.Settings(
        pack=tuple(map(str, pack)),
        validation=str(validation or ""),
        minutes=minutes,
        epochs=epochs,
        seed=seed,
    )
    sft.train(settings, out, device)


@bundled.command()
def reflect(
    pack: Annotated[Path, typer.Option("--pack", metavar="FILE", help="Packed decisions.")],
    out: OutFile,
    reflector: Annotated[Path, typer.Option("--reflector", metavar="DIR", help="Checkpoint.")],
    threads: ThreadsOption = None,
) -> None:
    """Add to a pack what the trained reflector writes on every decision."""
    import torch

    from repoagent.writer import WriterReflector
    from training.sft_reflector import add_reflections

    if threads:
        torch.set_num_threads(threads)
    count = add_reflections(pack, WriterReflector.from_folder(reflector), out)
    typer.echo(f"{count} reflections in {out}")


@app.command()
def plot(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of training runs.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.png", help="Instead of curves.png in the first RUN.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", metavar="M", help="Only this one, such as entropy.")
    ] = None,
) -> None:
    """Draw the learning curves of one run, or of several to compare them, as PNG."""
    from training.plot import plot_run

    out = out or runs[0] / "curves.png"
    plot_run(runs, out, metric=metric)
    typer.echo(out)


@app.command()
def datasheet() -> None:
    """Print the counts of the datasheet (training/data/README.md) from the data."""
    from training import second_reader, tasks

    typer.echo(tasks.counts() + "\n\n" + second_reader.table(second_reader.load()))
