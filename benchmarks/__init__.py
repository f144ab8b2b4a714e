"""What measures xpsr, run from the repository's root: `python -m benchmarks`, and `python -m benchmarks.NAME`."""
