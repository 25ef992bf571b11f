"""Niggli reduction that agrees with pymatgen's to the last choice of axes, several times faster.

pymatgen's ``Structure.get_reduced_structure`` takes the first right-handed set of lattice vectors,
in the order of its neighbour search, whose lengths fit the Niggli form and whose angles are within
*one degree* of it. So its cell can differ slightly from the true Niggli cell. Published models saw
those cells; hence the same neighbour search and the same order of trial here.

All matrices are ``(3, 3)`` float64, rows a, b, c, angstrom.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
_MOST_POINTS = 1e5  # lattice points to search, over 4 pi / 3
_TOLERANCE = 1e-5  # of lengths, as a fraction of the cube root of the volume
_ANGLE_TOLERANCE_DEGREE = 1.0  # pymatgen's default in `find_mapping`


def niggli_matrix(matrix: Matrix) -> Matrix:
    """Return the Niggli-reduced cell in the frame of ``matrix``, right-handed.

    Args:
        matrix: a cell of non-zero volume.

    Returns:
        Integer combinations of the rows of ``matrix``. Where pymatgen finds no reduced cell, the
        result of spglib.

    References:
        Grosse-Kunstleve, Sauter, Adams, Acta Cryst. A60, 1 (2004).
    """
    basis = _lll_reduce(matrix.tolist())
    metric = [[_dot(x, y) for y in basis] for x in basis]
    epsilon = _TOLERANCE * abs(determinant(matrix)) ** (1 / 3)
    parameters = _niggli_parameters(metric, epsilon)
    reduced = None if parameters is None else _first_mapping(matrix, *parameters, epsilon)
    if reduced is None:
        import spglib

        reduced = spglib.niggli_reduce(matrix)
        if reduced is None:
            raise ValueError("the cell has no Niggli form: its vectors are too close to a plane")
    return reduced if determinant(reduced) > 0 else -reduced


def reduced_basis(matrix: Matrix) -> list[list[float]]:
    """Return three short vectors of a lattice: its Lenstra-Lenstra-Lovasz basis."""
    return _lll_reduce(matrix.tolist())


def determinant(matrix: Matrix) -> float:
    """Return the determinant of a 3x3 matrix; numpy's takes ten times longer at this size."""
    return _determinant(*matrix.tolist())


def _determinant(a: list[float], b: list[float], c: list[float]) -> float:
    return (
        a[0] * (b[1] * c[2] - b[2] * c[1])
        - a[1] * (b[0] * c[2] - b[2] * c[0])
        + a[2] * (b[0] * c[1] - b[1] * c[0])
    )


def cell_parameters(matrix: Matrix) -> tuple[Matrix, Matrix]:
    """Return lengths (3,) in angstrom and angles (3,) in radian."""
    a, b, c = matrix.tolist()
    la, lb, lc = (math.sqrt(_dot(x, x)) for x in (a, b, c))
    cosines = (_dot(b, c) / lb / lc, _dot(a, c) / la / lc, _dot(a, b) / la / lb)
    return np.array([la, lb, lc]), np.array([math.acos(min(1, max(-1, x))) for x in cosines])


def cell_matrix(lengths: Matrix, angles: Matrix) -> Matrix:
    """Build a cell with c along z and a in the xz plane, as pymatgen does.

    Args:
        lengths: (3,) angstrom.
        angles: (3,) radian.
    """
    a, b, c = (float(x) for x in lengths)
    cos_alpha, cos_beta, cos_gamma = (math.cos(x) for x in angles)
    sin_alpha, sin_beta, _ = (math.sin(x) for x in angles)
    value = (cos_alpha * cos_beta - cos_gamma) / (sin_alpha * sin_beta)
    gamma_star = math.acos(min(1.0, max(-1.0, value)))
    return np.array(
        [
            [a * sin_beta, 0.0, a * cos_beta],
            [
                -b * sin_alpha * math.cos(gamma_star),
                b * sin_alpha * math.sin(gamma_star),
                b * cos_alpha,
            ],
            [0.0, 0.0, c],
        ]
    )


def _dot(x: Sequence[float], y: Sequence[float]) -> float:
    return x[0] * y[0] + x[1] * y[1] + x[2] * y[2]


def _lll_reduce(a: list[list[float]], delta: float = 0.75) -> list[list[float]]:
    """Return the Lenstra-Lenstra-Lovasz basis, with pymatgen's steps.

    The Niggli steps may start anywhere, but within their tolerance the result depends on it.
    """
    b = [list(a[0]), [0.0] * 3, [0.0] * 3]  # orthogonalised
    u = [[0.0] * 3 for _ in range(3)]  # Gram-Schmidt coefficients
    m = [_dot(b[0], b[0]), 0.0, 0.0]

    def orthogonalise(i: int) -> None:
        u[i][:i] = [_dot(a[i], b[j]) / m[j] for j in range(i)]
        b[i] = [a[i][x] - sum(u[i][j] * b[j][x] for j in range(i)) for x in range(3)]
        m[i] = _dot(b[i], b[i])

    orthogonalise(1)
    orthogonalise(2)
    k = 1
    while k < 3:
        for i in range(k - 1, -1, -1):
            if q := round(u[k][i]):
                a[k] = [x - q * y for x, y in zip(a[k], a[i], strict=True)]
                u[k][:i] = [u[k][j] - q * u[i][j] for j in range(i)]
                u[k][i] -= q
        if m[k] >= (delta - u[k][k - 1] ** 2) * m[k - 1]:
            k += 1
            continue
        a[k], a[k - 1] = a[k - 1], a[k]
        orthogonalise(k - 1)
        orthogonalise(k)
        if k == 2:
            k = 1
        else:
            u[2][:2] = [_dot(a[2], b[j]) / m[j] for j in range(2)]
    return a


def _transform(g: list[list[float]], m: list[list[float]]) -> list[list[float]]:
    """Return ``m^T g m`` for 3x3 lists; faster than numpy at this size."""
    columns = list(zip(*m, strict=True))
    gm = [[x * p + y * q + z * r for p, q, r in columns] for x, y, z in g]
    first, second, third = gm
    return [[p * first[j] + q * second[j] + r * third[j] for j in range(3)] for p, q, r in columns]


def _niggli_parameters(
    metric: list[list[float]], e: float
) -> tuple[list[float], list[float]] | None:
    """Return lengths and angles (degree) of the Niggli form; steps are named as in the paper."""
    g = metric
    for _ in range(100):
        a, b, xi, eta, zeta = g[0][0], g[1][1], 2 * g[1][2], 2 * g[0][2], 2 * g[0][1]
        if b + e < a or (abs(a - b) < e and abs(xi) > abs(eta) + e):  # A1
            g = _transform(g, [[0, -1, 0], [-1, 0, 0], [0, 0, -1]])
        b, c, eta, zeta = g[1][1], g[2][2], 2 * g[0][2], 2 * g[0][1]
        if c + e < b or (abs(b - c) < e and abs(eta) > abs(zeta) + e):  # A2
            g = _transform(g, [[-1, 0, 0], [0, 0, -1], [0, -1, 0]])
            continue
        flips = _signs(2 * g[1][2], 2 * g[0][2], 2 * g[0][1], e)  # A3, A4
        g = [
            [x * s * t for x, t in zip(row, flips, strict=True)]
            for row, s in zip(g, flips, strict=True)
        ]
        a, b, xi, eta, zeta = g[0][0], g[1][1], 2 * g[1][2], 2 * g[0][2], 2 * g[0][1]
        if (
            abs(xi) > b + e
            or (abs(xi - b) < e and zeta - e > 2 * eta)
            or (abs(xi + b) < e and -e > zeta)
        ):  # A5
            g = _transform(g, [[1, 0, 0], [0, 1, -math.copysign(1, xi)], [0, 0, 1]])
        elif (
            abs(eta) > a + e
            or (abs(a - eta) < e and zeta - e > 2 * xi)
            or (abs(a + eta) < e and -e > zeta)
        ):  # A6
            g = _transform(g, [[1, 0, -math.copysign(1, eta)], [0, 1, 0], [0, 0, 1]])
        elif (
            abs(zeta) > a + e
            or (abs(a - zeta) < e and eta - e > 2 * xi)
            or (abs(a + zeta) < e and -e > eta)
        ):  # A7
            g = _transform(g, [[1, -math.copysign(1, zeta), 0], [0, 1, 0], [0, 0, 1]])
        elif -e > xi + eta + zeta + a + b or (
            abs(xi + eta + zeta + a + b) < e < zeta + (a + eta) * 2
        ):  # A8
            g = _transform(g, [[1, 0, 1], [0, 1, 1], [0, 0, 1]])
        else:
            break
    squares = [g[i][i] for i in range(3)]
    if min(squares) <= 0:
        return None
    lengths = [math.sqrt(x) for x in squares]
    cosines = [
        g[1][2] / lengths[1] / lengths[2],
        g[0][2] / lengths[0] / lengths[2],
        g[0][1] / lengths[0] / lengths[1],
    ]
    if max(abs(x) for x in cosines) > 1:
        return None
    return lengths, [math.degrees(math.acos(x)) for x in cosines]


def _signs(xi: float, eta: float, zeta: float, e: float) -> list[float]:
    """Return the axis flips that make the three dot products all positive or all non-positive."""
    signs = [0 if abs(x) < e else math.copysign(1, x) for x in (xi, eta, zeta)]
    if math.prod(signs) == 1:
        flips = [-1.0 if s == -1 else 1.0 for s in signs]
    else:
        flips = [-1.0 if s == 1 else 1.0 for s in signs]
        if math.prod(flips) == -1:
            # exactly one free axis may be flipped; the last one wins, as in pymatgen
            for axis in (2, 1, 0):
                if signs[axis] == 0:
                    flips[axis] = -1.0
                    break
    return flips


def _first_mapping(
    matrix: Matrix, lengths: list[float], angles: list[float], tolerance: float
) -> Matrix | None:
    """Return the first lattice vectors with these lengths and angles (degree), or None.

    A set of the other handedness is returned only if there is no other.
    """
    radius = max(lengths) * (1 + tolerance)
    if radius**3 > _MOST_POINTS * abs(determinant(matrix)):
        return None  # a needle of a cell: the search would fill the memory
    _, _, images, distances = points_within(np.zeros((1, 3)), matrix, radius)
    found = list(zip(images.tolist(), (images @ matrix).tolist(), distances.tolist(), strict=True))
    low, high = 1 / (1 + tolerance), 1 + tolerance
    # image, vector and length of the candidates for a, b and c
    as_, bs, cs = ([f for f in found if low < f[2] / x < high] for x in lengths)
    alpha, beta, gamma = (_cosine_range(x) for x in angles)
    mirrored = None
    for image_a, a, length_a in as_:
        fitting = [c for c in cs if beta[0] <= _dot(a, c[1]) / length_a / c[2] <= beta[1]]
        for image_b, b, length_b in bs:
            if not gamma[0] <= _dot(a, b) / length_a / length_b <= gamma[1]:
                continue
            for image_c, c, length_c in fitting:
                if not alpha[0] <= _dot(b, c) / length_b / length_c <= alpha[1]:
                    continue
                handedness = _determinant(image_a, image_b, image_c)
                if handedness > 0:
                    return np.array([a, b, c])
                if handedness < 0 and mirrored is None:
                    mirrored = np.array([a, b, c])
    return mirrored


def points_within(points: Matrix, matrix: Matrix, radius: float) -> tuple[Any, Any, Any, Any]:
    """Return what images of points lie within a radius of points, by pymatgen's neighbour search.

    Args:
        points: ``(N, 3)`` angstrom, in the cell.
        matrix: the cell.
        radius: angstrom.

    Returns:
        Numbers ``(P,)`` of both points, image ``(P, 3)`` of the second, distance ``(P,)``; each
        pair both ways, and each point with itself.
    """
    from pymatgen.optimization.neighbors import find_points_in_spheres

    points = np.ascontiguousarray(points, dtype=float)
    return find_points_in_spheres(
        all_coords=points,
        center_coords=points,
        r=radius,
        pbc=np.ones(3, dtype=np.int64),
        lattice=np.ascontiguousarray(matrix, dtype=float),
        tol=1e-8,
    )


def _cosine_range(angle: float) -> tuple[float, float]:
    """Return the cosines of an angle in degree plus and minus the tolerance."""
    return (
        math.cos(math.radians(min(180.0, angle + _ANGLE_TOLERANCE_DEGREE))),
        math.cos(math.radians(max(0.0, angle - _ANGLE_TOLERANCE_DEGREE))),
    )
