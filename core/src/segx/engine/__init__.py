"""Where programs written for other tools look for the types of results: :mod:`segx.engine.results`."""
