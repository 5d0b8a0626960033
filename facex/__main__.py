"""`python -m facex`, the form that the `deepspeed` and `torchrun` launchers start."""

import sys

from facex.cli import main

if __name__ == "__main__":
    sys.exit(main())
