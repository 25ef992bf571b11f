"""The GPU programs of `attention` and `modulation`, in Triton; imported only where they run.

Attention has one program per crystal (axis 0) and head (axis 1). ``qkv`` is ``(T, 3 heads width)``;
rows beyond a crystal's atoms are loaded as 0 and never stored. Modulation has one per token.
"""

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]


@triton.jit
def _load(base, rows, columns, stride, real):
    return tl.load(base + rows[:, None] * stride + columns[None, :], mask=real[:, None], other=0.0)


@triton.jit
def _probabilities(q, k, real, scale):
    scores = tl.dot(q, tl.trans(k)) * scale
    scores = tl.where(real[None, :], scores, -1e30)
    scores = tl.exp(scores - tl.max(scores, axis=1)[:, None])
    return scores / tl.sum(scores, axis=1)[:, None]


@triton.jit
def attend(
    qkv, out, starts, counts, scale, heads: tl.constexpr, width: tl.constexpr, block: tl.constexpr
):
    """Write softmax(q k^T scale) v."""
    crystal, head = tl.program_id(0), tl.program_id(1)
    slots = tl.arange(0, block)
    real = slots < tl.load(counts + crystal)
    rows = tl.load(starts + crystal) + slots
    columns = head * width + tl.arange(0, width)
    full: tl.constexpr = heads * width
    q = _load(qkv, rows, columns, 3 * full, real)
    k = _load(qkv, rows, columns + full, 3 * full, real)
    v = _load(qkv, rows, columns + 2 * full, 3 * full, real)
    p = _probabilities(q, k, real, scale)
    o = tl.dot(p.to(v.dtype), v)
    place = out + rows[:, None] * full + columns[None, :]
    tl.store(place, o.to(v.dtype), mask=real[:, None])


@triton.jit
def attend_backward(
    qkv,
    grad,
    out,
    starts,
    counts,
    scale,
    heads: tl.constexpr,
    width: tl.constexpr,
    block: tl.constexpr,
):
    """Write the gradients of q, k and v, given that of the output."""
    crystal, head = tl.program_id(0), tl.program_id(1)
    slots = tl.arange(0, block)
    real = slots < tl.load(counts + crystal)
    rows = tl.load(starts + crystal) + slots
    columns = head * width + tl.arange(0, width)
    full: tl.constexpr = heads * width
    q = _load(qkv, rows, columns, 3 * full, real)
    k = _load(qkv, rows, columns + full, 3 * full, real)
    v = _load(qkv, rows, columns + 2 * full, 3 * full, real)
    do = _load(grad, rows, columns, full, real)
    p = _probabilities(q, k, real, scale)
    dv = tl.dot(tl.trans(p.to(v.dtype)), do)
    dp = tl.dot(do, tl.trans(v))
    ds = (p * (dp - tl.sum(p * dp, axis=1)[:, None]) * scale).to(v.dtype)
    dq = tl.dot(ds, k)
    dk = tl.dot(tl.trans(ds), q)
    place = out + rows[:, None] * (3 * full) + columns[None, :]
    tl.store(place, dq.to(v.dtype), mask=real[:, None])
    tl.store(place + full, dk.to(v.dtype), mask=real[:, None])
    tl.store(place + 2 * full, dv.to(v.dtype), mask=real[:, None])


@triton.jit
def add_and_modulate(
    x,
    branch,
    modulation,
    slots,
    x_out,
    h_out,
    atoms,
    chunks: tl.constexpr,
    gate_at: tl.constexpr,
    shift_at: tl.constexpr,
    shared: tl.constexpr,
    packed: tl.constexpr,
    width: tl.constexpr,
    block: tl.constexpr,
):
    """Write ``x + gate branch`` (if gate_at >= 0), and its norm, scaled and shifted.

    The latter only if shift_at >= 0; the scale lies behind the shift. ``modulation`` has one row of
    ``chunks`` pieces per crystal, or a single one if ``shared``.
    """
    token = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, block)
    real = columns < width
    crystal = 0
    if not shared:
        slot = tl.load(slots + token) if packed else token
        crystal = slot // atoms
    pieces = modulation + crystal * chunks * width + columns
    value = tl.load(x + token * width + columns, mask=real, other=0.0).to(tl.float32)
    if gate_at >= 0:
        gate = tl.load(pieces + gate_at * width, mask=real, other=0.0).to(tl.float32)
        more = tl.load(branch + token * width + columns, mask=real, other=0.0).to(tl.float32)
        value += gate * more
        tl.store(x_out + token * width + columns, value, mask=real)
    if shift_at >= 0:
        away = tl.where(real, value - tl.sum(value, axis=0) / width, 0.0)
        variance = tl.sum(away * away, axis=0) / width
        shift = tl.load(pieces + shift_at * width, mask=real, other=0.0).to(tl.float32)
        scale = tl.load(pieces + (shift_at + 1) * width, mask=real, other=0.0).to(tl.float32)
        h = away * tl.rsqrt(variance + 1e-6) * (1 + scale) + shift
        tl.store(h_out + token * width + columns, h, mask=real)
