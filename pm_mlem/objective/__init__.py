"""From tables to pure JAX functions of parameters, data and weights; the only border between PyTensor and JAX."""
