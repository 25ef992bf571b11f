"""The GPU programs of `sevennet_convolution`, in Triton; imported only where they run.

A row of ``paths`` is one path: first weight, first coupling, first input, first output, and whether
its sign changes with the direction of a bond. Features are ``(atoms, channels, components)``.
"""

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]


@triton.jit
def gather(
    given,
    weights,
    couplings,
    out,
    starts,
    bonds,
    others,
    signs,
    paths,
    given_width,
    weights_width,
    couplings_width,
    out_width,
    inner: tl.constexpr,
    outer: tl.constexpr,
    padded: tl.constexpr,
    inner_stride: tl.constexpr,
    outer_stride: tl.constexpr,
    looped: tl.constexpr,
    add: tl.constexpr,
    channels: tl.constexpr,
):
    """Sum over an atom's bonds: weight x coupling x the other atom's input.

    Axis 0 is the atom, 1 the path (or, if ``looped`` > 1 of them are summed, nothing), 2 a block of
    channels. ``inner`` components come in and are summed over, ``outer`` go out.
    """
    atom = tl.program_id(0).to(tl.int64)
    u = tl.program_id(2) * channels + tl.arange(0, channels)
    k = tl.arange(0, padded)
    real = k < outer
    total = tl.zeros([channels, padded], dtype=tl.float32)
    begin, end = tl.load(starts + atom), tl.load(starts + atom + 1)
    row = paths + tl.program_id(1) * 5
    for step in range(looped):
        path = row + step * 5
        weight_at, coupling_at = tl.load(path), tl.load(path + 1)
        given_at, odd = tl.load(path + 2), tl.load(path + 4)
        for entry in range(begin, end):
            bond = tl.load(bonds + entry).to(tl.int64)
            other = tl.load(others + entry).to(tl.int64)
            sign = tl.where(odd == 1, tl.load(signs + entry), 1.0)
            weight = tl.load(weights + bond * weights_width + weight_at + u) * sign
            source = given + other * given_width + given_at + u * inner
            coupling = couplings + bond * couplings_width + coupling_at + k * outer_stride
            for i in tl.static_range(inner):
                value = weight * tl.load(source + i)
                factor = tl.load(coupling + i * inner_stride, mask=real, other=0.0)
                total += value[:, None] * factor[None, :]
    place = out + atom * out_width + tl.load(row + 3) + u[:, None] * outer + k[None, :]
    mask = real[None, :] & (u >= 0)[:, None]
    if add:
        total += tl.load(place, mask=mask, other=0.0)
    tl.store(place, total, mask=mask)


@triton.jit
def per_bond(
    given,
    weights,
    couplings,
    slopes,
    weight_slopes,
    coupling_slopes,
    first,
    second,
    paths,
    given_width,
    weights_width,
    couplings_width,
    out_width,
    inner: tl.constexpr,
    outer: tl.constexpr,
    padded: tl.constexpr,
    channels: tl.constexpr,
):
    """Write the slopes of a bond's weights and couplings, both of its directions together.

    Axis 0 is the bond, 1 the path.
    """
    bond = tl.program_id(0).to(tl.int64)
    path = paths + tl.program_id(1) * 5
    weight_at, coupling_at, given_at = tl.load(path), tl.load(path + 1), tl.load(path + 2)
    out_at, odd = tl.load(path + 3), tl.load(path + 4)
    u, k = tl.arange(0, channels), tl.arange(0, padded)
    real = k < outer
    mask = real[None, :] & (u >= 0)[:, None]
    a, b = tl.load(first + bond).to(tl.int64), tl.load(second + bond).to(tl.int64)
    within = out_at + u[:, None] * outer + k[None, :]
    back = tl.where(odd == 1, -1.0, 1.0)
    to_a = tl.load(slopes + a * out_width + within, mask=mask, other=0.0)
    to_b = tl.load(slopes + b * out_width + within, mask=mask, other=0.0) * back
    weight = tl.load(weights + bond * weights_width + weight_at + u)
    from_a = given + a * given_width + given_at + u * inner
    from_b = given + b * given_width + given_at + u * inner
    at = bond * couplings_width + coupling_at + k
    weight_slope = tl.zeros([channels], dtype=tl.float32)
    for i in tl.static_range(inner):
        both = tl.load(from_b + i)[:, None] * to_a + tl.load(from_a + i)[:, None] * to_b
        factor = tl.load(couplings + at + i * outer, mask=real, other=0.0)
        weight_slope += tl.sum(both * factor[None, :], axis=1)
        slope = tl.sum(both * weight[:, None], axis=0)
        tl.store(coupling_slopes + at + i * outer, slope, mask=real)
    tl.store(weight_slopes + bond * weights_width + weight_at + u, weight_slope)
