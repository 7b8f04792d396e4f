"""Better weights for the cut model, without labels: least squares layer by layer, and distillation."""
