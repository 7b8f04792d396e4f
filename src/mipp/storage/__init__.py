"""Folders on disk: saved results without pickles, checkpoints of runs, and hashes that tell runs apart."""
