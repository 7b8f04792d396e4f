"""Recurrent layers as they are fused in PyTorch."""
