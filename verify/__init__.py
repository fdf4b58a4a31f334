"""Whether to believe it: pure decisions over what peers claim. No network, no clock, no torch."""
