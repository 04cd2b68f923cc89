"""Read a PyMC model: roles, log-density tables, the order in which latents are summed out (symbolic)."""
