"""Covariances, standard errors and intervals from the curvature of the objective."""
