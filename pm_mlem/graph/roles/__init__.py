"""What each variable of a model is."""
