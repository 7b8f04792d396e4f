"""The parts that several methods share: scores, gradients, inputs of layers, training."""
