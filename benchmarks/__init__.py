"""torchglm beside its peers: same data, same accuracy, one interleaved run. `python -m benchmarks --help`."""
