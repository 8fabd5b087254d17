"""Values: what is handed from stage to stage. They look nothing up."""

from __future__ import annotations
