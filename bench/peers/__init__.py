"""Other engines, each judging the same prompts in a process of its own."""
