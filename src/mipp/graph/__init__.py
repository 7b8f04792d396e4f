"""Which positions of which tensors are one node, found by tracing the model once. Knows modules, not plans."""
