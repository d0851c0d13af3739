"""The command line. Everything heavy is imported inside the command that needs it.

Exit codes: 0 answered, 1 no confident answer, 2 wrong usage or unreadable input, 3 a model is
missing or broken, 130 interrupted.
"""

from __future__ import annotations

import sys

try:
    from enum import StrEnum
    from pathlib import Path
    from typing import TYPE_CHECKING, Annotated, Any, NoReturn

    import typer

    from repoagent import __version__, config, history
    from repoagent.errors import InputError
    from repoagent.program import COMPLETE, raise_interrupts, run
except KeyboardInterrupt:  # these imports take long enough to be interrupted
    sys.exit(130)

if TYPE_CHECKING:
    from benchmarks.autoexplore.evaluate import System

app = typer.Typer(
    name="repoagent",
    help="Ask a repository where something is: a small local model walks the tree and answers with file "
    "and lines.",
    epilog="Exit codes: 0 answered, 1 no confident answer, 2 wrong usage or unreadable input, 3 model "
    "missing or broken, 130 interrupted.",
    invoke_without_command=True,
    add_completion=False,
    # rich's help would take as long to import as everything else together, and reads markup.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
bench = typer.Typer(help="Benchmarks: every system on the same tasks, in one table.", no_args_is_help=True)
app.add_typer(bench, name="bench")
app.add_typer(config.app, name="config")
app.add_typer(history.app, name="sessions")

PolicyOption = Annotated[
    str,
    typer.Option(
        "--policy",
        metavar="P",
        help="auto (the model tuned for the repository, else bundled), bundled, encoder, random, a folder, "
        "a hub id or openai:BASE_URL#MODEL.",
    ),
]
ReflectorOption = Annotated[
    str,
    typer.Option(
        "--reflector", metavar="R", help="bundled, none, a folder, a hub id or openai:BASE_URL#MODEL."
    ),
]
ReflectOption = Annotated[
    bool, typer.Option("--reflect/--no-reflect", help="Whether to reflect before each decision.")
]
NoReflectOption = Annotated[bool, typer.Option("--no-reflect", help="Decide without reflections.")]
StepsOption = Annotated[
    int, typer.Option("--steps", metavar="N", min=1, help="Actions before the model must have answered.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
TasksArgument = Annotated[
    list[Path], typer.Argument(metavar="TASKS...", help="Files of tasks, or directories of *.jsonl.")
]
TreesOption = Annotated[
    Path, typer.Option("--trees", metavar="DIR", help="Where the tree of owner/name is DIR/owner__name.")
]
KeptOption = Annotated[int, typer.Option("--top", metavar="K", min=1, help="Answers kept per question.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of the agent and of the bootstrap.")]
SeedsOption = Annotated[int, typer.Option("--seeds", min=1, help="Training seeds, from 0.")]
JobsOption = Annotated[int, typer.Option("--jobs", min=1, help="Runs side by side, one thread each.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PART.KEY=VALUE", help="Change the recipe of all rows."),
]
OutputOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--output",
        metavar="FILE",
        help="Also write the table, and how it was made, to FILE.md or FILE.json; may be repeated.",
    ),
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"repoagent {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of repoagent itself; without a command it explores where it is, or says what there is."""
    name = context.invoked_subcommand
    if name:
        context.default_map = {name: config.defaults(name)}
    elif sys.stdin.isatty() and sys.stdout.isatty():
        explore(**config.defaults("explore"))
    else:
        print(context.get_help())


# -- ask ---------------------------------------------------------------------------------------


@app.command()
def ask(
    question: Annotated[
        str, typer.Argument(metavar="QUESTION", help="What you want to find, in your own words.")
    ],
    repos: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="REPO", help="Directories, .zip or .tar.gz; several are asked in turn. [default: .]"
        ),
    ] = None,
    as_json: JsonOption = False,
    top: Annotated[int, typer.Option("--top", metavar="K", min=1, help="Answers to print.")] = 5,
    steps: StepsOption = 8,
    reflect: ReflectOption = True,
    policy: PolicyOption = "auto",
    reflector: ReflectorOption = "bundled",
    context: Annotated[
        str | None,
        typer.Option(
            "--context",
            metavar="FILE",
            help="A diff, a traceback or another text that the question is about; - is standard input. "
            "[default: what is piped in]",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Nothing on stderr but errors.")] = False,
) -> None:
    """Answer QUESTION about each REPO with a file and its lines.

    The answer goes to stdout; what the model thinks and does on the way goes to stderr.

    What is piped in is what the question is about: git diff | repoagent ask "which test covers this?"
    """
    from rich.console import Console

    from repoagent import show
    from repoagent.assistant import Assistant, merged
    from repoagent.context import piped, read

    text = piped if context is None else read(context)
    assistant = Assistant(policy, reflector)
    names = list(dict.fromkeys(repos or ["."]))
    with show.Trail(Console(stderr=True, quiet=quiet, highlight=False)) as trail:
        found = assistant.ask_each(
            question, names, top=top, steps=steps, reflect=reflect, context=text, watch=trail.show
        )
    best = merged(found, top)
    show.write_found(sys.stdout, found, best, as_json)
    sys.stdout.flush()
    if best and best[0][0].confident:
        return
    if not quiet:
        note = "the best guesses are above" if best else "there is nothing to open"
        print(f"repoagent: no confident answer; {note}.", file=sys.stderr)
    raise typer.Exit(1)


@app.command()
def explore(
    repo: Annotated[
        str | None,
        typer.Argument(help="A directory, .zip or .tar.gz. [default: ., or that of the session]"),
    ] = None,
    steps: StepsOption = 8,
    reflect: ReflectOption = True,
    policy: PolicyOption = "auto",
    reflector: ReflectorOption = "bundled",
    session: Annotated[
        str | None,
        typer.Option("--session", metavar="ID", help="Go on with a saved session; last is the newest."),
    ] = None,
) -> None:
    """Ask in a terminal interface and watch the model walk.

    Bare `repoagent` in a terminal does the same here.
    """
    from repoagent.repo import Repo
    from repoagent.session import load

    saved = load(session) if session else None
    repo = repo or (saved.repo if saved else ".")
    Repo.open(repo)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InputError("explore needs a terminal; use `repoagent ask` in scripts and pipes.")
    from repoagent import tui

    raise_interrupts()
    raise typer.Exit(tui.run(repo, policy, reflector if reflect else "none", steps, saved))


@app.command("mcp")
def serve_mcp(
    roots: Annotated[
        list[str] | None,
        typer.Option(
            "--root",
            metavar="DIR",
            help="What may be read; may be repeated. [default: the client's roots, else here]",
        ),
    ] = None,
    reflect: ReflectOption = True,
    policy: PolicyOption = "auto",
    reflector: ReflectorOption = "bundled",
) -> None:
    """Serve `find` and `explore` to other programs, over the Model Context Protocol on stdin and stdout."""
    try:
        from repoagent.mcp_server import serve
    except ImportError as error:
        raise InputError(
            f"serving needs the package mcp ({error}); run: pip install 'repoagent[mcp]'."
        ) from error
    from repoagent.assistant import Assistant

    serve(roots or [], Assistant(policy, reflector), reflect)


# -- eval and bench ----------------------------------------------------------------------------


@app.command("eval")
def evaluate(
    tasks: TasksArgument,
    trees: TreesOption,
    as_json: JsonOption = False,
    top: KeptOption = 10,
    steps: StepsOption = 8,
    no_reflect: NoReflectOption = False,
    policy: PolicyOption = "bundled",
    reflector: ReflectorOption = "bundled",
    baseline: Annotated[
        str | None, typer.Option(metavar="NAME", help="Measure this instead of the agent: bm25, ...")
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Measure this baseline too and compare; may be repeated."),
    ] = None,
    every: Annotated[
        int, typer.Option(metavar="N", min=1, help="Use every Nth question alone: sooner, less certain.")
    ] = 1,
    seed: SeedOption = 0,
    output: OutputOption = None,
) -> None:
    """Measure the agent, or a baseline, on questions with known answers.

    Each line of a task file is a JSON object with id, repo ("owner/name"), question, gold (paths)
    and span ([first, last] line of the first gold file, or null).
    """
    from benchmarks.autoexplore import command
    from benchmarks.autoexplore import evaluate as evaluation

    questions, found, chosen = command.prepare(tasks, trees, output, every)
    systems: dict[str, System] = {}
    settings: dict[str, Any] = {"top": top} | ({"every": every} if every > 1 else {})
    for name in [*filter(None, [baseline]), *(compare or [])]:
        systems[name] = evaluation.baseline(name, top)
    if baseline is None:
        agent, described = command.agent(policy, "none" if no_reflect else reflector, steps, top, seed)
        systems = {"repoagent": agent} | systems
        settings |= described
    command.measure(systems, questions, found, settings, seed, chosen, as_json)


@bench.command("autoexplore")
def bench_autoexplore(
    tasks: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[TASKS...]", help="Files of tasks, or directories of *.jsonl."),
    ] = None,
    trees: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the tree of owner/name is DIR/owner__name.")
    ] = None,
    as_json: JsonOption = False,
    top: KeptOption = 10,
    steps: StepsOption = 8,
    policy: PolicyOption = "bundled",
    reflector: ReflectorOption = "bundled",
    embeddings: Annotated[
        bool, typer.Option(help="Also embed every chunk with MiniLM: minutes for each repository.")
    ] = True,
    seed: SeedOption = 0,
    preset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Instead of TASKS: recipe autoexplore-NAME, or a .toml file."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="With --preset: folder of the runs; goes on there.")
    ] = Path("runs/autoexplore"),
    seeds: SeedsOption = 3,
    jobs: JobsOption = 2,
    changes: SetOption = None,
    output: OutputOption = None,
) -> None:
    """The agent with and without reflection, a random walk and what people use instead, on the same TASKS.

    That is keyword search, BM25 over files and over chunks, and embeddings of chunks. With --preset, every
    row and ablation of the paper's table on its own form of the benchmark, trained from scratch.
    """
    from benchmarks.autoexplore import command

    if bool(tasks) == (preset is not None):
        raise InputError("give either TASKS, to measure the agent, or --preset, to train the paper's table.")
    if preset is not None:
        return command.train_table(preset, trees, out, seeds, jobs, changes or [], output or [])
    command.compare(tasks or [], trees, policy, reflector, steps, top, seed, embeddings, output, as_json)


@bench.command("speed")
def bench_speed(
    sizes: Annotated[list[int] | None, typer.Option("--files", min=1, help="Repository sizes.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="Processes per size; medians are reported.")] = 3,
    training: Annotated[bool, typer.Option("--training", help="Of training instead of ask.")] = False,
    figures: Annotated[Path | None, typer.Option("--reference-figures", help="With --training.")] = None,
    seed: SeedOption = 0,
    output: OutputOption = None,
) -> None:
    """Wall time and memory of `ask` as repositories grow; or CPU time of training beside the paper's code."""
    from benchmarks import speed
    from benchmarks.table import check_output, provenance, write

    if training:
        from benchmarks import reference

        return reference.bench(reference.Setup(seed=seed), figures, output or [])
    for file in output or []:
        check_output(file)
    timings = speed.run(sizes or [100, 1000, 10_000], runs, seed, lambda m: print(m, file=sys.stderr))
    print(body := speed.report(timings), end="")
    for file in output or []:
        made = provenance({"runs": runs}, seed)
        write(file, "Speed of ask", made, body, speed.as_data(timings))


@bench.command("taxi")
def bench_taxi(
    preset: Annotated[
        str, typer.Option(metavar="NAME", help="Recipe taxi-NAME that comes along, or a .toml file.")
    ] = "tiny",
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder of the runs; goes on where it was stopped.")
    ] = Path("runs/taxi"),
    seeds: SeedsOption = 3,
    jobs: JobsOption = 2,
    prompted: Annotated[
        list[str] | None,
        typer.Option(metavar="openai:BASE_URL#MODEL", help="Also a prompted model; may be repeated."),
    ] = None,
    saycan: Annotated[bool, typer.Option(help="Compare with SayCan's scoring of actions.")] = True,
    changes: SetOption = None,
    output: OutputOption = None,
) -> None:
    """Every row and ablation of the paper's table on DangerousTaxi, trained from scratch."""
    from benchmarks.taxi import bench as taxi

    taxi.run(preset, out, seeds, jobs, prompted or [], saycan, changes or [], output or [])


@bench.command("alfworld")
def bench_alfworld(
    preset: Annotated[
        str, typer.Option(metavar="NAME", help="Recipe alfworld-NAME that comes along, or a .toml file.")
    ] = "small",
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder of the runs; goes on where it was stopped.")
    ] = Path("runs/alfworld"),
    seeds: SeedsOption = 3,
    jobs: JobsOption = 2,
    prompted: Annotated[
        list[str] | None,
        typer.Option(metavar="openai:BASE_URL#MODEL", help="Also a prompted model; may be repeated."),
    ] = None,
    changes: SetOption = None,
    output: OutputOption = None,
) -> None:
    """Every row of the paper's table on ALFWorld, trained from scratch; ALFWORLD_DATA names the games."""
    from benchmarks.alfworld import bench as alfworld

    alfworld.run(preset, out, seeds, jobs, prompted or [], changes or [], output or [])


@bench.command("steps")
def bench_steps(
    presets: Annotated[
        list[str] | None,
        typer.Option("--preset", metavar="NAME", help="Recipe; may be repeated. [default: all]"),
    ] = None,
    scale: Annotated[
        str, typer.Option(metavar="full|tiny", help="The published sizes, or a fraction.")
    ] = "full",
    layers: Annotated[int | None, typer.Option(min=1, help="Only so many layers.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. [default: the GPU if any]")] = None,
    quantization: Annotated[
        str, typer.Option(metavar="keep|none", help="The recipe's quantization, or none.")
    ] = "keep",
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to keep models and logs in.")
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="PART.KEY=VALUE", help="Change the recipes.")
    ] = None,
    output: OutputOption = None,
) -> None:
    """Seconds and memory of one training step of every stage, on random weights of published sizes."""
    from benchmarks import steps

    steps.run(presets or [], out, device, scale, layers, quantization, changes or [], output or [])


# -- models and doctor -------------------------------------------------------------------------


@app.command()
def models(
    forget: Annotated[
        str | None,
        typer.Option("--forget", metavar="PATH", help="Remove the model tuned for this repository."),
    ] = None,
) -> None:
    """List the models that --policy and --reflector can name, and those tuned for a repository."""
    if forget is not None:
        from repoagent import tuned

        print(f"removed {tuned.forget(forget)}")
        return
    from repoagent.doctor import list_models

    raise typer.Exit(list_models(sys.stdout))


@app.command()
def doctor() -> None:
    """Say what is installed, which device and models there are, and what to do about what is missing."""
    from repoagent.doctor import examine

    raise typer.Exit(examine(sys.stdout))


class Shell(StrEnum):
    """A shell that completes commands."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


@app.command()
def completion(shell: Annotated[Shell, typer.Argument(help="The shell that the script is for.")]) -> None:
    """Print a script that completes commands and options, for SHELL to source."""
    from typer._completion_shared import get_completion_script

    print(get_completion_script(prog_name="repoagent", complete_var=COMPLETE, shell=shell.value))


# -- train -------------------------------------------------------------------------------------


@app.command(
    context_settings={
        "ignore_unknown_options": True,
        "allow_extra_args": True,
        "allow_interspersed_args": False,
        "help_option_names": [],
    }
)
def train(context: typer.Context) -> None:
    """Tune the policy for a repository, or train the players anew (see repoagent train --help)."""
    try:
        from training.cli import app as training
    except ModuleNotFoundError as error:
        raise InputError(
            f"training needs {error.name}, which is not installed; run: pip install 'repoagent[train]'."
        ) from error
    raise_interrupts()
    raise typer.Exit(training(args=context.args, prog_name="repoagent train", standalone_mode=False) or 0)


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    run(app)
