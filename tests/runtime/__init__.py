"""The judge, guards, panels and the command line."""
