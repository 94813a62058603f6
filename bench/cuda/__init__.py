"""Guards on a GPU beside other engines: `python -m guardpass.bench.cuda`."""
