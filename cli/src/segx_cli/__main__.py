"""``python -m segx_cli`` is ``segx``."""

from __future__ import annotations

import sys

from segx_cli.main import main

sys.exit(main())
