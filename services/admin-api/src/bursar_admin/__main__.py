"""``python -m bursar_admin``."""

import sys

from bursar_admin.app import main

sys.exit(main())
