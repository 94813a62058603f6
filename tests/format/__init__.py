"""A guard's directory: what is read, and what is refused."""
