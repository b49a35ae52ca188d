/* What a Llama does between its matrix products, in bfloat16, and its causal attention, for processors with AVX-512
 * BF16. Compiled once by ranker/engines/native.py; the same in torch's operators stands beside it in lean.py.
 *
 * n tokens, d width, h of one head. Pointers are to contiguous rows unless a stride (in elements) is given.
 */
#include <omp.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernels.h"
#include "tiles.h"

#define KEYS 128
#define HEADROOM 30 /* powers of 2 by which a score may exceed the largest before, until that is taken anew */

#define AHEAD 4
#define LEAST -1e30f /* below any logit, and what is further below it is no infinity */

static inline float dot(const bf16 *a, const bf16 *b, long d) {
    __m512 even = _mm512_setzero_ps(), odd = even;
    for (long i = 0; i < d; i += 64) {
        even = _mm512_dpbf16_ps(even, (__m512bh)_mm512_loadu_si512(a + i), (__m512bh)_mm512_loadu_si512(b + i));
        if (i + 32 < d)
            odd = _mm512_dpbf16_ps(odd, (__m512bh)_mm512_loadu_si512(a + i + 32),
                                   (__m512bh)_mm512_loadu_si512(b + i + 32));
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(even, odd));
}

/* d a multiple of 16. */
void norm(const bf16 *x, const bf16 *weight, bf16 *y, long n, long d, float eps) {
#pragma omp parallel for schedule(static)
    for (long row = 0; row < n; row++) {
        const bf16 *in = x + row * d;
        bf16 *out = y + row * d;
        __m512 sum = _mm512_setzero_ps();
        for (long i = 0; i < d; i += 16) {
            __m512 v = load(in + i);
            sum = _mm512_fmadd_ps(v, v, sum);
        }
        __m512 scale = _mm512_set1_ps(1.0f / sqrtf(_mm512_reduce_add_ps(sum) / d + eps));
        for (long i = 0; i < d; i += 16)
            store(out + i, _mm512_mul_ps(_mm512_mul_ps(load(in + i), scale), load(weight + i)));
    }
}

/* In place: the first `rotated` heads of each row of z, whose stride is given. cosine, sine: n x h / 2. */
void rotate(bf16 *z, const float *cosine, const float *sine, long n, long stride, long rotated, long h) {
    long half = h / 2;
#pragma omp parallel for schedule(static)
    for (long row = 0; row < n; row++)
        for (long head = 0; head < rotated; head++) {
            bf16 *p = z + row * stride + head * h;
            for (long i = 0; i < half; i += 16) {
                __m512 a = load(p + i), b = load(p + half + i);
                __m512 c = _mm512_loadu_ps(cosine + row * half + i), s = _mm512_loadu_ps(sine + row * half + i);
                store(p + i, _mm512_fmsub_ps(a, c, _mm512_mul_ps(b, s)));
                store(p + half + i, _mm512_fmadd_ps(b, c, _mm512_mul_ps(a, s)));
            }
        }
}

/* silu(first half) * second half of each row of 2 d. */
void gated(const bf16 *x, bf16 *y, long n, long d) {
#pragma omp parallel for schedule(static)
    for (long row = 0; row < n; row++)
        for (long i = 0; i < d; i += 16) {
            __m512 g = load(x + row * 2 * d + i), u = load(x + row * 2 * d + d + i);
            store(y + row * d + i, gate(g, u));
        }
}

/* `times` e^x onto a sum that is kept as e^-most of itself, per lane. */
static inline void add_exponentials(__m512 *most, __m512 *sum, __m512 x, __m512 times) {
    __m512 now = _mm512_max_ps(*most, x);
    *sum = _mm512_fmadd_ps(*sum, exponential(_mm512_sub_ps(*most, now)),
                           _mm512_mul_ps(times, exponential(_mm512_sub_ps(x, now))));
    *most = now;
}

/* y: of each of b rows of x, the logarithm of the sum of the exponentials of its products with all of w, outs x d,
 * which is read once. d a multiple of 32, outs of 16. 0, or -1 where memory is short. */
int log_sum(const bf16 *x, const bf16 *w, float *y, long b, long d, long outs) {
    long threads = omp_get_max_threads();
    float *parts = aligned_alloc(64, threads * b * 128); /* per thread and row, 16 largest ones and 16 sums */
    if (!parts)
        return -1;
    for (long i = 0; i < threads * b * 32; i++)
        parts[i] = i % 32 < 16 ? LEAST : 0;
#pragma omp parallel num_threads(threads)
    {
        float *own = parts + omp_get_thread_num() * b * 32;
#pragma omp for schedule(static)
        for (long out = 0; out < outs; out += 16)
            for (long row = 0; row < b; row++) {
                float some[16] __attribute__((aligned(64)));
                for (long i = 0; i < 16; i++) {
                    if (!row)
                        for (long j = 0; j < d; j += 32)
                            _mm_prefetch((const char *)(w + (out + i + AHEAD) * d + j), _MM_HINT_T0);
                    some[i] = dot(x + row * d, w + (out + i) * d, d);
                }
                __m512 most = _mm512_load_ps(own + row * 32), sum = _mm512_load_ps(own + row * 32 + 16);
                add_exponentials(&most, &sum, _mm512_load_ps(some), _mm512_set1_ps(1));
                _mm512_store_ps(own + row * 32, most);
                _mm512_store_ps(own + row * 32 + 16, sum);
            }
    }
    for (long row = 0; row < b; row++) {
        __m512 most = _mm512_set1_ps(LEAST), sum = _mm512_setzero_ps();
        for (float *part = parts + row * 32; part < parts + threads * b * 32; part += b * 32)
            add_exponentials(&most, &sum, _mm512_load_ps(part), _mm512_load_ps(part + 16));
        float top = _mm512_reduce_max_ps(most);
        sum = _mm512_mul_ps(sum, exponential(_mm512_sub_ps(most, _mm512_set1_ps(top))));
        y[row] = top + logf(_mm512_reduce_add_ps(sum));
    }
    free(parts);
    return 0;
}

/* 2^(i / 64) in bfloat16. */
static uint16_t POWERS[64] __attribute__((aligned(64)));

/* 0 where this process may use what the kernels are made of. */
int prepare(void) {
    for (int i = 0; i < 64; i++) {
        union {
            float f;
            uint32_t u;
        } power = {exp2f(i / 64.0f)};
        POWERS[i] = (power.u + 0x8000) >> 16;
    }
#ifdef __AMX_BF16__
    return (int)syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */);
#else
    return 0;
#endif
}

/* Keys or values of m tokens for one head: of the first `known` in blocks of `size` tokens, a multiple of 16, whose
 * rows stand `wide` apart, `skip` into each block; the others stand `stride` apart in `own`. */
typedef struct {
    const bf16 *const *blocks, *own;
    long known, size, wide, skip, stride;
} Tokens;

/* Of the 16 tokens from `token` on, a multiple of 16. */
static inline const bf16 *sixteen(const Tokens *t, long token, long *stride) {
    *stride = token < t->known ? t->wide : t->stride;
    if (token >= t->known)
        return t->own + (token - t->known) * t->stride;
    return t->blocks[token / t->size] + t->skip + token % t->size * t->wide;
}

/* 16 rows of 16 numbers to columns: four times the fours within quarters, then the quarters. */
static inline void transpose(__m512i r[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 4) {
        __m512i a = _mm512_unpacklo_epi32(r[i], r[i + 1]), b = _mm512_unpackhi_epi32(r[i], r[i + 1]);
        __m512i c = _mm512_unpacklo_epi32(r[i + 2], r[i + 3]), d = _mm512_unpackhi_epi32(r[i + 2], r[i + 3]);
        t[i] = _mm512_unpacklo_epi64(a, c), t[i + 1] = _mm512_unpackhi_epi64(a, c);
        t[i + 2] = _mm512_unpacklo_epi64(b, d), t[i + 3] = _mm512_unpackhi_epi64(b, d);
    }
    for (int i = 0; i < 4; i++) {
        __m512i a = _mm512_shuffle_i32x4(t[i], t[i + 4], 0x88), b = _mm512_shuffle_i32x4(t[i], t[i + 4], 0xdd);
        __m512i c = _mm512_shuffle_i32x4(t[i + 8], t[i + 12], 0x88),
                d = _mm512_shuffle_i32x4(t[i + 8], t[i + 12], 0xdd);
        r[i] = _mm512_shuffle_i32x4(a, c, 0x88), r[i + 8] = _mm512_shuffle_i32x4(a, c, 0xdd);
        r[i + 4] = _mm512_shuffle_i32x4(b, d, 0x88), r[i + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
    }
}

/* Of 16 tokens the 64 bytes from `w` on, line by line; NULL are none. */
static inline void fetch(const bf16 *rows, long stride, long w) {
    for (long r = 0; rows && r < 16; r++)
        _mm_prefetch((const char *)(rows + r * stride + w), _MM_HINT_T0);
}

/* 32 keys as the second factor: per 16 keys and 32 widths, row r holds the widths 2 r and 2 r + 1 of each key.
 * Meanwhile the next 32 are fetched: a few lines at a time, for a core waits where it asks for many. */
static void pack_keys(const Tokens *t, uint32_t *out, long first, long m, long h) {
    for (long key = first; key < first + 32; key += 16) {
        long stride, wide = 0, here = m - key;
        const bf16 *k = sixteen(t, key, &stride), *next = key + 32 < m ? sixteen(t, key + 32, &wide) : NULL;
        for (long w = 0; w < h; w += 32, out += 256) {
            __m512i rows[16];
            fetch(next, wide, w);
            for (long r = 0; r < 16; r++)
                rows[r] = r < here ? _mm512_loadu_si512(k + r * stride + w) : _mm512_setzero_si512();
            transpose(rows);
            for (long r = 0; r < 16; r++)
                _mm512_storeu_si512(out + r * 16, rows[r]);
        }
    }
}

/* 32 values as the second factor: per 16 widths, row r holds the keys 2 r and 2 r + 1 of each width. */
static void pack_values(const Tokens *t, uint32_t *out, long first, long m, long h) {
    for (long key = first; key < first + 32; key += 16, out += 128) {
        long stride, wide = 0, here = m - key;
        const bf16 *v = sixteen(t, key, &stride), *next = key + 32 < m ? sixteen(t, key + 32, &wide) : NULL;
        for (long w = 0; w < h; w += 16) {
            if (w % 32 == 0)
                fetch(next, wide, w);
            for (long r = 0; r < 8; r++) {
                const bf16 *one = v + 2 * r * stride + w;
                __m512i low = _mm512_setzero_si512(), high = low;
                if (2 * r < here)
                    low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)one));
                if (2 * r + 1 < here)
                    high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(one + stride)));
                _mm512_storeu_si512(out + w * 16 + r * 16, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
            }
        }
    }
}

/* The bits from `low` to below `high` of 32. */
static inline uint32_t window(long low, long high) {
    low = low < 0 ? 0 : low > 32 ? 32 : low;
    high = high < 0 ? 0 : high > 32 ? 32 : high;
    return _bzhi_u32(-1, high) & ~_bzhi_u32(-1, low);
}

/* One row's part of a softmax: of 128 scores those from `low` to below `high`, about its largest so far and the sum, in
 * 16 parts, that goes with it, all times `scale`,
 * so that powers of 2 do. Into p go the powers, exact to half of 1/64 in the exponent, a bfloat16's own rounding, with
 * zeros elsewhere; the row of values that was summed so far is scaled where the largest changes. `whole`: all count. */
static inline void weigh(const float *scores, bf16 *p, long low, long high, float scale, float *top, float *sum,
                         float *told, long h, int whole) {
    __m512 s[KEYS / 16], most = _mm512_set1_ps(-INFINITY), total = _mm512_load_ps(sum);
    for (long j = 0; j < KEYS / 16; j++) {
        s[j] = _mm512_load_ps(scores + 16 * j);
        __mmask16 here = whole ? 0xffff : (__mmask16)window(low - 16 * j, high - 16 * j);
        most = _mm512_mask_max_ps(most, here, most, s[j]);
    }
    if (_mm512_cmp_ps_mask(_mm512_mul_ps(most, _mm512_set1_ps(scale)), _mm512_set1_ps(*top + HEADROOM), _CMP_GT_OQ)) {
        float now = _mm512_reduce_max_ps(most) * scale;
        __m512 factor = _mm512_setzero_ps();
        if (*top > -INFINITY)
            factor = exponential(_mm512_set1_ps((*top - now) * 0.693147181f));
        for (long i = 0; i < h; i += 16)
            _mm512_store_ps(told + i, _mm512_mul_ps(_mm512_load_ps(told + i), factor));
        total = _mm512_mul_ps(total, factor);
        *top = now;
    }
    const __m512 over = _mm512_set1_ps(*top * 64), factor = _mm512_set1_ps(scale * 64);
    const __m512i first = _mm512_load_si512(POWERS), second = _mm512_load_si512(POWERS + 32);
    const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), least = _mm512_set1_epi16(-126 * 64);
    const __m512i whole_part = _mm512_set1_epi16(-64), ones = _mm512_set1_epi16(0x3f80);
    for (long j = 0; j < KEYS / 16; j += 2) {
        __m512i one = _mm512_cvtps_epi32(_mm512_fmsub_ps(s[j], factor, over));
        __m512i other = _mm512_cvtps_epi32(_mm512_fmsub_ps(s[j + 1], factor, over));
        __m512i x = _mm512_permutexvar_epi64(order, _mm512_packs_epi32(one, other));
        x = _mm512_max_epi16(x, least);
        __m512i exponent = _mm512_and_si512(x, whole_part);
        __m512i e = _mm512_add_epi16(_mm512_permutex2var_epi16(first, x, second), _mm512_add_epi16(exponent, exponent));
        if (!whole)
            e = _mm512_maskz_mov_epi16(window(low - 16 * j, high - 16 * j), e);
        total = _mm512_dpbf16_ps(total, (__m512bh)e, (__m512bh)ones);
        _mm512_store_si512(p + 16 * j, e);
    }
    _mm512_store_ps(sum, total);
}

typedef struct {
    float scores[2][ROWS * KEYS], sum[ROWS * 16], top[ROWS];
    bf16 p[ROWS * KEYS];
    float rest[]; /* the values summed so far, rows of h, then the queries */
} Room;

#ifdef __AMX_BF16__

/* Of 32 queries, of which `rows` count, and 32 keys. */
static inline void score(const bf16 *q, long rows, const uint32_t *k, float *scores, long h) {
    (void)rows;
    long wide = h / 32;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (long w = 0; w < wide; w++) {
        _tile_loadd(4, q + w * 32, h * 2);
        _tile_loadd(6, k + w * 256, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, k + (wide + w) * 256, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, q + 16 * h + w * 32, h * 2);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, scores, KEYS * 4);
    _tile_stored(1, scores + 16, KEYS * 4);
    _tile_stored(2, scores + 16 * KEYS, KEYS * 4);
    _tile_stored(3, scores + 16 * KEYS + 16, KEYS * 4);
}

/* The values of up to 128 keys onto what was summed so far. */
static inline void sum_up(const bf16 *p, long rows, const uint32_t *v, float *told, long keys, long h) {
    (void)rows;
    long tall = h / 16;
    for (long w = 0; w < tall; w += 2) {
        float *here = told + w * 16;
        _tile_loadd(0, here, h * 4);
        _tile_loadd(1, here + 16, h * 4);
        _tile_loadd(2, here + 16 * h, h * 4);
        _tile_loadd(3, here + 16 * h + 16, h * 4);
        for (long key = 0; key < keys; key += 32) {
            _tile_loadd(4, p + key, KEYS * 2);
            _tile_loadd(6, v + (key / 32 * tall + w) * 256, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(7, v + (key / 32 * tall + w + 1) * 256, 64);
            _tile_dpbf16ps(1, 4, 7);
            _tile_loadd(5, p + 16 * KEYS + key, KEYS * 2);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(0, here, h * 4);
        _tile_stored(1, here + 16, h * 4);
        _tile_stored(2, here + 16 * h, h * 4);
        _tile_stored(3, here + 16 * h + 16, h * 4);
    }
}

#else

static inline void score(const bf16 *q, long rows, const uint32_t *k, float *scores, long h) {
    multiply(q, h, k, 256, h / 32 * 256, h / 32, scores, KEYS, 0, rows, 0, NULL, 0);
}

static inline void sum_up(const bf16 *p, long rows, const uint32_t *v, float *told, long keys, long h) {
    for (long w = 0; w < h / 16; w += 2)
        multiply(p, KEYS, v + w * 256, h / 16 * 256, 256, keys / 32, told + w * 16, h, 0, rows, 1, NULL, 0);
}

#endif

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t ending;
static int ends;

static void free_at_the_end(void) { ends = !pthread_key_create(&ending, free); }

/* Each thread's own, kept for its next call: fresh pages cost more than what is computed in them; freed when the thread
 * ends. NULL where memory is short. */
static void *scratch(size_t size) {
    static _Thread_local void *kept;
    static _Thread_local size_t held;
    if (held < size) {
        pthread_once(&once, free_at_the_end);
        free(kept);
        kept = aligned_alloc(64, UP(size, 64));
        held = kept ? size : 0;
        if (ends)
            pthread_setspecific(ending, kept);
    }
    return kept;
}

/* Up to 128 keys that are next. */
typedef struct {
    long from, end;
    int shared;
} Part;

/* 32 tokens of one head, part after part; row i sees the first `seen` + i keys, or of these the first `shared` and
 * those from starts[i] on. Tiles, where there are any, score the next part while the vector units weigh this one. */
static void block(const bf16 *q, long rows, const uint32_t *k, const uint32_t *v, bf16 *out, long out_stride, long seen,
                  long shared, const long *starts, long h, float scale, Room *room) {
    long all = seen + rows - 1, turn = 0;
    float *told = room->rest;
    Part now = {0, starts ? shared : all, starts != NULL}, own = {starts ? starts[0] / 32 * 32 : all, all, 0};
    if (!now.end)
        now = own;
    memset(told, 0, ROWS * h * 4);
    memset(room->sum, 0, sizeof room->sum);
    for (long row = 0; row < ROWS; row++)
        room->top[row] = -INFINITY;
    for (long key = 0; key < KEYS && key < now.end; key += 32)
        score(q, rows, k + (now.from + key) * h / 2, room->scores[0] + key, h);
    for (; now.from < now.end; turn ^= 1) {
        Part next = now;
        next.from += KEYS;
        if (next.from >= next.end && now.shared)
            next = own;
        for (long part = 0; part < KEYS / 32; part++) {
            long key = next.from + part * 32;
            if (key < next.end)
                score(q, rows, k + key * h / 2, room->scores[turn ^ 1] + part * 32, h);
            for (long row = part * 8; row < part * 8 + 8 && row < rows; row++) {
                const float *scores = room->scores[turn] + row * KEYS;
                bf16 *p = room->p + row * KEYS;
                float *top = room->top + row, *sum = room->sum + row * 16, *here = told + row * h;
                long low = starts && !now.shared ? starts[row] - now.from : 0;
                long high = (now.shared ? shared : seen + row) - now.from;
                if (low <= 0 && high >= KEYS)
                    weigh(scores, p, 0, KEYS, scale, top, sum, here, h, 1);
                else
                    weigh(scores, p, low, high, scale, top, sum, here, h, 0);
            }
        }
        long keys = UP(now.end - now.from < KEYS ? now.end - now.from : KEYS, 32);
        sum_up(room->p, rows, v + now.from * h / 2, told, keys, h);
        now = next;
    }
    for (long row = 0; row < rows; row++) {
        __m512 over = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(_mm512_load_ps(room->sum + row * 16)));
        for (long i = 0; i < h; i += 16)
            store(out + row * out_stride + i, _mm512_mul_ps(_mm512_load_ps(told + row * h + i), over));
    }
}

/* q: n rows of `heads` heads; k, v: m - known rows of `kv_heads`; out: n rows of heads h, contiguous. Of the keys the
 * first `known` are not in k and v but in `blocks`, each of `block_size` tokens' keys and then as many values, `skip`
 * into it. The last n of the m keys are the queries' own: row i sees the first m - n + i + 1. With starts, which never
 * fall, it sees of these the first `shared` and those from starts[i] on: branches of one head. h a multiple of 32,
 * `block_size` of 16. 0, or -1 where memory is short. */
int attend(const bf16 *q, const bf16 *k, const bf16 *v, bf16 *out, long n, long m, long heads, long kv_heads, long h,
           long q_stride, long k_stride, long v_stride, long shared, const long *starts, const bf16 *const *blocks,
           long known, long block_size, long skip) {
    long size = UP(m, 32) * h / 2, parts = UP(n, ROWS) / ROWS;
    int failed = 0;
    uint32_t *packed = aligned_alloc(64, 2 * kv_heads * size * 4);
    if (!packed)
        return -1;
    float scale = 1.44269504f / sqrtf(h); /* for powers of 2 */
#pragma omp parallel
    {
        Room *room = scratch(sizeof(Room) + ROWS * h * 6);
        if (!room) {
#pragma omp atomic write
            failed = -1;
        }
        bf16 *own = room ? (bf16 *)(room->rest + ROWS * h) : NULL;
        if (room)
            memset(room->p, 0, sizeof room->p);
        /* All heads of some tokens by one thread: they stand side by side. */
#pragma omp for schedule(static)
        for (long key = 0; key < m; key += 32)
            for (long head = 0; head < kv_heads; head++) {
                long at = skip + head * h, wide = kv_heads * h;
                uint32_t *to = packed + 2 * head * size + key * h / 2;
                Tokens keys = {blocks, k + head * h, known, block_size, wide, at, k_stride};
                Tokens values = {blocks, v + head * h, known, block_size, wide, at + block_size * wide, v_stride};
                pack_keys(&keys, to, key, m, h);
                pack_values(&values, to + size, key, m, h);
            }
        if (room)
            take_tiles();
        /* The last blocks see the most keys: they go first, so that no thread is left with one at the end. */
#pragma omp for schedule(dynamic)
        for (long work = 0; work < heads * parts; work++) {
            long head = work % heads, first = (parts - 1 - work / heads) * ROWS;
            long rows = n - first < ROWS ? n - first : ROWS, kv = head / (heads / kv_heads);
            if (!room)
                continue;
            memset(own, 0, ROWS * h * 2);
            for (long row = 0; row < rows; row++)
                memcpy(own + row * h, q + (first + row) * q_stride + head * h, h * 2);
            block(own, rows, packed + 2 * kv * size, packed + (2 * kv + 1) * size, out + first * heads * h + head * h,
                  heads * h, m - n + first + 1, shared, starts ? starts + first : NULL, h, scale, room);
        }
        if (room)
            give_tiles();
    }
    free(packed);
    return failed;
}
