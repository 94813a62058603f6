"""Queue, batches and deadlines."""
