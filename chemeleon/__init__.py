"""Train, steer and judge generative models of crystals."""

__version__ = "0.1.0"
