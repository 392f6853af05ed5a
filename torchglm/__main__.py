"""`python -m torchglm` is the command `torchglm`."""

from __future__ import annotations

import sys

from torchglm.cli import main

if __name__ == "__main__":
    sys.exit(main())
