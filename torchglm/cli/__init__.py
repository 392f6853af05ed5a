"""The command line: `torchglm fit`, `torchglm predict`, `torchglm summary`."""

from torchglm.cli.entry import main

__all__ = ["main"]
