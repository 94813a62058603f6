"""guardpass.bench.service: `guardpass serve` under load and faults, on this machine's loopback alone."""
