"""`python -m cocoon_p2p` is `cocoon-node`."""

import sys

from cocoon_p2p.cli import main

if __name__ == "__main__":
    sys.exit(main())
