"""python -m xpsr"""

import sys

from xpsr.cli import main

if __name__ == "__main__":
    sys.exit(main())
