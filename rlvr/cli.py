"""The command line. Commands import what they need, so that `rlvr --help` and recipe errors are fast."""

import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from rlvr.commands.audit_command import audit_verifier
from rlvr.commands.cluster.app import cluster_app
from rlvr.commands.import_config.arguments import import_config
from rlvr.commands.listings import recipes_app, sandboxes_app, verifiers_app
from rlvr.errors import ConfigError, RlvrError
from rlvr.run.record.resume_choice import AllowChangedInputs, Checkpoint, resume_choice

app = typer.Typer(
    name="rlvr",
    help="Reinforcement learning with verifiable rewards.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cluster_app, name="cluster")
app.add_typer(recipes_app, name="recipes")
app.add_typer(verifiers_app, name="verifiers")
app.add_typer(sandboxes_app, name="sandboxes")
app.command("audit")(audit_verifier)
app.command("import")(import_config)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        from rlvr import __version__

        print(f"rlvr {__version__}")
        raise typer.Exit


@app.callback()
def rlvr(
    is_version: Annotated[
        bool, typer.Option("--version", help="print the version and exit", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Reinforcement learning with verifiable rewards."""


Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="override any key of the recipe")]


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="a recipe's name or file")],
    overrides: Overrides = None,
    run_dir: Annotated[Path | None, typer.Option(help="the folder for the run's files")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue from the newest intact checkpoint")] = False,
    checkpoint: Checkpoint = "",
    allow_changed_inputs: AllowChangedInputs = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="only check what needs no weights, and show prompts")
    ] = False,
) -> None:
    """Train a policy with a recipe."""
    from rlvr.commands.train import require_backend, train_with
    from rlvr.config.load import load_recipe
    from rlvr.run.record.console import Console

    choice = resume_choice(resume, checkpoint, allow_changed_inputs)
    loaded = load_recipe(recipe, overrides or [])
    require_backend(loaded.recipe)
    console = Console(is_steady=not dry_run)
    if dry_run:
        from rlvr.commands.dry_run import show_dry_run
        from rlvr.run.record.directory import check_directory

        check_directory(run_dir, resume=resume)
        show_dry_run(loaded.recipe, console)
        return
    from rlvr.run.launch.preflight import opened
    from rlvr.run.launch.prompt_check import check_prompts
    from rlvr.run.launch.request import RunRequest
    from rlvr.run.launch.unstarted import UnstartedRun
    from rlvr.run.record.directory import locked_directory

    with ExitStack() as stack:
        stack.callback(console.activity.end)
        console.activity.begin("checking plugins, data and references")
        # problems are raised here, before a folder is created
        service, data = stack.enter_context(opened(loaded.recipe))
        check_prompts(loaded.recipe, data, tell=console.note)
        unstarted = stack.enter_context(UnstartedRun(run_dir))
        locked = locked_directory(run_dir, recipe_name=loaded.recipe.name, resume=resume)
        directory = stack.enter_context(locked)
        if not resume:
            unstarted.made(directory)
        console.activity.begin("loading libraries")
        from rlvr.report.page import reported

        stack.enter_context(reported(directory.path, note=console.note))
        train_with(
            RunRequest(
                loaded=loaded,
                service=service,
                data=data,
                directory=directory,
                console=console,
                resume=choice if resume else None,
            )
        )


@app.command()
def check(
    recipe: Annotated[str, typer.Argument(help="a recipe's name or file")],
    overrides: Overrides = None,
    gpus: Annotated[
        str,
        typer.Option(
            metavar="NODESxGPUSxMEMORY",
            help="plan for a cluster instead of this machine: 2x8x80GB is two nodes with 8 GPUs of 80 GB each",
        ),
    ] = "",
) -> None:
    """Check a recipe, and estimate its memory and time on this machine or a cluster; no weights are loaded."""
    from rlvr.config.load import load_recipe
    from rlvr.planner.hardware import parse_hardware

    hardware = parse_hardware(gpus) if gpus else None
    loaded = load_recipe(recipe, overrides or [])
    from rlvr.commands.check import check_recipe
    from rlvr.run.record.console import Console

    report = check_recipe(loaded.recipe, hardware=hardware)
    console = Console()
    for title, rows in report.tables:
        console.table(title, rows)
    for text in report.warnings:
        console.note(f"warning: {text}")


@app.command("eval")
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL_OR_RUN", help="a model path, a run directory or a checkpoint")],
    overrides: Overrides = None,
    recipe: Annotated[str | None, typer.Option(help="the recipe for data and sampling")] = None,
    prompts: Annotated[str | None, typer.Option(help="a source to evaluate on instead of data.eval")] = None,
    samples_per_prompt: Annotated[int, typer.Option(min=1, help="1 = greedy pass@1; more are sampled")] = 1,
    output: Annotated[Path | None, typer.Option(help="write every rollout to this JSON Lines file")] = None,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="generate with an OpenAI-compatible server (vLLM, SGLang, ...), http://HOST:PORT/v1; MODEL_OR_RUN "
            "then only gives tokenizer and limits",
        ),
    ] = None,
    server_model: Annotated[
        str, typer.Option(metavar="NAME", help="the model's name on the server, if it has several")
    ] = "",
    server_key_env: Annotated[
        str, typer.Option(metavar="VARIABLE", help="the environment variable with the server's key")
    ] = "",
    server_requests: Annotated[int, typer.Option(min=1, help="number of concurrent requests to the server")] = 64,
) -> None:
    """Evaluate a model: pass@1 greedy, or pass@k, avg@k and maj@k, with confidence intervals."""
    from rlvr.commands.evaluate import evaluate_model
    from rlvr.commands.evaluate_server import server_choice
    from rlvr.run.record.console import Console

    console = Console()
    try:
        rows = evaluate_model(
            model,
            recipe=recipe,
            prompts=prompts,
            overrides=overrides or [],
            samples_per_prompt=samples_per_prompt,
            output=output,
            server=server_choice(server, model=server_model, key_env=server_key_env, max_open=server_requests),
            activity=console.activity,
        )
    finally:
        console.activity.end()
    console.table(f"{model}", rows)


@app.command()
def export(
    run: Annotated[str, typer.Argument(metavar="RUN_OR_CHECKPOINT", help="a run directory or one of its checkpoints")],
    output: Annotated[Path, typer.Option(help="the folder to write; it must not exist, or be empty")],
    only_adapters: Annotated[
        bool, typer.Option("--adapters", help="only the adapters of a LoRA run, for peft; else they are merged")
    ] = False,
) -> None:
    """Write a run's newest checkpoint as a folder that transformers and vLLM load."""
    from rlvr.commands.export import export_model
    from rlvr.run.record.console import Console

    Console().table(f"{output}", export_model(run, output, only_adapters=only_adapters))


@app.command()
def verify(
    verifier: Annotated[str, typer.Argument(help="a verifier's name, package.module:attribute or file.py:attribute")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="the verifier's settings")
    ] = None,
    input_: Annotated[Path | None, typer.Option("--input", help="JSON Lines with completion, reference, id")] = None,
    output: Annotated[Path | None, typer.Option("--output", help="JSON Lines of verdicts, in the same order")] = None,
    label_column: Annotated[
        str, typer.Option(help="the column with the right verdict (pass or fail), to measure how far verdicts agree")
    ] = "",
    workers: Annotated[int, typer.Option(min=1, help="worker processes")] = 2,
    deadline_s: Annotated[float, typer.Option(min=0.01, help="seconds allowed for one item")] = 5.0,
    sandbox: Annotated[str, typer.Option(help="the sandbox for verifiers that run programs")] = "auto",
    sandbox_setting: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="a setting of the sandbox; repeatable")
    ] = None,
    is_explained: Annotated[bool, typer.Option("--explain", help="explain how one pair was judged")] = False,
    completion: Annotated[str | None, typer.Option(help="with --explain: the pair's text")] = None,
    reference: Annotated[str | None, typer.Option(help="with --explain: the pair's reference")] = None,
    question: Annotated[str, typer.Option("--prompt", help="with --explain: the question")] = "",
    has_steps: Annotated[
        bool, typer.Option("--steps", help="with --explain: score each line too, if the verifier has `verify_steps`")
    ] = False,
    is_jailed: Annotated[
        bool,
        typer.Option("--jailed", help="run the verifier inside the sandbox's jail, for code that you do not trust"),
    ] = False,
    python: Annotated[str, typer.Option(help="with --jailed: the path of another interpreter")] = "",
) -> None:
    """Judge stored completions offline, or explain one verdict. Exit code 1 when a row could not be judged."""
    from rlvr.commands.verify_file import explain, given_pair, verify_file
    from rlvr.config.document.overrides import parse_settings
    from rlvr.records import Status
    from rlvr.run.record.console import Console

    where = sandbox, parse_settings(sandbox_setting or [])
    if is_explained:
        pair = given_pair(completion, reference, question, input_)
        verdict, rows = explain(
            verifier,
            completion=pair[0],
            reference=pair[1],
            question=pair[2],
            settings=parse_settings(settings or []),
            deadline_s=deadline_s,
            sandbox=where,
            has_steps=has_steps,
            is_jailed=is_jailed,
            python=python,
        )
        Console().table(f"{verifier} on one pair", rows)
        if verdict.status is Status.ERROR:
            raise typer.Exit(1)
        return
    if input_ is None or output is None:
        raise ConfigError(
            "rlvr verify needs --input FILE and --output FILE; for one pair: rlvr verify "
            f"{verifier} --explain --completion TEXT --reference TEXT"
        )
    outcome = verify_file(
        verifier,
        input_,
        output,
        settings=parse_settings(settings or []),
        workers=workers,
        deadline_s=deadline_s,
        sandbox=where,
        is_jailed=is_jailed,
        python=python,
        label_column=label_column,
    )
    console = Console()
    console.table(f"verdicts in {output}", outcome.rows)
    if outcome.traceback:
        console.note(f"the first error's traceback:\n{outcome.traceback.rstrip()}")
    if outcome.had_errors:
        raise typer.Exit(1)


@app.command()
def doctor() -> None:
    """Show what works on this machine, and how to fix what does not."""
    from rlvr.commands.doctor import examine
    from rlvr.run.record.console import Console

    findings = examine()
    Console().table("this machine", [(f.name, ("ok " if f.is_ok else "-- ") + f.value, f.fix) for f in findings])
    if any(not f.is_ok and f.is_required for f in findings):
        raise typer.Exit(1)


@app.command()
def report(run_dir: Annotated[Path, typer.Argument(help="a run directory, finished or not")]) -> None:
    """Write one HTML page of a run: curves, rollouts, verdicts, alarms."""
    from rlvr.report.page import write_report

    print(write_report(run_dir))


@app.command()
def runs(folder: Annotated[Path, typer.Argument(help="the folder with the runs, or one run")] = Path("runs")) -> None:
    """List runs, the latest first: whether each is running, done or stopped, its progress and latest results."""
    from rlvr.commands.runs import list_runs
    from rlvr.run.record.console import Console

    found = list_runs(folder)
    Console().table(f"{len(found)} run{'' if len(found) == 1 else 's'} in {folder}", [run.row for run in found])


# The parser's base class of usage errors; typer exports only this subclass.
USAGE_ERROR: type[BaseException] = typer.BadParameter.__bases__[0]


def main() -> NoReturn:
    """The entry point.

    Exit codes: 0 done; 1 failed; 2 invalid arguments, recipe or data; 75 the cluster's head is gone (resume when it is
    back); 130 interrupted; 141 the reader of the output has gone (SIGPIPE).
    """
    from rlvr.run.launch.process import configure_logging, prepare_process
    from rlvr.run.record.stdout import written

    prepare_process()
    configure_logging()
    # For `my_package.my_module:check`; last, so that a math.py there does not replace the standard library's.
    sys.path.append(str(Path.cwd()))
    raise SystemExit(written(_exit_code))


def _exit_code() -> int:
    from rlvr.run.record.stdout import tell

    try:
        return app(standalone_mode=False) or 0  # the code of a command's typer.Exit, else None
    except RlvrError as error:
        tell(f"rlvr: {error}")
        return error.exit_code
    except USAGE_ERROR as error:
        with suppress(OSError):  # standard error may be full or closed too
            error.show()  # type: ignore[attr-defined] # every usage error of the parser has it
        option = str(getattr(error, "option_name", ""))
        if "." in option:
            tell(f"rlvr: keys of a recipe are written without dashes: {option.lstrip('-')}=VALUE")
        return 2
    except typer.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        tell("rlvr: interrupted")
        return 130


if __name__ == "__main__":
    main()
