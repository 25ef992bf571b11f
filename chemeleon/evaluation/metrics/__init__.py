"""Metrics, one per file. Adding one is a file with a `base.Metric` and a line in `METRICS`."""

from __future__ import annotations

from chemeleon.evaluation.metrics.base import Metric
from chemeleon.evaluation.metrics.contacts import Contacts
from chemeleon.evaluation.metrics.property_hits import PropertyHits
from chemeleon.evaluation.metrics.supply import Supply
from chemeleon.evaluation.metrics.symmetry import Symmetry

METRICS: tuple[Metric, ...] = (Contacts(), Symmetry(), Supply(), PropertyHits())
