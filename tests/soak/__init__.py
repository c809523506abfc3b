"""Long runs, each a command of its own; `make soak` runs them. `make test` runs a short form of each."""
