"""Entry point of `python -m charrnn.cli`."""

import sys

from charrnn import cli

sys.exit(cli.main())
