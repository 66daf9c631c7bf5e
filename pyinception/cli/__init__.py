"""The command line: one verb a file, heavy imports inside functions; `main.run` is the entry."""
