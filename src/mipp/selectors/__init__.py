"""Selection of inputs rather than nodes: pixels of a network, columns of a table."""
