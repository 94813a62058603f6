"""The directory a guard is: made whole or not at all, its manifest last."""
