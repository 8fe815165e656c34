"""Command line: which commands there are, and what becomes of an error.  Answers ``--help`` without importing torch."""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any

import click

from hasten import __version__
from hasten.commands import measure, optimize, sample, train
from hasten.errors import HastenError
from hasten.files import why
from hasten.report import terminal

MOST_SHOWN = 1000  # characters of a message
NO_MEMORY = re.compile("can't allocate memory|out of memory|bad_alloc")  # as torch and engines say it


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
@click.option("--debug", is_flag=True, help="Show a traceback when something fails.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """Make diffusion models fast, small and stable, and prove that they still make the same pictures."""
    context.obj = debug


for command in (
    optimize.demo, optimize.optimize, measure.compare, measure.profile, sample.sample, optimize.verify, optimize.apply,
    measure.history, measure.env, train.train, train.prune, train.distill, measure.report, train.average,
):  # fmt: skip
    cli.add_command(command)


def _complain(text: str) -> None:
    """One line on standard error, of a length that can be read."""
    line = terminal.plain(text)
    if len(line) > MOST_SHOWN:
        line = f"{line[: MOST_SHOWN // 2]} ... {line[-MOST_SHOWN // 2 :]}"
    click.echo(line, err=True)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; the errors that hasten raises become one line and an exit status."""
    debug = "--debug" in (sys.argv[1:] if arguments is None else arguments)
    # remarks on parts that are not used here, and on folders of a person without a home
    for name in ("torchao", "diffusers.quantizers", "torch.utils._pytree", "torch.utils.cpp_extension"):
        logging.getLogger(name).setLevel(logging.DEBUG if debug else logging.ERROR)
    given = sys.argv[1:] if arguments is None else arguments
    command = next((f"hasten {word}" for word in given if word in cli.commands), "hasten")
    sys.exit(_exit_status(lambda: cli.main(arguments, prog_name="hasten", standalone_mode=False), debug, command))


def _exit_status(call: Callable[[], Any], debug: bool, command: str = "hasten") -> int:
    try:
        call()
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.exceptions.NoArgsIsHelpError as help:
        click.echo(help.format_message())
        return 2
    except click.ClickException as error:
        _complain(f"error: {' '.join(error.format_message().split()).rstrip('.')}; see {command} --help")
        return 2
    except (KeyboardInterrupt, click.Abort) as stop:  # click puts its own exception before the one that says where
        said = str(stop) or str(stop.__cause__ or "")
        _complain(said or "interrupted; what was written is whole, and a command with --resume goes on")
        return 130
    except BrokenPipeError:  # who reads the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except (HastenError, OSError, OverflowError) as error:
        _complain(f"error: {_line(error)}")
        if debug:
            traceback.print_exc()
        return error.exit_code if isinstance(error, HastenError) else 2
    except Exception as error:
        if debug:
            raise
        if isinstance(error, MemoryError) or NO_MEMORY.search(str(error)):
            _complain("error: there is not enough memory; use a smaller --batch or model")
            return 2
        first = (str(error).strip().splitlines() or [""])[0]
        _complain(f"error: {type(error).__name__}: {first}; run again with --debug for the traceback")
        return 1
    return 0


def _line(error: Exception) -> str:
    """What a person reads of an error; of the system's own, with the path it is about."""
    if isinstance(error, HastenError):
        return str(error)
    if isinstance(error, OverflowError):
        return f"a number is too large ({error}); use a smaller one"
    path = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
    return f"{path}{why(error)}; check the path, or run again with --debug for the traceback"
