"""Verbs of the command line that read no recipe."""
