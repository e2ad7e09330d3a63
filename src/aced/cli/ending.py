"""How the command line ends: a status, and one sentence for whatever went wrong."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import typer

from aced.cli.app import app
from aced.errors import AcedError, is_out_of_memory

# The base of every usage error, found through typer's public name: typer has used click's own and a copy of it.
_UsageFault: Any = typer.BadParameter.__bases__[0].__bases__[0]


def main() -> NoReturn:
    """Entry point: a mistake of the user or a fault of the machine ends in one sentence and a status that is not 0."""
    try:
        status = app(prog_name="aced", standalone_mode=False)
    except AcedError as error:
        _fail(str(error), 2)
    except _UsageFault as fault:
        if len(sys.argv) < 2:  # no command: the help is the answer
            fault.show()
            sys.exit(fault.exit_code)
        context = getattr(fault, "ctx", None)
        command = context.command_path if context else "aced"
        _fail(f"{fault.format_message().rstrip('.')}; see '{command} --help'.", 2)
    except (KeyboardInterrupt, typer.Abort):
        status = 130
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}.", 1)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        _fail("out of memory: lower train.batch, train.micro_batch or data.workers.", 1)
    if status == 130:  # also what newer versions of typer make of Ctrl-C
        hint = "; 'aced train ... --resume' goes on from the last checkpoint" if "train" in sys.argv[1:2] else ""
        hint = "; the same command goes on with the tasks that are left" if "eval" in sys.argv[1:2] else hint
        _fail(f"interrupted{hint}.", 130)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(sentence: str, status: int) -> NoReturn:
    sys.stderr.write(f"aced: {sentence}\n")
    sys.exit(status)
