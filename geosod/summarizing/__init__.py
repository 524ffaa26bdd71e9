"""What outputs come to: counts, densities on inspected ground, and changes between dates."""
