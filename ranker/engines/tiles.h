/* Blocks of 32 rows by 32 outputs: with the AMX tiles, or with the products of AVX-512 BF16 where there are none. */
#pragma once
#include "bf16.h"

#define DEEP 18 /* times 32 of the width in, after which the next panel has its turn: what was read is still near */

#ifdef __AMX_BF16__

typedef struct {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} __attribute__((packed, aligned(64))) Tiles;

static const Tiles TILES = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

#define take_tiles() _tile_loadconfig(&TILES)
#define give_tiles() _tile_release()
#define HIGH ROWS /* rows at once */
#define GROUP 4   /* panels that one thread computes for the same rows: these stay in its first cache */

#else

#define take_tiles() ((void)0)
#define give_tiles() ((void)0)
#define HIGH 8  /* 16 sums are enough to hide the 6 cycles of each product */
#define GROUP 3 /* shares out more evenly, and these have no first cache to themselves */

/* sums, rows `wide` apart, = a b, or with `more` += a b, from row `first`, of which HIGH is a divisor, to below `last`.
 * a: rows `stride` apart, 32 widths a step. b: two tiles a step, `second` apart, one step `step` after the other.
 * Meanwhile `lines` from `next` on are fetched. */
static inline void multiply(const bf16 *a, long stride, const uint32_t *b, long step, long second, long steps,
                            float *sums, long wide, long first, long last, int more, const char *next, long lines) {
    long each = lines ? (lines * HIGH + (last - first) * steps - 1) / ((last - first) * steps) : 0;
    const char *end = next + lines * 64;
    a += first * stride, sums += first * wide;
    for (long top = first; top < last; top += HIGH, a += HIGH * stride, sums += HIGH * wide) {
        __m512 left[HIGH], right[HIGH];
        for (int row = 0; row < HIGH; row++) {
            left[row] = more ? _mm512_loadu_ps(sums + row * wide) : _mm512_setzero_ps();
            right[row] = more ? _mm512_loadu_ps(sums + row * wide + 16) : _mm512_setzero_ps();
        }
        for (long at = 0; at < steps; at++) {
            const uint32_t *one = b + at * step, *other = one + second;
            for (long line = 0; line < each && next < end; line++, next += 64)
                _mm_prefetch(next, _MM_HINT_T1);
            for (int pair = 0; pair < 16; pair++) {
                __m512bh l = (__m512bh)_mm512_loadu_si512(one + pair * 16);
                __m512bh r = (__m512bh)_mm512_loadu_si512(other + pair * 16);
                for (int row = 0; row < HIGH; row++) {
                    uint32_t both;
                    memcpy(&both, a + row * stride + at * 32 + 2 * pair, 4);
                    __m512bh here = (__m512bh)_mm512_set1_epi32((int)both);
                    left[row] = _mm512_dpbf16_ps(left[row], here, l);
                    right[row] = _mm512_dpbf16_ps(right[row], here, r);
                }
            }
        }
        for (int row = 0; row < HIGH; row++) {
            _mm512_storeu_ps(sums + row * wide, left[row]);
            _mm512_storeu_ps(sums + row * wide + 16, right[row]);
        }
    }
}

#endif

/* Of `rows` that need not be computed again, those that can be left out. */
static inline long spare(long rows) { return rows / HIGH * HIGH; }
