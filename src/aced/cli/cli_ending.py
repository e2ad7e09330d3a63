"""The end of a command: its exit status, and one sentence for any failure."""

from __future__ import annotations

import codecs
import gc
import io
import os
import sys
from typing import Any, NoReturn

import typer

from aced.cli.app import app
from aced.errors import AcedError, is_out_of_memory, told
from aced.registry.plugins import load_commands
from aced.runtime.descriptors import is_out_of_files, out_of_files
from aced.runtime.stopping import INTERRUPTED, STOPPED, Stopped, end_children, leave_in_peace, watching, words

# Base class of all usage errors, found through typer's public name: typer has used click's own and a copy of it.
_UsageFault: Any = typer.BadParameter.__bases__[0].__bases__[0]


def main() -> NoReturn:
    """Entry point: a user's mistake or a machine's fault ends in one sentence and a non-zero status."""
    _forgive_output()
    with watching():
        try:
            _main()
        except SystemExit as over:
            if over.code in (STOPPED, INTERRUPTED):
                leave_in_peace()
            raise


def _main() -> NoReturn:
    try:
        load_commands(app)
        status = app(prog_name="aced", standalone_mode=False)
    except Stopped as stopped:
        _hurry()
        if "TORCHELASTIC_RUN_ID" in os.environ:  # another process has already said why
            sys.exit(stopped.status)
        # The demo trains too, but has no --resume.
        saved = stopped.saved and sys.argv[1:2] == ["train"]
        _fail(f"{stopped if saved else words(stopped.number) + _how_to_go_on()}.", stopped.status)
    except AcedError as error:
        _fail(told(error), 2)
    except _UsageFault as fault:
        if len(sys.argv) < 2:  # no command: the help is the answer
            fault.show()
            sys.exit(fault.exit_code)
        context = getattr(fault, "ctx", None)
        command = context.command_path if context else "aced"
        _fail(f"{fault.format_message().rstrip('.')}; see '{command} --help'.", 2)
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except OSError as error:
        if is_out_of_files(error):
            _fail(told(error, str(out_of_files())), 2)
        where = f"{error.filename}: " if error.filename else ""
        _fail(told(error, f"{where}{error.strerror or error}."), 1)
    except UnicodeEncodeError as error:
        if "surrogates" not in error.reason:
            raise
        where = error.object[max(0, error.start - 40) : error.end + 40].split("\n")[-1]
        _fail(f"'{where}': this file or folder name is not valid UTF-8, so it cannot be stored; rename it.", 2)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        _fail(told(error, "out of memory: lower train.batch, train.micro_batch or data.workers."), 1)
    if status == INTERRUPTED:  # also what newer versions of typer make of Ctrl-C
        _hurry()
        _fail(f"interrupted{_how_to_go_on()}.", INTERRUPTED)
    sys.exit(status if isinstance(status, int) else 0)


_GO_ON = {
    "train": "'aced train ... --resume' continues from the last checkpoint, or starts from the beginning",
    "eval": "the same command continues with the remaining tasks",
    "embed": "the same command continues with the remaining tars",
    "index": "the same command continues with the remaining tars",
}


def _how_to_go_on() -> str:
    """The end of the sentence after an interruption: how to continue, if the command keeps its progress."""
    hint = _GO_ON.get(sys.argv[1] if len(sys.argv) > 1 else "")
    return f"; {hint}" if hint else ""


def _hurry() -> None:
    """Make the process exit quickly: the sender of a signal kills what is still alive after a while."""
    end_children()
    gc.freeze()  # otherwise the interpreter scans all imported objects at exit, which takes seconds


def _forgive_output() -> None:
    """Print a question mark for every character that the encoding of the output lacks.

    A character that cannot be shown (`±` in ASCII, a dash in Latin-1) must not cost the user the results. A closed
    output has no reader: its descriptor is reopened, so that no later file gets its number and a library's messages.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for the whole process
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    codecs.register_error("aced.forgive", _forgive)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="aced.forgive")


def _forgive(error: UnicodeError) -> tuple[bytes, int]:
    """Question marks; bytes of a file name that are not valid text go out unchanged."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return b"".join(bytes([ord(c) - 0xDC00]) if 0xDC80 <= ord(c) <= 0xDCFF else b"?" for c in letters), error.end


def _fail(sentence: str, status: int) -> NoReturn:
    sys.stderr.write(f"aced: {sentence}\n")
    sys.exit(status)
