"""The entry point: python -I bench [OPTION]..., with the Python of an environment that pystandby is installed in."""

import sys
from pathlib import Path

# Last, so that the installed pystandby is measured, and not the checkout's. The tests' support has Pgpool-II in front of servers.
sys.path.append(str(Path(__file__).resolve().parent.parent))
sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

from bench.command import main

sys.exit(main())
