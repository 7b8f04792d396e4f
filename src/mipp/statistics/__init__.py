"""Inputs and outputs of layers over the calibration data, as rows and as moments."""
