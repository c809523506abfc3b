"""Scanners of others, run against a deployed host."""
