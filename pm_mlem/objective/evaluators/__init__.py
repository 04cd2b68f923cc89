"""Ways to evaluate what is a sum over rows: all rows in one piece, or in chunks; see :mod:`protocol
<pm_mlem.objective.evaluators.protocol>`.
"""
