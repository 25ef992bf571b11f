"""CHGNet's energy as a function of a graph, from the weights of the package `chgnet`.

Deng et al., Nature Machine Intelligence 5, 1031 (2023). The same function as `chgnet.model.CHGNet`,
arranged for speed. The first layer of each gated MLP acts on concatenated features of atoms, bonds
and angles; here its blocks act on those features where they are few, before they are gathered to
bonds and angles (W [a, b, c] = W_a a + W_b b + W_c c). A bond's two directions share its block.
Features of bonds without angles never change and are kept apart; the last angle update, which
nothing reads, is left out.

Shapes: as in `bond_graph`; ``D`` = 64 features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from chemeleon.energy.bond_graph import Graph

MAX_ATOMIC_NUMBER = 94


class GatedMLP(nn.Module):
    """Core times gate, each an MLP; the first linear layer is split by its inputs.

    Args:
        state: weights under ``prefix``.
        prefix: name of a `GatedMLP` of the package.
        inputs: number of feature blocks that it takes, in the package's order.
    """

    blocks: Tensor  # (inputs, 2 D, D), the first layers of core and gate
    bias: Tensor  # (2 D,)

    def __init__(self, state: dict[str, Tensor], prefix: str, inputs: int) -> None:
        super().__init__()
        hidden = f"{prefix}.mlp_core.layers.3.weight" in state
        layer = "layers.0" if hidden else "layers.1"
        both = [f"{prefix}.mlp_core", f"{prefix}.mlp_gate"]
        weight = torch.cat([state[f"{name}.{layer}.weight"] for name in both])
        self.register_buffer("blocks", torch.stack(weight.chunk(inputs, 1)).clone())
        self.register_buffer("bias", torch.cat([state[f"{name}.{layer}.bias"] for name in both]))
        self.second = nn.ModuleList()
        self.norms = nn.ModuleList()
        for name, norm in zip(both, ("bn1", "bn2"), strict=True):
            if hidden:
                self.second.append(_linear(state, f"{name}.layers.3"))
            if f"{prefix}.{norm}.weight" in state:
                self.norms.append(_layer_norm(state, f"{prefix}.{norm}"))

    def project(self, features: Tensor, block: int) -> Tensor:
        """Return the part of the first layer that belongs to one input, ``(., 2 D)``."""
        return features @ self.blocks[block].T

    def forward(self, first_layer: Tensor) -> Tensor:
        """Finish from the sum of the projections, ``(., 2 D)`` without bias; gives ``(., D)``."""
        values = first_layer
        values += self.bias
        if len(self.second):
            values = functional.silu(values)
        parts = list(values.chunk(2, -1))
        for layers in (self.second, self.norms):
            if len(layers):
                parts = [layer(part) for layer, part in zip(layers, parts, strict=True)]
        return functional.silu(parts[0]) * torch.sigmoid(parts[1])


class CHGNetEnergy(nn.Module):
    """Total energies of the crystals of a graph.

    Args:
        state: the package's weights by name.
        settings: the package's settings of the model.
    """

    reference: Tensor
    atom_embedding: Tensor
    atom_frequencies: Tensor
    bond_frequencies: Tensor
    angle_frequencies: Tensor
    bond_embedding: Tensor
    atom_weights: Tensor
    bond_weights: Tensor
    angle_embedding: Tensor

    def __init__(self, state: dict[str, Tensor], settings: dict[str, Any]) -> None:
        super().__init__()
        self.atom_cutoff = float(settings["atom_graph_cutoff"])
        self.bond_cutoff = float(settings["bond_graph_cutoff"])
        self.power = int(settings["cutoff_coeff"])
        layers = int(settings["n_conv"])
        for name, key in {
            "reference": "composition_model.fc.weight",
            "atom_embedding": "atom_embedding.embedding.weight",
            "atom_frequencies": "bond_basis_expansion.rbf_expansion_ag.frequencies",
            "bond_frequencies": "bond_basis_expansion.rbf_expansion_bg.frequencies",
            "angle_frequencies": "angle_basis_expansion.fourier_expansion.frequencies",
            "bond_embedding": "bond_embedding.weight",
            "atom_weights": "bond_weights_ag.weight",
            "bond_weights": "bond_weights_bg.weight",
            "angle_embedding": "angle_embedding.weight",
        }.items():
            self.register_buffer(name, state[key].clone())
        self.atom_mlps, self.atom_outs = nn.ModuleList(), nn.ModuleList()
        self.bond_mlps, self.bond_outs = nn.ModuleList(), nn.ModuleList()
        self.angle_mlps = nn.ModuleList()
        for i in range(layers):
            self.atom_mlps.append(GatedMLP(state, f"atom_conv_layers.{i}.twoBody_atom", 3))
            self.atom_outs.append(_linear(state, f"atom_conv_layers.{i}.mlp_out.layers.1"))
        for i in range(layers - 1):
            self.bond_mlps.append(GatedMLP(state, f"bond_conv_layers.{i}.twoBody_bond", 4))
            self.bond_outs.append(_linear(state, f"bond_conv_layers.{i}.mlp_out.layers.1"))
        for i in range(layers - 2):
            self.angle_mlps.append(GatedMLP(state, f"angle_layers.{i}.twoBody_bond", 4))
        has_norm = settings["readout_norm"] == "layer"
        self.readout_norm = _layer_norm(state, "readout_norm") if has_norm else nn.Identity()
        names = [f"mlp.layers.{i}" for i in range(20) if f"mlp.layers.{i}.weight" in state]
        self.readout = nn.ModuleList(_linear(state, name) for name in names)
        self.requires_grad_(False)

    def forward(self, graph: Graph) -> Tensor:
        """Return ``(M,)`` float64 total energies in eV, differentiable in ``graph.vectors``."""
        short, first, second = graph.short, graph.first, graph.second
        lengths = torch.linalg.vector_norm(graph.vectors, dim=1)
        basis = self._radial(lengths, self.atom_frequencies, self.atom_cutoff)
        atom_weights = functional.linear(basis, self.atom_weights)
        bonds = functional.linear(basis, self.bond_embedding)
        near, far = bonds[:short], bonds[short:]
        basis = self._radial(lengths[:short], self.bond_frequencies, self.bond_cutoff)
        bond_weights = functional.linear(basis, self.bond_weights)
        units = graph.vectors[:short] / lengths[:short, None]
        angles = self._angles(units, graph)
        # 0.2.0 has a bias that reaches every bond of a crystal that has angles. (The package gives
        # it to crystals without angles too, if another crystal of the same batch has some.)
        angular = None
        if self.bond_outs and cast(nn.Linear, self.bond_outs[0]).bias is not None:
            angular = torch.zeros(len(graph.num_atoms), device=lengths.device)
            angular[graph.owners[graph.angle_atom]] = 1.0
            angular = angular[graph.owners[first], None]

        atoms = self.atom_embedding[graph.numbers - 1]
        for i, (module, out) in enumerate(zip(self.atom_mlps, self.atom_outs, strict=True)):
            mlp = cast(GatedMLP, module)
            centre, other = mlp.project(atoms, 0), mlp.project(atoms, 2)
            along = mlp.project(torch.cat([near, far]), 1)
            total = torch.zeros_like(atoms)
            for a, b in ((first, second), (second, first)):
                values = centre.index_select(0, a)  # much faster than centre[a] on CPUs
                values += other.index_select(0, b)
                values += along
                total = total.index_add(0, a, mlp(values) * atom_weights)
            atoms = atoms + out(total)
            if i < len(self.bond_mlps):
                update = self._bond_update(i, graph, atoms, near, bond_weights, angles)
                bond_out = cast(nn.Linear, self.bond_outs[i])
                update = functional.linear(update, bond_out.weight)
                new = near + update
                if angular is not None:
                    new = new + angular[:short] * bond_out.bias
                    far = far + angular[short:] * bond_out.bias
                near = new
            if i < len(self.angle_mlps):
                angles = angles + self._over_angles(self.angle_mlps[i], graph, atoms, near, angles)
        atoms = self.readout_norm(atoms)
        for i, layer in enumerate(self.readout):
            atoms = layer(functional.silu(atoms) if i else atoms)
        site = atoms[:, 0].double() + self.reference[0, graph.numbers - 1].double()
        return site.new_zeros(len(graph.num_atoms)).index_add(0, graph.owners, site)

    def _bond_update(
        self, i: int, graph: Graph, atoms: Tensor, near: Tensor, weights: Tensor, angles: Tensor
    ) -> Tensor:
        left, right = graph.angle_bonds
        message = self._over_angles(self.bond_mlps[i], graph, atoms, near, angles)
        message = message * weights.index_select(0, left) * weights.index_select(0, right)
        return torch.zeros_like(near).index_add(0, left, message)

    @staticmethod
    def _over_angles(
        module: nn.Module, graph: Graph, atoms: Tensor, near: Tensor, angles: Tensor
    ) -> Tensor:
        mlp = cast(GatedMLP, module)
        left, right = graph.angle_bonds
        values = mlp.project(angles, 2)
        values += mlp.project(near, 0).index_select(0, left)
        values += mlp.project(near, 1).index_select(0, right)
        values += mlp.project(atoms, 3).index_select(0, graph.angle_atom)
        return mlp(values)

    def _radial(self, lengths: Tensor, frequencies: Tensor, cutoff: float) -> Tensor:
        """Bessel functions under DimeNet's polynomial envelope (arXiv:2003.03123, eq. 7, 8)."""
        p, scaled = self.power, (lengths / cutoff).unsqueeze(1)
        envelope = (
            1
            - (p + 1) * (p + 2) / 2 * scaled**p
            + p * (p + 2) * scaled ** (p + 1)
            - p * (p + 1) / 2 * scaled ** (p + 2)
        )
        envelope = torch.where(scaled < 1, envelope, torch.zeros_like(envelope))
        waves = torch.sin(frequencies * scaled) / lengths.unsqueeze(1)
        return (2 / cutoff) ** 0.5 * waves * envelope

    def _angles(self, units: Tensor, graph: Graph) -> Tensor:
        """Embedded Fourier expansion of the angles between bonds, ``(T, D)``."""
        left, right = graph.angle_bonds
        cosine = (units.index_select(0, left) * units.index_select(0, right)).sum(1)
        cosine = cosine * graph.angle_signs
        angle = torch.acos(cosine * (1 - 1e-6))  # the package's factor, keeps the slope finite
        phase = torch.outer(angle, self.angle_frequencies)
        constant = torch.full_like(angle, 0.5**0.5).unsqueeze(1)
        waves = torch.cat([constant, torch.sin(phase), torch.cos(phase)], 1)
        return functional.linear(waves, self.angle_embedding) / torch.pi**0.5


def load_weights(path: Path) -> CHGNetEnergy:
    """Read a weight file of the package; nothing in it is run."""
    held = torch.load(path, map_location="cpu", weights_only=True)["model"]
    return CHGNetEnergy(held["state_dict"], held["model_args"]).eval()


def _linear(state: dict[str, Tensor], name: str) -> nn.Linear:
    weight, bias = state[f"{name}.weight"], state.get(f"{name}.bias")
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight.clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.clone())
    return layer


def _layer_norm(state: dict[str, Tensor], name: str) -> nn.LayerNorm:
    norm = nn.LayerNorm(len(state[f"{name}.weight"]))
    norm.load_state_dict({key: state[f"{name}.{key}"] for key in ("weight", "bias")})
    return norm
