"""AXON: chest CT volumes from one or two plain X-rays. The output is synthetic: not for diagnosis."""

__version__ = "0.1.0"

SYNTHETIC_NOTICE = "SYNTHETIC: not for diagnosis"
