"""The files of a guard: guard.json, its types, and the models beside it, checked before anything opens them."""
