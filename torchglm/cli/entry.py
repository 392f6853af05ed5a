"""The entry: which command runs, and how an error is said."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torchglm.cli import commands
from torchglm.cli.export import export
from torchglm.cli.fit import fit
from torchglm.cli.in_flags import in_flags
from torchglm.rows.ranks import RankError
from torchglm.version import VERSION
from torchglm.writing.nearest import nearest

USAGE = """usage: torchglm COMMAND ...

Generalised linear models, fitted in closed form or by gradient.

commands:
  fit CONFIG.yaml [--key value ...]    fit a model, write a run folder with its report
  fit CONFIG.yaml --resume RUN         go on with a fit that was interrupted
  predict RUN DATA ... [--out PLACE]   predict the means of new rows with a run
  evaluate RUN DATA ...                score a run on rows with a known response
  summary RUN                          print the summary of a run
  check RUN [--data FILE]              say what speaks against the model of a run
  report RUN [--data FILE]             write the report of a run again, or on new rows
  export RUN [--table] [--onnx]        write a run as a rating table, or for a runtime of ONNX
  compare RUN RUN ...                  show runs on the same rows side by side

options:
  -h, --help     show this help; after a command, that of the command
  --version      show the version
"""
COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "fit": fit,
    "predict": commands.predict,
    "evaluate": commands.evaluate,
    "summary": commands.summary,
    "check": commands.check,
    "report": commands.report,
    "export": export,
    "compare": commands.compare,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `torchglm` with these arguments (default: those of the process); returns the exit code.

    0: done; 2: bad input, said in one line on stderr (a traceback where TORCHGLM_TRACEBACK is set); 1: another
    process of torchrun failed; 130: interrupted.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with _importable_here():
            return _dispatch(given)
    except (ValueError, TypeError, OSError, ImportError) as error:
        if isinstance(error, BrokenPipeError):  # the reader of a pipe went away: nothing is wrong
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        if "TORCHGLM_TRACEBACK" in os.environ:
            raise
        return _refused(in_flags(str(error), given[0]))
    except MemoryError as error:
        return _refused(_no_memory(str(error)))
    except RuntimeError as error:
        if isinstance(error, RankError):
            return _refused(str(error), 1)
        said = str(error)
        if "DefaultCPUAllocator" in said or "not enough memory" in said:
            return _refused(_no_memory(said))
        if "out of memory" not in said.lower():
            raise
        return _refused("the GPU ran out of memory. Use device: cpu or solver: sgd.")
    except KeyboardInterrupt as stop:
        print(f"torchglm: {str(stop) or 'interrupted; nothing was written.'}", file=sys.stderr)
        return 130
    except SystemExit as stop:  # argparse has printed its help or its error
        return stop.code if isinstance(stop.code, int) else 2


def _no_memory(said: str) -> str:
    """That the memory of the CPU does not suffice, and how much was asked for at last where the error says so."""
    found = re.search(r"(?:allocate|of size) (\d+)(?: bytes)?", said)
    asked = f", {int(found[1]) / 2**30:.1f} GiB more being needed" if found else ""
    return f"out of memory{asked}. Fit fewer rows or columns, or use dtype: float32 or solver: sgd."


def _refused(reason: str, code: int = 2) -> int:
    """Say in one line what was wrong; returns the exit code."""
    print(f"torchglm: error: {' '.join(reason.split())}", file=sys.stderr)
    return code


@contextmanager
def _importable_here() -> Iterator[None]:
    """Within it classes of one's own are found in files of the current directory, behind all that is installed."""
    here = os.getcwd()
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _dispatch(given: list[str]) -> int:
    if not given or given[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if given else 2
    if given[0] == "--version":
        print(f"torchglm {VERSION}")
        return 0
    if given[0] not in COMMANDS:
        near = nearest(given[0], COMMANDS)
        raise ValueError(f"unknown command {given[0]!r}{near}. Known: {', '.join(COMMANDS)}.")
    COMMANDS[given[0]](given[1:])
    return 0
