"""Tools: typed functions that a model can call by name, and the box that keeps their books."""
