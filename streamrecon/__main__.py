"""`python -m streamrecon`."""

import sys

from streamrecon.cli import main

sys.exit(main())
