"""Traces a model once and finds the positions of its tensors that form one node. Knows modules, not plans."""
