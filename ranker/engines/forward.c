/* Whole layers of a Llama one after another, as lean.py has them, without a return to Python between the kernels. */
#include "kernels.h"

/* Of a product, as they were laid out; and where `rank` is not 0 LoRA's two, the first down to `rank`. */
typedef struct {
    const bf16 *laid, *down, *up;
    long rank;
} Weights;

typedef struct {
    const bf16 *before, *between; /* of the norms */
    Weights qkv, out, both, down;
} Layer;

/* Tokens one after another. Each sees those before it: of this call also the `before` rows that stand right before the
 * first, and before these `known` tokens in `blocks`. starts: as for `attend`. The keys and values of the first `kept`
 * go to `keep`, layer after layer. */
typedef struct {
    long first, size, before, known;
    const bf16 *const *blocks;
    const long *starts;
    bf16 *keep;
    long kept;
} Span;

typedef struct {
    long n, d, inner, heads, kv_heads, h, block;
} Sizes;

static void keep_rows(const Span *span, const bf16 *z, long layer, const Sizes *s) {
    long wide = (s->heads + 2 * s->kv_heads) * s->h, width = s->kv_heads * s->h;
    bf16 *to = span->keep + layer * 2 * span->kept * width;
    const bf16 *from = z + span->first * wide + s->heads * s->h;
    for (long row = 0; row < span->kept; row++, from += wide, to += width) {
        memcpy(to, from, width * 2);
        memcpy(to + span->kept * width, from + width, width * 2);
    }
}

/* As `product`, with LoRA where there is some, by way of `low`. */
static int linear(const bf16 *x, const Weights *w, const bf16 *residual, bf16 *y, long n, long d, long o, int kind,
                  bf16 *low, const Weights *next, long wide_in) {
    const bf16 *following = next ? next->rank ? next->down : next->laid : NULL;
    if (w->rank) {
        if (product(x, w->down, NULL, low, n, d, w->rank, 0, PLAIN, NULL, NULL, 0, w->laid, d))
            return -1;
    } else
        low = NULL;
    return product(x, w->laid, residual, y, n, d, o, kind == GATED, kind, low, w->up, w->rank, following, wide_in);
}

/* x, n x d, through the first `count` layers into y. room: n x (2 d + (2 heads + 2 kv heads) h + inner + the highest
 * rank). 0, or -1 where memory is short. */
int forward(const Layer *layers, long count, const Sizes *s, float eps, const float *cosine, const float *sine,
            const Span *spans, long all, const bf16 *x, bf16 *y, bf16 *room) {
    long n = s->n, d = s->d, own = s->heads * s->h, width = s->kv_heads * s->h, wide = own + 2 * width;
    bf16 *other = room, *even = other + n * d, *z = even + n * d, *told = z + n * wide, *mid = told + n * own,
         *low = mid + n * s->inner;
    int failed = 0;
    for (long number = 0; number < count && !failed; number++, x = y) {
        const Layer *layer = layers + number;
        const Weights *next = number + 1 < count ? &layer[1].qkv : NULL;
        norm(x, layer->before, even, n, d, eps);
        failed |= linear(even, &layer->qkv, NULL, z, n, d, wide, PLAIN, low, &layer->out, own);
        rotate(z, cosine, sine, n, wide, s->heads + s->kv_heads, s->h);
        for (const Span *span = spans; span < spans + all; span++) {
            const bf16 *q = z + span->first * wide, *k = q - span->before * wide + own;
            long shared = span->known + span->before, skip = number * 2 * s->block * width;
            if (span->kept)
                keep_rows(span, z, number, s);
            failed |= attend(q, k, k + width, told + span->first * own, span->size, shared + span->size, s->heads,
                             s->kv_heads, s->h, wide, wide, wide, shared, span->starts, span->blocks, span->known,
                             s->block, skip);
        }
        failed |= linear(told, &layer->out, x, other, n, own, d, PLUS, low, &layer->both, d);
        norm(other, layer->between, even, n, d, eps);
        failed |= linear(even, &layer->both, NULL, mid, n, d, 2 * s->inner, GATED, low, &layer->down, s->inner);
        failed |= linear(mid, &layer->down, other, y, n, s->inner, d, PLUS, low, next, d);
    }
    return failed;
}
