"""The model without its latents, as a pm.Model."""
