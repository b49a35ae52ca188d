/* What a Llama does between its matrix products, in bfloat16, and its causal attention, for processors with AVX-512 BF16
 * and AMX. Compiled once by ranker/engines/native.py; the same in torch's operators stands beside it in lean.py.
 *
 * n tokens, d width, h of one head. Pointers are to contiguous rows unless a stride (in elements) is given.
 */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef uint16_t bf16;

static inline __m512 load(const bf16 *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}

static inline void store(bf16 *p, __m512 x) { _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh(x)); }

/* 2^n times a polynomial on [-0.5, 0.5]: relative error 5e-5, a hundredth of bfloat16's; far below 0 it is 0. */
static inline __m512 exponential(__m512 x) {
    __m512 t = _mm512_mul_ps(x, _mm512_set1_ps(1.44269504f));
    __m512 n = _mm512_roundscale_ps(t, 0);
    __m512 f = _mm512_sub_ps(t, n);
    __m512 p = _mm512_set1_ps(9.61812911e-3f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.55041087e-2f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.40226507e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.93147181e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
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
            __m512 below = _mm512_add_ps(_mm512_set1_ps(1.0f), exponential(_mm512_sub_ps(_mm512_setzero_ps(), g)));
            store(y + row * d + i, _mm512_mul_ps(_mm512_mul_ps(g, _mm512_rcp14_ps(below)), u));
        }
}

#define ROWS 32
#define UP(x, to) (((x) + (to)-1) / (to) * (to))

typedef struct {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} __attribute__((packed, aligned(64))) Tiles;

static const Tiles TILES = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

/* 0 where the kernel lets this process use the tiles. */
int prepare(void) { return (int)syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */); }

/* Keys as the second factor: per 16 keys and 32 widths, row r holds the widths 2 r and 2 r + 1 of each key. */
static void pack_keys(const bf16 *k, uint32_t *out, long m, long stride, long h) {
    __m512i places = _mm512_mullo_epi32(
        _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_epi32((int)stride * 2));
    for (long key = 0; key < UP(m, 32); key += 16) {
        __mmask16 here = m - key >= 16 ? 0xffff : m > key ? (1u << (m - key)) - 1 : 0;
        for (long w = 0; w < h; w += 32, out += 256)
            for (long r = 0; r < 16; r++) {
                const bf16 *from = k + key * stride + w + 2 * r;
                _mm512_storeu_si512(out + r * 16,
                                    _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), here, places, from, 1));
            }
    }
}

/* Values as the second factor: per 32 keys and 16 widths, row r holds the keys 2 r and 2 r + 1 of each width. */
static void pack_values(const bf16 *v, uint32_t *out, long m, long stride, long h) {
    for (long key = 0; key < UP(m, 32); key += 32)
        for (long w = 0; w < h; w += 16, out += 256)
            for (long r = 0; r < 16; r++) {
                const bf16 *one = v + (key + 2 * r) * stride + w;
                __m512i low = _mm512_setzero_si512(), high = low;
                if (key + 2 * r < m) low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)one));
                if (key + 2 * r + 1 < m)
                    high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(one + stride)));
                _mm512_storeu_si512(out + r * 16, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
            }
}

/* Softmax of `seen` scores, unnormalized, into bfloat16 with zeros up to `width`; 1 over their sum. */
static float weigh(const float *scores, bf16 *p, long seen, long width, float scale) {
    __m512 top = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps(), factor = _mm512_set1_ps(scale);
    for (long i = 0; i < seen; i += 16) {
        __mmask16 here = seen - i >= 16 ? 0xffff : (1u << (seen - i)) - 1;
        top = _mm512_mask_max_ps(top, here, top, _mm512_loadu_ps(scores + i));
    }
    top = _mm512_set1_ps(_mm512_reduce_max_ps(top) * scale);
    for (long i = 0; i < width; i += 16) {
        __mmask16 here = seen - i >= 16 ? 0xffff : seen > i ? (1u << (seen - i)) - 1 : 0;
        __m512 e = _mm512_maskz_mov_ps(here, exponential(_mm512_fmsub_ps(_mm512_loadu_ps(scores + i), factor, top)));
        sum = _mm512_add_ps(sum, e);
        store(p + i, e);
    }
    return 1.0f / _mm512_reduce_add_ps(sum);
}

/* 32 tokens of one head; row i sees the first `seen` + i keys. */
static void block(const bf16 *q, long rows, const uint32_t *k, const uint32_t *v, bf16 *out, long out_stride, long seen,
                  long h, float scale, float *scores, bf16 *p, float *told) {
    long width = UP(seen + rows - 1, 32), wide = h / 32, tall = h / 16;
    float over[ROWS];
    for (long key = 0; key < width; key += 32) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (long w = 0; w < wide; w++) {
            _tile_loadd(4, q + w * 32, h * 2);
            _tile_loadd(5, q + 16 * h + w * 32, h * 2);
            _tile_loadd(6, k + (key / 16 * wide + w) * 256, 64);
            _tile_loadd(7, k + ((key / 16 + 1) * wide + w) * 256, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(0, scores + key, width * 4);
        _tile_stored(1, scores + key + 16, width * 4);
        _tile_stored(2, scores + 16 * width + key, width * 4);
        _tile_stored(3, scores + 16 * width + key + 16, width * 4);
    }
    for (long row = 0; row < ROWS; row++)
        over[row] = weigh(scores + row * width, p + row * width, row < rows ? seen + row : 1, width, scale);
    for (long w = 0; w < tall; w += 2) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (long key = 0; key < width; key += 32) {
            _tile_loadd(4, p + key, width * 2);
            _tile_loadd(5, p + 16 * width + key, width * 2);
            _tile_loadd(6, v + (key / 32 * tall + w) * 256, 64);
            _tile_loadd(7, v + (key / 32 * tall + w + 1) * 256, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(0, told + w * 16, h * 4);
        _tile_stored(1, told + w * 16 + 16, h * 4);
        _tile_stored(2, told + 16 * h + w * 16, h * 4);
        _tile_stored(3, told + 16 * h + w * 16 + 16, h * 4);
    }
    for (long row = 0; row < rows; row++)
        for (long i = 0; i < h; i += 16)
            store(out + row * out_stride + i,
                  _mm512_mul_ps(_mm512_loadu_ps(told + row * h + i), _mm512_set1_ps(over[row])));
}

/* q: n rows of `heads` heads; k, v: m rows of `kv_heads`; out: n rows of heads h, contiguous. The last n of the m keys are
 * the queries' own: row i sees the first m - n + i + 1. h a multiple of 32. 0, or -1 where memory is short. */
int attend(const bf16 *q, const bf16 *k, const bf16 *v, bf16 *out, long n, long m, long heads, long kv_heads, long h,
           long q_stride, long k_stride, long v_stride) {
    long room = UP(m, 32) * h / 2, blocks = UP(n, ROWS) / ROWS;
    int failed = 0;
    uint32_t *packed = aligned_alloc(64, 2 * kv_heads * room * 4);
    if (!packed) return -1;
    float scale = 1.0f / sqrtf(h);
#pragma omp parallel
    {
        float *scores = aligned_alloc(64, UP(ROWS * UP(m, 32) * 6 + ROWS * h * 6, 64));
        if (!scores) {
#pragma omp atomic write
            failed = -1;
        }
        float *told = scores + ROWS * UP(m, 32);
        bf16 *p = (bf16 *)(told + ROWS * h), *own = p + ROWS * UP(m, 32);
#pragma omp for schedule(static)
        for (long both = 0; both < 2 * kv_heads; both++) {
            long head = both / 2;
            if (both % 2 == 0)
                pack_keys(k + head * h, packed + both * room, m, k_stride, h);
            else
                pack_values(v + head * h, packed + both * room, m, v_stride, h);
        }
        if (scores) _tile_loadconfig(&TILES);
        /* The last blocks see the most keys: they go first, so that no thread is left with one at the end. */
#pragma omp for schedule(dynamic)
        for (long work = 0; work < heads * blocks; work++) {
            long head = work % heads, first = (blocks - 1 - work / heads) * ROWS;
            long rows = n - first < ROWS ? n - first : ROWS, kv = head / (heads / kv_heads);
            if (!scores) continue;
            memset(own, 0, ROWS * h * 2);
            for (long row = 0; row < rows; row++)
                memcpy(own + row * h, q + (first + row) * q_stride + head * h, h * 2);
            block(own, rows, packed + 2 * kv * room, packed + (2 * kv + 1) * room, out + first * heads * h + head * h,
                  heads * h, m - n + first + 1, h, scale, scores, p, told);
        }
        if (scores) _tile_release();
        free(scores);
    }
    free(packed);
    return failed;
}
