"""From a checkpoint to a guard."""
