/* What the files of the kernels call of one another. */
#pragma once
#include "bf16.h"

enum { PLAIN, PLUS, GATED };

void norm(const bf16 *x, const bf16 *weight, bf16 *y, long n, long d, float eps);
void rotate(bf16 *z, const float *cosine, const float *sine, long n, long stride, long rotated, long h);
int attend(const bf16 *q, const bf16 *k, const bf16 *v, bf16 *out, long n, long m, long heads, long kv_heads, long h,
           long q_stride, long k_stride, long v_stride, long shared, const long *starts, const bf16 *const *blocks,
           long known, long block_size, long skip);
int product(const bf16 *x, const bf16 *laid, const bf16 *residual, bf16 *y, long n, long d, long o, int paired,
            int kind, const bf16 *low, const bf16 *more, long rank, const bf16 *following, long wide_in);
