"""Traces a model once and finds the positions of its tensors that form one node. Knows modules, not plans.

Importing it registers the rules of the ops.
"""

from mipp.graph import rules as rules
