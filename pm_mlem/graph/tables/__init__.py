"""What the graph room hands on: a model as tables."""
