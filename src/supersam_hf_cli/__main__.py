"""`python -m supersam_hf_cli`: the same as `supersam-hf`."""

import sys

from . import main


if __name__ == "__main__":
    sys.exit(main())
