import sys

from bursar_enforcer.app import main

sys.exit(main())
