/* Matrix products with weights that were laid out once for blocks of 32 by 32, and what follows them folded in.
 *
 * n tokens, d width in, o width out; d and o multiples of 32. Of the weights a panel is 32 outputs, or 16 of the first
 * half of all outputs and the same 16 of the second (paired). Panels stand one after another; in each, per 32 of the
 * width in, two tiles of 16 rows: row r holds the widths 2 r and 2 r + 1 of 16 outputs.
 */
#include <omp.h>

#include "kernels.h"
#include "tiles.h"

#define PANEL 32
#define CHUNK 640 /* rows, at most, that one thread computes before it looks for work again */

void lay_out(const bf16 *w, bf16 *laid, long d, long o, int paired) {
    long steps = d / 32;
#pragma omp parallel for schedule(static)
    for (long panel = 0; panel < o / PANEL; panel++)
        for (long step = 0; step < steps; step++)
            for (long tile = 0; tile < 2; tile++) {
                long first = paired ? tile * (o / 2) + 16 * panel : PANEL * panel + 16 * tile;
                uint32_t *to = (uint32_t *)laid + ((panel * steps + step) * 2 + tile) * 256;
                for (long r = 0; r < 16; r++)
                    for (long c = 0; c < 16; c++)
                        to[r * 16 + c] = *(const uint32_t *)(w + (first + c) * d + step * 32 + 2 * r);
            }
}

/* Sums that were computed and not yet written. */
typedef struct {
    const float *sums;
    const bf16 *residual;
    bf16 *y;
    long done, rows, stride, one, other; /* done: the first rows, which another block has */
    int kind;
} Block;

static inline void write_row(const Block *block, long row) {
    __m512 a = _mm512_load_ps(block->sums + row * PANEL), b = _mm512_load_ps(block->sums + row * PANEL + 16);
    bf16 *y = block->y + row * block->stride;
    if (block->kind == GATED) {
        store(y + block->one, gate(a, b));
        return;
    }
    if (block->kind == PLUS) {
        const bf16 *residual = block->residual + row * block->stride;
        a = _mm512_add_ps(a, load(residual + block->one));
        b = _mm512_add_ps(b, load(residual + block->other));
    }
    if (block->other == block->one + 16)
        _mm512_storeu_si512(y + block->one, (__m512i)_mm512_cvtne2ps_pbh(b, a));
    else {
        store(y + block->one, a);
        store(y + block->other, b);
    }
}

/* 32 rows of x by one panel, of which the first `done` and those from `end` on may be left out; meanwhile `before` is
 * written, and `next` fetched. */
#ifdef __AMX_BF16__

static inline void compute(const bf16 *x, long stride, const bf16 *panel, long steps, float *sums, long done, long end,
                           int more, const Block *before, const char *next, long lines) {
    (void)done;
    (void)end;
    if (more) {
        _tile_loadd(0, sums, PANEL * 4);
        _tile_loadd(1, sums + 16, PANEL * 4);
        _tile_loadd(2, sums + 16 * PANEL, PANEL * 4);
        _tile_loadd(3, sums + 16 * PANEL + 16, PANEL * 4);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    long some = (before->rows + steps - 1) / steps, row = before->done, each = (lines + steps - 1) / steps;
    for (long step = 0; step < steps; step++) {
        _tile_loadd(4, x + step * 32, stride * 2);
        _tile_loadd(6, panel + step * 1024, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, panel + step * 1024 + 512, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, x + 16 * stride + step * 32, stride * 2);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        for (long line = step * each; line < (step + 1) * each && line < lines; line++)
            _mm_prefetch(next + line * 64, _MM_HINT_T1);
        for (long until = row + some < before->rows ? row + some : before->rows; row < until; row++)
            write_row(before, row);
    }
    _tile_stored(0, sums, PANEL * 4);
    _tile_stored(1, sums + 16, PANEL * 4);
    _tile_stored(2, sums + 16 * PANEL, PANEL * 4);
    _tile_stored(3, sums + 16 * PANEL + 16, PANEL * 4);
}

#else

static inline void compute(const bf16 *x, long stride, const bf16 *panel, long steps, float *sums, long done, long end,
                           int more, const Block *before, const char *next, long lines) {
    for (long row = before->done; row < before->rows; row++)
        write_row(before, row);
    multiply(x, stride, (const uint32_t *)panel, 512, 256, steps, sums, PANEL, done, end, more, next, lines);
}

#endif

/* y = x W, n x o; PLUS: and the residual; GATED: silu(first half) * second half, n x o / 2, of paired panels. y is none
 * of the others. low: or NULL; n x `rank`, a multiple of 32, whose product with `more`, laid out as W is, comes on top:
 * LoRA. following: weights, laid out for a width in of `wide_in`, with which the next call begins; or NULL. 0, or -1
 * where memory is short. */
int product(const bf16 *x, const bf16 *laid, const bf16 *residual, bf16 *y, long n, long d, long o, int paired,
            int kind, const bf16 *low, const bf16 *more, long rank, const bf16 *following, long wide_in) {
    long steps = d / 32, panels = o / PANEL, size = d * PANEL, wide = kind == GATED ? o / 2 : o;
    long rows = n < ROWS ? ROWS : n, chunk = CHUNK, groups = UP(panels, GROUP) / GROUP;
    if (!n)
        return 0;
    long here = n < ROWS ? n : ROWS, asked = UP(here, HIGH); /* of each 32 rows */
    bf16 *few = NULL;
    if (n < ROWS) {
        few = aligned_alloc(64, ROWS * (d + rank) * 2);
        if (!few)
            return -1;
        memset(few, 0, ROWS * (d + rank) * 2);
        memcpy(few, x, n * d * 2);
        if (low)
            memcpy(few + ROWS * d, low, n * rank * 2);
        x = few;
        low = low ? few + ROWS * d : NULL;
    }
    while (chunk > 2 * ROWS && UP(rows, chunk) / chunk * groups < 4 * omp_get_max_threads())
        chunk /= 2;
    chunk = UP(chunk, ROWS);
    long chunks = UP(rows, chunk) / chunk;
#pragma omp parallel
    {
        float sums[2 * GROUP][ROWS * PANEL] __attribute__((aligned(64)));
        Block before = {.rows = 0};
        int turn = 0;
        take_tiles();
#pragma omp for schedule(dynamic)
        for (long work = 0; work < chunks * groups; work++) {
            long begin = work / groups * chunk, end = begin + chunk < rows ? begin + chunk : rows;
            long first = work % groups * GROUP, last = first + GROUP < panels ? first + GROUP : panels;
            /* What this thread is likely to take next. */
            long after = (work + omp_get_num_threads()) % groups * GROUP, calls = UP(end - begin, ROWS) / ROWS;
            calls *= (last - first) * (UP(steps, DEEP) / DEEP);
            const char *next = (const char *)(laid + after * size);
            long fetched = (after + GROUP < panels ? GROUP : panels - after) * size;
            if (work + omp_get_num_threads() >= chunks * groups) {
                fetched = following ? GROUP * PANEL * wide_in : 0;
                next = (const char *)(following + omp_get_thread_num() * fetched);
            }
            long lines = (fetched / 32 + calls - 1) / calls;
            for (long at = begin; at < end; at += ROWS, turn ^= 1) {
                long from = at + ROWS <= rows ? at : rows - ROWS, done = spare(at - from);
                for (long step = 0; step < steps; step += DEEP)
                    for (long panel = first; panel < last; panel++) {
                        float *told = sums[turn * GROUP + panel - first];
                        long deep = steps - step < DEEP ? steps - step : DEEP;
                        compute(x + from * d + step * 32, d, laid + panel * size + step * 1024, deep, told, done, asked,
                                step > 0, &before, next, lines);
                        next += lines * 64;
                        before.rows = 0;
                        if (step + deep < steps)
                            continue;
                        if (low)
                            compute(low + from * rank, rank, more + panel * rank * PANEL, rank / 32, told, done, asked,
                                    1, &before, next, 0);
                        long one = paired ? 16 * panel : PANEL * panel, other = paired ? o / 2 + one : one + 16;
                        before =
                            (Block){told, residual + from * o, y + from * wide, done, here, wide, one, other, kind};
                    }
            }
        }
        for (long row = before.done; row < before.rows; row++)
            write_row(&before, row);
        give_tiles();
    }
    free(few);
    return 0;
}
