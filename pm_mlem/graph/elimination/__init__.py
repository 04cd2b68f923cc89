"""Summing latents out of factor tables: strategies, the order among them, and the graph that carries it out."""

from pm_mlem.graph.elimination.order import Elimination, Step, eliminate

__all__ = ["Elimination", "Step", "eliminate"]
