"""`python -m supersam_hf`, and so `accelerate launch -m supersam_hf`."""

import sys

from supersam_hf_cli import main


if __name__ == "__main__":
    sys.exit(main())
