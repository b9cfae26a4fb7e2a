"""How fast a search is on this machine: `python -m bench.speed`; one file a measurement (`docs/speed.md`)."""
