"""The frame of every command: found by name, loaded when called, errors told in one plain sentence."""

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import click

from receiver.core.errors import LedgerBroken, LedgerDamaged, OutkeepError

# Name, what it does in a few words. `receiver.cli.commands.NAME` is loaded only when the command is called.
COMMANDS: dict[str, str] = {
    "demo": "See the whole job done on made-up predictions.",
    "serve": "Run the service: web and worker.",
    "work": "Run one more worker beside a service.",
    "predict": "Create a prediction through a running service.",
    "show": "Show what is known of one prediction.",
    "list": "List predictions, newest first.",
    "deliveries": "List the calls that came, or show one.",
    "replay": "Have deliveries verified or read again.",
    "rescue": "Save what may still be had.",
    "events": "Print the event feed, one CloudEvent a line.",
    "sandbox": "Run the stand-in for Replicate alone.",
    "check": "Look whether everything is set up right.",
    "migrate": "Bring the ledger's schema up to date.",
}

FAILED = 1
WRONG_USAGE = 2
START_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: only a new process can go on, and its supervisor should start one
INTERRUPTED = 128 + signal.SIGINT  # as shells tell it
TERMINATED = 128 + signal.SIGTERM
PIPE_CLOSED = 128 + signal.SIGPIPE

_EXAMPLES = """
\b
Examples:
  outkeep demo                  the whole job, no account needed
  outkeep check                 is everything set up right?
  outkeep serve                 the service for real
  outkeep COMMAND --help        more about one command
"""


class Failure(OutkeepError):
    """A command did not reach its end; the sentence says why and what to do."""

    ends_with = FAILED
    """The exit status of the command."""


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"receiver.cli.commands.{cmd_name}").run
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _show_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:  # noqa: FBT001 - click's
    if wanted:
        from importlib.metadata import version

        click.echo(f"outkeep {version('outkeep')}")
        ctx.exit()


def _debug() -> click.Option:
    # `run` looks for it among the arguments: an error may come before they are read.
    return click.Option(["--debug"], is_flag=True, expose_value=False, help="Show where an error comes from.")


def command(name: str, examples: Sequence[str], **attributes: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """A command with its examples at the end of its help. What its function returns is the exit status (None is 0)."""
    lines = "\n".join(f"  {example}" for example in examples)
    epilog = f"\b\nExample{'s' if len(examples) > 1 else ''}:\n{lines}"

    def decorate(function: Callable[..., Any]) -> click.Command:
        made = click.command(name, cls=click.Command, epilog=epilog, **attributes)(function)
        made.params.append(_debug())
        return made

    return decorate


@click.group(
    cls=_Lazy,
    epilog=_EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    no_args_is_help=False,
    invoke_without_command=True,
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
@click.pass_context
def outkeep(ctx: click.Context) -> None:
    """Outkeep keeps what Replicate makes."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


outkeep.params.append(_debug())


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script. Ends the process with one of the statuses above, 0 when all went well."""
    signal.signal(signal.SIGTERM, _terminated)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that can't show a character must not end the command
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def _terminated(_number: int, _frame: object) -> None:
    """End in good order: a progress display gives the terminal its cursor back. Services set their own handlers."""
    raise SystemExit(TERMINATED)


def run(arguments: Sequence[str]) -> int:
    """Run one command; errors go to standard error as one sentence. Gives the exit status."""
    try:
        with outkeep.make_context("outkeep", list(arguments)) as ctx:
            status = outkeep.invoke(ctx)
        sys.stdout.flush()
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.UsageError as error:
        return _wrong_usage(error)
    except BrokenPipeError:
        return _pipe_closed()
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last stop: nothing leaves as a traceback unless asked for
        return _failed(error, debug="--debug" in arguments)
    return status if isinstance(status, int) else 0


def _wrong_usage(error: click.UsageError) -> int:
    told = error.format_message().rstrip(".")
    path = error.ctx.command_path if error.ctx else "outkeep"
    click.echo(f"outkeep: {told} (see {path} --help).", err=True)
    return WRONG_USAGE


def _pipe_closed() -> int:
    """Whoever read us has read enough. What is still buffered must not complain at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return PIPE_CLOSED


def _failed(error: Exception, *, debug: bool) -> int:
    if debug:
        from receiver.core.redact import redact_text

        click.echo(redact_text("".join(traceback.format_exception(error))), err=True, nl=False)
    click.echo(f"outkeep: {sentence(error)}", err=True)
    return status_of(error)


def status_of(error: BaseException) -> int:
    """What a command ends with that ends with this error."""
    if isinstance(error, Failure):
        return error.ends_with
    return START_AGAIN if isinstance(error, LedgerBroken) and not isinstance(error, LedgerDamaged) else FAILED


def sentence(error: BaseException) -> str:
    """One plain sentence for people, without secrets: ours as raised, foreign ones by what they are."""
    from receiver.cli.showing import plain
    from storage.errors import StorageError

    if isinstance(error, BaseExceptionGroup):
        return sentence(error.exceptions[0])
    if isinstance(error, OutkeepError | StorageError):
        told = str(error)
    elif isinstance(error, click.ClickException):
        told = error.format_message()
    elif isinstance(error, OSError) and error.strerror:
        where = f" ({error.filename})" if error.filename is not None else ""
        told = f"The system said no: {error.strerror}{where}."
    else:
        told = f"Something went wrong that should not ({type(error).__name__}); --debug shows where."
    told = " ".join(plain(told).split())
    return told if told.endswith((".", "!", "?", "…")) else f"{told}."
