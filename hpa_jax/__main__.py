"""python -m hpa_jax: the command line."""

import sys

from hpa_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
