"""The whole library in one function, `prune`, and the steps it takes."""
