"""Adapters to other frameworks, imported lazily."""
