"""``python -m mdashcore.cli``."""

import sys

from mdashcore.cli import main

sys.exit(main())
