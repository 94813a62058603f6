"""What the whole suite is run by: how much is repeated, what is marked, and what is said of what did not run."""
