"""One run: its plan, its directory, its results. No Ray here: a finished run is evaluated and reported without it."""
