"""The experiments of Westphal, Hailes and Musolesi, "Mutual information preserving neural network pruning" (2024).

`data` and `networks` give what is pruned, `recipes` how it is trained before and after; `train` is the command that
trains one network, also over several processes.
"""
