"""Metrics by their kinds. Adding one is a file with a `base.Metric` and a line in `METRICS`.

A metric of your own, outside the package, is appended to the list before `chemeleon.evaluate`.

The order is that of the headline within a group of figures, and of the columns of a report.
"""

from __future__ import annotations

from chemeleon.evaluation.metrics.base import Metric
from chemeleon.evaluation.metrics.coverage import Coverage
from chemeleon.evaluation.metrics.csp import Prediction
from chemeleon.evaluation.metrics.description import Density, Description, Repetition
from chemeleon.evaluation.metrics.distances import Distances
from chemeleon.evaluation.metrics.novelty import Novelty
from chemeleon.evaluation.metrics.property_hits import PropertyHits
from chemeleon.evaluation.metrics.stability import EnergyMeans, Relaxation, Stability
from chemeleon.evaluation.metrics.supply import Supply
from chemeleon.evaluation.metrics.symmetry import Symmetry
from chemeleon.evaluation.metrics.validity import Contacts, Reading, Validity

METRICS: list[Metric] = [
    Description(),
    Density(),
    Reading(),
    Validity(),
    Relaxation(),
    Novelty(),
    Stability(),
    Contacts(),
    Symmetry(),
    Supply(),
    PropertyHits(),
    Coverage(),
    EnergyMeans(),
    Distances(),
    Repetition(),
    Prediction(),
]
