"""The exact integer arithmetic of one-byte training: signs from seeds, and sums of them."""
