"""The kinds of models, by what a model folder calls them."""

from __future__ import annotations

from chemeleon.checkpoints.opened import ModelFolder
from chemeleon.models.denoiser import LatentDiffusion
from chemeleon.models.predictor import Predictor
from chemeleon.models.pretrained import Pretrained
from chemeleon.models.vae import CrystalVAE

KINDS: dict[str, type[Pretrained]] = {
    model.kinds[0]: model for model in (CrystalVAE, LatentDiffusion, Predictor)
}


def check_fit(folder: ModelFolder) -> None:
    """Refuse a folder of any kind whose weights do not fit; see ``Pretrained.check``."""
    KINDS[folder.kind].check(folder)
