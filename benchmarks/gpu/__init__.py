"""What a CUDA device makes of torchglm: `python -m benchmarks.gpu`, or `make gpu` with the CUDA tests before it."""
