"""Where things are kept and shown: tensors under a memory limit, progress, processes, devices. Knows errors only."""
