"""Scripts that make a peer's own files from a checkpoint: `python SCRIPT.py CHECKPOINT OUT ...`."""
