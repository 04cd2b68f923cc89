"""The only border from PyTensor to JAX."""
