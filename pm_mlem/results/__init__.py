"""Labelled results: the frozen Fit, tables, and the groups for ArviZ."""
