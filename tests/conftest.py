"""Fixtures that every tier may ask for; nothing starts before it is asked for."""

pytest_plugins = ["tests.lab.fixtures"]
