"""What layers read and write over the calibration data, as rows and as moments."""
