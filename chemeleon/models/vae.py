"""CrystalVAE: crystals to per-atom latents and back.

Shapes: ``B`` crystals, ``N`` padded atoms, ``L`` latent channels, ``D`` width. Scaled lengths are
``lengths / num_atoms^(1/3)`` in angstrom; angles are in radian.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from chemeleon.checkpoints.opened import ModelFolder
from chemeleon.config.architecture import VAEConfig
from chemeleon.crystals.batch import CrystalBatch, Crystals
from chemeleon.crystals.lattice import lattice_from_parameters
from chemeleon.crystals.orbit_sets import with_all_atoms, write_as_orbits
from chemeleon.crystals.ordering import arrange
from chemeleon.errors import CheckpointError, DataError
from chemeleon.models.elements import CLASSES, choose_elements, element_embedding
from chemeleon.models.layers import Transformer, index_embedding
from chemeleon.models.packing import Layout
from chemeleon.models.pretrained import Pretrained
from chemeleon.models.sites import SiteChooser, SiteEncoder

SPREAD_SHARE = 0.01  # of a batch in the running spread of latents


class Posterior(NamedTuple):
    """Gaussian over latents: mean and log-variance, each ``(B, N, L)``."""

    mean: Tensor
    logvar: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Return ``mean + std * noise``, ``(B, N, L)``."""
        return self.mean + torch.exp(0.5 * self.logvar) * noise

    def kl(self) -> Tensor:
        """KL to N(0, 1) per atom, summed over channels, in nats, ``(B, N)``."""
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1 - self.logvar).sum(-1)


class Decoded(NamedTuple):
    """What the decoder says, before it becomes a crystal.

    ``type_logits`` ``(B, N, 100)`` or None (csp); ``coords`` ``(B, N, 3)`` for the raw head or
    ``(B, N, 6)`` (three sines, three cosines) for the angle head; ``lengths`` scaled, ``(B, 3)``;
    ``angles`` ``(B, 3)``; ``letter_logits`` ``(B, N, 27)`` of Wyckoff letters or None (atoms, csp).
    """

    type_logits: Tensor | None
    coords: Tensor
    lengths: Tensor
    angles: Tensor
    letter_logits: Tensor | None = None


class VAEOutput(NamedTuple):
    """Result of ``forward``.

    ``scale`` ``(B, 1)`` is what scaled lengths are multiplied with; ``fixed`` ``(B, N, 3)`` bool
    says which coordinates need not be decoded as given sites tell them, None where there are none.
    """

    posterior: Posterior
    decoded: Decoded
    scale: Tensor
    fixed: Tensor | None = None


class CrystalVAE(Pretrained):
    """Variational autoencoder with one latent vector per atom.

    The raw coordinate head and the published weights give the model of Chemeleon2; see
    ``VAEConfig`` for what can be chosen.
    """

    kinds = ("vae", "ldm", "predictor")  # a folder of the others gives the VAE inside it
    frequencies: Tensor
    latent_spread: Tensor

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        coords_in = 3 if config.coordinate_input == "raw" else 6 * len(config.fourier_frequencies)
        self.type_embedding = nn.Embedding(CLASSES, width)
        self.sites: SiteEncoder | None = None
        if config.tokens == "orbits":
            self.sites = SiteChooser(width) if config.kind == "dng" else SiteEncoder(width)
        self.lattice_embedding = _embedder(9, width)
        self.coords_embedding = _embedder(coords_in, width)
        self.encoder = self._transformer(config.encoder_layers)
        self.to_moments = nn.Linear(width, 2 * config.latent_dim, bias=False)
        self.from_latent = nn.Linear(config.latent_dim, width, bias=False)
        self.decoder_types = element_embedding(width) if config.decoder_types else None
        self.decoder = self._transformer(config.decoder_layers)
        self.type_head = nn.Linear(width, CLASSES) if config.kind == "dng" else None
        coords_out = 3 if config.coordinate_head == "raw" else 6
        self.coords_head = nn.Linear(width, coords_out, bias=False)
        self.lattice_head = nn.Linear(width, 6, bias=False)
        if config.latent_noise:  # parts of a step hold crystals of like sizes: none speaks for all
            self.register_buffer("latent_spread", torch.ones(config.latent_dim))
        # not in the file of weights, so it must exist where the rest is only outlined (meta)
        frequencies = torch.tensor(config.fourier_frequencies, dtype=torch.float32, device="cpu")
        self.register_buffer("frequencies", 2 * math.pi * frequencies, persistent=False)

    def _transformer(self, layers: int) -> Transformer:
        c = self.config
        return Transformer(c.width, layers, c.heads, c.feedforward, c.dropout)

    @classmethod
    def outline(cls, folder: ModelFolder) -> CrystalVAE:
        """See ``Pretrained``."""
        with torch.device("meta"):
            return cls(folder.section("vae", VAEConfig))

    @classmethod
    def from_folder(cls, folder: ModelFolder) -> CrystalVAE:
        """See ``Pretrained``; of a folder of another kind this is the VAE inside it."""
        if folder.kind == "predictor" and "vae.from_latent.weight" not in folder.stored:
            raise CheckpointError(
                f"{folder.path}: this predictor trained its own encoder and has no decoder, so"
                " there is no VAE in it: name a folder of `chemeleon vae train`"
            )
        vae = cls.outline(folder)
        folder.load_into(vae, "" if folder.kind == "vae" else "vae.")
        return vae.eval()

    def drop_decoder(self) -> None:
        """Keep the encoder alone, for models that train it and have no use for the rest."""
        del self.from_latent, self.decoder_types, self.decoder
        del self.type_head, self.coords_head, self.lattice_head

    def architecture(self) -> dict[str, Any]:
        """See ``Pretrained``."""
        return {"vae": self.config.model_dump(mode="json")}

    def arranged(self, crystals: Crystals, keep: bool = False) -> Crystals:
        """Return crystals as the encoder was shown them: in its order of atoms, or as orbits.

        Args:
            crystals: on the CPU.
            keep: orbits go to the cache, as is worth it for crystals that come again.
        """
        if self.sites is not None:
            told = self.config.kind == "csp"
            return write_as_orbits(crystals, keep, told) if crystals.sites is None else crystals
        return arrange(crystals, self.config.atom_order)

    def encode(self, batch: CrystalBatch) -> Posterior:
        """Encode crystals; padded slots hold numbers without meaning."""
        posterior, _ = self.encode_features(batch)
        return posterior

    def encode_features(self, batch: CrystalBatch) -> tuple[Posterior, Tensor]:
        """Encode crystals and also return the encoder's output ``(B, N, D)``."""
        x = (
            self.type_embedding(batch.atomic_numbers)
            + self.lattice_embedding(batch.lattice.flatten(1)).unsqueeze(1)
            + self.coords_embedding(self._coordinate_features(batch.frac_coords))
            + self._places(batch)
        )
        if self.sites is not None:
            sites = sites_of(batch)
            x = x + self.sites.embed(sites) + self.sites.of_group(sites)
        features = self.encoder(x, Layout.of(batch))
        mean, logvar = self.to_moments(features).float().chunk(2, dim=-1)
        return Posterior(mean, logvar.clamp(-30, 20)), features

    def _coordinate_features(self, frac_coords: Tensor) -> Tensor:
        if self.config.wrap_input:
            frac_coords = frac_coords - torch.floor(frac_coords)
        if self.config.coordinate_input == "raw":
            return frac_coords
        angles = (frac_coords.unsqueeze(-1) * self.frequencies).flatten(-2)
        return torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1)

    def _places(self, batch: CrystalBatch) -> Tensor:
        return index_embedding(torch.arange(batch.width, device=batch.device), self.config.width)

    def decode(self, z: Tensor, batch: CrystalBatch) -> Decoded:
        """Decode latents ``(B, N, L)``.

        Of ``batch`` only sizes are used, of orbits also the space group; csp: types, and sites.
        """
        x = self.from_latent(z) + self._places(batch)
        if self.sites is not None:
            x = x + self.sites.of_group(sites_of(batch))
            if self.config.kind == "csp":
                x = x + self.sites.embed(sites_of(batch))
        if self.decoder_types is not None:
            x = x + self.decoder_types(batch.atomic_numbers)
        features = self.decoder(x, Layout.of(batch))
        weights = batch.mask.unsqueeze(-1).to(features.dtype)
        pooled = (features * weights).sum(1) / weights.sum(1)
        lattice = self.lattice_head(pooled)
        return Decoded(
            type_logits=None if self.type_head is None else self.type_head(features),
            coords=self.coords_head(features),
            lengths=lattice[:, :3],
            angles=lattice[:, 3:],
            letter_logits=self.sites.logits(features, sites_of(batch))
            if isinstance(self.sites, SiteChooser)
            else None,
        )

    def atoms(self, batch: CrystalBatch) -> Tensor:
        """Return the atoms that each token stands for, ``(B, N)`` floats, 0 on padded slots.

        Of crystals written as orbits they are those of the conventional cell.
        """
        if self.sites is None:
            return batch.mask.float()
        return self.sites.multiplicity(sites_of(batch)) * batch.mask

    def scale(self, batch: CrystalBatch) -> Tensor:
        """Return the cube root of the atoms of the cell, which scales lengths, ``(B, 1)``."""
        return self.atoms(batch).sum(-1, keepdim=True).pow(1 / 3)

    def forward(self, batch: CrystalBatch, noise: Tensor) -> VAEOutput:
        """Encode, draw with ``noise`` ``(B, N, L)``, decode."""
        posterior = self.encode(batch)
        z = posterior.sample(noise)
        if self.config.latent_noise:
            if self.training:
                self.latent_spread.lerp_(_spread(posterior.mean.detach(), batch.mask), SPREAD_SHARE)
            least = self.config.latent_noise * self.latent_spread
            z = posterior.mean + torch.maximum(torch.exp(0.5 * posterior.logvar), least) * noise
        decoded = self.decode(z, batch)
        fixed = self._fixed(batch)
        told = None if fixed is None else fixed[0]
        return VAEOutput(posterior, decoded, self.scale(batch), told)

    def _fixed(self, batch: CrystalBatch) -> tuple[Tensor, Tensor] | None:
        """Return which coordinates follow from given sites, see `SiteEncoder.fixed`."""
        if self.sites is None or self.config.kind == "dng":
            return None
        return self.sites.fixed(sites_of(batch))

    def geometry(self, decoded: Decoded, batch: CrystalBatch) -> tuple[Tensor, Tensor]:
        """Return fractional coordinates ``(B, N, 3)``, 0 on padded slots, and cells ``(B, 3, 3)``.

        Args:
            decoded: of ``decode``.
            batch: what was decoded; of orbits, sites say how many atoms the cell has.
        """
        lengths = decoded.lengths.float() * self.scale(batch)
        if self.config.coordinate_head == "angle":
            sine, cosine = decoded.coords.float().chunk(2, dim=-1)
            frac_coords = torch.atan2(sine, cosine) / (2 * math.pi)
        else:
            frac_coords = decoded.coords.float()
        if (fixed := self._fixed(batch)) is not None:
            frac_coords = torch.where(*fixed, frac_coords)
        frac_coords = frac_coords.masked_fill(~batch.mask.unsqueeze(-1), 0.0)
        return frac_coords, lattice_from_parameters(lengths, decoded.angles.float())

    def to_crystals(
        self, decoded: Decoded, batch: CrystalBatch, composition_penalty: float = 0.0
    ) -> Crystals:
        """Turn the decoder's answer into crystals of the sizes (csp: types, sites) of ``batch``.

        They are in main memory with all of their atoms, also those that were decoded as orbits;
        then one whose cell cannot be has no atoms.

        Args:
            decoded: of ``decode``.
            batch: what was decoded.
            composition_penalty: see ``choose_elements``.
        """
        if isinstance(self.sites, SiteChooser):
            assert decoded.letter_logits is not None
            given = sites_of(batch)
            sites = self.sites.choose(decoded.letter_logits, batch.mask, given)
            batch = replace(batch, sites=sites, check=False)
        if decoded.type_logits is None:
            types = batch.atomic_numbers
        else:
            types = choose_elements(decoded.type_logits, batch.mask, composition_penalty)
        frac_coords, lattice = self.geometry(decoded, batch)
        made = CrystalBatch(
            atomic_numbers=types.masked_fill(~batch.mask, 0),
            frac_coords=frac_coords,
            lattice=lattice,
            num_atoms=batch.num_atoms,
            sites=batch.sites,
            check=False,
        )
        return with_all_atoms(made.to("cpu").flatten())


def _spread(z: Tensor, mask: Tensor) -> Tensor:
    """Return the standard deviation of each channel of latents ``(B, N, L)``, ``(L,)``."""
    weights = mask.unsqueeze(-1) / mask.sum()
    mean = (z * weights).sum((0, 1))
    return ((z - mean).square() * weights).sum((0, 1)).sqrt()


def sites_of(batch: CrystalBatch) -> Tensor:
    """Return the sites ``(B, N)`` of crystals written as orbits.

    Raises:
        DataError: if they have none.
    """
    if batch.sites is None:
        raise DataError("a VAE with tokens=orbits takes crystals of `arranged`, with sites")
    return batch.sites


def _embedder(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width, bias=False), nn.SiLU(), nn.Linear(width, width))
