"""The row losses from embeddings: kernels. Host functions: from_embeddings.py.

Scores come as tiles, [R, B], of products over the embeddings' width, and in the forward go no further than registers. A
program has R rows and one part of a block of passages, whose tiles it adds to sums as rows.py has them: other queries'
passages, one sum of each kind (`embeddings_others_kernel`), and a row's own, by level (`embeddings_own_kernel`, which
where labels grade the whole row does all). Where a batch's passages are scored by all queries nearly all tiles are the
others', and that kernel has registers for large ones. `embeddings_finish_kernel` puts the parts together, in their
order, and gives the sums to the losses' epilogues (level_losses.py). `embeddings_gradient_kernel` computes tiles again
and writes ∂loss/∂S, of which the host makes two matrix products.

Sums live in memory, [parts, slots, q] of C, from one block of passages to the next; what each slot is, below.

Within a tile, columns are counted in the batch: a block's first passage is column `begin`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .level_losses import conclude, with_others
from .row_kernels import by_level, score_gradient
from .rows import INTERPRETED, exp_below, float64_scalar, load_levels, load_target, precise_log, rise_of_maximum
from .targets import GIVEN

LOG2_E = tl.constexpr(1.4426950408889634)

# The others' sums: one that is −inf before any passage, and those which are 0.
OTHERS_TOP = tl.constexpr(0)
OTHERS_MASS, OTHERS_COUNT, OTHERS_LOGITS, OTHERS_GIVEN, OTHERS_ASKED, OTHERS_ENTROPY = (
    tl.constexpr(i) for i in range(1, 7)
)
OTHERS_SLOTS = tl.constexpr(7)
# A row's own: likewise two and the others. By level there are mass, count, logits and given, num_levels of each.
OWN_TOP, NAMED = tl.constexpr(0), tl.constexpr(1)
OWN_ASKED, OWN_ENTROPY, BY_LEVEL = tl.constexpr(2), tl.constexpr(3), tl.constexpr(4)


# Of what is not specialised some changes from block to block, and nothing gains by a kernel of its own.
@triton.jit(do_not_specialize=["q", "n", "M", "first", "begin"])
def embeddings_others_kernel(
    queries: tl.tensor,  # [q, d]
    passages: tl.tensor,  # [n, d], a block
    query_norms: tl.tensor,  # [q] of C, inverse; None unless the similarity is the cosine
    passage_norms: tl.tensor,  # [n] of C
    learned: tl.tensor,  # [] of C, the temperature; or None
    target: tl.tensor,  # [q, N] of C, where all are given one; else None
    mask: tl.tensor,  # bool, [q, N] where MASK_A_ROW, else one flag a passage, [N]; or None
    exclude: tl.tensor,  # bool [q, N], or None
    pairs: tl.tensor,  # [M] int64, row · N + column of what is excluded, rising; or None
    sums: tl.tensor,  # [parts, OTHERS_SLOTS, q] of C
    q: tl.tensor,
    n: tl.tensor,
    d: tl.tensor,
    N: tl.tensor,  # passages of the batch
    K: tl.tensor,  # own passages a row
    M: tl.tensor,
    first: tl.tensor,  # the batch's query that row 0 is
    begin: tl.tensor,  # the batch's passage that the block's first is
    temperature: tl.float64,
    LOGITS: tl.constexpr,  # whether a loss looks at the logits' sums
    ASKED: tl.constexpr,  # whether KL looks at the target
    MASK_A_ROW: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    DEPTH: tl.constexpr,
) -> None:
    """Of other queries' passages, one sum of each kind."""
    C: tl.constexpr = sums.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    in_rows = row < q
    _, scale = inverse_temperature(temperature, learned)
    scale = scale.to(C)
    own_begin = own_columns(row, first, K, False)
    low, high = part_of(0, n, BLOCK)

    a_slot = q.to(tl.int64)
    at = sums + tl.program_id(1) * (a_slot * OTHERS_SLOTS) + row
    top = tl.load(at + a_slot * OTHERS_TOP, mask=in_rows, other=float("-inf"))
    mass = tl.load(at + a_slot * OTHERS_MASS, mask=in_rows, other=0)
    count = tl.load(at + a_slot * OTHERS_COUNT, mask=in_rows, other=0)
    if LOGITS:
        logits = tl.load(at + a_slot * OTHERS_LOGITS, mask=in_rows, other=0)
    if target is not None:
        given = tl.load(at + a_slot * OTHERS_GIVEN, mask=in_rows, other=0)
    if ASKED:
        asked = tl.load(at + a_slot * OTHERS_ASKED, mask=in_rows, other=0)
        entropy = tl.load(at + a_slot * OTHERS_ENTROPY, mask=in_rows, other=0)
    if pairs is not None:
        pair = first_pair(pairs, row * N + (begin + low), M)
    for start in range(low, high, BLOCK):
        column, inside, s = scores_tile(
            queries, passages, query_norms, passage_norms, mask, exclude, row, start, high, q, d, N, begin,
            C, MASK_A_ROW, PRECISION, ROWS, BLOCK, DEPTH,
        )  # fmt: skip
        if pairs is not None:
            s, pair = without_pairs(s, pairs, pair, row, column, begin + start + BLOCK, N, M)
        k = column[None, :] - own_begin[:, None]
        s = tl.where((k < 0) | (k >= K), s, float("-inf"))
        takes_part = s != float("-inf")
        higher = tl.maximum(top, tl.max(s, axis=1))
        mass = mass * exp_below(top, higher, scale) + tl.sum(exp_below(s, higher[:, None], scale), axis=1)
        if LOGITS or ASKED:
            rise = rise_of_maximum(top, higher)
            x = tl.where(takes_part, s - higher[:, None], 0.0)
        if LOGITS:
            logits += tl.sum(x, axis=1) - count * rise
        count += tl.sum(takes_part.to(C), axis=1)
        if target is not None:
            t = load_target(target, (row * N)[:, None] + column[None, :], inside, takes_part)
            if ASKED:
                asked += tl.sum(t * x, axis=1) - given * rise
                entropy += tl.sum(t * precise_log(tl.where(t > 0, t, 1.0)), axis=1)
            given += tl.sum(t, axis=1)
        top = higher
    tl.store(at + a_slot * OTHERS_TOP, top, mask=in_rows)
    tl.store(at + a_slot * OTHERS_MASS, mass, mask=in_rows)
    tl.store(at + a_slot * OTHERS_COUNT, count, mask=in_rows)
    if LOGITS:
        tl.store(at + a_slot * OTHERS_LOGITS, logits, mask=in_rows)
    if target is not None:
        tl.store(at + a_slot * OTHERS_GIVEN, given, mask=in_rows)
    if ASKED:
        tl.store(at + a_slot * OTHERS_ASKED, asked, mask=in_rows)
        tl.store(at + a_slot * OTHERS_ENTROPY, entropy, mask=in_rows)


@triton.jit(do_not_specialize=["q", "n", "M", "first", "begin", "num_levels"])
def embeddings_own_kernel(
    queries: tl.tensor,  # as in embeddings_others_kernel, from here
    passages: tl.tensor,
    query_norms: tl.tensor,
    passage_norms: tl.tensor,
    learned: tl.tensor,  # to here
    labels: tl.tensor,  # [q, K] integers
    target: tl.tensor,  # [q, N] or [q, K] of C, where it is given; else None
    mask: tl.tensor,  # and again from here
    exclude: tl.tensor,
    pairs: tl.tensor,  # to here
    positives: tl.tensor,  # [q] int64, or None
    sums: tl.tensor,  # [parts, BY_LEVEL + 4·num_levels, q] of C
    q: tl.tensor,
    n: tl.tensor,
    d: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    M: tl.tensor,
    first: tl.tensor,
    begin: tl.tensor,
    target_stride: tl.tensor,
    num_levels: tl.tensor,
    temperature: tl.float64,
    LOGITS: tl.constexpr,
    ASKED: tl.constexpr,
    GIVEN_BY_LEVEL: tl.constexpr,  # whether the target is asked for by level
    TARGET_COVERS_ROW: tl.constexpr,  # target is [q, N]
    ALL_OWN: tl.constexpr,  # K = N: labels grade the whole row
    MASK_A_ROW: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    DEPTH: tl.constexpr,
    LEVELS: tl.constexpr,  # num_levels, rounded up to a power of two
) -> None:
    """Of rows' own passages, sums by level."""
    C: tl.constexpr = sums.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    in_rows = row < q
    _, scale = inverse_temperature(temperature, learned)
    scale = scale.to(C)
    own_begin = own_columns(row, first, K, ALL_OWN)
    if ALL_OWN:
        low, high = part_of(0, n, BLOCK)
    else:  # the rows' own passages lie side by side
        first_row = first + tl.program_id(0).to(tl.int64) * ROWS
        last_row = tl.minimum(first_row + ROWS, first + q)
        low = tl.minimum(tl.maximum(first_row * K - begin, 0), n).to(tl.int32)
        high = tl.minimum(tl.maximum(last_row * K - begin, 0), n).to(tl.int32)
        low, high = part_of(low, high, BLOCK)

    a_slot = q.to(tl.int64)
    at = sums + tl.program_id(1) * ((4 * num_levels + BY_LEVEL) * a_slot) + row
    here = tl.arange(0, LEVELS)[None, :]
    at_level = at[:, None] + (here + BY_LEVEL) * a_slot
    is_level = in_rows[:, None] & (here < num_levels)
    next_kind = num_levels * a_slot
    top = tl.load(at + a_slot * OWN_TOP, mask=in_rows, other=float("-inf"))
    mass = tl.load(at_level, mask=is_level, other=0)
    count = tl.load(at_level + next_kind, mask=is_level, other=0)
    if LOGITS:
        logits = tl.load(at_level + 2 * next_kind, mask=is_level, other=0)
    if target is not None:
        given = tl.load(at_level + 3 * next_kind, mask=is_level, other=0)
    if ASKED:
        asked = tl.load(at + a_slot * OWN_ASKED, mask=in_rows, other=0)
        entropy = tl.load(at + a_slot * OWN_ENTROPY, mask=in_rows, other=0)
    if positives is not None:
        named = tl.load(at + a_slot * NAMED, mask=in_rows, other=float("-inf"))
        positive = tl.load(positives + row, mask=in_rows, other=-1)
    if pairs is not None:
        pair = first_pair(pairs, row * N + (begin + low), M)
    for start in range(low, high, BLOCK):
        column, inside, s = scores_tile(
            queries, passages, query_norms, passage_norms, mask, exclude, row, start, high, q, d, N, begin,
            C, MASK_A_ROW, PRECISION, ROWS, BLOCK, DEPTH,
        )  # fmt: skip
        if pairs is not None:
            s, pair = without_pairs(s, pairs, pair, row, column, begin + start + BLOCK, N, M)
        k = column[None, :] - own_begin[:, None]
        if not ALL_OWN:
            inside = inside & (k >= 0) & (k < K)
            s = tl.where(inside, s, float("-inf"))
        takes_part = s != float("-inf")
        level, stray = load_levels(labels, (row * K)[:, None] + k, inside, num_levels)
        stray = tl.max((stray & takes_part).to(tl.int32), axis=1)[:, None]
        level = tl.where(takes_part, level, -1)
        if positives is not None:
            named = tl.maximum(named, tl.max(tl.where(k == positive[:, None], s, float("-inf")), axis=1))
        higher = tl.maximum(top, tl.max(s, axis=1))
        e = exp_below(s, higher[:, None], scale)
        mass *= exp_below(top, higher, scale)[:, None]
        if LOGITS or ASKED:
            rise = rise_of_maximum(top, higher)
            x = tl.where(takes_part, s - higher[:, None], 0.0)
        if LOGITS:
            logits -= count * rise[:, None]
        if target is not None:
            if TARGET_COVERS_ROW:
                t = load_target(target, (row * target_stride)[:, None] + column[None, :], inside, takes_part)
            else:
                t = load_target(target, (row * target_stride)[:, None] + k, inside, takes_part)
            if ASKED:
                asked += tl.sum(t * x, axis=1) - tl.sum(given, axis=1) * rise
                entropy += tl.sum(t * precise_log(tl.where(t > 0, t, 1.0)), axis=1)
            if not GIVEN_BY_LEVEL:
                given += tl.where(here == 0, tl.sum(t, axis=1)[:, None], 0.0)
        for i in range(num_levels):
            of_i = level == i
            mass += tl.where(here == i, tl.sum(tl.where(of_i, e, 0.0), axis=1)[:, None], 0.0)
            count += tl.where(here == i, tl.sum(of_i.to(C), axis=1)[:, None], 0.0)
            if LOGITS:
                logits += tl.where(here == i, tl.sum(tl.where(of_i, x, 0.0), axis=1)[:, None], 0.0)
            if GIVEN_BY_LEVEL:
                given += tl.where(here == i, tl.sum(tl.where(of_i, t, 0.0), axis=1)[:, None], 0.0)
        count = tl.where(stray > 0, float("nan"), count)
        top = higher
    tl.store(at + a_slot * OWN_TOP, top, mask=in_rows)
    tl.store(at_level, mass, mask=is_level)
    tl.store(at_level + next_kind, count, mask=is_level)
    if LOGITS:
        tl.store(at_level + 2 * next_kind, logits, mask=is_level)
    if target is not None:
        tl.store(at_level + 3 * next_kind, given, mask=is_level)
    if ASKED:
        tl.store(at + a_slot * OWN_ASKED, asked, mask=in_rows)
        tl.store(at + a_slot * OWN_ENTROPY, entropy, mask=in_rows)
    if positives is not None:
        tl.store(at + a_slot * NAMED, named, mask=in_rows)


@triton.jit(do_not_specialize=["q", "K", "own_parts", "others_parts", "in_batch", "num_levels"])
def embeddings_finish_kernel(
    own_sums: tl.tensor,  # [own_parts, BY_LEVEL + 4·num_levels, q] of C
    others_sums: tl.tensor,  # [others_parts, OTHERS_SLOTS, q] of C, or None unless OTHERS
    learned: tl.tensor,  # [] of C, or None
    labels: tl.tensor,  # [q, K] integers
    positives: tl.tensor,  # [q] int64, or None
    weight: tl.tensor,  # [q] of C, or None
    label_temperatures: tl.tensor,  # [q] of C, or None
    position: tl.tensor,  # [num_levels] float64, or None
    row_loss: tl.tensor,  # [q] float64
    row_weight: tl.tensor,  # [q] float64
    state: tl.tensor,  # [q, width] of C
    q: tl.tensor,
    K: tl.tensor,
    own_parts: tl.tensor,
    others_parts: tl.tensor,
    in_batch: tl.tensor,
    num_levels: tl.tensor,
    wasserstein: tl.float64,  # the losses' factors
    info_nce: tl.float64,
    kl: tl.float64,
    p: tl.float64,
    tie: tl.float64,
    temperature: tl.float64,
    label_temperature: tl.float64,
    WASSERSTEIN: tl.constexpr,  # which losses are computed
    INFO_NCE: tl.constexpr,
    KL: tl.constexpr,
    ORDER: tl.constexpr,
    TARGET: tl.constexpr,
    OTHERS: tl.constexpr,
    ROWS: tl.constexpr,
    LEVELS: tl.constexpr,
) -> None:
    C: tl.constexpr = state.dtype.element_ty
    AFFINE: tl.constexpr = INFO_NCE or KL
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    in_rows = row < q
    inverse, scale = inverse_temperature(temperature, learned)
    scale = scale.to(C)

    level = tl.arange(0, LEVELS)[None, :]
    is_level = in_rows[:, None] & (level < num_levels)
    a_slot = q.to(tl.int64)
    next_kind = num_levels * a_slot
    top = tl.full((ROWS,), float("-inf"), C)
    masses = tl.zeros((ROWS, LEVELS), tl.float64)
    counts, logits, given = masses, masses, masses
    asked = tl.zeros((ROWS,), tl.float64)
    entropy = asked
    score = top
    others_top = top
    mass = tl.zeros((ROWS, 1), tl.float64)
    count, others_logits, others_given = mass, mass, mass
    others_asked, others_entropy = asked, asked
    at = own_sums + row
    for _ in range(own_parts):
        at_level = at[:, None] + (level + BY_LEVEL) * a_slot
        more = tl.load(at + a_slot * OWN_TOP, mask=in_rows, other=float("-inf"))
        higher = tl.maximum(top, more)
        kept, added = exp_below(top, higher, scale).to(tl.float64), exp_below(more, higher, scale).to(tl.float64)
        rise = rise_of_maximum(top, higher).to(tl.float64)
        its_rise = rise_of_maximum(more, higher).to(tl.float64)
        its_count = tl.load(at_level + next_kind, mask=is_level, other=0).to(tl.float64)
        masses = masses * kept[:, None] + tl.load(at_level, mask=is_level, other=0).to(tl.float64) * added[:, None]
        if AFFINE:
            its_logits = tl.load(at_level + 2 * next_kind, mask=is_level, other=0).to(tl.float64)
            logits += its_logits - counts * rise[:, None] - its_count * its_rise[:, None]
        counts += its_count
        if TARGET == GIVEN:
            its_given = tl.load(at_level + 3 * next_kind, mask=is_level, other=0).to(tl.float64)
            its_asked = tl.load(at + a_slot * OWN_ASKED, mask=in_rows, other=0).to(tl.float64)
            asked += its_asked - tl.sum(given, axis=1) * rise - tl.sum(its_given, axis=1) * its_rise
            entropy += tl.load(at + a_slot * OWN_ENTROPY, mask=in_rows, other=0).to(tl.float64)
            given += its_given
        if positives is not None:
            score = tl.maximum(score, tl.load(at + a_slot * NAMED, mask=in_rows, other=float("-inf")))
        top = higher
        at += (4 * num_levels + BY_LEVEL) * a_slot
    if OTHERS:
        at = others_sums + row
        for _ in range(others_parts):
            more = tl.load(at + a_slot * OTHERS_TOP, mask=in_rows, other=float("-inf"))
            higher = tl.maximum(others_top, more)
            kept = exp_below(others_top, higher, scale).to(tl.float64)
            added = exp_below(more, higher, scale).to(tl.float64)
            rise = rise_of_maximum(others_top, higher).to(tl.float64)[:, None]
            its_rise = rise_of_maximum(more, higher).to(tl.float64)[:, None]
            its_mass = tl.load(at + a_slot * OTHERS_MASS, mask=in_rows, other=0).to(tl.float64)
            its_count = tl.load(at + a_slot * OTHERS_COUNT, mask=in_rows, other=0).to(tl.float64)[:, None]
            its_logits = tl.load(at + a_slot * OTHERS_LOGITS, mask=in_rows, other=0).to(tl.float64)[:, None]
            its_given = tl.load(at + a_slot * OTHERS_GIVEN, mask=in_rows, other=0).to(tl.float64)[:, None]
            mass = mass * kept[:, None] + (its_mass * added)[:, None]
            others_logits += its_logits - count * rise - its_count * its_rise
            its_asked = tl.load(at + a_slot * OTHERS_ASKED, mask=in_rows, other=0).to(tl.float64)
            others_asked += its_asked - tl.sum(others_given * rise + its_given * its_rise, axis=1)
            others_entropy += tl.load(at + a_slot * OTHERS_ENTROPY, mask=in_rows, other=0).to(tl.float64)
            others_given += its_given
            count += its_count
            others_top = higher
            at += a_slot * OTHERS_SLOTS

    if not WASSERSTEIN:
        given = tl.sum(given, axis=1)[:, None]
    if OTHERS:
        top, masses, logits, asked, entropy, mass, others_logits = with_others(
            top, masses, counts, logits, given, asked, entropy,
            others_top, mass, count, others_logits, others_given, others_asked, others_entropy, scale, AFFINE,
        )  # fmt: skip
    if positives is None:
        score, positive_level = None, None
    else:
        place = tl.load(positives + row, mask=in_rows, other=-1)
        named = in_rows & (place >= 0) & (place < K)
        positive_level, _ = load_levels(labels, row * K + place, named, num_levels)
    conclude(
        row, in_rows, top, masses, counts, logits, given, asked, entropy, mass, count, others_logits, others_given,
        score, positive_level, weight, label_temperatures, position, row_loss, row_weight, state, num_levels, in_batch,
        float64_scalar(wasserstein), float64_scalar(info_nce), float64_scalar(kl), float64_scalar(p),
        float64_scalar(tie), inverse, float64_scalar(label_temperature),
        WASSERSTEIN, INFO_NCE, KL, ORDER, TARGET, OTHERS, ROWS, LEVELS,
    )  # fmt: skip


@triton.jit(do_not_specialize=["M", "first", "begin", "row_begin", "row_end", "column_begin", "in_batch", "num_levels"])
def embeddings_gradient_kernel(
    queries: tl.tensor,  # as in embeddings_statistics_kernel, from here
    passages: tl.tensor,
    query_norms: tl.tensor,
    passage_norms: tl.tensor,
    learned: tl.tensor,
    labels: tl.tensor,
    target: tl.tensor,  # where KL looked at it; else None
    mask: tl.tensor,
    positives: tl.tensor,  # where InfoNCE looked at them; else None
    exclude: tl.tensor,
    pairs: tl.tensor,  # to here
    state: tl.tensor,  # [q, width] of C
    upstream: tl.tensor,  # [q] of C
    gradient: tl.tensor,  # [row_end − row_begin, width] of C
    d: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    M: tl.tensor,
    first: tl.tensor,
    begin: tl.tensor,
    row_begin: tl.tensor,
    row_end: tl.tensor,
    column_begin: tl.tensor,  # in the block
    width: tl.tensor,  # columns
    target_stride: tl.tensor,
    in_batch: tl.tensor,
    num_levels: tl.tensor,
    temperature: tl.float64,
    AFFINE: tl.constexpr,  # the state's form
    TARGET_COVERS_ROW: tl.constexpr,
    ALL_OWN: tl.constexpr,
    OTHERS: tl.constexpr,
    MASK_A_ROW: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    DEPTH: tl.constexpr,
) -> None:
    """upstream · (c · exp((s − s_max)/temperature) + b + f · T), one tile a program."""
    C: tl.constexpr = state.dtype.element_ty
    # One after the other those that look at the same passages.
    down = tl.cdiv(row_end - row_begin, ROWS)
    place = (tl.program_id(0) // down) * BLOCK
    row = row_begin + (tl.program_id(0) % down).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    in_rows = row < row_end
    start = column_begin + place
    _, scale = inverse_temperature(temperature, learned)
    column, inside, s = scores_tile(
        queries, passages, query_norms, passage_norms, mask, exclude, row, start, column_begin + width, row_end, d, N,
        begin, C, MASK_A_ROW, PRECISION, ROWS, BLOCK, DEPTH,
    )  # fmt: skip
    if pairs is not None:
        pair = first_pair(pairs, row * N + (begin + start), M)
        s, pair = without_pairs(s, pairs, pair, row, column, begin + start + BLOCK, N, M)
    k = column[None, :] - own_columns(row, first, K, ALL_OWN)[:, None]
    own = inside & (k >= 0) & (k < K)
    if not OTHERS:
        s = tl.where(own, s, float("-inf"))
    takes_part = s != float("-inf")
    c, b, f, top = by_level(
        labels, positives, state, row, in_rows, k, own, row * K, in_batch, num_levels, OTHERS, AFFINE
    )
    if AFFINE and target is not None:
        if TARGET_COVERS_ROW:
            t = load_target(target, (row * target_stride)[:, None] + column[None, :], inside, takes_part)
        else:
            t = load_target(target, (row * target_stride)[:, None] + k, own, takes_part)
        b += f * t
    up = tl.load(upstream + row, mask=in_rows, other=0)[:, None]
    G = score_gradient(s, takes_part, c, b, top, up, scale.to(C), AFFINE)
    at = ((row - row_begin) * width)[:, None] + (place + tl.arange(0, BLOCK))[None, :]
    tl.store(gradient + at, G, mask=inside)


@triton.jit
def inverse_temperature(
    temperature: tl.tensor,  # float64
    learned: tl.tensor,  # pointer, or None
) -> tuple[tl.tensor, tl.tensor]:
    """1/t and log2(e)/t, float64; t what is learned, or else the number."""
    t = float64_scalar(temperature) if learned is None else tl.load(learned).to(tl.float64)
    inverse = 1.0 / t
    return inverse, inverse * LOG2_E


@triton.jit
def own_columns(
    row: tl.tensor,  # [R] int64
    first: tl.tensor,
    K: tl.tensor,
    ALL_OWN: tl.constexpr,
) -> tl.tensor:
    """The batch's column that a row's own passages begin at, [R] int32."""
    return tl.zeros(row.shape, tl.int32) if ALL_OWN else ((first + row) * K).to(tl.int32)


@triton.jit
def part_of(
    low: tl.tensor,
    high: tl.tensor,
    BLOCK: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Of passages low … high − 1 those that this program has: as even a part as whole tiles make."""
    part, parts = tl.program_id(1), tl.num_programs(1)
    tiles = tl.cdiv(tl.maximum(high - low, 0), BLOCK)
    return low + tiles * part // parts * BLOCK, tl.minimum(low + tiles * (part + 1) // parts * BLOCK, high)


@triton.jit
def scores_tile(
    queries: tl.tensor,
    passages: tl.tensor,
    query_norms: tl.tensor,
    passage_norms: tl.tensor,
    mask: tl.tensor,
    exclude: tl.tensor,
    row: tl.tensor,  # [R] int64
    start: tl.tensor,  # the tile's first passage in the block
    stop: tl.tensor,  # what ends it, if it is not full
    q: tl.tensor,  # likewise for rows
    d: tl.tensor,
    N: tl.tensor,
    begin: tl.tensor,
    C: tl.constexpr,
    MASK_A_ROW: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    DEPTH: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Columns in the batch, [B] int32; which scores there are, [R, B]; the scores, of C, −inf where no passage takes
    part."""
    passage = start + tl.arange(0, BLOCK)
    in_rows, in_block = row < q, passage < stop
    depth = tl.arange(0, DEPTH)
    q_at = queries + (row * d)[:, None] + depth[None, :]
    p_at = passages + (passage.to(tl.int64) * d)[:, None] + depth[None, :]
    s = tl.zeros((ROWS, BLOCK), C)
    for done in range(0, d, DEPTH):
        there = (done + depth < d)[None, :]
        a = tl.load(q_at + done, mask=in_rows[:, None] & there, other=0)
        b = tl.load(p_at + done, mask=in_block[:, None] & there, other=0)
        if INTERPRETED:  # which multiplies bfloat16's bits as if they were integers
            a, b = a.to(C), b.to(C)
        s = tl.dot(a, tl.trans(b), s, input_precision=PRECISION, out_dtype=C)
    if query_norms is not None:
        s *= tl.load(query_norms + row, mask=in_rows, other=0)[:, None]
        s *= tl.load(passage_norms + passage, mask=in_block, other=0)[None, :]
    column = begin + passage
    inside = in_rows[:, None] & in_block[None, :]
    s = tl.where(inside, s, float("-inf"))
    if mask is not None:
        if MASK_A_ROW:
            real = tl.load(mask + (row * N)[:, None] + column[None, :], mask=inside, other=0)
        else:
            real = tl.load(mask + column, mask=in_block, other=0)[None, :]
        s = tl.where(real != 0, s, float("-inf"))
    if exclude is not None:
        left_out = tl.load(exclude + (row * N)[:, None] + column[None, :], mask=inside, other=0)
        s = tl.where(left_out != 0, float("-inf"), s)
    return column, inside, s


@triton.jit
def first_pair(
    pairs: tl.tensor,  # pointer to [M] int64, rising
    wanted: tl.tensor,  # [R] int64
    M: tl.tensor,
) -> tl.tensor:
    """How many lie below what is wanted, [R] int32."""
    low = tl.zeros(wanted.shape, tl.int32)
    high = low + M
    while tl.max(high - low, axis=0) > 0:
        middle = low + (high - low) // 2
        searching = low < high
        below = searching & (tl.load(pairs + middle, mask=searching, other=0) < wanted)
        low = tl.where(below, middle + 1, low)
        high = tl.where(searching & (below == 0), middle, high)
    return low


@triton.jit
def without_pairs(
    s: tl.tensor,  # [R, B]
    pairs: tl.tensor,  # pointer to [M] int64, rising
    pair: tl.tensor,  # [R] int32, each row's first that is not left of the tile
    row: tl.tensor,  # [R] int64
    column: tl.tensor,  # [B]
    stop: tl.tensor,  # the tile's end
    N: tl.tensor,
    M: tl.tensor,
) -> tuple[tl.tensor, tl.tensor]:
    """The scores less the tile's pairs, and each row's first pair behind it. One pair of every row at a time: of known
    false negatives a tile has few."""
    excluded = next_pair(pairs, pair, row, N, M)
    while tl.min(excluded, axis=0) < stop:
        here = excluded < stop
        s = tl.where(column[None, :] == excluded[:, None], float("-inf"), s)
        pair += here.to(tl.int32)
        excluded = next_pair(pairs, pair, row, N, M)
    return s, pair


@triton.jit
def next_pair(
    pairs: tl.tensor,
    pair: tl.tensor,  # [R] int32
    row: tl.tensor,  # [R] int64
    N: tl.tensor,
    M: tl.tensor,
) -> tl.tensor:
    """The column of each row's next pair, [R] int32; past all columns where it has none."""
    there = pair < M
    place = tl.load(pairs + pair, mask=there, other=0) - row * N
    return tl.where(there & (place < N), place, 2**31 - 1).to(tl.int32)
