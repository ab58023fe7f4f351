"""``python -m bursar_edge``."""

import sys

from bursar_edge.app import main

sys.exit(main())
