"""How likely the assignments of a formula are: p(formula units, space group, letters | formula).

A transformer reads the elements of a formula with their numbers and says, in turn, how many formula
units the primitive cell has, which space group, and the Wyckoff letter of each orbit: element by
element, lightest first, those of an element in the order of the alphabet. The number of atoms tells
when an element has all its orbits, so nothing else ends them.

Shapes: ``B`` crystals, ``E`` elements of a formula (`MOST_ELEMENTS`), ``N`` padded orbits, ``D``
width, ``Q = E + 2 + N`` tokens, ``S`` sites, numbered as in `Crystals.sites`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chemeleon.checkpoints.opened import ModelFolder
from chemeleon.config.assignment import AssignmentConfig
from chemeleon.crystals.assignments import letters_of
from chemeleon.crystals.batch import LETTERS, MAX_ATOMIC_NUMBER, CrystalBatch, Crystals
from chemeleon.errors import DataError
from chemeleon.models.elements import element_embedding
from chemeleon.models.layers import Transformer
from chemeleon.models.packing import Layout
from chemeleon.models.pretrained import Pretrained
from chemeleon.models.products import Linear
from chemeleon.models.sites import GROUP_CLASSES, SiteChooser

MOST_ELEMENTS = 10
ENERGY = "e_above_hull"
MOST_ATOMS = 128  # of a primitive cell


class Formulas(NamedTuple):
    """What is given.

    Attributes:
        elements: ``(B, E)`` atomic numbers in rising order, then 0.
        amounts: ``(B, E)`` atoms of the reduced formula.
        energies: ``(B,)`` above the hull, eV/atom; NaN where nothing is said.
    """

    elements: Tensor
    amounts: Tensor
    energies: Tensor


class Orbits(NamedTuple):
    """What is known before each letter is chosen.

    Attributes:
        owner: ``(B, N)`` place of the orbit's element in the formula.
        left: ``(B, N)`` atoms of the element that have no letter yet, this orbit's among them.
        before: ``(B, N)`` site of the orbit before it; 0 for the first.
        mask: ``(B, N)`` real orbits.
    """

    owner: Tensor
    left: Tensor
    before: Tensor
    mask: Tensor


class Scores(NamedTuple):
    """Logits of what is chosen: ``(B, 128)`` for 1, 2, ... units; ``(B, 231)``; ``(B, N, 27)``."""

    units: Tensor
    group: Tensor
    letters: Tensor


class AssignmentModel(Pretrained):
    """A transformer over the tokens of a formula and of its assignment.

    Buffers: ``multiplicities`` ``(S,)``, atoms of each site in the primitive cell, and
    ``largest_cell`` ``()``, atoms of the largest training cell, as floats.
    """

    kinds = ("assignment",)
    multiplicities: Tensor
    largest_cell: Tensor

    def __init__(self, config: AssignmentConfig) -> None:
        super().__init__()
        self.config, width = config, config.width
        self.sites = SiteChooser(width)
        self.own = nn.Embedding(GROUP_CLASSES * LETTERS, width)
        self.elements = element_embedding(width)
        self.amounts = nn.Embedding(MOST_ATOMS + 1, width)
        self.left = nn.Embedding(MOST_ATOMS + 1, width)
        self.of_units = nn.Embedding(MOST_ATOMS + 1, width)
        self.ask = nn.Embedding(3, width)  # for units, group, letter
        self.energy = nn.Sequential(nn.Linear(2, width), nn.SiLU(), nn.Linear(width, width))
        heads, hidden = config.heads, 4 * width
        self.trunk = Transformer(width, config.layers, heads, hidden, config.dropout)
        self.units = Linear(width, MOST_ATOMS)
        self.group = Linear(width, GROUP_CLASSES)
        for table in (self.own, self.amounts, self.left, self.of_units, self.ask):
            if not table.weight.is_meta:
                nn.init.normal_(table.weight, std=0.0 if table is self.own else 0.5)
        self.register_buffer("multiplicities", torch.zeros(GROUP_CLASSES * LETTERS))
        self.register_buffer("largest_cell", torch.zeros(()))
        if not self.multiplicities.is_meta:
            self.multiplicities.copy_(_multiplicities())

    @classmethod
    def outline(cls, folder: ModelFolder) -> AssignmentModel:
        """See ``Pretrained``."""
        with torch.device("meta"):
            return cls(folder.section("assign", AssignmentConfig))

    def architecture(self) -> dict[str, Any]:
        """See ``Pretrained``."""
        return {"assign": self.config.model_dump(mode="json")}

    @property
    def atoms(self) -> Tensor:
        """Atoms of each site in the primitive cell, ``(S,)`` int64."""
        return self.multiplicities.long()

    @property
    def single(self) -> Tensor:
        """Sites that nothing can move, ``(S,)`` bool."""
        return (self.sites.facts[:, :9] == 0).all(-1)

    @property
    def largest(self) -> int:
        """Atoms of the largest training cell."""
        return int(self.largest_cell)

    def fit(self, train: Crystals) -> AssignmentModel:
        """Take the size of the largest cell from training crystals with sites.

        Raises:
            DataError: if one has more elements or atoms than the model can tell apart.
        """
        assert train.sites is not None
        atoms = torch.bincount(train.owners, self.atoms.cpu()[train.sites], len(train))
        table = torch.zeros(len(train), MAX_ATOMIC_NUMBER + 1, dtype=torch.bool)
        table[train.owners, train.atomic_numbers] = True
        if (over := table.sum(1) > MOST_ELEMENTS).any():
            row = int(over.nonzero()[0])
            name = train.ids[row] if train.ids else f"number {row}"
            raise DataError(
                f"{int(over.sum())} crystals have more than {MOST_ELEMENTS} elements, as {name}:"
                f" leave them out by data.where='num_elements <= {MOST_ELEMENTS}'"
            )
        if int(atoms.max()) > MOST_ATOMS:
            raise DataError(
                f"there are cells of {int(atoms.max())} atoms: set data.max_atoms={MOST_ATOMS}"
            )
        self.largest_cell.fill_(int(atoms.max()))
        return self

    def forward(self, batch: CrystalBatch, energies: Tensor | None = None) -> dict[str, Tensor]:
        """Return minus the log-likelihoods of crystals written as orbits, each ``(B,)``, in nats.

        Args:
            batch: with sites, in standard form.
            energies: ``(B,)`` above the hull, eV/atom, NaN where unknown; None: nowhere known.
        """
        assert batch.sites is not None
        formulas, units, orbits = self.read(batch, energies)
        group = batch.sites[:, 0] // LETTERS
        scores = self.score(formulas, units, group, orbits)
        letters = batch.sites % LETTERS
        allowed = self._allowed(orbits, batch.sites)
        logits = scores.letters.masked_fill(~allowed, -torch.inf)
        # a padded orbit may have any letter, so that no gradient is NaN
        logits = logits.masked_fill(~orbits.mask.unsqueeze(-1), 0.0)
        each = F.cross_entropy(logits.flatten(0, 1), letters.flatten(), reduction="none")
        return {
            "units": F.cross_entropy(scores.units, units - 1, reduction="none"),
            "group": F.cross_entropy(scores.group, group, reduction="none"),
            "letters": (each.view_as(letters) * orbits.mask).sum(1),
        }

    def read(self, batch: CrystalBatch, energies: Tensor | None) -> tuple[Formulas, Tensor, Orbits]:
        """Return the formulas, formula units ``(B,)`` and orbits of crystals with sites."""
        assert batch.sites is not None
        numbers, mask, sites = batch.atomic_numbers, batch.mask, batch.sites
        first = F.pad(numbers[:, 1:] != numbers[:, :-1], (1, 0), value=True)
        owner = (first & mask).cumsum(1) - 1
        place = owner.masked_fill(~mask, MOST_ELEMENTS)
        size = self.atoms[sites] * mask
        empty = numbers.new_zeros(len(numbers), MOST_ELEMENTS + 1)
        elements = empty.scatter(1, place, numbers)[:, :-1]
        counts = empty.scatter_add(1, place, size)[:, :-1]
        units = counts[:, 0]
        for i in range(1, MOST_ELEMENTS):
            units = torch.gcd(units, counts[:, i])
        if elements.device.type == "cpu":  # a GPU is not to be waited for
            most = int((elements > 0).sum(1).max())
            elements, counts = elements[:, :most], counts[:, :most]
        # atoms of the element up to its end, less those of all orbits before this one
        left = counts.cumsum(1).gather(1, owner.clamp_min(0)) - (size.cumsum(1) - size)
        before = F.pad(sites[:, :-1], (1, 0))
        nothing = torch.full_like(batch.lattice[:, 0, 0], torch.nan)
        formulas = Formulas(
            elements, counts // units.unsqueeze(1), nothing if energies is None else energies
        )
        return formulas, units, Orbits(owner.clamp_min(0), left * mask, before, mask)

    def score(self, formulas: Formulas, units: Tensor, group: Tensor, orbits: Orbits) -> Scores:
        """Return the logits of all choices, each seeing only what was chosen before it.

        Args:
            formulas: ``B`` of them.
            units: ``(B,)`` formula units; read by what follows their choice.
            group: ``(B,)`` space groups; the same.
            orbits: ``N`` may be 0.
        """
        present = formulas.elements > 0
        x = self.elements(formulas.elements) + self.amounts(formulas.amounts.clamp_max(MOST_ATOMS))
        known = torch.isfinite(formulas.energies)
        told = torch.stack([formulas.energies.nan_to_num().clamp(0, 1), known.float()], -1)
        start = (self.ask.weight[0] + self.energy(told.to(x.dtype))).unsqueeze(1)
        asked = (self.ask.weight[1] + self.of_units(units.clamp(0, MOST_ATOMS))).unsqueeze(1)
        sites, table = orbits.before, self._table(len(group))
        of_orbits = (
            self.ask.weight[2]
            + self.sites.groups(group).unsqueeze(1)
            + x.gather(1, orbits.owner.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
            + self.left(orbits.left.clamp(0, MOST_ATOMS))
            + table(sites) * (sites > 0).unsqueeze(-1)
        )
        tokens = torch.cat([x, start, asked, of_orbits], 1)
        tokens = self.trunk(tokens, _causal(present, orbits.mask))
        place = present.shape[1]
        known_sites = group.unsqueeze(1) * LETTERS + torch.arange(LETTERS, device=group.device)
        keys = self.sites.key(table(known_sites))
        letters = self.sites.query(tokens[:, place + 2 :]) @ keys.mT * keys.shape[-1] ** -0.5
        absent = self.atoms[known_sites] == 0
        return Scores(
            self.units(tokens[:, place]).float(),
            self.group(tokens[:, place + 1]).float(),
            letters.float().masked_fill(absent.unsqueeze(1), -torch.inf),
        )

    def _table(self, size: int) -> Callable[[Tensor], Tensor]:
        """Return what embeds sites; of many crystals all sites are embedded once."""
        if size < GROUP_CLASSES:
            return lambda sites: self.sites.embed(sites) + self.own(sites)
        every = torch.arange(GROUP_CLASSES * LETTERS, device=self.own.weight.device)
        table = self.sites.embed(every) + self.own.weight
        return lambda sites: F.embedding(sites, table)

    def _allowed(self, orbits: Orbits, sites: Tensor) -> Tensor:
        """Return letters that fit in, come in order and are not taken, ``(B, N, 27)``."""
        letters = torch.arange(LETTERS, device=sites.device)
        known = sites[:, :1] // LETTERS * LETTERS + letters
        fits = self.atoms[known].unsqueeze(1) <= orbits.left.unsqueeze(-1)
        same = F.pad(orbits.owner[:, 1:] == orbits.owner[:, :-1], (1, 0))
        late = letters >= (orbits.before % LETTERS * same).unsqueeze(-1)
        chosen = F.one_hot(sites % LETTERS, LETTERS) * orbits.mask.unsqueeze(-1)
        taken = (chosen.cumsum(1) - chosen > 0) & self.single[known].unsqueeze(1)
        return fits & late & ~taken & (self.atoms[known] > 0).unsqueeze(1)


def _causal(present: Tensor, orbits: Tensor) -> Layout:
    """Return a layout in which all see the formula, and choices those before them."""
    size, place = present.shape
    total = place + 2 + orbits.shape[1]
    index = torch.arange(total, device=present.device)
    earlier = (index >= place) & (index.unsqueeze(1) >= index)
    formula = F.pad(present, (0, total - place))
    keys = formula.unsqueeze(1) | earlier
    counts = torch.full((size,), total, device=present.device)
    starts = counts.cumsum(0) - counts
    return Layout(starts, counts, total, keys.unsqueeze(1), ragged=False)


def _multiplicities() -> Tensor:
    atoms = torch.zeros(GROUP_CLASSES, LETTERS)
    for number in range(1, GROUP_CLASSES):
        own = letters_of(number).multiplicities
        atoms[number, : len(own)] = torch.tensor(own, dtype=torch.float32)
    return atoms.flatten()
