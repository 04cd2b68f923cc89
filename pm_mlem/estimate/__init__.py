"""A target at a point, and the numbers that follow."""
