"""The command line's front door: which commands there are, and how every refusal leaves it."""

import importlib
import os
import sys
import traceback
from pathlib import Path
from typing import Final, NoReturn

import click

import engine
from engine.errors import EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_OK, EngineError, StorageError

COMMANDS: Final = {
    "stress": ("engine.cli.stress", "Stress the books under scenarios and print what they lose."),
    "reverse-stress": ("engine.cli.reverse_stress", "Find the most plausible shock that costs each book a given loss."),
    "hedge": ("engine.cli.hedge", "Find the fewest or cheapest trades that bring a stress loss inside its budget."),
    "scenarios": ("engine.cli.scenarios", "List, show, check and compare scenarios; ask what other economics do."),
    "rebalance": ("engine.cli.rebalance", "Bring books inside their limits at the least cost, each answer certified."),
    "frontier": ("engine.cli.frontier", "Sweep a stress budget and show what each width of it would cost a book."),
    "explain": ("engine.cli.explain", "Tell one book's rebalance as a story, or why one name trades."),
    "mandates": ("engine.cli.mandates", "Check mandates, show what they allow, print their schema."),
    "calibrate": ("engine.cli.calibrate", "Turn prices into the risk model of a universe."),
    "tiers": ("engine.cli.tiers", "Show the curve: where its tiers lie, and who behaves like them."),
    "validate": ("engine.cli.validate", "Check the model's one-day-ahead risk on fixed books, day by day."),
    "nowcast": ("engine.cli.nowcast", "Estimate from a few prints what every book has lost so far."),
    "backtest": ("engine.cli.backtest", "Score the model of the day before an event on the event."),
}
"""Commands in the order a new user meets them: module and one line of help."""


class LazyGroup(click.Group):
    """Lists commands without importing them; imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of ``COMMANDS``."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of one command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table above."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, words) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Refuse an unknown command with a suggestion."""
        from engine.documents import suggestion  # pydantic is not needed for --help

        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"no command {args[0]!r}{suggestion(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(engine.__version__, prog_name="engine")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Stress and rebalance portfolios along the AI risk curve."""
    if ctx.invoked_subcommand is None:
        click.echo(
            "engine: what a DeepSeek day costs each book, and how to bring it inside its limits.\n\n"
            "Start here, no options needed:\n"
            "  engine stress       what the bundled books lose under the scenario deepseek\n"
            "  engine rebalance    the trades that keep every limit, each answer certified\n\n"
            "All commands: engine --help"
        )


def main() -> NoReturn:
    """Run the command line; every way out has its exit code and no traceback."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """The exit code of one call; messages have gone to stderr."""
    try:
        code = cli.main(args=arguments, prog_name="engine", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader of stdout has left; point it at nothing so that Python's exit is quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except SystemExit:
        # click's own way out where the reader of stdout or stderr has left.
        return EXIT_OK
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted")
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001  the one boundary: no traceback reaches a user
        return _refusal(error)
    return code if isinstance(code, int) else EXIT_OK


def _refusal(error: Exception) -> int:
    """Say why on stderr and give the exit code of the refusal."""
    match error:
        case EngineError():
            _say(str(error))
            return error.exit_code
        case click.ClickException():
            error.show()
            return error.exit_code
        case OSError():
            _say(f"cannot write the result: {error.strerror or error}")
            return StorageError.exit_code
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(frame.filename).name}:{frame.lineno}"
    _say(f"internal error, please report it: {type(error).__name__}: {error} ({place})")
    return EXIT_INTERNAL


def _say(message: str) -> None:
    click.echo(f"engine: {message}", err=True)
