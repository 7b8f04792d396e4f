"""Calibration data: read once, cut into pieces, kept within memory; and images shifted and mirrored."""
