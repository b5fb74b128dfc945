"""Ken: know the boundary between what a model holds inside and what it must get from outside."""

__version__ = "0.1.0"
