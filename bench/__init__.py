"""guardpass.bench: twins of published checkpoints, the demo guard, and measurements."""
