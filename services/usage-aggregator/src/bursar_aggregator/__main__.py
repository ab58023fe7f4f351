"""``python -m bursar_aggregator``."""

import sys

from bursar_aggregator.app import main

sys.exit(main())
