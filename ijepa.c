/* ijepa.c - I-JEPA, whole: masks, vision transformer, predictor, loss, every gradient, AdamW, EMA,
 * in one file.
 * It refuses to be a framework: one method, one element type, the CPU, libc and libm only.
 *
 *   cc -O3 -march=native -DIJEPA_MAIN ijepa.c -o ijepa -lm -lpthread     (or just: make)
 *
 * Part I, the paper:  basics · random numbers · tensor · matmul · layers · attention · transformer ·
 *                     encoder · masks · predictor · loss · joint embedding · optimisation ·
 *                     parameters · the training step
 * Part II, the tools: modes of masks · settings · building a model · features · platform · images ·
 *                     augmentation · scenes · safetensors · checkpoints · evaluation ·
 *                     is it learning? · PNG · without a system · the program
 * The manual, with the legend of dimensions (B N K T D P H F p), is ijepa.h.
 */
#if !defined(IJEPA_NO_POSIX)
#define IJ_FOLDERS
#if defined(_WIN32) || defined(__wasi__)  /* there is no more of POSIX */
#define IJEPA_NO_POSIX
#endif
#endif
#if defined(IJ_FOLDERS) && !defined(_POSIX_C_SOURCE)
#define _POSIX_C_SOURCE 200809L
#define _FILE_OFFSET_BITS 64              /* on systems of 32 bits */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE                       /* madvise, sched_getaffinity */
#endif
#endif
#include "ijepa.h"

#include <float.h>
#include <limits.h>
#include <stddef.h>
#ifndef IJEPA_INFER_ONLY
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#else                                     /* firmware: all that is needed of Part I, then "without a system" in Part II */
#ifdef IJEPA_MAIN
#error "IJEPA_INFER_ONLY leaves no program: not with IJEPA_MAIN"
#endif
#if defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wunused-function"
#endif
#endif
#if !defined(IJEPA_INFER_ONLY) || __STDC_HOSTED__
#include <math.h>
#include <string.h>
#else                                     /* gcc -ffreestanding: not even a C library */
#if !defined(__clang__)
#pragma GCC optimize("no-tree-loop-distribute-patterns")    /* these two loops are what it would call */
#endif
__attribute__((weak, used)) void *memcpy(void *to, const void *from, size_t n)
{
    unsigned char *t = to;
    for (const unsigned char *f = from; n--;) *t++ = *f++;
    return to;
}
__attribute__((weak, used)) void *memset(void *to, int byte, size_t n)
{
    for (unsigned char *t = to; n--;) *t++ = (unsigned char)byte;
    return to;
}
#define memcpy __builtin_memcpy
#define memset __builtin_memset
#define fabsf __builtin_fabsf
#define fmaf __builtin_fmaf
#define sqrt ij_sqrt
static double ij_sqrt(double x)           /* Newton's steps from half the exponent: right to a float; x > 0 */
{
    uint64_t bits;
    double y;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits >> 1) + 0x1ff8000000000000u;
    memcpy(&y, &bits, sizeof y);
    for (int i = 0; i < 6; i++) y = 0.5 * (y + x / y);
    return y;
}
#endif

/* Nobody listens for floating-point traps or reads errno after sqrt: then gcc may use vectors. Results are the same.
 * Loops begin where cores fetch instructions from, every 64 bytes: that is worth 5 % of a product. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-trapping-math", "no-math-errno", "align-loops=64")
#endif

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "-ffast-math, or a part of it: sums change their order, and what is not finite is lost"
#endif

typedef ij_real real;

/* ---- basics ---------------------------------------------------------------------------------------------------- */

#define IJ_MIN(a, b) ((a) < (b) ? (a) : (b))
#define IJ_MAX(a, b) ((a) > (b) ? (a) : (b))
#define IJ_PI 3.14159265358979323846

const char *ij_status_string(ij_status s)
{
    static const char *const text[] = { "ok", "bad setting or argument", "not enough memory", "file error",
                                        "bad file content", "impossible masks", "loss is not finite" };
    return (unsigned)s < sizeof text / sizeof *text ? text[s] : "unknown status";
}

#ifndef IJEPA_INFER_ONLY
/* Writes the one line that explains a failure and returns its status: `return ij_fail(why, IJ_EDATA, ...)`. */
#if defined(__MINGW_PRINTF_FORMAT)        /* C99's, which has %zu */
__attribute__((format(__MINGW_PRINTF_FORMAT, 3, 4)))
#elif defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
static ij_status ij_fail(ij_error *why, ij_status s, const char *format, ...)
{
    if (why) {
        va_list args;
        va_start(args, format);
        vsnprintf(why->text, sizeof why->text, format, args);
        va_end(args);
    }
    return s;
}

static ij_status ij_needs(ij_error *why, size_t need, size_t have)
{
    return ij_fail(why, IJ_EMEM, "work memory: need %zu bytes, have %zu", need, have);
}
#endif

/* An arena hands out pieces of one block, in order. With base NULL it only adds up: the same layout routine says how
 * many bytes are needed and later places them. `used` sticks at SIZE_MAX once a sum or product overflows. */
typedef struct { unsigned char *base; size_t size, used; } ij_arena;

static size_t ij_mul(size_t a, size_t b) { return b && a > SIZE_MAX / b ? SIZE_MAX : a * b; }

static void *ij_take(ij_arena *a, size_t count, size_t each)
{
    const size_t bytes = ij_mul(count, each), start = a->used;
    if (start > SIZE_MAX / 2 || bytes > SIZE_MAX / 2 - start - 64) { a->used = SIZE_MAX; return NULL; }
    a->used = start + (bytes + 63) / 64 * 64;
    return a->base ? a->base + start : NULL;
}

static void ij_each(const ij_team *team, size_t count, ij_task *task, void *arg)
{
    if (team && team->run && count > 1) team->run(team->pool, count, task, arg);
    else for (size_t i = 0; i < count; i++) task(arg, i);
}

/* ---- random numbers -------------------------------------------------------------------------------------------- */

void ij_rng_seed(ij_rng *r, uint64_t seed)
{
    r->state[0] = (uint32_t)seed;
    for (uint32_t i = 1; i < 624; i++)
        r->state[i] = 1812433253u * (r->state[i - 1] ^ (r->state[i - 1] >> 30)) + i;
    r->at = 624;
}

static uint32_t ij_rng_next(ij_rng *r)
{
    uint32_t *s = r->state;
    if (r->at >= 624) {                                        /* the next 624 words at once */
        for (uint32_t i = 0; i < 624; i++) {
            const uint32_t y = (s[i] & 0x80000000u) | (s[(i + 1) % 624] & 0x7fffffffu);
            s[i] = s[(i + 397) % 624] ^ (y >> 1) ^ (y & 1 ? 0x9908b0dfu : 0);
        }
        r->at = 0;
    }
    uint32_t y = s[r->at++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9d2c5680u;
    y ^= y << 15 & 0xefc60000u;
    return y ^ y >> 18;
}

/* [0,1), 24 bits: torch.rand */
static double ij_rng_uniform(ij_rng *r) { return (ij_rng_next(r) & 0xffffff) / 16777216.0; }

/* 0..n-1: torch.randint */
static size_t ij_rng_below(ij_rng *r, size_t n) { return ij_rng_next(r) % n; }

#ifdef IJEPA_MAIN
static void ij_rng_permutation(ij_rng *r, size_t *order, size_t n)      /* torch.randperm */
{
    for (size_t i = 0; i < n; i++) order[i] = i;
    for (size_t i = 0; i + 1 < n; i++) {
        const size_t j = i + ij_rng_below(r, n - i), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
}
#endif

/* A cheaper generator whose state is one number, for streams that are made by the thousand: one for each image of
 * each step, so that nothing depends on the order of threads and nothing has to be saved. (SplitMix64.) */
static uint64_t ij_mix(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* ---- tensor ------------------------------------------------------------------------------------------------------
 * Activations are packed: the tokens of all sequences of a batch stand under one another as rows [T,D], so sequences
 * of different length need no padding. Every layer works on any range of rows.                                      */

static size_t ij_cols(const ij_tensor *t) { return t->dim[t->rank - 1]; }
static size_t ij_rows(const ij_tensor *t)
{
    size_t rows = 1;
    for (size_t i = 0; i + 1 < t->rank; i++) rows = ij_mul(rows, t->dim[i]);
    return rows;
}
static size_t ij_count(const ij_tensor *t) { return ij_mul(ij_rows(t), ij_cols(t)); }

static ij_tensor ij_matrix(ij_arena *a, size_t rows, size_t cols)
{
    const ij_tensor t = { ij_take(a, ij_mul(rows, cols), sizeof(real)), 2, { rows, cols, 0, 0 } };
    return t;
}

/* Rows r0..r1 of a matrix, or these elements of a vector, sharing their memory. */
static ij_tensor ij_slice(const ij_tensor *t, size_t r0, size_t r1)
{
    const ij_tensor s = { t->x + r0 * (t->rank == 2 ? t->dim[1] : 1), t->rank, { r1 - r0, t->dim[1], 0, 0 } };
    return s;
}

/* sum = the sum of `term` over i < n. It runs in 16 lanes, lane i taking i, i+16, ..., which are then folded in halves:
 * so the compiler can use vectors without reordering anything, and the result is the same on every machine. */
enum { IJ_LANES = 16 };
#define IJ_SUM(type, sum, i, n, term)                                       \
    do {                                                                    \
        type lane_[IJ_LANES] = { 0 };                                       \
        size_t i = 0;                                                       \
        for (const size_t whole_ = (n) / IJ_LANES * IJ_LANES; i < whole_;)  \
            for (size_t j_ = 0; j_ < IJ_LANES; j_++, i++) lane_[j_] += (term); \
        for (; i < (n); i++) lane_[i % IJ_LANES] += (term);                 \
        for (size_t j_ = 0; j_ < 8; j_++) lane_[j_] += lane_[j_ + 8];       \
        for (size_t j_ = 0; j_ < 4; j_++) lane_[j_] += lane_[j_ + 4];       \
        (sum) = (lane_[0] + lane_[2]) + (lane_[1] + lane_[3]);              \
    } while (0)

/* ---- matmul ------------------------------------------------------------------------------------------------------
 * The naive version is the definition. The fast one computes the same chains of multiply-adds, so its results are
 * equal to the last bit:
 *
 *            B, packed: NC columns      The sum is cut into slices of at most KC terms. For each, a block of B is packed
 *           +--NR--+------+------+      as panels of NR columns; then MR rows of A after MR rows meet the panels. The
 *           | b[k] |      |      | KC   tile kernel keeps MR x NR sums of C in vector registers and walks down k:
 *    A      +------+------+------+            C[i][j] += a[i][k] * b[k][j]
 *  +-KC-+   +------+------+------+      beginning with S, or with the C of the slice before. A is read where it lies,
 *  | MR |   |MR x NR      |      | C    along its rows; the columns of a transposed A are packed. The MR rows of A stay
 *  +----+   +------+------+------+      in the L1 cache, the block of B in the L2.                                    */

#if defined(FP_FAST_FMA) || defined(FP_FAST_FMAF) || defined(__FP_FAST_FMAF) || defined(__FMA__)
#define IJ_HAS_FMA                        /* one instruction, one rounding: then both versions use it everywhere */
#endif
#if defined(IJ_HAS_FMA) && defined(IJEPA_DOUBLE)
#define IJ_MADD(a, b, c) fma(a, b, c)
#elif defined(IJ_HAS_FMA)
#define IJ_MADD(a, b, c) fmaf(a, b, c)
#else
#define IJ_MADD(a, b, c) ((c) + (a) * (b))
#endif

/* The one place that knows machines: bytes of a vector register, and rows of the tile, which is two vectors wide: as
 * many sums as the registers hold. In GNU C (gcc 8, clang) vectors are a type; elsewhere, and on a processor without
 * them, they have one lane. */
#if defined(IJEPA_INFER_ONLY) && !defined(__SSE2__) && !defined(__ARM_NEON) && !defined(__wasm_simd128__)
#define IJ_ONE_LANE
#endif
#if defined(IJEPA_INFER_ONLY)
enum { IJ_VECTOR = 16, IJ_MR = IJ_ROM_ROWS };
#elif defined(__AVX512F__)
enum { IJ_VECTOR = 64, IJ_MR = 12 };
#elif defined(__AVX__)
enum { IJ_VECTOR = 32, IJ_MR = 6 };
#elif defined(__aarch64__)
enum { IJ_VECTOR = 16, IJ_MR = 12 };
#elif defined(__wasm__)                   /* browsers keep some of 16 registers for themselves: 6 rows take a third longer */
enum { IJ_VECTOR = 16, IJ_MR = 4 };
#else
enum { IJ_VECTOR = 16, IJ_MR = 6 };
#endif
#if !defined(IJ_ONE_LANE) && (defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 8))
typedef real ij_vec __attribute__((vector_size(IJ_VECTOR), aligned(sizeof(real)), may_alias));
enum { IJ_VL = IJ_VECTOR / sizeof(real) };
#define IJ_LANE(v, l) (v)[l]
#define IJ_ALIGNED __attribute__((aligned(64)))
#define IJ_UNROLL _Pragma("GCC unroll 16")
#else
typedef real ij_vec;
enum { IJ_VL = 1 };
#define IJ_LANE(v, l) (v)
#define IJ_ALIGNED
#define IJ_UNROLL
#endif
enum {
    IJ_NR = 2 * IJ_VL,
#ifdef IJEPA_INFER_ONLY
    IJ_KC = 64, IJ_NC = IJ_NR,            /* some 3 KB of stack */
#else
    IJ_KC = 256,                          /* a panel of B: at most 16 KB (AVX-512: 32), half of an L1 cache */
    IJ_NC = 12 * IJ_NR,                   /* a block of B: at most 192 KB (AVX-512: 384), on the stack */
#endif
    IJ_STRIP = 2 * IJ_MR                  /* columns of a transposed A that are packed at once */
};

void ij_matmul_naive(const ij_product *p)
{
    for (size_t i = 0; i < p->m; i++)
        for (size_t j = 0; j < p->n; j++) {
            real sum = p->start ? p->start[i * p->start_row + j] : 0;
            for (size_t k = 0; k < p->k; k++)
                sum = IJ_MADD(p->a[i * p->a_row + k * p->a_col], p->b[k * p->b_row + j * p->b_col], sum);
            p->c[i * p->c_row + j] = sum;
        }
}

static inline ij_vec ij_vec_madd(real a, ij_vec b, ij_vec c)
{
    IJ_UNROLL for (size_t l = 0; l < IJ_VL; l++) IJ_LANE(c, l) = IJ_MADD(a, IJ_LANE(b, l), IJ_LANE(c, l));
    return c;
}

static void ij_tile(size_t kc, const real *a, size_t a_row, size_t a_col, const real *b, real *c, size_t c_row,
                    const real *start, size_t start_row)
{
    ij_vec sum[IJ_MR][2];
    IJ_UNROLL for (size_t i = 0; i < IJ_MR; i++)
        IJ_UNROLL for (size_t j = 0; j < 2; j++) sum[i][j] = *(const ij_vec *)(start + i * start_row + j * IJ_VL);
    for (size_t k = 0; k < kc; k++, a += a_col, b += IJ_NR)
        IJ_UNROLL for (size_t i = 0; i < IJ_MR; i++) {
            sum[i][0] = ij_vec_madd(a[i * a_row], *(const ij_vec *)b, sum[i][0]);   /* looped, gcc 12 does not align it */
            sum[i][1] = ij_vec_madd(a[i * a_row], *(const ij_vec *)(b + IJ_VL), sum[i][1]);
        }
    IJ_UNROLL for (size_t i = 0; i < IJ_MR; i++)
        IJ_UNROLL for (size_t j = 0; j < 2; j++) *(ij_vec *)(c + i * c_row + j * IJ_VL) = sum[i][j];
}

/* to[k*width + i] = from[i*next + k] for i and k below IJ_VL: in each round vectors far apart are interleaved. */
#if !defined(IJEPA_DOUBLE) && !defined(IJ_ONE_LANE) && defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#if defined(__AVX512F__) && !defined(IJEPA_INFER_ONLY)
#define IJ_ZIP_LOW(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define IJ_ZIP_HIGH(a, b) __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#elif defined(__AVX__) && !defined(IJEPA_INFER_ONLY)
#define IJ_ZIP_LOW(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define IJ_ZIP_HIGH(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#else
#define IJ_ZIP_LOW(a, b) __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define IJ_ZIP_HIGH(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)
#endif
#endif
#endif
static void ij_pack_square(real *to, size_t width, const real *from, size_t next)
{
#ifdef IJ_ZIP_LOW
    ij_vec r[IJ_VL], t[IJ_VL];
    IJ_UNROLL for (size_t i = 0; i < IJ_VL; i++) r[i] = *(const ij_vec *)(from + i * next);
    IJ_UNROLL for (size_t far = 1; far < IJ_VL; far *= 2) {
        IJ_UNROLL for (size_t i = 0; i < IJ_VL / 2; i++) {
            t[2 * i] = IJ_ZIP_LOW(r[i], r[i + IJ_VL / 2]);
            t[2 * i + 1] = IJ_ZIP_HIGH(r[i], r[i + IJ_VL / 2]);
        }
        IJ_UNROLL for (size_t i = 0; i < IJ_VL; i++) r[i] = t[i];
    }
    IJ_UNROLL for (size_t k = 0; k < IJ_VL; k++) *(ij_vec *)(to + k * width) = r[k];
#else
    for (size_t i = 0; i < IJ_VL; i++)
        for (size_t k = 0; k < IJ_VL; k++) to[k * width + i] = from[i * next + k];
#endif
}

/* to[k][0..width) = from[k*step + i*next] for i < used, zero beyond. */
static inline void ij_pack(real *to, size_t width, const real *from, size_t used, size_t kc, size_t next, size_t step)
{
    if (next == 1 && used == width) {
        for (size_t k = 0; k < kc; k++)                 /* a width known to the compiler takes no call */
            if (width == IJ_NR) memcpy(to + k * width, from + k * step, IJ_NR * sizeof(real));
            else memcpy(to + k * width, from + k * step, width * sizeof(real));
        return;
    }
    size_t i = 0;
    for (; step == 1 && i + IJ_VL <= used; i += IJ_VL) {
        size_t k = 0;
        for (; k + IJ_VL <= kc; k += IJ_VL) ij_pack_square(to + k * width + i, width, from + i * next + k, next);
        for (; k < kc; k++)
            for (size_t l = i; l < i + IJ_VL; l++) to[k * width + l] = from[l * next + k];
    }
    for (; i < width; i++)
        for (size_t k = 0; k < kc; k++) to[k * width + i] = i < used ? from[k * step + i * next] : 0;
}

/* Rows i0..i1 of C, columns j0..j1 (at most NC), slice k0.. of the sum. What hangs over C's edge is computed aside. */
static void ij_matmul_block(const ij_product *p, size_t i0, size_t i1, size_t j0, size_t j1, size_t k0, size_t kc)
{
    static const real zero[IJ_NR] = { 0 };
    IJ_ALIGNED real b_block[IJ_KC * IJ_NC], a_packed[IJ_KC * IJ_STRIP], c_edge[IJ_MR * IJ_NR];
    const real *first = k0 ? p->c : p->start;
    const size_t first_row = k0 ? p->c_row : p->start_row, start_row = first ? first_row : 0;
    for (size_t j = j0; j < j1; j += IJ_NR)
        ij_pack(b_block + (j - j0) * kc, IJ_NR, p->b + k0 * p->b_row + j * p->b_col, IJ_MIN(IJ_NR, j1 - j), kc, p->b_col,
                p->b_row);
    for (size_t i = i0; i < i1; i += IJ_MR) {
        const size_t mr = IJ_MIN(IJ_MR, i1 - i);
        const real *a = p->a + i * p->a_row + k0 * p->a_col;
        const int packed = p->a_col != 1 || mr < IJ_MR;
        const size_t width = p->a_col == 1 ? IJ_MR : IJ_STRIP, done = (i - i0) % width;
        if (packed && p->a_col == 1) ij_pack(a_packed, IJ_MR, a, mr, kc, p->a_row, 1);
        else if (packed && !done) ij_pack(a_packed, IJ_STRIP, a, IJ_MIN(IJ_STRIP, i1 - i), kc, p->a_row, p->a_col);
        if (packed) a = a_packed + done;
        for (size_t j = j0; j < j1; j += IJ_NR) {
            const size_t nr = IJ_MIN(IJ_NR, j1 - j);
            const int inside = mr == IJ_MR && nr == IJ_NR;
            const real *start = first ? first + i * first_row + j : zero;
            real *c = p->c + i * p->c_row + j;
            if (!inside) {
                memset(c_edge, 0, sizeof c_edge);
                for (size_t r = 0; r < mr; r++)
                    for (size_t l = 0; l < nr; l++) c_edge[r * IJ_NR + l] = start[r * start_row + l];
            }
            ij_tile(kc, a, packed ? 1 : p->a_row, packed ? width : p->a_col, b_block + (j - j0) * kc, inside ? c : c_edge,
                    inside ? p->c_row : IJ_NR, inside ? start : c_edge, inside ? start_row : IJ_NR);
            for (size_t r = 0; !inside && r < mr; r++)
                for (size_t l = 0; l < nr; l++) c[r * p->c_row + l] = c_edge[r * IJ_NR + l];
        }
    }
}

static size_t ij_share(size_t n, size_t most)           /* of n cut into the fewest equal shares of at most that much */
{
    const size_t shares = IJ_MAX(1, (n + most - 1) / most);
    return IJ_MAX(1, (n + shares - 1) / shares);
}

typedef struct { const ij_product *p; size_t rows; } ij_matmul_work;

/* Rows index*rows .. of C. */
static void ij_matmul_rows(void *arg, size_t index)
{
    const ij_matmul_work *w = arg;
    const ij_product *p = w->p;
    const size_t i0 = index * w->rows, i1 = IJ_MIN(i0 + w->rows, p->m), slice = ij_share(p->k, IJ_KC);
    size_t k = 0;
    do
        for (size_t j = 0; j < p->n; j += IJ_NC)
            ij_matmul_block(p, i0, i1, j, IJ_MIN(j + IJ_NC, p->n), k, IJ_MIN(slice, p->k - k));
    while ((k += slice) < p->k);
}

void ij_matmul(const ij_product *p, const ij_team *team)
{
    const size_t threads = team && team->run ? IJ_MAX(team->threads, 1) : 1;
    const size_t rows = (p->m / threads / IJ_MR + 1) * IJ_MR;           /* equal shares */
    ij_matmul_work w = { p, rows };
    if (p->m && p->n) ij_each(team, (p->m + rows - 1) / rows, ij_matmul_rows, &w);
}

/* ---- layers ------------------------------------------------------------------------------------------------------
 * Each backward stands below its forward. Forward overwrites y. Backward overwrites dx, the gradient of the input
 * (layer norm adds to it: it closes a residual branch), and adds to the gradients of parameters. Those sum over all
 * rows of a batch, so they are made apart from dx, cut by rows of the weight: any cut gives the same bits.          */

enum { IJ_WORTH = 1 << 24 };            /* multiply-adds for which waking threads pays: some 0.3 ms */

/* y = x W' + b      x [T,in]  W [out,in]  b [out]  y [T,out] */
static void ij_linear(ij_tensor y, ij_tensor x, const ij_tensor *w, const ij_tensor *b, const ij_team *team)
{
    const size_t rows = ij_rows(&x), in = ij_cols(&x), out = ij_cols(&y);
    const ij_product p = { rows, out, in, x.x, in, 1, w->x, 1, in, y.x, out, b->x, 0 };
    ij_matmul(&p, (double)rows * (double)in * (double)out < IJ_WORTH ? NULL : team);
}

/* dx = dy W, or dx += dy W */
static void ij_linear_backward(ij_tensor dx, ij_tensor dy, const ij_tensor *w, int add, const ij_team *team)
{
    const size_t rows = ij_rows(&dy), out = ij_cols(&dy), in = ij_cols(&dx);
    const ij_product p = { rows, in, out, dy.x, out, 1, w->x, in, 1, dx.x, in, add ? dx.x : NULL, in };
    ij_matmul(&p, team);
}

/* Rows o0..o1 of dW += dy' x, and of db += the column sums of dy. */
static void ij_linear_backward_weight(const ij_tensor *dw, const ij_tensor *db, const ij_tensor *dy, const ij_tensor *x,
                                      size_t o0, size_t o1)
{
    const size_t rows = ij_rows(x), in = ij_cols(x), out = ij_cols(dy);
    const ij_product p = { o1 - o0, in, rows, dy->x + o0, 1, out, x->x, in, 1, dw->x + o0 * in, in, dw->x + o0 * in, in };
    ij_matmul(&p, NULL);
    for (size_t r = 0; r < rows; r++)
        for (size_t o = o0; o < o1; o++) db->x[o] += dy->x[r * out + o];
}

#define IJ_NORM_EPS 1e-6                  /* of every LayerNorm of the model (spec: nn.LayerNorm, eps=1e-6) */
#define IJ_TARGET_EPS 1e-5                /* of the parameter-free norm of the targets: F.layer_norm's default */

/* Mean and 1/std of one row. */
static void ij_moments(real *mean, real *rstd, const real *x, size_t d, double eps)
{
    real sum, square;
    IJ_SUM(real, sum, i, d, x[i]);
    const real m = sum / (real)d;
    IJ_SUM(real, square, i, d, (x[i] - m) * (x[i] - m));
    *mean = m;
    *rstd = 1 / (real)sqrt((double)(square / (real)d) + eps);
}

/* y [T,D] = rows of x, each with mean 0 and variance 1; add: y += */
static void ij_normalise_rows(real *y, const real *x, size_t rows, size_t d, int add)
{
    for (real mean, rstd; rows--; y += d, x += d) {
        ij_moments(&mean, &rstd, x, d, IJ_TARGET_EPS);
        for (size_t c = 0; c < d; c++) y[c] = (add ? y[c] : 0) + (x[c] - mean) * rstd;
    }
}

/* y = (x - mean) rstd w + b      stat [T,2]: mean, rstd, kept for the backward */
static void ij_layernorm(ij_tensor y, ij_tensor stat, ij_tensor x, const ij_tensor *w, const ij_tensor *b)
{
    const size_t d = ij_cols(&x);
    for (size_t r = 0; r < ij_rows(&x); r++) {
        real *s = stat.x + r * 2, *yr = y.x + r * d;
        const real *xr = x.x + r * d;
        ij_moments(&s[0], &s[1], xr, d, IJ_NORM_EPS);
        for (size_t i = 0; i < d; i++) yr[i] = (xr[i] - s[0]) * s[1] * w->x[i] + b->x[i];
    }
}

/* dx += rstd (g - mean(g) - n mean(g n))      with n = (x - mean) rstd, g = dy w */
static void ij_layernorm_backward(ij_tensor dx, ij_tensor dy, ij_tensor stat, ij_tensor x, const ij_tensor *w)
{
    const size_t d = ij_cols(&x);
    for (size_t r = 0; r < ij_rows(&x); r++) {
        const real *xr = x.x + r * d, *dyr = dy.x + r * d, mean = stat.x[r * 2], rstd = stat.x[r * 2 + 1];
        real *dxr = dx.x + r * d, g_sum, gn_sum;
        IJ_SUM(real, g_sum, i, d, dyr[i] * w->x[i]);
        IJ_SUM(real, gn_sum, i, d, dyr[i] * w->x[i] * (xr[i] - mean) * rstd);
        const real g_mean = g_sum / (real)d, gn_mean = gn_sum / (real)d;
        for (size_t i = 0; i < d; i++)
            dxr[i] += rstd * (dyr[i] * w->x[i] - g_mean - (xr[i] - mean) * rstd * gn_mean);
    }
}

/* Channels c0..c1 of dw += sum of dy n, db += sum of dy. */
static void ij_layernorm_backward_weight(const ij_tensor *dw, const ij_tensor *db, const ij_tensor *dy,
                                         const ij_tensor *stat, const ij_tensor *x, size_t c0, size_t c1)
{
    const size_t d = ij_cols(x);
    for (size_t r = 0; r < ij_rows(x); r++) {
        const real *s = stat->x + r * 2, *xr = x->x + r * d, *dyr = dy->x + r * d;
        for (size_t i = c0; i < c1; i++) {
            dw->x[i] += dyr[i] * ((xr[i] - s[0]) * s[1]);
            db->x[i] += dyr[i];
        }
    }
}

/* exp for vectors: x = n ln2 + r, then 2^n times a polynomial for e^r on |r| <= ln2/2 (fitted; its own error is 2e-9).
 * Worst error 1.4 ulp on [-87,88], values beyond are held there (test exp_and_normal). Where float arithmetic is wider
 * than float, or numbers are double, libm's. (tcc does not say how wide, and rounds like the rest; 16: only _Float16 is wider than itself.) */
#if !defined(IJEPA_DOUBLE) && (!defined(FLT_EVAL_METHOD) || FLT_EVAL_METHOD == 0 || FLT_EVAL_METHOD == 16)
static inline real ij_exp(real x)
{
    x = x < -87 ? -87 : x > 88 ? 88 : x;
    const float shifted = x * 1.44269504f + 12582912.0f;        /* 1.5 * 2^23: the low bits now hold n */
    const float n = shifted - 12582912.0f;
    const float r = IJ_MADD(n, -1.42860677e-6f, IJ_MADD(n, -0.693145752f, x));
    float p = 0.00138358135f;
    p = IJ_MADD(p, r, 0.00837563643f);
    p = IJ_MADD(p, r, 0.0416682881f);
    p = IJ_MADD(p, r, 0.166664103f);
    p = IJ_MADD(p, r, 0.499999916f);
    p = IJ_MADD(p, r, 1.0f);
    p = IJ_MADD(p, r, 1.0f);
    uint32_t bits;
    float two_n;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits - 0x4b400000u + 127) << 23;
    memcpy(&two_n, &bits, sizeof two_n);
    return p * two_n;
}

/* The normal distribution: density pdf(u) and upper tail q = 1 - cdf(|u|) = pdf t P(t), t = 1 / (1 + 0.2316419 |u|)
 * (the form of Abramowitz & Stegun 26.2.17, refitted: error of P 2e-8; of cdf in float 2.5e-7). */
static inline void ij_normal(real *pdf, real *cdf, real u)
{
    const float v = fabsf(u), e = ij_exp(-0.5f * v * v), t = 1.0f / IJ_MADD(0.2316419f, v, 1.0f);
    float p = -0.0712024451f;
    p = IJ_MADD(p, t, 0.250886878f);
    p = IJ_MADD(p, t, -0.207111123f);
    p = IJ_MADD(p, t, 0.230225247f);
    p = IJ_MADD(p, t, 0.0109353114f);
    p = IJ_MADD(p, t, 0.103443219f);
    p = IJ_MADD(p, t, 0.0902921905f);
    p = IJ_MADD(p, t, 0.09253072f);
    const float q = e * t * p, rest = 1.0f - q;
    *pdf = e * 0.398942280f;
    *cdf = u < 0 ? q : rest;
}
#else
static real ij_exp(real x) { return (real)exp((double)x); }
static void ij_normal(real *pdf, real *cdf, real u)
{
    *pdf = (real)(exp(-0.5 * (double)u * (double)u) * 0.39894228040143267794);
    *cdf = (real)(0.5 * erfc(-(double)u * 0.70710678118654752440));
}
#endif

/* y = u cdf(u), the erf form. u becomes the slope cdf(u) + u pdf(u), which is all that the backward needs. */
static void ij_gelu(ij_tensor y, ij_tensor u)
{
    for (size_t i = 0, n = ij_count(&u); i < n; i++) {
        real pdf, cdf;
        const real x = u.x[i];
        ij_normal(&pdf, &cdf, x);
        y.x[i] = x * cdf;
        u.x[i] = cdf + x * pdf;
    }
}

static void ij_gelu_backward(ij_tensor dy, ij_tensor slope)             /* du = dy slope, in place */
{
    for (size_t i = 0, n = ij_count(&dy); i < n; i++) dy.x[i] *= slope.x[i];
}

static void ij_add(ij_tensor y, ij_tensor x)            /* y += x */
{
    for (size_t i = 0, n = ij_count(&y); i < n; i++) y.x[i] += x.x[i];
}

static void ij_copy(ij_tensor y, ij_tensor x)
{
    for (size_t i = 0; i < ij_count(&x); i++) y.x[i] = x.x[i];
}

/* Softmax of each row of s [m,n], scaled, in place. Rows may be short, so exp runs over all of them
 * at once. */
static void ij_softmax(real *s, size_t m, size_t n, real scale)
{
    for (size_t r = 0; r < m; r++) {
        real *x = s + r * n, top = x[0], lane[8];
        for (size_t i = 0; i < 8; i++) lane[i] = top;
        size_t j = 0;
        for (; j + 8 <= n; j += 8)
            for (size_t i = 0; i < 8; i++) lane[i] = x[j + i] > lane[i] ? x[j + i] : lane[i];
        for (; j < n; j++) top = x[j] > top ? x[j] : top;
        for (size_t i = 0; i < 8; i++) top = lane[i] > top ? lane[i] : top;
        for (j = 0; j < n; j++) x[j] = (x[j] - top) * scale;
    }
    for (size_t i = 0; i < m * n; i++) s[i] = ij_exp(s[i]);
    for (size_t r = 0; r < m; r++, s += n) {
        real sum;
        IJ_SUM(real, sum, i, n, s[i]);
        const real inverse = 1 / sum;
        for (size_t j = 0; j < n; j++) s[j] *= inverse;
    }
}

/* ds (given as dp) = p (dp - sum(dp p)) scale, in place */
static void ij_softmax_backward(real *dp, const real *p, size_t m, size_t n, real scale)
{
    for (size_t r = 0; r < m; r++, dp += n, p += n) {
        real dot;
        IJ_SUM(real, dot, j, n, dp[j] * p[j]);
        for (size_t j = 0; j < n; j++) dp[j] = p[j] * (dp[j] - dot) * scale;
    }
}

/* ---- attention ---------------------------------------------------------------------------------------------------
 * Within one sequence of n tokens, of which m ask, and one head:
 *      P = softmax(q k' / sqrt(dh)) [m,n],   o = P v [m,dh].
 * q [m,D], and kv [n,2D] with [k | v] in each row; head h at columns h*dh of q, of k and of v.                       */

static void ij_attention(real *o, real *prob, const real *q, const real *kv, size_t m, size_t n, size_t d, size_t heads)
{
    const size_t dh = d / heads, row = 2 * d;
    const real scale = (real)(1 / sqrt((double)dh));
    for (size_t h = 0; h < heads; h++, prob += m * n) {
        const real *k = kv + h * dh, *v = k + d;
        const ij_product scores = { m, n, dh, q + h * dh, d, 1, k, 1, row, prob, n, NULL, 0 };
        ij_matmul(&scores, NULL);
        ij_softmax(prob, m, n, scale);
        const ij_product out = { m, dh, n, prob, n, 1, v, row, 1, o + h * dh, d, NULL, 0 };
        ij_matmul(&out, NULL);
    }
}

/* dq, dkv from do; ds: room for [m,n] */
static void ij_attention_backward(real *dq, real *dkv, real *ds, const real *d_o, const real *prob, const real *q,
                                  const real *kv, size_t m, size_t n, size_t d, size_t heads)
{
    const size_t dh = d / heads, row = 2 * d;
    const real scale = (real)(1 / sqrt((double)dh));
    for (size_t h = 0; h < heads; h++, prob += m * n) {
        const real *k = kv + h * dh, *v = k + d, *doh = d_o + h * dh;
        real *dk = dkv + h * dh, *dv = dk + d;
        const ij_product to_v = { n, dh, m, prob, 1, n, doh, d, 1, dv, row, NULL, 0 };        /* dv = P' do */
        const ij_product to_p = { m, n, dh, doh, d, 1, v, 1, row, ds, n, NULL, 0 };           /* dP = do v' */
        ij_matmul(&to_v, NULL);
        ij_matmul(&to_p, NULL);
        ij_softmax_backward(ds, prob, m, n, scale);
        const ij_product to_q = { m, dh, n, ds, n, 1, k, row, 1, dq + h * dh, d, NULL, 0 };   /* dq = dS k */
        const ij_product to_k = { n, dh, m, ds, 1, n, q + h * dh, d, 1, dk, row, NULL, 0 };   /* dk = dS' q */
        ij_matmul(&to_q, NULL);
        ij_matmul(&to_k, NULL);
    }
}

#ifndef IJEPA_INFER_ONLY
/* ---- transformer -------------------------------------------------------------------------------------------------
 * A stack of pre-norm blocks and a final norm, the body of encoder and predictor alike. A batch of sequences is cut
 * into pieces of whole sequences; a thread takes a piece through all layers. The products of a lone piece, such as one
 * image to encode, are shared by the threads instead.                                                                */

typedef struct {                /* a packed batch of sequences */
    size_t count, tokens;
    size_t *start;              /* [count+1] first row of each */
    size_t *square;             /* [count+1] sum of the squared lengths before it: where its attention begins */
    size_t pieces;
    const ij_team *team;        /* for the products within a piece, if there is only one; else NULL */
} ij_seqs;

typedef struct {                /* activations of one block, kept for the backward */
    ij_tensor x;                /* [T,D] input */
    ij_tensor norm1, stat1;     /* [T,D] [T,2] */
    ij_tensor kv;               /* [T,2D] keys and values */
    ij_tensor xq, norm1q;       /* [Q,D] x and norm1 at the rows that ask: in all but the last block these are all rows */
    ij_tensor q;                /* [Q,D] queries */
    real *prob;                 /* for each sequence [H,m,n] */
    ij_tensor heads;            /* [Q,D] attention's output before proj */
    ij_tensor y;                /* [Q,D] after the attention branch */
    ij_tensor norm2, stat2;     /* [Q,D] [Q,2] */
    ij_tensor fc1, gelu;        /* [Q,F] fc1 becomes GELU's slope */
} ij_block_acts;

typedef struct {
    size_t depth, heads;
    ij_seqs seqs;
    ij_seqs asked;              /* the last rows of each sequence, whose output is asked for; those before them need no
                                   queries and no MLP in the last block */
    ij_block_acts *block;       /* [depth] */
    ij_tensor out;              /* [Q,D] output of the last block */
    ij_tensor norm, stat;       /* [Q,D] [Q,2] final norm */
    size_t average;             /* of a target encoder: average_top_k_layers, */
    ij_tensor top;              /* [T,D] and the sum of these layers' outputs, each normalised */
} ij_stack;

typedef struct {                /* gradients while walking back through one stack */
    ij_tensor dz, dy, dx;       /* [Q,D] [Q,D] [T,D] of a block's output, middle, input */
    ij_tensor dnorm1, dnorm2, dheads;   /* [T,D] [Q,D] [Q,D] */
    ij_tensor dq, dkv, dfc1;    /* [Q,D] [T,2D] [Q,F] */
    real *dprob;                /* for each sequence [m,n] */
} ij_stack_grads;

static size_t ij_length(const ij_seqs *s, size_t seq) { return s->start[seq + 1] - s->start[seq]; }

static void ij_seqs_place(ij_seqs *s, ij_arena *a, size_t count)
{
    s->start = ij_take(a, count + 1, sizeof(size_t));
    s->square = ij_take(a, count + 1, sizeof(size_t));
    if (s->start) s->start[0] = s->square[0] = 0;
}

/* Pieces of at most some 512 rows, in equal shares for the threads. */
static void ij_seqs_set(ij_seqs *s, size_t count, const ij_team *team)
{
    const size_t threads = team && team->run ? IJ_MAX(team->threads, 1) : 1;
    s->count = count;
    s->tokens = s->start[count];
    for (size_t i = 0; i < count; i++) s->square[i + 1] = s->square[i] + ij_length(s, i) * ij_length(s, i);
    const size_t pieces = ((s->tokens + 511) / 512 + threads - 1) / threads * threads;
    s->pieces = IJ_MIN(pieces, count);
    s->team = s->pieces < 2 ? team : NULL;
}

/* First sequence of a piece. */
static size_t ij_piece(const ij_seqs *s, size_t piece) { return s->count * piece / s->pieces; }

/* tokens, asked, squares: at most that many; keep 0: no backward will follow, and all blocks share one set of buffers */
static void ij_stack_place(ij_stack *s, ij_arena *a, size_t depth, size_t heads, size_t d, size_t f, size_t count,
                           size_t tokens, size_t asked, size_t squares, int keep)
{
    s->depth = depth, s->heads = heads, s->average = 0;
    ij_seqs_place(&s->seqs, a, count);
    s->asked = s->seqs;
    if (asked < tokens) ij_seqs_place(&s->asked, a, count);
    s->block = ij_take(a, depth, sizeof *s->block);
    ij_block_acts b;
    memset(&b, 0, sizeof b);
    for (size_t i = 0; i < depth; i++) {
        if (keep || i == 0) {
            const size_t q = i + 1 < depth ? tokens : asked;
            b.x = b.xq = ij_matrix(a, tokens, d);
            b.norm1 = b.norm1q = ij_matrix(a, tokens, d);
            if (q < tokens) b.xq = ij_matrix(a, q, d), b.norm1q = ij_matrix(a, q, d);
            b.stat1 = ij_matrix(a, tokens, 2);
            b.kv = ij_matrix(a, tokens, ij_mul(2, d));
            b.q = ij_matrix(a, q, d);
            b.prob = ij_take(a, ij_mul(squares, heads), sizeof(real));
            b.heads = ij_matrix(a, q, d);
            b.y = ij_matrix(a, q, d);
            b.norm2 = ij_matrix(a, q, d);
            b.stat2 = ij_matrix(a, q, 2);
            b.fc1 = ij_matrix(a, q, f);
            b.gelu = ij_matrix(a, q, f);
        }
        if (s->block) s->block[i] = b;
    }
    s->out = keep || !depth ? ij_matrix(a, asked, d) : b.x;     /* z = y + ... never reads x again */
    s->norm = ij_matrix(a, asked, d);
    s->stat = ij_matrix(a, asked, 2);
}

static void ij_stack_grads_place(ij_stack_grads *g, ij_arena *a, size_t d, size_t f, size_t tokens, size_t squares)
{
    ij_tensor *const wide[] = { &g->dz, &g->dy, &g->dx, &g->dnorm1, &g->dnorm2, &g->dheads, &g->dq };
    for (size_t i = 0; i < sizeof wide / sizeof *wide; i++) *wide[i] = ij_matrix(a, tokens, d);
    g->dkv = ij_matrix(a, tokens, ij_mul(2, d));
    g->dfc1 = ij_matrix(a, tokens, f);
    g->dprob = ij_take(a, squares, sizeof(real));
}

/* The rows of sequences s0..s1; q: the rows that ask in this block. */
static ij_block_acts ij_block_slice(const ij_block_acts *a, const ij_seqs *s, const ij_seqs *q, size_t heads, size_t s0,
                                    size_t s1)
{
    const size_t r0 = s->start[s0], r1 = s->start[s1], q0 = q->start[s0], q1 = q->start[s1];
    const ij_block_acts part = {
        ij_slice(&a->x, r0, r1), ij_slice(&a->norm1, r0, r1), ij_slice(&a->stat1, r0, r1), ij_slice(&a->kv, r0, r1),
        ij_slice(&a->xq, q0, q1), ij_slice(&a->norm1q, q0, q1), ij_slice(&a->q, q0, q1), a->prob + heads * s->square[s0],
        ij_slice(&a->heads, q0, q1), ij_slice(&a->y, q0, q1), ij_slice(&a->norm2, q0, q1), ij_slice(&a->stat2, q0, q1),
        ij_slice(&a->fc1, q0, q1), ij_slice(&a->gelu, q0, q1) };
    return part;
}

static ij_stack_grads ij_grads_slice(const ij_stack_grads *g, const ij_seqs *s, const ij_seqs *q, size_t s0, size_t s1)
{
    const size_t r0 = s->start[s0], r1 = s->start[s1], q0 = q->start[s0], q1 = q->start[s1];
    const ij_stack_grads part = {
        ij_slice(&g->dz, q0, q1), ij_slice(&g->dy, q0, q1), ij_slice(&g->dx, r0, r1), ij_slice(&g->dnorm1, r0, r1),
        ij_slice(&g->dnorm2, q0, q1), ij_slice(&g->dheads, q0, q1), ij_slice(&g->dq, q0, q1), ij_slice(&g->dkv, r0, r1),
        ij_slice(&g->dfc1, q0, q1), g->dprob + s->square[s0] };
    return part;
}

/* to [Q,D] = the rows of from [T,D] that ask; backward: their gradients, to [T,D] += from [Q,D]. */
static void ij_ask(ij_tensor to, ij_tensor from, const ij_seqs *s, const ij_seqs *q, size_t s0, size_t s1)
{
    const size_t d = ij_cols(&to);
    for (size_t i = s0; i < s1; i++)
        memcpy(to.x + (q->start[i] - q->start[s0]) * d,
               from.x + (s->start[i + 1] - s->start[s0] - ij_length(q, i)) * d, ij_length(q, i) * d * sizeof(real));
}

static void ij_ask_backward(ij_tensor to, ij_tensor from, const ij_seqs *s, const ij_seqs *q, size_t s0, size_t s1)
{
    const size_t d = ij_cols(&to);
    for (size_t i = s0; i < s1; i++) {
        real *t = to.x + (s->start[i + 1] - s->start[s0] - ij_length(q, i)) * d;
        const real *f = from.x + (q->start[i] - q->start[s0]) * d;
        for (size_t j = 0; j < ij_length(q, i) * d; j++) t[j] += f[j];
    }
}

/* y = x + proj(attention(norm1(x)))      z = y + fc2(gelu(fc1(norm2(y))))      for sequences s0..s1, at the rows q */
static void ij_block_forward(ij_tensor z, const ij_block_acts *all, const ij_block *w, const ij_seqs *s, const ij_seqs *q,
                             size_t heads, size_t s0, size_t s1)
{
    const ij_block_acts a = ij_block_slice(all, s, q, heads, s0, s1);
    const size_t d = ij_cols(&a.x);
    const ij_tensor q_w = ij_slice(&w->qkv_w, 0, d), kv_w = ij_slice(&w->qkv_w, d, 3 * d);
    const ij_tensor q_b = ij_slice(&w->qkv_b, 0, d), kv_b = ij_slice(&w->qkv_b, d, 3 * d);
    z = ij_slice(&z, q->start[s0], q->start[s1]);

    ij_layernorm(a.norm1, a.stat1, a.x, &w->norm1_w, &w->norm1_b);
    if (q != s) ij_ask(a.xq, a.x, s, q, s0, s1), ij_ask(a.norm1q, a.norm1, s, q, s0, s1);
    ij_linear(a.q, a.norm1q, &q_w, &q_b, s->team);
    ij_linear(a.kv, a.norm1, &kv_w, &kv_b, s->team);
    for (size_t i = s0; i < s1; i++)
        ij_attention(all->heads.x + q->start[i] * d, all->prob + heads * s->square[i], all->q.x + q->start[i] * d,
                     all->kv.x + s->start[i] * 2 * d, ij_length(q, i), ij_length(s, i), d, heads);
    ij_linear(a.y, a.heads, &w->proj_w, &w->proj_b, s->team);
    ij_add(a.y, a.xq);

    ij_layernorm(a.norm2, a.stat2, a.y, &w->norm2_w, &w->norm2_b);
    ij_linear(a.fc1, a.norm2, &w->fc1_w, &w->fc1_b, s->team);
    ij_gelu(a.gelu, a.fc1);
    ij_linear(z, a.gelu, &w->fc2_w, &w->fc2_b, s->team);
    ij_add(z, a.y);
}

/* From dz to dx, the same lines from the last to the first. */
static void ij_block_backward(const ij_stack_grads *all_grads, const ij_block_acts *all, const ij_block *w,
                              const ij_seqs *s, const ij_seqs *q, size_t heads, size_t s0, size_t s1)
{
    const ij_block_acts a = ij_block_slice(all, s, q, heads, s0, s1);
    const ij_stack_grads g = ij_grads_slice(all_grads, s, q, s0, s1);
    const size_t d = ij_cols(&a.x);
    const ij_tensor q_w = ij_slice(&w->qkv_w, 0, d), kv_w = ij_slice(&w->qkv_w, d, 3 * d);

    ij_copy(g.dy, g.dz);                                        /* z = y + ... */
    ij_linear_backward(g.dfc1, g.dz, &w->fc2_w, 0, NULL);
    ij_gelu_backward(g.dfc1, a.fc1);
    ij_linear_backward(g.dnorm2, g.dfc1, &w->fc1_w, 0, NULL);
    ij_layernorm_backward(g.dy, g.dnorm2, a.stat2, a.y, &w->norm2_w);

    ij_linear_backward(g.dheads, g.dy, &w->proj_w, 0, NULL);
    for (size_t i = s0; i < s1; i++) {
        const size_t at = q->start[i] * d, kv = s->start[i] * 2 * d;
        ij_attention_backward(all_grads->dq.x + at, all_grads->dkv.x + kv, all_grads->dprob + s->square[i], all_grads->dheads.x + at,
                              all->prob + heads * s->square[i], all->q.x + at, all->kv.x + kv, ij_length(q, i), ij_length(s, i), d, heads);
    }
    ij_linear_backward(g.dnorm1, g.dkv, &kv_w, 0, NULL);
    if (q == s) {
        ij_copy(g.dx, g.dy);                                    /* y = x + ... */
        ij_linear_backward(g.dnorm1, g.dq, &q_w, 1, NULL);
    } else {
        memset(g.dx.x, 0, ij_count(&g.dx) * sizeof(real));
        ij_ask_backward(g.dx, g.dy, s, q, s0, s1);
        ij_linear_backward(g.dheads, g.dq, &q_w, 0, NULL);      /* dheads is done with: here of norm1q */
        ij_ask_backward(g.dnorm1, g.dheads, s, q, s0, s1);
    }
    ij_layernorm_backward(g.dx, g.dnorm1, a.stat1, a.x, &w->norm1_w);
}

/* The rows that ask in block i (depth: the final norm). */
static const ij_seqs *ij_asked(const ij_stack *s, size_t i)
{
    return i + 1 < s->depth || s->asked.start == s->seqs.start ? &s->seqs : &s->asked;
}

/* Sequences s0..s1 through all blocks and the final norm. */
static void ij_stack_forward(const ij_stack *s, const ij_block *w, const ij_tensor *norm_w, const ij_tensor *norm_b,
                             size_t s0, size_t s1)
{
    const size_t r0 = s->asked.start[s0], r1 = s->asked.start[s1];
    for (size_t i = 0; i <= s->depth; i++) {
        const ij_tensor x = i < s->depth ? s->block[i].x : s->out;
        if (i + s->average > s->depth)                  /* data2vec's target; layer 0 is the patch embedding */
            ij_normalise_rows(s->top.x + r0 * ij_cols(&x), x.x + r0 * ij_cols(&x), r1 - r0, ij_cols(&x), i + s->average > s->depth + 1);
        if (i < s->depth)
            ij_block_forward(i + 1 < s->depth ? s->block[i + 1].x : s->out, &s->block[i], &w[i], &s->seqs, ij_asked(s, i),
                             s->heads, s0, s1);
    }
    ij_layernorm(ij_slice(&s->norm, r0, r1), ij_slice(&s->stat, r0, r1), ij_slice(&s->out, r0, r1), norm_w, norm_b);
}

/* Gradients of the parameters of up to seven layers, cut into tasks of IJ_JOB_OUTPUTS outputs. */
typedef struct { ij_tensor dw, db, dy, x; const ij_tensor *stat; } ij_weight_job;       /* stat NULL: linear; else norm */
typedef struct { ij_weight_job job[7]; size_t jobs; } ij_weight_jobs;
enum { IJ_JOB_OUTPUTS = 192 };

static size_t ij_job_tasks(const ij_weight_job *j) { return (ij_cols(&j->dy) + IJ_JOB_OUTPUTS - 1) / IJ_JOB_OUTPUTS; }

static void ij_weight_task(void *arg, size_t index)
{
    const ij_weight_job *j = ((ij_weight_jobs *)arg)->job;
    for (; index >= ij_job_tasks(j); j++) index -= ij_job_tasks(j);
    const size_t o0 = index * IJ_JOB_OUTPUTS, o1 = IJ_MIN(o0 + IJ_JOB_OUTPUTS, ij_cols(&j->dy));
    if (j->stat) ij_layernorm_backward_weight(&j->dw, &j->db, &j->dy, j->stat, &j->x, o0, o1);
    else ij_linear_backward_weight(&j->dw, &j->db, &j->dy, &j->x, o0, o1);
}

static void ij_weight_gradients(ij_weight_jobs *w, const ij_team *team)
{
    size_t tasks = 0;
    for (size_t i = 0; i < w->jobs; i++) tasks += ij_job_tasks(&w->job[i]);
    ij_each(team, tasks, ij_weight_task, w);
}

static ij_weight_jobs ij_block_weight_jobs(const ij_block *dw, const ij_block_acts *a, const ij_stack_grads *g,
                                           const ij_seqs *s, const ij_seqs *q)
{
    const size_t d = ij_cols(&a->x), n = q->tokens;
    const ij_tensor dq_w = ij_slice(&dw->qkv_w, 0, d), dkv_w = ij_slice(&dw->qkv_w, d, 3 * d);
    const ij_tensor dq_b = ij_slice(&dw->qkv_b, 0, d), dkv_b = ij_slice(&dw->qkv_b, d, 3 * d);
    const ij_weight_jobs jobs = { {
        { dw->fc2_w, dw->fc2_b, ij_slice(&g->dz, 0, n), ij_slice(&a->gelu, 0, n), NULL },
        { dw->fc1_w, dw->fc1_b, ij_slice(&g->dfc1, 0, n), ij_slice(&a->norm2, 0, n), NULL },
        { dkv_w, dkv_b, ij_slice(&g->dkv, 0, s->tokens), ij_slice(&a->norm1, 0, s->tokens), NULL },
        { dq_w, dq_b, ij_slice(&g->dq, 0, n), ij_slice(&a->norm1q, 0, n), NULL },
        { dw->proj_w, dw->proj_b, ij_slice(&g->dy, 0, n), ij_slice(&a->heads, 0, n), NULL },
        { dw->norm2_w, dw->norm2_b, ij_slice(&g->dnorm2, 0, n), ij_slice(&a->y, 0, n), &a->stat2 },
        { dw->norm1_w, dw->norm1_b, ij_slice(&g->dnorm1, 0, s->tokens), ij_slice(&a->x, 0, s->tokens), &a->stat1 } }, 7 };
    return jobs;
}

typedef struct {
    const ij_stack *s; const ij_stack_grads *g; const ij_block *w;
    size_t i;                   /* block; depth: the final norm */
    const ij_tensor *dnorm, *norm_w;
} ij_backward_work;

static void ij_stack_backward_task(void *arg, size_t piece)
{
    const ij_backward_work *b = arg;
    const ij_seqs *seqs = &b->s->seqs;
    const size_t s0 = ij_piece(seqs, piece), s1 = ij_piece(seqs, piece + 1);
    if (b->i < b->s->depth) {
        ij_block_backward(b->g, &b->s->block[b->i], &b->w[b->i], seqs, ij_asked(b->s, b->i), b->s->heads, s0, s1);
        return;
    }
    const size_t r0 = b->s->asked.start[s0], r1 = b->s->asked.start[s1];
    const ij_tensor dz = ij_slice(&b->g->dz, r0, r1);
    memset(dz.x, 0, ij_count(&dz) * sizeof(real));
    ij_layernorm_backward(dz, ij_slice(b->dnorm, r0, r1), ij_slice(&b->s->stat, r0, r1), ij_slice(&b->s->out, r0, r1),
                          b->norm_w);
}

/* dnorm [Q,D]: gradient of the final norm's output. Leaves the gradient of the stack's input in g->dz. */
static void ij_stack_backward(ij_stack_grads *g, const ij_block *dw, const ij_tensor *dnorm_w, const ij_tensor *dnorm_b,
                              const ij_tensor *dnorm, const ij_stack *s, const ij_block *w, const ij_tensor *norm_w,
                              const ij_team *team)
{
    ij_backward_work b = { s, g, w, s->depth, dnorm, norm_w };
    ij_weight_jobs last = { { { *dnorm_w, *dnorm_b, *dnorm, s->out, &s->stat } }, 1 };
    ij_weight_gradients(&last, team);
    ij_each(team, s->seqs.pieces, ij_stack_backward_task, &b);
    for (size_t i = s->depth; i-- > 0;) {
        const ij_block_acts *a = &s->block[i];
        b.i = i;
        ij_each(team, s->seqs.pieces, ij_stack_backward_task, &b);
        ij_weight_jobs jobs = ij_block_weight_jobs(&dw[i], a, g, &s->seqs, ij_asked(s, i));
        ij_weight_gradients(&jobs, team);
        const ij_tensor t = g->dz;
        g->dz = g->dx;
        g->dx = t;
    }
}

/* ---- encoder -----------------------------------------------------------------------------------------------------
 * Patches become tokens by one matrix (a convolution with stride p), positions are fixed sines and cosines, and only
 * the patches asked for are embedded and encoded (section 3, Context; src/models/vision_transformer.py).           */

/* pos [gh*gw,D]: for patch (r,c), a quarter of D each: sin(c w) cos(c w) sin(r w) cos(r w), w_k = 10000^(-k/(D/4)).
 * Rounded to float as in the reference, in the double build too. */
static void ij_positions(ij_tensor pos, size_t gh, size_t gw)
{
    const size_t d = ij_cols(&pos), quarter = d / 4;
    for (size_t n = 0; n < gh * gw; n++)
        for (size_t k = 0; k < quarter; k++) {
            const double w = pow(10000.0, -(double)k / (double)quarter);
            const double c = (double)(n % gw) * w, r = (double)(n / gw) * w;
            real *to = pos.x + n * d + k;
            to[0] = (real)(float)sin(c);
            to[quarter] = (real)(float)cos(c);
            to[2 * quarter] = (real)(float)sin(r);
            to[3 * quarter] = (real)(float)cos(r);
        }
}

/* Images first .. first+images of a batch of `batch`. Their sequence s belongs to image s % images. */
typedef struct { size_t first, images, batch; } ij_part;

static size_t ij_list_of(const ij_part *p, size_t s) { return s / p->images * p->batch + p->first + s % p->images; }
static const size_t *ij_list_at(const ij_lists *l, const ij_part *p, size_t s) { return l ? l->index + ij_list_of(p, s) * l->stride : NULL; }

/* One pass of an encoder over a part: each sequence is an image seen through its list (no lists: whole). */
typedef struct {
    const ij_encoder *e;
    const ij_tensor *pos;       /* [N,D] */
    const real *image;          /* [batch,3,height,width] */
    size_t height, width;
    ij_part part;
    const ij_lists *lists;
    ij_tensor patches;          /* [T,3pp], each (channel, row, column) */
    ij_stack stack;
} ij_encoder_pass;

static void ij_encoder_place(ij_encoder_pass *s, ij_arena *a, size_t depth, size_t heads, size_t patch, size_t d,
                             size_t f, size_t count, size_t tokens, size_t squares, int keep)
{
    s->patches = ij_matrix(a, tokens, ij_mul(3, ij_mul(patch, patch)));
    ij_stack_place(&s->stack, a, depth, heads, d, f, count, tokens, tokens, squares, keep);
}

static void ij_patch_copy(real *to, const real *image, size_t height, size_t width, size_t p, size_t n)
{
    const size_t gw = width / p, row = n / gw * p, col = n % gw * p;
    for (size_t ch = 0; ch < 3; ch++)
        for (size_t y = 0; y < p; y++, to += p)
            memcpy(to, image + (ch * height + row + y) * width + col, p * sizeof(real));
}

/* The pixels of each sequence's patches. */
static void ij_patches_task(void *arg, size_t piece)
{
    const ij_encoder_pass *s = arg;
    const size_t pixels = ij_cols(&s->patches), *start = s->stack.seqs.start;
    const size_t s0 = ij_piece(&s->stack.seqs, piece), s1 = ij_piece(&s->stack.seqs, piece + 1);
    for (size_t i = s0; i < s1; i++) {
        const size_t *list = ij_list_at(s->lists, &s->part, i);
        const real *image = s->image + (s->part.first + i % s->part.images) * 3 * s->height * s->width;
        for (size_t j = 0; j < start[i + 1] - start[i]; j++)
            ij_patch_copy(s->patches.x + (start[i] + j) * pixels, image, s->height, s->width, s->e->patch, list ? list[j] : j);
    }
}

static void ij_add_positions(real *x, const ij_tensor *pos, const size_t *list, size_t n)
{
    const size_t d = ij_cols(pos);
    for (size_t j = 0; j < n; j++, x += d) {
        const real *row = pos->x + (list ? list[j] : j) * d;
        for (size_t c = 0; c < d; c++) x[c] += row[c];
    }
}

static void ij_encoder_task(void *arg, size_t piece)
{
    const ij_encoder_pass *s = arg;
    const ij_encoder *e = s->e;
    const ij_seqs *seqs = &s->stack.seqs;
    const ij_tensor x_all = s->stack.depth ? s->stack.block[0].x : s->stack.out;
    const size_t s0 = ij_piece(seqs, piece), s1 = ij_piece(seqs, piece + 1);
    const ij_tensor x = ij_slice(&x_all, seqs->start[s0], seqs->start[s1]);
    ij_patches_task(arg, piece);
    ij_linear(x, ij_slice(&s->patches, seqs->start[s0], seqs->start[s1]), &e->patch_w, &e->patch_b, seqs->team);
    for (size_t i = s0; i < s1; i++)
        ij_add_positions(x_all.x + seqs->start[i] * ij_cols(&x), s->pos, ij_list_at(s->lists, &s->part, i), ij_length(seqs, i));
    ij_stack_forward(&s->stack, e->block, &e->norm_w, &e->norm_b, s0, s1);
}

/* dnorm: gradient of the encoder's output */
static void ij_encoder_backward(const ij_encoder *de, ij_stack_grads *g, const ij_tensor *dnorm,
                                const ij_encoder_pass *s, const ij_team *team)
{
    ij_stack_backward(g, de->block, &de->norm_w, &de->norm_b, dnorm, &s->stack, s->e->block, &s->e->norm_w, team);
    ij_weight_jobs jobs = { { { de->patch_w, de->patch_b, g->dz, s->patches, NULL } }, 1 };
    ij_weight_gradients(&jobs, team);
}

/* ---- masks -------------------------------------------------------------------------------------------------------
 * Targets: four blocks per image. Context: one large block, with the targets cut out (section 3; Figure 4).
 * Reference mode follows src/masks/multiblock.py to the bit: one size for the batch, one draw for scale and aspect,
 * no block ever spans the grid or touches its last row and column, lists cut to the shortest of the batch.
 * Paper mode draws scale, aspect and place for each block by themselves and cuts nothing.                            */

enum { IJ_PLACE_TRIES = 20, IJ_MASK_ROUNDS = 1000 };

static size_t ij_gh(const ij_config *c) { return c->crop_size[0] / c->patch_size; }
static size_t ij_gw(const ij_config *c) { return c->crop_size[1] / c->patch_size; }
static size_t ij_patches(const ij_config *c) { return ij_gh(c) * ij_gw(c); }

static double ij_between(const double range[2], double u) { return range[0] + u * (range[1] - range[0]); }

/* Height and width of a block that covers `scale` of the grid. */
static void ij_block_size(size_t size[2], const ij_config *c, double scale, double aspect)
{
    const size_t most = c->mask_mode == IJ_MASK_REFERENCE ? 1 : 0;      /* the reference keeps below the grid */
    const double keep = floor((double)ij_patches(c) * scale);
    size[0] = IJ_MIN((size_t)rint(sqrt(keep * aspect)), ij_gh(c) - most);
    size[1] = IJ_MIN((size_t)rint(sqrt(keep / aspect)), ij_gw(c) - most);
}

/* Draws a place for a block and lists its patches that are in none of the image's first `removed` targets. Returns how many. */
static size_t ij_block_list(const ij_masks *m, const ij_lists *to, size_t list, const size_t size[2], const ij_config *c,
                            ij_rng *rng, size_t images, size_t removed)
{
    const size_t last = c->mask_mode == IJ_MASK_REFERENCE ? 0 : 1;      /* the reference never draws the last one */
    const size_t top = ij_rng_below(rng, ij_gh(c) - size[0] + last), left = ij_rng_below(rng, ij_gw(c) - size[1] + last);
    size_t n = 0;
    for (size_t y = top; y < top + size[0]; y++)
        for (size_t x = left; x < left + size[1]; x++) {
            const size_t patch = y * ij_gw(c) + x;
            int hidden = 0;
            for (size_t t = 0; t < removed && !hidden; t++) {
                const size_t l = t * images + list % images;
                for (size_t j = 0; j < m->target.length[l] && !hidden; j++)
                    hidden = m->target.index[l * m->target.stride + j] == patch;
            }
            if (!hidden) to->index[list * to->stride + n++] = patch;
        }
    return to->length[list] = n;
}

/* How many of its targets a context must not show. */
static size_t ij_removed(const ij_config *c) { return c->allow_overlap || c->objective == IJ_JOINT ? 0 : c->num_pred_masks; }

static void ij_lists_cut(ij_lists *l)                   /* to the shortest, keeping the lowest indices */
{
    size_t shortest = l->length[0];
    for (size_t i = 1; i < l->lists; i++) shortest = IJ_MIN(shortest, l->length[i]);
    for (size_t i = 0; i < l->lists; i++) l->length[i] = shortest;
}

static ij_status ij_masks_reference(ij_masks *m, const ij_config *c, ij_rng *rng, uint64_t step, size_t images,
                                    ij_error *why)
{
    size_t size[2], context_size[2];
    ij_rng sizes;
    ij_rng_seed(&sizes, step);
    const double u = ij_rng_uniform(&sizes), v = ij_rng_uniform(&sizes);
    ij_block_size(size, c, ij_between(c->pred_mask_scale, u), ij_between(c->aspect_ratio, u));
    ij_block_size(context_size, c, ij_between(c->enc_mask_scale, v), 1);
    if (size[0] * size[1] <= c->min_keep || context_size[0] * context_size[1] <= c->min_keep)
        return ij_fail(why, IJ_EMASK, "masks: draw %lu: target block %lux%lu, context block %lux%lu on a %lux%lu grid: "
                       "each must hold more than min_keep = %lu patches; lower min_keep or raise the scale",
                       (unsigned long)step, (unsigned long)size[0], (unsigned long)size[1],
                       (unsigned long)context_size[0], (unsigned long)context_size[1], (unsigned long)ij_gh(c),
                       (unsigned long)ij_gw(c), (unsigned long)c->min_keep);
    for (size_t b = 0; b < images; b++) {
        for (size_t t = 0; t < c->num_pred_masks; t++)
            ij_block_list(m, &m->target, t * images + b, size, c, rng, images, 0);
        for (size_t e = 0; e < c->num_enc_masks; e++) {
            size_t fails = 0;           /* after every 20 failures one target less is cut out: this always ends */
            while (ij_block_list(m, &m->context, e * images + b, context_size, c, rng, images,
                                 ij_removed(c) - IJ_MIN(fails / IJ_PLACE_TRIES, ij_removed(c))) <= c->min_keep) fails++;
        }
    }
    ij_lists_cut(&m->context);
    ij_lists_cut(&m->target);
    return IJ_OK;
}

/* One image of paper mode, once; 0 if a list came out with no more than min_keep patches. */
static int ij_masks_paper_image(ij_masks *m, const ij_config *c, ij_rng *rng, size_t images, size_t b)
{
    size_t size[2];
    for (size_t t = 0; t < c->num_pred_masks; t++) {
        const double scale = ij_between(c->pred_mask_scale, ij_rng_uniform(rng));
        ij_block_size(size, c, scale, ij_between(c->aspect_ratio, ij_rng_uniform(rng)));
        if (ij_block_list(m, &m->target, t * images + b, size, c, rng, images, 0) <= c->min_keep) return 0;
    }
    for (size_t e = 0; e < c->num_enc_masks; e++) {
        ij_block_size(size, c, ij_between(c->enc_mask_scale, ij_rng_uniform(rng)), 1);
        if (ij_block_list(m, &m->context, e * images + b, size, c, rng, images, ij_removed(c)) <= c->min_keep) return 0;
    }
    return 1;
}

static ij_status ij_masks_paper(ij_masks *m, const ij_config *c, ij_rng *rng, size_t images, size_t rounds,
                                ij_error *why)
{
    for (size_t b = 0; b < images; b++) {
        size_t round = 0;
        while (!ij_masks_paper_image(m, c, rng, images, b))
            if (++round == rounds)
                return ij_fail(why, IJ_EMASK, "masks: in %lu draws no context and targets of more than min_keep = %lu "
                               "patches on a %lux%lu grid: lower min_keep, num_pred_masks or pred_mask_scale, or raise "
                               "enc_mask_scale", (unsigned long)rounds, (unsigned long)c->min_keep,
                               (unsigned long)ij_gh(c), (unsigned long)ij_gw(c));
    }
    return IJ_OK;
}

/* Other ways of Table 6. Random: each target is so many patches anywhere. Rasterized: a quadrant each. What no target holds is
 * the context. */
static void ij_masks_split(ij_masks *m, const ij_config *c, ij_rng *rng, size_t images, size_t b)
{
    const size_t gh = ij_gh(c), gw = ij_gw(c), n = gh * gw, targets = c->num_pred_masks, turn = ij_rng_below(rng, 4);
    const size_t each = (size_t)((double)n * ij_between(c->pred_mask_scale, ij_rng_uniform(rng)));
    m->context.length[b] = 0;
    for (size_t t = 0; t < targets; t++) m->target.length[t * images + b] = 0;
    for (size_t i = 0; i < n; i++) {
        const size_t down = i / gw < gh / 2 ? 0 : 2, right = i % gw < gw / 2 ? 0 : 1;
        size_t t = (down + right + turn) % 4;
        if (c->mask_mode == IJ_MASK_RANDOM) {           /* one of the places that are left, targets' first */
            size_t at = ij_rng_below(rng, n - i);
            for (t = 0; t < targets && at >= each - m->target.length[t * images + b]; t++) at -= each - m->target.length[t * images + b];
        }
        ij_lists *l = t < targets ? &m->target : &m->context;
        const size_t list = t < targets ? t * images + b : b;
        l->index[list * l->stride + l->length[list]++] = i;
    }
}

/* As the mode draws them: see the table of modes in Part II. */
static ij_status ij_masks_of_mode(ij_masks *m, const ij_config *c, ij_rng *rng, uint64_t step, size_t images, ij_error *why);

ij_status ij_masks_draw(ij_masks *m, const ij_config *c, ij_rng *rng, uint64_t step, size_t images, ij_error *why)
{
    if (!images || images > c->batch_size) return ij_fail(why, IJ_EARG, "masks: %lu images, expected 1..batch_size = %lu",
                                                          (unsigned long)images, (unsigned long)c->batch_size);
    m->context.lists = c->num_enc_masks * images;
    m->target.lists = c->num_pred_masks * images;
    return ij_masks_of_mode(m, c, rng, step, images, why);
}

/* ---- predictor ---------------------------------------------------------------------------------------------------
 * Given the context's tokens and, as mask tokens with positions, where a target block lies, predict the target
 * encoder's output there (section 3, Prediction). Sequence (t*E + e)*B + b, E = num_enc_masks, holds context e of
 * image b and then the mask tokens of its target block t: blocks never see each other's mask tokens.                */

typedef struct {
    const ij_predictor *p;
    const ij_tensor *pos;       /* [N,P] */
    const ij_masks *masks;
    const ij_stack *context;
    ij_part part;
    size_t contexts;            /* sequences of the context encoder, E*B */
    ij_tensor embed, dembed;    /* [Tc,P] context tokens in the predictor's width */
    ij_stack stack;
    ij_tensor out, dout;        /* [Q,D] predictions: of the mask tokens, all that is asked of the stack */
    ij_tensor dnorm;            /* [Q,P] */
} ij_predictor_pass;

/* The target list of sequence (t*E + e)*B + b of a part: block t of the batch's image first + b. */
static size_t ij_target_of(const ij_part *p, size_t contexts, size_t seq)
{
    return seq / contexts * p->batch + p->first + seq % p->images;
}

static void ij_predictor_task(void *arg, size_t piece)
{
    const ij_predictor_pass *s = arg;
    const ij_predictor *p = s->p;
    const ij_seqs *seqs = &s->stack.seqs;
    const ij_lists *l = &s->masks->target;
    const ij_tensor x = s->stack.depth ? s->stack.block[0].x : s->stack.out;
    const size_t width = ij_cols(&x);
    const size_t s0 = ij_piece(seqs, piece), s1 = ij_piece(seqs, piece + 1);
    for (size_t i = s0; i < s1; i++) {
        const size_t c = i % s->contexts, t = ij_target_of(&s->part, s->contexts, i), k = ij_length(&s->context->seqs, c);
        real *to = x.x + seqs->start[i] * width;
        memcpy(to, s->embed.x + s->context->seqs.start[c] * width, k * width * sizeof(real));
        ij_add_positions(to, s->pos, ij_list_at(&s->masks->context, &s->part, c), k);
        to += k * width;
        for (size_t j = 0; j < l->length[t]; j++) memcpy(to + j * width, p->mask_token.x, width * sizeof(real));
        ij_add_positions(to, s->pos, l->index + t * l->stride, l->length[t]);
    }
    ij_stack_forward(&s->stack, p->block, &p->norm_w, &p->norm_b, s0, s1);
    const size_t q0 = s->stack.asked.start[s0], q1 = s->stack.asked.start[s1];
    ij_linear(ij_slice(&s->out, q0, q1), ij_slice(&s->stack.norm, q0, q1), &p->proj_w, &p->proj_b, seqs->team);
}

/* From s->dout to the gradient of the context encoder's output, dcontext [Tc,D]. */
static void ij_predictor_backward(const ij_tensor *dcontext, const ij_predictor *dp, ij_stack_grads *g,
                                  ij_predictor_pass *s, const ij_team *team)
{
    const ij_predictor *p = s->p;
    ij_linear_backward(s->dnorm, s->dout, &p->proj_w, 0, team);
    ij_weight_jobs proj = { { { dp->proj_w, dp->proj_b, s->dout, s->stack.norm, NULL } }, 1 };
    ij_weight_gradients(&proj, team);
    ij_stack_backward(g, dp->block, &dp->norm_w, &dp->norm_b, &s->dnorm, &s->stack, p->block, &p->norm_w, team);
    const size_t width = ij_cols(&g->dz);
    const real *dx = g->dz.x;
    memset(s->dembed.x, 0, ij_count(&s->dembed) * sizeof(real));
    for (size_t i = 0; i < s->stack.seqs.count; i++) {          /* each context is in one sequence per target block */
        const size_t c = i % s->contexts, k = ij_length(&s->context->seqs, c), t = ij_length(&s->stack.asked, i);
        real *to = s->dembed.x + s->context->seqs.start[c] * width;
        for (size_t j = 0; j < k * width; j++) to[j] += dx[j];
        dx += k * width;
        for (size_t j = 0; j < t; j++, dx += width)
            for (size_t o = 0; o < width; o++) dp->mask_token.x[o] += dx[o];
    }
    ij_linear_backward(*dcontext, s->dembed, &p->embed_w, 0, team);
    ij_weight_jobs embed = { { { dp->embed_w, dp->embed_b, s->dembed, s->context->norm, NULL } }, 1 };
    ij_weight_gradients(&embed, team);
}

/* ---- loss --------------------------------------------------------------------------------------------------------
 * Between predictions and the target encoder's tokens, normalised once more without parameters (eps 1e-5): the code's
 * guard against collapse. Smooth L1, mean over all numbers (the code), or the squared L2 distance summed over a
 * block's patches, mean over blocks (the paper's formula in section 3, Loss).                                        */

typedef struct {
    const ij_predictor_pass *s;
    const ij_tensor *target;    /* [B*N,T] of all patches, image by image */
    const ij_seqs *seqs;        /* where an image begins in there */
    int kind;
    double scale;               /* of one term; the gradient of dout carries it too */
    real grad_scale;
    double *row_loss;           /* [Q] */
    ij_tensor want;             /* [Q,D] what the loss compares with */
} ij_loss_pass;

/* Width of what is predicted: of a token; generative, of a patch's pixels; joint, of a projection. */
static size_t ij_target_dim(const ij_config *c)
{
    return c->objective == IJ_GENERATIVE ? ij_mul(3, ij_mul(c->patch_size, c->patch_size)) : c->objective == IJ_JOINT ? c->pred_emb_dim : c->embed_dim;
}

/* [T,D] before its last normalisation: the encoder's output (the code), or the sum of its top layers (data2vec 3.3) */
static const ij_tensor *ij_targets(const ij_stack *s) { return s->average ? &s->top : &s->norm; }

/* One term of the loss for a difference e, and its slope. */
static inline real ij_loss_term(real *slope, real e, int kind)
{
    if (kind == IJ_LOSS_L2) {
        *slope = 2 * e;
        return e * e;
    }
    *slope = e < -1 ? -1 : e > 1 ? 1 : e;
    return e > -1 && e < 1 ? e * e / 2 : (e < 0 ? -e : e) - (real)0.5;
}

/* Target blocks are cut from the target encoder's OUTPUT: it has seen the whole image (Table 11: 67.3;
 * if it sees each block alone, 56.1: .ci/table11.patch). */
static void ij_loss_task(void *arg, size_t piece)
{
    const ij_loss_pass *l = arg;
    const ij_predictor_pass *s = l->s;
    const ij_lists *targets = &s->masks->target;
    const size_t d = ij_cols(&l->want);
    const size_t s0 = ij_piece(&s->stack.seqs, piece), s1 = ij_piece(&s->stack.seqs, piece + 1);
    for (size_t i = s0; i < s1; i++)
        for (size_t t = ij_target_of(&s->part, s->contexts, i), row = s->stack.asked.start[i], j = 0; j < targets->length[t]; j++, row++) {
            const size_t image = i % s->part.images;
            const size_t place = l->seqs->start[image] + targets->index[t * targets->stride + j];
            const real *h = l->target->x + place * d;
            const real *out = s->out.x + row * d;
            real *want = l->want.x + row * d, *dout = s->dout.x + row * d, sum;
            ij_normalise_rows(want, h, 1, d, 0);
            for (size_t c = 0; c < d; c++) dout[c] = out[c] - want[c];
            IJ_SUM(real, sum, c, d, ij_loss_term(&dout[c], dout[c], l->kind));
            l->row_loss[row] = (double)sum;
            for (size_t c = 0; c < d; c++) dout[c] *= l->grad_scale;
        }
}

/* ---- joint embedding ---------------------------------------------------------------------------------------------
 * Figure 2a, the other way to learn without pixels, in the form of BYOL: two views of an image, the context encoder's and
 * the target encoder's, their tokens' means through a projector of either encoder, and a predictor from the one to the
 * other. Loss: 2 - 2 cosine. The target side is a slow copy and gets no gradient, or all images become one.          */

typedef struct { ij_tensor x, fc1, gelu, y, dgelu; } ij_head_acts;      /* [n,in] [n,H] [n,H] [n,out] [n,H] */

static void ij_head_place(ij_head_acts *s, ij_arena *a, size_t n, size_t in, size_t hidden, size_t out)
{
    s->x = ij_matrix(a, n, in), s->fc1 = ij_matrix(a, n, hidden), s->gelu = ij_matrix(a, n, hidden), s->y = ij_matrix(a, n, out);
    s->dgelu = ij_matrix(a, n, hidden);
}

static void ij_head_forward(const ij_head_acts *s, const ij_head *h, const ij_team *team)
{
    ij_linear(s->fc1, s->x, &h->fc1_w, &h->fc1_b, team);
    ij_gelu(s->gelu, s->fc1);
    ij_linear(s->y, s->gelu, &h->fc2_w, &h->fc2_b, team);
}

static void ij_head_backward(ij_tensor dx, const ij_head *dh, const ij_head_acts *s, ij_tensor dy, const ij_head *h, const ij_team *team)
{
    ij_linear_backward(s->dgelu, dy, &h->fc2_w, 0, NULL);
    ij_gelu_backward(s->dgelu, s->fc1);
    ij_linear_backward(dx, s->dgelu, &h->fc1_w, 0, NULL);
    ij_weight_jobs jobs = { { { dh->fc2_w, dh->fc2_b, dy, s->gelu, NULL }, { dh->fc1_w, dh->fc1_b, s->dgelu, s->x, NULL } }, 2 };
    ij_weight_gradients(&jobs, team);
}

typedef struct {
    int on, predicts;           /* predicts 0 (pred_depth 0): the projections are compared as they are */
    ij_head_acts target, project, predict;      /* of images; of contexts, context e of image b in row e*B + b */
    ij_tensor dpredict, dproject, dmean;        /* [C,P] [C,P] [C,D] */
} ij_joint_pass;

/* The loss of one part, from q [C,P] and t [B,P], and dpredict: d cos(q,t) / dq = (t/|t| - cos q/|q|) / |q| */
static double ij_joint_loss(const ij_joint_pass *j, double scale, real grad_scale)
{
    const ij_tensor *q = j->predicts ? &j->predict.y : &j->project.y, *t = &j->target.y;
    const size_t d = ij_cols(q), images = ij_rows(t);
    double sum = 0;
    for (size_t i = 0; i < ij_rows(q); i++) {
        const real *qi = q->x + i * d, *ti = t->x + i % images * d;
        double qt = 0, qq = 1e-24, tt = 1e-24;
        for (size_t c = 0; c < d; c++) qt += (double)qi[c] * (double)ti[c], qq += (double)qi[c] * (double)qi[c], tt += (double)ti[c] * (double)ti[c];
        const double cosine = qt / sqrt(qq * tt);
        for (size_t c = 0; c < d; c++)
            j->dpredict.x[i * d + c] = grad_scale * (real)(-2 * ((double)ti[c] / sqrt(tt) - cosine * (double)qi[c] / sqrt(qq)) / sqrt(qq));
        sum += 2 - 2 * cosine;
    }
    return sum * scale;
}

/* ---- optimisation ------------------------------------------------------------------------------------------------
 * src/helper.py and src/utils/schedulers.py. Update k = 1, 2, ... uses the schedules at k; the momentum of the target
 * encoder starts at ema[0] with the first.                                                                          */

size_t ij_steps(const ij_config *c) { return c->steps ? c->steps : (size_t)(c->epochs * (double)c->ipe); }

static double ij_schedule_length(const ij_config *c)
{
    return c->ipe_scale * (c->steps ? (double)c->steps : c->epochs * (double)c->ipe);
}

static double ij_cosine(double from, double to, double q) { return to + (from - to) * 0.5 * (1 + cos(IJ_PI * q)); }

static double ij_lr(const ij_config *c, size_t k)
{
    const double step = (double)k, warmup = floor(c->warmup * (double)c->ipe), length = floor(ij_schedule_length(c));
    if (step < warmup) return c->start_lr + step / warmup * (c->lr - c->start_lr);
    const double lr = ij_cosine(c->lr, c->final_lr, (step - warmup) / IJ_MAX(1, length - warmup));
    return IJ_MAX(c->final_lr, lr);
}

static double ij_weight_decay(const ij_config *c, size_t k)
{
    const double a = c->weight_decay, b = c->final_weight_decay;
    const double wd = ij_cosine(a, b, (double)k / IJ_MAX(1, floor(ij_schedule_length(c))));
    return b <= a ? IJ_MAX(b, wd) : IJ_MIN(b, wd);
}

static double ij_ema(const ij_config *c, size_t k)
{
    const double q = (double)(k - 1) / ij_schedule_length(c);
    if (c->objective == IJ_GENERATIVE) return 0;        /* no second encoder: the target encoder is a copy, for what looks at it */
    return c->ema[0] + IJ_MIN(q, 1) * (c->ema[1] - c->ema[0]);
}

typedef struct { ij_model *m; double lr, weight_decay, ema, clip, bias1, bias2, *norm2; } ij_update_work;

static void ij_norm_task(void *arg, size_t row)
{
    const ij_update_work *u = arg;
    const ij_param *p = &u->m->param[row];
    const real *g = u->m->grad + p->offset;
    const size_t n = ij_count(&p->shape);
    IJ_SUM(double, u->norm2[row], i, n, (double)g[i] * (double)g[i]);
}

/* AdamW on one parameter. Biases and LayerNorm (rank 1) are not decayed; the mask token is, as in the reference. */
static void ij_adamw(real *w, real *m, real *v, const real *g, size_t n, const ij_update_work *u, double decay)
{
    const double *beta = u->m->config.beta;
    const real keep = (real)(1 - u->lr * decay), b1 = (real)beta[0], b2 = (real)beta[1], clip = (real)u->clip;
    const real c1 = (real)(1 - beta[0]), c2 = (real)(1 - beta[1]), eps = (real)u->m->config.eps;
    const real rate = (real)(u->lr / u->bias1), root = (real)sqrt(u->bias2);
    for (size_t i = 0; i < n; i++) {
        const real gi = g[i] * clip;
        m[i] = b1 * m[i] + c1 * gi;
        v[i] = b2 * v[i] + c2 * gi * gi;
#ifdef IJEPA_DOUBLE
        w[i] = w[i] * keep - rate * m[i] / (sqrt(v[i]) / root + eps);
#else
        w[i] = w[i] * keep - rate * m[i] / (sqrtf(v[i]) / root + eps);
#endif
    }
}

static void ij_update_task(void *arg, size_t row)
{
    const ij_update_work *u = arg;
    ij_model *m = u->m;
    const ij_param *p = &m->param[row];
    const size_t n = ij_count(&p->shape), o = p->offset;
    const real keep = (real)u->ema, follow = (real)(1 - u->ema);
    ij_adamw(m->weight + o, m->adam_m + o, m->adam_v + o, m->grad + o, n, u, p->shape.rank > 1 ? u->weight_decay : 0);
    memset(m->grad + o, 0, n * sizeof(real));
    if (!p->predictor)                                  /* the target encoder follows the updated encoder */
        for (size_t i = o; i < o + n; i++) m->target[i] = keep * m->target[i] + follow * m->weight[i];
}

/* ---- parameters --------------------------------------------------------------------------------------------------
 * Every parameter is listed once, here; sizes, places, names, gradients, moments and files all walk this table.     */

typedef struct { ij_param *param; size_t params, offset; real *base; int predictor; } ij_listing;

static void ij_list(ij_listing *l, ij_tensor *t, const char *stack, size_t block, const char *name, const char *kind,
                    size_t rank, size_t d0, size_t d1, size_t d2, size_t d3)
{
    const ij_tensor shape = { NULL, rank, { d0, d1, d2, d3 } };
    const size_t count = ij_count(&shape);
    *t = shape;
    if (l->base) t->x = l->base + l->offset;
    if (l->param) {
        ij_param *p = &l->param[l->params];
        if (stack) snprintf(p->name, sizeof p->name, "%s.%lu.%s%s", stack, (unsigned long)block, name, kind);
        else snprintf(p->name, sizeof p->name, "%s%s", name, kind);
        p->offset = l->offset;
        p->shape = shape;
        p->predictor = l->predictor;
    }
    l->params++;
    l->offset = count > SIZE_MAX / 2 - l->offset ? SIZE_MAX / 2 : l->offset + count;      /* sticks: refused later */
}

/* A weight and its bias, one number for each of the weight's rows. */
static void ij_list_pair(ij_listing *l, ij_tensor *w, ij_tensor *b, const char *stack, size_t block, const char *name,
                         size_t rank, size_t d0, size_t d1, size_t d2, size_t d3)
{
    ij_list(l, w, stack, block, name, ".weight", rank, d0, d1, d2, d3);
    ij_list(l, b, stack, block, name, ".bias", 1, d0, 0, 0, 0);
}

static void ij_list_block(ij_listing *l, ij_block *b, const char *stack, size_t i, size_t d, size_t f)
{
    ij_list_pair(l, &b->norm1_w, &b->norm1_b, stack, i, "norm1", 1, d, 0, 0, 0);
    ij_list_pair(l, &b->qkv_w, &b->qkv_b, stack, i, "attn.qkv", 2, ij_mul(3, d), d, 0, 0);
    ij_list_pair(l, &b->proj_w, &b->proj_b, stack, i, "attn.proj", 2, d, d, 0, 0);
    ij_list_pair(l, &b->norm2_w, &b->norm2_b, stack, i, "norm2", 1, d, 0, 0, 0);
    ij_list_pair(l, &b->fc1_w, &b->fc1_b, stack, i, "mlp.fc1", 2, f, d, 0, 0);
    ij_list_pair(l, &b->fc2_w, &b->fc2_b, stack, i, "mlp.fc2", 2, d, f, 0, 0);
}

static size_t ij_hidden(const ij_config *c) { return (size_t)(double)((double)c->embed_dim * c->mlp_ratio); }     /* x87 keeps more bits */

static void ij_list_head(ij_listing *l, ij_head *h, const char *stack, size_t i, size_t in, size_t hidden, size_t out)
{
    ij_list_pair(l, &h->fc1_w, &h->fc1_b, stack, i, "fc1", 2, hidden, in, 0, 0);
    ij_list_pair(l, &h->fc2_w, &h->fc2_b, stack, i, "fc2", 2, out, hidden, 0, 0);
}

static void ij_list_encoder(ij_listing *l, ij_encoder *e, const ij_config *c)
{
    const size_t d = c->embed_dim, p = c->patch_size;
    ij_block unplaced;
    e->depth = c->depth, e->heads = c->num_heads, e->patch = p;
    ij_list_pair(l, &e->patch_w, &e->patch_b, NULL, 0, "patch_embed.proj", 4, d, 3, p, p);
    for (size_t i = 0; i < c->depth; i++)
        ij_list_block(l, e->block ? &e->block[i] : &unplaced, "blocks", i, d, ij_hidden(c));
    ij_list_pair(l, &e->norm_w, &e->norm_b, NULL, 0, "norm", 1, d, 0, 0, 0);
    if (c->objective == IJ_JOINT) ij_list_head(l, &e->projector, "projector", 0, d, ij_mul(4, c->pred_emb_dim), c->pred_emb_dim);
}

static void ij_list_predictor(ij_listing *l, ij_predictor *p, const ij_config *c)
{
    const size_t d = c->embed_dim, width = c->pred_emb_dim, out = ij_target_dim(c);
    ij_block unplaced;
    l->predictor = 1;
    if (c->objective == IJ_JOINT && c->pred_depth) ij_list_head(l, &p->head, "head", 0, width, ij_mul(4, width), width);
    if (c->objective == IJ_JOINT) return;
    p->depth = c->pred_depth, p->heads = c->num_heads;          /* the encoder's heads, MLP ratio always 4 */
    ij_list(l, &p->mask_token, NULL, 0, "mask_token", "", 3, 1, 1, width, 0);
    ij_list_pair(l, &p->embed_w, &p->embed_b, NULL, 0, "predictor_embed", 2, width, d, 0, 0);
    for (size_t i = 0; i < c->pred_depth; i++)
        ij_list_block(l, p->block ? &p->block[i] : &unplaced, "predictor_blocks", i, width, ij_mul(4, width));
    ij_list_pair(l, &p->norm_w, &p->norm_b, NULL, 0, "predictor_norm", 1, width, 0, 0, 0);
    ij_list_pair(l, &p->proj_w, &p->proj_b, NULL, 0, "predictor_proj", 2, out, width, 0, 0);
}

/* ---- the training step -------------------------------------------------------------------------------------------
 * Figure 3 of the paper. A batch is taken in parts of some 1,500 patches, whose gradients add up: activations need
 * the memory of one part, and stay near.                                                                            */

enum { IJ_PART_PATCHES = 1536 };

typedef struct {                /* everything one part needs, laid out anew for its token counts */
    ij_encoder_pass target, context;
    ij_predictor_pass predictor;
    ij_loss_pass loss;
    ij_joint_pass joint;        /* instead of predictor and loss */
    ij_tensor pooled;           /* [B,D] of the whole batch */
    ij_tensor dcontext;         /* [Tc,D] */
    double vicreg, vicreg_grad; /* weight of that term, and of its gradient */
    ij_tensor z, dz, cov;       /* [n,D] mean of each context's tokens, and its gradient; [D,D] */
    ij_stack_grads encoder_grads, predictor_grads;
} ij_step;

/* Sequences, tokens and squared lengths of context encoder and predictor. */
typedef struct {
    size_t batch, images, contexts, context_tokens, context_squares, seqs, tokens, squares, queries;
} ij_counts;

static size_t ij_part_images(const ij_config *c)
{
    return c->vicreg > 0 ? c->batch_size : ij_share(c->batch_size, IJ_MAX(1, IJ_PART_PATCHES / ij_patches(c)));
}

static void ij_step_place(ij_step *s, ij_arena *a, const ij_config *c, const ij_counts *n)
{
    const size_t d = c->embed_dim, f = ij_hidden(c), width = c->pred_emb_dim;
    const size_t whole = ij_mul(n->images, ij_patches(c));
    s->pooled = ij_matrix(a, n->batch, d);              /* first: it outlasts the parts */
    ij_encoder_place(&s->target, a, c->depth, c->num_heads, c->patch_size, d, f, n->images, whole,
                     ij_mul(whole, ij_patches(c)), 0);
    s->target.stack.average = IJ_MIN(c->average_top_k_layers, c->depth + 1);
    if (c->average_top_k_layers) s->target.stack.top = ij_matrix(a, whole, d);
    ij_encoder_place(&s->context, a, c->depth, c->num_heads, c->patch_size, d, f, n->contexts, n->context_tokens,
                     n->context_squares, 1);
    ij_predictor_pass *p = &s->predictor;
    ij_stack_place(&p->stack, a, c->pred_depth, c->num_heads, width, ij_mul(4, width), n->seqs, n->tokens, n->queries,
                   n->squares, 1);
    p->embed = ij_matrix(a, n->context_tokens, width);
    p->dembed = ij_matrix(a, n->context_tokens, width);
    p->out = ij_matrix(a, n->queries, ij_target_dim(c));
    p->dout = ij_matrix(a, n->queries, ij_target_dim(c));
    p->dnorm = ij_matrix(a, n->queries, width);
    s->loss.want = ij_matrix(a, n->queries, ij_target_dim(c));
    s->loss.row_loss = ij_take(a, n->queries, sizeof(double));
    s->dcontext = ij_matrix(a, n->context_tokens, d);
    if ((s->joint.on = c->objective == IJ_JOINT) != 0) {
        ij_joint_pass *j = &s->joint;
        ij_head_place(&j->target, a, n->images, d, ij_mul(4, width), width);
        ij_head_place(&j->project, a, n->contexts, d, ij_mul(4, width), width);
        ij_head_place(&j->predict, a, n->contexts, width, ij_mul(4, width), width);
        j->dpredict = ij_matrix(a, n->contexts, width), j->dproject = ij_matrix(a, n->contexts, width), j->dmean = ij_matrix(a, n->contexts, d);
        j->predicts = c->pred_depth > 0;
    }
    const size_t contexts = c->vicreg > 0 ? n->contexts : 0, square = c->vicreg > 0 ? d : 0;
    s->z = ij_matrix(a, contexts, d), s->dz = ij_matrix(a, contexts, d), s->cov = ij_matrix(a, square, d);
    ij_arena same = *a;                                 /* the two backward passes follow one another: same memory */
    ij_stack_grads_place(&s->predictor_grads, &same, width, ij_mul(4, width), n->tokens, n->squares);
    ij_stack_grads_place(&s->encoder_grads, a, d, f, n->context_tokens, n->context_squares);
    a->used = IJ_MAX(a->used, same.used);
}

/* What the lists of these masks need in one part of the batch; s, if not NULL, is told where its sequences begin. */
static ij_counts ij_count_part(ij_step *s, const ij_config *c, const ij_masks *masks, const ij_part *part)
{
    const size_t contexts = c->num_enc_masks * part->images;
    ij_counts n = { .batch = part->batch, .images = part->images, .contexts = contexts };
    if (c->objective != IJ_JOINT) n.seqs = contexts * c->num_pred_masks;
    for (size_t i = 0; s && i < n.images; i++)          /* the target encoder sees whole images */
        s->target.stack.seqs.start[i + 1] = (i + 1) * ij_patches(c);
    for (size_t i = 0; i < contexts; i++) {
        const size_t k = masks->context.length[ij_list_of(part, i)];
        n.context_tokens += k, n.context_squares += k * k;
        if (s) s->context.stack.seqs.start[i + 1] = n.context_tokens;
    }
    for (size_t i = 0; i < n.seqs; i++) {
        const size_t t = masks->target.length[ij_target_of(part, contexts, i)];
        const size_t k = masks->context.length[ij_list_of(part, i % contexts)] + t;
        n.tokens += k, n.squares += k * k, n.queries += t;
        if (s) s->predictor.stack.seqs.start[i + 1] = n.tokens, s->predictor.stack.asked.start[i + 1] = n.queries;
    }
    return n;
}

/* Lays out the part that begins with image `first`. */
static ij_status ij_step_begin(ij_step *s, ij_model *m, const real *images, const ij_masks *masks,
                               size_t first, ij_error *why)
{
    const ij_config *c = &m->config;
    const size_t batch = masks->target.lists / c->num_pred_masks;
    const ij_part part = { first, IJ_MIN(ij_part_images(c), batch - first), batch };
    const ij_counts n = ij_count_part(NULL, c, masks, &part);
    ij_predictor_pass *p = &s->predictor;
    p->part = s->context.part = s->target.part = part, p->contexts = n.contexts;
    ij_arena a = { NULL, 0, 0 };
    ij_step_place(s, &a, c, &n);
    if (a.used > m->work_size)
        return ij_fail(why, IJ_EMEM, "these masks need %zu bytes of activations, the model has %zu: "
                       "lists longer than its settings can give", a.used, m->work_size);
    a.base = m->work, a.size = m->work_size, a.used = 0;
    ij_step_place(s, &a, c, &n);

    s->target.e = &m->target_encoder, s->context.e = &m->encoder;
    s->target.pos = s->context.pos = &m->encoder_pos, s->target.image = s->context.image = images;
    s->target.height = s->context.height = c->crop_size[0], s->target.width = s->context.width = c->crop_size[1];
    if (s->joint.on) s->target.image += batch * 3 * c->crop_size[0] * c->crop_size[1];      /* the other views */
    s->target.lists = NULL;
    s->context.lists = &masks->context;
    p->p = &m->predictor, p->pos = &m->predictor_pos, p->masks = masks, p->context = &s->context.stack;

    ij_count_part(s, c, masks, &part);
    ij_seqs_set(&s->target.stack.seqs, n.images, &m->team);
    ij_seqs_set(&s->context.stack.seqs, n.contexts, &m->team);
    ij_seqs_set(&p->stack.seqs, n.seqs, &m->team);
    p->stack.asked.count = n.seqs, p->stack.asked.tokens = n.queries;

    size_t queries = 0;                                 /* of the whole batch: the mean is over them all */
    for (size_t i = 0; i < masks->target.lists; i++) queries += masks->target.length[i] * c->num_enc_masks;
    s->loss.s = p;
    s->loss.kind = c->loss;
    s->loss.seqs = &s->target.stack.seqs;
    s->loss.target = c->objective == IJ_GENERATIVE ? &s->target.patches : ij_targets(&s->target.stack);
    s->loss.scale = 1 / (s->joint.on ? (double)(batch * c->num_enc_masks)
                       : c->loss == IJ_LOSS_L2 ? (double)(batch * c->num_enc_masks * c->num_pred_masks) : (double)queries * (double)ij_target_dim(c));
    s->loss.grad_scale = (real)(s->loss.scale / (double)c->accumulate);
    s->vicreg = n.contexts > 1 ? c->vicreg : 0, s->vicreg_grad = s->vicreg / (double)c->accumulate;
    return IJ_OK;
}

/* Mean of the tokens of each of the first sequences. */
static void ij_pool(real *pooled, const ij_stack *s, size_t images)
{
    const size_t d = ij_cols(&s->norm);
    memset(pooled, 0, images * d * sizeof(real));
    for (size_t b = 0; b < images; b++) {
        const size_t r0 = s->seqs.start[b], n = ij_length(&s->seqs, b);
        for (size_t r = r0; r < r0 + n; r++)
            for (size_t c = 0; c < d; c++) pooled[b * d + c] += s->norm.x[r * d + c];
        for (size_t c = 0; c < d; c++) pooled[b * d + c] /= (real)n;
    }
}

/* Standard deviation over the rows, averaged over channels. */
static double ij_feature_std(const ij_tensor *pooled)
{
    const size_t d = ij_cols(pooled), images = ij_rows(pooled);
    double std = 0;
    for (size_t c = 0; c < d; c++) {
        double mean = 0, square = 0;
        for (size_t b = 0; b < images; b++) mean += (double)pooled->x[b * d + c];
        mean /= (double)images;
        for (size_t b = 0; b < images; b++) {
            const double e = (double)pooled->x[b * d + c] - mean;
            square += e * e;
        }
        std += sqrt(square / (double)images);
    }
    return std / (double)d;
}

/* What is to be predicted: the target encoder's tokens (Figure 2c); or, generative, the pixels themselves (2b). */
static void ij_encode_targets(ij_step *s, const ij_team *team)
{
    ij_each(team, s->target.stack.seqs.pieces, s->loss.target == &s->target.patches ? ij_patches_task : ij_encoder_task, &s->target);
}

static void ij_encode_context(ij_step *s, const ij_team *team)
{
    ij_each(team, s->context.stack.seqs.pieces, ij_encoder_task, &s->context);
}

static void ij_predict(ij_step *s, const ij_team *team)
{
    if (s->joint.on) {
        ij_joint_pass *j = &s->joint;
        ij_pool(j->target.x.x, &s->target.stack, ij_rows(&j->target.x)), ij_pool(j->project.x.x, &s->context.stack, ij_rows(&j->project.x));
        ij_head_forward(&j->target, &s->target.e->projector, team), ij_head_forward(&j->project, &s->context.e->projector, team);
        memcpy(j->predict.x.x, j->project.y.x, ij_count(&j->project.y) * sizeof(real));
        if (j->predicts) ij_head_forward(&j->predict, &s->predictor.p->head, team);
        return;
    }
    const ij_predictor_pass *p = &s->predictor;         /* context tokens [Tc,D] -> [Tc,P], once for all target blocks */
    ij_linear(p->embed, p->context->norm, &p->p->embed_w, &p->p->embed_b, team);
    ij_each(team, p->stack.seqs.pieces, ij_predictor_task, &s->predictor);
}

static double ij_loss(ij_step *s, const ij_team *team)
{
    double sum = 0;
    if (s->joint.on) return ij_joint_loss(&s->joint, s->loss.scale, s->loss.grad_scale);
    ij_each(team, s->predictor.stack.seqs.pieces, ij_loss_task, &s->loss);
    for (size_t i = 0; i < ij_rows(&s->loss.want); i++) sum += s->loss.row_loss[i];
    return sum * s->loss.scale;
}

/* Variance and covariance (VICReg; C-JEPA 3.2) of z, the mean of each context's tokens, over the n contexts of a batch:
 *   v = 1/D sum_i max(0, 1 - sqrt(C_ii + 1e-4))      c = 1/D sum_(i != j) C_ij^2      C = z'z / (n - 1), z less its mean
 * in VICReg's proportion 25 : 1. C becomes the matrix that takes z to the gradient. */
static double ij_vicreg(ij_step *s)
{
    const size_t n = ij_rows(&s->z), d = ij_cols(&s->z);
    double sum = 0;
    if (!(s->vicreg > 0)) return 0;
    ij_pool(s->z.x, &s->context.stack, n);
    for (size_t i = 0; i < d; i++) {
        double mean = 0;
        for (size_t b = 0; b < n; b++) mean += (double)s->z.x[b * d + i] / (double)n;
        for (size_t b = 0; b < n; b++) s->z.x[b * d + i] = (real)((double)s->z.x[b * d + i] - mean);
    }
    const ij_product cov = { d, d, n, s->z.x, 1, d, s->z.x, d, 1, s->cov.x, d, NULL, 0 };
    ij_matmul(&cov, NULL);
    for (size_t i = 0; i < d * d; i++) {
        const double c = (double)s->cov.x[i] / (double)(n - 1), std = sqrt(c + 1e-4);
        const int diagonal = i % (d + 1) == 0;
        sum += diagonal ? IJ_MAX(0, 1 - std) : c * c / 25;
        s->cov.x[i] = (real)((diagonal ? std < 1 ? -1 / std : 0 : 4 * c / 25) / (double)(d * (n - 1)));
    }
    const ij_product grad = { n, d, d, s->z.x, d, 1, s->cov.x, d, 1, s->dz.x, d, NULL, 0 };
    ij_matmul(&grad, NULL);
    return s->vicreg * sum / (double)d;
}

/* To dcontext [Tc,D], from the gradient dmean [C,D] of each context's mean. */
static void ij_pool_backward(ij_step *s, const ij_tensor *dmean, real scale)
{
    const ij_seqs *q = &s->context.stack.seqs;
    const size_t d = ij_cols(&s->dcontext);
    for (size_t b = 0; b < q->count; b++)
        for (size_t r = q->start[b]; r < q->start[b + 1]; r++)
            for (size_t i = 0; i < d; i++) s->dcontext.x[r * d + i] += scale / (real)ij_length(q, b) * dmean->x[b * d + i];
}

static void ij_backward(ij_model *m, ij_step *s, const ij_team *team)
{
    if (s->joint.on) {
        const ij_joint_pass *j = &s->joint;
        if (j->predicts) ij_head_backward(j->dproject, &m->predictor_grad.head, &j->predict, j->dpredict, &m->predictor.head, team);
        ij_head_backward(j->dmean, &m->encoder_grad.projector, &j->project, j->predicts ? j->dproject : j->dpredict, &m->encoder.projector, team);
        memset(s->dcontext.x, 0, ij_count(&s->dcontext) * sizeof(real));
        ij_pool_backward(s, &j->dmean, 1);
    } else ij_predictor_backward(&s->dcontext, &m->predictor_grad, &s->predictor_grads, &s->predictor, team);
    if (s->vicreg > 0) ij_pool_backward(s, &s->dz, (real)s->vicreg_grad);
    ij_encoder_backward(&m->encoder_grad, &s->encoder_grads, &s->dcontext, &s->context, team);
}

/* AdamW with the schedules at k = step + 1, then the target encoder's EMA. Gradients that are not finite are dropped. */
static ij_status ij_update(ij_model *m, ij_report *r, ij_error *why)
{
    const ij_config *c = &m->config;
    const size_t k = (size_t)m->step + 1;
    double total = 0;
    ij_update_work u = { m, ij_lr(c, k), ij_weight_decay(c, k), ij_ema(c, k), 1, 1 - pow(c->beta[0], (double)k),
                         1 - pow(c->beta[1], (double)k), NULL };
    ij_arena a = { m->work, m->work_size, 0 };          /* the activations are done with */
    u.norm2 = ij_take(&a, m->params, sizeof(double));
    ij_each(&m->team, m->params, ij_norm_task, &u);
    for (size_t i = 0; i < m->params; i++) total += u.norm2[i];
    r->grad_norm = sqrt(total);
    if (!isfinite(total)) {
        memset(m->grad, 0, m->size * sizeof(real));
        return ij_fail(why, IJ_ENAN, "update %zu: the loss is %g, the gradient's norm %g, expected "
                       "finite numbers", k, r->loss, r->grad_norm);
    }
    if (c->clip_grad > 0 && r->grad_norm > c->clip_grad) u.clip = c->clip_grad / r->grad_norm;
    ij_each(&m->team, m->params, ij_update_task, &u);
    r->lr = u.lr, r->weight_decay = u.weight_decay, r->ema = u.ema, r->updated = 1;
    m->step++;
    return IJ_OK;
}

ij_status ij_train_step(ij_model *m, const ij_real *images, const ij_masks *masks, ij_report *r,
                        ij_error *why)
{
    const ij_team *team = &m->team;
    size_t contexts = 0, queries = 0, seqs = 0;
    ij_step s;
    const size_t batch = masks->target.lists / m->config.num_pred_masks;
    memset(r, 0, sizeof *r);
    if (!batch)
        return ij_fail(why, IJ_EARG, "%zu lists of targets, expected num_pred_masks = %zu for each "
                       "image", masks->target.lists, m->config.num_pred_masks);
    for (size_t first = 0; first < batch;) {
        const ij_status status = ij_step_begin(&s, m, images, masks, first, why);
        if (status) return status;

        ij_encode_targets(&s, team);
        ij_encode_context(&s, team);
        ij_predict(&s, team);
        r->loss += ij_loss(&s, team) + ij_vicreg(&s);
        ij_backward(m, &s, team);

        ij_pool(s.pooled.x + first * ij_cols(&s.pooled), s.loss.target == &s.target.patches ? &s.context.stack : &s.target.stack, s.predictor.part.images);
        contexts += s.context.stack.seqs.tokens, queries += ij_rows(&s.loss.want), seqs += s.predictor.stack.seqs.count;
        first += s.predictor.part.images;
    }
    r->feature_std = ij_feature_std(&s.pooled);
    r->context_tokens = (double)contexts / (double)masks->context.lists;
    r->target_tokens = (double)queries / (double)IJ_MAX(seqs, 1);
    if (!isfinite(r->loss)) m->grad[0] = (real)r->loss;         /* the update, on whatever machine, will refuse it */
    if (++m->micro % m->config.accumulate) return IJ_OK;
    if (m->reduce) m->reduce(m->reduce_arg, m->grad, m->size);
    return ij_update(m, r, why);                                /* AdamW, EMA */
}

/* ==================================== Part II, the tools ===================================== */

/* ---- modes of masks ----------------------------------------------------------------------------
 * What each mode has of its own. A new one is a row here, a number in ijepa.h and a name among the
 * settings.                                                                                      */

typedef struct {
    ij_status (*draw)(ij_masks *m, const ij_config *c, ij_rng *rng, uint64_t step, size_t images,
                      ij_error *why);
    void (*most)(size_t *context, size_t *target, const ij_config *c);     /* patches in a list */
    ij_status (*check)(const ij_config *c, ij_error *why); /* of what only it asks for; or NULL */
    /* whether masks can be drawn, before a long run; or NULL */
    ij_status (*rehearse)(ij_masks *m, const ij_config *c, ij_error *why);
    size_t contexts;            /* of an image, at most */
} ij_mask_kind;

/* Largest number of patches of a block: over all sizes that some scale and aspect of the ranges can
 * give. */
static size_t ij_block_most(const ij_config *c, const double scale[2], double a0, double a1)
{
    size_t most = 0, low[2], high[2];
    const double cells = (double)ij_patches(c);
    for (double keep = floor(cells * scale[0]); keep <= floor(cells * scale[1]); keep++) {
        const double share = (keep + 0.5) / cells;
        ij_block_size(low, c, share, a0);                   /* lowest and widest */
        ij_block_size(high, c, share, a1);                  /* tallest and narrowest */
        for (size_t h = low[0]; h <= high[0]; h++) {        /* the smallest aspect is the widest */
            const double half = (double)h - 0.5, a = IJ_MAX(a0, half > 0 ? half * half / keep : a0);
            size_t s[2];
            ij_block_size(s, c, share, a);
            most = IJ_MAX(most, h * s[1]);
        }
    }
    return most;
}

static void ij_blocks_most(size_t *context, size_t *target, const ij_config *c)
{
    *context = ij_block_most(c, c->enc_mask_scale, 1, 1);
    *target = ij_block_most(c, c->pred_mask_scale, c->aspect_ratio[0], c->aspect_ratio[1]);
}

/* Block sizes over a fine grid of the single draw that they follow from. */
static ij_status ij_reference_rehearse(ij_masks *m, const ij_config *c, ij_error *why)
{
    size_t least = SIZE_MAX, t[2], e[2];
    (void)m;
    for (int i = 0; i < 65536; i++) {
        const double u = i / 65536.0;
        ij_block_size(t, c, ij_between(c->pred_mask_scale, u), ij_between(c->aspect_ratio, u));
        ij_block_size(e, c, ij_between(c->enc_mask_scale, u), 1);
        least = IJ_MIN(least, IJ_MIN(t[0] * t[1], e[0] * e[1]));
    }
    if (least > c->min_keep) return IJ_OK;
    return ij_fail(why, IJ_EMASK, "masks: on a %zux%zu grid the smallest block has %zu patches; "
                   "each must hold more than min_keep = %zu: lower min_keep or raise "
                   "pred_mask_scale and enc_mask_scale", ij_gh(c), ij_gw(c), least,
                   c->min_keep);
}

static ij_status ij_paper_draw(ij_masks *m, const ij_config *c, ij_rng *rng, uint64_t step,
                               size_t images, ij_error *why)
{
    (void)step;
    return ij_masks_paper(m, c, rng, images, IJ_MASK_ROUNDS, why);
}

/* 256 images, with a tenth of the rounds that training allows. */
static ij_status ij_paper_rehearse(ij_masks *m, const ij_config *c, ij_error *why)
{
    ij_rng rng;
    ij_status status = IJ_OK;
    ij_rng_seed(&rng, 0);
    for (int i = 0; i < 256 && !status; i++)
        status = ij_masks_paper(m, c, &rng, 1, IJ_MASK_ROUNDS / 10, why);
    return status;
}

static ij_status ij_split_draw(ij_masks *m, const ij_config *c, ij_rng *rng, uint64_t step,
                               size_t images, ij_error *why)
{
    (void)step;
    (void)why;
    for (size_t b = 0; b < images; b++) ij_masks_split(m, c, rng, images, b);
    return IJ_OK;
}

static void ij_random_most(size_t *context, size_t *target, const ij_config *c)
{
    const double patches = (double)ij_patches(c);
    *target = (size_t)(patches * c->pred_mask_scale[1]);
    *context = ij_patches(c) - c->num_pred_masks * (size_t)(patches * c->pred_mask_scale[0]);
}

static ij_status ij_random_check(const ij_config *c, ij_error *why)
{
    const double patches = (double)ij_patches(c), *scale = c->pred_mask_scale;
    if (patches * scale[0] >= 1 && (double)c->num_pred_masks * floor(patches * scale[1]) < patches)
        return IJ_OK;
    return ij_fail(why, IJ_EARG, "pred_mask_scale is %g,%g, expected %zu random targets of at "
                   "least one of %g patches, and some left", scale[0], scale[1], c->num_pred_masks,
                   patches);
}

static void ij_quadrants_most(size_t *context, size_t *target, const ij_config *c)
{
    *context = *target = (ij_gh(c) + 1) / 2 * ((ij_gw(c) + 1) / 2);
}

static ij_status ij_quadrants_check(const ij_config *c, ij_error *why)
{
    if (c->num_pred_masks == 3 && ij_gh(c) > 1 && ij_gw(c) > 1) return IJ_OK;
    return ij_fail(why, IJ_EARG,
                   "num_pred_masks is %zu, expected 3, and a grid of at least 2x2, for quadrants",
                   c->num_pred_masks);
}

static const ij_mask_kind ij_mask_mode[] = {
    [IJ_MASK_REFERENCE] = { ij_masks_reference, ij_blocks_most, NULL, ij_reference_rehearse, 1024 },
    [IJ_MASK_PAPER] = { ij_paper_draw, ij_blocks_most, NULL, ij_paper_rehearse, 1024 },
    [IJ_MASK_RANDOM] = { ij_split_draw, ij_random_most, ij_random_check, NULL, 1 },
    [IJ_MASK_RASTERIZED] = { ij_split_draw, ij_quadrants_most, ij_quadrants_check, NULL, 1 },
};

static ij_status ij_masks_of_mode(ij_masks *m, const ij_config *c, ij_rng *rng, uint64_t step,
                                  size_t images, ij_error *why)
{
    const int modes = sizeof ij_mask_mode / sizeof *ij_mask_mode, mode = c->mask_mode;
    if (mode >= 0 && mode < modes) return ij_mask_mode[mode].draw(m, c, rng, step, images, why);
    return ij_fail(why, IJ_EARG, "mask_mode is %d, expected 0..%d", mode, modes - 1);
}

static ij_status ij_masks_rehearse(ij_masks *m, const ij_config *c, ij_error *why)
{
    const ij_mask_kind *mode = &ij_mask_mode[c->mask_mode];
    return mode->rehearse ? mode->rehearse(m, c, why) : IJ_OK;
}

/* ---- settings ----------------------------------------------------------------------------------
 * One table of names serves checkpoints, config files, the command line and its help. The program
 * adds the options of its commands as rows of the same form (see ij_option).                     */

enum { IJ_SET_SIZE, IJ_SET_SIDES, IJ_SET_REAL, IJ_SET_PAIR, IJ_SET_RANGE, IJ_SET_TRIPLE,
       IJ_SET_BOOL, IJ_SET_CHOICE };
enum { IJ_SET_TEXT = IJ_SET_CHOICE + 1, IJ_SET_FLAG, IJ_SET_MODEL };       /* of options only */
static const size_t ij_values[] = { 1, 2, 1, 2, 2, 3, 1, 1 };         /* numbers of each kind */

typedef struct {
    const char *name;
    int kind;
    size_t place;               /* in ij_config, or in ij_options, which begin with one */
    double low, high;
    const char *choice[5];      /* names of 0, 1, ...; NULL behind them */
    const char *commands;       /* that take it, NULL: all; no name is a part of another */
    double start[3];            /* the default */
    const char *help;
} ij_named;

#define IJ_ANY "train masks bench show"
#define IJ_AT(field, low, high) offsetof(ij_config, field), low, high, { NULL }, IJ_ANY
static const ij_named ij_setting[] = {
    { "batch_size", IJ_SET_SIZE, IJ_AT(batch_size, 1, 1 << 20), { 64 },
      "images of one forward pass" },
    { "accumulate", IJ_SET_SIZE, IJ_AT(accumulate, 1, 1 << 20), { 1 },
      "forward passes of one update" },
    { "crop_size", IJ_SET_SIDES, offsetof(ij_config, crop_size), 1, 1 << 20, { NULL },
      IJ_ANY " render", { 32, 32 },
      "side of the training image, or HEIGHT,WIDTH" },
    { "crop_scale", IJ_SET_RANGE, IJ_AT(crop_scale, 1e-6, 1), { 0.4, 1 },
      "area of the random-resized crop" },
    { "use_horizontal_flip", IJ_SET_BOOL, IJ_AT(use_horizontal_flip, 0, 1), { 1 },
      "mirror every second image" },
    { "color_jitter", IJ_SET_REAL, IJ_AT(color_jitter, 0, 1), { 0 },
      "strength of random brightness, contrast, saturation and hue" },
    { "gray", IJ_SET_REAL, IJ_AT(gray, 0, 1), { 0 },
      "share of images without colour" },
    { "mean", IJ_SET_TRIPLE, IJ_AT(mean, -1e6, 1e6), { 0.485, 0.456, 0.406 },
      "of red, green, blue in 0..1" },
    { "std", IJ_SET_TRIPLE, IJ_AT(std, 1e-6, 1e6), { 0.229, 0.224, 0.225 },
      "of red, green, blue" },
    { "patch_size", IJ_SET_SIZE, IJ_AT(patch_size, 1, 1 << 20), { 4 },
      "side of a patch" },
    { "mask_mode", IJ_SET_CHOICE, offsetof(ij_config, mask_mode), 0, 3,
      { "reference", "paper", "random", "rasterized" }, IJ_ANY, { IJ_MASK_PAPER },
      "blocks by either sampler; patches anywhere; quadrants" },
    { "enc_mask_scale", IJ_SET_RANGE, IJ_AT(enc_mask_scale, 1e-6, 1), { 0.85, 1 },
      "context block, share of the patches" },
    { "pred_mask_scale", IJ_SET_RANGE, IJ_AT(pred_mask_scale, 1e-6, 1), { 0.15, 0.2 },
      "target block, share of the patches" },
    { "aspect_ratio", IJ_SET_RANGE, IJ_AT(aspect_ratio, 1e-3, 1e3), { 0.75, 1.5 },
      "height / width of a target block" },
    { "num_enc_masks", IJ_SET_SIZE, IJ_AT(num_enc_masks, 1, 1024), { 1 },
      "context blocks per image" },
    { "num_pred_masks", IJ_SET_SIZE, IJ_AT(num_pred_masks, 1, 1024), { 4 },
      "target blocks per image" },
    { "min_keep", IJ_SET_SIZE, IJ_AT(min_keep, 0, 1 << 20), { 4 },
      "a block must have more patches than this" },
    { "allow_overlap", IJ_SET_BOOL, IJ_AT(allow_overlap, 0, 1), { 0 },
      "leave the targets in the context" },
    { "embed_dim", IJ_SET_SIZE, IJ_AT(embed_dim, 4, 1 << 20), { 128 },
      "width of the encoder" },
    { "depth", IJ_SET_SIZE, IJ_AT(depth, 1, 1 << 20), { 4 },
      "blocks of the encoder" },
    { "num_heads", IJ_SET_SIZE, IJ_AT(num_heads, 1, 1 << 20), { 4 },
      "heads of encoder and predictor" },
    { "mlp_ratio", IJ_SET_REAL, IJ_AT(mlp_ratio, 1.0 / 64, 64), { 4 },
      "hidden width / width of the encoder's MLP" },
    { "pred_emb_dim", IJ_SET_SIZE, IJ_AT(pred_emb_dim, 4, 1 << 20), { 64 },
      "width of the predictor" },
    { "pred_depth", IJ_SET_SIZE, IJ_AT(pred_depth, 0, 1 << 20), { 2 },
      "blocks of the predictor" },
    { "init_std", IJ_SET_REAL, IJ_AT(init_std, 0, 10), { 0 },
      "of first weights; 0: Xavier-uniform; reference 0.02" },
    { "patch_init_std", IJ_SET_REAL, IJ_AT(patch_init_std, 0, 10), { 0.14 },
      "of the patch embedding; reference 0.02" },
    { "average_top_k_layers", IJ_SET_SIZE, IJ_AT(average_top_k_layers, 0, 1 << 20), { 0 },
      "targets: mean of the last so many layers (depth + 1: all); 0: final norm" },
    { "vicreg", IJ_SET_REAL, IJ_AT(vicreg, 0, 1e3), { 0 },
      "weight of the variance and covariance of the contexts' means; 0: none" },
    { "objective", IJ_SET_CHOICE, offsetof(ij_config, objective), 0, 2,
      { "jepa", "generative", "joint" }, IJ_ANY, { IJ_JEPA },
      "predict the target encoder's tokens, pixels, or another view's mean" },
    { "loss", IJ_SET_CHOICE, offsetof(ij_config, loss), 0, 1,
      { "smooth_l1", "l2" }, IJ_ANY, { IJ_LOSS_SMOOTH_L1 },
      "the code's or the paper's" },
    { "epochs", IJ_SET_REAL, IJ_AT(epochs, 0, 1e9), { 10 },
      "length of the run" },
    { "warmup", IJ_SET_REAL, IJ_AT(warmup, 0, 1e9), { 1 },
      "epochs of rising learning rate" },
    { "steps", IJ_SET_SIZE, IJ_AT(steps, 0, 9e15), { 0 },
      "length in updates instead; 0: by epochs" },
    { "ipe", IJ_SET_SIZE, IJ_AT(ipe, 1, 9e15), { 100 },
      "updates per epoch; train sets it from the data" },
    { "ipe_scale", IJ_SET_REAL, IJ_AT(ipe_scale, 1e-3, 1e3), { 1 },
      "stretches the schedules" },
    { "start_lr", IJ_SET_REAL, IJ_AT(start_lr, 0, 1e3), { 1e-4 },
      "learning rate at the start" },
    { "lr", IJ_SET_REAL, IJ_AT(lr, 0, 1e3), { 1e-3 },
      "after warm-up" },
    { "final_lr", IJ_SET_REAL, IJ_AT(final_lr, 0, 1e3), { 1e-6 },
      "at the end" },
    { "weight_decay", IJ_SET_REAL, IJ_AT(weight_decay, 0, 1e3), { 0.04 },
      "at the start" },
    { "final_weight_decay", IJ_SET_REAL, IJ_AT(final_weight_decay, 0, 1e3), { 0.4 },
      "at the end" },
    { "ema", IJ_SET_PAIR, IJ_AT(ema, 0, 1), { 0.99, 1 },
      "momentum of the target encoder" },
    { "betas", IJ_SET_PAIR, IJ_AT(beta, 0, 0.999999999), { 0.9, 0.999 },
      "of AdamW" },
    { "eps", IJ_SET_REAL, IJ_AT(eps, 1e-30, 1), { 1e-8 },
      "of AdamW" },
    { "clip_grad", IJ_SET_REAL, IJ_AT(clip_grad, 0, 1e9), { 0 },
      "largest gradient norm; 0: none" },
    { "seed", IJ_SET_SIZE, offsetof(ij_config, seed), 0, 9e15, { NULL },
      IJ_ANY " render", { 0 },
      "of weights, masks, order and crops" },
#undef IJ_AT
};
enum { IJ_SETTINGS = sizeof ij_setting / sizeof *ij_setting };

/* A setting of earlier versions: files that have it as it was, false, are still read. */
static const char ij_gone[] = "mask_target_input";

static const struct {
    const char *name;
    size_t embed_dim, depth, num_heads;
    double mlp_ratio;
} ij_size_name[] = {
    { "vit_tiny", 192, 12, 3, 4 }, { "vit_small", 384, 12, 6, 4 }, { "vit_base", 768, 12, 12, 4 },
    { "vit_large", 1024, 24, 16, 4 }, { "vit_huge", 1280, 32, 16, 4 },
    { "vit_giant", 1408, 40, 16, 48.0 / 11 },
};

const char *ij_config_name(size_t i) { return i < IJ_SETTINGS ? ij_setting[i].name : NULL; }

/* The numbers of a row, from where they are kept, and there. */
static void ij_named_get(double x[3], const ij_named *row, const void *base)
{
    const void *at = (const char *)base + row->place;
    for (size_t k = 0; k < ij_values[row->kind]; k++)
        if (row->kind <= IJ_SET_SIDES) x[k] = (double)((const size_t *)at)[k];
        else if (row->kind >= IJ_SET_BOOL) x[k] = *(const int *)at;
        else x[k] = ((const double *)at)[k];
}

static void ij_named_put(const ij_named *row, void *base, const double x[3])
{
    void *at = (char *)base + row->place;
    for (size_t k = 0; k < ij_values[row->kind]; k++)
        if (row->kind <= IJ_SET_SIDES) ((size_t *)at)[k] = (size_t)x[k];
        else if (row->kind >= IJ_SET_BOOL) *(int *)at = (int)x[k];
        else ((double *)at)[k] = x[k];
}

ij_config ij_config_default(void)
{
    ij_config c;
    memset(&c, 0, sizeof c);
    for (size_t i = 0; i < IJ_SETTINGS; i++) ij_named_put(&ij_setting[i], &c, ij_setting[i].start);
    return c;
}

/* The shortest decimal that reads back as the same double. */
static int ij_print_real(char *to, size_t size, double x)
{
    int n = 0;
    for (int digits = 6; digits <= 17; digits++) {
        n = snprintf(to, size, "%.*g", digits, x);
        const double back = strtod(to, NULL);
        if (!(back < x) && !(back > x)) break;
    }
    return n;
}

static void ij_named_text(char text[IJ_TEXT], const ij_named *row, const void *base)
{
    double x[3];
    size_t count = ij_values[row->kind];
    ij_named_get(x, row, base);
    if (row->kind == IJ_SET_BOOL) snprintf(text, IJ_TEXT, "%s", x[0] > 0 ? "true" : "false");
    if (row->kind == IJ_SET_CHOICE) snprintf(text, IJ_TEXT, "%s", row->choice[(int)x[0]]);
    if (row->kind >= IJ_SET_BOOL) return;
    if (row->kind == IJ_SET_SIDES && !(x[0] < x[1]) && !(x[0] > x[1])) count = 1;
    for (size_t k = 0, n = 0; k < count; k++) {
        if (k) text[n++] = ',';
        if (row->kind <= IJ_SET_SIDES) n += (size_t)snprintf(text + n, IJ_TEXT - n, "%.0f", x[k]);
        else n += (size_t)ij_print_real(text + n, IJ_TEXT - n, x[k]);
    }
}

void ij_config_text(char text[IJ_TEXT], const ij_config *c, size_t i)
{
    ij_named_text(text, &ij_setting[i], c);
}

/* Reads up to three numbers separated by commas; the count, or 0 if anything else is there. */
static size_t ij_scan_reals(double x[3], const char *text)
{
    size_t count = 0;
    while (count < 3) {
        char *end;
        x[count] = strtod(text, &end);
        if (end == text || !isfinite(x[count++])) return 0;
        text = end + strspn(end, " \t");
        if (!*text) return count;
        if (*text++ != ',') return 0;
    }
    return 0;
}

/* Edits from one name to the other. */
static size_t ij_distance(const char *a, const char *b)
{
    size_t row[64], n = strlen(b);
    if (n > 62) return n;
    for (size_t j = 0; j <= n; j++) row[j] = j;
    for (size_t i = 0; a[i]; i++) {
        size_t corner = row[0];
        row[0] = i + 1;
        for (size_t j = 0; j < n; j++) {
            const size_t above = row[j + 1], replaced = corner + (a[i] != b[j]);
            row[j + 1] = IJ_MIN(IJ_MIN(above, row[j]) + 1, replaced);
            corner = above;
        }
    }
    return row[n];
}

/* Of two names the one nearer to what was asked for; the first of equals. */
static const char *ij_nearer(const char *best, const char *other, const char *asked)
{
    return ij_distance(asked, other) < ij_distance(asked, best) ? other : best;
}

static int ij_whole(double x)
{
    return x >= 0 && x <= 9e15 && x <= (double)SIZE_MAX && !(floor(x) < x);
}

/* Reads the text of a row's value and keeps it, or says what was expected. */
static ij_status ij_named_set(const ij_named *row, void *base, const char *value, ij_error *why)
{
    static const char *const expected[] = {
        "a whole number", "one or two whole numbers", "a number", "two numbers a,b",
        "two numbers a,b", "three numbers a,b,c", "true or false"
    };
    double x[3] = { 0, 0, 0 };
    char choices[IJ_TEXT] = "";
    size_t count = row->choice[0] ? 0 : ij_scan_reals(x, value);
    if (row->kind == IJ_SET_TEXT) {
        *(const char **)(void *)((char *)base + row->place) = value;
        return IJ_OK;
    }
    if (row->kind == IJ_SET_SIDES && count == 1) x[count++] = x[0];
    if (row->kind <= IJ_SET_SIDES && (!ij_whole(x[0]) || !ij_whole(x[1]))) count = 0;
    if (row->kind == IJ_SET_BOOL) {
        const int yes = !strcmp(value, "true") || !strcmp(value, "1");
        count = yes || !strcmp(value, "false") || !strcmp(value, "0");
        x[0] = yes;
    }
    for (size_t i = 0; row->choice[i]; i++) {
        const size_t used = strlen(choices);
        snprintf(choices + used, sizeof choices - used, "%s%s", i ? " or " : "", row->choice[i]);
        if (strcmp(value, row->choice[i])) continue;
        x[0] = (double)i;
        count = 1;
    }
    if (count != ij_values[row->kind])
        return ij_fail(why, IJ_EARG, "%s is \"%.60s\", expected %s", row->name, value,
                       *choices ? choices : expected[row->kind]);
    ij_named_put(row, base, x);
    return IJ_OK;
}

/* model_name: four settings at once. */
static ij_status ij_config_set_model(ij_config *c, const char *value, ij_error *why)
{
    for (size_t i = 0; i < sizeof ij_size_name / sizeof *ij_size_name; i++) {
        if (strcmp(value, ij_size_name[i].name)) continue;
        c->embed_dim = ij_size_name[i].embed_dim;
        c->depth = ij_size_name[i].depth;
        c->num_heads = ij_size_name[i].num_heads;
        c->mlp_ratio = ij_size_name[i].mlp_ratio;
        return IJ_OK;
    }
    return ij_fail(why, IJ_EARG,
                   "model_name is %.60s, expected vit_tiny, vit_small, vit_base, vit_large, "
                   "vit_huge or vit_giant",
                   value);
}

ij_status ij_config_set(ij_config *c, const char *name, const char *value, ij_error *why)
{
    const char *near = ij_setting[0].name;
    if (!strcmp(name, "model_name")) return ij_config_set_model(c, value, why);
    for (size_t i = 0; i < IJ_SETTINGS; i++) {
        if (!strcmp(name, ij_setting[i].name)) return ij_named_set(&ij_setting[i], c, value, why);
        near = ij_nearer(near, ij_setting[i].name, name);
    }
    if (strcmp(name, ij_gone))
        return ij_fail(why, IJ_EARG, "no setting is called %.60s; the nearest is %s", name, near);
    if (!strcmp(value, "false") || !strcmp(value, "0")) return IJ_OK;
    return ij_fail(why, IJ_EARG, "%s is %.20s: that setting is gone", name, value);
}

ij_status ij_config_check(const ij_config *c, ij_error *why)
{
    for (size_t i = 0; i < IJ_SETTINGS; i++) {
        const ij_named *row = &ij_setting[i];
        double x[3];
        ij_named_get(x, row, c);
        for (size_t k = 0; k < ij_values[row->kind]; k++) {
            const double low = row->kind == IJ_SET_RANGE && k ? x[0] : row->low;
            if (!(x[k] >= low && x[k] <= row->high))     /* NaN fails too */
                return ij_fail(why, IJ_EARG, "%s is %g, expected %g..%g", row->name, x[k], low,
                               row->high);
        }
    }
    const size_t width[2] = { c->embed_dim, c->pred_emb_dim };
    for (int i = 0; i < 2; i++)
        if (width[i] % 4 || width[i] % c->num_heads)
            return ij_fail(why, IJ_EARG,
                           "%s is %zu, expected a multiple of 4 and of num_heads = %zu",
                           i ? "pred_emb_dim" : "embed_dim", width[i], c->num_heads);
    if (c->patch_size > c->crop_size[0] || c->patch_size > c->crop_size[1])
        return ij_fail(why, IJ_EARG, "patch_size is %zu, expected at most the crop_size",
                       c->patch_size);
    if (!c->pred_depth && c->objective != IJ_JOINT)
        return ij_fail(why, IJ_EARG,
                       "pred_depth is 0, expected 1 or more where patches are predicted");
    if (!ij_hidden(c))
        return ij_fail(why, IJ_EARG, "embed_dim * mlp_ratio is %g, expected at least 1",
                       (double)c->embed_dim * c->mlp_ratio);
    const ij_mask_kind *mode = &ij_mask_mode[c->mask_mode];
    if (c->num_enc_masks > mode->contexts)
        return ij_fail(why, IJ_EARG, "num_enc_masks is %zu, expected %zu for these masks",
                       c->num_enc_masks, mode->contexts);
    return mode->check ? mode->check(c, why) : IJ_OK;
}

/* Lines of key = value; # begins a comment. */
ij_status ij_config_read(ij_config *c, const char *path, ij_error *why)
{
    char line[512];
    ij_error inner;
    ij_status s = IJ_OK;
    FILE *f = fopen(path, "r");
    if (!f) return ij_fail(why, IJ_EFILE, "%.200s: %s", path, strerror(errno));
    for (size_t n = 1; !s && fgets(line, sizeof line, f); n++) {
        char key[64], value[IJ_TEXT] = "";
        int used = 0;
        if (strlen(line) == sizeof line - 1)
            s = ij_fail(why, IJ_EDATA, "%.200s: line %zu: too long", path, n);
        line[strcspn(line, "#\r\n")] = 0;
        if (s || !line[strspn(line, " \t")]) continue;
        const int found = sscanf(line, " %63[^ \t=] = %127[^\n]%n", key, value, &used);
        for (size_t end = strlen(value); found == 2 && strchr(" \t", value[end - 1]);)
            value[--end] = 0;
        if (found != 2 || line[used])
            s = ij_fail(why, IJ_EDATA, "%.200s: line %zu: \"%.40s\", expected key = value "
                        "(the published settings are --preset paper)", path, n, line);
        else if (ij_config_set(c, key, value, &inner))
            s = ij_fail(why, IJ_EARG, "%.200s: line %zu: %.250s", path, n, inner.text);
    }
    if (!s && ferror(f)) s = ij_fail(why, IJ_EFILE, "%.200s: cannot be read", path);
    fclose(f);
    return s;
}

/* ---- building a model --------------------------------------------------------------------------
 * Memory for the largest step these settings can ask for, first weights, and the cost in
 * arithmetic. */

static void ij_lists_place(ij_lists *l, ij_arena *a, size_t lists, size_t stride)
{
    l->lists = 0;
    l->stride = stride;
    l->length = ij_take(a, lists, sizeof(size_t));
    l->index = ij_take(a, ij_mul(lists, stride), sizeof(size_t));
}

static void ij_masks_place(ij_masks *m, ij_arena *a, const ij_config *c)
{
    size_t k, t;
    ij_mask_mode[c->mask_mode].most(&k, &t, c);
    ij_lists_place(&m->context, a, ij_mul(c->num_enc_masks, c->batch_size), k);
    ij_lists_place(&m->target, a, ij_mul(c->num_pred_masks, c->batch_size), t);
}

static ij_counts ij_counts_most(const ij_config *c)
{
    size_t k, t;
    ij_counts n;
    ij_mask_mode[c->mask_mode].most(&k, &t, c);
    n.batch = c->batch_size;
    n.images = ij_part_images(c);
    n.contexts = ij_mul(n.images, c->num_enc_masks);
    n.context_tokens = ij_mul(n.contexts, k);
    n.context_squares = ij_mul(n.context_tokens, k);
    n.seqs = c->objective == IJ_JOINT ? 0 : ij_mul(n.contexts, c->num_pred_masks);
    n.tokens = ij_mul(n.seqs, k + t);
    n.squares = ij_mul(n.tokens, k + t);
    n.queries = ij_mul(n.seqs, t);
    return n;
}

static void ij_model_place(ij_model *m, ij_arena *a)
{
    const ij_config *c = &m->config;
    const int train = m->training;
    ij_listing count = { 0 };
    ij_encoder e;
    ij_predictor p;
    e.block = NULL;
    p.block = NULL;
    ij_list_encoder(&count, &e, c);
    m->encoder_params = count.params;
    m->encoder_size = count.offset;
    ij_list_predictor(&count, &p, c);
    m->params = count.params;
    m->size = count.offset;

    m->param = ij_take(a, m->params, sizeof *m->param);
    m->target = ij_take(a, m->encoder_size, sizeof(real));
    m->target_encoder.block = ij_take(a, c->depth, sizeof(ij_block));
    m->encoder_pos = ij_matrix(a, ij_patches(c), c->embed_dim);
    if (!train) m->file_pos = ij_matrix(a, ij_patches(c), c->embed_dim);
    if (!train) return;
    real **part[4] = { &m->weight, &m->grad, &m->adam_m, &m->adam_v };
    for (size_t i = 0; i < 4; i++) *part[i] = ij_take(a, m->size, sizeof(real));
    m->encoder.block = ij_take(a, c->depth, sizeof(ij_block));
    m->encoder_grad.block = ij_take(a, c->depth, sizeof(ij_block));
    m->predictor.block = ij_take(a, c->pred_depth, sizeof(ij_block));
    m->predictor_grad.block = ij_take(a, c->pred_depth, sizeof(ij_block));
    m->predictor_pos = ij_matrix(a, ij_patches(c), c->pred_emb_dim);
    ij_masks_place(&m->masks, a, c);

    ij_step step;
    ij_arena work = { NULL, 0, 0 };
    const ij_counts most = ij_counts_most(c);
    ij_step_place(&step, &work, c, &most);
    m->work_size = IJ_MAX(work.used, ij_mul(m->params, sizeof(double)) + 64);
    m->work = ij_take(a, m->work_size, 1);
}

static void ij_model_name_parts(ij_model *m)
{
    const ij_config *c = &m->config;
    ij_listing table = { .param = m->param }, target = { .base = m->target };
    ij_encoder e = m->target_encoder;
    ij_predictor p;
    p.block = NULL;
    ij_list_encoder(&table, &e, c);
    ij_list_predictor(&table, &p, c);
    ij_list_encoder(&target, &m->target_encoder, c);
    if (!m->training) return;
    ij_listing weight = { .base = m->weight }, grad = { .base = m->grad };
    ij_list_encoder(&weight, &m->encoder, c);
    ij_list_predictor(&weight, &m->predictor, c);
    ij_list_encoder(&grad, &m->encoder_grad, c);
    ij_list_predictor(&grad, &m->predictor_grad, c);
}

/* First weights: LayerNorm 1 and 0, biases 0, matrices and the patch embedding as the config says,
 * mask token 0.02. */
static void ij_model_draw(ij_model *m)
{
    uint64_t state = m->config.seed;
    for (size_t row = 0; row < m->params; row++) {
        const ij_param *p = &m->param[row];
        if (!m->training && p->predictor) break;
        real *w = (m->training ? m->weight : m->target) + p->offset;
        const size_t n = ij_count(&p->shape), rank = p->shape.rank;
        double std = m->config.init_std, bound = 0;
        if (rank == 3) std = 0.02;
        if (rank == 4) std = m->config.patch_init_std;
        if (rank == 2 && std == 0) bound = sqrt(6.0 / (double)(p->shape.dim[0] + p->shape.dim[1]));
        if (rank == 2 && bound != 0 && strstr(p->name, "qkv"))  /* q, k, v are three matrices */
            bound = sqrt(6.0 / (double)(2 * p->shape.dim[1]));
        for (size_t i = 0; i < n; i++) {
            const double u = (double)(ij_mix(&state) >> 11) / 9007199254740992.0;
            if (rank == 1) w[i] = strstr(p->name, "norm") && strstr(p->name, "weight") ? 1 : 0;
            else if (bound != 0) w[i] = (real)(float)(bound * (2 * u - 1));
            else {                                      /* Box and Muller */
                const double v = (double)(ij_mix(&state) >> 11) / 9007199254740992.0;
                w[i] = (real)(float)(std * sqrt(-2 * log(1 - u)) * cos(2 * IJ_PI * v));
            }
        }
    }
    if (m->training) memcpy(m->target, m->weight, m->encoder_size * sizeof(real));
}

ij_status ij_model_size(size_t *size, const ij_config *c, int training, ij_error *why)
{
    const ij_status s = ij_config_check(c, why);
    if (s) return s;
    ij_model m;
    ij_arena a = { NULL, 0, 0 };
    memset(&m, 0, sizeof m);
    m.config = *c;
    m.training = training == IJ_TRAIN;
    ij_model_place(&m, &a);
    if (a.used == SIZE_MAX || m.work_size == SIZE_MAX)
        return ij_fail(why, IJ_EMEM, "this model needs more memory than the machine can address");
    *size = a.used;
    return IJ_OK;
}

ij_status ij_model_init(ij_model *m, void *mem, size_t size, const ij_config *c, int training,
                        ij_error *why)
{
    size_t need;
    const ij_status s = ij_model_size(&need, c, training, why);
    if (s) return s;
    if (!mem || size < need)
        return ij_fail(why, IJ_EMEM, "the model needs %zu bytes, has %zu", need, size);
    ij_arena a = { mem, size, 0 };
    memset(m, 0, sizeof *m);
    m->config = *c;
    m->training = training == IJ_TRAIN;
    ij_model_place(m, &a);
    memset(mem, 0, need - m->work_size);        /* the work area, at the end, is not touched */
    ij_positions(m->encoder_pos, ij_gh(c), ij_gw(c));
    ij_model_name_parts(m);
    if (training != IJ_LOADED) ij_model_draw(m);
    if (training != IJ_TRAIN) return IJ_OK;
    ij_positions(m->predictor_pos, ij_gh(c), ij_gw(c));
    ij_rng_seed(&m->mask_rng, c->seed);
    return ij_masks_rehearse(&m->masks, c, why);
}

#ifdef IJEPA_MAIN
/* Multiply-adds count as two; every token passes every block, forward and (twice) backward. */
static double ij_stack_flops(double depth, double d, double f, double n)
{
    return depth * 2 * n * (4 * d * d + 2 * d * f + 2 * n * d);
}

/* Of one encoder on n patches. */
static double ij_encode_flops(const ij_config *c, double n)
{
    const double d = (double)c->embed_dim, p = (double)c->patch_size;
    return 2 * n * 3 * p * p * d + ij_stack_flops((double)c->depth, d, (double)ij_hidden(c), n);
}

/* Of one image in one step; the heads of a joint embedding are next to nothing. */
static double ij_flops(const ij_config *c, size_t context_tokens, size_t target_tokens)
{
    const double d = (double)c->embed_dim, width = (double)c->pred_emb_dim;
    const double k = (double)context_tokens, t = (double)target_tokens;
    const double contexts = (double)c->num_enc_masks, context = ij_encode_flops(c, k);
    const double predict = ij_stack_flops((double)c->pred_depth, width, 4 * width, k + t) +
                           2 * t * width * (double)ij_target_dim(c);
    const double targets = ij_encode_flops(c, (double)ij_patches(c));
    if (c->objective == IJ_JOINT) return targets + 3 * contexts * context;
    return (c->objective == IJ_GENERATIVE ? 0 : targets) +
           3 * contexts * (context + 2 * k * d * width + (double)c->num_pred_masks * predict);
}
#endif

/* ---- features ----------------------------------------------------------------------------------
 * The mean of the target encoder's tokens, all patches seen, represents an image (appendix A.1). */

static void ij_encode_place(ij_encoder_pass *s, ij_tensor *pos, ij_arena *a, const ij_encoder *e,
                            const ij_pictures *in)
{
    const size_t d = ij_cols(&e->norm_w), f = e->depth ? ij_cols(&e->block[0].fc1_b) : 1;
    const size_t n = ij_mul(in->height / e->patch, in->width / e->patch);
    *pos = ij_matrix(a, n, d);
    const size_t tokens = ij_mul(in->count, n), squares = ij_mul(tokens, n);
    ij_encoder_place(s, a, e->depth, e->heads, e->patch, d, f, in->count, tokens, squares, 0);
}

ij_status ij_encode_size(size_t *size, const ij_encoder *e, const ij_pictures *in, ij_error *why)
{
    ij_encoder_pass s;
    ij_tensor pos;
    ij_arena a = { NULL, 0, 0 };
    const size_t gh = in->height / e->patch, gw = in->width / e->patch;
    if (!gh || !gw || !in->count)
        return ij_fail(why, IJ_EARG, "%zu images of %zux%zu pixels, expected at least one of "
                       "one %zux%zu patch", in->count, in->height, in->width, e->patch,
                       e->patch);
    if (e->pos.x && ij_rows(&e->pos) != gh * gw)
        return ij_fail(why, IJ_EARG, "images of %zux%zu pixels have %zu patches, expected %zu, "
                       "as the file's positions", in->height, in->width, gh * gw,
                       ij_rows(&e->pos));
    ij_encode_place(&s, &pos, &a, e, in);
    *size = a.used;
    if (a.used < SIZE_MAX) return IJ_OK;
    return ij_fail(why, IJ_EMEM, "images this large need more memory than can be addressed");
}

ij_status ij_encode(ij_real *tokens, ij_real *pooled, const ij_encoder *e, const ij_pictures *in,
                    ij_memory work, const ij_team *team, ij_error *why)
{
    ij_encoder_pass s = { .e = e, .image = in->x, .height = in->height, .width = in->width };
    ij_tensor pos;
    size_t need;
    const ij_status status = ij_encode_size(&need, e, in, why);
    if (status) return status;
    if (!work.base || work.size < need) return ij_needs(why, need, work.size);
    ij_arena a = { work.base, work.size, 0 };
    ij_encode_place(&s, &pos, &a, e, in);
    s.part = (ij_part){ 0, in->count, in->count };
    s.pos = e->pos.x ? &e->pos : &pos;
    if (!e->pos.x) ij_positions(pos, in->height / e->patch, in->width / e->patch);
    for (size_t i = 0; i <= in->count; i++) s.stack.seqs.start[i] = i * ij_rows(&pos);
    ij_seqs_set(&s.stack.seqs, in->count, team);
    ij_each(team, s.stack.seqs.pieces, ij_encoder_task, &s);
    if (tokens) memcpy(tokens, s.stack.norm.x, ij_count(&s.stack.norm) * sizeof(real));
    if (pooled) ij_pool(pooled, &s.stack, in->count);
    return IJ_OK;
}

/* ---- platform ----------------------------------------------------------------------------------
 * All that is not C99 is here, in POSIX and without it: folders, flushing; for the program, threads
 * and clock. */

enum { IJ_PATH = 1024, IJ_FOLDER_DEPTH = 16 };

/* A name in the folder of a path. */
static ij_status ij_beside(char to[IJ_PATH], const char *path, const char *name, ij_error *why)
{
    const char *slash = strrchr(path, '/');
    if (snprintf(to, IJ_PATH, "%.*s%s", slash ? (int)(slash + 1 - path) : 0, path, name) < IJ_PATH)
        return IJ_OK;
    return ij_fail(why, IJ_EARG, "%.200s...: the path is too long", path);
}

/* Names of the pictures below a folder: counted, and noted if there is room. */
typedef struct {
    size_t count, others, bytes;
    const char **name;
    char *text;
    size_t room_names, room_text;
    char other[16];
} ij_walk;

#ifdef IJ_FOLDERS
#include <dirent.h>
#include <sys/stat.h>
#ifdef _WIN32
#include <direct.h>
#define lstat(path, st) stat(path, st)    /* no links, no permissions */
#define mkdir(path, mode) _mkdir(path)
#endif

static int ij_is_folder(const char *path)
{
    struct stat st;
    return !stat(path, &st) && S_ISDIR(st.st_mode);
}

static int ij_is_picture(const char *dot)               /* .ppm, .pgm or .pnm */
{
    return dot && (dot[1] | 32) == 'p' && strchr("pgn", dot[2] | 32) && (dot[3] | 32) == 'm' &&
           !dot[4];
}

/* Counts the pictures below path, and notes their names if there is room; path is given back as
 * it was. */
static ij_status ij_folder_walk(ij_walk *w, char path[IJ_PATH], size_t root, int depth,
                                ij_error *why)
{
    const size_t n = strlen(path);
    DIR *folder = opendir(path);
    ij_status s = IJ_OK;
    if (!folder) return ij_fail(why, IJ_EFILE, "%.300s: %s", path, strerror(errno));
    for (struct dirent *e; !s && (e = readdir(folder)) != NULL; path[n] = 0) {
        struct stat st;
        const char *name = e->d_name, *dot = strrchr(name, '.');
        if (*name == '.') continue;
        if (n + strlen(name) + 2 > IJ_PATH) {
            s = ij_fail(why, IJ_EARG, "%.200s/%.60s: the path is too long", path, name);
            break;
        }
        path[n] = '/';
        strcpy(path + n + 1, name);
        if (lstat(path, &st)) s = ij_fail(why, IJ_EFILE, "%.300s: %s", path, strerror(errno));
        else if (S_ISDIR(st.st_mode) && depth == IJ_FOLDER_DEPTH)
            s = ij_fail(why, IJ_EARG, "%.300s: folders more than %d deep", path, IJ_FOLDER_DEPTH);
        else if (S_ISDIR(st.st_mode)) s = ij_folder_walk(w, path, root, depth + 1, why);
        else if (ij_is_picture(dot)) {
            const size_t length = strlen(path + root) + 1;
            if (w->name && (w->count == w->room_names || w->bytes + length > w->room_text))
                s = ij_fail(why, IJ_EDATA, "%.300s: files were added while it was read", path);
            else if (w->name)
                w->name[w->count] = memcpy(w->text + w->bytes, path + root, length);
            w->count++;
            w->bytes += length;
        } else {
            w->others++;
            snprintf(w->other, sizeof w->other, "%.12s", dot ? dot : "other");
        }
    }
    closedir(folder);
    return s;
}

#ifdef IJEPA_MAIN
static ij_status ij_make_folder(const char *path, ij_error *why)        /* and its parents */
{
    char part[IJ_PATH] = "";
    for (size_t i = 0; path[i] && i + 1 < sizeof part; i++) {
        part[i] = path[i];
        if (path[i + 1] && path[i + 1] != '/') continue;
        if (mkdir(part, 0777) && !ij_is_folder(part))
            return ij_fail(why, IJ_EFILE, "%.300s: cannot make the folder: %s", part,
                           strerror(errno));
    }
    return IJ_OK;
}
#endif
#else
static int ij_is_folder(const char *path) { (void)path; return 0; }
/* Never called: nothing is a folder. */
static ij_status ij_folder_walk(ij_walk *w, char path[IJ_PATH], size_t root, int depth,
                                ij_error *why)
{
    (void)w;
    (void)root;
    (void)depth;
    return ij_fail(why, IJ_EFILE, "%.300s", path);
}
#ifdef IJEPA_MAIN
static ij_status ij_make_folder(const char *path, ij_error *why)
{
    return ij_fail(why, IJ_OK, "%.300s", path);
}
#endif
#endif

#ifndef IJEPA_NO_POSIX
#include <fcntl.h>
#include <unistd.h>

static int ij_replace(const char *aside, const char *path) { return rename(aside, path); }
static int ij_flush_file(FILE *f) { return fsync(fileno(f)); }
/* So that the new name survives a power cut. */
static void ij_flush_folder(const char *path)
{
    char folder[IJ_PATH];
    const int f = ij_beside(folder, path, ".", NULL) ? -1 : open(folder, O_RDONLY);
    if (f < 0) return;
    fsync(f);
    close(f);
}

#ifdef IJEPA_MAIN
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

/* Large blocks on large pages where the system has them: fewer page faults, fewer misses in the
 * address cache. */
static void *ij_new(size_t size)
{
    enum { PAGE = 2 << 20 };
    void *p = NULL;
    if (size < 2 * PAGE || posix_memalign(&p, PAGE, size)) return malloc(size);
#ifdef MADV_HUGEPAGE
    madvise(p, size, MADV_HUGEPAGE);
#endif
    return p;
}

static double ij_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The processors that this process may use: those it is bound to, and no more than its container's
 * quota pays for. */
static size_t ij_processors(void)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN);
#ifdef __linux__
    long quota, period;
    cpu_set_t set;
    if (!sched_getaffinity(0, sizeof set, &set)) n = CPU_COUNT(&set);
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "r");
    if (f && fscanf(f, "%ld %ld", &quota, &period) == 2 && period > 0)
        n = IJ_MIN(n, (quota + period - 1) / period);
    if (f) fclose(f);
#endif
    return n > 0 ? (size_t)n : 1;
}

static double ij_peak_mib(void)
{
    struct rusage u;
    return getrusage(RUSAGE_SELF, &u) ? 0 : (double)u.ru_maxrss / 1024;
}

static int ij_terminal(void) { return isatty(2) > 0; }

/* One run in a folder: the lock ends with the process, however that ends. */
static ij_status ij_lock(const char *path, ij_error *why)
{
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    const int f = open(path, O_RDWR | O_CREAT, 0666);
    if (f < 0) return ij_fail(why, IJ_EFILE, "%.300s: %s", path, strerror(errno));
    if (!fcntl(f, F_SETLK, &lock) || (errno != EACCES && errno != EAGAIN))
        return IJ_OK;               /* or a system without locks */
    close(f);
    return ij_fail(why, IJ_EFILE, "%.300s: another run writes into this folder", path);
}

/* The program's threads: they sleep until there are tasks; the caller works too. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t wake, done;
    ij_task *task;
    void *arg;
    size_t count, next, busy, round;
} ij_workers = {
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .wake = PTHREAD_COND_INITIALIZER,
    .done = PTHREAD_COND_INITIALIZER,
};

static void ij_workers_drain(void)                      /* called and returns with the lock held */
{
    while (ij_workers.next < ij_workers.count) {
        const size_t i = ij_workers.next++;
        pthread_mutex_unlock(&ij_workers.lock);
        ij_workers.task(ij_workers.arg, i);
        pthread_mutex_lock(&ij_workers.lock);
    }
}

static void *ij_worker(void *arg)
{
    size_t seen = 0;
    pthread_mutex_lock(&ij_workers.lock);
    for (;;) {
        while (ij_workers.round == seen) pthread_cond_wait(&ij_workers.wake, &ij_workers.lock);
        seen = ij_workers.round;
        ij_workers.busy++;
        ij_workers_drain();
        if (!--ij_workers.busy) pthread_cond_signal(&ij_workers.done);
    }
    return arg;
}

static void ij_workers_run(void *pool, size_t count, ij_task *task, void *arg)
{
    (void)pool;
    pthread_mutex_lock(&ij_workers.lock);
    ij_workers.task = task;
    ij_workers.arg = arg;
    ij_workers.count = count;
    ij_workers.next = 0;
    ij_workers.round++;
    pthread_cond_broadcast(&ij_workers.wake);
    ij_workers_drain();
    while (ij_workers.busy) pthread_cond_wait(&ij_workers.done, &ij_workers.lock);
    pthread_mutex_unlock(&ij_workers.lock);
}

static ij_team ij_team_start(size_t threads)
{
    pthread_t t;
    pthread_attr_t a;
    size_t started = 1;
    pthread_attr_init(&a);
    pthread_attr_setstacksize(&a, 4 << 20);     /* the packed blocks of matmul lie there */
    while (started < threads && !pthread_create(&t, &a, ij_worker, NULL)) {
        pthread_detach(t);
        started++;
    }
    pthread_attr_destroy(&a);
    return (ij_team){ started > 1 ? ij_workers_run : NULL, NULL, started };
}
#endif

#else
/* Some systems do not rename over a file. */
static int ij_replace(const char *aside, const char *path)
{
    return rename(aside, path) && (remove(path) || rename(aside, path));
}
static int ij_flush_file(FILE *f) { (void)f; return 0; }
static void ij_flush_folder(const char *path) { (void)path; }

#ifdef IJEPA_MAIN
#include <signal.h>
#include <time.h>
static void *ij_new(size_t size) { return malloc(size); }
static double ij_seconds(void) { return (double)clock() / CLOCKS_PER_SEC; }
static size_t ij_processors(void) { return 1; }
static double ij_peak_mib(void) { return 0; }
static int ij_terminal(void) { return 0; }
static ij_status ij_lock(const char *path, ij_error *why)
{
    return ij_fail(why, IJ_OK, "%.300s", path);
}
static ij_team ij_team_start(size_t threads)
{
    (void)threads;
    return (ij_team){ NULL, NULL, 1 };
}
#endif
#endif

#ifdef IJEPA_MAIN
/* Windows takes both, this file knows one. */
static void ij_slashes(int argc, char **argv)
{
#ifdef _WIN32
    for (int i = 1; i < argc; i++)
        for (char *c; (c = strchr(argv[i], '\\')) != NULL;) *c = '/';
#endif
    (void)argc;
    (void)argv;
}
#endif

/* ---- helpers of the readers ------------------------------------------------------------------ */

/* Heap sort: in place, and unlike qsort it never allocates. */
static void ij_swap(unsigned char *a, unsigned char *b, size_t size)
{
    while (size--) {
        const unsigned char t = *a;
        *a++ = *b;
        *b++ = t;
    }
}

static void ij_sort(void *base, size_t count, size_t size,
                    int (*compare)(const void *, const void *))
{
    unsigned char *x = base;
    for (size_t built = count / 2, end = count; end > 1;) {     /* x[built..end) is a heap */
        size_t at = 0;
        if (built) at = --built;
        else ij_swap(x, x + --end * size, size);
        for (size_t child; (child = 2 * at + 1) < end; at = child) {
            if (child + 1 < end && compare(x + child * size, x + (child + 1) * size) < 0) child++;
            if (compare(x + at * size, x + child * size) >= 0) break;
            ij_swap(x + at * size, x + child * size, size);
        }
    }
}

static uint64_t ij_little(const unsigned char *p, size_t bytes)
{
    uint64_t x = 0;
    while (bytes--) x = x << 8 | p[bytes];
    return x;
}

/* What a file is that was given by mistake, by its first bytes; NULL if that is not known. */
static const char *ij_foreign_format(const unsigned char *b)
{
    static const char *const known[][2] = {
        { "\x89PNG", "a PNG picture (magick FILE.png FILE.ppm)" },
        { "\xff\xd8\xff", "a JPEG picture (magick FILE.jpg FILE.ppm)" },
        { "GIF8", "a GIF picture (magick 'FILE.gif[0]' FILE.ppm)" },
        { "BM", "a BMP picture (magick FILE.bmp FILE.ppm)" },
        { "RIFF", "a WebP or other RIFF file (magick FILE.webp FILE.ppm)" },
        { "PK\x03\x04", "a zip or .pth.tar archive (README, Interchange: torch.load, save_file)" },
        { "\x80", "a Python pickle (README, Interchange: torch.load, save_file)" },
        { "\x1f\x8b", "a gzip archive (gunzip)" },
        { "\x89HDF", "an HDF5 file (h5py.File, safetensors.numpy.save_file)" },
        { "\x93NUMPY", "a NumPy file (numpy.load)" } };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!memcmp(b, known[i][0], strlen(known[i][0]))) return known[i][1];
    return NULL;
}

/* A file is written aside, as PATH.tmp, and renamed over PATH once it is whole: that holds the old
 * file or the new one, never a part. NULL: it cannot be opened. */
static FILE *ij_begin(char aside[IJ_PATH], const char *path, const char *mode, ij_error *why)
{
    FILE *f = NULL;
    if (snprintf(aside, IJ_PATH, "%s.tmp", path) >= IJ_PATH)
        ij_fail(why, IJ_EFILE, "%.200s...: the path is too long", path);
    else if (!(f = fopen(aside, mode)))
        ij_fail(why, IJ_EFILE, "%.200s: %s", aside, strerror(errno));
    return f;
}

/* Flushes, closes and renames; if that fails, nothing is left beside the old file. */
static ij_status ij_commit(FILE *f, const char *aside, const char *path, ij_error *why)
{
    int good = !ferror(f) && !fflush(f) && !ij_flush_file(f);
    good = !fclose(f) && good;
    if (!good || ij_replace(aside, path)) {
        ij_fail(why, IJ_EFILE, "%.200s: cannot be written: %s", path, strerror(errno));
        remove(aside);
        return IJ_EFILE;
    }
    ij_flush_folder(path);
    return IJ_OK;
}

/* ---- image readers ------------------------------------------------------------------------------
 * A path becomes a list of images, first of the training part and then of the test part. Only
 * names, counts and labels are kept; pixels are read when asked for. The same routine adds up
 * the memory and fills it. */

enum { IJ_TEST_SEED = 2 };      /* of scenes; training has 0, settings were chosen by 1 */
enum { IJ_PIXELS_MOST = 1 << 28 };
enum { IJ_PLANES, IJ_PLANES_BY_COLUMN, IJ_GREY };      /* how a record holds its pixels */

/* The binary sets: files of equal records, each some labels of a byte, then the pixels.
 * Another one is a row here, and the names of its files in ij_data_usual_files and, if labels
 * are in a file of their own, ij_labels_beside. */
struct ij_format {
    const char *name;
    int layout;
    size_t side;                /* 0: a header says it, and begins with image_mark */
    size_t labels;              /* in a record, the class last; 0: in a file beside */
    int coarse, first, last;    /* their values: the class first..last, one before it 0..coarse */
    const char *image_mark, *label_mark;
};
static const struct ij_format ij_formats[] = {
    { .name = "IDX", .layout = IJ_GREY, .last = 255,
      .image_mark = "\0\0\x08\x03", .label_mark = "\0\0\x08\x01" },
    { .name = "CIFAR-10", .side = 32, .labels = 1, .last = 9 },
    { .name = "CIFAR-100", .side = 32, .labels = 2, .coarse = 19, .last = 99 },
    { .name = "STL-10", .layout = IJ_PLANES_BY_COLUMN, .side = 96, .first = 1, .last = 10 } };
enum { IJ_FORMATS = sizeof ij_formats / sizeof *ij_formats };

/* From the part's numbering to that of all images. */
static size_t ij_data_at(const ij_data *d, size_t i)
{
    if (d->part == IJ_WHOLE) return i;
    if (d->pair) return d->part == IJ_TEST_PART ? d->training + i : i;
    return d->part == IJ_TEST_PART ? 10 * i + 9 : i + i / 9;
}

static void ij_data_choose(ij_data *d, int part)
{
    const size_t test = d->pair ? d->all - d->training : d->all / 10;
    d->part = part;
    d->count = d->all;
    if (part == IJ_TRAIN_PART) d->count -= test;
    if (part == IJ_TEST_PART) d->count = test;
}

/* Memory for what was found; NULL: only added up, or more was found than when that was done. */
static void *ij_data_take(ij_arena *a, size_t count, size_t each)
{
    void *p = ij_take(a, count, each);
    return a->used <= a->size ? p : NULL;
}

int ij_data_label(const ij_data *d, size_t i, size_t task)
{
    return task < d->tasks && i < d->count ? d->label[task * d->all + ij_data_at(d, i)] : -1;
}

/* -- PNM: P, a digit, width, height, maxval, one white space, raster; # begins a comment -- */

typedef struct { FILE *f; char path[2 * IJ_PATH], type; size_t width, height, most; } ij_pnm;

/* What is wrong with the picture, after its name and the place where that was found. */
static ij_status ij_pnm_fail(ij_error *why, ij_pnm *p, const char *format, ...)
{
    char text[128];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return ij_fail(why, IJ_EDATA, "%.300s: byte %ld: %s", p->path, ftell(p->f), text);
}

static int ij_is_white(int c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

static ij_status ij_pnm_number(size_t *x, ij_pnm *p, const char *what, size_t low, size_t high,
                               ij_error *why)
{
    int c;
    do {
        c = getc(p->f);
        if (c == '#')
            while (c != '\n' && c != EOF) c = getc(p->f);
    } while (ij_is_white(c));
    if (c == EOF) return ij_pnm_fail(why, p, "expected %s, found the end of the file", what);
    if (c < '0' || c > '9') return ij_pnm_fail(why, p, "expected %s, found byte 0x%02x", what, c);
    for (*x = 0; c >= '0' && c <= '9'; c = getc(p->f))
        *x = IJ_MIN(*x, SIZE_MAX / 16) * 10 + (size_t)(c - '0');
    if (*x < low || *x > high)
        return ij_pnm_fail(why, p, "%s is %.0f, expected %zu..%zu", what, (double)*x, low, high);
    if (c != EOF && c != '#' && !ij_is_white(c))
        return ij_pnm_fail(why, p, "expected white space after %s, found byte 0x%02x", what, c);
    if (c == '#') ungetc(c, p->f);
    return IJ_OK;
}

/* The picture `name` in root; NULL: root itself is one. */
static ij_status ij_pnm_open(ij_pnm *p, const char *root, const char *name, ij_error *why)
{
    unsigned char b[8] = { 0 };
    memset(p, 0, sizeof *p);
    snprintf(p->path, sizeof p->path, "%s%s%s", root, name ? "/" : "", name ? name : "");
    p->f = fopen(p->path, "rb");
    if (!p->f) return ij_fail(why, IJ_EFILE, "%.300s: %s", p->path, strerror(errno));
    const char *foreign = fread(b, 1, 8, p->f) == 8 ? ij_foreign_format(b) : NULL;
    ij_status s = IJ_OK;
    if (b[0] == 'P' && b[1] >= '1' && b[1] <= '7') p->type = (char)b[1];
    if (!p->type || !strchr("2356", p->type))
        s = ij_fail(why, IJ_EDATA,
                    "%.300s: byte 0: expected a PNM image (P2, P3, P5, P6), found %s", p->path,
                    foreign ? foreign : "something else (README says how to convert)");
    else if (fseek(p->f, 2, SEEK_SET))
        s = ij_fail(why, IJ_EFILE, "%.300s: cannot be read", p->path);
    if (!s) s = ij_pnm_number(&p->width, p, "width", 1, IJ_PIXELS_MOST, why);
    if (!s) s = ij_pnm_number(&p->height, p, "height", 1, IJ_PIXELS_MOST / p->width, why);
    if (!s) s = ij_pnm_number(&p->most, p, "maxval", 1, 65535, why);
    if (s) fclose(p->f);
    return s;
}

/* rgb [h,w,3] from the raster: values become 0..255, grey three equal channels. */
static ij_status ij_pnm_pixels(uint8_t *rgb, ij_pnm *p, ij_error *why)
{
    const int text = p->type < '5', wide = p->most > 255;
    const size_t each = p->type == '3' || p->type == '6' ? 3 : 1;
    const size_t count = p->width * p->height * each, most = p->most;
    ij_status s = IJ_OK;
    if (!text && most == 255 && each == 3) {
        const size_t got = fread(rgb, 1, count, p->f);
        if (got < count)
            s = ij_pnm_fail(why, p, "the raster ends after %zu of %zu bytes", got, count);
    } else for (size_t i = 0; i < count && !s; i++) {
        size_t v = 0;
        if (text) s = ij_pnm_number(&v, p, "a sample", 0, most, why);
        else {
            const int high = wide ? getc(p->f) : 0, low = getc(p->f);
            v = (size_t)high << 8 | (size_t)low;
            if (low == EOF)
                s = ij_pnm_fail(why, p, "the raster ends after %zu of %zu samples", i, count);
        }
        if (!s && v > most) s = ij_pnm_fail(why, p, "sample is %zu, expected 0..%zu", v, most);
        const uint8_t value = (uint8_t)((v * 255 + most / 2) / most);
        if (each == 3) rgb[i] = value;
        else memset(rgb + 3 * i, value, 3);
    }
    if (s || text) return s;
    const int more = getc(p->f);
    if (more == EOF) return IJ_OK;
    ungetc(more, p->f);
    return ij_pnm_fail(why, p, "expected the end of the file after the raster");
}

/* -- binary sets -- */

static size_t ij_big(const unsigned char *b)
{
    return (size_t)b[0] << 24 | (size_t)b[1] << 16 | (size_t)b[2] << 8 | b[3];
}

/* Whether a file of so many bytes, beginning with b, has the mark, or whole records with labels. */
static int ij_format_fits(const struct ij_format *f, FILE *stream, const unsigned char *b,
                          size_t size)
{
    const size_t record = f->labels + 3 * f->side * f->side;
    if (f->image_mark) return !memcmp(b, f->image_mark, 4);
    if (!size || size % record) return 0;
    for (size_t i = 0; i < size; i += record)
        for (size_t k = 0; k < f->labels; k++) {
            const int c = fseek(stream, (long)(i + k), SEEK_SET) ? EOF : getc(stream);
            if (c == EOF || c > (k + 1 < f->labels ? f->coarse : f->last)) return 0;
        }
    return 1;
}

/* Recognises a binary file, if it is there, by its first bytes and its size; ij_data_close closes
 * it. */
static ij_status ij_data_add_source(ij_data *d, const char *path, ij_error *why)
{
    unsigned char b[16] = { 0 };
    ij_source *s = &d->source[d->sources];
    strcpy(s->path, path);      /* shorter than IJ_PATH: ij_data_find has seen to it */
    FILE *f = s->stream = fopen(path, "rb");
    if (!f) return IJ_OK;
    d->sources++;
    const size_t got = fread(b, 1, sizeof b, f);
    const long end = fseek(f, 0, SEEK_END) ? -1 : ftell(f);
    if (end < 0 || end == LONG_MAX)         /* that is a folder's on Linux */
        return ij_fail(why, IJ_EFILE, "%.300s: cannot be read, or too large for this platform",
                       path);
    const size_t size = (size_t)end;
    size_t k = 0;
    while (k < IJ_FORMATS && !ij_format_fits(&ij_formats[k], f, b, size)) k++;
    if (k == IJ_FORMATS) {
        const char *foreign = got >= 8 ? ij_foreign_format(b) : NULL;
        return ij_fail(why, IJ_EDATA, "%.300s: %s of %zu bytes, expected PNM, CIFAR (records of "
                       "3073 or 3074 bytes with labels in range), STL-10 (27648) or IDX; README "
                       "says how to convert pictures", path, foreign ? foreign : "unknown format",
                       size);
    }
    s->format = &ij_formats[k];
    if (s->format->side) {
        s->height = s->width = s->format->side;
        s->record = s->format->labels + 3 * s->height * s->width;
        s->count = size / s->record;
    } else {
        s->start = 16;
        s->count = ij_big(b + 4);
        s->height = ij_big(b + 8);
        s->width = ij_big(b + 12);
        s->record = ij_mul(s->height, s->width);
        if (got < 16 || !s->record || s->record > IJ_PIXELS_MOST ||
            ij_mul(s->count, s->record) != size - 16)
            return ij_fail(why, IJ_EDATA, "%.300s: byte 4: IDX of %zu images of %zux%zu in a file "
                           "of %zu bytes", path, s->count, s->height, s->width,
                           size);
    }
    if (!s->count) return ij_fail(why, IJ_EDATA, "%.300s: holds no image", path);
    d->all += s->count;
    d->kind = IJ_RECORDS;
    d->name = s->format->name;
    if (s->format == d->source[0].format) return IJ_OK;
    return ij_fail(why, IJ_EDATA, "%.300s: %s beside %s", path, d->name, d->source[0].format->name);
}

/* The file of labels of an STL or IDX file: train_X.bin, train_y.bin; train-images-idx3,
 * train-labels-idx1. */
static FILE *ij_labels_beside(char path[IJ_PATH])
{
    static const char *const pair[3][2] = { { "_X.bin", "_y.bin" },
                                            { "images-idx3", "labels-idx1" },
                                            { "images.idx3", "labels.idx1" } };
    for (size_t i = 0; i < 3; i++) {
        char *at = strstr(path, pair[i][0]);
        if (!at) continue;
        memcpy(at, pair[i][1], strlen(pair[i][1]));
        return fopen(path, "rb");
    }
    return NULL;
}

/* Labels of one source. *classes 0: it has none. */
static ij_status ij_source_labels(int *label, size_t *classes, const ij_source *s, ij_error *why)
{
    const struct ij_format *format = s->format;
    char path[IJ_PATH];
    unsigned char b[8];
    ij_status status = IJ_OK;
    strcpy(path, s->path);
    *classes = format->labels ? (size_t)format->last + 1 : 0;
    FILE *f = format->labels ? s->stream : ij_labels_beside(path);
    if (!f) return IJ_OK;
    if (format->label_mark && (fread(b, 1, 8, f) != 8 || memcmp(b, format->label_mark, 4) ||
                               ij_big(b + 4) != s->count))
        status = ij_fail(why, IJ_EDATA, "%.300s: byte 0: expected IDX labels of %zu images", path,
                         s->count);
    for (size_t i = 0; i < s->count && !status; i++) {
        const long at = (long)(i * s->record + format->labels - 1);
        const int c = format->labels && fseek(f, at, SEEK_SET) ? EOF : getc(f);
        if (c < format->first || c > format->last)
            status = ij_fail(why, IJ_EDATA, "%.300s: label %zu: found %d, expected %d..%d for each "
                             "of %zu images", path, i, c, format->first, format->last,
                             s->count);
        label[i] = c - format->first;
        *classes = IJ_MAX(*classes, (size_t)label[i] + 1);
    }
    if (format->labels) return status;
    if (!status && getc(f) != EOF)
        status = ij_fail(why, IJ_EDATA, "%.300s: more labels than %zu images", path, s->count);
    fclose(f);
    return status;
}

/* Label arrays of all sources; they have labels only if each of them has. */
static ij_status ij_data_source_labels(ij_data *d, ij_arena *a, ij_error *why)
{
    size_t classes, at = 0;
    ij_status s = IJ_OK;
    d->label = ij_data_take(a, d->all, sizeof(int));
    d->tasks = 1;
    for (size_t i = 0; d->label && i < d->sources && !s; at += d->source[i++].count) {
        s = ij_source_labels(d->label + at, &classes, &d->source[i], why);
        if (!classes) d->tasks = 0;
        d->classes[0] = IJ_MAX(d->classes[0], classes);
    }
    return s;
}

/* A folder with binary files of the usual names: up to five for training, and one for tests. */
static ij_status ij_data_usual_files(ij_data *d, const char *path, ij_error *why)
{
    enum { TEST = 5 };
    static const char *const set[][TEST + 1] = {
        { "data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin",
          "data_batch_5.bin", "test_batch.bin" },
        { "train.bin", NULL, NULL, NULL, NULL, "test.bin" },
        { "train_X.bin", NULL, NULL, NULL, NULL, "test_X.bin" },
        { "unlabeled_X.bin" },
        { "train-images-idx3-ubyte", NULL, NULL, NULL, NULL, "t10k-images-idx3-ubyte" },
        { "train-images.idx3-ubyte", NULL, NULL, NULL, NULL, "t10k-images.idx3-ubyte" } };
    char at[IJ_PATH];
    for (size_t k = 0; k < sizeof set / sizeof *set && !d->sources; k++) {
        for (size_t i = 0; i <= TEST; i++) {
            if (i == TEST) d->training = d->all;
            if (!set[k][i]) continue;
            if (snprintf(at, sizeof at, "%s/%s", path, set[k][i]) >= IJ_PATH) continue;
            const ij_status s = ij_data_add_source(d, at, why);
            if (s) return s;
        }
        d->pair = d->training && d->all > d->training;
    }
    return IJ_OK;
}

/* -- folders -- */

/* The end of a name, '/', then every byte: so folders stand in the order of their names. */
static int ij_path_rank(char c)
{
    if (c == '/') return 1;
    return c ? (unsigned char)c + 1 : 0;
}

/* At most n bytes count. */
static int ij_path_order(const char *a, const char *b, size_t n)
{
    size_t i = 0;
    while (i < n && a[i] && a[i] == b[i]) i++;
    return i == n ? 0 : ij_path_rank(a[i]) - ij_path_rank(b[i]);
}

static int ij_by_name(const void *a, const void *b)
{
    return ij_path_order(*(const char *const *)a, *(const char *const *)b, SIZE_MAX);
}

/* The name of picture i below its part's folder. */
static const char *ij_name_in_part(const ij_data *d, size_t i)
{
    return d->pair ? strchr(d->file[i], '/') + 1 : d->file[i];
}

/* Classes are the first folders of the training part, in order; of the test part, the ones of
 * the same name. */
static ij_status ij_folder_labels(ij_data *d, ij_error *why)
{
    size_t classes = 0;
    size_t same = 0;    /* the first training picture not before the class of test picture i */
    for (size_t i = 0; i < d->all; i++) {
        const char *name = ij_name_in_part(d, i), *slash = strchr(name, '/');
        if (!slash) return IJ_OK;                       /* a picture outside all classes */
        const size_t n = (size_t)(slash + 1 - name);
        if (i < d->training) {
            if (!i || strncmp(name, ij_name_in_part(d, i - 1), n)) classes++;
            d->label[i] = (int)classes - 1;
            continue;
        }
        while (same < d->training && ij_path_order(ij_name_in_part(d, same), name, n) < 0) same++;
        if (same == d->training || strncmp(ij_name_in_part(d, same), name, n))
            return ij_fail(why, IJ_EDATA, "%.200s/%.200s: no training pictures of this class",
                           d->path,
                           d->file[i]);
        d->label[i] = d->label[same];
    }
    if (classes < 2) return IJ_OK;
    d->tasks = 1;
    d->classes[0] = classes;
    return IJ_OK;
}

static int ij_has_folder(const char *path, const char *name)
{
    char at[IJ_PATH];
    return snprintf(at, sizeof at, "%s%s", path, name) < IJ_PATH && ij_is_folder(at);
}

/* Walks the folder, or its training part and then its test part. */
static ij_status ij_folder_parts(ij_walk *w, ij_data *d, const char *path, ij_error *why)
{
    const char *const test = ij_has_folder(path, "/test") ? "/test" : "/val";
    d->pair = ij_has_folder(path, "/train") && ij_has_folder(path, test);
    const char *const part[2] = { d->pair ? "/train" : "", test };
    ij_status s = IJ_OK;
    for (int k = 0; k <= d->pair && !s; k++) {
        char at[IJ_PATH];
        snprintf(at, sizeof at, "%s%s", path, part[k]);
        s = ij_folder_walk(w, at, strlen(path) + 1, 0, why);
        if (!k) d->training = w->count;
    }
    return s;
}

static ij_status ij_data_folder(ij_data *d, ij_arena *a, const char *path, ij_error *why)
{
    ij_walk found = { 0 }, noted = { 0 };
    ij_status s = ij_folder_parts(&found, d, path, why);
    if (s) return s;
    if (!found.count)
        return ij_fail(why, IJ_EDATA, "%.300s: no .ppm, .pgm or .pnm file in it, but %zu others "
                       "(%s): README says how to convert", path, found.others,
                       found.others ? found.other : "none");
    d->name = "folder of PNM";
    d->all = noted.room_names = found.count;
    noted.room_text = found.bytes;
    noted.name = d->file = ij_data_take(a, d->all, sizeof *d->file);
    noted.text = ij_data_take(a, found.bytes, 1);
    d->label = ij_data_take(a, d->all, sizeof(int));
    if (!d->label) return IJ_OK;
    s = ij_folder_parts(&noted, d, path, why);
    if (s) return s;
    if (noted.count != d->all)
        return ij_fail(why, IJ_EDATA, "%.300s: files were removed while it was read", path);
    ij_sort(d->file, d->training, sizeof *d->file, ij_by_name);
    ij_sort(d->file + d->training, d->all - d->training, sizeof *d->file, ij_by_name);
    return ij_folder_labels(d, why);
}

/* -- scenes, and the door -- */

static void ij_data_scene(uint8_t *rgb, const ij_data *d, size_t at, int label[IJ_SCENE_TASKS])
{
    if (at < d->training) ij_scene(rgb, d->side, 0, at, label);
    else ij_scene(rgb, d->side, IJ_TEST_SEED, at - d->training, label);
}

static ij_status ij_data_scenes(ij_data *d, ij_arena *a, const char *path, ij_error *why)
{
    static const char *const task[IJ_SCENE_TASKS] = { "count", "dist", "kind" };
    static const size_t classes[IJ_SCENE_TASKS] = { 8, 6, 3 };
    size_t count = 10000, side = 32;
    int end = 6;
    if (path[6]) sscanf(path, "scenes:%zu%n:%zu%n", &count, &end, &side, &end);
    if (path[end] || !count || count > 100000000 || !side || side > 4096)
        return ij_fail(why, IJ_EARG, "%.60s: expected scenes, scenes:COUNT or scenes:COUNT:SIDE "
                       "with COUNT up to 100000000, SIDE up to 4096",
                       path);
    d->kind = IJ_SCENES;
    d->name = "scenes";
    d->side = side;
    d->pair = 1;
    d->training = count;
    d->all = count + (count + 3) / 4;   /* the test part: a quarter more, of another seed */
    d->tasks = IJ_SCENE_TASKS;
    memcpy(d->task, task, sizeof task);
    memcpy(d->classes, classes, sizeof classes);
    d->label = ij_take(a, ij_mul(IJ_SCENE_TASKS, d->all), sizeof(int));
    for (size_t i = 0; d->label && i < d->all; i++) {
        int label[IJ_SCENE_TASKS];
        ij_data_scene(NULL, d, i, label);
        for (size_t t = 0; t < IJ_SCENE_TASKS; t++) d->label[t * d->all + i] = label[t];
    }
    return IJ_OK;
}

static ij_status ij_data_find(ij_data *d, ij_arena *a, const char *path, ij_error *why)
{
    ij_pnm p;
    memset(d, 0, sizeof *d);
    d->kind = IJ_PICTURES;
    d->task[0] = "label";
    if (strlen(path) >= IJ_PATH)
        return ij_fail(why, IJ_EARG, "%.60s...: the path is too long", path);
    char *own = ij_take(a, strlen(path) + 1, 1);
    if (own) d->path = strcpy(own, path);
    if (!strncmp(path, "scenes", 6) && (!path[6] || path[6] == ':'))
        return ij_data_scenes(d, a, path, why);
    ij_status s = ij_data_usual_files(d, path, why);
    if (!s && !d->sources) {
        if (ij_is_folder(path)) return ij_data_folder(d, a, path, why);
        s = ij_pnm_open(&p, path, NULL, why);
        if (!s) {
            fclose(p.f);
            d->name = "PNM";
            d->all = 1;
        }
        if (p.type || !p.f) return s;
        s = ij_data_add_source(d, path, why);
    }
    return s ? s : ij_data_source_labels(d, a, why);
}

void ij_data_close(ij_data *d)
{
    for (size_t i = 0; i < d->sources; i++) fclose(d->source[i].stream);
    d->sources = 0;
}

ij_status ij_data_size(size_t *size, const char *path, ij_error *why)
{
    ij_data d;
    ij_arena a = { NULL, 0, 0 };
    ij_status s = ij_data_find(&d, &a, path, why);
    ij_data_close(&d);
    if (!s && a.used == SIZE_MAX)
        s = ij_fail(why, IJ_EMEM, "%.300s: too many images to address", path);
    *size = a.used;
    return s;
}

ij_status ij_data_open(ij_data *d, void *mem, size_t size, const char *path, int part,
                       ij_error *why)
{
    size_t need;
    ij_arena a = { mem, size, 0 };
    ij_status s = ij_data_size(&need, path, why);
    if (s) return s;
    if (!mem || size < need)
        return ij_fail(why, IJ_EMEM, "%.300s: needs %zu bytes, has %zu", path, need, size);
    s = ij_data_find(d, &a, path, why);
    if (!s && a.used > size)
        s = ij_fail(why, IJ_EDATA, "%.300s: files were added while it was read", path);
    ij_data_choose(d, d->kind == IJ_PICTURES && !d->file ? IJ_WHOLE : part);      /* one PNM file */
    if (!s && !d->count)
        s = ij_fail(why, IJ_EDATA, "%.300s: no image in the %s part", path,
                    part == IJ_TEST_PART ? "test" : "training");
    if (s) ij_data_close(d);
    return s;
}

/* One record, channel by channel. */
static ij_status ij_source_read(uint8_t *rgb, const ij_source *s, size_t at, ij_error *why)
{
    const size_t h = s->height, w = s->width, place = s->start + at * s->record + s->format->labels;
    const int grey = s->format->layout == IJ_GREY;
    int c = fseek(s->stream, (long)place, SEEK_SET) ? EOF : getc(s->stream);
    for (size_t n = 0; n < (grey ? 1 : 3) * h * w; n++, c = getc(s->stream)) {
        const size_t k = n % (h * w);
        const size_t pixel = s->format->layout == IJ_PLANES_BY_COLUMN ? k % h * w + k / h : k;
        if (c == EOF)
            return ij_fail(why, IJ_EFILE, "%.300s: image %zu cannot be read", s->path, at);
        if (grey) memset(rgb + 3 * pixel, c, 3);
        else rgb[3 * pixel + n / (h * w)] = (uint8_t)c;
    }
    return IJ_OK;
}

ij_status ij_data_read(ij_image *to, ij_data *d, size_t i, ij_error *why)
{
    ij_pnm p = { 0 };
    int label[IJ_SCENE_TASKS];
    size_t at = ij_data_at(d, i);
    const ij_source *source = d->source;
    ij_status s = IJ_OK;
    if (i >= d->count) return ij_fail(why, IJ_EARG, "%.300s: no image %zu", d->path, i);
    if (d->kind == IJ_SCENES) to->height = to->width = d->side;
    else if (d->kind == IJ_RECORDS) {
        for (; at >= source->count; source++) at -= source->count;
        to->height = source->height;
        to->width = source->width;
    } else {
        s = ij_pnm_open(&p, d->path, d->file ? d->file[at] : NULL, why);
        if (s) return s;
        to->height = p.height;
        to->width = p.width;
    }
    const size_t need = to->height * to->width * 3;
    if (to->rgb && to->size < need)
        s = ij_fail(why, IJ_EMEM, "%.300s: image %zu needs %zu bytes, has %zu", d->path, i, need,
                    to->size);
    else if (to->rgb && d->kind == IJ_SCENES) ij_data_scene(to->rgb, d, at, label);
    else if (to->rgb && d->kind == IJ_RECORDS) s = ij_source_read(to->rgb, source, at, why);
    else if (to->rgb) s = ij_pnm_pixels(to->rgb, &p, why);
    if (p.f) fclose(p.f);
    return s;
}

/* ---- augmentation -------------------------------------------------------------------------------
 * Random-resized crop, as torchvision draws it and Pillow resizes it. The paper's point is that no
 * more is needed; colours change only where settings ask for it (joint embedding needs that). */

/* One axis of Pillow's antialiased bilinear filter, to the bit: in each of `lines`, which begin
 * `stride` bytes apart, `in` steps of so many bytes become `out`. A step out is a mean of steps in,
 * weighted by a triangle, in numbers with a fixed point. */
typedef struct { size_t in, out, lines, stride; } ij_axis;

/* Steps in that make one step out, at most. */
static size_t ij_axis_most(const ij_axis *x)
{
    return (size_t)ceil(IJ_MAX((double)x->in / (double)x->out, 1)) * 2 + 1;
}

static void ij_resample(uint8_t *to, const uint8_t *from, const ij_axis *x, size_t bytes,
                        int32_t *weight)
{
    enum { BITS = 22, half = 1 << (BITS - 1) };
    const double scale = (double)x->in / (double)x->out, support = IJ_MAX(scale, 1);
    for (size_t j = 0; j < x->out; j++) {
        const double centre = ((double)j + 0.5) * scale;
        const double low = centre - support + 0.5, high = centre + support + 0.5;
        const size_t first = low > 0 ? (size_t)low : 0, taps = IJ_MIN((size_t)high, x->in) - first;
        double sum = 0;
        for (int pass = 0; pass < 2; pass++)
            for (size_t k = 0; k < taps; k++) {
                const double away = fabs(((double)(first + k) - centre + 0.5) * (1 / support));
                const double w = away < 1 ? 1 - away : 0;
                if (!pass) sum += w;
                else weight[k] = (int32_t)(0.5 + w / sum * (1 << BITS));
            }
        for (size_t line = 0; line < x->lines; line++)
            for (size_t i = 0; i < bytes; i += 3) {
                const uint8_t *in = from + line * x->stride + first * bytes + i;
                int32_t v[3] = { half, half, half };
                for (size_t k = 0; k < taps; k++)
                    for (size_t c = 0; c < 3; c++) v[c] += weight[k] * in[k * bytes + c];
                for (size_t c = 0; c < 3; c++)
                    to[(line * x->out + j) * bytes + i + c] =
                        (uint8_t)IJ_MAX(0, IJ_MIN(v[c] >> BITS, 255));
            }
    }
}

typedef struct { size_t x, y, height, width; } ij_box;

/* The box of `from` resized to the size of `to`; with an arena without memory it only adds up. */
static void ij_resize(const ij_image *to, const ij_image *from, const ij_box *b, ij_arena *a)
{
    const ij_axis across = { b->width, to->width, b->height, 3 * from->width };
    const ij_axis down = { b->height, to->height, 1, 0 };
    int32_t *weight = ij_take(a, ij_axis_most(&across) + ij_axis_most(&down), sizeof *weight);
    uint8_t *middle = ij_take(a, ij_mul(b->height, to->width), 3);
    if (!a->base) return;
    ij_resample(middle, from->rgb + (b->y * from->width + b->x) * 3, &across, 3, weight);
    ij_resample(to->rgb, middle, &down, 3 * to->width, weight);
}

/* torch's uniform_ on one float: fmaf(u, h - l, l), but not by libm's, which is wrong in places
 * (mingw, m68k under QEMU). 24 bits times 24, plus l: a double holds that sum whole unless the
 * range is under 1/64 of its end. */
static double ij_uniform_float(ij_rng *rng, double low, double high)
{
    const float l = (float)low, h = (float)high, range = h - l;
    return (double)(float)(ij_rng_uniform(rng) * (double)range + (double)l);
}

/* That box cut to the image, at least a pixel, and moved to its middle. */
static ij_box ij_central(ij_box b, const ij_image *from)
{
    b.height = IJ_MAX(IJ_MIN(b.height, from->height), 1);
    b.width = IJ_MAX(IJ_MIN(b.width, from->width), 1);
    b.y = (from->height - b.height) / 2;
    b.x = (from->width - b.width) / 2;
    return b;
}

/* torchvision's RandomResizedCrop. */
static ij_box ij_random_crop(const ij_image *from, const double scale[2], ij_rng *rng)
{
    const double height = (double)from->height, width = (double)from->width;
    ij_box b = { 0, 0, from->height, from->width };
    for (int i = 0; i < 10; i++) {
        const double part = height * width * ij_uniform_float(rng, scale[0], scale[1]);
        const double ratio = exp(ij_uniform_float(rng, log(3.0 / 4), log(4.0 / 3)));
        const double w = rint(sqrt(part * ratio)), h = rint(sqrt(part / ratio));
        if (w < 1 || h < 1 || w > width || h > height) continue;
        b.height = (size_t)h;
        b.width = (size_t)w;
        b.y = ij_rng_below(rng, from->height - b.height + 1);
        b.x = ij_rng_below(rng, from->width - b.width + 1);
        return b;
    }
    if (width / height < 3.0 / 4) b.height = (size_t)rint(width / (3.0 / 4));
    if (width / height > 4.0 / 3) b.width = (size_t)rint(height * (4.0 / 3));
    return ij_central(b, from);
}

/* The largest central box of the shape height : width. */
static ij_box ij_central_crop(const ij_image *from, size_t height, size_t width)
{
    ij_box b = { 0, 0, from->height, ij_mul(from->height, width) / height };
    if (b.width > from->width || !b.width) {
        b.width = from->width;
        b.height = from->width * height / width;
    }
    return ij_central(b, from);
}

/* A byte of channel k becomes byte * scale - shift. */
static void ij_byte_scale(real *scale, real *shift, const ij_config *c, size_t k)
{
    *scale = (real)(1 / (255 * c->std[k]));
    *shift = (real)(c->mean[k] / c->std[k]);
}

static void ij_normalise(real *planes, const ij_image *from, const ij_config *c, int flip)
{
    for (size_t k = 0; k < 3; k++) {
        real scale, shift;
        ij_byte_scale(&scale, &shift, c, k);
        for (size_t y = 0; y < from->height; y++)
            for (size_t x = 0; x < from->width; x++) {
                const size_t pixel = y * from->width + (flip ? from->width - 1 - x : x);
                *planes++ = (real)from->rgb[pixel * 3 + k] * scale - shift;
            }
    }
}

/* SimCLR's jitter, by chance 0.8, as one map: brightness, contrast and saturation times 1 -+ 0.8
 * strength, hue turned by -+ 0.2 strength of the circle around the grey axis; and, in a share
 * `gray` of images, no colour left. */
static void ij_color_jitter(uint8_t *rgb, size_t pixels, double strength, double gray, ij_rng *rng)
{
    static const double luma[3] = { 0.299, 0.587, 0.114 };
    double u[6], mean = 0;
    for (int i = 0; i < 6; i++) u[i] = ij_rng_uniform(rng);
    const double on = u[0] < 0.8 ? strength : 0;
    const double bright = 1 + 0.8 * on * (2 * u[1] - 1), contrast = 1 + 0.8 * on * (2 * u[2] - 1);
    const double chroma = u[5] < gray ? 0 : 1 + 0.8 * on * (2 * u[3] - 1);
    const double hue = 2 * IJ_PI * 0.2 * on * (2 * u[4] - 1);
    for (size_t i = 0; i < 3 * pixels; i++) mean += luma[i % 3] * rgb[i] / (double)pixels;
    for (size_t i = 0; i < pixels; i++, rgb += 3) {
        double y = 0, x[3], sum = 0;
        for (size_t k = 0; k < 3; k++) y += luma[k] * rgb[k];
        for (size_t k = 0; k < 3; k++) {
            x[k] = rgb[k] - y;
            sum += x[k] / 3;
        }
        for (size_t k = 0; k < 3; k++) {    /* hue turns what differs from the grey axis */
            const double turned = sum +
                (x[k] - sum) * cos(hue) + (x[(k + 1) % 3] - x[(k + 2) % 3]) * sin(hue) / sqrt(3);
            const double v = bright * (mean + contrast * (y + chroma * turned - mean));
            rgb[k] = (uint8_t)(IJ_MAX(0, IJ_MIN(v, 255)) + 0.5);
        }
    }
}

size_t ij_view_size(size_t height, size_t width, const ij_config *c)
{
    const ij_image from = { height, width, NULL, 0 };
    const ij_image small = { c->crop_size[0], c->crop_size[1], NULL, 0 };
    const ij_box whole = { 0, 0, height, width };
    ij_arena a = { NULL, 0, 0 };
    ij_take(&a, ij_mul(small.height, small.width), 3);
    ij_resize(&small, &from, &whole, &a);
    return a.used;
}

ij_status ij_view(ij_real *planes, const ij_image *from, const ij_config *c, ij_rng *rng,
                  void *work, size_t size, ij_error *why)
{
    const size_t h = c->crop_size[0], w = c->crop_size[1];
    const size_t need = ij_view_size(from->height, from->width, c);
    int flip = 0;
    if (!from->height || !from->width) return ij_fail(why, IJ_EARG, "a picture without pixels");
    if (!work || size < need)
        return ij_fail(why, IJ_EMEM, "a view of %zux%zu pixels needs %zu bytes, has %zu",
                       from->height, from->width, need,
                       size);
    ij_arena a = { work, size, 0 };
    const ij_image small = { h, w, ij_take(&a, ij_mul(h, w), 3), 0 };
    const ij_box box = rng ? ij_random_crop(from, c->crop_scale, rng) : ij_central_crop(from, h, w);
    ij_resize(&small, from, &box, &a);
    if (rng) {
        flip = ij_rng_uniform(rng) < 0.5 && c->use_horizontal_flip;
        if (c->color_jitter > 0 || c->gray > 0)
            ij_color_jitter(small.rgb, h * w, c->color_jitter, c->gray, rng);
    }
    ij_normalise(planes, &small, c, flip);
    return IJ_OK;
}

/* ---- built-in scenes ----------------------------------------------------------------------------
 * One to eight spheres, cubes and cylinders on a grey ground, after CLEVR: data that needs no
 * download, with the labels of the paper's low-level tasks. The camera stands at (0,0,height)
 * and looks along y, down on the ground z = 0. It rises with its distance, and objects spread
 * over the picture alike at every distance, anywhere in it: what tells how far the nearest one
 * is, is how large objects look, not where they are nor how bright a pixel is. Classes are
 * balanced. */

enum { IJ_SPHERE, IJ_CUBE, IJ_CYLINDER, IJ_OBJECTS_MOST = 8, IJ_DISTANCES = 6 };
static const double ij_nearest = 5.0, ij_distance_ratio = 1.22;
static const double ij_sight = 0.40;    /* tan of half the angle of view */

typedef struct {
    int kind;
    double x, y, size;          /* on the ground; half its height */
    double u, v;                /* in the picture, -sight..sight */
    double c, s;                /* of the angle by which it is turned */
    const double *colour;
} ij_object;
typedef struct {
    int objects;
    ij_object object[IJ_OBJECTS_MOST];
    double height, pitch, light[3], ground, bright;
} ij_world;

static double ij_pick(uint64_t *state, double low, double high)
{
    return low + (high - low) * (double)(ij_mix(state) >> 11) / 9007199254740992.0;
}

/* Apart on the ground, and apart in the picture: the eye and a patch of four pixels can tell them
 * from one another. */
static int ij_world_free(const ij_world *w, const ij_object *o, double gap)
{
    for (int i = 0; i < w->objects; i++) {
        const ij_object *p = &w->object[i];
        const double dx = o->x - p->x, dy = o->y - p->y, apart = 1.45 * (o->size + p->size);
        const double du = o->u - p->u, dv = o->v - p->v;
        if (dx * dx + dy * dy < apart * apart || du * du + dv * dv < gap * gap) return 0;
    }
    return 1;
}

static void ij_world_draw(ij_world *w, uint64_t seed, uint64_t index, int labels[IJ_SCENE_TASKS])
{
    static const double colour[8][3] = {
        { .34, .34, .34 }, { .68, .14, .14 }, { .16, .29, .84 }, { .11, .41, .08 },
        { .50, .29, .10 }, { .50, .15, .75 }, { .16, .82, .82 }, { 1, .93, .20 },
    };
    uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
    state = ij_mix(&state) + index * 0xd1342543de82ef95u;
    labels[IJ_SCENE_COUNT] = (int)(ij_mix(&state) % IJ_OBJECTS_MOST);
    labels[IJ_SCENE_DIST] = (int)(ij_mix(&state) % IJ_DISTANCES);
    const double step = labels[IJ_SCENE_DIST] + ij_pick(&state, 0, 1);
    const double near = ij_nearest * pow(ij_distance_ratio, step);
    w->pitch = ij_pick(&state, 0.85, 1.05);
    const double cp = cos(w->pitch), sp = sin(w->pitch);
    w->objects = 0;
    for (int i = 0; i <= labels[IJ_SCENE_COUNT]; i++) {
        ij_object o;
        o.kind = (int)(ij_mix(&state) % 3);
        o.colour = colour[ij_mix(&state) % 8];
        o.size = ij_pick(&state, 0.60, 0.65);
        const double turn = ij_pick(&state, 0, 2 * IJ_PI);
        o.c = cos(turn);
        o.s = sin(turn);
        double gap = 0.12;
        for (int tries = 0; tries < 4000; tries++) {    /* smaller and closer if there is no room */
            if (tries % 40 == 39) {
                o.size *= 0.96;
                gap *= 0.96;
            }
            o.u = ij_pick(&state, -0.85, 0.85) * ij_sight;
            if (i) o.v = ij_pick(&state, w->object[0].v, 0.85 * ij_sight);
            else o.v = ij_pick(&state, -0.8, 0) * ij_sight;
            const double ray = sqrt(1 + o.u * o.u + o.v * o.v), down = sp - o.v * cp;
            if (!i) w->height = o.size + near * down / ray;
            const double t = (w->height - o.size) / down;
            o.x = t * o.u;
            o.y = t * (cp + o.v * sp);
            if ((!i || t * ray > near) && ij_world_free(w, &o, gap)) break;
        }
        w->object[w->objects++] = o;
    }
    labels[IJ_SCENE_KIND] = w->object[0].kind;
    const double a = ij_pick(&state, -1, 1), b = ij_pick(&state, -1, 0.3);
    const double n = sqrt(a * a + b * b + 1.7 * 1.7);
    w->light[0] = a / n;
    w->light[1] = b / n;
    w->light[2] = 1.7 / n;
    w->ground = ij_pick(&state, 0.48, 0.52);
    w->bright = ij_pick(&state, 0.9, 1.1);
}

static double ij_dot3(const double a[3], const double b[3])
{
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

/* Nearest hit of the slabs |p| <= half along the axes from *axis to 2: the distance there and, in
 * *leave, to where it leaves; *axis becomes the one it entered by. */
static double ij_hit_slabs(const double o[3], const double d[3], double half, double *leave,
                           int *axis)
{
    double enter = -1e30;
    *leave = 1e30;
    for (int k = *axis; k < 3; k++) {
        if (fabs(d[k]) < 1e-12) {
            if (fabs(o[k]) > half) return 1e30;
            continue;
        }
        const double t1 = (-half - o[k]) / d[k], t2 = (half - o[k]) / d[k];
        if (IJ_MIN(t1, t2) > enter) {
            enter = IJ_MIN(t1, t2);
            *axis = k;
        }
        *leave = IJ_MIN(*leave, IJ_MAX(t1, t2));
    }
    return enter;
}

/* Distance along the ray to the object and the normal there; 1e30 if it is missed. */
static double ij_hit(double normal[3], const ij_object *q, const double from[3],
                     const double ray[3])
{
    const double o[3] = { from[0] - q->x, from[1] - q->y, from[2] - q->size };
    const double half = q->size, round = q->kind == IJ_SPHERE ? 1 : q->kind == IJ_CUBE ? 3 : 2;
    const double b = ij_dot3(o, ray), disc = b * b - ij_dot3(o, o) + round * half * half;
    if (disc <= 0) return 1e30;                         /* misses the bounding sphere */
    if (q->kind == IJ_SPHERE) {
        const double t = -b - sqrt(disc);
        for (int k = 0; k < 3; k++) normal[k] = (o[k] + t * ray[k]) / half;
        return t;
    }
    double leave, n[3] = { 0, 0, 0 };
    if (q->kind == IJ_CUBE) {                           /* in the cube's own axes */
        const double oo[3] = { q->c * o[0] + q->s * o[1], q->c * o[1] - q->s * o[0], o[2] };
        const double dd[3] = { q->c * ray[0] + q->s * ray[1], q->c * ray[1] - q->s * ray[0],
                               ray[2] };
        int axis = 0;
        const double t = ij_hit_slabs(oo, dd, half, &leave, &axis);
        if (t > leave) return 1e30;
        n[axis] = dd[axis] > 0 ? -1 : 1;
        normal[0] = q->c * n[0] - q->s * n[1];
        normal[1] = q->s * n[0] + q->c * n[1];
        normal[2] = n[2];
        return t;
    }
    int axis = 2;                                       /* the cylinder between its caps */
    const double cap = ij_hit_slabs(o, ray, half, &leave, &axis);
    const double a = ray[0] * ray[0] + ray[1] * ray[1], h = o[0] * ray[0] + o[1] * ray[1];
    const double c = o[0] * o[0] + o[1] * o[1] - half * half, side = h * h - a * c;
    if (side <= 0) return 1e30;
    const double enter = (-h - sqrt(side)) / a, out = (-h + sqrt(side)) / a, t = IJ_MAX(enter, cap);
    if (t > IJ_MIN(out, leave)) return 1e30;
    const int top = cap > enter;
    for (int k = 0; k < 2; k++) normal[k] = top ? 0 : (o[k] + t * ray[k]) / half;
    normal[2] = top ? (ray[2] > 0 ? -1 : 1) : 0;
    return t;
}

static void ij_world_ray(double rgb[3], const ij_world *w, const double ray[3])
{
    const double from[3] = { 0, 0, w->height };
    double best = ray[2] < -1e-9 ? -w->height / ray[2] : 1e30, n[3] = { 0, 0, 1 }, normal[3];
    const ij_object *hit = NULL;
    for (int i = 0; i < w->objects; i++) {
        const double t = ij_hit(normal, &w->object[i], from, ray);
        if (!(t > 0 && t < best)) continue;
        best = t;
        hit = &w->object[i];
        memcpy(n, normal, sizeof n);
    }
    double at[3], light = IJ_MAX(0, ij_dot3(n, w->light));
    for (int k = 0; k < 3; k++) at[k] = from[k] + ray[k] * best + n[k] * 1e-6;
    for (int i = 0; i < w->objects && light > 0; i++) {         /* shadow */
        const double t = ij_hit(normal, &w->object[i], at, w->light);
        if (t > 1e-6 && t < 1e29) light = 0;
    }
    for (int k = 0; k < 3; k++)
        rgb[k] += w->bright * (hit ? hit->colour[k] : w->ground) * (0.35 + 0.75 * light);
}

void ij_scene(uint8_t *rgb, size_t side, uint64_t seed, uint64_t index, int labels[IJ_SCENE_TASKS])
{
    enum { SAMPLES = 2 };                               /* of a pixel, in each direction */
    ij_world w;
    ij_world_draw(&w, seed, index, labels);
    const double cp = cos(w.pitch), sp = sin(w.pitch);
    const double half = (double)(side * SAMPLES) / 2;
    const double view = ij_sight / (double)(side * SAMPLES) * 2;
    for (size_t i = 0; rgb && i < side * side; i++) {
        double sum[3] = { 0, 0, 0 };
        for (size_t k = 0; k < SAMPLES * SAMPLES; k++) {
            const double x = (double)(i % side * SAMPLES + k % SAMPLES);
            const double y = (double)(i / side * SAMPLES + k / SAMPLES);
            const double u = (x + 0.5 - half) * view, v = (half - y - 0.5) * view;
            double ray[3] = { u, cp + v * sp, v * cp - sp };
            const double r = 1 / sqrt(ij_dot3(ray, ray));
            for (size_t c = 0; c < 3; c++) ray[c] *= r;
            ij_world_ray(sum, &w, ray);
        }
        for (size_t c = 0; c < 3; c++)
            rgb[3 * i + c] = (uint8_t)(255 * IJ_MIN(sum[c] / (SAMPLES * SAMPLES), 1) + 0.5);
    }
}

/* ---- safetensors -------------------------------------------------------------------------------
 *   n: 8 bytes | header: n bytes of JSON | data                      (numbers are little-endian)
 *   {"__metadata__": {"key": "text", ...},
 *    "name": {"dtype": "F32", "shape": [2,3], "data_offsets": [0,24]}, ...}
 * Offsets count from the start of the data, which the tensors tile exactly. The header is read into
 * the caller's memory and taken apart there. Strings are left as they stand between their quotes,
 * escapes and all. */

static const struct { const char *name; size_t bits; } ij_dtype[] = {
    { "F64", 64 }, { "F32", 32 }, { "F16", 16 }, { "BF16", 16 }, { "I64", 64 }, { "I32", 32 },
    { "U8", 8 },                                        /* so far in the order of IJ_F64... */
    { "BOOL", 8 }, { "I8", 8 }, { "F8_E5M2", 8 }, { "F8_E4M3", 8 }, { "F8_E8M0", 8 },
    { "F8_E4M3FNUZ", 8 }, { "F8_E5M2FNUZ", 8 }, { "I16", 16 }, { "U16", 16 }, { "U32", 32 },
    { "U64", 64 }, { "C64", 64 }, { "F4", 4 }, { "F6_E2M3", 6 },
    { "F6_E3M2", 6 } };
enum { IJ_DTYPES = sizeof ij_dtype / sizeof *ij_dtype };
enum { IJ_REAL = sizeof(real) == 8 ? IJ_F64 : IJ_F32 };
enum { IJ_HEADER_MOST = 100000000, IJ_DEPTH = 16 };

/* A zero stands behind the text and is nowhere accepted, so nothing reads past the end. The first
 * failure is kept; after it nothing more is taken, and every loop over the text ends. */
typedef struct {
    char *s, *text;
    size_t n;
    const char *path;
    ij_error *why;
    ij_status status;
} ij_json;

static void ij_json_fail(ij_json *j, const char *expected)
{
    const int c = (unsigned char)*j->s;
    const size_t at = (size_t)(j->s - j->text);
    char found[8] = "the end";
    if (j->status) return;
    if (at < j->n) snprintf(found, sizeof found, c > 32 && c < 127 ? "%c" : "0x%02x", c);
    j->status = ij_fail(j->why, IJ_EDATA,
                        "%.200s: header byte %zu: expected %s, found %s", j->path, at, expected,
                        found);
}

/* The text becomes n bytes of f from `at` on; `to` has room for one more. */
static void ij_json_read(ij_json *j, FILE *f, long at, char *to, size_t n)
{
    j->s = to;
    j->text = to;
    j->n = n;
    to[n] = 0;
    if (fseek(f, at, SEEK_SET) || fread(to, 1, n, f) != n)
        j->status = ij_fail(j->why, IJ_EFILE, "%.200s: its header cannot be read", j->path);
}

static char ij_json_peek(ij_json *j)
{
    j->s += strspn(j->s, " \t\r\n");
    return *j->s;
}

static int ij_json_take(ij_json *j, char c)
{
    if (j->status || ij_json_peek(j) != c) return 0;
    j->s++;
    return 1;
}

static void ij_json_need(ij_json *j, char c)
{
    const char want[2] = { c, 0 };
    if (!ij_json_take(j, c)) ij_json_fail(j, want);
}

/* Walks a list or an object (`ends` is "[]" or "{}"): takes what stands before element i; 0 once
 * there is none. */
static int ij_json_more(ij_json *j, const char *ends, size_t i)
{
    if (i == 0) ij_json_need(j, ends[0]);
    if (i ? ij_json_take(j, ',') : ij_json_peek(j) != ends[1]) return !j->status;
    ij_json_need(j, ends[1]);
    return 0;
}

static const char *ij_json_string(ij_json *j)
{
    ij_json_need(j, '"');
    const char *start = j->s;
    while (!j->status && *j->s != '"') {
        if ((unsigned char)*j->s < 32) ij_json_fail(j, "text without control characters");
        else j->s += *j->s == '\\' && (unsigned char)j->s[1] >= 32 ? 2 : 1;
    }
    if (j->status) return "";
    *j->s++ = 0;
    return start;
}

/* Of member i of an object, NULL once there is none. */
static const char *ij_json_key(ij_json *j, size_t i)
{
    if (!ij_json_more(j, "{}", i)) return NULL;
    const char *key = ij_json_string(j);
    ij_json_need(j, ':');
    return key;
}

/* Whole numbers; returns how many. */
static size_t ij_json_list(uint64_t x[], ij_json *j, size_t most)
{
    size_t i = 0;
    for (; ij_json_more(j, "[]", i); i++) {
        const int zero = ij_json_peek(j) == '0';
        const size_t digits = strspn(j->s, "0123456789");
        if (i == most) ij_json_fail(j, most == 2 ? "two numbers" : "at most 8 dimensions");
        else if (!digits || digits > 19 || (zero && digits > 1))
            ij_json_fail(j, "a whole number below 10^19");
        else x[i] = strtoull(j->s, &j->s, 10);
    }
    return i;
}

/* Passes over a value that means nothing here; of numbers and words only the characters count. */
static void ij_json_skip(ij_json *j, int depth)
{
    const char c = ij_json_peek(j);
    const size_t plain = strspn(j->s, "+-.0123456789eEtrufalsn");
    j->s += plain;
    if (c == '"') ij_json_string(j);
    else if (c == '{' && depth < IJ_DEPTH)
        for (size_t i = 0; ij_json_key(j, i); i++) ij_json_skip(j, depth + 1);
    else if (c == '[' && depth < IJ_DEPTH)
        for (size_t i = 0; ij_json_more(j, "[]", i); i++) ij_json_skip(j, depth + 1);
    else if (!plain) ij_json_fail(j, "a value, at most 16 levels deep");
}

static void ij_file_entry(ij_entry *e, ij_json *j, const char *name)
{
    enum { DTYPE, SHAPE, OFFSETS, OTHER };
    static const char *const field[OTHER] = { "dtype", "shape", "data_offsets" };
    uint64_t dim[8], range[2] = { 0, 0 };
    char *at[OTHER + 1] = { NULL };                     /* where each one's value stands */
    size_t ranges = 0;
    int type = 0;
    memset(e, 0, sizeof *e);
    e->name = name;
    for (size_t i = 0; (name = ij_json_key(j, i)) != NULL; i++) {
        int k = 0;
        while (k < OTHER && strcmp(name, field[k])) k++;
        if (k < OTHER && at[k]) ij_json_fail(j, "each field once");
        ij_json_peek(j);
        at[k] = j->s;
        if (k == DTYPE) e->type = ij_json_string(j);
        else if (k == SHAPE) e->rank = ij_json_list(dim, j, 8);
        else if (k == OFFSETS) ranges = ij_json_list(range, j, 2);
        else ij_json_skip(j, 0);
    }
    while (e->type && type < IJ_DTYPES && strcmp(e->type, ij_dtype[type].name)) type++;
    if (type == IJ_DTYPES) {
        j->s = at[DTYPE];
        ij_json_fail(j, "a dtype of the format");
    }
    if (!at[DTYPE] || !at[SHAPE] || ranges != 2)
        ij_json_fail(j, "dtype, shape and two data_offsets before");
    if (j->status) return;
    size_t bits = ij_dtype[type].bits;
    for (size_t i = 0; i < e->rank; i++) {
        e->dim[i] = (size_t)IJ_MIN(dim[i], SIZE_MAX);
        if (bits < SIZE_MAX) bits = ij_mul(bits, e->dim[i]);
    }
    const size_t bytes = bits % 8 ? SIZE_MAX : bits / 8;
    e->dtype = IJ_MIN(type, IJ_OTHER);
    e->count = bits / ij_dtype[type].bits;
    e->begin = range[0];
    e->end = range[1];
    if (e->end >= e->begin && e->end - e->begin == bytes) return;
    const int shape = (int)IJ_MIN(strcspn(at[SHAPE], "]") + 1, 80);
    j->status = ij_fail(j->why, IJ_EDATA, "%.200s: header byte %zu: tensor \"%.60s\": %.0f bytes "
                        "of data, shape %.*s %s needs %.0f", j->path,
                        (size_t)(at[OFFSETS] - j->text), e->name, (double)e->end - (double)e->begin,
                        shape, at[SHAPE], e->type,
                        (double)bytes);
}

static void ij_file_header(ij_file *f, ij_json *j)
{
    const char *name;
    size_t seen = 0;
    for (size_t i = 0; (name = ij_json_key(j, i)) != NULL; i++) {
        if (strcmp(name, "__metadata__")) ij_file_entry(&f->entry[f->entries++], j, name);
        else if (seen++) ij_json_fail(j, "__metadata__ once");
        else for (size_t k = 0; (name = ij_json_key(j, k)) != NULL; k++) {
            f->meta[2 * k] = name;
            f->meta[2 * k + 1] = ij_json_string(j);
            f->metas++;
        }
    }
    ij_json_peek(j);
    if (j->s < j->text + j->n) ij_json_fail(j, "the end of the header");
}

static int ij_entry_by_name(const void *a, const void *b)
{
    return strcmp(((const ij_entry *)a)->name, ((const ij_entry *)b)->name);
}

static int ij_entry_by_place(const void *a, const void *b)
{
    const ij_entry *x = a, *y = b;
    const uint64_t i = x->begin + x->end, k = y->begin + y->end;    /* an empty one comes first */
    return i < k ? -1 : i > k;
}

/* No name twice, and sorted by place the tensors tile the data. */
static ij_status ij_file_tiles(ij_file *f, uint64_t data, ij_error *why)
{
    ij_entry *e = f->entry;
    uint64_t at = 0;
    ij_sort(e, f->entries, sizeof *e, ij_entry_by_name);
    for (size_t i = 1; i < f->entries; i++)
        if (!ij_entry_by_name(&e[i - 1], &e[i]))
            return ij_fail(why, IJ_EDATA,
                           "%.200s: header: tensor \"%.60s\" is there twice", f->path,
                           e[i].name);
    ij_sort(e, f->entries, sizeof *e, ij_entry_by_place);
    for (size_t i = 0; i < f->entries; at = e[i++].end)
        if (e[i].begin != at)
            return ij_fail(why, IJ_EDATA, "%.200s: header: tensor \"%.60s\" begins at data byte "
                           "%.0f, expected %.0f", f->path, e[i].name, (double)e[i].begin,
                           (double)at);
    if (at == data) return IJ_OK;
    return ij_fail(why, IJ_EDATA,
                   "%.200s: %.0f bytes of data, the header says %.0f", f->path, (double)data,
                   (double)at);
}

/* Opens the file; finds where its data begins, and how many bytes that has. */
static ij_status ij_file_start(ij_file *f, uint64_t *data, ij_error *why)
{
    static const char shards[] =
        "JSON (shards become one file by IJepaModel.from_pretrained(\"DIR\")"
        ".save_pretrained(\"NEW\", max_shard_size=\"99GB\"))";
    unsigned char b[9] = { 0 };
    FILE *s = fopen(f->path, "rb");
    const size_t got = s ? fread(b, 1, 9, s) : 0;
    const long end = !s || ferror(s) || fseek(s, 0, SEEK_END) ? -1 : ftell(s);
    const uint64_t n = ij_little(b, 8), size = (uint64_t)end;
    const int header = got == 9 && n <= IJ_HEADER_MOST && b[8] == '{';
    f->stream = s;
    f->data = 8 + n;
    *data = size - f->data;
    if (end < 0)
        return ij_fail(why, IJ_EFILE, "%.200s: cannot be read: %s", f->path, strerror(errno));
    if (header && f->data <= size) return IJ_OK;
    const char *found = ij_foreign_format(b);
    if (*b == 'P' && b[1] > '0' && b[1] < '8') found = "a PNM picture";
    if (!found && header) found = "a file cut short";
    if (!found) found = *b == '{' ? shards : "something else";
    return ij_fail(why, IJ_EDATA, "%.200s: byte 0: expected safetensors, found %s (header of "
                   "%.17g bytes, file of %ld)", f->path, found, (double)n,
                   end);
}

/* Of Hugging Face's config.json only the heads, and the sides of images that are not square, are
 * not in the tensors' shapes; what we compute is not "relu" or "vit". */
static void ij_file_config(ij_file *f, ij_json *j)
{
    static const struct { const char *name, *value, *expected; } text[] = {
        { "model_type", "\"ijepa\"", "model_type \"ijepa\"" },
        { "hidden_act", "\"gelu\"", "hidden_act \"gelu\"" } };
    const char *name;
    for (size_t i = 0; (name = ij_json_key(j, i)) != NULL; i++) {
        const char c = ij_json_peek(j);
        char *const at = j->s;
        if (!strcmp(name, "num_attention_heads")) f->heads = (size_t)strtoul(at, NULL, 10);
        if (!strcmp(name, "layer_norm_eps") && strtod(at, NULL) > 1e-5)
            ij_json_fail(j, "layer_norm_eps of at most 1e-5");
        for (size_t k = 0; k < 2 && c == '"'; k++)
            if (!strcmp(name, text[k].name) && strncmp(at, text[k].value, strlen(text[k].value)))
                ij_json_fail(j, text[k].expected);
        if (strcmp(name, "image_size") || c != '[') ij_json_skip(j, 0);
        else if (ij_json_list(f->image, j, 2) != 2 || !f->image[1]) ij_json_fail(j, "two numbers");
    }
}

static int ij_file_kind(const ij_file *f)
{
    static const char patch[] = "ijepa.embeddings.patch_embeddings.projection.weight";
    if (ij_file_meta(f, "ijepa")) return IJ_KIND_IJEPA;
    const int there = ij_file_find(f, patch) || ij_file_find(f, patch + strlen("ijepa."));
    return there ? IJ_KIND_HUGGING_FACE : IJ_KIND_NONE;
}

/* The table lies in mem: the shortest tensor takes 50 bytes of the header, the shortest pair of
 * metadata 6. */
static ij_status ij_file_load(ij_file *f, void *mem, size_t size, size_t *need, const char *path,
                              ij_error *why)
{
    char beside[IJ_PATH];
    uint64_t data;
    ij_json j = { NULL, NULL, 0, path, why, IJ_OK };
    memset(f, 0, sizeof *f);
    f->path = path;
    j.status = ij_beside(beside, path, "config.json", why);
    if (!j.status) j.status = ij_file_start(f, &data, why);
    if (j.status) return j.status;
    FILE *config = fopen(beside, "rb");
    const long end = config && !fseek(config, 0, SEEK_END) ? ftell(config) : 0;
    const size_t n = (size_t)f->data - 8;
    const size_t more = end > 0 && end < IJ_HEADER_MOST ? (size_t)end : 0;
    const size_t entries = n / 50 + 1, metas = n / 6 + 1;
    *need = entries * sizeof *f->entry + 2 * metas * sizeof *f->meta + n + more + 2;
    if (*need > size)
        j.status = ij_fail(why, IJ_EMEM, "%.200s needs %zu bytes, has %zu", path, *need, size);
    else {
        f->entry = mem;
        f->meta = (const char **)(void *)(f->entry + entries);
        char *text = (char *)(f->meta + 2 * metas);
        ij_json_read(&j, f->stream, 8, text, n);
        ij_file_header(f, &j);
        if (!j.status) j.status = ij_file_tiles(f, data, why);
        if (!j.status) f->kind = ij_file_kind(f);
        if (f->kind == IJ_KIND_HUGGING_FACE && more) {
            j.path = beside;
            ij_json_read(&j, config, 0, text + n + 1, more);
            ij_file_config(f, &j);
        }
    }
    if (config) fclose(config);
    return j.status;
}

ij_status ij_file_size(size_t *size, const char *path, ij_error *why)
{
    ij_file f;
    const ij_status s = ij_file_load(&f, NULL, 0, size, path, why);
    ij_file_close(&f);
    return s == IJ_EMEM ? IJ_OK : s;
}

ij_status ij_file_open(ij_file *f, void *mem, size_t size, const char *path, ij_error *why)
{
    size_t need;
    const ij_status s = ij_file_load(f, mem, size, &need, path, why);
    if (s) ij_file_close(f);
    return s;
}

void ij_file_close(ij_file *f)
{
    if (f->stream) fclose(f->stream);
    memset(f, 0, sizeof *f);
}

/* Of a key given twice the last, as in Python. */
const char *ij_file_meta(const ij_file *f, const char *key)
{
    for (size_t i = f->metas; i-- > 0;)
        if (!strcmp(f->meta[2 * i], key)) return f->meta[2 * i + 1];
    return NULL;
}

const ij_entry *ij_file_find(const ij_file *f, const char *name)
{
    for (size_t i = 0; i < f->entries; i++)
        if (!strcmp(f->entry[i].name, name)) return &f->entry[i];
    return NULL;
}

static int ij_little_endian(void)
{
    const uint16_t one = 1;
    return *(const unsigned char *)&one;
}

static double ij_number(int dtype, uint64_t bits)
{
    const uint32_t half = (uint32_t)bits, e = half >> 10 & 31, m = half & 1023;
    uint32_t word = half;
    double wide;
    float narrow;
    if (dtype == IJ_BF16) word = half << 16;
    if (dtype == IJ_F16) word = (e < 31 ? e + 112 : 255) << 23 | m << 13;       /* but for e = 0 */
    memcpy(&wide, &bits, sizeof wide);
    memcpy(&narrow, &word, sizeof narrow);
    switch (dtype) {
    case IJ_F64: return wide;
    case IJ_F32: case IJ_BF16: return (double)narrow;
    case IJ_F16: wide = e ? (double)narrow : m / 16777216.0; return half >> 15 ? -wide : wide;
    case IJ_I64: return (double)(int64_t)bits;
    case IJ_I32: return (double)(int32_t)word;
    default: return (double)bits;
    }
}

ij_status ij_file_read(ij_real *to, const ij_file *f, const ij_entry *e, ij_error *why)
{
    unsigned char buffer[8192];
    const uint64_t at = f->data + e->begin;
    if (e->dtype == IJ_OTHER)
        return ij_fail(why, IJ_EDATA,
                       "%.200s: tensor \"%.60s\": dtype %s is not read", f->path, e->name,
                       e->type);
    const size_t size = ij_dtype[e->dtype].bits / 8;
    if (at > LONG_MAX || fseek(f->stream, (long)at, SEEK_SET))
        return ij_fail(why, IJ_EFILE, "%.200s: byte %.0f cannot be reached", f->path, (double)at);
    const int same = e->dtype == IJ_REAL && ij_little_endian();     /* straight into its place */
    for (size_t i = 0, n; i < e->count; i += n) {
        n = same ? e->count : IJ_MIN(sizeof buffer / size, e->count - i);
        if (fread(same ? (void *)to : buffer, size, n, f->stream) != n)
            return ij_fail(why, IJ_EFILE,
                           "%.200s: tensor \"%.60s\" cannot be read: the file ends", f->path,
                           e->name);
        for (size_t k = 0; k < n && !same; k++)
            to[i + k] = (real)ij_number(e->dtype, ij_little(buffer + k * size, size));
    }
    return IJ_OK;
}

typedef struct { const char *name; int dtype; size_t rank, dim[8]; const void *data; } ij_item;

static void ij_put_data(FILE *f, const ij_item *item)
{
    unsigned char buffer[8192];
    const size_t size = ij_dtype[item->dtype].bits / 8;
    const size_t mirror = ij_little_endian() ? 0 : size - 1;    /* turns each number's bytes */
    const unsigned char *data = item->data;
    size_t bytes = size;
    for (size_t k = 0; k < item->rank; k++) bytes *= item->dim[k];
    for (size_t i = 0, n = 0; i < bytes && !ferror(f); n = 0) {
        for (; n < sizeof buffer && i < bytes; i++, n++) buffer[n] = data[i ^ mirror];
        fwrite(buffer, 1, n, f);
    }
}

/* ---- checkpoints -------------------------------------------------------------------------------
 * encoder.* target_encoder.* predictor.* opt.m.* opt.v.* under the reference's names; settings,
 * step and the state of the mask generator as metadata. What is drawn for crops and order follows
 * from seed and step. Tensors lie in the order of the reference's state dicts, by which README's
 * Python numbers the optimizer's state. */

/* A parameter's tensors: their parts of the file, and where they are in the model. Of a model that
 * does not train there is only the target encoder's. */
typedef struct { const char *part; ij_tensor t; } ij_place;

/* Returns how many. */
static size_t ij_param_places(ij_place to[4], const ij_model *m, const ij_param *p)
{
    static const char *const part[2][3] = { { "encoder", "opt.m.encoder", "opt.v.encoder" },
                                            { "predictor", "opt.m.predictor", "opt.v.predictor" } };
    real *const x[3] = { m->weight, m->adam_m, m->adam_v };
    size_t n = 0;
    for (size_t k = 0; k < 4; k++) to[k].t = p->shape;
    if (!p->predictor) {
        to[n].part = "target_encoder";
        to[n++].t.x = m->target + p->offset;
    }
    for (size_t k = 0; k < 3 && m->training; k++) {
        to[n].part = part[p->predictor][k];
        to[n++].t.x = x[k] + p->offset;
    }
    return n;
}

static ij_tensor ij_pos_table(const ij_tensor *pos)     /* [1,N,D] of [N,D] */
{
    const ij_tensor t = { pos->x, 3, { 1, pos->dim[0], pos->dim[1], 0 } };
    return t;
}

/* The tensors are passed twice: rows of the header, then their data. end: bytes of data so far */
typedef struct { FILE *f; int data; size_t end; } ij_saving;

static void ij_save_tensor(ij_saving *s, const char *part, const char *name, const ij_tensor *t)
{
    ij_item item = { name, IJ_REAL, t->rank, { 0 }, t->x };
    memcpy(item.dim, t->dim, sizeof t->dim);
    if (s->data) {
        ij_put_data(s->f, &item);
        return;
    }
    fprintf(s->f, ",\"%s.%s\":{\"dtype\":\"%s\",\"shape\":[", part, name, ij_dtype[IJ_REAL].name);
    for (size_t k = 0; k < t->rank; k++) fprintf(s->f, k ? ",%zu" : "%zu", t->dim[k]);
    fprintf(s->f, "],\"data_offsets\":[%zu,", s->end);
    s->end += ij_count(t) * sizeof(real);
    fprintf(s->f, "%zu]}", s->end);
}

static void ij_save_tensors(ij_saving *s, const ij_model *m)
{
    const ij_tensor pos = ij_pos_table(&m->encoder_pos);
    const ij_tensor predictor_pos = ij_pos_table(&m->predictor_pos);
    if (m->training) {
        ij_save_tensor(s, "encoder", "pos_embed", &pos);
        ij_save_tensor(s, "target_encoder", "pos_embed", &pos);
    }
    for (size_t i = 0; i < m->params; i++) {
        ij_place place[4];
        const size_t n = ij_param_places(place, m, &m->param[i]);
        for (size_t k = 0; k < n; k++) {
            ij_save_tensor(s, place[k].part, m->param[i].name, &place[k].t);
            if (i == m->encoder_params && k == 0)
                ij_save_tensor(s, "predictor", "predictor_pos_embed", &predictor_pos);
        }
    }
}

ij_status ij_save(const ij_model *m, const char *path, ij_error *why)
{
    char aside[IJ_PATH], text[IJ_TEXT];
    if (m->micro % m->config.accumulate)
        return ij_fail(why, IJ_EARG,
                       "%.200s: a checkpoint between the passes of one update would lose gradients",
                       path);
    if (m->params > IJ_HEADER_MOST / 1000)
        return ij_fail(why, IJ_EARG,
                       "%.200s: %zu parameters are more than a header has room for", path,
                       m->params);
    FILE *f = ij_begin(aside, path, "wb", why);
    if (!f) return IJ_EFILE;
    ij_saving s = { f, 0, 0 };
    fprintf(f, "%8s{\"__metadata__\":{\"format\":\"pt\"", "");      /* its length is known later */
    for (size_t i = 0; i < IJ_SETTINGS; i++) {
        ij_config_text(text, &m->config, i);
        fprintf(f, ",\"%s\":\"%s\"", ij_setting[i].name, text);
    }
    fprintf(f, ",\"ijepa\":\"1\"");
    if (m->training) {
        fprintf(f, ",\"step\":\"%.0f\",\"mask_rng\":\"", (double)m->step);
        for (size_t i = 0; i < 624; i++) fprintf(f, "%08x", (unsigned)m->mask_rng.state[i]);
        fprintf(f, "%08x\"", (unsigned)m->mask_rng.at);
    }
    fprintf(f, "}");
    ij_save_tensors(&s, m);
    fprintf(f, "}");
    for (long n = ftell(f); n % 8 > 0; n++) fputc(' ', f);      /* so that the data is aligned */
    const uint64_t header = (uint64_t)(ftell(f) - 8);
    s.data = 1;
    ij_save_tensors(&s, m);
    fseek(f, 0, SEEK_SET);
    for (int i = 0; i < 64; i += 8) fputc((int)(header >> i & 255), f);
    return ij_commit(f, aside, path, why);
}

/* Our names, those of Hugging Face's files, and what transformers 5 has in memory: qkv is three. */
static const char *const ij_hf[][3] = {
    { "patch_embed.proj.", "embeddings.patch_embeddings.projection.", NULL },
    { "norm.", "layernorm.", NULL },
    { "norm1.", "layernorm_before.", NULL }, { "norm2.", "layernorm_after.", NULL },
    { "attn.qkv.", "attention.attention.%s.", "attention.%.1s_proj." },
    { "attn.proj.", "attention.output.dense.", "attention.o_proj." },
    { "mlp.fc1.", "intermediate.dense.", "mlp.fc1." }, { "mlp.fc2.", "output.dense.", "mlp.fc2." },
    { "pos_embed", "embeddings.position_embeddings", NULL } };

static void ij_hf_name(char to[128], const char *name, size_t third, int memory)
{
    static const char *const qkv[3] = { "query", "key", "value" };
    size_t block = 0;
    int used = 0, n = 0;
    to[0] = 0;
    if (sscanf(name, "blocks.%zu.%n", &block, &used) == 1)
        n = snprintf(to, 128, memory ? "layers.%zu." : "encoder.layer.%zu.", block);
    for (size_t i = 0; i < sizeof ij_hf / sizeof *ij_hf; i++) {
        const size_t k = strlen(ij_hf[i][0]);
        if (strncmp(name + used, ij_hf[i][0], k)) continue;
        n += snprintf(to + n, 40, ij_hf[i][memory && ij_hf[i][2] ? 2 : 1], qkv[third]);
        snprintf(to + n, 20, "%.16s", name + used + k);
    }
}

/* Tensor part.name; in a Hugging Face file, of one encoder, by its name there; third: of qkv */
static const ij_entry *ij_find_named(const ij_file *f, const char *part, const char *name,
                                     size_t third)
{
    char full[144], hf[128];
    const ij_entry *e = NULL;
    snprintf(full, sizeof full, "%s.%s", part, name);
    if (f->kind != IJ_KIND_HUGGING_FACE) return ij_file_find(f, full);
    for (int i = 0; i < 4 && !e; i++) {
        ij_hf_name(hf, name, third, i / 2);
        snprintf(full, sizeof full, "%s%s", i % 2 ? "ijepa." : "", hf);
        e = ij_file_find(f, full);
    }
    return e;
}

static size_t ij_dim(const ij_file *f, const char *name, size_t i)      /* 0: no such tensor */
{
    const ij_entry *e = ij_find_named(f, "encoder", name, 0);
    return e && e->rank > i ? e->dim[i] : 0;
}

/* Sizes from the shapes of a Hugging Face file's tensors; the image is square where its sides are
 * not given. */
static ij_status ij_load_sizes(ij_config *c, const ij_file *f, ij_error *why)
{
    const size_t n = ij_dim(f, "pos_embed", 1), hidden = ij_dim(f, "blocks.0.mlp.fc1.weight", 0);
    char name[64];
    size_t side = 0;
    c->embed_dim = ij_dim(f, "patch_embed.proj.weight", 0);
    c->patch_size = ij_dim(f, "patch_embed.proj.weight", 2);
    if (!c->embed_dim || !c->patch_size || c->embed_dim > 1 << 20 || c->patch_size > 1 << 16)
        return ij_fail(why, IJ_EDATA, "%.200s: the patch embedding's shape is not [D,3,p,p]",
                       f->path);
    if (!f->heads)
        return ij_fail(why, IJ_EDATA,
                       "%.200s: num_attention_heads must be in a config.json beside it",
                       f->path);
    c->num_heads = f->heads;
    while (side * side < n && side < 1 << 16) side++;
    c->crop_size[0] = f->image[1] ? (size_t)f->image[0] : side * c->patch_size;
    c->crop_size[1] = f->image[1] ? (size_t)f->image[1] : side * c->patch_size;
    const size_t gh = ij_gh(c), gw = ij_gw(c);
    if (!n || !gw || n % gw || n / gw != gh)
        return ij_fail(why, IJ_EDATA, "%.200s: %zu positions, expected %s (a class token is not "
                       "I-JEPA's)", f->path, n,
                       f->image[1] ? "those of image_size" : "a square of patches");
    const double d = (double)c->embed_dim;
    c->mlp_ratio = (double)hidden / d;
    if (ij_hidden(c) != hidden) c->mlp_ratio = ((double)hidden + 0.5) / d;
    c->pred_emb_dim = c->embed_dim;                     /* there is no predictor: any that fits */
    c->depth = 0;
    do snprintf(name, sizeof name, "blocks.%zu.norm1.weight", c->depth++);
    while (ij_dim(f, name, 0));
    c->depth--;
    return IJ_OK;
}

/* A setting that the file does not have keeps its default. */
ij_status ij_load_config(ij_config *c, const ij_file *f, ij_error *why)
{
    ij_error inner;
    const char *version = ij_file_meta(f, "ijepa");
    ij_status s = IJ_OK;
    *c = ij_config_default();
    if (f->kind == IJ_KIND_NONE)
        return ij_fail(why, IJ_EDATA, "%.200s: no I-JEPA: neither metadata \"ijepa\" nor "
                       "Hugging Face's patch embedding",
                       f->path);
    if (f->kind == IJ_KIND_HUGGING_FACE) s = ij_load_sizes(c, f, why);
    if (s) return s;
    if (version && strcmp(version, "1"))
        return ij_fail(why, IJ_EDATA, "%.200s: checkpoint version %.20s, expected 1", f->path,
                       version);
    for (size_t i = 0; i <= IJ_SETTINGS && version; i++) {
        const char *name = i < IJ_SETTINGS ? ij_setting[i].name : ij_gone;
        const char *value = ij_file_meta(f, name);
        if (value && ij_config_set(c, name, value, &inner))
            return ij_fail(why, IJ_EDATA, "%.200s: metadata: %.250s", f->path, inner.text);
    }
    if (!ij_config_check(c, &inner)) return IJ_OK;
    return ij_fail(why, IJ_EDATA, "%.200s: %.250s", f->path, inner.text);
}

/* Checks one tensor's shape and, if `read`, reads it into t. */
static ij_status ij_load_tensor(const ij_tensor *t, const ij_file *f, const char *part,
                                const char *name, int read, ij_error *why)
{
    const size_t pieces = f->kind == IJ_KIND_HUGGING_FACE && strstr(name, "qkv") ? 3 : 1;
    ij_status s = IJ_OK;
    for (size_t k = 0; k < pieces && !s; k++) {
        const ij_entry *e = ij_find_named(f, part, name, k);
        if (!e) return ij_fail(why, IJ_EDATA, "%.200s: no tensor %s.%s", f->path, part, name);
        int same = e->rank == t->rank && e->dtype != IJ_OTHER;
        for (size_t i = 0; same && i < e->rank; i++)
            same = e->dim[i] == t->dim[i] / (i ? 1 : pieces);
        if (!same)
            return ij_fail(why, IJ_EDATA, "%.200s: tensor %.90s: %s of %zu numbers, rank %zu, "
                           "expected %zu numbers, rank %zu", f->path, e->name, e->type, e->count,
                           e->rank, ij_count(t) / pieces,
                           t->rank);
        if (read) s = ij_file_read(t->x + k * e->count, f, e, why);
    }
    return s;
}

/* Every shape is checked before the first number is read. encoder: what becomes the target's */
static ij_status ij_load_tensors(ij_model *m, const ij_file *f, const char *encoder, ij_error *why)
{
    ij_status s = IJ_OK;
    for (size_t i = 0; i < 2 * m->params && !s; i++) {
        const ij_param *p = &m->param[i % m->params];
        ij_place place[4];
        const size_t n = ij_param_places(place, m, p);
        if (!p->predictor) place[0].part = encoder;
        for (size_t k = 0; k < n && !s; k++)
            s = ij_load_tensor(&place[k].t, f, place[k].part, p->name, i >= m->params, why);
    }
    return s;
}

/* Positions of a Hugging Face file: where they are not the sines and cosines, images must have its
 * size. */
static ij_status ij_load_positions(ij_model *m, const ij_file *f, ij_error *why)
{
    const ij_tensor pos = ij_pos_table(&m->file_pos);
    double most = 0;
    const ij_status s = ij_load_tensor(&pos, f, "encoder", "pos_embed", 1, why);
    for (size_t i = 0; i < ij_count(&pos) && !s; i++) {
        const double d = fabs((double)(pos.x[i] - m->encoder_pos.x[i]));
        if (!(d <= most)) most = d;
    }
    if (!(most <= 1e-4)) m->target_encoder.pos = m->file_pos;
    return s;
}

ij_status ij_load_encoder(ij_model *m, const ij_file *f, const char *part, ij_error *why)
{
    if (m->training)
        return ij_fail(why, IJ_EARG, "%.200s: one encoder does not make a model that trains",
                       f->path);
    const ij_status s = ij_load_tensors(m, f, part, why);
    return !s && f->kind == IJ_KIND_HUGGING_FACE ? ij_load_positions(m, f, why) : s;
}

/* m has been initialised with the file's settings. Without the mask generator's state in the file
 * it stays as seeded. */
ij_status ij_load(ij_model *m, const ij_file *f, ij_error *why)
{
    const char *step = ij_file_meta(f, "step"), *rng = ij_file_meta(f, "mask_rng");
    uint32_t state[625];
    double steps;
    if (!m->training || f->kind == IJ_KIND_HUGGING_FACE)
        return ij_load_encoder(m, f, "target_encoder", why);
    if (!step || sscanf(step, "%lf", &steps) != 1 || !(steps >= 0 && steps < 9e15))
        return ij_fail(why, IJ_EDATA, "%.200s: step is %.40s, expected a number", f->path,
                       step ? step : "absent");
    for (size_t i = 0; i < 625 && rng; i++) {
        unsigned word;
        const int hex = strlen(rng) == 625 * 8 && sscanf(rng + 8 * i, "%8x", &word) == 1;
        if (!hex || (i == 624 && word > 624))
            return ij_fail(why, IJ_EDATA,
                           "%.200s: metadata: mask_rng is not 625 words in hexadecimal",
                           f->path);
        state[i] = word;
    }
    const ij_status s = ij_load_tensors(m, f, "target_encoder", why);
    if (s) return s;
    if (rng) {
        memcpy(m->mask_rng.state, state, sizeof m->mask_rng.state);
        m->mask_rng.at = state[624];
    }
    m->step = (uint64_t)steps;
    m->micro = m->step * m->config.accumulate;
    return IJ_OK;
}

/* ---- evaluation --------------------------------------------------------------------------------
 * What are frozen features worth? k-NN learns nothing; ridge regression to one-hot labels has one
 * solution. Rows below n are for training, the m above for testing. Tasks vote side by side:
 * [classes of task 0 | classes of task 1 | ..] */

void ij_standardise(ij_real *train, size_t n, ij_real *test, size_t m, size_t d)
{
    for (size_t c = 0; n && c < d; c++) {
        const double first = (double)train[c];      /* from here, a constant gives exact zeros */
        double sum = 0, square = 0;
        for (size_t i = 0; i < n; i++) {
            const double e = (double)train[i * d + c] - first;
            sum += e;
            square += e * e;
        }
        const double mean = sum / (double)n, variance = square / (double)n - mean * mean;
        const double scale = variance > 0 ? 1 / sqrt(variance) : 0;
        for (size_t i = c; i < n * d; i += d)
            train[i] = (real)(((double)train[i] - first - mean) * scale);
        for (size_t i = c; i < m * d; i += d)
            test[i] = (real)(((double)test[i] - first - mean) * scale);
    }
}

static const real *ij_row(const ij_scored *s, size_t i)
{
    return i < s->n ? s->train + i * s->d : s->test + (i - s->n) * s->d;
}

static int ij_label(const ij_scored *s, size_t t, size_t i)
{
    return i < s->n ? s->train_label[t][i] : s->test_label[t][i - s->n];
}

enum { IJ_BLOCK = 64, IJ_TILE = 4, IJ_WIDE = 8 };   /* rows at once; the tile of ij_gram_task */
typedef struct {
    const ij_scored *s;
    size_t columns;                 /* classes in all */
    size_t terms, width;            /* ridge, padded: 1 + D, 1 + D + columns */
    size_t first, step;             /* the present block: rows first, first + step, ... */
    double *z, *right;              /* [block,width] these rows or their votes; [tasks] right */
    real *similar;                  /* k-NN: [block,n] similarities, soon the k highest */
    size_t *near, k;                /* [block,n] and their training rows; k is 0 for ridge */
    double temperature, *inverse;   /* [n+m] 1 / length of each row */
    double *gram, *factor, n;       /* ridge: [terms,width] each; rows in gram */
} ij_probe_work;

static ij_status ij_probe_place(size_t *used, ij_probe_work *w, ij_arena a, const ij_scored *s,
                                size_t k, ij_error *why)
{
    const size_t cap = SIZE_MAX / 4;                    /* sums cannot wrap, products saturate */
    const size_t pairs = k ? ij_mul(IJ_BLOCK, s->n) : 0;
    w->s = s;
    w->k = k;
    w->columns = 0;
    w->n = 0;
    w->terms = (IJ_MIN(s->d, cap) / IJ_WIDE + 1) * IJ_WIDE;
    for (size_t t = 0; t < s->tasks; t++) w->columns += IJ_MIN(s->classes[t], cap - w->columns);
    w->width = ((w->terms + w->columns + IJ_WIDE - 1) / IJ_WIDE | 1) * IJ_WIDE;
    const size_t square = k ? 0 : ij_mul(w->terms, w->width);
    w->z = ij_take(&a, ij_mul(IJ_BLOCK, w->width), sizeof(double));
    w->right = ij_take(&a, s->tasks, sizeof(double));
    w->near = ij_take(&a, pairs, sizeof(size_t));
    w->similar = ij_take(&a, pairs, sizeof(real));
    w->inverse = ij_take(&a, k ? s->n + s->m : 0, sizeof(double));
    w->gram = ij_take(&a, square, sizeof(double));
    w->factor = ij_take(&a, square, sizeof(double));
    *used = a.used;
    if (a.used < SIZE_MAX) return IJ_OK;
    return ij_fail(why, IJ_EMEM, "features and classes: the bytes needed overflow");
}

ij_status ij_knn_size(size_t *size, const ij_scored *s, ij_error *why)
{
    ij_probe_work w;
    return ij_probe_place(size, &w, (ij_arena){ NULL, 0, 0 }, s, 1, why);
}

ij_status ij_ridge_size(size_t *size, const ij_scored *s, ij_error *why)
{
    ij_probe_work w;
    return ij_probe_place(size, &w, (ij_arena){ NULL, 0, 0 }, s, 0, why);
}

/* Checks labels, features and the size of work, then lays it out: for k-NN, or with k = 0 for
 * ridge. */
static ij_status ij_probe_open(ij_probe_work *w, ij_memory work, const ij_scored *s, size_t k,
                               ij_error *why)
{
    size_t need;
    if (!s->n || !s->m || !s->d || !s->tasks)
        return ij_fail(why, IJ_EARG, "%zu training rows, %zu test rows, %zu channels, "
                       "%zu tasks: expected 1 or more", s->n, s->m, s->d,
                       s->tasks);
    for (size_t i = 0; i < s->n + s->m; i++) {
        const char *part = i < s->n ? "training" : "test";
        const size_t at = i < s->n ? i : i - s->n;
        for (size_t t = 0; t < s->tasks; t++)
            if ((size_t)ij_label(s, t, i) >= s->classes[t])             /* a negative one is huge */
                return ij_fail(why, IJ_EARG, "%s row %zu, task %zu: label %d, expected 0 or more, "
                               "below %zu", part, at, t, ij_label(s, t, i),
                               s->classes[t]);
        for (size_t c = 0; c < s->d; c++)
            if (!isfinite(ij_row(s, i)[c]))
                return ij_fail(why, IJ_EARG, "%s row %zu: channel %zu is not finite", part, at, c);
    }
    if (ij_probe_place(&need, w, (ij_arena){ NULL, 0, 0 }, s, k, why)) return IJ_EMEM;
    if (!work.base || work.size < need) return ij_needs(why, need, work.size);
    return ij_probe_place(&need, w, (ij_arena){ work.base, work.size, 0 }, s, k, why);
}

/* right[t] = how many of the rows first, first + step, ... below end have most votes (of equals:
 * the lowest class) for their label. vote(w, i) writes the votes of a block's row i to row i of z.
 */
static void ij_count_right(ij_probe_work *w, size_t first, size_t end, size_t step, ij_task *vote,
                           const ij_team *team)
{
    const ij_scored *s = w->s;
    memset(w->right, 0, s->tasks * sizeof *w->right);
    for (w->first = first, w->step = step; w->first < end; w->first += IJ_BLOCK * step) {
        const size_t rows = IJ_MIN(IJ_BLOCK, (end - w->first + step - 1) / step);
        const ij_product p = {
            .m = rows, .n = s->n, .k = s->d,
            .a = ij_row(s, w->first), .a_row = s->d, .a_col = 1,
            .b = s->train, .b_row = 1, .b_col = s->d,
            .c = w->similar, .c_row = s->n,
        };
        if (w->k) ij_matmul(&p, team);
        ij_each(team, rows, vote, w);
        for (size_t i = 0; i < rows; i++) {
            const double *votes = w->z + i * w->width;
            for (size_t t = 0; t < s->tasks; votes += s->classes[t++]) {
                size_t best = 0;
                for (size_t c = 1; c < s->classes[t]; c++) best = votes[c] > votes[best] ? c : best;
                w->right[t] += best == (size_t)ij_label(s, t, w->first + i * step);
            }
        }
    }
}

static void ij_knn_vote(void *arg, size_t index)
{
    const ij_probe_work *w = arg;
    const ij_scored *s = w->s;
    real *similar = w->similar + index * s->n;
    size_t *near = w->near + index * s->n, have = 0;
    double *votes = w->z + index * w->width;
    for (size_t i = 0; i < s->n; i++) {                 /* of equals the lower row comes first */
        const real x = (real)((double)similar[i] * w->inverse[i] * w->inverse[w->first + index]);
        if (have == w->k && !(x > similar[have - 1])) continue;
        size_t at = have < w->k ? have++ : have - 1;
        for (; at && x > similar[at - 1]; at--) {
            similar[at] = similar[at - 1];
            near[at] = near[at - 1];
        }
        similar[at] = x;
        near[at] = i;
    }
    memset(votes, 0, w->columns * sizeof *votes);
    for (size_t t = 0; t < s->tasks; votes += s->classes[t++])
        for (size_t i = 0; i < have; i++) {             /* less the best one, against overflow */
            const double gap = (double)similar[i] - (double)similar[0];
            votes[ij_label(s, t, near[i])] += exp(gap / w->temperature);
        }
}

ij_status ij_knn(double *accuracy, const ij_scored *s, size_t k, double temperature, ij_memory work,
                 const ij_team *team, ij_error *why)
{
    ij_probe_work w = { .temperature = temperature };
    if (!k || !(temperature > 0))
        return ij_fail(why, IJ_EARG, "k is %zu, temperature %g: expected both above 0", k,
                       temperature);
    const ij_status status = ij_probe_open(&w, work, s, k, why);
    if (status) return status;
    for (size_t i = 0; i < s->n + s->m; i++) {
        double square = 0;
        const real *x = ij_row(s, i);
        for (size_t c = 0; c < s->d; c++) square += (double)x[c] * (double)x[c];
        w.inverse[i] = square > 0 ? 1 / sqrt(square) : 0;
    }
    ij_count_right(&w, s->n, s->n + s->m, 1, ij_knn_vote, team);
    for (size_t t = 0; t < s->tasks; t++) accuracy[t] = w.right[t] / (double)s->m;
    return IJ_OK;
}

/* Ridge, in double. A row becomes z = [1 | x | one-hot labels]; the sums Z'Z hold all that the fit
 * needs. With lambda n on the diagonal of x, Cholesky's elimination centres (its first row) and
 * leaves [R | right], where R W = right. `terms` = 1 + D rows of `width` numbers, upper triangle.
 * Both are padded with zeros, terms to a multiple of IJ_WIDE, width to an odd multiple, lest the
 * numbers of a column crowd into few cache sets. */
typedef struct {
    double *to, sign;
    const double *from;
    size_t depth, begin, terms, width;
} ij_gram_work;

/* to[i][j] += sign * sum over k < depth of from[k][i] from[k][j], for rows i of a block and j from
 * its first row on. */
static void ij_gram_task(void *arg, size_t index)
{
    const ij_gram_work *g = arg;
    const size_t first = g->begin + index * IJ_BLOCK, end = IJ_MIN(first + IJ_BLOCK, g->terms);
    const size_t width = g->width;
    for (size_t j = first; j < width; j += IJ_WIDE)
        for (size_t i = first; i < end; i += IJ_TILE) {
            double sum[IJ_TILE][IJ_WIDE] = { { 0 } };
            const double *a = g->from + i, *b = g->from + j;
            for (size_t k = 0; k < g->depth; k++, a += width, b += width)
                for (size_t r = 0; r < IJ_TILE; r++)
                    for (size_t c = 0; c < IJ_WIDE; c++) sum[r][c] += a[r] * b[c];
            for (size_t r = 0; r < IJ_TILE; r++)
                for (size_t c = 0; c < IJ_WIDE; c++)
                    g->to[(i + r) * width + j + c] += g->sign * sum[r][c];
        }
}

/* Adds every fifth training row (held), or all others, to gram = Z'Z. */
static void ij_ridge_add(ij_probe_work *w, int held, const ij_team *team)
{
    const ij_scored *s = w->s;
    ij_gram_work g = { w->gram, 1, w->z, 0, 0, w->terms, w->width };
    for (size_t i = 0; i <= s->n; i++) {
        if (g.depth == IJ_BLOCK || i == s->n) {
            ij_each(team, (w->terms + IJ_BLOCK - 1) / IJ_BLOCK, ij_gram_task, &g);
            g.depth = 0;
        }
        if (i == s->n || (i % 5 == 4) != held) continue;
        double *z = w->z + g.depth++ * w->width, *hot = z + w->terms;
        memset(z, 0, w->width * sizeof *z);
        z[0] = 1;
        w->n++;
        for (size_t c = 0; c < s->d; c++) z[1 + c] = (double)ij_row(s, i)[c];
        for (size_t t = 0; t < s->tasks; hot += s->classes[t++]) hot[ij_label(s, t, i)] = 1;
    }
}

/* Leaves R and, in the label columns, W in factor. 0 if the matrix is not positive definite. */
static int ij_ridge_solve(ij_probe_work *w, double lambda, const ij_team *team)
{
    const size_t terms = w->terms, width = w->width;
    double *r = w->factor;
    memcpy(r, w->gram, terms * width * sizeof *r);
    for (size_t i = 1; i < terms; i++) r[i * width + i] += lambda * w->n;
    for (size_t first = 0, end; first < terms; first = end) {   /* rows of R and their effect */
        end = IJ_MIN(first + IJ_BLOCK, terms);
        for (size_t i = first; i < end; i++) {
            for (size_t k = first; k < i; k++)
                for (size_t j = i; j < width; j++)
                    r[i * width + j] -= r[k * width + i] * r[k * width + j];
            const double root = sqrt(r[i * width + i]);
            if (!(root > 0 && root <= DBL_MAX)) return 0;
            for (size_t j = i; j < width; j++) r[i * width + j] /= root;
        }
        ij_gram_work g = { r, -1, r + first * width, end - first, end, terms, width };
        ij_each(team, (terms - end + IJ_BLOCK - 1) / IJ_BLOCK, ij_gram_task, &g);
    }
    for (size_t i = terms; i-- > 0;) {                  /* R W = right, from the last row up */
        for (size_t k = i + 1; k < terms; k++)
            for (size_t j = terms; j < width; j++)
                r[i * width + j] -= r[i * width + k] * r[k * width + j];
        for (size_t j = terms; j < width; j++) r[i * width + j] /= r[i * width + i];
    }
    return 1;
}

static void ij_ridge_vote(void *arg, size_t index)
{
    const ij_probe_work *w = arg;
    const real *x = ij_row(w->s, w->first + index * w->step);
    double *votes = w->z + index * w->width;
    memcpy(votes, w->factor + w->terms, w->columns * sizeof *votes);     /* the bias */
    for (size_t k = 0; k < w->s->d; k++)
        for (size_t c = 0; c < w->columns; c++)
            votes[c] += (double)x[k] * w->factor[(k + 1) * w->width + w->terms + c];
}

ij_status ij_ridge(double *accuracy, double *chosen, const ij_scored *s, ij_memory work,
                   const ij_team *team, ij_error *why)
{
    static const double lambda[] = { 1e-4, 1e-3, 1e-2, 1e-1, 1, 10 };
    const size_t grid = sizeof lambda / sizeof *lambda;
    ij_probe_work w;
    const ij_status status = ij_probe_open(&w, work, s, 0, why);
    if (status) return status;
    memset(w.gram, 0, w.terms * w.width * sizeof *w.gram);
    for (size_t fit = 0; fit < grid + s->tasks; fit++) {    /* each lambda; then each task */
        const int last = fit >= grid;
        const double tried = last ? chosen[fit - grid] : lambda[fit];
        if (fit == 0 || fit == grid) ij_ridge_add(&w, last, team);
        if (!ij_ridge_solve(&w, tried, team))
            return ij_fail(why, IJ_EARG,
                           "X'X with lambda %g is not positive definite: standardise features",
                           tried);
        if (last) ij_count_right(&w, s->n, s->n + s->m, 1, ij_ridge_vote, team);
        else ij_count_right(&w, 4, s->n, 5, ij_ridge_vote, team);
        for (size_t t = 0; t < s->tasks; t++)
            if (last ? t == fit - grid : !fit || w.right[t] > accuracy[t]) {
                accuracy[t] = w.right[t];
                chosen[t] = tried;
            }
    }
    for (size_t t = 0; t < s->tasks; t++) accuracy[t] /= (double)s->m;
    return IJ_OK;
}

/* ---- is it learning? ---------------------------------------------------------------------------
 * A falling loss says little: in small images a patch's position alone predicts most of a fresh
 * encoder's target, and the EMA follows what is learnt. So the loss is held against the best guess
 * that knows nothing but the position. */

size_t ij_watch_size(const ij_config *c)    /* a model that fits memory has far more activations */
{
    const size_t row = ij_patches(c) * ij_target_dim(c);
    return (row + ij_target_dim(c)) * sizeof(double) + c->batch_size * row * sizeof(real);
}

/* Skill of a joint embedding: against the mean of the other images' targets. want [B,P], place [P]
 * becomes the sum of their directions */
static void ij_watch_joint(ij_health *h, const real *want, size_t batch, size_t d, double *place)
{
    double guess = 0;
    for (int pass = 0; pass < 2; pass++)
        for (size_t b = 0; b < batch; b++) {
            const real *t = want + b * d;
            double tt = 1e-24, mm = 1e-24, mt = 0;
            for (size_t i = 0; i < d; i++) tt += (double)t[i] * (double)t[i];
            for (size_t i = 0; i < d; i++) {
                const double unit = (double)t[i] / sqrt(tt), others = place[i] - unit;
                if (!pass) place[i] += unit;
                mm += others * others;
                mt += others * unit;
            }
            if (pass) guess += (2 - 2 * mt / sqrt(mm)) / (double)batch;
        }
    h->skill = guess > 0 ? 1 - h->loss / guess : 0;
}

/* Position and skill from want [B,N,D], D = ij_target_dim(). place [N+1,D]: mean of each patch; of
 * them all */
static void ij_watch_patches(ij_health *h, const ij_config *c, const real *want,
                             const ij_masks *masks, double scale, double *place)
{
    const size_t d = ij_target_dim(c), n = ij_patches(c), row = n * d;
    const size_t batch = masks->target.lists / c->num_pred_masks;
    const double others = (double)batch / (double)(batch - 1);     /* no guess may know its image */
    double *mean = place + row, within = 0, all = 0, guess = 0;
    for (size_t i = 0; i < batch * row; i++) place[i % row] += (double)want[i] / (double)batch;
    for (size_t i = 0; i < row; i++) mean[i % d] += place[i] / (double)n;
    for (size_t i = 0; i < batch * row; i++) {
        const double e = (double)want[i] - place[i % row], f = (double)want[i] - mean[i % d];
        within += e * e;
        all += f * f;
    }
    for (size_t t = 0; t < masks->target.lists; t++)
        for (size_t j = 0; j < masks->target.length[t] * d; j++) {
            const size_t at = masks->target.index[t * masks->target.stride + j / d] * d + j % d;
            const real e = (real)(((double)want[t % batch * row + at] - place[at]) * others);
            real slope;
            guess += (double)ij_loss_term(&slope, e, c->loss) * (double)c->num_enc_masks * scale;
        }
    h->skill = guess > 0 ? 1 - h->loss / guess : 0;
    h->position = all > 0 ? 1 - within * others / all : 1;
}

ij_status ij_watch(ij_health *h, ij_real *pooled, ij_model *m, const ij_real *images,
                   const ij_masks *masks, ij_memory work, ij_error *why)
{
    const ij_config *c = &m->config;
    const ij_team *team = &m->team;
    const size_t d = ij_target_dim(c), row = ij_patches(c) * d;
    const size_t batch = masks->target.lists / c->num_pred_masks;
    double *place = work.base;                          /* [N+1,D] */
    ij_step s;
    if (batch < 2 || batch > c->batch_size)
        return ij_fail(why, IJ_EARG, "%zu images to watch, expected 2..%zu (batch_size)", batch,
                       c->batch_size);
    if (work.size < ij_watch_size(c)) return ij_needs(why, ij_watch_size(c), work.size);
    real *want = (real *)(place + row + d);             /* [B,N,D] of every patch */
    memset(h, 0, sizeof *h);
    memset(place, 0, (row + d) * sizeof *place);
    for (size_t first = 0; first < batch; first += s.predictor.part.images) {
        const ij_status status = ij_step_begin(&s, m, images, masks, first, why);
        if (status) return status;
        ij_encode_targets(&s, team);
        ij_encode_context(&s, team);
        ij_predict(&s, team);
        h->loss += ij_loss(&s, team);
        if (c->objective == IJ_GENERATIVE)              /* a step needs only pixels */
            ij_each(team, s.target.stack.seqs.pieces, ij_encoder_task, &s.target);
        ij_pool(pooled + first * c->embed_dim, &s.target.stack, s.predictor.part.images);
        const ij_tensor *t = s.joint.on ? &s.joint.target.y : s.loss.target;
        if (s.joint.on) memcpy(want + first * d, t->x, ij_count(t) * sizeof(real));
        else ij_normalise_rows(want + first * row, t->x, ij_rows(t), d, 0);
    }
    if (c->objective == IJ_JOINT) ij_watch_joint(h, want, batch, d, place);
    else ij_watch_patches(h, c, want, masks, s.loss.scale, place);
    return IJ_OK;
}

/* Mean cosine of all pairs of rows. */
static double ij_mean_cosine(const real *z, size_t n, size_t d, double *work)
{
    double square = 0, own = 0;
    memset(work, 0, d * sizeof *work);
    for (size_t i = 0; i < n; i++) {
        double length = 0;
        for (size_t c = 0; c < d; c++) length += (double)z[i * d + c] * (double)z[i * d + c];
        own += length > 0;
        length = sqrt(IJ_MAX(length, 1e-300));
        for (size_t c = 0; c < d; c++) work[c] += (double)z[i * d + c] / length;
    }
    for (size_t c = 0; c < d; c++) square += work[c] * work[c];
    /* all pairs, less each with itself; without any length all are alike */
    return own > 0 ? (square - own) / (own * IJ_MAX(own - 1, 1)) : 1;
}

static void ij_rotate(double *x, double *y, size_t stride, size_t n, double cosine, double sine)
{
    for (size_t i = 0; i < n * stride; i += stride) {
        const double xi = x[i];
        x[i] = cosine * xi - sine * y[i];
        y[i] = sine * xi + cosine * y[i];
    }
}

/* Eigenvalues of a symmetric g [k,k], left on its diagonal, by Jacobi rotations: each clears one
 * pair of off-diagonal numbers. Rows of v, if given, become the eigenvectors. */
static void ij_jacobi(double *g, double *v, size_t k)
{
    double trace = 0, off = 1;
    for (size_t i = 0; i < k; i++) trace += g[i * k + i];
    for (size_t i = 0; v && i < k * k; i++) v[i] = i % (k + 1) == 0;
    for (int sweep = 0; sweep < 40 && off > 1e-28 * trace * trace; sweep++) {
        off = 0;
        for (size_t p = 0; p < k; p++)
            for (size_t q = p + 1; q < k; q++) {
                const double pq = g[p * k + q];
                off += pq * pq;
                if (fabs(pq) <= 1e-18 * trace) continue;
                const double a = (g[q * k + q] - g[p * k + p]) / (2 * pq);
                const double t = (a < 0 ? -1 : 1) / (fabs(a) + sqrt(a * a + 1));
                const double cosine = 1 / sqrt(t * t + 1), sine = t * cosine;
                ij_rotate(g + p, g + q, k, k, cosine, sine);            /* columns, then rows */
                ij_rotate(g + p * k, g + q * k, 1, k, cosine, sine);
                if (v) ij_rotate(v + p * k, v + q * k, 1, k, cosine, sine);
            }
    }
}

/* RankMe (Garrido et al., ICML 2023): exp of the entropy of z's singular values, 1..min(n,D). Their
 * squares are the eigenvalues of z'z (or zz', if smaller). z [n,D] is not centred; work: min(n,D)^2
 * doubles */
static ij_status ij_rankme(double *rank, const real *z, size_t n, size_t d, ij_memory work,
                           ij_error *why)
{
    const size_t k = IJ_MIN(n, d), sum = IJ_MAX(n, d), row = n < d ? d : 1, col = n < d ? 1 : d;
    const size_t need = ij_mul(ij_mul(k, k), sizeof(double));
    double *g = work.base, total = 0;
    if (work.size < need) return ij_needs(why, need, work.size);
    memset(g, 0, need);
    for (size_t r = 0; r < sum; r++)
        for (size_t i = 0; i < k; i++)
            for (size_t j = 0; j < k; j++)
                g[i * k + j] += (double)z[i * row + r * col] * (double)z[j * row + r * col];
    ij_jacobi(g, NULL, k);
    *rank = 0;
    for (size_t i = 0; i < k; i++) total += sqrt(IJ_MAX(g[i * k + i], 0));
    for (size_t i = 0; i < k; i++) {
        const double share = (total > 0 ? sqrt(IJ_MAX(g[i * k + i], 0)) / total : 0) + 1e-7;
        *rank -= share * log(share);
    }
    *rank = exp(*rank);
    return IJ_OK;
}

ij_status ij_watch_features(ij_health *h, const ij_real *pooled, size_t n, size_t d, ij_memory work,
                            ij_error *why)
{
    const ij_tensor all = { (real *)pooled, 2, { n, d, 0, 0 } };
    if (n < 2) return ij_fail(why, IJ_EARG, "features of %zu images, expected 2 or more", n);
    if (work.size / sizeof(double) < d) return ij_needs(why, ij_mul(d, sizeof(double)), work.size);
    h->images = n;
    h->cosine = ij_mean_cosine(pooled, n, d, work.base);
    h->feature_std = ij_feature_std(&all);
    return ij_rankme(&h->rank, pooled, n, d, work, why);
}

/* The bounds lie between runs that learnt and runs made to collapse: README, "Training on small
 * data". */
const char *ij_verdict(const ij_health *h, int objective, int warm)
{
    const int few = h->images < 64;                     /* rank counts at most the images */
    const int learns = !warm || h->skill > 0.1;
    if (objective == IJ_GENERATIVE && warm && h->skill > 0.02)
        return "healthy";               /* pixels do not follow the encoder: nothing to collapse */
    if (!(h->cosine < 0.85) || (!few && !(h->rank > 3)))
        return "collapsing: the features of all images are nearly the same; try a slower EMA "
               "(from 0.996); a larger --patch_init_std; --vicreg 0.1 or a lower --lr";
    if (!learns && h->position > 0.5)
        return "collapsing: only where a patch lies is predicted; try a larger --patch_init_std; "
               "less weight decay or --vicreg 0.1";
    if (!learns)
        return "collapsing: predictions are no better than the mean; try a lower --lr; "
               "--clip_grad 1 or larger target blocks";
    if (h->cosine > 0.75 || (!few && h->rank < 5))
        return "warning: the features of different images are much alike; if rank goes on falling "
               "try a slower EMA or a lower --lr";
    if (!warm) return "too early to say: the learning rate is still rising";
    if (h->skill < 0.2)
        return "warning: predictions are hardly better than the mean; train on or try a lower --lr";
    return few ? "healthy as far as fewer than 64 images tell" : "healthy";
}

#ifdef IJEPA_MAIN
/* Scores [n,parts] of z [n,D] along its principal components, each with its largest number
 * positive. work: 2 D^2 + D doubles */
static ij_status ij_pca(real *scores, size_t parts, const real *z, size_t n, size_t d,
                        ij_memory work, ij_error *why)
{
    const size_t need = ij_mul(ij_mul(d, 2 * d + 1), sizeof(double));
    if (!n || parts > d)
        return ij_fail(why, IJ_EARG, "%zu components of %zu rows of %zu channels", parts, n, d);
    if (work.size < need) return ij_needs(why, need, work.size);
    double *g = work.base, *v = g + d * d, *m = v + d * d;
    memset(g, 0, need);
    for (size_t i = 0; i < n * d; i++) m[i % d] += (double)z[i] / (double)n;
    for (size_t r = 0; r < n; r++)
        for (size_t i = 0; i < d; i++)
            for (size_t j = 0; j < d; j++)
                g[i * d + j] += ((double)z[r * d + i] - m[i]) * ((double)z[r * d + j] - m[j]);
    ij_jacobi(g, v, d);
    for (size_t k = 0; k < parts; k++) {
        size_t best = 0, high = 0;
        for (size_t i = 1; i < d; i++)
            if (g[i * d + i] > g[best * d + best]) best = i;
        for (size_t c = 1; c < d; c++)
            if (fabs(v[best * d + c]) > fabs(v[best * d + high])) high = c;
        const double sign = v[best * d + high] < 0 ? -1 : 1;
        g[best * d + best] = -1;
        for (size_t r = 0; r < n; r++) {
            double sum = 0;
            for (size_t c = 0; c < d; c++)
                sum += ((double)z[r * d + c] - m[c]) * sign * v[best * d + c];
            scores[r * parts + k] = (real)sum;
        }
    }
    return IJ_OK;
}

/* ---- PNG ---------------------------------------------------------------------------------------
 * Pixels unpacked, in a zlib stream of stored blocks: larger than packed, and short. */

static void ij_put_big(uint8_t *to, size_t x)           /* four bytes, the highest first */
{
    for (size_t i = 0; i < 4; i++) to[i] = (uint8_t)(x >> (24 - 8 * i));
}

static uint8_t *ij_png_chunk(uint8_t *to, const char *type, const uint8_t *x, size_t n)
{
    uint32_t crc = 0xffffffffu;
    ij_put_big(to, n);
    memcpy(to + 4, type, 4);
    if (n) memmove(to + 8, x, n);
    for (size_t i = 4; i < n + 8; i++) {
        crc ^= to[i];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    ij_put_big(to + n + 8, ~crc);
    return to + n + 12;
}

static size_t ij_png_size(size_t height, size_t width)  /* SIZE_MAX: of nothing, or beyond 2 GB */
{
    const size_t pixels = ij_mul(height, width), raw = ij_mul(pixels, 3) + height;
    if (!pixels || pixels > 0x7f000000 / 3 || raw > 0x7f000000) return SIZE_MAX;
    return raw + (raw / 65535 + 1) * 5 + 6 + 8 + 25 + 12 + 12;
}

/* rgb [h,w,3] as a file in memory: `to` has room for ij_png_size() bytes; returns how many. */
static size_t ij_png(uint8_t *to, const uint8_t *rgb, size_t height, size_t width)
{
    uint8_t head[13] = { 0, 0, 0, 0, 0, 0, 0, 0, 8, 2, 0, 0, 0 };
    const size_t row = 3 * width + 1, raw = height * row;
    uint8_t *const start = to;
    uint32_t a = 1, b = 0;                              /* Adler-32 */
    ij_put_big(head, width);
    ij_put_big(head + 4, height);
    memcpy(to, "\x89PNG\r\n\x1a\n", 8);
    to = ij_png_chunk(to + 8, "IHDR", head, sizeof head);
    uint8_t *z = to + 8;                                /* made where the chunk will have it */
    *z++ = 0x78;
    *z++ = 1;
    for (size_t i = 0; i < raw; i++) {
        const size_t left = IJ_MIN(raw - i, 65535);
        if (i % 65535 == 0) {
            *z++ = raw - i <= 65535;
            for (int k = 0; k < 4; k++) *z++ = (uint8_t)((k < 2 ? left : ~left) >> k % 2 * 8);
        }
        *z = i % row ? rgb[i / row * 3 * width + i % row - 1] : 0;
        a = (a + *z++) % 65521;
        b = (b + a) % 65521;
    }
    ij_put_big(z, b << 16 | a);
    to = ij_png_chunk(to, "IDAT", to + 8, (size_t)(z + 4 - to - 8));
    return (size_t)(ij_png_chunk(to, "IEND", NULL, 0) - start);
}

#endif

#endif
/* ---- without a system --------------------------------------------------------------------------
 * The encoder for one image, from constants, in little memory: heads one after another,
 * IJ_ROM_ROWS patches at a time. The chains of multiply-adds are those of ij_block_forward. */

/* Each row of w [out,in] as whole numbers up to 127 times a scale. */
static void ij_quantise(int8_t *q, real *scale, const real *w, size_t out, size_t in)
{
    const real half = (real)0.5;
    for (size_t o = 0; o < out; o++, w += in, q += in) {
        real most = 0;
        for (size_t i = 0; i < in; i++) most = IJ_MAX(most, w[i] < 0 ? -w[i] : w[i]);
        const real inverse = most > (real)1e-30 && most < (real)1e30 ? 127 / most : 0;
        for (size_t i = 0; i < in; i++)
            q[i] = (int8_t)(w[i] * inverse + (w[i] < 0 ? -half : half));
        scale[o] = inverse > 0 ? most / 127 : 0;
    }
}

static size_t ij_rom_arena(const ij_rom *m)
{
    const size_t p = m->patch, n = (m->height / p) * (m->width / p);
    return IJ_ROM_ARENA(n, m->dim, m->heads, m->hidden, 3 * p * p, m->int8);
}

static char *ij_put_number(char *to, size_t x)
{
    size_t unit = 1;
    while (x / unit > 9) unit *= 10;
    for (; unit; unit /= 10) *to++ = (char)('0' + x / unit % 10);
    return to;
}

/* Without stdio; in text the first # stands for need, the second for have. */
static ij_status ij_too_small(ij_error *why, const char *text, size_t need, size_t have)
{
    char *to = why ? why->text : NULL;
    for (; to && *text; text++) {
        if (*text != '#') {
            *to++ = *text;
            continue;
        }
        to = ij_put_number(to, need);
        need = have;
    }
    if (to) *to = 0;
    return IJ_EMEM;
}

/* x, y [N,D]  kv [N,2dh]  norm [R,D]  stat: a row's mean and 1/std  part: what one step of R rows
 * needs  wide: R rows of an int8 matrix */
typedef struct { const ij_rom *m; real *x, *y, *kv, *norm, *stat, *part, *wide; } ij_rom_pass;

/* Without floating-point hardware the rows of x are rounded to 8 bits as well, to meet int8
 * matrices in whole numbers. */
#if defined(__SOFTFP__) || (defined(__riscv) && !defined(__riscv_flen)) || \
    defined(IJEPA_ROM_INTEGER)
enum { IJ_ROM_INTEGER = 1 };
#else
enum { IJ_ROM_INTEGER = 0 };
#endif

/* Rows o0.., columns i0.. of a matrix [..,cols]; rows of the result are y_row apart. */
typedef struct { size_t cols, o0, outs, i0, in, y_row; } ij_rom_part;

/* y [rows,outs] = b + x W', or, with columns that are not the first, y += x W'.  x [rows,in] */
static void ij_rom_linear(real *wide, real *y, const real *x, size_t rows, const ij_rom_matrix *w,
                          const ij_rom_part *k)
{
    const size_t at = k->o0 * k->cols + k->i0, in = k->in;
    ij_product p = { rows, k->outs, in, x, in, 1, wide, 1, in, y, k->y_row, y, k->y_row };
    if (!k->i0) {
        p.start = w->b + k->o0;
        p.start_row = 0;
    }
    if (!w->q) {
        p.b = w->w + at;
        p.b_col = k->cols;
        ij_matmul(&p, NULL);
        return;
    }
    const real *scale = w->scale + k->o0;
    const int8_t *q = w->q + at;
    if (IJ_ROM_INTEGER) {
        int8_t *xq = (int8_t *)wide;
        real x_scale[IJ_ROM_ROWS];
        ij_quantise(xq, x_scale, x, rows, in);
        for (size_t o = 0; o < k->outs; o++, q += k->cols)
            for (size_t r = 0; r < rows; r++) {
                const int8_t *b = xq + r * in;
                int32_t sum = 0;
                for (size_t i = 0; i < in; i++) sum += q[i] * b[i];
                y[r * p.c_row + o] = p.start[r * p.start_row + o] +
                                     (real)sum * (scale[o] * x_scale[r]);
            }
        return;
    }
    for (size_t o = 0; o < k->outs; o += p.n, p.c += p.n, p.start += p.n) {
        p.n = IJ_MIN((size_t)IJ_ROM_ROWS, k->outs - o);
        for (size_t r = 0; r < p.n; r++, q += k->cols)
            for (size_t i = 0; i < in; i++) wide[r * in + i] = (real)q[i] * scale[o + r];
        ij_matmul(&p, NULL);
    }
}

static void ij_rom_norm(const ij_rom_pass *s, real *y, const real *x, size_t rows, const real *w,
                        const real *b)
{
    const size_t d = s->m->dim;
    for (real *stat = s->stat; rows--; x += d, y += d) {
        ij_moments(stat, stat + 1, x, d, IJ_NORM_EPS);
        for (size_t i = 0; i < d; i++) y[i] = (x[i] - stat[0]) * stat[1] * w[i] + b[i];
    }
}

static void ij_rom_block_forward(const ij_rom_pass *s, const ij_rom_block *w, size_t n)
{
    const size_t d = s->m->dim, dh = d / s->m->heads, f = s->m->hidden;
    real *q = s->part, *o = q + IJ_ROM_ROWS * dh, *prob = o + IJ_ROM_ROWS * dh, *hidden = s->part;
    const ij_rom_part fc1 = { d, 0, f, 0, d, f }, fc2 = { f, 0, d, 0, f, d };
    for (size_t at = 0; at < d; at += dh) {             /* columns of one head */
        const ij_rom_part to_q = { d, at, dh, 0, d, dh }, to_k = { d, d + at, dh, 0, d, 2 * dh };
        const ij_rom_part to_v = { d, 2 * d + at, dh, 0, d, 2 * dh }, proj = { d, 0, d, at, dh, d };
        for (size_t r = 0; r < n; r += IJ_ROM_ROWS) {
            const size_t rows = IJ_MIN((size_t)IJ_ROM_ROWS, n - r);
            real *k = s->kv + r * 2 * dh;
            ij_rom_norm(s, s->norm, s->x + r * d, rows, w->norm1_w, w->norm1_b);
            ij_rom_linear(s->wide, k, s->norm, rows, &w->qkv, &to_k);
            ij_rom_linear(s->wide, k + dh, s->norm, rows, &w->qkv, &to_v);
        }
        for (size_t r = 0; r < n; r += IJ_ROM_ROWS) {
            const size_t rows = IJ_MIN((size_t)IJ_ROM_ROWS, n - r);
            ij_rom_norm(s, s->norm, s->x + r * d, rows, w->norm1_w, w->norm1_b);
            ij_rom_linear(s->wide, q, s->norm, rows, &w->qkv, &to_q);
            ij_attention(o, prob, q, s->kv, rows, n, dh, 1);
            ij_rom_linear(s->wide, s->y + r * d, o, rows, &w->proj, &proj);
        }
    }
    for (size_t i = 0; i < n * d; i++) s->x[i] = s->y[i] + s->x[i];
    for (size_t r = 0; r < n; r += IJ_ROM_ROWS) {
        const size_t rows = IJ_MIN((size_t)IJ_ROM_ROWS, n - r);
        real *x = s->x + r * d;
        ij_rom_norm(s, s->norm, x, rows, w->norm2_w, w->norm2_b);
        ij_rom_linear(s->wide, hidden, s->norm, rows, &w->fc1, &fc1);
        for (size_t i = 0; i < rows * f; i++) {
            real pdf, cdf;
            ij_normal(&pdf, &cdf, hidden[i]);
            hidden[i] *= cdf;
        }
        ij_rom_linear(s->wide, s->norm, hidden, rows, &w->fc2, &fc2);
        for (size_t i = 0; i < rows * d; i++) x[i] = s->norm[i] + x[i];
    }
}

ij_status ij_rom_encode(ij_real *feature, const ij_rom *m, const uint8_t *rgb, void *arena,
                        size_t size, ij_error *why)
{
    const size_t d = m->dim, p = m->patch, gw = m->width / p, n = m->height / p * gw, half = d / 2;
    const size_t dh = d / m->heads, pixels = 3 * p * p, need = ij_rom_arena(m);
    const ij_rom_part embed = { pixels, 0, d, 0, pixels, d };
    ij_rom_pass s = { .m = m, .x = arena };
    if (!arena || size < need)
        return ij_too_small(why, "arena: need # bytes, have #", need, arena ? size : 0);
    s.y = s.x + n * d;
    s.kv = s.y + n * d;
    s.norm = s.kv + 2 * n * dh;
    s.stat = s.norm + IJ_ROM_ROWS * d;
    s.part = s.stat + IJ_ROM_ROWS * 2;
    s.wide = s.part + IJ_ROM_ROWS * IJ_MAX(IJ_MAX(m->hidden, pixels), n + 2 * dh);
    for (size_t r = 0; r < n; r += IJ_ROM_ROWS) {
        const size_t rows = IJ_MIN((size_t)IJ_ROM_ROWS, n - r);
        real *to = s.part;
        for (size_t i = r; i < r + rows; i++)
            for (size_t k = 0; k < 3; k++)
                for (size_t y = i / gw * p; y < (i / gw + 1) * p; y++)
                    for (size_t x = i % gw * p; x < (i % gw + 1) * p; x++)
                        *to++ = (real)rgb[(y * m->width + x) * 3 + k] * m->scale[k] - m->shift[k];
        ij_rom_linear(s.wide, s.x + r * d, s.part, rows, &m->patch_embed, &embed);
        for (size_t i = r; i < r + rows; i++) {
            const real *column = m->pos + (m->whole_pos ? i * d : i % gw * half);
            const real *line = m->pos + (m->whole_pos ? i * d + half : (gw + i / gw) * half);
            for (size_t c = 0; c < half; c++) {
                s.x[i * d + c] += column[c];
                s.x[i * d + half + c] += line[c];
            }
        }
    }
    for (size_t i = 0; i < m->depth; i++) ij_rom_block_forward(&s, &m->block[i], n);
    memset(feature, 0, d * sizeof *feature);
    for (real *x = s.x; x < s.y; x += d) {
        ij_rom_norm(&s, x, x, 1, m->norm_w, m->norm_b);
        for (size_t c = 0; c < d; c++) feature[c] += x[c];
    }
    for (size_t c = 0; c < d; c++) feature[c] /= (real)n;
    return IJ_OK;
}

ij_status ij_few_init(ij_few *f, void *mem, size_t size, size_t dim, size_t most, double ridge,
                      ij_error *why)
{
    const int fits = dim <= SIZE_MAX / 64 / IJ_MAX(most, dim + 4);
    const size_t need = fits ? IJ_FEW_SIZE(dim, most, ridge > 0) : SIZE_MAX, z = dim + 1;
    if (!mem || size < need)
        return ij_too_small(why, "head: need # bytes, have #", need, mem ? size : 0);
    memset(mem, 0, need);
    *f = (ij_few){ dim, most, 0, mem, NULL, NULL };
    if (!(ridge > 0)) return IJ_OK;
    f->p = f->w + z * most;
    f->gain = f->p + z * (z + 1) / 2;
    for (size_t i = 0; i < z; i++) f->p[i * (i + 1) / 2 + i] = (real)(1 / ridge);
    return IJ_OK;
}

/* Feature i of [1 | feature] */
static real ij_few_at(const real *feature, size_t i) { return i ? feature[i - 1] : 1; }

/* The score of a class, of its weights w [D+1]. */
static real ij_few_score(const ij_few *f, const real *w, const real *feature)
{
    real score;
    IJ_SUM(real, score, i, f->dim + 1, w[i] * ij_few_at(feature, i));
    return score;
}

ij_status ij_few_learn(ij_few *f, const ij_real *feature, size_t label)
{
    const size_t z = f->dim + 1;
    real sum;
    if (label >= f->most) return IJ_EARG;
    IJ_SUM(real, sum, i, f->dim, feature[i] * feature[i]);
    if (!(sum - sum <= 0)) return IJ_ENAN;
    f->classes = IJ_MAX(f->classes, label + 1);
    if (!f->p) {
        const real length = (real)sqrt((double)sum);
        real *w = f->w + label * z + 1;
        for (size_t i = 0; i < f->dim && length > 0; i++) w[i] += feature[i] / length;
        return IJ_OK;
    }
    real all = 1;                   /* 1 + z'Pz */
    for (size_t i = 0; i < z; i++) {
        IJ_SUM(real, f->gain[i], j, z, f->p[i > j ? i * (i + 1) / 2 + j : j * (j + 1) / 2 + i] *
                                       ij_few_at(feature, j));
        all += f->gain[i] * ij_few_at(feature, i);
    }
    for (size_t c = 0; c < f->classes; c++) {
        real *w = f->w + c * z;
        const real step = ((c == label) - ij_few_score(f, w, feature)) / all;
        for (size_t i = 0; i < z; i++) w[i] += step * f->gain[i];
    }
    for (size_t i = 0, at = 0; i < z; i++)
        for (size_t j = 0; j <= i; j++, at++) f->p[at] -= f->gain[i] * f->gain[j] / all;
    return IJ_OK;
}

size_t ij_few_guess(const ij_few *f, const ij_real *feature)
{
    const size_t z = f->dim + 1;
    size_t best = 0;
    real most = 0;
    for (size_t c = 0; c < f->classes; c++) {
        const real *w = f->w + c * z;
        real score = ij_few_score(f, w, feature), square;
        IJ_SUM(real, square, i, z, w[i] * w[i]);
        if (!f->p) score = square > 0 ? score / (real)sqrt((double)square) : -1 / (real)IJ_NORM_EPS;
        if (!c || score > most) {
            best = c;
            most = score;
        }
    }
    return best;
}

/* ---- the program -------------------------------------------------------------------------------
 * ijepa COMMAND: they are listed in ij_command. From here on memory is allocated, errors end the
 * process, and results go to stdout, progress to stderr. Exit 0, 1 for a failure, 2 for wrong
 * usage, 130 after Ctrl-C. */
#ifdef IJEPA_MAIN

/* Views of an image in a batch. */
static size_t ij_views(const ij_config *c) { return c->objective == IJ_JOINT ? 2 : 1; }

static volatile sig_atomic_t ij_interrupted;
static void ij_on_signal(int number)
{
    ij_interrupted = 1;
    signal(number, SIG_DFL);    /* a second one ends at once */
}

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
static void ij_die(int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "ijepa: ");
    vfprintf(stderr, format, args);
    fprintf(stderr, "%s\n", code == 2 ? " (see ijepa --help)" : "");
    va_end(args);
    exit(code);
}

static void ij_must(ij_status s, const ij_error *why)
{
    if (s) ij_die(s == IJ_EARG || s == IJ_EMASK ? 2 : 1, "%s", why->text);
}

static void *ij_alloc(size_t size)
{
    void *p = size > SIZE_MAX / 2 ? NULL : ij_new(size ? size : 1);
    if (!p) ij_die(1, "out of memory: %.1f MiB asked for", (double)size / 1048576);
    return p;
}
static void *ij_zeros(size_t size) { return memset(ij_alloc(size), 0, size); }

static ij_model ij_model_for(const ij_config *c, int weights)
{
    ij_error why;
    ij_model m;
    size_t size = 0;
    ij_must(ij_model_size(&size, c, weights, &why), &why);
    ij_must(ij_model_init(&m, ij_alloc(size), size, c, weights, &why), &why);
    return m;
}

/* Room for the masks of a batch. */
static ij_masks ij_masks_for(const ij_config *c)
{
    ij_error why;
    ij_masks masks;
    ij_arena a = { NULL, 0, 0 };
    ij_must(ij_config_check(c, &why), &why);
    ij_masks_place(&masks, &a, c);
    a = (ij_arena){ ij_alloc(a.used), a.used, 0 };
    ij_masks_place(&masks, &a, c);
    ij_must(ij_masks_rehearse(&masks, c, &why), &why);
    return masks;
}

static ij_data *ij_open_data(const char *path, int part)
{
    ij_error why;
    size_t size;
    ij_must(ij_data_size(&size, path, &why), &why);
    ij_data *d = ij_alloc(size + sizeof *d);            /* and behind it its lists */
    ij_must(ij_data_open(d, d + 1, size, path, part, &why), &why);
    return d;
}

/* ---- options ---- */

static const struct { const char *name, *help, *settings; } ij_preset[] = {
    { "scenes", "the built-in scenes, what `make run` trains",
      "patch_size=8 embed_dim=64 depth=4 num_heads=4 pred_emb_dim=32 pred_depth=2 "
      "patch_init_std=0.2 crop_scale=1,1 batch_size=32 pred_mask_scale=0.2,0.3 num_pred_masks=3 "
      "min_keep=1 epochs=30 warmup=2 lr=0.002 ema=0.98,1" },
    { "cifar", "CIFAR-10 and the like: 32 pixels, an hour on two cores",
      "embed_dim=128 depth=4 num_heads=4 pred_emb_dim=64 pred_depth=2 patch_init_std=0.14 "
      "average_top_k_layers=5 crop_scale=0.4,1 vicreg=0.05 batch_size=16 "
      "epochs=20 warmup=1 lr=0.001 ema=0.9975,1" },
    { "paper", "the published settings (ViT-H/14, in1k_vith14_ep300)",
      "model_name=vit_huge crop_size=224 patch_size=14 crop_scale=0.3,1 use_horizontal_flip=false "
      "mask_mode=reference min_keep=10 pred_emb_dim=384 pred_depth=12 init_std=0.02 "
      "patch_init_std=0.02 batch_size=128 epochs=300 warmup=40 start_lr=0.0002 lr=0.001 "
      "final_lr=1e-6 weight_decay=0.04 final_weight_decay=0.4 ema=0.996,1" },
};
enum { IJ_PRESETS = sizeof ij_preset / sizeof *ij_preset };

typedef struct {
    ij_config c;                /* first: a row's place counts from here */
    const char *command, *what, *data, *test, *out, *model, *preset, *config, *encoder;
    const char *hole, *reference, *panels, *header;
    size_t threads, images, patch, context_tokens, target_tokens, targets, repeat, keep_every;
    int json, resume, dry_run, tokens, keep_going, help, int8;
    int configured;             /* settings were given by name */
    int picked;                 /* the preset was chosen by the images' size */
} ij_options;
typedef int ij_command_run(ij_options *o);
static ij_command_run ij_train, ij_probe, ij_features_command, ij_export_command, ij_show_command,
    ij_predict_command, ij_masks_command, ij_render, ij_info, ij_bench, ij_version;

static const struct {
    const char *name;
    ij_command_run *run;
    const char *use, *help;
} ij_command[] = {
    { "train", ij_train, "train [--data PATH] --out DIR",
      "learn from images; writes DIR/latest.safetensors and DIR/log.csv" },
    { "probe", ij_probe, "probe --model FILE [--data PATH]",
      "k-NN and linear scores: trained, random encoder, raw pixels" },
    { "features", ij_features_command, "features --model FILE --data PATH --out FILE.npy",
      "one vector per image, as .npy" },
    { "export", ij_export_command, "export --model FILE --c NAME.h",
      "the encoder as a C header, for firmware" },
    { "show", ij_show_command, "show [IMAGES] [--model FILE] --out FILE.png",
      "pictures of masks, features and predictions" },
    { "predict", ij_predict_command, "predict IMAGE --model FILE --out FILE.png",
      "what it expects behind targets or a hole, in pixels" },
    { "masks", ij_masks_command, "masks [--images N]",
      "draws context and target blocks, with their statistics" },
    { "render", ij_render, "render --out DIR [--images N]",
      "writes the built-in scenes as PPM, with labels.csv" },
    { "info", ij_info, "info [FILE]",
      "settings and tensors of a file; without one, of this build" },
    { "bench", ij_bench, "bench step|encode|matmul", "time, GFLOP/s, share of peak, memory" },
    { "--version", ij_version, "--version", "which one this is" },
};
enum { IJ_COMMANDS = sizeof ij_command / sizeof *ij_command };

#define IJ_AT(field) offsetof(ij_options, field), 0, 9e15, { NULL }
#define IJ_MODELS "probe features show predict export"
#define IJ_WORKS "train probe features show predict bench"
static const ij_named ij_option[] = {
    { "", IJ_SET_TEXT, IJ_AT(what), "info bench show predict", { 0 },
      "what stands on the command line without a name" },
    { "data", IJ_SET_TEXT, IJ_AT(data), "train probe features export", { 0 },
      "images: file, folder, or scenes[:COUNT[:SIDE]] (default scenes)" },
    { "test", IJ_SET_TEXT, IJ_AT(test), "train probe", { 0 },
      "images to be scored on, if not beside the data" },
    { "out", IJ_SET_TEXT, IJ_AT(out), "train probe features show predict render", { 0 },
      "where results go (probe: the table as CSV, too)" },
    { "model", IJ_SET_TEXT, IJ_AT(model), IJ_MODELS, { 0 },
      "ours or Hugging Face's: FILE.safetensors or its folder" },
    { "encoder", IJ_SET_TEXT, IJ_AT(encoder), IJ_MODELS, { 0 },
      "target (default, what the paper evaluates) or context" },
    { "c", IJ_SET_TEXT, IJ_AT(header), "export", { 0 },
      "the header to write: see ij_rom_encode in ijepa.h; --data: compared on its test images" },
    { "int8", IJ_SET_FLAG, IJ_AT(int8), "export probe features", { 0 },
      "matrices rounded to 8 bits, a scale for each row" },
    { "preset", IJ_SET_TEXT, IJ_AT(preset), IJ_ANY, { 0 },
      "settings to start from: below; train takes one that fits the data" },
    { "config", IJ_SET_TEXT, IJ_AT(config), IJ_ANY, { 0 },
      "settings from a file of key = value lines" },
    { "model_name", IJ_SET_MODEL, IJ_AT(c), IJ_ANY, { 0 },
      "vit_tiny, _small, _base, _large, _huge, _giant: four settings at once" },
    { "threads", IJ_SET_SIZE, IJ_AT(threads), IJ_WORKS, { 0 },
      "threads; 0: one per processor" },
    { "images", IJ_SET_SIZE, IJ_AT(images), IJ_MODELS " masks render", { 0 },
      "at most so many images (probe: of each part); 0: default" },
    { "context_tokens", IJ_SET_SIZE, IJ_AT(context_tokens), "bench", { 0 },
      "fixed tokens per context" },
    { "target_tokens", IJ_SET_SIZE, IJ_AT(target_tokens), "bench", { 0 },
      "fixed tokens per target block" },
    { "targets", IJ_SET_SIZE, IJ_AT(targets), "bench", { 0 },
      "target blocks (num_pred_masks)" },
    { "repeat", IJ_SET_SIZE, IJ_AT(repeat), "bench", { 0 }, "timed repetitions" },
    { "json", IJ_SET_FLAG, IJ_AT(json), "bench", { 0 }, "one JSON object a line" },
    { "panels", IJ_SET_TEXT, IJ_AT(panels), "show", { 0 },
      "of image,context,targets,coverage,pca,similarity,attention,montage,nearest,sketch,traced" },
    { "hole", IJ_SET_TEXT, IJ_AT(hole), "show predict", { 0 },
      "x,y,width,height in pixels: what is predicted, instead of drawn blocks" },
    { "reference", IJ_SET_TEXT, IJ_AT(reference), "show predict", { 0 },
      "images whose patches fill montages (default scenes:1000)" },
    { "patch", IJ_SET_SIZE, IJ_AT(patch), "show", { 0 },
      "similarity: to patch N, counted from 1 by rows; 0: the middle" },
    { "tokens", IJ_SET_FLAG, IJ_AT(tokens), "features", { 0 },
      "every patch [n,N,D] instead of the mean [n,D]" },
    { "keep_every", IJ_SET_SIZE, IJ_AT(keep_every), "train", { 0 },
      "epochs: each N-th leaves DIR/epoch_N.safetensors; 0: only the latest" },
    { "keep_going", IJ_SET_FLAG, IJ_AT(keep_going), "train", { 0 },
      "a checkpoint that cannot be written is no reason to stop" },
    { "resume", IJ_SET_FLAG, IJ_AT(resume), "train", { 0 }, "go on from DIR/latest.safetensors" },
    { "dry-run", IJ_SET_FLAG, IJ_AT(dry_run), "train", { 0 },
      "print size, work, memory and time, then stop" },
    { "help", IJ_SET_FLAG, IJ_AT(help), NULL, { 0 }, "this text" },
#undef IJ_AT
};
enum { IJ_OPTIONS = sizeof ij_option / sizeof *ij_option, IJ_ROWS = IJ_OPTIONS + IJ_SETTINGS };

/* Row i that the command takes, options before settings; NULL: it does not take that one. */
static const ij_named *ij_named_of(const char *command, size_t i)
{
    const ij_named *row = i < IJ_OPTIONS ? &ij_option[i] : &ij_setting[i - IJ_OPTIONS];
    return !row->commands || strstr(row->commands, command) ? row : NULL;
}

static int ij_version(ij_options *o)
{
    (void)o;
    printf("ijepa %s\n", IJEPA_VERSION);
    return 0;
}

static int ij_help(ij_options *o)
{
    static const char *const value[] = { "N", "", "", "", "", "", "", "",      /* by kind */
                                         "TEXT", "", "NAME" };
    char text[IJ_TEXT];
    if (!o->command) {
        printf("ijepa: self-supervised learning from images with I-JEPA\n\n");
        for (size_t i = 0; i < IJ_COMMANDS; i++)
            printf("  ijepa %-50s %s\n", ij_command[i].use, ij_command[i].help);
        printf("\nijepa COMMAND --help lists its settings.\n");
        return 0;
    }
    for (size_t i = 0; i < IJ_COMMANDS; i++)
        if (!strcmp(ij_command[i].name, o->command))
            printf("ijepa %s\n  %s\n\n", ij_command[i].use, ij_command[i].help);
    for (size_t i = 0, settings = 0; i < IJ_ROWS; i++) {
        const ij_named *row = ij_named_of(o->command, i);
        if (!row || !*row->name) continue;
        if (i < IJ_OPTIONS) snprintf(text, sizeof text, "%s", value[row->kind]);
        else ij_named_text(text, row, o);
        if (i >= IJ_OPTIONS && !settings++)
            printf("\nSettings%s%s, with their present values:\n", o->preset ? " of preset " : "",
                   o->preset ? o->preset : "");
        printf("  --%-20s %-12s %s\n", row->name, text, row->help);
    }
    if (!strstr(IJ_ANY, o->command)) return 0;
    printf("\nPresets:\n");
    for (size_t i = 0; i < IJ_PRESETS; i++)
        printf("  %-22s %s\n", ij_preset[i].name, ij_preset[i].help);
    return 0;
}

static void ij_use_settings(ij_config *c, const char *at)      /* "key=value key=value" */
{
    ij_error why;
    char key[64], value[64];
    for (int used = 0; sscanf(at, " %63[^= ]=%63[^ ]%n", key, value, &used) == 2; at += used)
        ij_must(ij_config_set(c, key, value, &why), &why);
    if (at[strspn(at, " ")]) ij_die(2, "\"%s\": expected key=value", at);
}

static void ij_use_preset(ij_config *c, const char *name)
{
    char names[IJ_TEXT] = "";
    for (size_t i = 0; i < IJ_PRESETS; i++) {
        if (!strcmp(name, ij_preset[i].name)) {
            ij_use_settings(c, ij_preset[i].settings);
            return;
        }
        snprintf(names + strlen(names), sizeof names - strlen(names), " %s", ij_preset[i].name);
    }
    ij_die(2, "no preset is called %s; there are:%s", name, names);
}

/* The row of this name that the command takes; ends with the nearest if it takes none. */
static const ij_named *ij_find_row(const char *command, const char *name)
{
    const char *near = "help";
    for (size_t i = 0; i < IJ_ROWS; i++) {
        const ij_named *row = ij_named_of(command, i);
        if (!row || !*row->name) continue;
        if (!strcmp(name, row->name)) return row;
        near = ij_nearer(near, row->name, name);
    }
    ij_die(2, "%s has no setting --%s; the nearest is --%s", command, name, near);
    return NULL;
}

/* --name value or --name=value. Settings of the model wait for a second pass, after preset and
 * file. */
static void ij_parse_arguments(ij_options *o, int argc, char **argv, int settings)
{
    ij_error why;
    for (int i = 2; i < argc; i++) {
        char name[64];
        const char *value = strchr(argv[i], '=');
        if (!strcmp(argv[i], "-h")) {
            o->help = 1;
            continue;
        }
        if (strncmp(argv[i], "--", 2)) {
            if (!ij_named_of(o->command, 0) || (!settings && o->what))
                ij_die(2, "\"%s\" is not a setting: expected --name value", argv[i]);
            o->what = argv[i];
            continue;
        }
        snprintf(name, sizeof name, "%.*s", value ? (int)(value - argv[i] - 2) : 60, argv[i] + 2);
        const ij_named *row = ij_find_row(o->command, name);
        const int late = row->place < sizeof o->c;      /* a setting, or model_name */
        if (row->kind == IJ_SET_FLAG) {
            if (value) ij_die(2, "--%s takes no value", name);
            *(int *)(void *)((char *)o + row->place) = 1;
            continue;
        }
        if (!value && i + 1 == argc) ij_die(2, "--%s needs a value", name);
        value = value ? value + 1 : argv[++i];
        if (!*value) ij_die(2, "--%s needs a value, and not an empty one", name);
        o->configured |= late;
        if (late && settings && ij_config_set(&o->c, name, value, &why)) ij_die(2, "%s", why.text);
        if (!late && ij_named_set(row, o, value, &why)) ij_die(2, "--%s", why.text);
    }
}

static void ij_pick_preset(ij_options *o)
{
    ij_error why;
    ij_image first = { 0 };
    ij_data *d = ij_open_data(o->data ? o->data : "scenes", IJ_WHOLE);
    ij_must(ij_data_read(&first, d, 0, &why), &why);
    o->picked = 1;
    o->preset = d->kind == IJ_SCENES ? "scenes" : "cifar";
    fprintf(stderr, "preset: %s, for images of %zu x %zu (--preset NAME takes another)\n",
            o->preset, first.width, first.height);
    if (IJ_MAX(first.height, first.width) > 48)
        fprintf(stderr, "preset: it trains on 32 x 32 pixels: data/results.md has settings for "
                        "larger ones\n");
    ij_data_close(d);
    free(d);
}

/* What the command line says; returns the command. */
static ij_command_run *ij_parse(ij_options *o, int argc, char **argv)
{
    ij_error why;
    size_t k = 0;
    *o = (ij_options){ .c = ij_config_default() };
    if (argc > 2 && !strcmp(argv[1], "help")) {         /* help COMMAND */
        o->help = 1;
        argc--;
        argv++;
    }
    if (argc < 2) {
        ij_help(o);
        exit(2);
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help"))
        return ij_help;
    o->command = argv[1];
    const char *near = ij_command[0].name;
    for (size_t i = 0; i < IJ_COMMANDS; i++) near = ij_nearer(near, ij_command[i].name, o->command);
    while (strcmp(ij_command[k].name, near)) k++;
    if (strcmp(o->command, near))
        ij_die(2, "no command is called %s; the nearest is %s", o->command, near);
    ij_parse_arguments(o, argc, argv, 0);
    if (!strcmp(near, "train") && !o->preset && !o->config && !o->help &&
        (!o->resume || o->configured))
        ij_pick_preset(o);
    if (o->preset) ij_use_preset(&o->c, o->preset);
    if (o->config) ij_must(ij_config_read(&o->c, o->config, &why), &why);
    ij_parse_arguments(o, argc, argv, 1);
    if (o->help) return ij_help;
    if (!o->threads) o->threads = ij_processors();
    return ij_command[k].run;
}

/* ---- images for training and scoring ---- */

/* small: work of ij_view, at its beginning the bytes of the resized picture */
typedef struct { ij_image full; uint8_t *small; size_t small_size; } ij_slot;

typedef struct {                /* one part of a data set, and buffers for a batch of it */
    ij_data *d;
    size_t count, slots;
    ij_slot *slot;
    ij_config c;
    uint64_t stream;            /* of the crops of this batch */
    uint8_t *drawn;             /* the scenes, drawn once */
    real *images;               /* [slots,3,h,w] */
} ij_images;

static void ij_scene_task(void *arg, size_t i)
{
    ij_error why;
    const ij_images *s = arg;
    ij_image to = s->slot->full;
    to.size = to.height * to.width * 3;
    to.rgb = s->drawn + i * to.size;
    ij_must(ij_data_read(&to, s->d, i, &why), &why);
}

static ij_images ij_images_open(const char *path, int part, const ij_config *c, size_t slots,
                                const ij_team *team)
{
    ij_error why;
    ij_data *d = ij_open_data(path, part);
    ij_images s = { .d = d, .count = d->count, .slots = slots, .c = *c };
    s.slot = ij_zeros(ij_mul(slots, sizeof *s.slot));
    s.images = ij_alloc(ij_mul(ij_mul(slots, 3 * sizeof(real)),
                               ij_mul(c->crop_size[0], c->crop_size[1])));
    /* for one slot, each is drawn when it is read */
    if (slots > 1 && d->kind == IJ_SCENES) {
        ij_must(ij_data_read(&s.slot->full, d, 0, &why), &why);
        s.drawn = ij_alloc(ij_mul(s.count, s.slot->full.height * s.slot->full.width * 3));
        ij_each(team, s.count, ij_scene_task, &s);
    }
    return s;
}

static void ij_images_read(ij_images *s, size_t slot, size_t image)
{
    ij_error why;
    ij_image *to = &s->slot[slot].full, shape = { 0 };
    ij_must(ij_data_read(&shape, s->d, image, &why), &why);
    const size_t need = shape.height * shape.width * 3;
    if (need > to->size) {
        free(to->rgb);
        to->rgb = ij_alloc(need);
        to->size = need;
    }
    to->height = shape.height;
    to->width = shape.width;
    if (s->drawn) memcpy(to->rgb, s->drawn + image * need, need);
    else ij_must(ij_data_read(to, s->d, image, &why), &why);
}

/* Reads picture i of n that are spread evenly over the set; its place there. */
static size_t ij_images_spread(ij_images *s, size_t slot, size_t i, size_t n)
{
    const size_t image = (size_t)((double)i * (double)s->count / (double)n);
    ij_images_read(s, slot, image);
    return image;
}

/* To the beginning of the terminal's line, and clear it. What is written over itself fits in 80
 * columns: a longer line would stay. */
static const char ij_line[] = "\r\033[K";

/* On a terminal, how far long work is; five times a second, and at its end. */
static void ij_count_shown(const char *what, size_t done, size_t all, double *shown)
{
    if (!ij_terminal() || (ij_seconds() - *shown < 0.2 && done < all)) return;
    *shown = ij_seconds();
    fprintf(stderr, "\r%s: %zu of %zu images%s", what, done, all, done == all ? "\n" : "");
}

static ij_memory ij_memory_of(size_t size) { return (ij_memory){ ij_alloc(size), size }; }

/* What encoding these pictures takes. */
static ij_memory ij_encode_memory(const ij_encoder *e, const ij_pictures *in)
{
    ij_error why;
    size_t size;
    ij_must(ij_encode_size(&size, e, in, &why), &why);
    return ij_memory_of(size);
}

/* A picture as the model sees it: changed at random by rng, or without one its middle. */
static void ij_images_view(const ij_images *s, size_t slot, ij_rng *rng)
{
    ij_error why;
    ij_slot *k = &s->slot[slot];
    real *planes = s->images + slot * 3 * s->c.crop_size[0] * s->c.crop_size[1];
    const size_t need = ij_view_size(k->full.height, k->full.width, &s->c);
    if (need > k->small_size) {
        free(k->small);
        k->small = ij_alloc(need);
        k->small_size = need;
    }
    ij_must(ij_view(planes, &k->full, &s->c, rng, k->small, k->small_size, &why), &why);
}

/* The training image: its draws depend on seed, batch and place only. */
static void ij_augment_task(void *arg, size_t slot)
{
    const ij_images *s = arg;
    uint64_t state = s->stream + slot;
    ij_rng rng;
    ij_rng_seed(&rng, ij_mix(&state));
    ij_images_view(s, slot, &rng);
}

/* The image to be scored. */
static void ij_centre_task(void *arg, size_t slot) { ij_images_view(arg, slot, NULL); }

/* Picture i of n spread evenly over the set: its bytes [h,w,3]; s->images has its planes. */
static const uint8_t *ij_images_middle(ij_images *s, size_t i, size_t n)
{
    ij_images_spread(s, 0, i, n);
    ij_centre_task(s, 0);
    return s->slot->small;
}

typedef struct {                /* of a set: x[] is NULL, what was not asked for, or [n,width] */
    real *x[3];
    size_t n, width[3], tasks, classes[3];
    const int *label[3];        /* [n] for each task */
    const char *task[3];
} ij_features;
enum { IJ_TRAINED, IJ_RANDOM, IJ_PIXELS };

enum { IJ_PIXEL_SIDE = 32, IJ_FEATURE_BATCH = 64 };

/* Features of up to `most` images, evenly spread: of one or two models the mean of the tokens,
 * or all of them if tokens is their number; of pixels, 32x32 at most. */
static ij_features ij_features_from(ij_images *s, const ij_model *const model[2], int pixels,
                                    size_t most, size_t tokens, const ij_team *team)
{
    ij_error why;
    const ij_config *c = &model[0]->config;
    int *label[3];
    ij_images p = *s;           /* the same pictures at another size */
    for (int i = 0; i < 2; i++) p.c.crop_size[i] = IJ_MIN(p.c.crop_size[i], IJ_PIXEL_SIDE);
    ij_features f = { .n = most && most < s->count ? most : s->count, .tasks = s->d->tasks };
    for (size_t t = 0; t < f.tasks; t++) {
        f.label[t] = label[t] = ij_alloc(f.n * sizeof(int));
        f.task[t] = s->d->task[t];
        f.classes[t] = s->d->classes[t];
    }
    f.width[IJ_TRAINED] = f.width[IJ_RANDOM] = c->embed_dim * (tokens ? tokens : 1);
    f.width[IJ_PIXELS] = 3 * p.c.crop_size[0] * p.c.crop_size[1];
    for (int i = 0; i < 3; i++)
        if (i < 2 ? model[i] != NULL : pixels)
            f.x[i] = ij_alloc(ij_mul(ij_mul(f.n, f.width[i]), sizeof(real)));
    p.images = ij_alloc(s->slots * f.width[IJ_PIXELS] * sizeof(real));
    ij_pictures in = { s->images, s->slots, c->crop_size[0], c->crop_size[1] };
    const ij_memory work = ij_encode_memory(&model[0]->target_encoder, &in);
    double shown = ij_seconds();
    for (size_t at = 0; at < f.n && !ij_interrupted; at += s->slots) {
        const size_t batch = IJ_MIN(s->slots, f.n - at);
        for (size_t i = 0; i < batch; i++) {
            const size_t image = ij_images_spread(s, i, at + i, f.n);
            for (size_t t = 0; t < f.tasks; t++) label[t][at + i] = ij_data_label(s->d, image, t);
        }
        ij_each(team, batch, ij_centre_task, s);
        if (pixels) {
            ij_each(team, batch, ij_centre_task, &p);
            memcpy(f.x[IJ_PIXELS] + at * f.width[IJ_PIXELS], p.images,
                   batch * f.width[IJ_PIXELS] * sizeof(real));
        }
        for (size_t i = 0; i < 2 && model[i]; i++) {
            real *to = f.x[i] + at * f.width[i];
            in.count = batch;
            ij_must(ij_encode(tokens ? to : NULL, tokens ? NULL : to, &model[i]->target_encoder,
                              &in, work, team, &why),
                    &why);
        }
        ij_count_shown("features", at + batch, f.n, &shown);
    }
    free(work.base);
    free(p.images);
    return f;
}

static ij_features ij_features_of(const char *path, int part, const ij_model *const model[2],
                                  int pixels, size_t most, size_t tokens, const ij_team *team)
{
    ij_images s = ij_images_open(path, part, &model[0]->config, IJ_FEATURE_BATCH, team);
    const ij_features f = ij_features_from(&s, model, pixels, most, tokens, team);
    ij_data_close(s.d);
    if (ij_interrupted) exit(130);
    return f;
}

/* k-NN or ridge, in percent, for each task. */
static void ij_score(double percent[3], const ij_scored *s, size_t k, const ij_team *team)
{
    ij_error why;
    double chosen[3];
    size_t size;
    ij_must((k ? ij_knn_size : ij_ridge_size)(&size, s, &why), &why);
    const ij_memory work = ij_memory_of(size);
    if (k) ij_must(ij_knn(percent, s, k, 0.07, work, team, &why), &why);
    else ij_must(ij_ridge(percent, chosen, s, work, team, &why), &why);
    free(work.base);
    for (size_t t = 0; t < s->tasks; t++) percent[t] *= 100;
}

/* Half the 95 % interval that n answers leave. */
static double ij_interval(double percent, size_t n)
{
    return 196 * sqrt(percent / 100 * (1 - percent / 100) / (double)n);
}

/* The cosine of two vectors. */
static double ij_alike(const real *a, const real *b, size_t d)
{
    double ab = 0, aa = 0, bb = 0;
    for (size_t c = 0; c < d; c++) {
        ab += (double)a[c] * (double)b[c];
        aa += (double)a[c] * (double)a[c];
        bb += (double)b[c] * (double)b[c];
    }
    return ab / sqrt(IJ_MAX(aa * bb, 1e-300));
}

/* The three main components of features z [n,D]: scores [n,3], to be freed. */
static real *ij_pca_scores(const real *z, size_t n, size_t d)
{
    ij_error why;
    const ij_memory work = ij_memory_of((2 * d * d + d) * sizeof(double));
    real *scores = ij_alloc(3 * n * sizeof *scores);
    ij_must(ij_pca(scores, 3, z, n, d, work, &why), &why);
    free(work.base);
    return scores;
}

/* Scores as red, green and blue: two standard deviations from dark to bright. */
static void ij_colours_of(uint8_t *rgb, const real *scores, size_t n)
{
    for (size_t k = 0; k < 3; k++) {
        double square = 0;
        for (size_t i = 0; i < n; i++)
            square += (double)scores[i * 3 + k] * (double)scores[i * 3 + k];
        const double high = IJ_MAX(2 * sqrt(square / (double)n), 1e-30);
        for (size_t i = 0; i < n; i++) {
            const double share = ((double)scores[i * 3 + k] / high + 1) / 2;
            rgb[i * 3 + k] = (uint8_t)(255 * IJ_MAX(0, IJ_MIN(share, 1)) + 0.5);
        }
    }
}

static void ij_pca_colours(uint8_t *rgb, const real *z, size_t n, size_t d)
{
    real *scores = ij_pca_scores(z, n, d);
    ij_colours_of(rgb, scores, n);
    free(scores);
}

/* ---- training ---- */

static char *ij_path(char path[1100], const char *folder, const char *name)
{
    snprintf(path, 1100, "%.1000s/%s", folder, name);
    return path;
}

static FILE *ij_open_or_die(const char *path, const char *mode)
{
    FILE *f = fopen(path, mode);
    if (!f) ij_die(1, "%s: %s", path, strerror(errno));
    return f;
}

static void ij_close_or_die(FILE *f, const char *path)
{
    const int bad = ferror(f);
    if (fclose(f) || bad) ij_die(1, "%s: cannot be written: %s", path, strerror(errno));
}

/* A file that stands under another name until it is whole. */
typedef struct { FILE *f; char path[IJ_PATH], aside[IJ_PATH]; } ij_draft;

static ij_draft ij_draft_open(const char *path)
{
    ij_error why;
    ij_draft d;
    d.f = ij_begin(d.aside, path, "w", &why);
    if (!d.f) ij_die(1, "%s", why.text);
    strcpy(d.path, path);       /* shorter than d.aside */
    return d;
}

static void ij_draft_close(const ij_draft *d)
{
    ij_error why;
    ij_must(ij_commit(d->f, d->aside, d->path, &why), &why);
}

static void ij_print_config(FILE *f, const ij_config *c)
{
    char text[IJ_TEXT];
    for (size_t i = 0; i < IJ_SETTINGS; i++) {
        ij_config_text(text, c, i);
        fprintf(f, "%s = %s\n", ij_config_name(i), text);
    }
}

/* NumPy's format 1.0, in little-endian order; the item's name is the path. */
static void ij_write_npy(const ij_item *item)
{
    char head[256], shape[100] = "";
    for (size_t i = 0, used = 0; i < item->rank; i++)
        used += (size_t)snprintf(shape + used, sizeof shape - used, "%zu, ", item->dim[i]);
    snprintf(head, sizeof head, "{'descr': '<%c%d', 'fortran_order': False, 'shape': (%s), }",
             item->dtype < IJ_I64 ? 'f' : 'i', (int)(ij_dtype[item->dtype].bits / 8), shape);
    /* with 10 bytes before it: whole 64s */
    const int n = ((int)strlen(head) + 74) / 64 * 64 - 10;
    FILE *f = ij_open_or_die(item->name, "wb");
    fprintf(f, "\x93NUMPY\1%c%c%c%-*s\n", 0, n & 255, n >> 8, n - 1, head);
    ij_put_data(f, item);
    ij_close_or_die(f, item->name);
}

static const char ij_log_head[] =
    "epoch,itr,loss,mask-A,mask-B,time (ms),lr,weight decay,ema,grad norm,feature std\n";
static const char ij_health_head[] = "step,loss,skill,position,rank,feature std,cosine,verdict\n";

/* The log of a resumed run keeps its head and the lines up to the checkpoint. One with other
 * columns, of an earlier version, is put aside as NAME.old. */
static void ij_log_cut(const char *path, const char *head, uint64_t lines)
{
    char line[512] = "", old[1110];
    FILE *from = fopen(path, "r");
    if (!from) return;
    if (fgets(line, sizeof line, from) && strcmp(line, head)) {
        fclose(from);
        snprintf(old, sizeof old, "%s.old", path);
        if (ij_replace(path, old)) ij_die(1, "%s: %s", old, strerror(errno));
        return;
    }
    const ij_draft to = ij_draft_open(path);
    fputs(line, to.f);
    for (uint64_t n = 0; n < lines && fgets(line, sizeof line, from); n++) fputs(line, to.f);
    fclose(from);
    ij_draft_close(&to);
}

static double ij_matmul_rate(const ij_team *team)      /* GFLOP/s of a product of middling shape */
{
    enum { N = 384 };
    real *x = ij_zeros(3 * N * N * sizeof *x);
    const ij_product p = { N, N, N, x, N, 1, x + N * N, 1, N, x + 2 * N * N, N, NULL, 0 };
    double best = 1e9;
    for (int i = 0; i < 20; i++) {
        const double t = ij_seconds();
        ij_matmul(&p, team);
        best = IJ_MIN(best, ij_seconds() - t);
    }
    free(x);
    return 2.0 * N * N * N / IJ_MAX(best, 1e-9) / 1e9;
}

/* Mean tokens of a context and of a target block over 16 draws; *work: the most that a step or
 * ij_watch on one of them needs. */
static void ij_mean_tokens(double *context, double *target, size_t *work, const ij_config *c)
{
    ij_error why;
    ij_masks lists = ij_masks_for(c);
    ij_rng rng;
    *context = *target = 0;
    *work = 0;
    ij_rng_seed(&rng, c->seed);
    for (uint64_t i = 0; i < 16; i++) {
        ij_must(ij_masks_draw(&lists, c, &rng, i, c->batch_size, &why), &why);
        for (size_t k = 0; k < lists.context.lists; k++)
            *context += (double)lists.context.length[k] / (double)lists.context.lists / 16;
        for (size_t k = 0; k < lists.target.lists; k++)
            *target += (double)lists.target.length[k] / (double)lists.target.lists / 16;
        for (ij_part p = { 0, ij_part_images(c), c->batch_size }; p.first < p.batch;
             p.first += p.images) {
            p.images = IJ_MIN(p.images, p.batch - p.first);
            const ij_counts n = ij_count_part(NULL, c, &lists, &p);
            ij_arena part = { NULL, 0, 0 };
            ij_step step;
            ij_step_place(&step, &part, c, &n);
            *work = IJ_MAX(*work, part.used);           /* no more is ever touched */
        }
    }
}

/* Nothing of the model's size is allocated. */
static void ij_dry_run(const ij_config *c, const ij_images *data, const ij_team *team)
{
    const size_t images = data->count, pixels = 3 * c->crop_size[0] * c->crop_size[1];
    const double rate = ij_matmul_rate(team) * 0.6;
    double context, target;
    size_t memory, work;
    ij_error why;
    ij_arena a = { NULL, 0, 0 };
    ij_model m = { .config = *c, .training = IJ_TRAIN };
    ij_must(ij_model_size(&memory, c, IJ_TRAIN, &why), &why);
    ij_model_place(&m, &a);
    ij_mean_tokens(&context, &target, &work, c);
    const double flops = ij_flops(c, (size_t)(context + 0.5), (size_t)(target + 0.5));
    const double total = (double)ij_steps(c) * (double)c->batch_size * (double)c->accumulate;
    printf("encoder      %zu parameters\n", m.encoder_size);
    printf("predictor    %zu parameters\n", m.size - m.encoder_size);
    printf("images       %zu in the training part, %.0f seen in %zu updates\n", images, total,
           ij_steps(c));
    printf("tokens       %.1f per context, %.1f per target block, %zu per image\n", context, target,
           ij_rows(&m.encoder_pos));
    printf("work         %.1f MFLOP per image, %.3g TFLOP in all\n", flops / 1e6,
           flops * total / 1e12);
    memory -= m.work_size - work;
    memory += c->batch_size * ij_views(c) * pixels * (sizeof(real) + 1) + images * sizeof(size_t) +
              ij_watch_size(c);
    if (data->drawn) memory += images * data->slot->full.height * data->slot->full.width * 3;
    printf("memory       %.1f MiB\n", (double)memory / 1048576);
    printf("time         about %.0f s at %.0f GFLOP/s\n", flops * total / rate / 1e9, rate);
}

static void ij_progress(const ij_model *m, const ij_report *r, double start, uint64_t from,
                        double *shown, int last)
{
    const ij_config *c = &m->config;
    const double now = ij_seconds(), done = (double)(m->step - from);
    const double step = (double)m->step, steps = (double)ij_steps(c);
    const int terminal = ij_terminal();
    if (!last && now - *shown < (terminal ? 0.2 : 10)) return;
    const double per = done > 0 ? (now - start) / done : 0;
    const double rate = per > 0 ? (double)(c->batch_size * c->accumulate) / per : 0;
    *shown = now;
    fprintf(stderr, "%sepoch %.2f  step %.0f/%.0f  ", terminal ? ij_line : "",
            step / (double)c->ipe, step, steps);
    fprintf(stderr, "loss %.4f  %.0f images/s  %.0f s left%s", r->loss, rate, per * (steps - step),
            terminal && !last ? "" : "\n");
    fflush(stderr);
}

/* c: its settings, NULL if not wanted */
static ij_file ij_open_model(const char *path, ij_config *c)
{
    ij_error why;
    ij_file f;
    size_t size;
    char *file = ij_alloc(1100);
    snprintf(file, 1100, "%.1000s", path);
    static const char *const usual[3] = { "latest.safetensors", "model.safetensors",
                                          "model.safetensors.index.json" };
    for (size_t i = 0; ij_is_folder(path) && i < 3; i++) {
        FILE *there = fopen(ij_path(file, path, usual[i]), "rb");
        if (there) { fclose(there); break; }
        if (i == 2)
            ij_die(1, "%s: holds no %s, %s or %s", path, usual[0], usual[1], usual[2]);
    }
    ij_must(ij_file_size(&size, file, &why), &why);
    ij_must(ij_file_open(&f, ij_alloc(size), size, file, &why), &why);
    if (c) ij_must(ij_load_config(c, &f, &why), &why);
    return f;
}

/* The settings of the run in `latest`; those given on the command line must be the same. */
static void ij_resume_config(ij_file *f, ij_config *c, const char *latest, int given)
{
    ij_config saved;
    char a[IJ_TEXT], b[IJ_TEXT];
    *f = ij_open_model(latest, &saved);
    for (size_t i = 0; given && i < IJ_SETTINGS; i++) {
        ij_config_text(a, &saved, i);
        ij_config_text(b, c, i);
        if (strcmp(ij_config_name(i), "ipe") && strcmp(a, b))
            ij_die(1, "%s: the run has %s = %s, asked for is %s", latest, ij_config_name(i), a, b);
    }
    *c = saved;
}

/* Every epoch, or tenth of the run. */
static uint64_t ij_watch_every(const ij_config *c)
{
    return IJ_MAX(1, IJ_MIN(c->ipe, ij_steps(c) / 10));
}

typedef struct {
    ij_model m;
    ij_images s;
    ij_team team;
    char latest[1100], log_path[1100], health_path[1100];
    FILE *log, *health;
    const char *out;
} ij_run;

static FILE *ij_open_log(char path[1100], const ij_options *o, const char *name, const char *head,
                         uint64_t lines)
{
    ij_path(path, o->out, name);
    if (o->resume) ij_log_cut(path, head, lines);
    FILE *f = ij_open_or_die(path, o->resume ? "a" : "w");
    if (!fseek(f, 0, SEEK_END) && !ftell(f)) fputs(head, f);
    return f;
}

/* Data, model and folder for a run, new or resumed. Nothing is written before everything is
 * known to be in order. */
static void ij_train_start(ij_run *t, ij_options *o)
{
    ij_error why;
    ij_config *c = &o->c;
    ij_file f;
    if (o->out) {
        FILE *old = fopen(ij_path(t->latest, o->out, "latest.safetensors"), "rb");
        if (old && !o->resume && !o->dry_run)
            ij_die(1,
                   "%s: a run is there already: --resume goes on with it, or choose another --out",
                   t->latest);
        if (old) fclose(old);
    }
    if (o->resume)
        ij_resume_config(&f, c, t->latest, (o->preset && !o->picked) || o->config || o->configured);
    ij_must(ij_config_check(c, &why), &why);
    t->team = ij_team_start(o->threads);
    const int part = o->test ? IJ_WHOLE : IJ_TRAIN_PART;
    t->s = ij_images_open(o->data, part, c, c->batch_size * ij_views(c), &t->team);
    const size_t update = c->batch_size * c->accumulate, ipe = t->s.count / update;
    if (!ipe)
        ij_die(1, "%s: %zu images in the training part, fewer than one update's batch_size * "
               "accumulate = %zu", o->data, t->s.count, update);
    if (o->resume && ipe != c->ipe)
        ij_die(1, "%s: %zu updates in an epoch, the run to be resumed has %zu: other images?",
               o->data, ipe, c->ipe);
    c->ipe = ipe;
    fprintf(stderr, "data: %s: %s, %zu training images\n", o->data, t->s.d->name, t->s.count);
    if (o->dry_run) {
        ij_print_config(stdout, c);
        ij_dry_run(c, &t->s, &t->team);
        return;
    }
    t->m = ij_model_for(c, IJ_TRAIN);
    t->m.team = t->team;
    if (o->resume) {
        ij_must(ij_load(&t->m, &f, &why), &why);
        ij_file_close(&f);
        fprintf(stderr, "resumed at step %zu\n", (size_t)t->m.step);
    }
    ij_must(ij_make_folder(o->out, &why), &why);
    ij_must(ij_lock(ij_path(t->log_path, o->out, "lock"), &why), &why);
    ij_print_config(stderr, c);
    FILE *out = ij_open_or_die(ij_path(t->log_path, o->out, "config.txt"), "w");
    ij_print_config(out, c);
    ij_close_or_die(out, t->log_path);
    out = ij_open_or_die(ij_path(t->log_path, o->out, "data.txt"), "w");        /* for the page */
    fprintf(out, "%s\n%s\n", o->data, o->test ? o->test : "");
    ij_close_or_die(out, t->log_path);
    const uint64_t step = t->m.step;
    const uint64_t watched = step < ij_steps(c) ? step / ij_watch_every(c) + 1 : UINT64_MAX;
    t->log = ij_open_log(t->log_path, o, "log.csv", ij_log_head, step);
    t->health = ij_open_log(t->health_path, o, "health.csv", ij_health_head, watched);
}

/* One forward and backward pass on the next batch. Order, crops and masks follow from the seed
 * and its number. */
static ij_report ij_train_pass(ij_run *t, size_t *order, uint64_t *ordered)
{
    ij_error why;
    ij_report r;
    ij_model *m = &t->m;
    const ij_config *c = &m->config;
    const uint64_t batches = c->ipe * c->accumulate;
    const uint64_t epoch = m->micro / batches, at = m->micro % batches;
    if (epoch != *ordered) {                            /* drop_last: a new order for each epoch */
        ij_rng rng;
        ij_rng_seed(&rng, c->seed + epoch);
        ij_rng_permutation(&rng, order, t->s.count);
        *ordered = epoch;
    }
    for (size_t i = 0; i < t->s.slots; i++)
        ij_images_read(&t->s, i, order[at * c->batch_size + i % c->batch_size]);
    uint64_t state = c->seed;
    t->s.stream = ij_mix(&state) + m->micro * t->s.slots;
    ij_each(&t->team, t->s.slots, ij_augment_task, &t->s);
    ij_must(ij_masks_draw(&m->masks, c, &m->mask_rng, m->micro, c->batch_size, &why), &why);
    const ij_status status = ij_train_step(m, t->s.images, &m->masks, &r, &why);
    if (status == IJ_ENAN)
        ij_die(1, "step %zu: %s; the last checkpoint is as it was: try a lower --lr, or "
               "--clip_grad 1", (size_t)m->step + 1, ij_status_string(status));
    ij_must(status, &why);
    return r;
}

/* Health over most images or fewer, spread over the data: the same crops and masks each time. */
static ij_health ij_train_health(ij_run *t, size_t most)
{
    ij_error why;
    ij_model *m = &t->m;
    ij_rng rng;
    const ij_config *c = &m->config;
    const size_t images = c->batch_size, d = c->embed_dim, batches = IJ_MAX(1, most / images);
    const size_t seen = batches * images, side = IJ_MIN(seen, d);
    const ij_memory work = ij_memory_of(IJ_MAX(ij_watch_size(c), side * side * sizeof(double)));
    real *pooled = ij_alloc(seen * d * sizeof *pooled);
    ij_health all = { 0 };
    ij_rng_seed(&rng, c->seed);
    for (size_t k = 0; k < batches; k++) {
        real *mean = pooled + k * images * d;
        ij_health h = { 0 };
        for (size_t i = 0; i < t->s.slots; i++)
            ij_images_spread(&t->s, i, k * images + i % images, seen);
        t->s.stream = k * t->s.slots;
        ij_each(&t->team, t->s.slots, ij_augment_task, &t->s);
        ij_must(ij_masks_draw(&m->masks, c, &rng, k, images, &why), &why);
        memset(mean, 0, images * d * sizeof *mean);
        if (images < 2) h.loss = h.skill = h.position = (double)NAN;
        else ij_must(ij_watch(&h, mean, m, t->s.images, &m->masks, work, &why), &why);
        const double share = 1 / (double)batches;
        all.loss += h.loss * share;
        all.skill += h.skill * share;
        all.position += h.position * share;
    }
    if (ij_watch_features(&all, pooled, seen, d, work, NULL)) all.rank = (double)NAN;
    free(work.base);
    free(pooled);
    return all;
}

static const char *ij_train_verdict(const ij_model *m, const ij_health *h)
{
    const ij_config *c = &m->config;
    if (c->batch_size < 2)
        return "no verdict: in batches of one image there is nothing to compare with";
    if (!m->step) return "too early to say: these are the first weights";
    return ij_verdict(h, c->objective, (double)m->step > c->warmup * (double)c->ipe);
}

/* A line of health.csv, and on the screen. */
static void ij_train_watch(ij_run *t)
{
    const ij_health h = ij_train_health(t, IJ_MIN(512, t->s.count / 8));
    const char *verdict = ij_train_verdict(&t->m, &h);
    const double epoch = (double)t->m.step / (double)t->m.config.ipe;
    fprintf(t->health, "%zu,%.6f,%.5f,%.5f,", (size_t)t->m.step, h.loss, h.skill, h.position);
    fprintf(t->health, "%.4f,%.5g,%.5f,%s\n", h.rank, h.feature_std, h.cosine, verdict);
    fprintf(stderr, "%sepoch %.2f  loss %.4f  ", ij_terminal() ? ij_line : "", epoch, h.loss);
    fprintf(stderr, "skill %.3f  position %.3f  ", h.skill, h.position);
    fprintf(stderr, "rank %.1f  cosine %.2f\n", h.rank, h.cosine);
    if (!strchr("htn", *verdict)) fprintf(stderr, "%s\n", verdict);     /* healthy, too early, no */
}

static void ij_train_save(ij_run *t, const ij_options *o, const char *path)
{
    ij_error why;
    if (fflush(t->log) || fflush(t->health))
        ij_fail(&why, IJ_EFILE, "%.300s: cannot be written: %s", t->log_path, strerror(errno));
    else if (!ij_save(&t->m, path, &why)) return;
    if (!o->keep_going) ij_die(1, "%s", why.text);
    fprintf(stderr, "ijepa: %s; training goes on\n", why.text);
}

static int ij_train(ij_options *o)
{
    ij_error why;
    ij_run t = { .out = o->out };
    if (!o->out && !o->dry_run) ij_die(2, "train needs --out DIR");
    if (!o->data) {
        fprintf(stderr, "data: the built-in scenes (--data PATH for your own)\n");
        o->data = "scenes";
    }
    ij_train_start(&t, o);
    if (o->dry_run) return 0;
    ij_model *m = &t.m;
    const ij_config *c = &m->config;
    size_t *order = ij_alloc(t.s.count * sizeof *order);
    uint64_t ordered = UINT64_MAX;
    const uint64_t from = m->step, steps = ij_steps(c);
    const double start = ij_seconds();
    double shown = start;
    if (!from) ij_train_watch(&t);
    while (m->step < steps && !ij_interrupted) {
        const double begin = ij_seconds();
        char kept[40], path[1100];
        ij_report r;
        do r = ij_train_pass(&t, order, &ordered);
        while (!r.updated);
        const size_t done = (size_t)m->step, epoch = done / c->ipe;
        fprintf(t.log, "%zu,%zu,%.6f,%.2f,%.2f,%.2f,%.6g,%.6g,%.8g,%.5g,%.5g\n",
                (done - 1) / c->ipe + 1, (done - 1) % c->ipe, r.loss, r.context_tokens,
                r.target_tokens, 1000 * (ij_seconds() - begin), r.lr, r.weight_decay, r.ema,
                r.grad_norm, r.feature_std);
        if (done % ij_watch_every(c) == 0 || done == steps) ij_train_watch(&t);
        if (done % c->ipe == 0 && o->keep_every && epoch % o->keep_every == 0) {
            snprintf(kept, sizeof kept, "epoch_%zu.safetensors", epoch);
            ij_train_save(&t, o, ij_path(path, o->out, kept));
        }
        if (done % c->ipe == 0 && done < steps) ij_train_save(&t, o, t.latest);
        ij_progress(m, &r, start, from, &shown, done == steps || ij_interrupted);
    }
    ij_close_or_die(t.log, t.log_path);
    ij_close_or_die(t.health, t.health_path);
    ij_must(ij_save(m, t.latest, &why), &why);
    fprintf(stderr, "%s: step %zu of %zu\n", t.latest, (size_t)m->step, (size_t)steps);
    return ij_interrupted ? 130 : 0;
}

/* ---- features and scores ---- */

/* The target encoder with the matrices that int8 makes of its own. */
static void ij_round_matrices(ij_model *m)
{
    int8_t *q = ij_alloc(m->encoder_size);
    for (size_t i = 0; i < m->encoder_params; i++) {
        const ij_tensor *t = &m->param[i].shape;
        const size_t in = ij_count(t) / t->dim[0];
        real scale, *w = m->target + m->param[i].offset;
        for (size_t row = 0; row < t->dim[0] && t->rank > 1; row++, w += in) {
            ij_quantise(q, &scale, w, 1, in);
            for (size_t k = 0; k < in; k++) w[k] = (real)q[k] * scale;
        }
    }
    free(q);
}

static ij_model ij_trained(const ij_options *o)
{
    ij_error why;
    ij_config c;
    const char *encoder = o->encoder ? o->encoder : "target";
    const int context = !strcmp(encoder, "context");
    if (!context && strcmp(encoder, "target"))
        ij_die(2, "--encoder is %s, expected target or context", encoder);
    ij_file f = ij_open_model(o->model, &c);
    ij_model m = ij_model_for(&c, IJ_LOADED);
    ij_must(ij_load_encoder(&m, &f, context ? "encoder" : "target_encoder", &why), &why);
    ij_file_close(&f);
    if (o->int8 && !o->header) ij_round_matrices(&m);
    return m;
}

/* Scores of the model, of an encoder with its random first weights, and of raw pixels. */
static int ij_probe(ij_options *o)
{
    static const char *const score[2] = { "k-NN", "linear" };
    if (!o->model) ij_die(2, "probe needs --model FILE");
    const char *data = o->data ? o->data : "scenes";
    const ij_team team = ij_team_start(o->threads);
    const ij_model trained = ij_trained(o), random = ij_model_for(&trained.config, IJ_INFER);
    const ij_model *const model[2] = { &trained, &random };
    const size_t most = o->images ? o->images : 10000;
    const int part[2] = { o->test ? IJ_WHOLE : IJ_TRAIN_PART, o->test ? IJ_WHOLE : IJ_TEST_PART };
    const char *test = o->test ? o->test : data;
    ij_features a = ij_features_of(data, part[0], model, 1, most, 0, &team);
    const ij_features b = ij_features_of(test, part[1], model, 1, most, 0, &team);
    double percent[2][3][3];    /* [k-NN, linear][features][task] */
    if (!a.tasks || a.tasks != b.tasks)
        ij_die(1, "%s: no labels: a probe needs them (folders per class, or a labelled format)",
               data);
    for (size_t t = 0; t < a.tasks; t++) a.classes[t] = IJ_MAX(a.classes[t], b.classes[t]);
    fprintf(stderr, "scoring: %zu training and %zu test images\n", a.n, b.n);
    for (int i = 0; i < 3; i++) {
        const ij_scored s = { a.n, b.n, a.width[i], a.x[i], b.x[i], a.tasks, a.label, b.label,
                              a.classes };
        ij_standardise(s.train, s.n, s.test, s.m, s.d);
        ij_score(percent[0][i], &s, 20, &team);
        ij_score(percent[1][i], &s, 0, &team);
    }
    FILE *csv = o->out ? ij_open_or_die(o->out, "w") : NULL;
    if (csv) fprintf(csv, "task,score,trained,random,pixels,images,chance\n");
    for (size_t t = 0; t < a.tasks; t++) {
        printf("%s%-32s     trained      random      pixels   margin\n", t ? "\n" : "", a.task[t]);
        for (int k = 0; k < 2; k++) {
            const double x[3] = { percent[k][0][t], percent[k][1][t], percent[k][2][t] };
            printf("%-32s", score[k]);
            for (int i = 0; i < 3; i++) printf(" %5.1f +-%4.1f", x[i], ij_interval(x[i], b.n));
            printf(" %+8.1f\n", x[0] - IJ_MAX(x[1], x[2]));         /* over the better */
            if (csv)
                fprintf(csv, "%s,%s,%.2f,%.2f,%.2f,%zu,%.2f\n", a.task[t], score[k], x[0], x[1],
                        x[2], b.n, 100 / (double)a.classes[t]);
        }
    }
    if (csv) ij_close_or_die(csv, o->out);
    return 0;
}

static int ij_features_command(ij_options *o)
{
    if (!o->model || !o->out) ij_die(2, "features needs --model FILE and --out FILE.npy");
    const ij_team team = ij_team_start(o->threads);
    const ij_model m = ij_trained(o);
    const ij_model *const model[2] = { &m, NULL };
    const char *data = o->data ? o->data : "scenes";
    const size_t n = ij_patches(&m.config), d = m.config.embed_dim;
    const ij_features f =
        ij_features_of(data, IJ_WHOLE, model, 0, o->images, o->tokens ? n : 0, &team);
    const ij_item x = { o->out, sizeof(real) == 8 ? IJ_F64 : IJ_F32, o->tokens ? 3 : 2,
                        { f.n, o->tokens ? n : d, d },
                        f.x[0] };
    ij_write_npy(&x);
    fprintf(stderr, "%s: %zu images\n", o->out, f.n);
    if (!f.tasks) return 0;
    char path[1100];
    size_t length = strlen(o->out);
    if (length > 4 && !strcmp(o->out + length - 4, ".npy")) length -= 4;
    int32_t *label = ij_alloc(f.n * f.tasks * sizeof *label);
    for (size_t i = 0; i < f.n * f.tasks; i++) label[i] = f.label[i % f.tasks][i / f.tasks];
    snprintf(path, sizeof path, "%.*s.labels.npy", (int)length, o->out);
    const ij_item labels = { path, IJ_I32, f.tasks > 1 ? 2 : 1, { f.n, f.tasks }, label };
    ij_write_npy(&labels);
    fprintf(stderr, "%s: their labels\n", path);
    return 0;
}

/* The next matrix; with q its numbers and scales go there, and both move on. */
static ij_rom_matrix ij_rom_place(const ij_tensor *w, const ij_tensor *b, int8_t **q, real **scale)
{
    const ij_rom_matrix m = { *q ? NULL : w->x, *q, *q ? *scale : NULL, b->x };
    const size_t out = w->dim[0], count = ij_count(w);
    if (!*q) return m;
    ij_quantise(*q, *scale, w->x, out, count / out);
    *q += count;
    *scale += out;
    return m;
}

/* The target encoder of m, which must stay as it is: only what is rounded is copied, and lies in
 * one block of memory that begins with r.block. */
static ij_rom ij_rom_of(const ij_model *m, int int8)
{
    const ij_encoder *e = &m->target_encoder;
    const ij_config *c = &m->config;
    const size_t gw = ij_gw(c), sides = ij_gh(c) + gw, d = c->embed_dim, half = d / 2;
    const size_t reals = sides * half + m->encoder_size;
    ij_rom_block *block =
        ij_alloc(e->depth * sizeof *block + reals * sizeof(real) + m->encoder_size);
    real *pos = (real *)(block + e->depth), *scale = pos + sides * half;
    int8_t *q = int8 ? (int8_t *)(pos + reals) : NULL;
    ij_rom r = { c->crop_size[0], c->crop_size[1], e->patch, d, e->depth, e->heads, ij_hidden(c),
                 .int8 = int8, .whole_pos = e->pos.x != NULL, .pos = e->pos.x ? e->pos.x : pos,
                 .block = block };
    r.norm_w = e->norm_w.x;
    r.norm_b = e->norm_b.x;
    for (size_t k = 0; k < 3; k++) ij_byte_scale(&r.scale[k], &r.shift[k], c, k);
    for (size_t i = 0; i < sides; i++) {
        const size_t from = i < gw ? i * d : (i - gw) * gw * d + half;
        memcpy(pos + i * half, m->encoder_pos.x + from, half * sizeof *pos);
    }
    r.patch_embed = ij_rom_place(&e->patch_w, &e->patch_b, &q, &scale);
    for (size_t i = 0; i < e->depth; i++) {
        const ij_block *b = &e->block[i];
        block[i] = (ij_rom_block){ b->norm1_w.x, b->norm1_b.x, b->norm2_w.x, b->norm2_b.x,
                                   ij_rom_place(&b->qkv_w, &b->qkv_b, &q, &scale),
                                   ij_rom_place(&b->proj_w, &b->proj_b, &q, &scale),
                                   ij_rom_place(&b->fc1_w, &b->fc1_b, &q, &scale),
                                   ij_rom_place(&b->fc2_w, &b->fc2_b, &q, &scale) };
    }
    return r;
}

static void ij_c_array(FILE *f, const char *name, const char *part, const real *x, const int8_t *q,
                       size_t n)
{
    fprintf(f, "static const %s %s_%s[%zu] = {", q ? "int8_t" : "ij_real", name, part, n);
    for (size_t i = 0; i < n; i++) {
        fprintf(f, "%s%s", i ? "," : "", i % (q ? 32 : 8) ? "" : "\n");
        if (q) fprintf(f, "%d", q[i]);
        else fprintf(f, sizeof(real) == 8 ? "%.16e" : "%.8ef", (double)x[i]);
    }
    fprintf(f, "\n};\n");
}

/* A header under way: n patches, RAM in numbers while there is attention, and an MLP; and sums of
 * the table's rows. */
typedef struct {
    FILE *f;
    const char *name;
    const ij_rom *r;
    size_t n, heads, mlp;
    double madds, flash;
} ij_c_file;

/* A matrix [out,in], or a norm [out,1], which has no RAM of its own. name: NAME_qkv0 */
typedef struct { char name[120]; ij_rom_matrix m; size_t out, in, ram; } ij_c_part;

static void ij_c_row(ij_c_file *c, const char *what, const char *shape, double madds, double flash,
                     size_t ram)
{
    printf("%-26s %-22s %14.0f %12.0f %10zu\n", what, shape, madds, flash, ram);
    c->madds += madds;
    c->flash += flash;
}

static void ij_c_matrix(ij_c_file *c, const ij_c_part *p)
{
    const ij_rom_matrix *m = &p->m;
    const double in = (double)p->in, out = (double)p->out, size = sizeof(real);
    char shape[64];
    ij_c_array(c->f, p->name, m->q ? "q" : "w", m->w, m->q, p->out * p->in);
    if (m->q) ij_c_array(c->f, p->name, "scale", m->scale, NULL, p->out);
    ij_c_array(c->f, p->name, "b", m->b, NULL, p->out);
    snprintf(shape, sizeof shape, p->ram ? "[%zu,%zu]" : "[%zu]", p->out, p->in);
    const double flash = out * (m->q ? in + 2 * size : (in + 1) * size);
    ij_c_row(c, p->name + strlen(c->name) + 1, shape, p->ram ? (double)c->n * out * in : 0, flash,
             p->ram * sizeof(real));
}

static void ij_c_uses(FILE *f, const ij_c_part *p)
{
    const char *name = p->name;
    if (!p->ram) fprintf(f, " %s_w, %s_b,", name, name);
    else if (p->m.q) fprintf(f, " { 0, %s_q, %s_scale, %s_b },", name, name, name);
    else fprintf(f, " { %s_w, 0, 0, %s_b },", name, name);
}

enum { IJ_C_PARTS = 6 };

/* Those of block i. */
static void ij_c_block(ij_c_part to[IJ_C_PARTS], const ij_c_file *c, size_t i)
{
    const ij_rom_block *b = &c->r->block[i];
    const size_t d = c->r->dim, h = c->r->hidden;
    const ij_c_part part[IJ_C_PARTS] = {
        { "norm1_", { b->norm1_w, NULL, NULL, b->norm1_b }, d, 1, 0 },
        { "norm2_", { b->norm2_w, NULL, NULL, b->norm2_b }, d, 1, 0 },
        { "qkv", b->qkv, 3 * d, d, c->heads }, { "proj", b->proj, d, d, c->heads },
        { "fc1", b->fc1, h, d, c->mlp }, { "fc2", b->fc2, d, h, c->mlp }
    };
    for (size_t k = 0; k < IJ_C_PARTS; k++) {
        to[k] = part[k];
        snprintf(to[k].name, sizeof to[k].name, "%.80s_%.9s%zu", c->name, part[k].name, i);
    }
}

/* The encoder as a C header, and what it takes, layer by layer. */
static void ij_c_header(FILE *f, const char *name, const char *model, const ij_rom *r)
{
    static const size_t order[IJ_C_PARTS] = { 0, 2, 3, 1, 4, 5 };
    const size_t gw = r->width / r->patch, gh = r->height / r->patch, n = gh * gw, R = IJ_ROM_ROWS;
    const size_t d = r->dim, dh = d / r->heads, h = r->hidden, pixels = 3 * r->patch * r->patch;
    const size_t sides = r->whole_pos ? n : gh + gw, wide = r->int8 ? R : 0;
    const size_t positions = r->whole_pos ? n * d : sides * (d / 2);
    const size_t heads = 2 * n * (d + dh) + R * (d + 2 + n + 2 * dh) + wide * d;
    const size_t mlp = n * d + R * (d + 2 + h) + wide * IJ_MAX(d, h);
    ij_c_file c = { f, name, r, n, heads, mlp, 0, 0 };
    ij_c_part embed = { "", r->patch_embed, d, pixels, n * d + (R + wide) * pixels };
    ij_c_part norm = { "", { r->norm_w, NULL, NULL, r->norm_b }, d, 1, 0 }, part[IJ_C_PARTS];
    char what[64], shape[64];
    snprintf(embed.name, sizeof embed.name, "%.80s_patch_embed", name);
    snprintf(norm.name, sizeof norm.name, "%.80s_norm", name);
    fprintf(f, "/* The encoder of ");
    for (const char *t = model; *t; t++) fputc(*t == '*' ? '+' : *t, f);
    fprintf(f, ", %s, by ijepa export. RGB images of %zux%zu (width, height). "
            "To be included in one file. */\n",
            r->int8 ? "int8" : "as it is", r->width, r->height);
    fprintf(f, "#ifndef %s_ARENA\n#define %s_DIM %zu\n", name, name, d);
    fprintf(f, "#define %s_ARENA IJ_ROM_ARENA(%zu, %s_DIM, %zu, %zu, %zu, %d)\n", name, n, name,
            r->heads, h, pixels, r->int8);
    fprintf(f, "#include \"ijepa.h\"\n#if%sdef IJEPA_DOUBLE\n"
            "#error \"these numbers are of the other precision\"\n#endif\n\n",
            sizeof(real) == 8 ? "n" : "");
    printf("%-26s %-22s %14s %12s %10s\n", "layer", "shape", "multiply-adds", "flash bytes",
           "RAM bytes");
    ij_c_array(f, name, "pos", r->pos, NULL, positions);
    ij_c_matrix(&c, &embed);
    snprintf(shape, sizeof shape, r->whole_pos ? "[%zu,%zu]" : "[%zu,%zu/2]", sides, d);
    ij_c_row(&c, "pos", shape, 0, (double)(positions * sizeof(real)), n * d * sizeof(real));
    for (size_t i = 0; i < r->depth; i++) {
        ij_c_block(part, &c, i);
        for (size_t k = 0; k < IJ_C_PARTS; k++) {
            ij_c_matrix(&c, &part[order[k]]);
            if (k != 1) continue;
            snprintf(what, sizeof what, "attention%zu", i);
            snprintf(shape, sizeof shape, "%zu x [%zu,%zu]", r->heads, n, n);
            ij_c_row(&c, what, shape, 2 * (double)n * (double)n * (double)d, 0,
                     c.heads * sizeof(real));
        }
    }
    ij_c_matrix(&c, &norm);
    ij_c_row(&c, "in all", "", c.madds, c.flash, ij_rom_arena(r));
    fprintf(f, "static const ij_rom_block %s_block[%zu] = {\n", name, r->depth);
    for (size_t i = 0; i < r->depth; i++) {
        ij_c_block(part, &c, i);
        fprintf(f, "    {");
        for (size_t k = 0; k < IJ_C_PARTS; k++) ij_c_uses(f, &part[k]);
        fprintf(f, " },\n");
    }
    fprintf(f, "};\nstatic const ij_rom %s = { %zu, %zu, %zu, %zu, %zu, %zu, %zu, %d, %d,\n   ",
            name, r->height, r->width, r->patch, d, r->depth, r->heads, h, r->int8, r->whole_pos);
    for (int i = 0; i < 2; i++) {
        const real *x = i ? r->shift : r->scale;
        fprintf(f, sizeof(real) == 8 ? " { %.16e, %.16e, %.16e }," : " { %.8ef, %.8ef, %.8ef },",
                (double)x[0], (double)x[1], (double)x[2]);
    }
    fprintf(f, " %s_pos,", name);
    ij_c_uses(f, &embed);
    fprintf(f, " %s_block, %s_norm_w, %s_norm_b };\n#endif\n", name, name, name);
}

static int ij_export_command(ij_options *o)
{
    static const char words[] =
        " auto break case char const continue default do double else enum extern float for goto if "
        "inline int long register restrict return short signed sizeof static struct switch typedef "
        "union unsigned void volatile while ";
    static const char letters[] = "0123456789_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    ij_error why;
    char name[80], word[84];
    if (!o->model || !o->header) ij_die(2, "export needs --model FILE and --c NAME.h");
    const ij_model m = ij_trained(o);
    const char *data = o->data ? o->data : "scenes", *slash = strrchr(o->header, '/');
    const char *base = slash ? slash + 1 : o->header;
    const size_t length = strspn(base, letters), d = m.config.embed_dim;
    snprintf(name, sizeof name, "%.*s", (int)length, base);
    snprintf(word, sizeof word, " %s ", name);
    if (length >= sizeof name || strcmp(base + length, ".h") || *base <= '9' ||
        strstr(words, word) || ((base[0] | 32) == 'i' && (base[1] | 32) == 'j'))
        ij_die(2, "--c %s: expected NAME.h, NAME a word of C that does not begin with ij",
               o->header);
    const ij_rom r = ij_rom_of(&m, o->int8);
    ij_images s = ij_images_open(data, IJ_TEST_PART, &m.config, 1, NULL);
    const ij_pictures in = { s.images, 1, r.height, r.width };
    const ij_memory work = ij_encode_memory(&m.target_encoder, &in);
    const ij_memory arena = ij_memory_of(ij_rom_arena(&r));
    real *feature = ij_alloc(2 * d * sizeof *feature);
    const size_t images = IJ_MIN(o->images ? o->images : 100, s.count);
    double sum = 0, least = 1;
    for (size_t i = 0; i < images && !ij_interrupted; i++) {
        const uint8_t *rgb = ij_images_middle(&s, i, images);
        ij_must(ij_encode(NULL, feature, &m.target_encoder, &in, work, NULL, &why), &why);
        ij_must(ij_rom_encode(feature + d, &r, rgb, arena.base, arena.size, &why), &why);
        const double cosine = ij_alike(feature, feature + d, d);
        sum += cosine;
        least = IJ_MIN(least, cosine);
    }
    if (ij_interrupted) return 130;
    if (!(fabs(sum) <= (double)images * 1.01))
        ij_die(1, "%s: its features are not finite", o->model);
    const ij_draft header = ij_draft_open(o->header);
    ij_c_header(header.f, name, o->model, &r);
    printf("cosine to the features of the model as it is, %zu images of %s: mean %.6f, "
           "least %.6f\n", images, data, sum / (double)images, least);
    ij_draft_close(&header);
    fprintf(stderr, "%s\n", o->header);
    return 0;
}

/* ---- pictures ----
 * Images down, panels across. A panel paints the points of an image by their patch, or is a
 * picture of its own. */

static ij_lists ij_lists_for(size_t lists, size_t stride)       /* of no patches yet */
{
    const size_t indices = ij_mul(lists, stride * sizeof(size_t));
    return (ij_lists){ lists, stride, ij_zeros(lists * sizeof(size_t)), ij_alloc(indices) };
}

static int ij_listed(const ij_lists *l, size_t list, size_t patch)
{
    for (size_t j = 0; j < l->length[list]; j++)
        if (l->index[list * l->stride + j] == patch) return 1;
    return 0;
}

/* The last block of image b of a batch that has the patch, counted from 1; 0: none. */
static size_t ij_block_with(const ij_lists *l, size_t batch, size_t b, size_t patch)
{
    for (size_t blocks = l->lists / batch; blocks; blocks--)
        if (ij_listed(l, (blocks - 1) * batch + b, patch)) return blocks;
    return 0;
}

enum { IJ_COLUMNS = 64, IJ_GAP = 4, IJ_FIT = 2000, IJ_DRAWS = 200 };
typedef struct ij_show ij_show;
typedef struct { size_t image, patch, which; } ij_point;
typedef struct {
    const char *name;
    void (*paint)(uint8_t rgb[3], const ij_show *s, const ij_point *at);    /* rgb: the image's */
    int needs;                  /* a sum of the below */
    size_t which;               /* picture, if nothing paints */
    size_t columns;             /* 0: one for each head */
} ij_panel;
enum { IJ_NEEDS_MASKS = 1, IJ_NEEDS_MODEL = 2, IJ_NEEDS_PREDICTOR = 4 };

struct ij_show {
    ij_model m;                 /* if there is one */
    ij_config c;
    size_t columns, which[IJ_COLUMNS];
    const ij_panel *panel[IJ_COLUMNS];
    size_t images, h, w, bytes;         /* bytes of an image */
    size_t gw, n, patch;        /* patches in a row, in all; the chosen one */
    uint8_t *picture[5];        /* [images,h,w,3] the images, and see ij_show_predicted */
    real *tokens, *attention;   /* [images,N,D] [images,heads,N] */
    uint8_t *pca;               /* [images,N,3] */
    ij_masks masks;
    double *seen;               /* [2,N] share of draws in which a patch is context, or a target */
};

/* Black, violet, red, orange, pale yellow for 0..1. */
static void ij_heat(uint8_t rgb[3], double x)
{
    static const double stop[5][3] = {
        { 0, 0, 4 }, { 87, 16, 110 }, { 188, 55, 84 }, { 249, 142, 9 }, { 252, 255, 164 }
    };
    const double at = IJ_MAX(0, IJ_MIN(x, 1)) * 4;
    const int i = IJ_MIN((int)at, 3);
    for (int c = 0; c < 3; c++)
        rgb[c] = (uint8_t)(stop[i][c] + (stop[i + 1][c] - stop[i][c]) * (at - i) + 0.5);
}

static void ij_panel_context(uint8_t rgb[3], const ij_show *s, const ij_point *at)
{
    if (!ij_listed(&s->masks.context, at->image, at->patch)) memset(rgb, 128, 3);
}

static void ij_panel_targets(uint8_t rgb[3], const ij_show *s, const ij_point *at)
{
    static const uint8_t colour[4][3] = {
        { 230, 80, 60 }, { 60, 140, 230 }, { 60, 180, 90 }, { 220, 170, 40 }
    };
    const ij_lists *l = &s->masks.target;
    int hit = 0;
    for (size_t t = 0; t < l->lists / s->images; t++) {
        if (!ij_listed(l, t * s->images + at->image, at->patch)) continue;
        for (int c = 0; c < 3; c++) rgb[c] = (uint8_t)((rgb[c] + colour[t % 4][c]) / 2);
        hit = 1;
    }
    for (int c = 0; c < 3 && !hit; c++) rgb[c] = (uint8_t)(96 + rgb[c] / 8);
}

static void ij_panel_coverage(uint8_t rgb[3], const ij_show *s, const ij_point *at)
{
    ij_heat(rgb, s->seen[at->which * s->n + at->patch]);
}

static void ij_panel_pca(uint8_t rgb[3], const ij_show *s, const ij_point *at)
{
    memcpy(rgb, s->pca + (at->image * s->n + at->patch) * 3, 3);
}

static void ij_panel_similarity(uint8_t rgb[3], const ij_show *s, const ij_point *at)
{
    const size_t d = s->c.embed_dim;
    const real *image = s->tokens + at->image * s->n * d;
    ij_heat(rgb, (ij_alike(image + s->patch * d, image + at->patch * d, d) + 1) / 2);
    if (at->patch == s->patch) memset(rgb, 255, 3);
}

static void ij_panel_attention(uint8_t rgb[3], const ij_show *s, const ij_point *at)
{
    const real *p = s->attention + (at->image * s->c.num_heads + at->which) * s->n;
    real most = 0;
    for (size_t j = 0; j < s->n; j++) most = IJ_MAX(most, p[j]);
    ij_heat(rgb, (double)(p[at->patch] / most));
}

static const ij_panel ij_panels[] = {
    { "image", NULL, 0, 0, 1 },
    { "context", ij_panel_context, IJ_NEEDS_MASKS, 0, 1 },
    { "targets", ij_panel_targets, IJ_NEEDS_MASKS, 0, 1 },
    { "coverage", ij_panel_coverage, IJ_NEEDS_MASKS, 0, 2 },        /* context, targets */
    { "pca", ij_panel_pca, IJ_NEEDS_MODEL, 0, 1 },
    { "similarity", ij_panel_similarity, IJ_NEEDS_MODEL, 0, 1 },
    { "attention", ij_panel_attention, IJ_NEEDS_MODEL, 0, 0 },
    { "montage", NULL, IJ_NEEDS_PREDICTOR, 1, 1 },
    { "nearest", NULL, IJ_NEEDS_PREDICTOR, 2, 1 },
    { "sketch", NULL, IJ_NEEDS_PREDICTOR, 3, 1 },
    { "traced", NULL, IJ_NEEDS_PREDICTOR, 4, 1 },
};
enum { IJ_PANELS = sizeof ij_panels / sizeof *ij_panels };

/* Tokens, their first three principal components over all images shown, and the last block's
 * attention, mean over what asks. */
static void ij_show_model(ij_show *s, const real *images, const ij_team *team)
{
    ij_error why;
    const size_t n = s->n, d = s->c.embed_dim, heads = s->c.num_heads;
    const ij_encoder *e = &s->m.target_encoder;
    ij_pictures in = { images, 1, s->h, s->w };
    const ij_memory work = ij_encode_memory(e, &in);
    s->tokens = ij_alloc(s->images * n * d * sizeof(real));
    s->pca = ij_alloc(s->images * n * 3);
    real *attention = s->attention = ij_zeros(s->images * heads * n * sizeof(real));
    for (size_t b = 0; b < s->images; b++, in.x += s->bytes) {
        ij_encoder_pass pass;
        ij_tensor pos;
        ij_arena a = { work.base, work.size, 0 };
        ij_must(ij_encode(s->tokens + b * n * d, NULL, e, &in, work, team, &why), &why);
        /* what is left in the blocks' one place: the last's */
        ij_encode_place(&pass, &pos, &a, e, &in);
        const real *prob = pass.stack.block[0].prob;    /* [heads,N,N] */
        for (size_t k = 0; k < heads; k++, attention += n, prob += n * n)
            for (size_t j = 0; j < n; j++) {
                for (size_t i = 0; i < n; i++) attention[j] += prob[i * n + j];
                attention[j] /= (real)n;
            }
    }
    free(work.base);
    ij_pca_colours(s->pca, s->tokens, s->images * n, d);
}

static void ij_show_masks(ij_show *s)
{
    ij_error why;
    ij_config c = s->c;
    ij_rng rng;
    c.batch_size = s->images;
    s->masks = ij_masks_for(&c);
    ij_rng_seed(&rng, c.seed);
    for (uint64_t draw = 0; draw < IJ_DRAWS; draw++) {      /* the last one is shown */
        ij_must(ij_masks_draw(&s->masks, &c, &rng, draw, s->images, &why), &why);
        for (size_t b = 0; b < s->images; b++)
            for (size_t i = 0; i < 2 * s->n; i++) {
                const ij_lists *l = i < s->n ? &s->masks.context : &s->masks.target;
                if (ij_block_with(l, s->images, b, i % s->n))
                    s->seen[i] += 1 / ((double)IJ_DRAWS * (double)s->images);
            }
    }
}

/* The patches that a hole x,y,w,h (in pixels) touches are one target, the others the context. */
static void ij_show_hole(ij_show *s, const char *text)
{
    size_t x, y, w, h;
    char rest;
    const size_t p = s->c.patch_size;
    if (sscanf(text, "%zu,%zu,%zu,%zu%c", &x, &y, &w, &h, &rest) != 4 || !w || !h || w > s->w ||
        h > s->h)
        ij_die(2, "--hole is %s, expected x,y,width,height in pixels of the %zux%zu image",
               text, s->w,
               s->h);
    s->masks.context = ij_lists_for(s->images, s->n);
    s->masks.target = ij_lists_for(s->images, s->n);
    for (size_t b = 0; b < s->images; b++)
        for (size_t i = 0; i < s->n; i++) {
            const size_t py = i / s->gw * p, px = i % s->gw * p;
            const int inside = py + p > y && py < y + h && px + p > x && px < x + w;
            ij_lists *l = inside ? &s->masks.target : &s->masks.context;
            l->index[b * s->n + l->length[b]++] = i;
            s->seen[inside ? s->n + i : i] = 1;
        }
    if (!*s->masks.context.length) ij_die(2, "--hole %s leaves no context", text);
    if (!*s->masks.target.length) ij_die(2, "--hole %s leaves no patch inside", text);
}

enum { IJ_REFERENCE = 1000 };
/* patches of training images: what a patch's target looks like in pixels */
typedef struct {
    ij_model m;                 /* with its predictor, one image at a time */
    ij_step step;
    size_t patches, bytes;      /* bytes of a patch, 3pp */
    uint8_t *rgb;               /* [patches,3pp] */
    real *z, *near;             /* [patches,D] targets as the loss sees them; [patches] */
    double *square;             /* [patches] their squared lengths */
    ij_scored asked;            /* ridge regression from a target to the bytes of its patch */
    ij_probe_work fit;
    void *fit_memory;
} ij_reference;

/* Byte j of a patch (row, column, channel), from the image's first. */
static size_t ij_patch_byte(const ij_config *c, size_t patch, size_t j)
{
    const size_t p = c->patch_size, y = patch / ij_gw(c) * p, x = patch % ij_gw(c) * p;
    return ((y + j / 3 / p) * c->crop_size[1] + x + j / 3 % p) * 3 + j % 3;
}

/* The targets of all patches of image b, through a step laid out for its masks. */
static void ij_reference_targets(real *z, ij_reference *r, const real *images,
                                 const ij_masks *masks, size_t b)
{
    ij_error why;
    ij_must(ij_step_begin(&r->step, &r->m, images, masks, b, &why), &why);
    ij_encode_targets(&r->step, &r->m.team);
    const ij_tensor *t = r->step.loss.target;
    ij_normalise_rows(z, t->x, ij_rows(t), ij_cols(t), 0);
}

/* Of the images shown the reference takes one at a time, with one context. */
static void ij_reference_config(ij_config *c)
{
    c->batch_size = c->num_enc_masks = c->num_pred_masks = 1;
    c->vicreg = 0;
    c->min_keep = 0;
    c->mask_mode = IJ_MASK_PAPER;
}

/* Room for the masks of what is shown, for a model r->m that has its predictor. */
static void ij_reference_room(ij_reference *r, const ij_show *s)
{
    ij_config *c = &r->m.config;
    ij_reference_config(c);
    c->num_pred_masks = s->masks.target.lists / s->images;
    r->m.work_size = 0;
    for (size_t b = 0; b < s->images; b++) {
        const ij_part part = { b, 1, s->images };
        const ij_counts n = ij_count_part(NULL, c, &s->masks, &part);
        ij_arena room = { NULL, 0, 0 };
        ij_step_place(&r->step, &room, c, &n);
        r->m.work_size = IJ_MAX(r->m.work_size, room.used);
    }
    r->m.work = ij_alloc(r->m.work_size);
}

static void ij_reference_model(ij_reference *r, const ij_show *s, const char *path)
{
    ij_error why;
    ij_config c;
    ij_file f = ij_open_model(path, &c);
    if (c.objective == IJ_JOINT || f.kind == IJ_KIND_HUGGING_FACE)
        ij_die(1, "%s: no predictor of patches: no montage, no sketch", path);
    ij_reference_config(&c);
    r->m = ij_model_for(&c, IJ_TRAIN);
    ij_must(ij_load(&r->m, &f, &why), &why);
    ij_file_close(&f);
    ij_reference_room(r, s);
}

static void ij_reference_free(ij_reference *r)
{
    free(r->rgb);
    free(r->z);
    free(r->near);
    free(r->square);
    free(r->fit_memory);
}

/* Patches of up to `most` pictures of a set, and their targets. */
static void ij_reference_read(ij_reference *r, const ij_show *s, ij_images *data, size_t most,
                              const ij_team *team)
{
    const ij_config *c = &r->m.config;
    const size_t images = IJ_MIN(data->count, most), n = s->n, d = ij_target_dim(c);
    double shown = ij_seconds();
    r->m.team = *team;
    r->patches = images * n;
    r->bytes = 3 * c->patch_size * c->patch_size;
    r->rgb = ij_alloc(r->patches * r->bytes);
    r->z = ij_alloc(r->patches * d * sizeof(real));
    r->near = ij_alloc(r->patches * sizeof(real));
    r->square = ij_zeros(r->patches * sizeof(double));
    for (size_t i = 0; i < images; i++) {
        const uint8_t *rgb = ij_images_middle(data, i, images);
        for (size_t j = 0; j < n * r->bytes; j++)
            r->rgb[i * n * r->bytes + j] = rgb[ij_patch_byte(c, j / r->bytes, j % r->bytes)];
        ij_reference_targets(r->z + i * n * d, r, data->images, &s->masks, 0);
        if (ij_interrupted) exit(130);
        ij_count_shown("reference", i + 1, images, &shown);
    }
    for (size_t i = 0; i < r->patches * d; i++)
        r->square[i / d] += (double)r->z[i] * (double)r->z[i];
}

/* Ridge regression, rows [1 | target | bytes]: see ij_ridge. */
static void ij_reference_fit(ij_reference *r, const ij_team *team)
{
    ij_error why;
    ij_probe_work *w = &r->fit;
    const size_t d = ij_target_dim(&r->m.config);
    size_t size;
    r->asked = (ij_scored){ .d = d, .tasks = 1, .classes = &r->bytes };
    ij_must(ij_ridge_size(&size, &r->asked, &why), &why);
    r->fit_memory = ij_zeros(size);
    ij_probe_place(&size, w, (ij_arena){ r->fit_memory, size, 0 }, &r->asked, 0, &why);
    w->n = (double)r->patches;
    for (size_t i = 0; i < r->patches; i++) {
        const size_t rows = i % IJ_BLOCK + 1;
        double *row = w->z + (rows - 1) * w->width;
        row[0] = 1;
        for (size_t j = 0; j < d; j++) row[1 + j] = (double)r->z[i * d + j];
        for (size_t j = 0; j < r->bytes; j++) row[w->terms + j] = r->rgb[i * r->bytes + j];
        if (rows < IJ_BLOCK && i + 1 < r->patches) continue;
        ij_gram_work g = { w->gram, 1, w->z, rows, 0, w->terms, w->width };
        ij_each(team, (w->terms + IJ_BLOCK - 1) / IJ_BLOCK, ij_gram_task, &g);
    }
    if (!ij_ridge_solve(w, 1e-3, team)) ij_die(1, "the sketch has no solution");
}

/* Patch i of an image, from a target v [D]: the nearest patch of the reference, and the sketch. */
static void ij_reference_draw(uint8_t *nearest, uint8_t *sketch, ij_reference *r, real *v, size_t i)
{
    const size_t d = ij_target_dim(&r->m.config);
    const ij_product dot = { 1, r->patches, d, v, d, 1, r->z, 1, d, r->near, r->patches, NULL, 0 };
    size_t best = 0;
    ij_matmul(&dot, NULL);
    for (size_t k = 1; k < r->patches; k++)
        if (r->square[k] - 2 * (double)r->near[k] < r->square[best] - 2 * (double)r->near[best])
            best = k;
    r->asked.test = v;
    ij_ridge_vote(&r->fit, 0);
    for (size_t j = 0; j < r->bytes; j++) {
        const size_t to = ij_patch_byte(&r->m.config, i, j);
        nearest[to] = r->rgb[best * r->bytes + j];
        sketch[to] = (uint8_t)IJ_MAX(0, IJ_MIN(r->fit.z[j] + 0.5, 255));
    }
}

/* Of image b: the mean prediction of each patch over the blocks that have it, its true target
 * [N,D], and how many blocks have it [N]. */
static void ij_reference_predict(real *mean, real *want, size_t *count, ij_reference *r,
                                 const real *images, const ij_masks *masks, size_t b)
{
    const ij_config *c = &r->m.config;
    const ij_lists *target = &masks->target;
    const size_t n = ij_patches(c), d = ij_target_dim(c);
    ij_reference_targets(want, r, images, masks, b);
    ij_encode_context(&r->step, &r->m.team);
    ij_predict(&r->step, &r->m.team);
    const real *out = r->step.predictor.out.x;
    memset(mean, 0, n * d * sizeof *mean);
    memset(count, 0, n * sizeof *count);
    for (size_t t = b; t < target->lists; t += target->lists / c->num_pred_masks)
        for (size_t j = 0; j < target->length[t]; j++, out += d) {
            const size_t i = target->index[t * target->stride + j];
            for (size_t k = 0; k < d; k++) mean[i * d + k] += out[k];
            count[i]++;
        }
    for (size_t i = 0; i < n * d; i++) mean[i] /= (real)IJ_MAX(count[i / d], 1);
}

/* What does it predict? Two honest answers, without a second network: each predicted patch is
 * filled with the patch of the reference whose target is nearest to the prediction (picture 1),
 * beside the nearest to the true target (2: as good as it gets); and with ridge regression's
 * pixels for the prediction (3) and for the true target (4). */
static void ij_show_predicted(ij_show *s, const ij_options *o, const real *images,
                              const ij_team *team)
{
    const size_t n = s->n, d = ij_target_dim(&s->c), all = s->images * s->bytes;
    ij_reference r = { 0 };
    real *mean = ij_alloc(2 * n * d * sizeof *mean), *want = mean + n * d;
    size_t *count = ij_alloc(n * sizeof *count);
    ij_reference_model(&r, s, o->model);
    const char *path = o->reference ? o->reference : "scenes:1000";
    ij_images data = ij_images_open(path, IJ_TRAIN_PART, &r.m.config, 1, team);
    ij_reference_read(&r, s, &data, IJ_REFERENCE, team);
    ij_reference_fit(&r, team);
    for (int k = 1; k < 5; k++)
        s->picture[k] = memcpy(ij_alloc(all), s->picture[0], all);
    for (size_t b = 0; b < s->images; b++) {
        ij_reference_predict(mean, want, count, &r, images, &s->masks, b);
        for (size_t i = 0; i < n; i++)
            for (int k = 1; k < 3 && count[i]; k++) {
                uint8_t *nearest = s->picture[k] + b * s->bytes;
                uint8_t *sketch = s->picture[k + 2] + b * s->bytes;
                ij_reference_draw(nearest, sketch, &r, (k == 1 ? mean : want) + i * d, i);
            }
    }
    ij_reference_free(&r);
}

static int ij_ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text), m = strlen(end);
    return n > m && !strcmp(text + n - m, end);
}

/* To a PPM or a PNG, by the name's end. */
static void ij_show_write(const char *path, const uint8_t *rgb, size_t h, size_t w)
{
    const int ppm = ij_ends_with(path, ".ppm");
    uint8_t *png = ppm ? NULL : ij_alloc(ij_png_size(h, w));
    FILE *f = ij_open_or_die(path, "wb");
    if (ppm) {
        fprintf(f, "P6\n%zu %zu\n255\n", w, h);
        fwrite(rgb, 1, h * w * 3, f);
    } else fwrite(png, 1, ij_png(png, rgb, h, w), f);
    ij_close_or_die(f, path);
    free(png);
}

/* Adds the columns of a panel, and returns what it needs. */
static int ij_show_add(ij_show *s, const char *name, size_t length, int model)
{
    const ij_panel *p = ij_panels;
    while (p < ij_panels + IJ_PANELS &&
           (strlen(p->name) != length || strncmp(name, p->name, length)))
        p++;
    if (p == ij_panels + IJ_PANELS)
        ij_die(2, "no panel is called %.*s; see ijepa show --help", (int)length, name);
    if (p->needs > IJ_NEEDS_MASKS && !model) ij_die(2, "panel %s needs --model", p->name);
    const size_t columns = p->columns ? p->columns : s->c.num_heads;
    if (columns > IJ_COLUMNS - s->columns)
        ij_die(2, "--panels: more than %d panels", (int)IJ_COLUMNS);
    for (size_t i = 0; i < columns; i++) {
        s->panel[s->columns] = p;
        s->which[s->columns++] = p->which + i;
    }
    return p->needs;
}

/* Reads the images, and computes what the panels need. */
static void ij_show_open(ij_show *s, const ij_options *o, const ij_team *team)
{
    const char *names = o->model ? "image,context,targets,pca,similarity" : "image,context,targets";
    int needs = 0;
    *s = (ij_show){ .c = o->c };
    if (o->model) {
        s->m = ij_trained(o);
        s->c = s->m.config;
    }
    s->h = s->c.crop_size[0];
    s->w = s->c.crop_size[1];
    s->bytes = 3 * s->h * s->w;
    s->gw = ij_gw(&s->c);
    s->n = ij_patches(&s->c);
    s->patch = o->patch ? o->patch - 1 : s->n / 2 + s->gw / 2;
    if (s->patch >= s->n) ij_die(2, "--patch %zu: there are %zu", o->patch, s->n);
    for (const char *at = o->panels ? o->panels : names; *at; at += *at == ',') {
        const size_t length = strcspn(at, ",");
        needs |= ij_show_add(s, at, length, o->model != NULL);
        at += length;
    }
    ij_images data = ij_images_open(o->what ? o->what : "scenes:100", IJ_WHOLE, &s->c, 1, team);
    s->images = IJ_MIN(o->images ? o->images : 4, data.count);
    s->picture[0] = ij_alloc(ij_mul(s->images, s->bytes));
    real *pixels = ij_alloc(ij_mul(s->images, s->bytes * sizeof *pixels));
    for (size_t i = 0; i < s->images; i++) {
        memcpy(s->picture[0] + i * s->bytes, ij_images_middle(&data, i, s->images), s->bytes);
        memcpy(pixels + i * s->bytes, data.images, s->bytes * sizeof *pixels);
    }
    s->seen = ij_zeros(2 * s->n * sizeof *s->seen);
    if (o->hole) ij_show_hole(s, o->hole);
    else if (needs & (IJ_NEEDS_MASKS | IJ_NEEDS_PREDICTOR)) ij_show_masks(s);
    if (o->model) ij_show_model(s, pixels, team);
    if (needs & IJ_NEEDS_PREDICTOR) ij_show_predicted(s, o, pixels, team);
    if (ij_interrupted) exit(130);
    free(pixels);
    ij_data_close(data.d);
}

/* Paints a column of an image at rgb, whose rows are `row` bytes apart. */
static void ij_show_paint(uint8_t *rgb, size_t row, const ij_show *s, size_t image, size_t column,
                          size_t zoom)
{
    const ij_panel *panel = s->panel[column];
    const size_t p = s->c.patch_size, which = s->which[column];
    const uint8_t *from = s->picture[panel->paint ? 0 : which] + image * s->bytes;
    for (size_t i = 0; i < s->h * zoom * s->w * zoom; i++) {
        const size_t zy = i / (s->w * zoom), zx = i % (s->w * zoom), y = zy / zoom, x = zx / zoom;
        const ij_point at = { image, y / p * s->gw + x / p, which };
        uint8_t *to = rgb + zy * row + 3 * zx;
        memcpy(to, from + (y * s->w + x) * 3, 3);
        if (panel->paint && x / p < s->gw && at.patch < s->n) panel->paint(to, s, &at);
    }
}

static int ij_show_command(ij_options *o)
{
    const ij_team team = ij_team_start(o->threads);
    ij_show s;
    if (!o->out) ij_die(2, "%s needs --out FILE.png or FILE.ppm", o->command);
    if (!ij_ends_with(o->out, ".png") && !ij_ends_with(o->out, ".ppm"))
        ij_die(2, "--out %s: expected a name that ends in .png or .ppm", o->out);
    if (o->model && (o->configured || o->preset || o->config))
        ij_die(2, "the model has its settings: give --model or settings");
    ij_show_open(&s, o, &team);
    size_t zoom = 1;
    while ((zoom + 1) * IJ_MAX(s.h, s.w) <= 160 && s.columns * (zoom + 1) * s.w < IJ_FIT) zoom++;
    const size_t cell_h = s.h * zoom + IJ_GAP, cell_w = s.w * zoom + IJ_GAP;
    const size_t height = s.images * cell_h - IJ_GAP, width = s.columns * cell_w - IJ_GAP;
    uint8_t *rgb = ij_alloc(ij_mul(height, 3 * width));
    memset(rgb, 255, height * width * 3);
    for (size_t b = 0; b < s.images; b++)
        for (size_t k = 0; k < s.columns; k++)
            ij_show_paint(rgb + (b * cell_h * width + k * cell_w) * 3, 3 * width, &s, b, k, zoom);
    ij_show_write(o->out, rgb, height, width);
    for (size_t k = 0; k < s.columns; k++)
        fprintf(stderr, "%s%s", k ? " | " : "", s.panel[k]->name);
    fprintf(stderr, "\n");
    return 0;
}

static int ij_predict_command(ij_options *o)
{
    if (!o->what || !o->model) ij_die(2, "predict needs an image and --model FILE");
    o->panels = "image,context,montage,nearest,sketch,traced";
    return ij_show_command(o);
}

/* ---- masks, scenes, info ---- */

static int ij_masks_command(ij_options *o)
{
    ij_error why;
    ij_rng rng;
    char mode[IJ_TEXT];
    const ij_config *c = &o->c;
    ij_masks masks = ij_masks_for(c);
    const ij_lists *context = &masks.context, *target = &masks.target;
    const size_t gh = ij_gh(c), gw = ij_gw(c);
    const size_t batch = c->batch_size, show = o->images ? o->images : 4;
    const size_t draws = IJ_MAX(100, (show + batch - 1) / batch);
    size_t *seen = ij_zeros(gh * sizeof *seen);         /* tokens of contexts in a row */
    double contexts = 0, tokens = 0, targets = 0;
    ij_rng_seed(&rng, c->seed);
    printf("c context   1..%zu target block   . neither\n\n", c->num_pred_masks);
    for (size_t draw = 0; draw < draws; draw++) {
        ij_must(ij_masks_draw(&masks, c, &rng, draw, batch, &why), &why);
        for (size_t b = 0; b < batch && draw * batch + b < show; b++) {
            for (size_t n = 0; n < gh * gw; n++) {
                const size_t block = ij_block_with(target, batch, b, n);
                char mark = ij_block_with(context, batch, b, n) ? 'c' : '.';
                if (block) mark = (char)('1' + (block - 1) % 9);
                printf("%c%c", mark, (n + 1) % gw ? ' ' : '\n');
            }
            printf("\n");
        }
        for (size_t i = 0; i < target->lists; i++)
            targets += (double)target->length[i];
        for (size_t i = 0; i < context->lists; i++, contexts++)
            for (size_t j = 0; j < context->length[i]; j++, tokens++)
                seen[context->index[i * context->stride + j] / gw]++;
    }
    for (size_t i = 0; i < IJ_SETTINGS; i++)
        if (!strcmp(ij_config_name(i), "mask_mode")) ij_config_text(mode, c, i);
    printf("%zux%zu patches, %s mode, %zu draws of %zu images: context %.1f tokens, target block "
           "%.1f\n", gh, gw, mode, draws, batch, tokens / contexts,
           targets / (double)(draws * target->lists));
    printf("share of contexts that see a row, from the top:");
    for (size_t r = 0; r < gh; r++) printf(" %.2f", (double)seen[r] / (double)gw / contexts);
    printf("\n");
    return 0;
}

static int ij_render(ij_options *o)
{
    ij_error why;
    const size_t side = o->c.crop_size[0], images = o->images ? o->images : 36;
    char path[1100], name[80];
    if (!o->out) ij_die(2, "render needs --out DIR");
    if (side > 4096 || !side) ij_die(2, "crop_size must be 1..4096 here");
    ij_must(ij_make_folder(o->out, &why), &why);
    uint8_t *rgb = ij_alloc(side * side * 3);
    const ij_draft labels = ij_draft_open(ij_path(path, o->out, "labels.csv"));
    fprintf(labels.f, "file,count,dist,kind\n");
    for (size_t i = 0; i < images && !ij_interrupted; i++) {
        int label[IJ_SCENE_TASKS];
        ij_scene(rgb, side, o->c.seed, i, label);
        snprintf(name, sizeof name, "scene_%06zu.ppm", i);
        ij_show_write(ij_path(path, o->out, name), rgb, side, side);
        fprintf(labels.f, "%s,%d,%d,%d\n", name, label[IJ_SCENE_COUNT], label[IJ_SCENE_DIST],
                label[IJ_SCENE_KIND]);
    }
    ij_draft_close(&labels);
    return ij_interrupted ? 130 : 0;
}

static int ij_info(ij_options *o)
{
    if (!o->what) {
#ifdef IJ_HAS_FMA
        const char *const madd = "fused multiply-add";
#else
        const char *const madd = "multiply, then add";
#endif
        printf("numbers      %s\nvectors      %zu bits\nmatmul tile  %d x %d, %s\n"
               "threads      %zu, one per processor it may use\n",
               sizeof(real) == 8 ? "double" : "float", 8 * IJ_VL * sizeof(real), (int)IJ_MR,
               (int)IJ_NR, madd,
               ij_processors());
        return 0;
    }
    ij_file f = ij_open_model(o->what, NULL);
    for (size_t i = 0; i < f.metas; i++) printf("%s = %.100s\n", f.meta[2 * i], f.meta[2 * i + 1]);
    double total = 0;
    for (size_t i = 0; i < f.entries; i++) {
        const ij_entry *e = &f.entry[i];
        printf("%-60s %-5s [", e->name, e->type);
        for (size_t k = 0; k < e->rank; k++) printf("%s%zu", k ? "," : "", e->dim[k]);
        printf("]\n");
        total += (double)e->count;
    }
    static const char *const kind[] = { "unknown", "ijepa", "Hugging Face" };
    static const char *const part[4][2] = {
        { "target_encoder.norm.weight", "target_encoder" }, { "encoder.norm.weight", "encoder" },
        { "predictor.predictor_norm.weight", "predictor" },
        { "opt.m.encoder.norm.weight", "optimizer" },
    };
    printf("%zu tensors, %.0f numbers. Layout: %s. Holds%s", f.entries, total, kind[f.kind],
           f.kind == IJ_KIND_HUGGING_FACE ? " one encoder" : ":");
    for (int i = 0; i < 4; i++)
        if (ij_file_find(&f, part[i][0])) printf(" %s", part[i][1]);
    printf("\n");
    ij_file_close(&f);
    return 0;
}

/* ---- bench ---- */

/* GFLOP/s of one core's multiply-adds just now: the tile kernel on data that stays in the
 * first-level cache, 20 ms. */
static double ij_peak_rate(void)
{
    static real a[IJ_MR * IJ_KC], b[IJ_NR * IJ_KC], c[IJ_MR * IJ_NR];
    const double start = ij_seconds();
    double tiles = 0, time = 0;
    for (; time < 0.02; time = ij_seconds() - start, tiles += 100)
        for (int k = 0; k < 100; k++) ij_tile(IJ_KC, a, 1, IJ_MR, b, c, IJ_NR, c, IJ_NR);
    return 2.0 * IJ_MR * IJ_NR * IJ_KC * tiles / time / 1e9;
}

static double ij_median(double *t, size_t n)
{
    for (size_t i = 1; i < n; i++)
        for (size_t k = i; k && t[k] < t[k - 1]; k--) {
            const double x = t[k];
            t[k] = t[k - 1];
            t[k - 1] = x;
        }
    return (t[n / 2] + t[(n - 1) / 2]) / 2;
}

/* One measurement, of the first that is set: a product, encoding, a training step. A core's speed
 * changes from second to second where others share it, so its peak is taken beside each lap. */
typedef struct {
    const ij_options *o;
    ij_team team;
    size_t done;
    double *time, *peak, first;     /* [laps]; from the start to the end of the first lap */
    const ij_product *product;
    ij_memory encoding;
    ij_model m;
    ij_pictures in;
    ij_masks masks;
    real *pooled;
} ij_bencher;

static void ij_bench_lap(ij_bencher *b)
{
    ij_error why;
    ij_report r;
    ij_status s = IJ_OK;
    const ij_encoder *e = &b->m.target_encoder;
    b->peak[b->done] = ij_peak_rate();
    const double start = ij_seconds();
    if (b->product) ij_matmul(b->product, &b->team);
    else if (b->encoding.base)
        s = ij_encode(NULL, b->pooled, e, &b->in, b->encoding, &b->team, &why);
    else s = ij_train_step(&b->m, b->in.x, &b->masks, &r, &why);
    b->time[b->done++] = ij_seconds() - start;
    ij_must(s, &why);
}

/* Laps, and their medians: milliseconds, images a second, share of the peak of all threads' cores,
 * as a line or as JSON. */
static void ij_bench_laps(ij_bencher *b, const char *what, double flops, double images)
{
    const size_t threads = b->o->threads;
    for (b->done = 0; b->done < b->o->repeat;) {
        if (ij_interrupted) exit(130);
        ij_bench_lap(b);
    }
    const double peak = ij_median(b->peak, b->done), seconds = ij_median(b->time, b->done);
    const double rate = flops / seconds / 1e9, share = rate / peak / (double)threads;
    const double ms = 1000 * seconds, startup = 1000 * IJ_MAX(b->first - seconds, 0);
    if (b->o->json)
        printf("{\"what\": \"%s\", \"threads\": %zu, \"ms\": %.3f, \"img_per_s\": %.2f, "
               "\"gflop_per_img\": %.4f, \"gflops\": %.1f, \"peak_gflops\": %.1f, "
               "\"share_of_peak\": %.3f, \"startup_ms\": %.1f, \"peak_mib\": %.0f}\n", what,
               threads, ms, images / seconds, flops / images / 1e9, rate, peak, share, startup,
               ij_peak_mib());
    else
        printf("%-28s %9.2f ms %10.1f /s %8.1f GFLOP/s %5.1f %% of peak (%.0f x %zu) %6.0f MiB\n",
               what, ms, images / seconds, rate, 100 * share, peak, threads,
               ij_peak_mib());
    fflush(stdout);
}

static void ij_bench_matmul(ij_bencher *b)
{
    static const char *const name[3] = { "y=xW'", "dx=dyW", "dW+=dy'x" };
    static const size_t shape[][3] = {                  /* rows, in, out */
        { 1536, 96, 288 },  { 1536, 384, 96 },   { 1024, 192, 192 },  { 1024, 192, 768 },
        { 1024, 768, 192 }, { 1152, 384, 1152 }, { 1152, 384, 1536 }, { 1152, 1536, 384 },
        { 784, 768, 2304 }, { 784, 768, 3072 },  { 784, 3072, 768 },
    };
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++) {
        const size_t t = shape[i][0], in = shape[i][1], out = shape[i][2];
        real *x = ij_zeros((t * in + in * out + t * out) * sizeof *x);
        real *m = x + t * in, *y = m + in * out;
        const ij_product p[3] = {
            { t, out, in, x, in, 1, m, 1, in, y, out, NULL, 0 },
            { t, in, out, y, out, 1, m, in, 1, x, in, NULL, 0 },
            { out, in, t, y, 1, out, x, in, 1, m, in, m, in },
        };
        for (int k = 0; k < 3; k++) {
            char text[64];
            snprintf(text, sizeof text, "%zux%zux%zu %s", t, in, out, name[k]);
            b->product = &p[k];
            ij_bench_laps(b, text, 2.0 * (double)t * (double)in * (double)out, 1);
        }
        free(x);
    }
}

/* Fixed token counts: list i holds patches 7i, 7i+1, ... round the grid. */
static ij_lists ij_bench_lists(size_t lists, size_t tokens, size_t patches)
{
    const ij_lists l = ij_lists_for(lists, tokens);
    for (size_t i = 0; i < lists * tokens; i++) {
        l.length[i / tokens] = tokens;
        l.index[i] = (i / tokens * 7 + i % tokens) % patches;
    }
    return l;
}

/* A model, random images, and lists of k tokens for contexts and of t for targets. */
static void ij_bench_model(ij_bencher *b, int step, size_t k, size_t t)
{
    const ij_config *c = &b->o->c;
    const size_t h = c->crop_size[0], w = c->crop_size[1], n = c->batch_size;
    const size_t pixels = n * ij_views(c) * 3 * h * w;
    real *images = ij_alloc(pixels * sizeof *images);
    uint64_t state = 1;
    for (size_t i = 0; i < pixels; i++)
        images[i] = (real)((double)(ij_mix(&state) >> 40) / 8388608.0 - 1);
    b->m = ij_model_for(c, step ? IJ_TRAIN : IJ_INFER);
    b->m.team = b->team;
    b->in = (ij_pictures){ images, n, h, w };
    b->pooled = ij_alloc(n * c->embed_dim * sizeof(real));
    if (!step) b->encoding = ij_encode_memory(&b->m.target_encoder, &b->in);
    b->masks.context = ij_bench_lists(c->num_enc_masks * n, k, ij_patches(c));
    b->masks.target = ij_bench_lists(c->num_pred_masks * n, t, ij_patches(c));
}

static int ij_bench(ij_options *o)
{
    ij_error why;
    ij_config *c = &o->c;
    ij_bencher b = { .o = o };
    if (!o->what) ij_die(2, "bench needs step, encode or matmul");
    if (!o->repeat) o->repeat = 11;
    b.time = ij_alloc((o->repeat + 2) * sizeof(double));
    b.peak = ij_alloc((o->repeat + 2) * sizeof(double));
    const double begin = ij_seconds();
    b.team = ij_team_start(o->threads);
    if (!strcmp(o->what, "matmul")) {
        ij_bench_matmul(&b);
        return 0;
    }
    const int step = !strcmp(o->what, "step");
    if (!step && strcmp(o->what, "encode")) ij_die(2, "bench knows step, encode and matmul");
    if (o->targets) c->num_pred_masks = o->targets;
    if (step && o->context_tokens) {                    /* room for lists of any length */
        c->mask_mode = IJ_MASK_PAPER;
        c->enc_mask_scale[0] = 0.85;
        c->enc_mask_scale[1] = 1;
        c->min_keep = 0;
        c->pred_mask_scale[1] = IJ_MAX(c->pred_mask_scale[1], 0.5);
    }
    ij_must(ij_config_check(c, &why), &why);
    const size_t n = ij_patches(c);
    const size_t k = IJ_MAX(1, IJ_MIN(n, o->context_tokens ? o->context_tokens : n / 4));
    const size_t t = IJ_MAX(1, IJ_MIN(n, o->target_tokens ? o->target_tokens : n / 6));
    ij_bench_model(&b, step, k, t);
    const double ready = ij_seconds(), batch = (double)c->batch_size;
    ij_bench_lap(&b);
    b.first = ready - begin + b.time[0];
    ij_bench_lap(&b);                                   /* the first two do not count */
    const double flops = step ? ij_flops(c, k, t) : ij_encode_flops(c, (double)n);
    ij_bench_laps(&b, o->what, batch * flops, batch);
    return 0;
}

/* Before anything else: does this processor have the instructions that the compiler was allowed
 * to use? */
static void ij_check_machine(void)
{
#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
    const char *missing = NULL;
#ifdef __AVX__
    if (!__builtin_cpu_supports("avx")) missing = "AVX";
#endif
#ifdef __FMA__
    if (!__builtin_cpu_supports("fma")) missing = "FMA";
#endif
#ifdef __AVX2__
    if (!__builtin_cpu_supports("avx2")) missing = "AVX2";
#endif
#ifdef __AVX512F__
    if (!__builtin_cpu_supports("avx512f")) missing = "AVX-512";
#endif
    if (missing) {
        fputs("ijepa: this processor lacks ", stderr);
        fputs(missing, stderr);
        fputs(", which this binary was built with: build it here, or with make ARCH=\n", stderr);
        exit(1);
    }
#endif
}

int main(int argc, char **argv)
{
    ij_options o;
    ij_check_machine();
    ij_slashes(argc, argv);
    ij_command_run *const run = ij_parse(&o, argc, argv);
    signal(SIGINT, ij_on_signal);
#ifdef SIGTERM
    signal(SIGTERM, ij_on_signal);
#endif
    const int code = run(&o);
    if (fflush(stdout) || ferror(stdout)) ij_die(1, "standard output cannot be written");
    return code;
}
#endif
