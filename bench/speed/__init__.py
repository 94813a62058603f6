"""`guardpass bench`: latency, throughput, memory and fidelity of guards and of peers, measured in one run."""
