"""Other programs, as `python -m benchmarks` compares with them."""
