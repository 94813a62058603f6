"""The queue of a guard: admission, order, deadlines and batches."""
