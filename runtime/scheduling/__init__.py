"""The queue of a guard: who waits, whose turn it is, and who is refused."""
