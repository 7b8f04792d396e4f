"""What torch's own modules need: copies, names of tensors, attention and cells taken apart, weight norm, wrappers.

Nothing here knows of graphs.
"""
