"""`python -m tests.golden DIR...`: run every golden case below the folders given."""

import sys

from tests.golden.harness import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
