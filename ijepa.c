/* ijepa.c - I-JEPA, whole: masks, vision transformer, predictor, loss, every gradient, AdamW, EMA, in one file.
 * It refuses to be a framework: one method, one element type, the CPU, libc and libm only.
 *
 *   cc -O3 -march=native -DIJEPA_MAIN ijepa.c -o ijepa -lm -lpthread     (or just: make)
 *
 * Part I, the paper:  basics · random numbers · tensor · matmul · layers · attention · transformer · encoder ·
 *                     masks · predictor · loss · optimisation · model · the training step · features
 * Part II, the tools: settings · building a model · features · platform · images · scenes · safetensors ·
 *                     checkpoints · evaluation · is it learning? · without a system · the program
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

#ifdef __FAST_MATH__
#error "-ffast-math changes the order of sums, and what is not finite: results are wrong with it"
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
        for (size_t k = 0; k < kc; k++) memcpy(to + k * width, from + k * step, width * sizeof(real));
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
    memcpy(y.x, x.x, ij_count(&x) * sizeof(real));
}

/* Softmax of each row of s [m,n], scaled, in place. */
static void ij_softmax(real *s, size_t m, size_t n, real scale)
{
    for (size_t r = 0; r < m; r++, s += n) {
        real top = s[0], lane[IJ_LANES];
        for (size_t i = 0; i < IJ_LANES; i++) lane[i] = top;
        size_t j = 0;
        for (; j + IJ_LANES <= n; j += IJ_LANES)
            for (size_t i = 0; i < IJ_LANES; i++) lane[i] = s[j + i] > lane[i] ? s[j + i] : lane[i];
        for (; j < n; j++) top = s[j] > top ? s[j] : top;
        for (size_t i = 0; i < 8; i++) lane[i] = lane[i + 8] > lane[i] ? lane[i + 8] : lane[i];
        for (size_t i = 0; i < 8; i++) top = lane[i] > top ? lane[i] : top;
        for (j = 0; j < n; j++) s[j] = ij_exp((s[j] - top) * scale);
        real sum;
        IJ_SUM(real, sum, i, n, s[i]);
        const real inverse = 1 / sum;
        for (j = 0; j < n; j++) s[j] *= inverse;
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

ij_status ij_masks_draw(ij_masks *m, const ij_config *c, ij_rng *rng, uint64_t step, size_t images, ij_error *why)
{
    if (!images || images > c->batch_size) return ij_fail(why, IJ_EARG, "masks: %lu images, expected 1..batch_size = %lu",
                                                          (unsigned long)images, (unsigned long)c->batch_size);
    m->context.lists = c->num_enc_masks * images;
    m->target.lists = c->num_pred_masks * images;
    if (c->mask_mode == IJ_MASK_REFERENCE) return ij_masks_reference(m, c, rng, step, images, why);
    if (c->mask_mode == IJ_MASK_PAPER) return ij_masks_paper(m, c, rng, images, IJ_MASK_ROUNDS, why);
    for (size_t b = 0; b < images; b++) ij_masks_split(m, c, rng, images, b);
    return IJ_OK;
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

/* ============================================= Part II, the tools ================================================ */

/* ---- settings ----------------------------------------------------------------------------------------------------
 * One table of names serves the command line, config files, the reference's YAML, checkpoints and help.             */

ij_config ij_config_default(void)
{
    const ij_config c = {
        .batch_size = 64, .accumulate = 1, .crop_size = { 32, 32 }, .crop_scale = { 0.4, 1.0 }, .use_horizontal_flip = 1,
        .mean = { 0.485, 0.456, 0.406 }, .std = { 0.229, 0.224, 0.225 }, .patch_size = 4, .mask_mode = IJ_MASK_PAPER,
        .enc_mask_scale = { 0.85, 1.0 }, .pred_mask_scale = { 0.15, 0.2 }, .aspect_ratio = { 0.75, 1.5 },
        .num_enc_masks = 1, .num_pred_masks = 4, .min_keep = 4, .allow_overlap = 0, .embed_dim = 128, .depth = 4,
        .num_heads = 4, .mlp_ratio = 4, .pred_emb_dim = 64, .pred_depth = 2, .init_std = 0, .patch_init_std = 0.14,
        .loss = IJ_LOSS_SMOOTH_L1, .epochs = 10, .warmup = 1, .steps = 0, .ipe = 100, .ipe_scale = 1, .start_lr = 1e-4,
        .lr = 1e-3, .final_lr = 1e-6, .weight_decay = 0.04, .final_weight_decay = 0.4, .ema = { 0.99, 1.0 },
        .beta = { 0.9, 0.999 }, .eps = 1e-8, .clip_grad = 0, .seed = 0,
    };
    return c;
}

enum { IJ_SET_SIZE, IJ_SET_SIDES, IJ_SET_REAL, IJ_SET_PAIR, IJ_SET_RANGE, IJ_SET_TRIPLE, IJ_SET_BOOL, IJ_SET_CHOICE };
static const struct { const char *name; int kind; size_t offset; double low, high; const char *choice[4], *help; } ij_setting[] = {
#define IJ_AT(field, low, high) offsetof(ij_config, field), low, high, { NULL, NULL }
    { "batch_size", IJ_SET_SIZE, IJ_AT(batch_size, 1, 1 << 20), "images of one forward pass" },
    { "accumulate", IJ_SET_SIZE, IJ_AT(accumulate, 1, 1 << 20), "forward passes of one update" },
    { "crop_size", IJ_SET_SIDES, IJ_AT(crop_size, 1, 1 << 20), "side of the training image, or HEIGHT,WIDTH" },
    { "crop_scale", IJ_SET_RANGE, IJ_AT(crop_scale, 1e-6, 1), "area of the random-resized crop" },
    { "use_horizontal_flip", IJ_SET_BOOL, IJ_AT(use_horizontal_flip, 0, 1), "mirror every second image" },
    { "color_jitter", IJ_SET_REAL, IJ_AT(color_jitter, 0, 1), "strength of random brightness, contrast, saturation and hue" },
    { "gray", IJ_SET_REAL, IJ_AT(gray, 0, 1), "share of images without colour" },
    { "mean", IJ_SET_TRIPLE, IJ_AT(mean, -1e6, 1e6), "of red, green, blue in 0..1" },
    { "std", IJ_SET_TRIPLE, IJ_AT(std, 1e-6, 1e6), "of red, green, blue" },
    { "patch_size", IJ_SET_SIZE, IJ_AT(patch_size, 1, 1 << 20), "side of a patch" },
    { "mask_mode", IJ_SET_CHOICE, offsetof(ij_config, mask_mode), 0, 3, { "reference", "paper", "random", "rasterized" }, "blocks by either sampler; patches anywhere; quadrants" },
    { "enc_mask_scale", IJ_SET_RANGE, IJ_AT(enc_mask_scale, 1e-6, 1), "context block, share of the patches" },
    { "pred_mask_scale", IJ_SET_RANGE, IJ_AT(pred_mask_scale, 1e-6, 1), "target block, share of the patches" },
    { "aspect_ratio", IJ_SET_RANGE, IJ_AT(aspect_ratio, 1e-3, 1e3), "height / width of a target block" },
    { "num_enc_masks", IJ_SET_SIZE, IJ_AT(num_enc_masks, 1, 1024), "context blocks per image" },
    { "num_pred_masks", IJ_SET_SIZE, IJ_AT(num_pred_masks, 1, 1024), "target blocks per image" },
    { "min_keep", IJ_SET_SIZE, IJ_AT(min_keep, 0, 1 << 20), "a block must have more patches than this" },
    { "allow_overlap", IJ_SET_BOOL, IJ_AT(allow_overlap, 0, 1), "leave the targets in the context" },
    { "embed_dim", IJ_SET_SIZE, IJ_AT(embed_dim, 4, 1 << 20), "width of the encoder" },
    { "depth", IJ_SET_SIZE, IJ_AT(depth, 1, 1 << 20), "blocks of the encoder" },
    { "num_heads", IJ_SET_SIZE, IJ_AT(num_heads, 1, 1 << 20), "heads of encoder and predictor" },
    { "mlp_ratio", IJ_SET_REAL, IJ_AT(mlp_ratio, 1.0 / 64, 64), "hidden width / width of the encoder's MLP" },
    { "pred_emb_dim", IJ_SET_SIZE, IJ_AT(pred_emb_dim, 4, 1 << 20), "width of the predictor" },
    { "pred_depth", IJ_SET_SIZE, IJ_AT(pred_depth, 0, 1 << 20), "blocks of the predictor" },
    { "init_std", IJ_SET_REAL, IJ_AT(init_std, 0, 10), "of first weights; 0: Xavier-uniform; reference 0.02" },
    { "patch_init_std", IJ_SET_REAL, IJ_AT(patch_init_std, 0, 10), "of the patch embedding; reference 0.02" },
    { "average_top_k_layers", IJ_SET_SIZE, IJ_AT(average_top_k_layers, 0, 1 << 20), "targets: mean of the last so many layers (depth + 1: all); 0: final norm" },
    { "vicreg", IJ_SET_REAL, IJ_AT(vicreg, 0, 1e3), "weight of the variance and covariance of the contexts' means; 0: none" },
    { "objective", IJ_SET_CHOICE, offsetof(ij_config, objective), 0, 2, { "jepa", "generative", "joint" }, "predict the target encoder's tokens, pixels, or another view's mean" },
    { "loss", IJ_SET_CHOICE, offsetof(ij_config, loss), 0, 1, { "smooth_l1", "l2" }, "the code's or the paper's" },
    { "epochs", IJ_SET_REAL, IJ_AT(epochs, 0, 1e9), "length of the run" },
    { "warmup", IJ_SET_REAL, IJ_AT(warmup, 0, 1e9), "epochs of rising learning rate" },
    { "steps", IJ_SET_SIZE, IJ_AT(steps, 0, 9e15), "length in updates instead; 0: by epochs" },
    { "ipe", IJ_SET_SIZE, IJ_AT(ipe, 1, 9e15), "updates per epoch; train sets it from the data" },
    { "ipe_scale", IJ_SET_REAL, IJ_AT(ipe_scale, 1e-3, 1e3), "stretches the schedules" },
    { "start_lr", IJ_SET_REAL, IJ_AT(start_lr, 0, 1e3), "learning rate at the start" },
    { "lr", IJ_SET_REAL, IJ_AT(lr, 0, 1e3), "after warm-up" },
    { "final_lr", IJ_SET_REAL, IJ_AT(final_lr, 0, 1e3), "at the end" },
    { "weight_decay", IJ_SET_REAL, IJ_AT(weight_decay, 0, 1e3), "at the start" },
    { "final_weight_decay", IJ_SET_REAL, IJ_AT(final_weight_decay, 0, 1e3), "at the end" },
    { "ema", IJ_SET_PAIR, IJ_AT(ema, 0, 1), "momentum of the target encoder" },
    { "betas", IJ_SET_PAIR, IJ_AT(beta, 0, 0.999999999), "of AdamW" },
    { "eps", IJ_SET_REAL, IJ_AT(eps, 1e-30, 1), "of AdamW" },
    { "clip_grad", IJ_SET_REAL, IJ_AT(clip_grad, 0, 1e9), "largest gradient norm; 0: none" },
    { "seed", IJ_SET_SIZE, IJ_AT(seed, 0, 9e15), "of weights, masks, order and crops" },
#undef IJ_AT
};
enum { IJ_SETTINGS = sizeof ij_setting / sizeof *ij_setting };

static const struct { const char *name; size_t embed_dim, depth, num_heads; double mlp_ratio; } ij_size_name[] = {
    { "vit_tiny", 192, 12, 3, 4 }, { "vit_small", 384, 12, 6, 4 }, { "vit_base", 768, 12, 12, 4 },
    { "vit_large", 1024, 24, 16, 4 }, { "vit_huge", 1280, 32, 16, 4 }, { "vit_giant", 1408, 40, 16, 48.0 / 11 },
};

size_t ij_config_settings(void) { return IJ_SETTINGS; }
const char *ij_config_name(size_t i) { return i < IJ_SETTINGS ? ij_setting[i].name : NULL; }
const char *ij_config_help(size_t i) { return i < IJ_SETTINGS ? ij_setting[i].help : NULL; }

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

void ij_config_text(char text[IJ_TEXT], const ij_config *c, size_t i)
{
    const char *at = (const char *)c + ij_setting[i].offset;
    const size_t *size = (const size_t *)(const void *)at;
    const double *x = (const double *)(const void *)at;
    const int *flag = (const int *)(const void *)at;
    const int kind = ij_setting[i].kind, reals = kind == IJ_SET_REAL ? 1 : kind == IJ_SET_TRIPLE ? 3 : 2;
    if (kind == IJ_SET_SIZE || (kind == IJ_SET_SIDES && size[0] == size[1]))
        snprintf(text, IJ_TEXT, "%zu", size[0]);
    else if (kind == IJ_SET_SIDES) snprintf(text, IJ_TEXT, "%zu,%zu", size[0], size[1]);
    else if (kind == IJ_SET_BOOL) snprintf(text, IJ_TEXT, "%s", *flag ? "true" : "false");
    else if (kind == IJ_SET_CHOICE) snprintf(text, IJ_TEXT, "%s", ij_setting[i].choice[*flag]);
    else
        for (int k = 0, n = 0; k < reals; k++) {
            if (k) text[n++] = ',';
            n += ij_print_real(text + n, IJ_TEXT - (size_t)n, x[k]);
        }
}

/* Reads up to three numbers separated by commas; the count, or 0 if anything else is there. */
static int ij_scan_reals(double x[3], const char *text)
{
    int count = 0;
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

static size_t ij_distance(const char *a, const char *b)        /* edits from one name to the other */
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

static ij_status ij_config_set_model(ij_config *c, const char *value, ij_error *why)
{
    for (size_t i = 0; i < sizeof ij_size_name / sizeof *ij_size_name; i++)
        if (!strcmp(value, ij_size_name[i].name)) {
            c->embed_dim = ij_size_name[i].embed_dim, c->depth = ij_size_name[i].depth;
            c->num_heads = ij_size_name[i].num_heads, c->mlp_ratio = ij_size_name[i].mlp_ratio;
            return IJ_OK;
        }
    return ij_fail(why, IJ_EARG, "model_name is %s, expected vit_tiny, vit_small, vit_base, vit_large, vit_huge or "
                   "vit_giant", value);
}

ij_status ij_config_set(ij_config *c, const char *name, const char *value, ij_error *why)
{
    double x[3] = { 0, 0, 0 };
    size_t i = 0, near = 0;
    if (!strcmp(name, "model_name")) return ij_config_set_model(c, value, why);
    for (i = 0; i < IJ_SETTINGS && strcmp(name, ij_setting[i].name); i++)
        if (ij_distance(name, ij_setting[i].name) < ij_distance(name, ij_setting[near].name)) near = i;
    if (i == IJ_SETTINGS)
        return ij_fail(why, IJ_EARG, "no setting is called %.60s; the nearest is %s", name, ij_setting[near].name);
    char *at = (char *)c + ij_setting[i].offset;
    size_t *size = (size_t *)(void *)at;
    const int kind = ij_setting[i].kind, count = ij_scan_reals(x, value), two = kind == IJ_SET_PAIR || kind == IJ_SET_RANGE;
    const int yes = !strcmp(value, "true") || !strcmp(value, "1"), no = !strcmp(value, "false") || !strcmp(value, "0");
    const int whole = x[0] >= 0 && x[0] <= 9e15 && !(floor(x[0]) < x[0]) && x[0] <= (double)SIZE_MAX;
    int chosen = 0;
    while (kind == IJ_SET_CHOICE && chosen <= ij_setting[i].high && strcmp(value, ij_setting[i].choice[chosen])) chosen++;
    if (kind == IJ_SET_SIZE && count == 1 && whole) *size = (size_t)x[0];
    else if (kind == IJ_SET_SIDES && (count == 1 || count == 2) && whole && x[1] >= 0 && x[1] <= 1e9 &&
             !(floor(x[1]) < x[1])) size[0] = (size_t)x[0], size[1] = (size_t)x[count - 1];
    else if (kind == IJ_SET_BOOL && (yes || no)) *(int *)(void *)at = yes;
    else if (kind == IJ_SET_CHOICE && chosen <= ij_setting[i].high) *(int *)(void *)at = chosen;
    else if ((kind == IJ_SET_REAL && count == 1) || (two && count == 2) || (kind == IJ_SET_TRIPLE && count == 3))
        memcpy(at, x, (size_t)count * sizeof *x);
    else {
        static const char *const expected[] = { "a whole number", "one or two whole numbers", "a number", "two numbers a,b",
                                                "two numbers a,b", "three numbers a,b,c", "true or false" };
        if (kind == IJ_SET_CHOICE)
            return ij_fail(why, IJ_EARG, "%s is \"%.60s\", expected %s or %s%s%s%s%s", name, value, ij_setting[i].choice[0], ij_setting[i].choice[1],
                           ij_setting[i].high > 1 ? " or " : "", ij_setting[i].high > 1 ? ij_setting[i].choice[2] : "",
                           ij_setting[i].high > 2 ? " or " : "", ij_setting[i].high > 2 ? ij_setting[i].choice[3] : "");
        return ij_fail(why, IJ_EARG, "%s is \"%.60s\", expected %s", name, value, expected[kind]);
    }
    return IJ_OK;
}

ij_status ij_config_check(const ij_config *c, ij_error *why)
{
    static const int values[] = { 1, 2, 1, 2, 2, 3, 1, 1 };     /* of each kind */
    for (size_t i = 0; i < IJ_SETTINGS; i++)
        for (int k = 0; k < values[ij_setting[i].kind]; k++) {
            const int kind = ij_setting[i].kind, whole = kind == IJ_SET_SIZE || kind == IJ_SET_SIDES;
            const void *at = (const char *)c + ij_setting[i].offset;
            const double x = whole ? (double)((const size_t *)at)[k] : kind >= IJ_SET_BOOL ? *(const int *)at : ((const double *)at)[k];
            const double low = kind == IJ_SET_RANGE && k ? ((const double *)at)[0] : ij_setting[i].low, high = ij_setting[i].high;
            if (!(x >= low && x <= high))               /* NaN fails too */
                return ij_fail(why, IJ_EARG, "%s is %g, expected %g..%g", ij_setting[i].name, x, low, high);
        }
    const size_t width[2] = { c->embed_dim, c->pred_emb_dim };
    for (int i = 0; i < 2; i++)
        if (width[i] % 4 || width[i] % c->num_heads)
            return ij_fail(why, IJ_EARG, "%s is %zu, expected a multiple of 4 and of num_heads = %zu",
                           i ? "pred_emb_dim" : "embed_dim", width[i], c->num_heads);
    if (c->patch_size > c->crop_size[0] || c->patch_size > c->crop_size[1])
        return ij_fail(why, IJ_EARG, "patch_size is %zu, expected at most the crop_size", c->patch_size);
    if (!c->pred_depth && c->objective != IJ_JOINT) return ij_fail(why, IJ_EARG, "pred_depth is 0, expected 1 or more where patches are predicted");
    const double patches = (double)ij_patches(c);
    if (c->mask_mode > IJ_MASK_PAPER && c->num_enc_masks != 1)
        return ij_fail(why, IJ_EARG, "num_enc_masks is %zu, expected 1 for masks without blocks", c->num_enc_masks);
    if (c->mask_mode == IJ_MASK_RASTERIZED && (c->num_pred_masks != 3 || c->crop_size[0] / c->patch_size < 2 || c->crop_size[1] / c->patch_size < 2))
        return ij_fail(why, IJ_EARG, "num_pred_masks is %zu, expected 3, and a grid of at least 2x2, for quadrants", c->num_pred_masks);
    if (c->mask_mode == IJ_MASK_RANDOM && (patches * c->pred_mask_scale[0] < 1 || (double)c->num_pred_masks * floor(patches * c->pred_mask_scale[1]) >= patches))
        return ij_fail(why, IJ_EARG, "pred_mask_scale is %g,%g, expected %zu random targets of at least one of %g patches, and some left",
                       c->pred_mask_scale[0], c->pred_mask_scale[1], c->num_pred_masks, patches);
    return ij_hidden(c) ? IJ_OK : ij_fail(why, IJ_EARG, "embed_dim * mlp_ratio is %g, expected at least 1",
                                          (double)c->embed_dim * c->mlp_ratio);
}

/* Settings of the reference's YAML that mean nothing here. */
static int ij_config_foreign(const char *name)
{
    static const char *const foreign[] = { "color_jitter_strength", "image_folder", "num_workers", "pin_mem", "root_path",
        "use_color_distortion", "use_gaussian_blur", "folder", "write_tag", "copy_data", "load_checkpoint",
        "read_checkpoint", "use_bfloat16" };
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
        if (!strcmp(name, foreign[i])) return 1;
    return 0;
}

/* Where a "- value" line of YAML goes on: the key's text so far. */
typedef struct { char key[64], value[IJ_TEXT]; size_t line; } ij_pending;

static ij_status ij_pending_set(ij_config *c, ij_pending *p, const char *path, ij_error *why)
{
    ij_error inner;
    if (!p->key[0] || !p->value[0] || ij_config_foreign(p->key)) { p->key[0] = 0; return IJ_OK; }  /* a section, or foreign */
    const ij_status s = ij_config_set(c, p->key, p->value, &inner);
    if (s) return ij_fail(why, s, "%.200s: line %zu: %.250s", path, p->line, inner.text);
    p->key[0] = 0;
    return IJ_OK;
}

/* key = value, key: value, and YAML's lists ([a, b] or lines of "- a"); # starts a comment. */
ij_status ij_config_read(ij_config *c, const char *path, ij_error *why)
{
    char line[512];
    ij_pending p = { "", "", 0 };
    ij_status s = IJ_OK;
    FILE *f = fopen(path, "r");
    if (!f) return ij_fail(why, IJ_EFILE, "%.200s: %s", path, strerror(errno));
    for (size_t n = 1; !s && fgets(line, sizeof line, f); n++) {
        char *hash = strchr(line, '#'), *from = line + strspn(line, " \t\r\n");
        if (hash) *hash = 0;
        size_t end = strlen(from);
        if (end == sizeof line - 1) { s = ij_fail(why, IJ_EDATA, "%.200s: line %zu: too long", path, n); break; }
        while (end && strchr(" \t\r\n]", from[end - 1])) from[--end] = 0;
        if (!*from) continue;
        if (*from == '-' && (from[1] == ' ' || from[1] == '\t')) {
            const size_t used = strlen(p.value);
            snprintf(p.value + used, sizeof p.value - used, "%s%s", used ? "," : "", from + 1 + strspn(from + 1, " \t"));
            continue;
        }
        s = ij_pending_set(c, &p, path, why);
        char *mark = strpbrk(from, "=:");
        if (!s && (!mark || mark == from || mark - from > 60))
            s = ij_fail(why, IJ_EDATA, "%.200s: line %zu: \"%.40s\", expected key = value or key: value", path, n, from);
        if (s) break;
        p.line = n;
        snprintf(p.value, sizeof p.value, "%s", mark + 1 + strspn(mark + 1, " \t[\"'"));
        for (size_t k = strlen(p.value); k && strchr("\"'", p.value[k - 1]);) p.value[--k] = 0;
        while (mark > from && strchr(" \t", mark[-1])) mark--;
        *mark = 0;
        snprintf(p.key, sizeof p.key, "%s", from);
    }
    if (!s && ferror(f)) s = ij_fail(why, IJ_EFILE, "%.200s: cannot be read", path);
    if (!s) s = ij_pending_set(c, &p, path, why);
    fclose(f);
    return s;
}

/* ---- building a model --------------------------------------------------------------------------
 * Memory for the largest step these settings can ask for, first weights, and the cost in
 * arithmetic. */

/* Largest number of patches of a block: over all sizes that some scale and aspect of the ranges can
 * give. */
static size_t ij_block_most(const ij_config *c, const double scale[2], double a0, double a1)
{
    size_t most = 0, low[2], high[2];
    const double cells = (double)ij_patches(c);
    for (double keep = floor(cells * scale[0]); keep <= floor(cells * scale[1]); keep++) {
        ij_block_size(low, c, (keep + 0.5) / cells, a0);        /* lowest and widest */
        ij_block_size(high, c, (keep + 0.5) / cells, a1);       /* tallest and narrowest */
        for (size_t h = low[0]; h <= high[0]; h++) {        /* the smallest aspect is the widest */
            const double half = (double)h - 0.5, a = IJ_MAX(a0, half > 0 ? half * half / keep : a0);
            size_t s[2];
            ij_block_size(s, c, (keep + 0.5) / cells, a);
            most = IJ_MAX(most, h * s[1]);
        }
    }
    return most;
}

static void ij_lists_place(ij_lists *l, ij_arena *a, size_t lists, size_t stride)
{
    l->lists = 0;
    l->stride = stride;
    l->length = ij_take(a, lists, sizeof(size_t));
    l->index = ij_take(a, ij_mul(lists, stride), sizeof(size_t));
}

/* Largest number of patches of a context, and of a target. */
static void ij_masks_most(size_t *k, size_t *t, const ij_config *c)
{
    const double cells = (double)ij_patches(c);
    if (c->mask_mode == IJ_MASK_RASTERIZED) *k = *t = (ij_gh(c) + 1) / 2 * ((ij_gw(c) + 1) / 2);
    else if (c->mask_mode == IJ_MASK_RANDOM) {
        *t = (size_t)(cells * c->pred_mask_scale[1]);
        *k = ij_patches(c) - c->num_pred_masks * (size_t)(cells * c->pred_mask_scale[0]);
    } else {
        *t = ij_block_most(c, c->pred_mask_scale, c->aspect_ratio[0], c->aspect_ratio[1]);
        *k = ij_block_most(c, c->enc_mask_scale, 1, 1);
    }
}

static void ij_masks_place(ij_masks *m, ij_arena *a, const ij_config *c)
{
    size_t k, t;
    ij_masks_most(&k, &t, c);
    ij_lists_place(&m->context, a, ij_mul(c->num_enc_masks, c->batch_size), k);
    ij_lists_place(&m->target, a, ij_mul(c->num_pred_masks, c->batch_size), t);
}

static ij_counts ij_counts_most(const ij_config *c)
{
    size_t k, t;
    ij_counts n;
    ij_masks_most(&k, &t, c);
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
    ij_listing count = { NULL, 0, 0, NULL, 0 };
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
    ij_listing table = { m->param, 0, 0, NULL, 0 }, target = { NULL, 0, 0, m->target, 0 };
    ij_encoder e = m->target_encoder;
    ij_predictor p;
    p.block = NULL;
    ij_list_encoder(&table, &e, c);
    ij_list_predictor(&table, &p, c);
    ij_list_encoder(&target, &m->target_encoder, c);
    if (!m->training) return;
    ij_listing weight = { NULL, 0, 0, m->weight, 0 }, grad = { NULL, 0, 0, m->grad, 0 };
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

/* That masks can be drawn is found out before a long run is: reference mode's block sizes over a
 * fine grid of its single draw, paper mode on 256 images with a tenth of the rounds that training
 * allows. */
static ij_status ij_masks_check(ij_masks *m, const ij_config *c, ij_error *why)
{
    size_t least = SIZE_MAX, t[2], e[2];
    for (int i = 0; i < 65536 && c->mask_mode == IJ_MASK_REFERENCE; i++) {
        const double u = i / 65536.0;
        ij_block_size(t, c, ij_between(c->pred_mask_scale, u), ij_between(c->aspect_ratio, u));
        ij_block_size(e, c, ij_between(c->enc_mask_scale, u), 1);
        least = IJ_MIN(least, IJ_MIN(t[0] * t[1], e[0] * e[1]));
    }
    if (least <= c->min_keep)
        return ij_fail(why, IJ_EMASK,
                       "masks: on a %zux%zu grid the smallest block has %zu patches; each must "
                       "hold more than min_keep = %zu: lower min_keep or raise pred_mask_scale and "
                       "enc_mask_scale", ij_gh(c), ij_gw(c), least,
                       c->min_keep);
    ij_rng rng;
    ij_rng_seed(&rng, 0);
    ij_status status = IJ_OK;
    for (int i = 0; i < 256 && c->mask_mode == IJ_MASK_PAPER && !status; i++)
        status = ij_masks_paper(m, c, &rng, 1, IJ_MASK_ROUNDS / 10, why);
    return status;
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
    return ij_masks_check(&m->masks, c, why);
}

#ifdef IJEPA_MAIN
/* Multiply-adds count as two; every token passes every block, forward and (twice) backward. */
static double ij_stack_flops(double depth, double d, double f, double n)
{
    return depth * 2 * n * (4 * d * d + 2 * d * f + 2 * n * d);
}

static double ij_encode_flops(const ij_config *c, size_t height, size_t width)
{
    const double d = (double)c->embed_dim, p = (double)c->patch_size;
    const double n = (double)((height / c->patch_size) * (width / c->patch_size));
    return 2 * n * 3 * p * p * d + ij_stack_flops((double)c->depth, d, (double)ij_hidden(c), n);
}

/* Of one image in one step; the heads of a joint embedding are next to nothing. */
static double ij_flops(const ij_config *c, size_t context_tokens, size_t target_tokens)
{
    const double d = (double)c->embed_dim, p = (double)c->patch_size;
    const double width = (double)c->pred_emb_dim, t = (double)target_tokens;
    const double k = (double)context_tokens;
    const double contexts = (double)c->num_enc_masks, hidden = (double)ij_hidden(c);
    const double context = 2 * k * 3 * p * p * d + ij_stack_flops((double)c->depth, d, hidden, k);
    const double predict = ij_stack_flops((double)c->pred_depth, width, 4 * width, k + t) +
                           2 * t * width * (double)ij_target_dim(c);
    const double targets = ij_encode_flops(c, c->crop_size[0], c->crop_size[1]);
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
        return ij_fail(why, IJ_EARG, "%zu images of %zux%zu pixels, expected at least one of one "
                       "%zux%zu patch", in->count, in->height, in->width, e->patch,
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

/* ---- platform ----------------------------------------------------------------------------------------------------
 * All that is not C99 is here, in POSIX and without it: folders, flushing; for the program, threads and clock.       */

enum { IJ_PATH = 1024, IJ_FOLDER_DEPTH = 16 };

/* A name in the folder of a path. */
static ij_status ij_beside(char to[1024], const char *path, const char *name, ij_error *why)
{
    const char *slash = strrchr(path, '/');
    if (snprintf(to, 1024, "%.*s%s", slash ? (int)(slash + 1 - path) : 0, path, name) < 1024) return IJ_OK;
    return ij_fail(why, IJ_EARG, "%.200s...: the path is too long", path);
}

/* Names of the pictures below a folder: counted, and noted if there is room. */
typedef struct { size_t count, others, bytes; const char **name; char *text; size_t room_names, room_text; char other[16]; } ij_walk;

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

static int ij_is_picture(const char *name)              /* .ppm, .pgm or .pnm */
{
    const size_t n = strlen(name);
    return n > 4 && name[n - 4] == '.' && (name[n - 3] | 32) == 'p' && strchr("pgn", name[n - 2] | 32) && (name[n - 1] | 32) == 'm';
}

/* Counts the pictures below path, and notes their names if there is room; path is given back as it was. */
static ij_status ij_folder_walk(ij_walk *w, char path[IJ_PATH], size_t root, int depth, ij_error *why)
{
    const size_t n = strlen(path);
    DIR *folder = opendir(path);
    ij_status s = IJ_OK;
    if (!folder) return ij_fail(why, IJ_EFILE, "%.300s: %s", path, strerror(errno));
    for (struct dirent *e; !s && (e = readdir(folder)) != NULL;) {
        struct stat st;
        if (e->d_name[0] == '.') continue;
        if (n + strlen(e->d_name) + 2 > IJ_PATH) { s = ij_fail(why, IJ_EARG, "%.200s/%.60s: the path is too long", path, e->d_name); break; }
        path[n] = '/';
        strcpy(path + n + 1, e->d_name);
        if (lstat(path, &st)) s = ij_fail(why, IJ_EFILE, "%.300s: %s", path, strerror(errno));
        else if (S_ISDIR(st.st_mode) && depth == IJ_FOLDER_DEPTH)
            s = ij_fail(why, IJ_EARG, "%.300s: folders more than %d deep", path, (int)IJ_FOLDER_DEPTH);
        else if (S_ISDIR(st.st_mode)) s = ij_folder_walk(w, path, root, depth + 1, why);
        else if (ij_is_picture(e->d_name)) {
            const size_t length = strlen(path + root) + 1;
            if (w->name && (w->count == w->room_names || w->bytes + length > w->room_text))
                s = ij_fail(why, IJ_EDATA, "%.300s: files were added while it was read", path);
            else if (w->name) w->name[w->count] = memcpy(w->text + w->bytes, path + root, length);
            w->count++, w->bytes += length;
        } else {
            const char *dot = strrchr(e->d_name, '.');
            w->others++;
            snprintf(w->other, sizeof w->other, "%.12s", dot ? dot : "other");
        }
        path[n] = 0;
    }
    closedir(folder);
    return s;
}

#ifdef IJEPA_MAIN
static ij_status ij_make_folder(const char *path, ij_error *why)        /* and its parents */
{
    char part[IJ_PATH];
    for (size_t i = 1; i <= strlen(path) && i < sizeof part; i++)
        if (path[i] == '/' || !path[i]) {
            snprintf(part, sizeof part, "%.*s", (int)i, path);
            if (mkdir(part, 0777) && !ij_is_folder(part))
                return ij_fail(why, IJ_EFILE, "%.300s: cannot make the folder: %s", part, strerror(errno));
        }
    return IJ_OK;
}
#endif
#else
static int ij_is_folder(const char *path) { (void)path; return 0; }
static ij_status ij_folder_walk(ij_walk *w, char path[IJ_PATH], size_t root, int depth, ij_error *why)
{
    (void)w, (void)root, (void)depth;
    return ij_fail(why, IJ_EFILE, "%.300s: this build reads no folders (IJEPA_NO_POSIX)", path);
}
#ifdef IJEPA_MAIN
static ij_status ij_make_folder(const char *path, ij_error *why) { return ij_fail(why, IJ_OK, "%.300s", path); }
#endif
#endif

#ifndef IJEPA_NO_POSIX
#include <fcntl.h>
#include <unistd.h>

static int ij_replace(const char *aside, const char *path) { return rename(aside, path); }
static int ij_flush_file(FILE *f) { return fsync(fileno(f)); }
static void ij_flush_folder(const char *path)           /* so that the new name survives a power cut */
{
    char folder[1024];
    const int f = ij_beside(folder, path, ".", NULL) ? -1 : open(folder, O_RDONLY);
    if (f >= 0) fsync(f), close(f);
}

#ifdef IJEPA_MAIN
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

/* Large blocks on large pages where the system has them: fewer page faults, fewer misses in the address cache. */
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

/* The processors that this process may use: those it is bound to, and no more than its container's quota pays for. */
static size_t ij_processors(void)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN);
#ifdef __linux__
    long quota, period;
    cpu_set_t set;
    if (!sched_getaffinity(0, sizeof set, &set)) n = CPU_COUNT(&set);
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "r");
    if (f && fscanf(f, "%ld %ld", &quota, &period) == 2 && period > 0) n = IJ_MIN(n, (quota + period - 1) / period);
    if (f) fclose(f);
#endif
    return n > 0 ? (size_t)n : 1;
}

static double ij_peak_mib(void)
{
    struct rusage u;
    return getrusage(RUSAGE_SELF, &u) ? 0 : (double)u.ru_maxrss / 1024;
}

/* work(arg) in a process of its own, so that its memory goes back in the end; its exit status. An interrupt is passed on, as
 * SIGTERM: from a terminal it has come already, and a second SIGINT ends at once. */
static int ij_apart(int (*work)(void *), void *arg, const volatile sig_atomic_t *interrupted)
{
    int status = 0, told = 0;
    fflush(NULL);
    const pid_t child = fork();
    if (child < 0) return work(arg);
    if (!child) {
#ifdef __linux__
        prctl(PR_SET_PDEATHSIG, SIGTERM);
#endif
        exit(work(arg));
    }
    while (!waitpid(child, &status, WNOHANG)) {
        const struct timespec pause = { 0, 20000000 };
        if (*interrupted && !told) told = 1, kill(child, SIGTERM);
        nanosleep(&pause, NULL);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : *interrupted ? 130 : 1;
}

static int ij_terminal(void) { return isatty(2) > 0; }
static int ij_colours(void) { return isatty(1) > 0; }

/* One run in a folder: the lock ends with the process, however that ends. */
static ij_status ij_lock(const char *path, ij_error *why)
{
    struct flock lock;
    memset(&lock, 0, sizeof lock);
    lock.l_type = F_WRLCK, lock.l_whence = SEEK_SET;
    const int f = open(path, O_RDWR | O_CREAT, 0666);
    if (f < 0) return ij_fail(why, IJ_EFILE, "%.300s: %s", path, strerror(errno));
    if (!fcntl(f, F_SETLK, &lock) || (errno != EACCES && errno != EAGAIN)) return IJ_OK;      /* or a system without locks */
    close(f);
    return ij_fail(why, IJ_EFILE, "%.300s: another run writes into this folder", path);
}

/* A pool of threads that sleep until there are tasks; the caller works too. */
typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t wake, done;
    ij_task *task;
    void *arg;
    size_t count, next, busy, round;
} ij_pool_state;

static void ij_pool_drain(ij_pool_state *p)             /* called and returns with the lock held */
{
    while (p->next < p->count) {
        const size_t i = p->next++;
        pthread_mutex_unlock(&p->lock);
        p->task(p->arg, i);
        pthread_mutex_lock(&p->lock);
    }
}

static void *ij_pool_thread(void *arg)
{
    ij_pool_state *p = arg;
    size_t seen = 0;
    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (p->round == seen) pthread_cond_wait(&p->wake, &p->lock);
        seen = p->round;
        p->busy++;
        ij_pool_drain(p);
        if (!--p->busy) pthread_cond_signal(&p->done);
    }
    return NULL;
}

static void ij_pool_run(void *pool, size_t count, ij_task *task, void *arg)
{
    ij_pool_state *p = pool;
    pthread_mutex_lock(&p->lock);
    p->task = task, p->arg = arg, p->count = count, p->next = 0, p->round++;
    pthread_cond_broadcast(&p->wake);
    ij_pool_drain(p);
    while (p->busy) pthread_cond_wait(&p->done, &p->lock);
    pthread_mutex_unlock(&p->lock);
}

static ij_team ij_team_start(size_t threads)
{
    ij_team team = { NULL, NULL, 1 };
    if (threads < 2) return team;
    ij_pool_state *p = calloc(1, sizeof *p);
    if (!p) return team;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    pthread_cond_init(&p->done, NULL);
    pthread_attr_t a;
    pthread_attr_init(&a);
    pthread_attr_setstacksize(&a, 4 << 20);             /* the packed blocks of matmul lie on the stack */
    size_t started = 1;
    for (pthread_t t; started < threads && !pthread_create(&t, &a, ij_pool_thread, p); started++) pthread_detach(t);
    pthread_attr_destroy(&a);
    team.run = ij_pool_run, team.pool = p, team.threads = started;
    return team;
}
#endif

#else
static int ij_replace(const char *aside, const char *path)      /* some systems do not rename over a file */
{
    return rename(aside, path) && (remove(path) || rename(aside, path));
}
static int ij_flush_file(FILE *f) { (void)f; return 0; }
static void ij_flush_folder(const char *path) { (void)path; }

#ifdef IJEPA_MAIN
#include <signal.h>
#include <time.h>
static void *ij_new(size_t size) { return malloc(size); }
static int ij_apart(int (*work)(void *), void *arg, const volatile sig_atomic_t *interrupted) { (void)interrupted; return work(arg); }
static double ij_seconds(void) { return (double)clock() / CLOCKS_PER_SEC; }
static size_t ij_processors(void) { return 1; }
static double ij_peak_mib(void) { return 0; }
static int ij_terminal(void) { return 0; }
static int ij_colours(void) { return 0; }
static ij_status ij_lock(const char *path, ij_error *why) { return ij_fail(why, IJ_OK, "%.300s", path); }
static ij_team ij_team_start(size_t threads)
{
    const ij_team team = { NULL, NULL, 1 };
    (void)threads;
    return team;
}
#endif
#endif

#ifdef IJEPA_MAIN
static void ij_slashes(int argc, char **argv)           /* Windows takes both, this file knows one */
{
#ifdef _WIN32
    for (int i = 1; i < argc; i++)
        for (char *c = argv[i]; *c; c++) *c = *c == '\\' ? '/' : *c;
#endif
    (void)argc, (void)argv;
}
#endif

/* ---- helpers of the readers -------------------------------------------------------------------------------------- */

/* Heap sort: in place, and unlike qsort it never allocates. */
static void ij_swap(unsigned char *a, unsigned char *b, size_t size)
{
    while (size--) {
        const unsigned char t = *a;
        *a++ = *b;
        *b++ = t;
    }
}

static void ij_sort(void *base, size_t count, size_t size, int (*compare)(const void *, const void *))
{
    unsigned char *x = base;
    for (size_t built = count / 2, end = count; end > 1;) {     /* x[built..end) is a heap */
        size_t at;
        if (built) at = --built;
        else ij_swap(x, x + --end * size, size), at = 0;
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
    static const struct { const char *bytes; size_t n; const char *name; } known[] = {
        { "\x89PNG", 4, "a PNG picture (magick FILE.png FILE.ppm)" }, { "\xff\xd8\xff", 3, "a JPEG picture (magick FILE.jpg FILE.ppm)" },
        { "GIF8", 4, "a GIF picture (magick 'FILE.gif[0]' FILE.ppm)" }, { "BM", 2, "a BMP picture (magick FILE.bmp FILE.ppm)" },
        { "RIFF", 4, "a WebP or other RIFF file (magick FILE.webp FILE.ppm)" },
        { "PK\x03\x04", 4, "a zip or .pth.tar archive (README, Interchange: torch.load, save_file)" },
        { "\x80", 1, "a Python pickle (README, Interchange: torch.load, save_file)" }, { "\x1f\x8b", 2, "a gzip archive (gunzip)" },
        { "\x89HDF", 4, "an HDF5 file (h5py.File, safetensors.numpy.save_file)" }, { "\x93NUMPY", 6, "a NumPy file (numpy.load)" } };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!memcmp(b, known[i].bytes, known[i].n)) return known[i].name;
    return NULL;
}

/* ---- image readers -----------------------------------------------------------------------------------------------
 * A path becomes a list of images, first of the training part and then of the test part. Only names, counts and labels
 * are kept; pixels are read when asked for. The same routine adds up the memory and fills it.                        */

enum { IJ_TEST_SEED = 2 };     /* of the scenes' test part; the training part's is 0, and 1 was used to choose settings */
enum { IJ_SOURCES = 8, IJ_PIXELS_MOST = 1 << 28 };
enum { IJ_PLANES, IJ_PLANES_BY_COLUMN, IJ_GREY };      /* how a record holds its pixels */

typedef struct {                /* one binary file of equal records */
    FILE *stream;
    const char *kind;
    char path[IJ_PATH];
    size_t start, record, count, pixels_at, height, width, classes;
    int layout;
} ij_source;

struct ij_data {
    const char *kind;
    char root[IJ_PATH];
    int part, whole, pair;
    size_t count, training;     /* of all images, and of those in the training part */
    size_t sources; ij_source source[IJ_SOURCES];
    const char **name;          /* [count] of a folder, relative to root */
    int *label;                 /* [count] for each task */
    size_t tasks, classes[3];
    size_t side;                /* of scenes; 0: no scenes */
};

static size_t ij_data_at(const ij_data *d, size_t i)   /* from the part's numbering to that of all images */
{
    if (d->whole) return i;
    if (d->pair) return d->part == IJ_TEST_PART ? d->training + i : i;
    return d->part == IJ_TEST_PART ? 10 * i + 9 : i + i / 9;
}

size_t ij_data_count(const ij_data *d)
{
    if (d->whole) return d->count;
    const size_t test = d->pair ? d->count - d->training : d->count / 10;
    return d->part == IJ_TEST_PART ? test : d->count - test;
}

const char *ij_data_kind(const ij_data *d) { return d->kind; }
size_t ij_data_tasks(const ij_data *d) { return d->tasks; }

const char *ij_data_task(const ij_data *d, size_t task, size_t *classes)
{
    static const char *const scene[3] = { "count", "dist", "kind" };
    if (task >= d->tasks) return NULL;
    if (classes) *classes = d->classes[task];
    return d->side ? scene[task] : "label";
}

int ij_data_label(const ij_data *d, size_t i, size_t task)
{
    return task < d->tasks && i < ij_data_count(d) ? d->label[task * d->count + ij_data_at(d, i)] : -1;
}

/* -- PNM: P, a digit, width, height, maxval, one white space, raster; # begins a comment -- */

typedef struct { FILE *f; char path[2 * IJ_PATH], type; size_t width, height, most; } ij_pnm;

static ij_status ij_pnm_number(size_t *x, ij_pnm *p, const char *what, size_t low, size_t high, ij_error *why)
{
    int c;
    do {
        c = getc(p->f);
        if (c == '#')
            while (c != '\n' && c != EOF) c = getc(p->f);
    } while (c == ' ' || c == '\t' || c == '\r' || c == '\n');
    if (c < '0' || c > '9') {
        char found[32];
        snprintf(found, sizeof found, c == EOF ? "the end of the file" : "byte 0x%02x", (unsigned)c);
        return ij_fail(why, IJ_EDATA, "%.300s: byte %ld: expected %s, found %s", p->path, ftell(p->f), what, found);
    }
    for (*x = 0; c >= '0' && c <= '9'; c = getc(p->f)) *x = IJ_MIN(*x, SIZE_MAX / 16) * 10 + (size_t)(c - '0');
    if (*x < low || *x > high)
        return ij_fail(why, IJ_EDATA, "%.300s: byte %ld: %s is %.0f, expected %zu..%zu", p->path, ftell(p->f), what, (double)*x, low, high);
    if (c != EOF && c != ' ' && c != '\t' && c != '\r' && c != '\n' && c != '#')
        return ij_fail(why, IJ_EDATA, "%.300s: byte %ld: expected white space after %s, found byte 0x%02x", p->path, ftell(p->f), what, (unsigned)c);
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
    const size_t got = fread(b, 1, 8, p->f);
    ij_status s = IJ_OK;
    if (got < 2 || b[0] != 'P' || !(b[1] == '2' || b[1] == '3' || b[1] == '5' || b[1] == '6'))
        s = ij_fail(why, IJ_EDATA, "%.300s: byte 0: expected a PNM image (P2, P3, P5, P6), found %s", p->path,
                    got == 8 && ij_foreign_format(b) ? ij_foreign_format(b) : "something else (README says how to convert)");
    p->type = (char)b[1];
    if (!s && fseek(p->f, 2, SEEK_SET)) s = ij_fail(why, IJ_EFILE, "%.300s: cannot be read", p->path);
    if (!s) s = ij_pnm_number(&p->width, p, "width", 1, IJ_PIXELS_MOST, why);
    if (!s) s = ij_pnm_number(&p->height, p, "height", 1, IJ_PIXELS_MOST / p->width, why);
    if (!s) s = ij_pnm_number(&p->most, p, "maxval", 1, 65535, why);
    if (s) fclose(p->f);
    return s;
}

/* rgb [h,w,3] from the raster: values become 0..255, grey three equal channels. */
static ij_status ij_pnm_pixels(uint8_t *rgb, ij_pnm *p, ij_error *why)
{
    const int text = p->type < '5', bytes = p->most > 255 ? 2 : 1;
    const size_t each = p->type == '3' || p->type == '6' ? 3 : 1, count = p->width * p->height * each;
    ij_status s = IJ_OK;
    if (!text && bytes == 1 && p->most == 255 && each == 3) {
        const size_t got = fread(rgb, 1, count, p->f);
        if (got < count) s = ij_fail(why, IJ_EDATA, "%.300s: byte %ld: the raster ends after %zu of %zu bytes", p->path, ftell(p->f), got, count);
    } else for (size_t i = 0; i < count && !s; i++) {
        size_t v = 0;
        if (text) s = ij_pnm_number(&v, p, "a sample", 0, p->most, why);
        else for (int k = 0; k < bytes && !s; k++) {
            const int c = getc(p->f);
            if (c == EOF) s = ij_fail(why, IJ_EDATA, "%.300s: byte %ld: the raster ends after %zu of %zu samples", p->path, ftell(p->f), i, count);
            v = v << 8 | (size_t)(c & 255);
        }
        if (!s && v > p->most)
            s = ij_fail(why, IJ_EDATA, "%.300s: byte %ld: sample is %zu, expected 0..%zu", p->path, ftell(p->f), v, p->most);
        const uint8_t value = (uint8_t)((v * 255 + p->most / 2) / p->most);
        if (each == 3) rgb[i] = value;
        else memset(rgb + 3 * i, value, 3);
    }
    if (!s && !text && getc(p->f) != EOF)
        s = ij_fail(why, IJ_EDATA, "%.300s: byte %ld: expected the end of the file after the raster", p->path, ftell(p->f) - 1);
    return s;
}

/* -- binary sets: equal records -- */

static size_t ij_big(const unsigned char *b) { return (size_t)b[0] << 24 | (size_t)b[1] << 16 | (size_t)b[2] << 8 | b[3]; }

/* All labels at byte `at` of each record are below `classes`. */
static int ij_labels_fit(FILE *f, size_t size, size_t record, size_t at, size_t classes)
{
    for (size_t i = at; i < size; i += record) {
        const int c = fseek(f, (long)i, SEEK_SET) ? EOF : getc(f);
        if (c == EOF || (size_t)c >= classes) return 0;
    }
    return size > 0;
}

/* Recognises a binary file by its first bytes and its size. Whatever comes of it, ij_data_close closes it. */
static ij_status ij_data_add_source(ij_data *d, const char *path, ij_error *why)
{
    unsigned char b[16] = { 0 };
    ij_source *s = &d->source[d->sources];
    strcpy(s->path, path);                              /* shorter than IJ_PATH: ij_data_build has seen to it */
    FILE *f = s->stream = fopen(path, "rb");
    if (!f) return ij_fail(why, IJ_EFILE, "%.300s: %s", path, strerror(errno));
    d->sources++;
    const size_t got = fread(b, 1, sizeof b, f);
    const long end = fseek(f, 0, SEEK_END) ? -1 : ftell(f);
    const size_t size = end < 0 ? 0 : (size_t)end;
    s->height = s->width = 32;
    if (end < 0) return ij_fail(why, IJ_EFILE, "%.300s: cannot be read, or too large for this platform", path);
    if (got >= 4 && !memcmp(b, "\0\0\x08\x03", 4)) {
        s->kind = "IDX", s->start = 16, s->layout = IJ_GREY;
        s->count = ij_big(b + 4), s->height = ij_big(b + 8), s->width = ij_big(b + 12);
        s->record = ij_mul(s->height, s->width);
        if (got < 16 || !s->record || s->record > IJ_PIXELS_MOST || ij_mul(s->count, s->record) != size - 16)
            return ij_fail(why, IJ_EDATA, "%.300s: byte 4: IDX of %zu images of %zux%zu in a file of %zu bytes", path,
                           s->count, s->height, s->width, size);
    } else if (size % 3073 == 0 && ij_labels_fit(f, size, 3073, 0, 10))
        s->kind = "CIFAR-10", s->record = 3073, s->pixels_at = 1, s->classes = 10;
    else if (size % 3074 == 0 && ij_labels_fit(f, size, 3074, 0, 20) && ij_labels_fit(f, size, 3074, 1, 100))
        s->kind = "CIFAR-100", s->record = 3074, s->pixels_at = 2, s->classes = 100;
    else if (size && size % 27648 == 0)
        s->kind = "STL-10", s->record = 27648, s->height = s->width = 96, s->layout = IJ_PLANES_BY_COLUMN;
    else
        return ij_fail(why, IJ_EDATA, "%.300s: %s of %zu bytes, expected PNM, CIFAR (records of 3073 or 3074 bytes with labels "
                       "in range), STL-10 (27648) or IDX; README says how to convert pictures", path,
                       got >= 8 && ij_foreign_format(b) ? ij_foreign_format(b) : "unknown format", size);
    if (s->kind[0] != 'I') s->count = size / s->record;
    if (!s->count) return ij_fail(why, IJ_EDATA, "%.300s: holds no image", path);
    d->count += s->count, d->kind = s->kind;
    if (!strcmp(d->kind, d->source[0].kind)) return IJ_OK;
    return ij_fail(why, IJ_EDATA, "%.300s: %s beside %s", path, s->kind, d->source[0].kind);
}

/* The file of labels that belongs to an STL or IDX file: train_X.bin, train_y.bin; train-images-idx3, train-labels-idx1. */
static int ij_label_path(char to[IJ_PATH], const char *path)
{
    static const char *const pair[][2] = { { "_X.bin", "_y.bin" }, { "images-idx3", "labels-idx1" }, { "images.idx3", "labels.idx1" } };
    for (size_t i = 0; i < 3; i++) {
        const char *at = strstr(path, pair[i][0]);
        if (!at) continue;
        strcpy(to, path);
        memcpy(to + (at - path), pair[i][1], strlen(pair[i][1]));
        return 1;
    }
    return 0;
}

/* Labels of one source into label (NULL: only their number of classes is found). *classes 0: it has none. */
static ij_status ij_source_labels(int *label, size_t *classes, const ij_source *s, ij_error *why)
{
    char path[IJ_PATH];
    *classes = s->classes;
    if (s->classes) {                                   /* CIFAR: in the record, the fine one for CIFAR-100 */
        for (size_t i = 0; label && i < s->count; i++) {
            const int c = fseek(s->stream, (long)(i * s->record + s->pixels_at - 1), SEEK_SET) ? EOF : getc(s->stream);
            if (c == EOF || (size_t)c >= s->classes) return ij_fail(why, IJ_EDATA, "%.300s: label %zu", s->path, i);
            label[i] = c;
        }
        return IJ_OK;
    }
    FILE *f = ij_label_path(path, s->path) ? fopen(path, "rb") : NULL;
    if (!f) return IJ_OK;
    const int idx = s->kind[0] == 'I', base = idx ? 0 : 1;     /* STL counts from 1 */
    unsigned char b[8];
    ij_status status = IJ_OK;
    if (idx && (fread(b, 1, 8, f) != 8 || memcmp(b, "\0\0\x08\x01", 4) || ij_big(b + 4) != s->count))
        status = ij_fail(why, IJ_EDATA, "%.300s: byte 0: expected IDX labels of %zu images", path, s->count);
    for (size_t i = 0; i < s->count && !status; i++) {
        const int c = getc(f);
        if (c == EOF || c < base || (!idx && c > 10))
            status = ij_fail(why, IJ_EDATA, "%.300s: label %zu: found %d, expected %d..%d for each of %zu images", path,
                             i, c, base, idx ? 255 : 10, s->count);
        else if (label) label[i] = c - base;
        *classes = IJ_MAX(*classes, (size_t)(c - base + 1));
    }
    if (!status && getc(f) != EOF)
        status = ij_fail(why, IJ_EDATA, "%.300s: more labels than %zu images", path, s->count);
    fclose(f);
    return status;
}

/* Label arrays of all sources; they have labels only if each of them has. */
static ij_status ij_data_source_labels(ij_data *d, ij_arena *a, ij_error *why)
{
    size_t classes, at = 0;
    d->tasks = 1;
    d->label = ij_take(a, d->count, sizeof(int));
    for (size_t i = 0; i < d->sources; at += d->source[i++].count) {
        const ij_status s = ij_source_labels(d->label ? d->label + at : NULL, &classes, &d->source[i], why);
        if (s) return s;
        if (!classes) d->tasks = 0;
        d->classes[0] = IJ_MAX(d->classes[0], classes);
    }
    return IJ_OK;
}

/* -- folders -- */

/* Byte order with '/' before everything: folders stand in the order of their names. At most n bytes count. */
static int ij_path_order(const char *a, const char *b, size_t n)
{
    while (n && *a && *a == *b) a++, b++, n--;
    if (!n || *a == *b) return 0;
    const int x = *a == '/' ? 1 : (unsigned char)*a + 1, y = *b == '/' ? 1 : (unsigned char)*b + 1;
    return *a && (!*b || x > y) ? 1 : -1;
}

static int ij_by_name(const void *a, const void *b)
{
    return ij_path_order(*(const char *const *)a, *(const char *const *)b, SIZE_MAX);
}

/* Classes are the first folders of the training part, in order; of the test part, the ones of the same name. */
static ij_status ij_folder_labels(ij_data *d, const size_t prefix[2], ij_error *why)
{
    size_t classes = 0, same = 0;                       /* same: the first training picture not before the class of test picture i */
    for (size_t i = 0; i < d->count; i++) {
        const char *name = d->name[i] + prefix[i >= d->training], *slash = strchr(name, '/');
        if (!slash) return IJ_OK;                       /* a picture outside all classes */
        const size_t n = (size_t)(slash + 1 - name);
        if (i < d->training) {
            if (!i || strncmp(name, d->name[i - 1] + prefix[0], n)) classes++;
            d->label[i] = (int)classes - 1;
            continue;
        }
        while (same < d->training && ij_path_order(d->name[same] + prefix[0], name, n) < 0) same++;
        if (same == d->training || strncmp(d->name[same] + prefix[0], name, n))
            return ij_fail(why, IJ_EDATA, "%.200s/%.200s: no training pictures of this class", d->root, d->name[i]);
        d->label[i] = d->label[same];
    }
    if (classes > 1) d->tasks = 1, d->classes[0] = classes;
    return IJ_OK;
}

static ij_status ij_data_folder(ij_data *d, ij_arena *a, const char *path, ij_error *why)
{
    static const char *const part[3] = { "train", "test", "val" };
    char at[IJ_PATH];
    size_t root = strlen(path) + 1, found[3], prefix[2] = { 0, 0 }, bytes = 0;
    for (size_t i = 0; i < 3; i++) {
        snprintf(at, sizeof at, "%.1000s/%s", path, part[i]);
        found[i] = (size_t)ij_is_folder(at);
    }
    d->pair = found[0] && (found[1] || found[2]);
    const char *const second = found[1] ? "test" : "val";
    ij_walk w;
    for (int pass = 0; pass < 2; pass++) {              /* count, then note */
        memset(&w, 0, sizeof w);
        if (pass) {
            w.room_names = d->count, w.room_text = bytes;
            w.name = d->name = ij_take(a, d->count, sizeof *d->name);
            w.text = ij_take(a, bytes, 1);
            d->label = ij_take(a, d->count, sizeof(int));
            if (!d->name) return IJ_OK;                 /* adding up only */
        }
        for (int k = 0; k < (d->pair ? 2 : 1); k++) {
            snprintf(at, sizeof at, d->pair ? "%.1000s/%s" : "%.1000s", path, k ? second : "train");
            prefix[k] = d->pair ? strlen(k ? second : "train") + 1 : 0;
            const ij_status s = ij_folder_walk(&w, at, root, 0, why);
            if (s) return s;
            if (!k) d->training = w.count;
        }
        if (!w.count)
            return ij_fail(why, IJ_EDATA, "%.300s: no .ppm, .pgm or .pnm file in it, but %zu others (%s): README says how to convert",
                           path, w.others, w.others ? w.other : "none");
        if (pass && w.count != d->count) return ij_fail(why, IJ_EDATA, "%.300s: files were removed while it was read", path);
        d->count = w.count, bytes = w.bytes;
    }
    d->kind = "folder of PNM";
    ij_sort(d->name, d->training, sizeof *d->name, ij_by_name);
    ij_sort(d->name + d->training, d->count - d->training, sizeof *d->name, ij_by_name);
    return ij_folder_labels(d, prefix, why);
}

/* A folder with binary files of the usual names: training files, then test files. 0: there are none. */
static int ij_data_known_files(ij_data *d, const char *path, ij_status *status, ij_error *why)
{
    static const char *const set[][8] = {       /* training names, "", test names */
        { "data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin", "", "test_batch.bin", NULL },
        { "train.bin", "", "test.bin", NULL }, { "train_X.bin", "", "test_X.bin", NULL }, { "unlabeled_X.bin", NULL },
        { "train-images-idx3-ubyte", "", "t10k-images-idx3-ubyte", NULL },
        { "train-images.idx3-ubyte", "", "t10k-images.idx3-ubyte", NULL } };
    char at[IJ_PATH];
    for (size_t k = 0; k < sizeof set / sizeof *set && !d->sources; k++) {
        int test = 0;
        for (size_t i = 0; set[k][i] && !*status; i++) {
            if (!*set[k][i]) { test = 1, d->training = d->count; continue; }
            snprintf(at, sizeof at, "%.950s/%s", path, set[k][i]);
            FILE *f = fopen(at, "rb");
            if (!f) continue;
            fclose(f);
            *status = ij_data_add_source(d, at, why);
        }
        d->pair = test && d->training && d->count > d->training;
    }
    return d->sources > 0;
}

static ij_status ij_data_scenes(ij_data *d, ij_arena *a, const char *path, ij_error *why)
{
    unsigned long count = 10000, side = 32;
    char rest = 0;
    if (path[6] && (sscanf(path, "scenes:%lu:%lu%c", &count, &side, &rest) < 1 || rest || !count || count > 100000000 || !side || side > 4096))
        return ij_fail(why, IJ_EARG, "%.60s: expected scenes, scenes:COUNT or scenes:COUNT:SIDE with COUNT up to 100000000, SIDE up to 4096", path);
    d->kind = "scenes", d->side = side, d->pair = 1;
    d->training = count, d->count = count + (count + 3) / 4;    /* the test part: a quarter more, of another seed */
    d->tasks = 3, d->classes[0] = 8, d->classes[1] = 6, d->classes[2] = 3;
    d->label = ij_take(a, ij_mul(3, d->count), sizeof(int));
    for (size_t i = 0; d->label && i < d->count; i++) {
        int label[IJ_SCENE_TASKS];
        const size_t test = i >= d->training;
        ij_scene(NULL, side, test ? IJ_TEST_SEED : 0, test ? i - d->training : i, label);
        for (size_t t = 0; t < 3; t++) d->label[t * d->count + i] = label[t];
    }
    return IJ_OK;
}

static ij_status ij_data_build(ij_data *d, ij_arena *a, const char *path, int part, int whole, ij_error *why)
{
    ij_status s = IJ_OK;
    memset(d, 0, sizeof *d);
    d->part = part, d->whole = whole;
    if (strlen(path) >= sizeof d->root) return ij_fail(why, IJ_EARG, "%.60s...: the path is too long", path);
    strcpy(d->root, path);
    if (!strncmp(path, "scenes", 6) && (!path[6] || path[6] == ':')) return ij_data_scenes(d, a, path, why);
    if (ij_data_known_files(d, path, &s, why) || s) return s ? s : ij_data_source_labels(d, a, why);
    if (ij_is_folder(path)) return ij_data_folder(d, a, path, why);
    ij_pnm p;
    FILE *f = fopen(path, "rb");
    if (!f) return ij_fail(why, IJ_EFILE, "%.300s: %s", path, strerror(errno));
    const int first = getc(f), second = getc(f);
    fclose(f);
    if (first != 'P' || second < '1' || second > '7') {
        s = ij_data_add_source(d, path, why);
        return s ? s : ij_data_source_labels(d, a, why);
    }
    if ((s = ij_pnm_open(&p, path, NULL, why)) != IJ_OK) return s;
    fclose(p.f);
    d->kind = "PNM", d->count = 1, d->whole = 1;
    return IJ_OK;
}

void ij_data_close(ij_data *d)
{
    for (size_t i = 0; i < d->sources; i++) fclose(d->source[i].stream);
    d->sources = 0;
}

ij_status ij_data_size(size_t *size, const char *path, int part, int whole, ij_error *why)
{
    ij_data d;
    ij_arena a = { NULL, 0, 0 };
    ij_take(&a, 1, sizeof d);
    ij_status s = ij_data_build(&d, &a, path, part, whole, why);
    ij_data_close(&d);
    if (!s && a.used == SIZE_MAX) s = ij_fail(why, IJ_EMEM, "%.300s: too many images to address", path);
    *size = a.used;
    return s;
}

ij_status ij_data_open(ij_data **d, void *mem, size_t size, const char *path, int part, int whole, ij_error *why)
{
    size_t need;
    ij_arena a = { mem, size, 0 };
    ij_status s = ij_data_size(&need, path, part, whole, why);
    if (s) return s;
    if (!mem || size < need) return ij_fail(why, IJ_EMEM, "%.300s: needs %zu bytes, has %zu", path, need, size);
    *d = ij_take(&a, 1, sizeof **d);
    s = ij_data_build(*d, &a, path, part, whole, why);
    if (!s && !ij_data_count(*d))
        s = ij_fail(why, IJ_EDATA, "%.300s: no image in the %s part", path, part == IJ_TEST_PART ? "test" : "training");
    if (s) ij_data_close(*d);
    return s;
}


static const ij_source *ij_data_source(const ij_data *d, size_t *at)
{
    const ij_source *s = d->source;
    for (; *at >= s->count; s++) *at -= s->count;
    return s;
}

ij_status ij_data_shape(size_t *height, size_t *width, ij_data *d, size_t i, ij_error *why)
{
    ij_pnm p;
    size_t at = ij_data_at(d, i);
    if (i >= ij_data_count(d)) return ij_fail(why, IJ_EARG, "%.300s: no image %zu", d->root, i);
    if (d->side) *height = *width = d->side;
    else if (d->sources) {
        const ij_source *s = ij_data_source(d, &at);
        *height = s->height, *width = s->width;
    } else {
        const ij_status status = ij_pnm_open(&p, d->root, d->name ? d->name[at] : NULL, why);
        if (status) return status;
        *height = p.height, *width = p.width;
        fclose(p.f);
    }
    return IJ_OK;
}

/* One record, channel by channel. */
static ij_status ij_source_read(uint8_t *rgb, const ij_source *s, size_t at, ij_error *why)
{
    const size_t h = s->height, w = s->width, planes = s->layout == IJ_GREY ? 1 : 3;
    const uint64_t place = (uint64_t)s->start + (uint64_t)at * s->record + s->pixels_at;
    uint8_t buffer[4096];
    if (place > LONG_MAX || fseek(s->stream, (long)place, SEEK_SET))
        return ij_fail(why, IJ_EFILE, "%.300s: byte %.0f cannot be reached", s->path, (double)place);
    for (size_t n = 0, have = 0, used = 0; n < planes * h * w; n++, used++) {
        if (used == have) {
            have = fread(buffer, 1, IJ_MIN(sizeof buffer, planes * h * w - n), s->stream), used = 0;
            if (!have) return ij_fail(why, IJ_EFILE, "%.300s: image %zu cannot be read", s->path, at);
        }
        const size_t plane = n / (h * w), k = n % (h * w);
        const size_t pixel = s->layout == IJ_PLANES_BY_COLUMN ? k % h * w + k / h : k;
        for (size_t c = plane; c < (planes == 1 ? 3 : plane + 1); c++) rgb[3 * pixel + c] = buffer[used];
    }
    return IJ_OK;
}

ij_status ij_data_read(uint8_t *rgb, size_t size, ij_data *d, size_t i, ij_error *why)
{
    ij_pnm p;
    size_t h, w, at = ij_data_at(d, i);
    int label[IJ_SCENE_TASKS];
    ij_status s = ij_data_shape(&h, &w, d, i, why);
    if (s) return s;
    if (size < h * w * 3) return ij_fail(why, IJ_EMEM, "%.300s: image %zu needs %zu bytes, has %zu", d->root, i, h * w * 3, size);
    if (d->side) ij_scene(rgb, d->side, at < d->training ? 0 : IJ_TEST_SEED, at < d->training ? at : at - d->training, label);
    else if (d->sources) {
        const ij_source *source = ij_data_source(d, &at);
        return ij_source_read(rgb, source, at, why);
    } else {
        if ((s = ij_pnm_open(&p, d->root, d->name ? d->name[at] : NULL, why)) != IJ_OK) return s;
        if (p.height * p.width > h * w) s = ij_fail(why, IJ_EDATA, "%.300s: the file changed while it was read", p.path);
        if (!s) s = ij_pnm_pixels(rgb, &p, why);
        fclose(p.f);
    }
    return s;
}

/* ---- augmentation ------------------------------------------------------------------------------------------------
 * Random-resized crop, as torchvision draws it and Pillow resizes it; no colour, no blur (the paper's point).       */

enum { IJ_RESIZE_BITS = 22 };

/* For each output pixel of one axis: its first input pixel and `taps` fixed-point weights of a triangle. */
typedef struct { size_t taps, *first, *used; int32_t *weight; } ij_axis;

static void ij_axis_place(ij_axis *x, ij_arena *a, size_t in, size_t out)
{
    const double scale = (double)in / (double)out;
    x->taps = (size_t)ceil(IJ_MAX(scale, 1)) * 2 + 1;
    x->first = ij_take(a, out, sizeof *x->first);
    x->used = ij_take(a, out, sizeof *x->used);
    x->weight = ij_take(a, ij_mul(out, x->taps), sizeof *x->weight);
}

static void ij_axis_weights(const ij_axis *x, size_t in, size_t out)
{
    const double scale = (double)in / (double)out, support = IJ_MAX(scale, 1);
    for (size_t i = 0; i < out; i++) {
        const double centre = ((double)i + 0.5) * scale, low = centre - support + 0.5, high = centre + support + 0.5;
        const size_t first = low > 0 ? (size_t)low : 0, last = IJ_MIN((size_t)high, in);
        double sum = 0;
        x->first[i] = first, x->used[i] = last - first;
        for (int pass = 0; pass < 2; pass++)
            for (size_t k = first; k < last; k++) {
                const double away = fabs(((double)k - centre + 0.5) * (1 / support)), w = away < 1 ? 1 - away : 0;
                if (!pass) sum += w;
                else x->weight[i * x->taps + k - first] = (int32_t)(0.5 + w / sum * (1 << IJ_RESIZE_BITS));
            }
    }
}

static void ij_resize_place(ij_axis axis[2], uint8_t **middle, ij_arena *a, const size_t box[4], size_t dh, size_t dw)
{
    ij_axis_place(&axis[0], a, box[2] - box[0], dw);
    ij_axis_place(&axis[1], a, box[3] - box[1], dh);
    *middle = ij_take(a, ij_mul(ij_mul(box[3] - box[1], dw), 3), 1);
}

size_t ij_resize_size(const size_t box[4], size_t dst_height, size_t dst_width)
{
    ij_axis axis[2];
    uint8_t *middle;
    ij_arena a = { NULL, 0, 0 };
    ij_resize_place(axis, &middle, &a, box, dst_height, dst_width);
    return a.used;
}

static uint8_t ij_resize_clip(int32_t sum)
{
    const int32_t v = sum >> IJ_RESIZE_BITS;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

void ij_resize(uint8_t *dst, size_t dst_height, size_t dst_width, const uint8_t *src, size_t src_width, const size_t box[4],
               void *work)
{
    ij_axis axis[2];
    uint8_t *middle;                                    /* [box height, dw, 3] */
    ij_arena a = { work, ij_resize_size(box, dst_height, dst_width), 0 };
    ij_resize_place(axis, &middle, &a, box, dst_height, dst_width);
    ij_axis_weights(&axis[0], box[2] - box[0], dst_width);
    ij_axis_weights(&axis[1], box[3] - box[1], dst_height);
    for (size_t y = 0; y < box[3] - box[1]; y++)
        for (size_t x = 0; x < dst_width; x++) {
            const uint8_t *from = src + ((box[1] + y) * src_width + box[0] + axis[0].first[x]) * 3;
            const int32_t *w = axis[0].weight + x * axis[0].taps;
            int32_t sum[3] = { 1 << (IJ_RESIZE_BITS - 1), 1 << (IJ_RESIZE_BITS - 1), 1 << (IJ_RESIZE_BITS - 1) };
            for (size_t k = 0; k < axis[0].used[x]; k++)
                for (size_t c = 0; c < 3; c++) sum[c] += w[k] * from[3 * k + c];
            for (size_t c = 0; c < 3; c++) middle[(y * dst_width + x) * 3 + c] = ij_resize_clip(sum[c]);
        }
    for (size_t y = 0; y < dst_height; y++)
        for (size_t i = 0; i < dst_width * 3; i++) {
            const uint8_t *from = middle + axis[1].first[y] * dst_width * 3 + i;
            int32_t sum = 1 << (IJ_RESIZE_BITS - 1);
            for (size_t k = 0; k < axis[1].used[y]; k++) sum += axis[1].weight[y * axis[1].taps + k] * from[k * dst_width * 3];
            dst[y * dst_width * 3 + i] = ij_resize_clip(sum);
        }
}

/* torch's uniform_ on one float: fmaf(u, h - l, l), but not by libm's, which is wrong in places (mingw, m68k under QEMU).
 * 24 bits times 24, plus l: a double holds that sum whole unless the range is under 1/64 of its end. */
static double ij_uniform_float(ij_rng *rng, double low, double high)
{
    const float l = (float)low, h = (float)high, range = h - l;
    return (double)(float)(ij_rng_uniform(rng) * (double)range + (double)l);
}

void ij_random_crop(size_t box[4], size_t height, size_t width, const double scale[2], ij_rng *rng)
{
    const double area = (double)height * (double)width;
    for (int i = 0; i < 10; i++) {
        const double part = area * ij_uniform_float(rng, scale[0], scale[1]);
        const double ratio = exp(ij_uniform_float(rng, log(3.0 / 4), log(4.0 / 3)));
        const double w = rint(sqrt(part * ratio)), h = rint(sqrt(part / ratio));
        if (w < 1 || h < 1 || w > (double)width || h > (double)height) continue;
        box[1] = ij_rng_below(rng, height - (size_t)h + 1), box[0] = ij_rng_below(rng, width - (size_t)w + 1);
        box[2] = box[0] + (size_t)w, box[3] = box[1] + (size_t)h;
        return;
    }
    const double ratio = (double)width / (double)height;        /* the largest central box of a possible shape */
    size_t w = width, h = height;
    if (ratio < 3.0 / 4) h = (size_t)rint((double)width / (3.0 / 4));
    else if (ratio > 4.0 / 3) w = (size_t)rint((double)height * (4.0 / 3));
    w = IJ_MAX(IJ_MIN(w, width), 1), h = IJ_MAX(IJ_MIN(h, height), 1);
    box[0] = (width - w) / 2, box[1] = (height - h) / 2, box[2] = box[0] + w, box[3] = box[1] + h;
}

/* A byte of channel k becomes byte * scale - shift. */
static void ij_byte_scale(real *scale, real *shift, const ij_config *c, size_t k)
{
    *scale = (real)(1 / (255 * c->std[k])), *shift = (real)(c->mean[k] / c->std[k]);
}

void ij_normalise(ij_real *planes, const uint8_t *rgb, size_t height, size_t width, const ij_config *c, int flip)
{
    for (size_t k = 0; k < 3; k++) {
        real scale, shift;
        ij_byte_scale(&scale, &shift, c, k);
        for (size_t y = 0; y < height; y++)
            for (size_t x = 0; x < width; x++)
                planes[(k * height + y) * width + x] =
                    (real)rgb[(y * width + (flip ? width - 1 - x : x)) * 3 + k] * scale - shift;
    }
}

void ij_color_jitter(uint8_t *rgb, size_t pixels, double strength, double gray, ij_rng *rng)
{
    static const double luma[3] = { 0.299, 0.587, 0.114 };
    double u[6], mean = 0;
    for (int i = 0; i < 6; i++) u[i] = ij_rng_uniform(rng);
    const double on = u[0] < 0.8 ? strength : 0, bright = 1 + 0.8 * on * (2 * u[1] - 1), contrast = 1 + 0.8 * on * (2 * u[2] - 1);
    const double chroma = u[5] < gray ? 0 : 1 + 0.8 * on * (2 * u[3] - 1), hue = 2 * IJ_PI * 0.2 * on * (2 * u[4] - 1);
    for (size_t i = 0; i < 3 * pixels; i++) mean += luma[i % 3] * rgb[i] / (double)pixels;
    for (size_t i = 0; i < pixels; i++) {
        double y = 0, x[3], sum = 0;
        for (size_t k = 0; k < 3; k++) y += luma[k] * rgb[i * 3 + k];
        for (size_t k = 0; k < 3; k++) x[k] = rgb[i * 3 + k] - y, sum += x[k] / 3;
        for (size_t k = 0; k < 3; k++) {                   /* hue turns what differs from the grey axis around it */
            const double turned = sum + (x[k] - sum) * cos(hue) + (x[(k + 1) % 3] - x[(k + 2) % 3]) * sin(hue) / sqrt(3);
            const double v = bright * (mean + contrast * (y + chroma * turned - mean));
            rgb[i * 3 + k] = (uint8_t)(IJ_MAX(0, IJ_MIN(v, 255)) + 0.5);
        }
    }
}

/* ---- built-in scenes ---------------------------------------------------------------------------------------------
 * One to eight spheres, cubes and cylinders on a grey ground, after CLEVR: data that needs no download, with the labels
 * of the paper's low-level tasks. The camera stands at (0,0,height) and looks along y, down on the ground z = 0. It
 * rises with its distance, and objects spread over the picture alike at every distance, anywhere in it: what tells how
 * far the nearest one is, is how large objects look, not where they are nor how bright a pixel is. Classes are balanced. */

enum { IJ_SPHERE, IJ_CUBE, IJ_CYLINDER, IJ_OBJECTS_MOST = 8, IJ_DISTANCES = 6 };
static const double ij_nearest = 5.0, ij_distance_ratio = 1.22, ij_view = 0.40;       /* tan of half the angle of view */

typedef struct { int kind; double x, y, u, v, size, c, s; const double *colour; } ij_object;     /* size: half its height; */
typedef struct {                                                                   /* u, v: where in the picture, -view..view */
    int objects;
    ij_object object[IJ_OBJECTS_MOST];
    double height, pitch, light[3], ground, bright;
} ij_world;

static double ij_pick(uint64_t *state, double low, double high)
{
    return low + (high - low) * (double)(ij_mix(state) >> 11) / 9007199254740992.0;
}

/* Apart on the ground, and apart in the picture: the eye and a patch of four pixels can tell them from one another. */
static int ij_world_free(const ij_world *w, const ij_object *o, double gap)
{
    for (int i = 0; i < w->objects; i++) {
        const ij_object *p = &w->object[i];
        const double dx = o->x - p->x, dy = o->y - p->y, apart = 1.45 * (o->size + p->size), du = o->u - p->u, dv = o->v - p->v;
        if (dx * dx + dy * dy < apart * apart || du * du + dv * dv < gap * gap) return 0;
    }
    return 1;
}

static void ij_world_draw(ij_world *w, uint64_t seed, uint64_t index, int labels[IJ_SCENE_TASKS])
{
    static const double colour[8][3] = { { .34, .34, .34 }, { .68, .14, .14 }, { .16, .29, .84 }, { .11, .41, .08 },
        { .50, .29, .10 }, { .50, .15, .75 }, { .16, .82, .82 }, { 1, .93, .20 } };
    uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
    state = ij_mix(&state) + index * 0xd1342543de82ef95u;
    labels[IJ_SCENE_COUNT] = (int)(ij_mix(&state) % IJ_OBJECTS_MOST);
    labels[IJ_SCENE_DIST] = (int)(ij_mix(&state) % IJ_DISTANCES);
    const double near = ij_nearest * pow(ij_distance_ratio, labels[IJ_SCENE_DIST] + ij_pick(&state, 0, 1));
    w->pitch = ij_pick(&state, 0.85, 1.05);
    const double cp = cos(w->pitch), sp = sin(w->pitch);
    w->objects = 0;
    for (int i = 0; i <= labels[IJ_SCENE_COUNT]; i++) {
        ij_object o;
        o.kind = (int)(ij_mix(&state) % 3);
        o.colour = colour[ij_mix(&state) % 8];
        o.size = ij_pick(&state, 0.60, 0.65);
        const double turn = ij_pick(&state, 0, 2 * IJ_PI);
        o.c = cos(turn), o.s = sin(turn);
        double gap = 0.12;
        for (int tries = 0; tries < 4000; tries++) {    /* smaller and closer, if there is no room */
            if (tries % 40 == 39) o.size *= 0.96, gap *= 0.96;
            o.u = ij_pick(&state, -0.85, 0.85) * ij_view;
            o.v = i ? ij_pick(&state, w->object[0].v, 0.85 * ij_view) : ij_pick(&state, -0.8, 0) * ij_view;
            const double ray = sqrt(1 + o.u * o.u + o.v * o.v), down = sp - o.v * cp;
            if (!i) w->height = o.size + near * down / ray;
            const double t = (w->height - o.size) / down;
            o.x = t * o.u, o.y = t * (cp + o.v * sp);
            if ((!i || t * ray > near) && ij_world_free(w, &o, gap)) break;
        }
        w->object[w->objects++] = o;
    }
    labels[IJ_SCENE_KIND] = w->object[0].kind;
    const double a = ij_pick(&state, -1, 1), b = ij_pick(&state, -1, 0.3), n = sqrt(a * a + b * b + 1.7 * 1.7);
    w->light[0] = a / n, w->light[1] = b / n, w->light[2] = 1.7 / n;
    w->ground = ij_pick(&state, 0.48, 0.52), w->bright = ij_pick(&state, 0.9, 1.1);
}

static double ij_dot3(const double a[3], const double b[3]) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

/* Nearest hit of the slabs |p| <= half along `axes` axes: the distance, and the axis it entered by. */
static double ij_hit_slabs(const double o[3], const double d[3], double half, int from, int to, double *leave, int *axis)
{
    double enter = -1e30;
    for (int k = from; k < to; k++) {
        if (d[k] > -1e-12 && d[k] < 1e-12) {
            if (o[k] < -half || o[k] > half) return 1e30;
            continue;
        }
        const double t1 = (-half - o[k]) / d[k], t2 = (half - o[k]) / d[k], low = IJ_MIN(t1, t2), high = IJ_MAX(t1, t2);
        if (low > enter) enter = low, *axis = k;
        *leave = IJ_MIN(*leave, high);
    }
    return enter;
}

/* Distance along the ray to the object and the normal there; 1e30 if it is missed. */
static double ij_hit(double normal[3], const ij_object *q, const double from[3], const double ray[3])
{
    const double o[3] = { from[0] - q->x, from[1] - q->y, from[2] - q->size };
    const double round = q->kind == IJ_SPHERE ? 1 : q->kind == IJ_CUBE ? 3 : 2, half = q->size;       /* bounding sphere */
    const double b = ij_dot3(o, ray), disc = b * b - ij_dot3(o, o) + round * half * half;
    if (disc <= 0) return 1e30;
    if (q->kind == IJ_SPHERE) {
        const double t = -b - sqrt(disc);
        for (int k = 0; k < 3; k++) normal[k] = (o[k] + t * ray[k]) / half;
        return t;
    }
    double leave = 1e30;
    int axis = 0;
    if (q->kind == IJ_CUBE) {                           /* in the cube's own axes */
        const double oo[3] = { q->c * o[0] + q->s * o[1], q->c * o[1] - q->s * o[0], o[2] };
        const double dd[3] = { q->c * ray[0] + q->s * ray[1], q->c * ray[1] - q->s * ray[0], ray[2] };
        const double t = ij_hit_slabs(oo, dd, half, 0, 3, &leave, &axis);
        if (t > leave) return 1e30;
        const double sign = dd[axis] > 0 ? -1 : 1, n[3] = { axis == 0 ? sign : 0, axis == 1 ? sign : 0, axis == 2 ? sign : 0 };
        normal[0] = q->c * n[0] - q->s * n[1], normal[1] = q->s * n[0] + q->c * n[1], normal[2] = n[2];
        return t;
    }
    const double cap = ij_hit_slabs(o, ray, half, 2, 3, &leave, &axis), a = ray[0] * ray[0] + ray[1] * ray[1];
    const double h = o[0] * ray[0] + o[1] * ray[1], c = o[0] * o[0] + o[1] * o[1] - half * half, side = h * h - a * c;
    if (side <= 0) return 1e30;
    const double enter = (-h - sqrt(side)) / a, out = (-h + sqrt(side)) / a, t = IJ_MAX(enter, cap);
    if (t > IJ_MIN(out, leave)) return 1e30;
    const int top = cap > enter;
    normal[0] = top ? 0 : (o[0] + t * ray[0]) / half, normal[1] = top ? 0 : (o[1] + t * ray[1]) / half;
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
        if (t > 0 && t < best) best = t, hit = &w->object[i], memcpy(n, normal, sizeof n);
    }
    const double at[3] = { ray[0] * best + n[0] * 1e-6, ray[1] * best + n[1] * 1e-6, w->height + ray[2] * best + n[2] * 1e-6 };
    double light = IJ_MAX(0, ij_dot3(n, w->light));
    for (int i = 0; i < w->objects && light > 0; i++) {         /* shadow */
        const double t = ij_hit(normal, &w->object[i], at, w->light);
        if (t > 1e-6 && t < 1e29) light = 0;
    }
    for (int k = 0; k < 3; k++) rgb[k] += w->bright * (hit ? hit->colour[k] : w->ground) * (0.35 + 0.75 * light);
}

void ij_scene(uint8_t *rgb, size_t side, uint64_t seed, uint64_t index, int labels[IJ_SCENE_TASKS])
{
    enum { SAMPLES = 2 };
    ij_world w;
    ij_world_draw(&w, seed, index, labels);
    if (!rgb) return;
    const double cp = cos(w.pitch), sp = sin(w.pitch), view = ij_view / (double)(side * SAMPLES) * 2;
    for (size_t y = 0; y < side; y++)
        for (size_t x = 0; x < side; x++) {
            double sum[3] = { 0, 0, 0 };
            for (size_t k = 0; k < SAMPLES * SAMPLES; k++) {
                const double u = ((double)(x * SAMPLES + k % SAMPLES) + 0.5 - (double)(side * SAMPLES) / 2) * view;
                const double v = ((double)(side * SAMPLES) / 2 - (double)(y * SAMPLES + k / SAMPLES) - 0.5) * view;
                const double d[3] = { u, cp + v * sp, v * cp - sp }, r = 1 / sqrt(ij_dot3(d, d));
                const double ray[3] = { d[0] * r, d[1] * r, d[2] * r };
                ij_world_ray(sum, &w, ray);
            }
            for (size_t k = 0; k < 3; k++)
                rgb[(y * side + x) * 3 + k] = (uint8_t)(255 * IJ_MIN(sum[k] / (SAMPLES * SAMPLES), 1) + 0.5);
        }
}

/* ---- safetensors -------------------------------------------------------------------------------------------------
 *   n: 8 bytes | header: n bytes of JSON | data                                             (numbers are little-endian)
 *   {"__metadata__": {"key": "text", ...}, "name": {"dtype": "F32", "shape": [2,3], "data_offsets": [0,24]}, ...}
 * Offsets count from the start of the data, which the tensors tile exactly. The header is read into the caller's
 * memory and taken apart there: undoing escapes never makes a string longer, so strings stay where they are.         */

static const struct { const char *name; size_t bits; } ij_dtype[] = {          /* the first in the order of IJ_F64... */
    { "F64", 64 }, { "F32", 32 }, { "F16", 16 }, { "BF16", 16 }, { "I64", 64 }, { "I32", 32 }, { "U8", 8 },
    { "BOOL", 8 }, { "I8", 8 }, { "F8_E5M2", 8 }, { "F8_E4M3", 8 }, { "F8_E8M0", 8 }, { "F8_E4M3FNUZ", 8 },
    { "F8_E5M2FNUZ", 8 }, { "I16", 16 }, { "U16", 16 }, { "U32", 32 }, { "U64", 64 }, { "C64", 64 }, { "F4", 4 },
    { "F6_E2M3", 6 }, { "F6_E3M2", 6 } };
enum { IJ_DTYPES = sizeof ij_dtype / sizeof *ij_dtype, IJ_HEADER_MOST = 100000000, IJ_DEPTH = 16 };

/* A zero stands behind the text and is nowhere accepted, so nothing reads past the end. The first failure is kept;
 * after it nothing more is taken, and every loop over the text ends. */
typedef struct { char *s, *text; size_t n; const char *path; ij_error *why; ij_status status; } ij_json;

static void ij_json_fail(ij_json *j, const char *expected)
{
    const int c = (unsigned char)*j->s;
    char found[8] = "the end";
    if (j->s < j->text + j->n) snprintf(found, sizeof found, c > 32 && c < 127 ? "%c" : "0x%02x", c);
    if (!j->status) j->status = ij_fail(j->why, IJ_EDATA, "%.200s: header byte %zu: expected %s, found %s", j->path,
                                        (size_t)(j->s - j->text), expected, found);
}

static char ij_json_peek(ij_json *j) { return *(j->s += strspn(j->s, " \t\r\n")); }
static int ij_json_take(ij_json *j, char c) { return !j->status && ij_json_peek(j) == c ? (j->s++, 1) : 0; }
static void ij_json_need(ij_json *j, char c) { const char want[2] = { c, 0 }; if (!ij_json_take(j, c)) ij_json_fail(j, want); }

/* Walks a list or an object (`ends` is "[]" or "{}"): takes what stands before element i; 0 once there is none. */
static int ij_json_more(ij_json *j, const char *ends, size_t i)
{
    if (i == 0) ij_json_need(j, ends[0]);
    if (i ? ij_json_take(j, ',') : ij_json_peek(j) != ends[1]) return !j->status;
    ij_json_need(j, ends[1]);
    return 0;
}

/* Length of the UTF-8 character at text: shortest form, no surrogates, at most 0x10ffff; 0 if it is none. */
static size_t ij_utf8(const char *text)
{
    const unsigned char *s = (const unsigned char *)text, a = s[0];
    const size_t n = a < 0x80 ? 1 : a < 0xc2 || a > 0xf4 ? 0 : a < 0xe0 ? 2 : a < 0xf0 ? 3 : 4;
    const int low = a == 0xe0 ? 0xa0 : a == 0xf0 ? 0x90 : 0x80, high = a == 0xed ? 0x9f : a == 0xf4 ? 0x8f : 0xbf;
    for (size_t i = 1; i < n; i++)
        if (s[i] < (i > 1 ? 0x80 : low) || s[i] > (i > 1 ? 0xbf : high)) return 0;
    return n;
}

static size_t ij_utf8_put(char *to, uint32_t c)
{
    const size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, c >>= 6) to[i] = (char)(0x80 | (c & 0x3f));
    to[0] = (char)(n == 1 ? c : c | (0xf00u >> n & 0xff));
    return n;
}

static uint32_t ij_json_unit(const char *s)             /* the 16 bits of \uXXXX, 0 if there are none */
{
    char hex[5] = "";
    if (s[0] == '\\' && s[1] == 'u' && strspn(s + 2, "0123456789abcdefABCDEF") >= 4) memcpy(hex, s + 2, 4);
    return (uint32_t)strtoul(hex, NULL, 16);
}

static const char *ij_json_string(ij_json *j)
{
    static const char letter[] = "\"\\/bfnrt", meaning[] = "\"\\/\b\f\n\r\t";
    ij_json_need(j, '"');
    char *const start = j->s, *to = start;
    for (size_t n; !j->status && *j->s != '"'; j->s += n) {
        const char *simple = *j->s == '\\' && j->s[1] ? strchr(letter, j->s[1]) : NULL;
        const uint32_t c = ij_json_unit(j->s), low = c - 0xd800 < 0x400 ? ij_json_unit(j->s + 6) : 0;
        n = *j->s == '\\' || (unsigned char)*j->s < 32 ? 0 : ij_utf8(j->s);
        if (n) memmove(to, j->s, n), to += n;
        else if (simple) *to++ = meaning[simple - letter], n = 2;
        else if (low - 0xdc00 < 0x400) to += ij_utf8_put(to, 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00)), n = 12;
        else if (c && c - 0xd800 >= 0x800) to += ij_utf8_put(to, c), n = 6;
        else ij_json_fail(j, "UTF-8 text with valid escapes");
    }
    if (j->status) return "";
    *to = 0, j->s++;
    return start;
}

static const char *ij_json_key(ij_json *j, size_t i)    /* of member i of an object, NULL once there is none */
{
    if (!ij_json_more(j, "{}", i)) return NULL;
    const char *key = ij_json_string(j);
    ij_json_need(j, ':');
    return key;
}

static size_t ij_json_list(uint64_t x[], ij_json *j, size_t most)       /* whole numbers; returns how many */
{
    size_t i = 0;
    for (; ij_json_more(j, "[]", i); i++) {
        const int zero = ij_json_peek(j) == '0';
        size_t digits = strspn(j->s, "0123456789");
        if (i == most) ij_json_fail(j, most == 2 ? "two numbers" : "at most 8 dimensions");
        else if (!digits || digits > 19 || (zero && digits > 1)) ij_json_fail(j, "a whole number below 10^19");
        else for (x[i] = 0; digits > 0; digits--) x[i] = x[i] * 10 + (uint64_t)(*j->s++ - '0');
    }
    return i;
}

/* Passes over a value that means nothing here; of numbers and words only the characters are checked. */
static void ij_json_skip(ij_json *j, int depth)
{
    const char c = ij_json_peek(j);
    const size_t plain = strspn(j->s, "+-.0123456789eEtrufalsn");
    j->s += plain;
    if (c == '"') ij_json_string(j);
    else if (c == '{' && depth < IJ_DEPTH) for (size_t i = 0; ij_json_key(j, i); i++) ij_json_skip(j, depth + 1);
    else if (c == '[' && depth < IJ_DEPTH) for (size_t i = 0; ij_json_more(j, "[]", i); i++) ij_json_skip(j, depth + 1);
    else if (!plain) ij_json_fail(j, "a value, at most 16 levels deep");
}

/* Bytes of a tensor; SIZE_MAX if they overflow or are not whole. */
static size_t ij_tensor_bytes(const size_t *dim, size_t rank, int type)
{
    size_t bits = ij_dtype[type].bits;
    for (size_t i = 0; i < rank && bits < SIZE_MAX; i++) bits = ij_mul(bits, dim[i]);
    return bits % 8 ? SIZE_MAX : bits / 8;
}

static void ij_file_entry(ij_entry *e, ij_json *j, const char *name)
{
    uint64_t dim[8], range[2] = { 0, 0 };
    char *at[4] = { NULL };                             /* of dtype, shape, data_offsets, anything else */
    size_t ranges = 0;
    int type = 0;
    memset(e, 0, sizeof *e);
    e->name = name;
    for (size_t i = 0; (name = ij_json_key(j, i)) != NULL; i++) {
        const int k = !strcmp(name, "dtype") ? 0 : !strcmp(name, "shape") ? 1 : !strcmp(name, "data_offsets") ? 2 : 3;
        if (k < 3 && at[k]) ij_json_fail(j, "each field once");
        ij_json_peek(j), at[k] = j->s;
        if (k == 0) e->type = ij_json_string(j);
        else if (k == 1) e->rank = ij_json_list(dim, j, 8);
        else if (k == 2) ranges = ij_json_list(range, j, 2);
        else ij_json_skip(j, 0);
    }
    while (e->type && type < IJ_DTYPES && strcmp(e->type, ij_dtype[type].name)) type++;
    if (!at[0] || !at[1] || ranges != 2) ij_json_fail(j, "dtype, shape and two data_offsets before");
    else if (type == IJ_DTYPES) j->s = at[0], ij_json_fail(j, "a dtype of the format");
    if (j->status) return;
    for (size_t i = 0; i < e->rank; i++) e->dim[i] = (size_t)IJ_MIN(dim[i], SIZE_MAX);
    const size_t bytes = ij_tensor_bytes(e->dim, e->rank, type);
    e->dtype = IJ_MIN(type, IJ_OTHER), e->count = bytes * 8 / ij_dtype[type].bits;
    e->begin = range[0], e->end = range[1];
    if (e->end < e->begin || e->end - e->begin != bytes)
        j->status = ij_fail(j->why, IJ_EDATA, "%.200s: header byte %zu: tensor \"%.60s\": %.0f bytes of data, shape %.*s %s "
            "needs %.0f", j->path, (size_t)(at[2] - j->text), e->name, (double)e->end - (double)e->begin,
            (int)IJ_MIN(strcspn(at[1], "]") + 1, 80), at[1], e->type, (double)bytes);
}

static void ij_file_header(ij_file *f, ij_json *j)
{
    const char *name;
    for (size_t i = 0, seen = 0; (name = ij_json_key(j, i)) != NULL; i++)
        if (strcmp(name, "__metadata__")) ij_file_entry(&f->entry[f->entries++], j, name);
        else if (seen++) ij_json_fail(j, "__metadata__ once");
        else for (size_t k = 0; (name = ij_json_key(j, k)) != NULL; k++, f->metas++)
            f->meta[2 * f->metas] = name, f->meta[2 * f->metas + 1] = ij_json_string(j);
    ij_json_peek(j);
    if (j->s < j->text + j->n) ij_json_fail(j, "the end of the header");
}

static int ij_entry_by_name(const void *a, const void *b)
{
    return strcmp(((const ij_entry *)a)->name, ((const ij_entry *)b)->name);
}

static int ij_entry_by_place(const void *a, const void *b)
{
    const ij_entry *x = a, *y = b;                      /* by the middle: an empty one comes before what begins there */
    return x->begin + x->end < y->begin + y->end ? -1 : x->begin + x->end > y->begin + y->end;
}

/* No name twice, and sorted by place the tensors of a shard tile its data. */
static ij_status ij_file_tiles(ij_entry *e, size_t entries, const char *path, uint64_t data, ij_error *why)
{
    uint64_t at = 0;
    ij_sort(e, entries, sizeof *e, ij_entry_by_name);
    for (size_t i = 1; i < entries; i++)
        if (!ij_entry_by_name(&e[i - 1], &e[i]))
            return ij_fail(why, IJ_EDATA, "%.200s: header: tensor \"%.60s\" is there twice", path, e[i].name);
    ij_sort(e, entries, sizeof *e, ij_entry_by_place);
    for (size_t i = 0; i < entries; at = e[i++].end)
        if (e[i].begin != at)
            return ij_fail(why, IJ_EDATA, "%.200s: header: tensor \"%.60s\" begins at data byte %.0f, expected %.0f",
                           path, e[i].name, (double)e[i].begin, (double)at);
    if (at == data) return IJ_OK;
    return ij_fail(why, IJ_EDATA, "%.200s: %.0f bytes of data, the header says %.0f", path, (double)data, (double)at);
}

/* Opens a shard, finds the lengths of its header and of its data. */
static ij_status ij_file_start(ij_file *f, const char *path, uint64_t *data, ij_error *why)
{
    unsigned char b[9] = { 0 };
    FILE *s = f->shard[f->shards].stream = fopen(path, "rb");
    const size_t got = s ? fread(b, 1, 9, s) : 0;
    const long end = !s || ferror(s) || fseek(s, 0, SEEK_END) ? -1 : ftell(s);
    const uint64_t n = ij_little(b, 8), file = (uint64_t)end;
    f->shards += s != NULL;
    if (end < 0) return ij_fail(why, IJ_EFILE, "%.200s: cannot be read: %s", path, strerror(errno));
    f->shard[f->shards - 1].header = n, f->shard[f->shards - 1].data = 8 + n, *data = file - n - 8;
    if (got == 9 && n <= IJ_HEADER_MOST && 8 + n <= file && b[8] == '{') return IJ_OK;
    const char *other = *b == 'P' && b[1] > '0' && b[1] < '8' ? "a PNM picture"
                        : ij_foreign_format(b);
    const char *found = other ? other : got == 9 && n <= IJ_HEADER_MOST && b[8] == '{' ? "a file cut short" : "something else";
    return ij_fail(why, IJ_EDATA, "%.200s: byte 0: expected safetensors, found %s (header of %.17g bytes, file of %ld)",
                   path, found, (double)n, end);
}

/* Walks the strings of an index {..., "weight_map": {"tensor": "shard.safetensors", ...}}: opens the shards, or, once they
 * are read, looks whether each holds what the index says. */
static ij_status ij_file_index(ij_file *f, int check, ij_error *why)
{
    char text[2][256] = { "", "" }, path[1024];
    uint64_t data;
    ij_status s = IJ_OK;
    FILE *index = fopen(f->path, "rb");
    if (!index) return ij_fail(why, IJ_EFILE, "%.200s: cannot be read: %s", f->path, strerror(errno));
    for (int c; !s && (c = fgetc(index)) != EOF;) {
        size_t n = 0, k = 0;
        if (c != '"') continue;
        memcpy(text[0], text[1], sizeof *text);
        while ((c = fgetc(index)) != EOF && c != '"' && c != '\\' && n < 255) text[1][n++] = (char)c;
        text[1][n] = 0;
        if (c != '"') s = ij_fail(why, IJ_EDATA, "%.200s: byte %ld: expected plain strings", f->path, ftell(index));
        if (s || n < 12 || strcmp(text[1] + n - 12, ".safetensors")) continue;
        while (k < f->shards && strcmp(f->shard[k].name, text[1])) k++;
        const ij_entry *e = check ? ij_file_find(f, text[0]) : NULL;
        if (check && (!e || e->shard != k))
            s = ij_fail(why, IJ_EDATA, "%.200s: tensor \"%.60s\" is not in %.63s", f->path, text[0], text[1]);
        if (check || k < f->shards) continue;
        if (k == IJ_SHARDS || n > 63 || strchr(text[1], '/'))
            s = ij_fail(why, IJ_EDATA, "%.200s: shard \"%.63s\": expected a name below 64 bytes, at most %d", f->path, text[1], IJ_SHARDS);
        else if (!(s = ij_beside(path, f->path, strcpy(f->shard[k].name, text[1]), why))) s = ij_file_start(f, path, &data, why);
    }
    if (!s && !f->shards) s = ij_fail(why, IJ_EDATA, "%.200s: names no .safetensors file", f->path);
    fclose(index);
    return s;
}

/* Of Hugging Face's config.json only the heads, and the sides of images that are not square, are not in the tensors' shapes;
 * what we compute is not "relu" or "vit". */
static void ij_file_config(ij_file *f, ij_json *j)
{
    const char *name, *value;
    for (size_t i = 0; (name = ij_json_key(j, i)) != NULL; i++) {
        const char c = ij_json_peek(j);
        char *const at = j->s;
        if (!strcmp(name, "num_attention_heads")) f->heads = (size_t)strtoul(at, NULL, 10);
        else if (!strcmp(name, "layer_norm_eps") && strtod(at, NULL) > 1e-5) ij_json_fail(j, "layer_norm_eps of at most 1e-5");
        if (!strcmp(name, "image_size") && c == '[') {
            if (ij_json_list(f->image, j, 2) != 2 || !f->image[1]) ij_json_fail(j, "two numbers");
            continue;
        }
        if (c != '"' || (strcmp(name, "model_type") && strcmp(name, "hidden_act"))) { ij_json_skip(j, 0); continue; }
        value = ij_json_string(j);
        if (strcmp(value, *name == 'm' ? "ijepa" : "gelu"))
            j->s = at, ij_json_fail(j, *name == 'm' ? "model_type \"ijepa\"" : "hidden_act \"gelu\"");
    }
}

/* The table lies in mem: the shortest tensor takes 50 bytes of the header, the shortest pair of metadata 6. */
static ij_status ij_file_load(ij_file *f, void *mem, size_t size, size_t *need, const char *path, ij_error *why)
{
    const size_t length = strlen(path), end = sizeof ".safetensors.index.json" - 1;
    const int index = length >= end && !strcmp(path + length - end, ".safetensors.index.json");
    char other[1024];
    size_t entries = 0, metas = 0, text = 0;
    uint64_t data = 0;
    ij_json j = { NULL, NULL, 0, path, why, IJ_OK };
    memset(f, 0, sizeof *f);
    f->path = path;
    if ((j.status = index ? ij_file_index(f, 0, why) : ij_file_start(f, path, &data, why)) != IJ_OK) return j.status;
    for (size_t i = 0; i < f->shards; i++) {
        const size_t n = (size_t)f->shard[i].header;
        entries += n / 50 + 1, metas += n / 6 + 1, text += n + 1;
        if (text > SIZE_MAX / 32) return ij_fail(why, IJ_EMEM, "%.200s: headers of more memory than can be addressed", path);
    }
    if ((j.status = ij_beside(other, path, "config.json", why)) != IJ_OK) return j.status;
    FILE *config = fopen(other, "rb");
    const long most = config && !fseek(config, 0, SEEK_END) ? ftell(config) : 0;
    const size_t configs = most > 0 && most < IJ_HEADER_MOST ? (size_t)most : 0;
    *need = entries * sizeof *f->entry + 2 * metas * sizeof *f->meta + text + configs + 1;
    if (*need > size) {
        if (config) fclose(config);
        return ij_fail(why, IJ_EMEM, "%.200s needs %zu bytes, has %zu", path, *need, size);
    }
    f->entry = mem, f->meta = (const char **)(void *)(f->entry + entries);
    char *at = (char *)(f->meta + 2 * metas);
    for (size_t i = 0; i < f->shards && !j.status; i++) {
        FILE *s = f->shard[i].stream;
        const size_t before = f->entries;
        j.n = (size_t)f->shard[i].header, j.s = j.text = at, at += j.n + 1, j.text[j.n] = 0;
        if (index) j.path = f->shard[i].name;
        if (fseek(s, 0, SEEK_END) || (data = (uint64_t)ftell(s) - f->shard[i].data, fseek(s, 8, SEEK_SET)) || fread(j.text, 1, j.n, s) != j.n)
            j.status = ij_fail(why, IJ_EFILE, "%.200s: its header cannot be read", j.path);
        ij_file_header(f, &j);
        for (size_t k = before; k < f->entries; k++) f->entry[k].shard = i;
        if (!j.status) j.status = ij_file_tiles(f->entry + before, f->entries - before, j.path, data, why);
    }
    if (!j.status && index) j.status = ij_file_index(f, 1, why);
    if (!j.status && configs && ij_file_kind(f) && *ij_file_kind(f) == 'H') {
        j.path = other, j.n = configs, j.s = j.text = at, j.text[j.n] = 0;
        if (fseek(config, 0, SEEK_SET) || fread(at, 1, configs, config) != configs) ij_json_fail(&j, "to be readable");
        ij_file_config(f, &j);
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
    for (size_t i = 0; i < f->shards; i++) fclose(f->shard[i].stream);
    memset(f, 0, sizeof *f);
}

const char *ij_file_meta(const ij_file *f, const char *key)     /* of a key given twice the last, as in Python */
{
    for (size_t i = f->metas; i-- > 0;) if (!strcmp(f->meta[2 * i], key)) return f->meta[2 * i + 1];
    return NULL;
}

const ij_entry *ij_file_find(const ij_file *f, const char *name)
{
    for (size_t i = 0; i < f->entries; i++) if (!strcmp(f->entry[i].name, name)) return &f->entry[i];
    return NULL;
}

static double ij_number(int dtype, uint64_t bits)
{
    const uint32_t half = (uint32_t)bits, e = half >> 10 & 31, m = half & 1023;         /* an F16 as an F32, but for e = 0 */
    const uint32_t word = dtype == IJ_BF16 ? half << 16 : dtype == IJ_F16 ? (e < 31 ? e + 112 : 255) << 23 | m << 13 : half;
    double wide;
    float narrow;
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

/* Into wide or, if that is NULL, into narrow. */
static ij_status ij_file_numbers(double *wide, real *narrow, const ij_file *f, const ij_entry *e, ij_error *why)
{
    unsigned char buffer[8192];
    const uint64_t at = f->shard[e->shard].data + e->begin;
    const uint16_t one = 1;
    FILE *stream = f->shard[e->shard].stream;
    if (e->dtype == IJ_OTHER)
        return ij_fail(why, IJ_EDATA, "%.200s: tensor \"%.60s\": dtype %s is not read", f->path, e->name, e->type);
    const size_t size = ij_dtype[e->dtype].bits / 8;
    if (at > LONG_MAX || fseek(stream, (long)at, SEEK_SET))
        return ij_fail(why, IJ_EFILE, "%.200s: byte %.0f cannot be reached", f->path, (double)at);
    const int same = !wide && e->dtype == (sizeof(real) == 8 ? IJ_F64 : IJ_F32) && *(const unsigned char *)&one;
    for (size_t i = 0; i < e->count;) {
        const size_t n = same ? e->count : IJ_MIN(sizeof buffer / size, e->count - i);
        if (fread(same ? (void *)narrow : buffer, size, n, stream) != n)
            return ij_fail(why, IJ_EFILE, "%.200s: tensor \"%.60s\" cannot be read: the file ends", f->path, e->name);
        if (same) break;
        for (const unsigned char *p = buffer; p < buffer + n * size; p += size, i++)
            if (wide) wide[i] = ij_number(e->dtype, ij_little(p, size));
            else narrow[i] = (real)ij_number(e->dtype, ij_little(p, size));
    }
    return IJ_OK;
}

ij_status ij_file_read(ij_real *to, const ij_file *f, const ij_entry *e, ij_error *why)
{
    return ij_file_numbers(NULL, to, f, e, why);
}

ij_status ij_file_read_f64(double *to, const ij_file *f, const ij_entry *e, ij_error *why)
{
    return ij_file_numbers(to, NULL, f, e, why);
}

typedef struct { FILE *f; size_t n; int bad; } ij_writer;       /* without a file the bytes are only counted */

static void ij_put(ij_writer *w, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    const int n = w->f ? vfprintf(w->f, format, args) : vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n > 0) w->n += (size_t)n;
}

static void ij_put_string(ij_writer *w, const char *text)
{
    ij_put(w, "\"");
    for (size_t left = 0; *text; text++, left--) {
        const int c = (unsigned char)*text;
        if (!left && !(left = ij_utf8(text))) w->bad = 1, left = 1;
        ij_put(w, c < 32 ? "\\u%04x" : c == '"' || c == '\\' ? "\\%c" : "%c", c);
    }
    ij_put(w, "\"");
}

/* Spaces make the data begin at a multiple of 8. As doubles sizes are exact, and printed alike on all systems. */
static void ij_put_header(ij_writer *w, const ij_item *item, size_t items, const char *const *meta, size_t metas)
{
    size_t end = 0;
    ij_put(w, "{\"__metadata__\":{\"format\":\"pt\"");
    for (size_t i = 0; i < 2 * metas; i++) ij_put(w, i % 2 ? ":" : ","), ij_put_string(w, meta[i]);
    ij_put(w, "}");
    for (const ij_item *t = item; items > 0; t++, items--) {
        ij_put(w, ","), ij_put_string(w, t->name);
        ij_put(w, ":{\"dtype\":\"%s\",\"shape\":[", ij_dtype[t->dtype].name);
        for (size_t k = 0; k < t->rank; k++) ij_put(w, k ? ",%.0f" : "%.0f", (double)t->dim[k]);
        ij_put(w, "],\"data_offsets\":[%.0f,", (double)end);
        ij_put(w, "%.0f]}", (double)(end += ij_tensor_bytes(t->dim, t->rank, t->dtype)));
    }
    ij_put(w, "}");
    while (w->n % 8) ij_put(w, " ");
}

static void ij_put_data(FILE *f, const ij_item *item)
{
    unsigned char buffer[8192];
    const uint16_t one = 1;
    const size_t bytes = ij_tensor_bytes(item->dim, item->rank, item->dtype), size = ij_dtype[item->dtype].bits / 8;
    const size_t mirror = *(const unsigned char *)&one ? 0 : size - 1;  /* big-endian: turns each number's bytes */
    for (size_t i = 0, n = 0; i < bytes && !ferror(f); n = 0) {
        while (n < sizeof buffer && i < bytes) buffer[n++] = ((const unsigned char *)item->data)[i++ ^ mirror];
        fwrite(buffer, 1, n, f);
    }
}

ij_status ij_file_write(const char *path, const ij_item *item, size_t items, const char *const *meta, size_t metas,
                        ij_error *why)
{
    char aside[1024];
    ij_writer w = { NULL, 0, 0 };
    for (size_t i = 0; i < items; i++) {
        const ij_item t = item[i];
        if (t.dtype < 0 || t.dtype >= IJ_OTHER || t.rank > 8 || ij_tensor_bytes(t.dim, t.rank, t.dtype) == SIZE_MAX)
            return ij_fail(why, IJ_EARG, "%.200s: tensor \"%.60s\": dtype %d, rank %zu or its size cannot be written", path, t.name, t.dtype, t.rank);
    }
    ij_put_header(&w, item, items, meta, metas);
    const uint64_t header = w.n;
    if (w.bad || header > IJ_HEADER_MOST)
        return ij_fail(why, IJ_EARG, "%.200s: names and metadata are not UTF-8, or over %d bytes", path, IJ_HEADER_MOST);
    if (snprintf(aside, sizeof aside, "%s.tmp", path) >= (int)sizeof aside)
        return ij_fail(why, IJ_EARG, "%.200s...: the path is too long", path);
    if (!(w.f = fopen(aside, "wb"))) return ij_fail(why, IJ_EFILE, "%.200s: %s", aside, strerror(errno));
    for (int i = 0; i < 64; i += 8) fputc((int)(header >> i & 255), w.f);
    w.n = 0;
    ij_put_header(&w, item, items, meta, metas);
    for (size_t i = 0; i < items; i++) ij_put_data(w.f, &item[i]);
    int bad = ferror(w.f) || fflush(w.f) || ij_flush_file(w.f), error = errno;
    if (fclose(w.f) && !bad) bad = 1, error = errno;
    if (!bad && ij_replace(aside, path)) bad = 1, error = errno;
    if (bad) {
        remove(aside);
        return ij_fail(why, IJ_EFILE, "%.200s: cannot be written: %s", path, strerror(error));
    }
    ij_flush_folder(path);
    return IJ_OK;
}

/* ---- checkpoints -------------------------------------------------------------------------------------------------
 * encoder.* target_encoder.* predictor.* opt.m.* opt.v.* under the reference's names; settings, step and the state of
 * the mask generator as metadata. What is drawn for crops and order follows from seed and step. Tensors lie in the
 * order of the reference's state dicts, from which the way back numbers the optimizer's state.                       */

typedef struct { char name[128]; } ij_long_name;
typedef struct { ij_item *item; ij_long_name *name; const char **meta; char (*value)[IJ_TEXT]; char *rng; size_t items; } ij_saving;
enum { IJ_RNG_TEXT = 625 * 8 + 1 };

static void ij_saving_place(ij_saving *s, ij_arena *a, const ij_model *m)
{
    const size_t items = m->training ? 4 * m->params + m->encoder_params + 3 : m->encoder_params;
    s->item = ij_take(a, items, sizeof *s->item);
    s->name = ij_take(a, items, sizeof *s->name);
    s->meta = ij_take(a, 2 * (IJ_SETTINGS + 3), sizeof *s->meta);
    s->value = ij_take(a, IJ_SETTINGS + 1, sizeof *s->value);
    s->rng = ij_take(a, IJ_RNG_TEXT, 1);
    s->items = 0;
}

static void ij_saving_add(ij_saving *s, const char *part, const char *name, const ij_tensor *shape, const real *x)
{
    char *full = s->name[s->items].name;
    const ij_item item = { full, sizeof(real) == 8 ? IJ_F64 : IJ_F32, shape->rank, { 0 }, x };
    snprintf(full, sizeof s->name->name, "%s.%s", part, name);
    s->item[s->items] = item;
    memcpy(s->item[s->items++].dim, shape->dim, sizeof shape->dim);
}

size_t ij_save_size(const ij_model *m)
{
    ij_saving s;
    ij_arena a = { NULL, 0, 0 };
    ij_saving_place(&s, &a, m);
    return a.used;
}

ij_status ij_save(const ij_model *m, const char *path, void *work, size_t size, ij_error *why)
{
    ij_saving s;
    ij_arena a = { work, size, 0 };
    if (size < ij_save_size(m)) return ij_fail(why, IJ_EMEM, "saving needs %zu bytes, has %zu", ij_save_size(m), size);
    if (m->micro % m->config.accumulate)
        return ij_fail(why, IJ_EARG, "%.200s: a checkpoint between the passes of one update would lose gradients", path);
    ij_saving_place(&s, &a, m);
    static const char *const opt[2][2] = { { "opt.m.encoder", "opt.m.predictor" }, { "opt.v.encoder", "opt.v.predictor" } };
    for (size_t i = 0; i < m->params; i++) {
        const ij_param *p = &m->param[i];
        const ij_tensor *pos = p->predictor ? &m->predictor_pos : &m->encoder_pos;
        const ij_tensor pos_shape = { NULL, 3, { 1, pos->dim[0], pos->dim[1], 0 } };
        if (i == 0 && m->training) ij_saving_add(&s, "encoder", "pos_embed", &pos_shape, pos->x);
        if (i == 0 && m->training) ij_saving_add(&s, "target_encoder", "pos_embed", &pos_shape, pos->x);
        if (!p->predictor) ij_saving_add(&s, "target_encoder", p->name, &p->shape, m->target + p->offset);
        if (!m->training) continue;
        ij_saving_add(&s, p->predictor ? "predictor" : "encoder", p->name, &p->shape, m->weight + p->offset);
        if (i == m->encoder_params) ij_saving_add(&s, "predictor", "predictor_pos_embed", &pos_shape, pos->x);
        ij_saving_add(&s, opt[0][p->predictor], p->name, &p->shape, m->adam_m + p->offset);
        ij_saving_add(&s, opt[1][p->predictor], p->name, &p->shape, m->adam_v + p->offset);
    }
    for (size_t i = 0; i < IJ_SETTINGS; i++) {
        ij_config_text(s.value[i], &m->config, i);
        s.meta[2 * i] = ij_setting[i].name, s.meta[2 * i + 1] = s.value[i];
    }
    snprintf(s.value[IJ_SETTINGS], IJ_TEXT, "%.0f", (double)m->step);
    for (size_t i = 0; i < 625; i++)
        snprintf(s.rng + 8 * i, 9, "%08lx", (unsigned long)(i < 624 ? m->mask_rng.state[i] : m->mask_rng.at));
    const char *const last[6] = { "ijepa", "1", "step", s.value[IJ_SETTINGS], "mask_rng", s.rng };
    memcpy(s.meta + 2 * IJ_SETTINGS, last, sizeof last);
    return ij_file_write(path, s.item, s.items, s.meta, IJ_SETTINGS + (m->training ? 3 : 1), why);
}

/* Names of a reference tensor in Hugging Face's files, and those that transformers 5 has in memory. qkv is three there. */
static const char *const ij_hf[][3] = {
    { "patch_embed.proj.", "embeddings.patch_embeddings.projection.", NULL }, { "norm.", "layernorm.", NULL },
    { "norm1.", "layernorm_before.", NULL }, { "norm2.", "layernorm_after.", NULL },
    { "attn.qkv.", "attention.attention.%s.", "attention.%.1s_proj." }, { "attn.proj.", "attention.output.dense.", "attention.o_proj." },
    { "mlp.fc1.", "intermediate.dense.", "mlp.fc1." }, { "mlp.fc2.", "output.dense.", "mlp.fc2." },
    { "pos_embed", "embeddings.position_embeddings", NULL } };

static void ij_hf_name(char to[128], const char *name, size_t third, int memory)
{
    static const char *const qkv[3] = { "query", "key", "value" };
    unsigned long block = 0;
    int used = 0, n = 0;
    to[0] = 0;
    if (sscanf(name, "blocks.%lu.%n", &block, &used) == 1) n = snprintf(to, 128, memory ? "layers.%lu." : "encoder.layer.%lu.", block);
    for (size_t i = 0; i < sizeof ij_hf / sizeof *ij_hf; i++) {
        const size_t k = strlen(ij_hf[i][0]);
        if (strncmp(name + used, ij_hf[i][0], k)) continue;
        n += snprintf(to + n, 40, ij_hf[i][memory && ij_hf[i][2] ? 2 : 1], qkv[third]);
        snprintf(to + n, 20, "%.16s", name + used + k);
    }
}

/* Tensor part.name, or by what the other kinds of files call it: third 0..2 of a Hugging Face qkv, 0 of all else. */
static const ij_entry *ij_find_named(const ij_file *f, const char *part, const char *name, size_t third)
{
    static const char *const own[2] = { "%s.%s", "%s.module.%s" }, *const prefix[2] = { "", "ijepa." };
    char full[144], hf[128];
    const ij_entry *e = NULL;
    for (int i = 0; i < 2 && !e && !third; i++) snprintf(full, sizeof full, own[i], part, name), e = ij_file_find(f, full);
    for (int i = 0; i < 4 && !e && strstr(part, "encoder") && *part != 'o'; i++) {
        ij_hf_name(hf, name, third, i / 2);
        snprintf(full, sizeof full, "%s%s", prefix[i % 2], hf), e = ij_file_find(f, full);
    }
    return e;
}

const char *ij_file_kind(const ij_file *f)
{
    const ij_entry *e = ij_find_named(f, "encoder", "patch_embed.proj.weight", 0);
    if (!e) e = ij_find_named(f, "target_encoder", "patch_embed.proj.weight", 0);
    if (ij_file_meta(f, "ijepa")) return "ijepa";
    return !e ? NULL : strstr(e->name, "patch_embed.proj") ? "reference" : "Hugging Face";
}

static size_t ij_dim(const ij_file *f, const char *part, const char *name, size_t i)       /* 0: no such tensor */
{
    const ij_entry *e = ij_find_named(f, part, name, 0);
    return e && e->rank > i ? e->dim[i] : 0;
}

static size_t ij_blocks(const ij_file *f, const char *part, const char *stack)
{
    char name[64];
    size_t n = 0;
    do snprintf(name, sizeof name, "%s.%zu.norm1.weight", stack, n++);
    while (ij_dim(f, part, name, 0));
    return n - 1;
}

/* Sizes from the shapes of the tensors; the image is square where its sides are not given. */
static ij_status ij_load_sizes(ij_config *c, const ij_file *f, ij_error *why)
{
    static const char patch[] = "patch_embed.proj.weight";
    const char *part = ij_dim(f, "target_encoder", patch, 0) ? "target_encoder" : "encoder";
    const size_t n = ij_dim(f, part, "pos_embed", 1), f1 = ij_dim(f, part, "blocks.0.mlp.fc1.weight", 0);
    const size_t width = ij_dim(f, "predictor", "mask_token", 2), sizes = sizeof ij_size_name / sizeof *ij_size_name;
    const char *heads = ij_file_meta(f, "num_heads");
    size_t side = 0, i = 0;
    c->embed_dim = ij_dim(f, part, patch, 0), c->patch_size = ij_dim(f, part, patch, 2), c->depth = ij_blocks(f, part, "blocks");
    if (!c->embed_dim || !c->patch_size || c->embed_dim > 1 << 20 || c->patch_size > 1 << 16)
        return ij_fail(why, IJ_EDATA, "%.200s: the patch embedding's shape is not [D,3,p,p]", f->path);
    while (side * side < n && side < 1 << 16) side++;
    c->crop_size[0] = c->crop_size[1] = side * c->patch_size;
    if (f->image[1]) c->crop_size[0] = (size_t)f->image[0], c->crop_size[1] = (size_t)f->image[1];
    const size_t gh = ij_gh(c), gw = ij_gw(c);
    if (!n || !gw || n % gw || n / gw != gh)
        return ij_fail(why, IJ_EDATA, "%.200s: %zu positions, expected %s (a class token is not I-JEPA's)", f->path, n,
                       f->image[1] ? "those of image_size" : "a square of patches");
    while (i < sizes && ij_size_name[i].embed_dim != c->embed_dim) i++;
    if (i < sizes) c->num_heads = ij_size_name[i].num_heads;
    if (f->heads) c->num_heads = f->heads;
    else if (heads) c->num_heads = (size_t)strtoul(heads, NULL, 10);
    else if (i == sizes)
        return ij_fail(why, IJ_EDATA, "%.200s: no published model is %zu wide: the number of heads, num_heads, must be in the metadata",
                       f->path, c->embed_dim);
    c->mlp_ratio = (double)(f1 ? f1 : 1) / (double)c->embed_dim;
    if (f1 && ij_hidden(c) != f1) c->mlp_ratio = ((double)f1 + 0.5) / (double)c->embed_dim;
    c->pred_emb_dim = width ? width : c->embed_dim;     /* without a predictor: any that fits */
    if (width) c->pred_depth = ij_blocks(f, "predictor", "predictor_blocks");
    return IJ_OK;
}

ij_status ij_load_config(ij_config *c, const ij_file *f, ij_error *why)
{
    ij_error inner;
    const char *kind = ij_file_kind(f);
    ij_status s = IJ_OK;
    *c = ij_config_default();
    if (!kind)
        return ij_fail(why, IJ_EDATA, "%.200s: no I-JEPA: neither metadata \"ijepa\" nor a patch embedding of Hugging Face or the reference", f->path);
    if (strcmp(kind, "ijepa")) s = ij_load_sizes(c, f, why);
    else if (strcmp(ij_file_meta(f, "ijepa"), "1"))
        return ij_fail(why, IJ_EDATA, "%.200s: checkpoint version %.20s, expected 1", f->path, ij_file_meta(f, "ijepa"));
    for (size_t i = 0; i < IJ_SETTINGS && !strcmp(kind, "ijepa"); i++) {
        const char *value = ij_file_meta(f, ij_setting[i].name);
        if (!value && strstr("objective color_jitter gray", ij_setting[i].name)) continue;   /* younger than the first checkpoints */
        if (!value) return ij_fail(why, IJ_EDATA, "%.200s: metadata has no %s", f->path, ij_setting[i].name);
        if (ij_config_set(c, ij_setting[i].name, value, &inner))
            return ij_fail(why, IJ_EDATA, "%.200s: metadata: %.250s", f->path, inner.text);
    }
    if (!s && ij_config_check(c, &inner)) return ij_fail(why, IJ_EDATA, "%.200s: %.250s", f->path, inner.text);
    return s;
}

/* Reads one tensor into x, or only checks its shape if x is NULL; `other`: its name in the reference's optimizer. */
static ij_status ij_load_tensor(real *x, const ij_file *f, const char *part, const char *name, const char *other,
                                const ij_tensor *shape, ij_error *why)
{
    const ij_entry *e = ij_find_named(f, part, name, 0);
    ij_status s = IJ_OK;
    if (!e && other) e = ij_file_find(f, other);
    const size_t pieces = e && strstr(name, "qkv") && !strstr(e->name, "qkv") && !other ? 3 : 1;
    for (size_t k = 0; k < pieces && !s; k++) {
        if (k) e = ij_find_named(f, part, name, k);
        if (!e) return ij_fail(why, IJ_EDATA, "%.200s: no tensor %s.%s", f->path, part, name);
        int same = e->rank == shape->rank && e->dtype != IJ_OTHER;
        for (size_t i = 0; same && i < e->rank; i++) same = e->dim[i] == shape->dim[i] / (i ? 1 : pieces);
        if (!same)
            return ij_fail(why, IJ_EDATA, "%.200s: tensor %.90s: %s of %zu numbers, rank %zu, expected %zu numbers, rank %zu",
                           f->path, e->name, e->type, e->count, e->rank, ij_count(shape) / pieces, shape->rank);
        if (x) s = ij_file_read(x + k * e->count, f, e, why);
    }
    return s;
}

/* Parameter i's number in the reference's optimizer: four groups, of 2 dimensions and more those of the encoder, those of
 * the predictor, then the others of each; a position table comes first in group 1 and second in group 2. */
static size_t ij_state_number(const ij_model *m, size_t i)
{
    size_t n = 0;
    for (size_t k = 0; k < m->params; k++) {
        const ij_param *a = &m->param[k], *b = &m->param[i];
        const int ga = 2 * (a->shape.rank < 2) + a->predictor, gb = 2 * (b->shape.rank < 2) + b->predictor;
        n += ga < gb || (ga == gb && k < i);
    }
    return n + (m->param[i].predictor && i == m->encoder_params ? 1 : m->param[i].shape.rank < 2 || m->param[i].predictor ? 2 : 1);
}

static ij_status ij_load_all(ij_model *m, const ij_file *f, const char *encoder, int read, ij_error *why)
{
    ij_status s = IJ_OK;
    for (size_t i = 0; i < m->params && !s; i++) {
        const ij_param *p = &m->param[i];
        const size_t o = p->offset;
        char other[2][48];
        if (!p->predictor) s = ij_load_tensor(read ? m->target + o : NULL, f, encoder, p->name, NULL, &p->shape, why);
        if (!m->training) continue;
        for (int k = 0; k < 2; k++)
            snprintf(other[k], sizeof *other, "opt.state.%zu.exp_avg%s", ij_state_number(m, i), k ? "_sq" : "");
        const char *part[3] = { "encoder", "opt.m.encoder", "opt.v.encoder" };
        if (p->predictor) part[0] = "predictor", part[1] = "opt.m.predictor", part[2] = "opt.v.predictor";
        real *to[3] = { m->weight + o, m->adam_m + o, m->adam_v + o };
        for (int k = 0; k < 3 && !s; k++)
            s = ij_load_tensor(read ? to[k] : NULL, f, part[k], p->name, k ? other[k - 1] : NULL, &p->shape, why);
    }
    return s;
}

/* Positions of a Hugging Face file: where they are not the sines and cosines, images must have its size. */
static ij_status ij_load_positions(ij_model *m, const ij_file *f, ij_error *why)
{
    const ij_tensor *pos = &m->file_pos;
    const ij_tensor shape = { NULL, 3, { 1, pos->dim[0], pos->dim[1], 0 } };
    double most = 0;
    const ij_status s = ij_load_tensor(pos->x, f, "encoder", "pos_embed", NULL, &shape, why);
    for (size_t i = 0; i < ij_count(pos) && !s; i++) {
        const double d = fabs((double)(pos->x[i] - m->encoder_pos.x[i]));
        if (!(d <= most)) most = d;
    }
    if (!(most <= 1e-4)) m->target_encoder.pos = *pos;
    return s;
}

ij_status ij_load_encoder(ij_model *m, const ij_file *f, const char *part, ij_error *why)
{
    const char *kind = ij_file_kind(f);
    if (m->training) return ij_fail(why, IJ_EARG, "%.200s: one encoder does not make a model that trains", f->path);
    ij_status s = ij_load_all(m, f, part, 0, why);
    if (!s) s = ij_load_all(m, f, part, 1, why);
    return !s && kind && *kind == 'H' ? ij_load_positions(m, f, why) : s;
}

/* m has been initialised with the file's settings. Every shape is checked before the first number is read. */
ij_status ij_load(ij_model *m, const ij_file *f, ij_error *why)
{
    const char *kind = ij_file_kind(f), *step = ij_file_meta(f, "step"), *rng = ij_file_meta(f, "mask_rng");
    ij_rng state = m->mask_rng;
    double steps = 0;
    if (!m->training) return ij_load_encoder(m, f, "target_encoder", why);
    ij_status s = ij_load_all(m, f, "target_encoder", 0, why);
    if (s) return s;
    if (kind && *kind == 'r') {                         /* the reference counts updates beside each parameter's moments */
        const ij_entry *e = ij_file_find(f, "opt.state.1.step");
        if (!e || e->count != 1) return ij_fail(why, IJ_EDATA, "%.200s: no tensor opt.state.1.step of one number", f->path);
        if ((s = ij_file_read_f64(&steps, f, e, why)) != IJ_OK) return s;
    } else {
        if (!step || sscanf(step, "%lf", &steps) != 1) steps = -1;
        for (size_t i = 0; i < 625; i++) {
            unsigned long word = 0;
            if (!rng || strlen(rng) != 625 * 8 || sscanf(rng + 8 * i, "%8lx", &word) != 1 || (i == 624 && word > 624))
                return ij_fail(why, IJ_EDATA, "%.200s: metadata: mask_rng is not 625 words in hexadecimal", f->path);
            if (i < 624) state.state[i] = (uint32_t)word;
            else state.at = (uint32_t)word;
        }
    }
    if (!(steps >= 0 && steps < 9e15))
        return ij_fail(why, IJ_EDATA, "%.200s: step is %.40s, expected a number", f->path, step ? step : "absent");
    m->mask_rng = state;
    m->step = (uint64_t)steps;
    m->micro = m->step * m->config.accumulate;
    return ij_load_all(m, f, "target_encoder", 1, why);
}

/* The encoder's tensors as Hugging Face calls them; q, k and v are thirds of one of ours, so nothing is copied. */
static void ij_export_items(ij_item *item, ij_long_name *to, const ij_model *m)
{
    const ij_tensor *pos = m->target_encoder.pos.x ? &m->target_encoder.pos : &m->encoder_pos;
    const ij_tensor pos_shape = { NULL, 3, { 1, pos->dim[0], pos->dim[1], 0 } };
    for (size_t i = 0; i <= m->encoder_params; i++) {
        const ij_param *p = i < m->encoder_params ? &m->param[i] : NULL;
        const ij_tensor *shape = p ? &p->shape : &pos_shape;
        const size_t pieces = p && strstr(p->name, "qkv") ? 3 : 1, count = ij_count(shape) / pieces;
        for (size_t k = 0; k < pieces; k++, item++, to++) {
            const ij_item next = { to->name, sizeof(real) == 8 ? IJ_F64 : IJ_F32, shape->rank, { 0 },
                                   (p ? m->target + p->offset : pos->x) + k * count };
            *item = next;
            for (size_t j = 0; j < shape->rank; j++) item->dim[j] = shape->dim[j] / (j ? 1 : pieces);
            ij_hf_name(to->name, p ? p->name : "pos_embed", k, 0);
        }
    }
}

static size_t ij_export_count(const ij_model *m) { return m->encoder_params + 1 + 4 * m->config.depth; }
size_t ij_export_size(const ij_model *m) { return ij_export_count(m) * (sizeof(ij_item) + sizeof(ij_long_name)); }

ij_status ij_export(const ij_model *m, const char *folder, void *work, size_t size, ij_error *why)
{
    const ij_config *c = &m->config;
    const size_t h = c->crop_size[0], w = c->crop_size[1];
    ij_item *item = work;
    const size_t items = ij_export_count(m);
    char path[2][1024];
    if (size < ij_export_size(m)) return ij_fail(why, IJ_EMEM, "exporting needs %zu bytes, has %zu", ij_export_size(m), size);
    if (snprintf(path[0], 1000, "%s/", folder) >= 1000) return ij_fail(why, IJ_EARG, "%.200s...: the path is too long", folder);
    ij_export_items(item, (ij_long_name *)(void *)(item + items), m);
    for (int i = 0; i < 2; i++) {
        ij_beside(path[1], path[0], i ? "preprocessor_config.json" : "config.json", why);
        ij_writer o = { fopen(path[1], "w"), 0, 0 };
        if (!o.f) return ij_fail(why, IJ_EFILE, "%.200s: %s", path[1], strerror(errno));
        if (i == 0) ij_put(&o, "{\"model_type\": \"ijepa\", \"architectures\": [\"IJepaModel\"], \"hidden_size\": %zu, "
            "\"num_hidden_layers\": %zu, \"num_attention_heads\": %zu,\n \"intermediate_size\": %zu, \"hidden_act\": \"gelu\", "
            "\"layer_norm_eps\": 1e-06, \"image_size\": ", c->embed_dim, c->depth, c->num_heads, ij_hidden(c));
        if (i == 0) ij_put(&o, h == w ? "%zu" : "[%zu, %zu]", h, w);
        if (i == 0) ij_put(&o, ", \"patch_size\": %zu, \"num_channels\": 3,\n \"qkv_bias\": true, \"dtype\": \"float%d\"}\n",
            c->patch_size, (int)(8 * sizeof(real)));
        else ij_put(&o, "{\"image_processor_type\": \"ViTImageProcessor\", \"do_resize\": true, \"size\": {\"height\": %zu, \"width\": %zu}, "
            "\"resample\": 2,\n \"do_rescale\": true, \"rescale_factor\": 0.00392156862745098, \"do_normalize\": true,\n "
            "\"image_mean\": [%.9g, %.9g, %.9g], \"image_std\": [%.9g, %.9g, %.9g]}\n", h, w, c->mean[0], c->mean[1], c->mean[2],
            c->std[0], c->std[1], c->std[2]);
        const int bad = ferror(o.f);
        if (fclose(o.f) || bad) return ij_fail(why, IJ_EFILE, "%.200s: cannot be written: %s", path[1], strerror(errno));
    }
    ij_beside(path[1], path[0], "model.safetensors", why);
    return ij_file_write(path[1], item, items, NULL, 0, why);
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
        return ij_fail(why, IJ_EARG, "%zu training rows, %zu test rows, %zu channels, %zu tasks: "
                       "expected 1 or more", s->n, s->m, s->d,
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
            .m = rows, .n = s->n, .k = s->d, .c = w->similar, .c_row = s->n,
            .a = ij_row(s, w->first), .a_row = s->d, .a_col = 1, .b = s->train, .b_row = 1, .b_col = s->d,
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

/* Skill of a joint embedding: against the mean of the other images' targets. place: 2P doubles,
 * want [B,P] */
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
    real *want = (real *)(place + row + d);             /* [B,N,D] of every patch */
    ij_step s;
    if (batch < 2 || batch > c->batch_size)
        return ij_fail(why, IJ_EARG, "%zu images to watch, expected 2..%zu (batch_size)", batch,
                       c->batch_size);
    if (work.size < ij_watch_size(c)) return ij_needs(why, ij_watch_size(c), work.size);
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
    double *g = work.base, *v = g + d * d, *m = v + d * d;
    if (!n || parts > d)
        return ij_fail(why, IJ_EARG, "%zu components of %zu rows of %zu channels", parts, n, d);
    if (work.size < need) return ij_needs(why, need, work.size);
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
    const size_t raw = ij_mul(height, ij_mul(width, 3) < SIZE_MAX ? 3 * width + 1 : SIZE_MAX);
    if (!raw || !width || raw > 0x7f000000) return SIZE_MAX;
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
/* ---- without a system --------------------------------------------------------------------------------------------
 * The encoder for one image, from constants, in little memory: heads one after another, IJ_ROM_ROWS patches at a time. The
 * chains of multiply-adds are those of ij_block_forward.                                                             */

/* Each row of w [out,in] as whole numbers up to 127 times a scale. */
static void ij_quantise(int8_t *q, real *scale, const real *w, size_t out, size_t in)
{
    for (size_t o = 0; o < out; o++, w += in, q += in) {
        real most = 0;
        for (size_t i = 0; i < in; i++) most = IJ_MAX(most, w[i] < 0 ? -w[i] : w[i]);
        const real inverse = most > (real)1e-30 && most < (real)1e30 ? 127 / most : 0, half = (real)0.5;
        for (size_t i = 0; i < in; i++) q[i] = (int8_t)(w[i] < 0 ? w[i] * inverse - half : w[i] * inverse + half);
        scale[o] = inverse > 0 ? most / 127 : 0;
    }
}

#ifndef IJEPA_INFER_ONLY
static ij_rom_matrix ij_rom_place(ij_arena *a, const ij_tensor *w, const ij_tensor *b, int int8)
{
    ij_rom_matrix m = { w->x, NULL, NULL, b->x };
    const size_t out = w->dim[0], count = ij_count(w);
    if (!int8) return m;
    int8_t *q = ij_take(a, count, 1);
    real *scale = ij_take(a, out, sizeof *scale);
    if (a->base) ij_quantise(q, scale, w->x, out, count / out);
    m.w = NULL, m.q = q, m.scale = scale;
    return m;
}

static void ij_rom_lay(ij_rom *r, ij_arena *a, const ij_model *m, int int8)
{
    const ij_encoder *e = &m->target_encoder;
    const ij_config *c = &m->config;
    const size_t gh = ij_gh(c), gw = ij_gw(c);
    memset(r, 0, sizeof *r);
    r->height = c->crop_size[0], r->width = c->crop_size[1], r->patch = e->patch, r->dim = c->embed_dim, r->depth = e->depth;
    r->heads = e->heads, r->hidden = ij_hidden(c), r->int8 = int8, r->whole_pos = e->pos.x != NULL;
    for (size_t k = 0; k < 3; k++) ij_byte_scale(&r->scale[k], &r->shift[k], c, k);
    const size_t half = r->dim / 2;
    real *pos = ij_take(a, ij_mul(gh + gw, half), sizeof *pos);
    for (size_t i = 0; a->base && i < gw; i++) memcpy(pos + i * half, m->encoder_pos.x + i * r->dim, half * sizeof *pos);
    for (size_t i = 0; a->base && i < gh; i++) memcpy(pos + (gw + i) * half, m->encoder_pos.x + i * gw * r->dim + half, half * sizeof *pos);
    r->pos = r->whole_pos ? e->pos.x : pos;
    r->patch_embed = ij_rom_place(a, &e->patch_w, &e->patch_b, int8);
    r->norm_w = e->norm_w.x, r->norm_b = e->norm_b.x;
    ij_rom_block *block = ij_take(a, r->depth, sizeof *block);
    for (size_t i = 0; i < r->depth; i++) {
        const ij_block *b = &e->block[i];
        const ij_rom_block part = { b->norm1_w.x, b->norm1_b.x, b->norm2_w.x, b->norm2_b.x, ij_rom_place(a, &b->qkv_w, &b->qkv_b, int8),
            ij_rom_place(a, &b->proj_w, &b->proj_b, int8), ij_rom_place(a, &b->fc1_w, &b->fc1_b, int8), ij_rom_place(a, &b->fc2_w, &b->fc2_b, int8) };
        if (a->base) block[i] = part;
    }
    r->block = block;
}

ij_status ij_rom_size(size_t *size, const ij_model *m, int int8, ij_error *why)
{
    ij_rom r;
    ij_arena a = { NULL, 0, 0 };
    ij_rom_lay(&r, &a, m, int8);
    if (a.used == SIZE_MAX) return ij_fail(why, IJ_EMEM, "this encoder needs more memory than can be addressed");
    *size = a.used;
    return IJ_OK;
}

ij_status ij_rom_init(ij_rom *r, void *mem, size_t size, const ij_model *m, int int8, ij_error *why)
{
    size_t need = 0;
    ij_arena a = { mem, size, 0 };
    const ij_status s = ij_rom_size(&need, m, int8, why);
    if (s) return s;
    if (size < need) return ij_fail(why, IJ_EMEM, "encoder: need %zu bytes, have %zu", need, size);
    ij_rom_lay(r, &a, m, int8);
    return IJ_OK;
}
#endif

size_t ij_rom_arena(const ij_rom *m)
{
    const size_t n = (m->height / m->patch) * (m->width / m->patch);
    return IJ_ROM_ARENA(n, m->dim, m->heads, m->hidden, 3 * m->patch * m->patch, m->int8);
}

/* "what: need 12 bytes, have 3", without stdio */
static ij_status ij_too_small(ij_error *why, const char *what, size_t need, size_t have)
{
    const char *const part[4] = { what, ": need ", " bytes, have ", "" };
    char *to = why ? why->text : NULL;
    for (int i = 0; to && i < 4; i++) {
        char digit[24];
        size_t n = 0, number = i == 1 ? need : have;
        for (const char *t = part[i]; *t; t++) *to++ = *t;
        for (; i && i < 3 && (number || !n); number /= 10) digit[n++] = (char)('0' + number % 10);
        while (n) *to++ = digit[--n];
        *to = 0;
    }
    return IJ_EMEM;
}

typedef struct { const ij_rom *m; real *x, *y, *kv, *norm, *part, *wide; } ij_rom_pass;
/* x, y [N,D]  kv [N,2dh]  norm [R,D+2]  part: what one step of R rows needs  wide: R rows of an int8 matrix */

/* Without floating-point hardware the rows of x are rounded to 8 bits as well, to meet int8 matrices in whole numbers. */
#if defined(__SOFTFP__) || (defined(__riscv) && !defined(__riscv_flen)) || defined(IJEPA_ROM_INTEGER)
enum { IJ_ROM_INTEGER = 1 };
#else
enum { IJ_ROM_INTEGER = 0 };
#endif

/* y [rows,outs] = b + x W', or y += x W', with rows o0.. and columns i0.. of W [..,cols];  x [rows,in] */
static void ij_rom_linear(const ij_rom_pass *s, real *y, size_t y_row, int add, const real *x, size_t rows, const ij_rom_matrix *w,
                          size_t cols, size_t o0, size_t outs, size_t i0, size_t in)
{
    if (w->q && IJ_ROM_INTEGER) {
        int8_t *xq = (int8_t *)s->wide;
        real scale[IJ_ROM_ROWS];
        ij_quantise(xq, scale, x, rows, in);
        for (size_t o = 0; o < outs; o++)
            for (size_t r = 0; r < rows; r++) {
                const int8_t *a = w->q + (o0 + o) * cols + i0, *b = xq + r * in;
                int32_t sum = 0;
                for (size_t i = 0; i < in; i++) sum += a[i] * b[i];
                y[r * y_row + o] = (add ? y[r * y_row + o] : w->b[o0 + o]) + (real)sum * (w->scale[o0 + o] * scale[r]);
            }
        return;
    }
    for (size_t o = 0, n; o < outs; o += n) {
        const size_t at = (o0 + o) * cols + i0;
        n = w->q ? IJ_MIN((size_t)IJ_ROM_ROWS, outs - o) : outs;
        for (size_t r = 0; w->q && r < n; r++)
            for (size_t i = 0; i < in; i++) s->wide[r * in + i] = (real)w->q[at + r * cols + i] * w->scale[o0 + o + r];
        const ij_product p = { rows, n, in, x, in, 1, w->q ? s->wide : w->w + at, 1, w->q ? in : cols, y + o, y_row,
                               add ? y + o : w->b + o0 + o, add ? y_row : 0 };
        ij_matmul(&p, NULL);
    }
}

static void ij_rom_norm(const ij_rom_pass *s, real *y, const real *x, size_t rows, const real *w, const real *b)
{
    const size_t d = s->m->dim;
    const ij_tensor to = { y, 2, { rows, d, 0, 0 } }, stat = { s->norm + IJ_ROM_ROWS * d, 2, { rows, 2, 0, 0 } };
    const ij_tensor from = { (real *)x, 2, { rows, d, 0, 0 } }, weight = { (real *)w, 1, { d, 0, 0, 0 } }, bias = { (real *)b, 1, { d, 0, 0, 0 } };
    ij_layernorm(to, stat, from, &weight, &bias);
}

static void ij_rom_block_forward(const ij_rom_pass *s, const ij_rom_block *w, size_t n)
{
    const size_t d = s->m->dim, dh = d / s->m->heads, f = s->m->hidden;
    real *q = s->part, *o = q + IJ_ROM_ROWS * dh, *prob = o + IJ_ROM_ROWS * dh, *hidden = s->part;
    for (size_t h = 0; h < s->m->heads; h++) {
        for (size_t r = 0; r < n; r += IJ_ROM_ROWS) {
            const size_t rows = IJ_MIN((size_t)IJ_ROM_ROWS, n - r);
            ij_rom_norm(s, s->norm, s->x + r * d, rows, w->norm1_w, w->norm1_b);
            ij_rom_linear(s, s->kv + r * 2 * dh, 2 * dh, 0, s->norm, rows, &w->qkv, d, d + h * dh, dh, 0, d);
            ij_rom_linear(s, s->kv + r * 2 * dh + dh, 2 * dh, 0, s->norm, rows, &w->qkv, d, 2 * d + h * dh, dh, 0, d);
        }
        for (size_t r = 0; r < n; r += IJ_ROM_ROWS) {
            const size_t rows = IJ_MIN((size_t)IJ_ROM_ROWS, n - r);
            ij_rom_norm(s, s->norm, s->x + r * d, rows, w->norm1_w, w->norm1_b);
            ij_rom_linear(s, q, dh, 0, s->norm, rows, &w->qkv, d, h * dh, dh, 0, d);
            ij_attention(o, prob, q, s->kv, rows, n, dh, 1);
            ij_rom_linear(s, s->y + r * d, d, h > 0, o, rows, &w->proj, d, 0, d, h * dh, dh);
        }
    }
    for (size_t i = 0; i < n * d; i++) s->x[i] = s->y[i] + s->x[i];
    for (size_t r = 0; r < n; r += IJ_ROM_ROWS) {
        const size_t rows = IJ_MIN((size_t)IJ_ROM_ROWS, n - r);
        ij_rom_norm(s, s->norm, s->x + r * d, rows, w->norm2_w, w->norm2_b);
        ij_rom_linear(s, hidden, f, 0, s->norm, rows, &w->fc1, d, 0, f, 0, d);
        for (size_t i = 0; i < rows * f; i++) {
            real pdf, cdf;
            ij_normal(&pdf, &cdf, hidden[i]);
            hidden[i] *= cdf;
        }
        ij_rom_linear(s, s->norm, d, 0, hidden, rows, &w->fc2, f, 0, d, 0, f);
        for (size_t i = 0; i < rows * d; i++) s->x[r * d + i] = s->norm[i] + s->x[r * d + i];
    }
}

ij_status ij_rom_encode(ij_real *feature, const ij_rom *m, const uint8_t *rgb, void *arena, size_t size, ij_error *why)
{
    const size_t d = m->dim, p = m->patch, gw = m->width / p, n = m->height / p * gw, half = d / 2, pixels = 3 * p * p;
    const size_t row = IJ_MAX(IJ_MAX(m->hidden, pixels), n + 2 * (d / m->heads));
    ij_rom_pass s = { m, arena, NULL, NULL, NULL, NULL, NULL };
    if (!arena || size < ij_rom_arena(m)) return ij_too_small(why, "arena", ij_rom_arena(m), arena ? size : 0);
    s.y = s.x + n * d, s.kv = s.y + n * d, s.norm = s.kv + 2 * n * (d / m->heads), s.part = s.norm + IJ_ROM_ROWS * (d + 2);
    s.wide = s.part + IJ_ROM_ROWS * row;
    for (size_t r = 0; r < n; r += IJ_ROM_ROWS) {
        const size_t rows = IJ_MIN((size_t)IJ_ROM_ROWS, n - r);
        real *to = s.part;
        for (size_t i = r; i < r + rows; i++)
            for (size_t k = 0; k < 3; k++)
                for (size_t y = 0; y < p; y++)
                    for (size_t x = 0; x < p; x++)
                        *to++ = (real)rgb[((i / gw * p + y) * m->width + i % gw * p + x) * 3 + k] * m->scale[k] - m->shift[k];
        ij_rom_linear(&s, s.x + r * d, d, 0, s.part, rows, &m->patch_embed, pixels, 0, d, 0, pixels);
        for (size_t i = r; i < r + rows; i++) {
            const real *column = m->pos + (m->whole_pos ? i * d : i % gw * half);
            const real *line = m->pos + (m->whole_pos ? i * d + half : (gw + i / gw) * half);
            for (size_t c = 0; c < half; c++) s.x[i * d + c] += column[c], s.x[i * d + half + c] += line[c];
        }
    }
    for (size_t i = 0; i < m->depth; i++) ij_rom_block_forward(&s, &m->block[i], n);
    memset(feature, 0, d * sizeof *feature);
    for (size_t i = 0; i < n; i++) {
        ij_rom_norm(&s, s.x + i * d, s.x + i * d, 1, m->norm_w, m->norm_b);
        for (size_t c = 0; c < d; c++) feature[c] += s.x[i * d + c];
    }
    for (size_t c = 0; c < d; c++) feature[c] /= (real)n;
    return IJ_OK;
}

ij_status ij_few_init(ij_few *f, void *mem, size_t size, size_t dim, size_t most, double ridge, ij_error *why)
{
    const size_t need = IJ_FEW_SIZE(dim, most, ridge > 0), z = dim + 1;
    if (dim > SIZE_MAX / 64 / IJ_MAX(most, dim + 4)) return ij_too_small(why, "head", SIZE_MAX, size);
    if (!mem || size < need) return ij_too_small(why, "head", need, mem ? size : 0);
    f->dim = dim, f->most = most, f->classes = 0, f->w = mem, f->p = ridge > 0 ? f->w + z * most : NULL;
    f->gain = f->p ? f->p + z * (z + 1) / 2 : NULL;
    memset(mem, 0, need);
    for (size_t i = 0; f->p && i < z; i++) f->p[i * (i + 1) / 2 + i] = (real)(1 / ridge);
    return IJ_OK;
}

/* Feature i of [1 | feature] */
static real ij_few_at(const real *feature, size_t i) { return i ? feature[i - 1] : 1; }

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
        for (size_t i = 0; i < f->dim && length > 0; i++) f->w[label * z + 1 + i] += feature[i] / length;
        return IJ_OK;
    }
    real all = 1;                   /* 1 + z'Pz */
    for (size_t i = 0; i < z; i++) {
        IJ_SUM(real, sum, j, z, f->p[i > j ? i * (i + 1) / 2 + j : j * (j + 1) / 2 + i] * ij_few_at(feature, j));
        f->gain[i] = sum;
    }
    for (size_t i = 0; i < z; i++) all += f->gain[i] * ij_few_at(feature, i);
    for (size_t c = 0; c < f->classes; c++) {
        IJ_SUM(real, sum, i, z, f->w[c * z + i] * ij_few_at(feature, i));
        const real step = ((c == label) - sum) / all;
        for (size_t i = 0; i < z; i++) f->w[c * z + i] += step * f->gain[i];
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
        real score, square;
        const real *w = f->w + c * z;
        IJ_SUM(real, score, i, z, w[i] * ij_few_at(feature, i));
        IJ_SUM(real, square, i, z, w[i] * w[i]);
        if (!f->p) score = square > 0 ? score / (real)sqrt((double)square) : -1 / (real)IJ_NORM_EPS;
        if (!c || score > most) best = c, most = score;
    }
    return best;
}

/* ---- the program -------------------------------------------------------------------------------------------------
 * ijepa COMMAND: they are listed in ij_command. From here on memory is allocated, errors end the process, and results
 * go to stdout, progress to stderr. Exit 0, 1 for a failure, 2 for wrong usage, 130 after Ctrl-C.                    */
#ifdef IJEPA_MAIN

/* Views of an image in a batch. */
static size_t ij_views(const ij_config *c) { return c->objective == IJ_JOINT ? 2 : 1; }

static volatile sig_atomic_t ij_interrupted;
static void ij_on_signal(int number) { ij_interrupted = 1, signal(number, SIG_DFL); }        /* a second one ends at once */

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

/* ---- options ---- */

static const struct { const char *name, *help, *settings; } ij_preset[] = {
    { "scenes", "the built-in scenes, what `make run` trains",
      "patch_size=8 embed_dim=64 depth=4 num_heads=4 pred_emb_dim=32 pred_depth=2 patch_init_std=0.2 crop_scale=1,1 batch_size=32 "
      "pred_mask_scale=0.2,0.3 num_pred_masks=3 min_keep=1 epochs=30 warmup=2 lr=0.002 ema=0.98,1" },
    { "cifar", "CIFAR-10 and the like: 32 pixels, an hour on two cores",
      "embed_dim=128 depth=4 num_heads=4 pred_emb_dim=64 pred_depth=2 patch_init_std=0.14 average_top_k_layers=5 crop_scale=0.4,1 "
      "vicreg=0.05 batch_size=16 epochs=20 warmup=1 lr=0.001 ema=0.9975,1" },
    { "cifar-long", "the same with 2.7 million parameters, 300 epochs: days on two cores",
      "embed_dim=192 depth=6 num_heads=3 pred_emb_dim=96 pred_depth=4 patch_init_std=0.14 average_top_k_layers=7 crop_scale=0.4,1 "
      "vicreg=0.05 batch_size=16 epochs=300 warmup=5 lr=0.001 ema=0.9975,1" },
    { "stl", "STL-10 and larger pictures: 96 pixels, patches of 8",
      "crop_size=96 patch_size=8 embed_dim=192 depth=6 num_heads=3 pred_emb_dim=96 pred_depth=4 patch_init_std=0.07 "
      "average_top_k_layers=7 crop_scale=0.3,1 batch_size=32 epochs=20 warmup=1 lr=0.001 ema=0.995,1" },
    { "paper", "the published settings (ViT-H/14, in1k_vith14_ep300)",
      "model_name=vit_huge crop_size=224 patch_size=14 crop_scale=0.3,1 use_horizontal_flip=false mask_mode=reference "
      "min_keep=10 pred_emb_dim=384 pred_depth=12 init_std=0.02 patch_init_std=0.02 batch_size=128 epochs=300 warmup=40 "
      "start_lr=0.0002 lr=0.001 final_lr=1e-6 weight_decay=0.04 final_weight_decay=0.4 ema=0.996,1" },
};
enum { IJ_PRESETS = sizeof ij_preset / sizeof *ij_preset };

/* "NAME (what the paper has): key=value key=value; NAME: ..." The paper: linear on 1 % of ImageNet's labels; 14 fine-tuned on 1 %; 13 on 100 %. */
static const struct { const char *name, *rows; } ij_ablation[] = {
    { "objective", "jepa: objective=jepa; generative: objective=generative; joint: objective=joint crop_scale=0.4,1" },
    { "masking", "multi-block (54.2):; rasterized (15.5): mask_mode=rasterized num_pred_masks=3; "
                 "block (20.2): mask_mode=paper num_pred_masks=1 pred_mask_scale=0.6,0.6 enc_mask_scale=1,1; "
                 "random (17.6): mask_mode=random num_pred_masks=1 pred_mask_scale=0.6,0.6" },
    { "targets", "target encoder (66.9): objective=jepa; pixels (40.7): objective=generative" },
    { "target_scale", "0.075 to 0.2 (19.2): pred_mask_scale=0.075,0.2; 0.1 to 0.2 (39.2): pred_mask_scale=0.1,0.2; 0.125 to 0.2 (42.4): pred_mask_scale=0.125,0.2; "
                      "0.15 to 0.2 (54.2): pred_mask_scale=0.15,0.2; 0.2 to 0.25 (38.9): pred_mask_scale=0.2,0.25; 0.2 to 0.3 (33.6): pred_mask_scale=0.2,0.3" },
    { "context_scale", "0.4 to 1 (31.2): enc_mask_scale=0.4,1; 0.65 to 1 (47.1): enc_mask_scale=0.65,1; 0.75 to 1 (49.3): enc_mask_scale=0.75,1; "
                       "0.85 to 1 (54.2): enc_mask_scale=0.85,1" },
    { "num_targets", "1 (9.0): num_pred_masks=1; 2 (22.0): num_pred_masks=2; 3 (48.5): num_pred_masks=3; 4 (54.2): num_pred_masks=4" },
    { "pred_depth", "half (64.0): pred_depth=*0.5; as set (66.9):" },
    { "weight_decay", "0.04 to 0.4 (77.8): weight_decay=0.04 final_weight_decay=0.4; 0.05 (76.4): weight_decay=0.05 final_weight_decay=0.05" },
    { "pred_width", "as set (70.7):; twice (68.4): pred_emb_dim=*2" },
};
enum { IJ_ABLATIONS = sizeof ij_ablation / sizeof *ij_ablation };

typedef struct {
    const char *command, *what, *data, *test, *out, *model, *preset, *config, *hf, *encoder, *dump, *hole, *reference, *panels, *budget, *rows, *header;
    size_t threads, images, patch, layer, probe_every, context_tokens, target_tokens, targets, repeat, seeds, baselines;
    int json, resume, dry_run, tokens, last4, keep_going, full, profile, help, configured, picked, int8;
    int bit;                    /* the command's, in the table below */
    ij_config c;
} ij_options;
typedef int ij_command_run(ij_options *o);
static ij_command_run ij_train, ij_probe, ij_features_command, ij_export_command, ij_show_command, ij_report_command, ij_compare, ij_masks_command,
                      ij_render, ij_info, ij_bench;

enum { IJ_TRAINS = 1, IJ_PROBES = 2, IJ_FEATURES = 4, IJ_MASKS = 8, IJ_RENDERS = 16, IJ_INFOS = 32, IJ_BENCHES = 64,
       IJ_EXPORTS = 256, IJ_SHOWS = 512, IJ_PREDICTS = 1024, IJ_REPORTS = 2048, IJ_COMPARES = 4096, IJ_ABLATES = 8192 };
static const struct { const char *name; int bit; ij_command_run *run; const char *use, *help; } ij_command[] = {
    { "train", IJ_TRAINS, ij_train, "train [--data PATH] --out DIR", "learn from images; writes DIR/latest.safetensors and DIR/log.csv" },
    { "probe", IJ_PROBES, ij_probe, "probe --model FILE [--data PATH]", "k-NN and linear scores: trained, random encoder, raw pixels" },
    { "features", IJ_FEATURES, ij_features_command, "features --model FILE --data PATH --out FILE.npy", "one vector per image, as .npy" },
    { "export", IJ_EXPORTS, ij_export_command, "export --model FILE --hf DIR | --c NAME.h", "a folder that transformers' IJepaModel.from_pretrained loads; a C header" },
    { "show", IJ_SHOWS, ij_show_command, "show [IMAGES] [--model FILE] [--out FILE.png]", "pictures of masks, features and predictions" },
    { "predict", IJ_PREDICTS, ij_show_command, "predict IMAGE --model FILE [--hole X,Y,W,H]", "what it expects behind targets or a hole, in pixels" },
    { "report", IJ_REPORTS, ij_report_command, "report DIR [--data PATH]", "DIR/report.html: scores, curves, pictures of a run" },
    { "compare", IJ_COMPARES, ij_compare, "compare --out DIR [--data PATH] [--budget 10m]", "jepa, generative and joint, or --rows, trained alike and scored" },
    { "ablate", IJ_ABLATES, ij_compare, "ablate NAME --out DIR [--data PATH] [--budget 10m]", "the rows of a table of the paper, trained alike and scored" },
    { "masks", IJ_MASKS, ij_masks_command, "masks [--images N]", "draws context and target blocks, with their statistics" },
    { "render", IJ_RENDERS, ij_render, "render --out DIR [--images N]", "writes the built-in scenes as PPM, with labels.csv" },
    { "info", IJ_INFOS, ij_info, "info [FILE]", "settings and tensors of a file; without one, of this build" },
    { "bench", IJ_BENCHES, ij_bench, "bench step|encode|matmul|data|scale", "time, GFLOP/s, share of peak, memory" },
};
enum { IJ_COMMANDS = sizeof ij_command / sizeof *ij_command, IJ_CONFIGURED = IJ_TRAINS | IJ_MASKS | IJ_BENCHES | IJ_SHOWS | IJ_COMPARES | IJ_ABLATES };

static const struct { const char *name; int commands; size_t offset; char kind; const char *help; } ij_option[] = {
    { "data", IJ_TRAINS | IJ_COMPARES | IJ_ABLATES | IJ_PROBES | IJ_FEATURES | IJ_REPORTS | IJ_BENCHES | IJ_EXPORTS, offsetof(ij_options, data), 's',
      "images: file, folder, or scenes[:COUNT[:SIDE]] (default scenes)" },
    { "test", IJ_TRAINS | IJ_COMPARES | IJ_ABLATES | IJ_PROBES, offsetof(ij_options, test), 's', "images to be scored on, if not beside the data" },
    { "out", IJ_TRAINS | IJ_COMPARES | IJ_ABLATES | IJ_PROBES | IJ_FEATURES | IJ_SHOWS | IJ_PREDICTS | IJ_RENDERS, offsetof(ij_options, out), 's',
      "where results go (probe: the table as JSON, too)" },
    { "model", IJ_PROBES | IJ_FEATURES | IJ_SHOWS | IJ_PREDICTS | IJ_EXPORTS, offsetof(ij_options, model), 's',
      "ours, Hugging Face's or a converted one: FILE.safetensors, *.index.json or their folder" },
    { "encoder", IJ_PROBES | IJ_FEATURES | IJ_SHOWS | IJ_PREDICTS | IJ_EXPORTS, offsetof(ij_options, encoder), 's',
      "target (default, what the paper evaluates) or context" },
    { "hf", IJ_EXPORTS, offsetof(ij_options, hf), 's', "the folder to write" },
    { "c", IJ_EXPORTS, offsetof(ij_options, header), 's', "the encoder as constants for firmware: ij_rom_encode in ijepa.h; --data: compared on its test images" },
    { "int8", IJ_EXPORTS | IJ_PROBES | IJ_FEATURES, offsetof(ij_options, int8), 'f', "matrices rounded to 8 bits, a scale for each row" },
    { "preset", IJ_CONFIGURED, offsetof(ij_options, preset), 's', "settings to start from: below; train takes one that fits the data" },
    { "config", IJ_CONFIGURED, offsetof(ij_options, config), 's', "settings from a file: key = value, or the reference's YAML" },
    { "threads", IJ_TRAINS | IJ_COMPARES | IJ_ABLATES | IJ_PROBES | IJ_FEATURES | IJ_SHOWS | IJ_REPORTS | IJ_PREDICTS | IJ_BENCHES, offsetof(ij_options, threads), 'n',
      "threads; 0: one per processor" },
    { "images", IJ_COMPARES | IJ_ABLATES | IJ_PROBES | IJ_FEATURES | IJ_SHOWS | IJ_PREDICTS | IJ_MASKS | IJ_RENDERS | IJ_EXPORTS, offsetof(ij_options, images), 'n',
      "at most so many images (probe, compare: scored, of each part); 0: default" },
    { "budget", IJ_COMPARES | IJ_ABLATES, offsetof(ij_options, budget), 's', "of each run: time of its updates (90s, 10m, 2h), their number (5000) or work (20TFLOP); default: the settings' epochs" },
    { "seeds", IJ_COMPARES | IJ_ABLATES, offsetof(ij_options, seeds), 'n', "runs of each row, from --seed on (default 1)" },
    { "rows", IJ_COMPARES, offsetof(ij_options, rows), 's', "what is compared: \"NAME: key=value key=value; NAME: ...\"" },
    { "context_tokens", IJ_BENCHES, offsetof(ij_options, context_tokens), 'n', "fixed tokens per context" },
    { "target_tokens", IJ_BENCHES, offsetof(ij_options, target_tokens), 'n', "fixed tokens per target block" },
    { "targets", IJ_BENCHES, offsetof(ij_options, targets), 'n', "target blocks (num_pred_masks)" },
    { "repeat", IJ_BENCHES, offsetof(ij_options, repeat), 'n', "timed repetitions" },
    { "profile", IJ_BENCHES, offsetof(ij_options, profile), 'f', "step: arithmetic, bytes and time of each part, one thread" },
    { "panels", IJ_SHOWS, offsetof(ij_options, panels), 's', "of image,context,targets,coverage,pca,similarity,attention,montage,nearest,sketch,traced" },
    { "hole", IJ_SHOWS | IJ_PREDICTS, offsetof(ij_options, hole), 's', "x,y,width,height in pixels: what is predicted, instead of drawn blocks" },
    { "reference", IJ_SHOWS | IJ_PREDICTS, offsetof(ij_options, reference), 's', "images whose patches fill montages (default scenes:1000)" },
    { "patch", IJ_SHOWS, offsetof(ij_options, patch), 'n', "similarity: to patch N, counted from 1 by rows; 0: the middle" },
    { "tokens", IJ_FEATURES, offsetof(ij_options, tokens), 'f', "every patch [n,N,D] instead of the mean [n,D]" },
    { "layer", IJ_FEATURES, offsetof(ij_options, layer), 'n', "output of block N, through the last norm; 0: of all" },
    { "last4", IJ_FEATURES, offsetof(ij_options, last4), 'f', "the last four blocks side by side [n,4D]" },
    { "full", IJ_PROBES, offsetof(ij_options, full), 'f', "more k, raw channels, the last four blocks, few labels" },
    { "json", IJ_PROBES | IJ_BENCHES, offsetof(ij_options, json), 'f', "one JSON object a line" },
    { "dump", IJ_TRAINS, offsetof(ij_options, dump), 's', "a folder for the first update's images, masks, activations, gradients" },
    { "probe_every", IJ_TRAINS, offsetof(ij_options, probe_every), 'n', "epochs: k-NN within the training part, in probe.csv; best.safetensors" },
    { "keep_going", IJ_TRAINS, offsetof(ij_options, keep_going), 'f', "a checkpoint that cannot be written is no reason to stop" },
    { "resume", IJ_TRAINS, offsetof(ij_options, resume), 'f', "go on from DIR/latest.safetensors" },
    { "dry-run", IJ_TRAINS, offsetof(ij_options, dry_run), 'f', "print size, work, memory and time, then stop" },
    { "help", 16383, offsetof(ij_options, help), 'f', "this text" },
};
enum { IJ_OPTIONS = sizeof ij_option / sizeof *ij_option };

static void ij_help(const ij_options *o)
{
    char text[IJ_TEXT];
    if (!o->bit) {
        printf("ijepa: self-supervised learning from images with I-JEPA\n\n");
        for (size_t i = 0; i < IJ_COMMANDS; i++) printf("  ijepa %-50s %s\n", ij_command[i].use, ij_command[i].help);
        printf("\nijepa COMMAND --help lists its settings.\n");
        return;
    }
    for (size_t i = 0; i < IJ_COMMANDS; i++)
        if (ij_command[i].bit == o->bit) printf("ijepa %s\n  %s\n\n", ij_command[i].use, ij_command[i].help);
    for (size_t i = 0; i < IJ_OPTIONS; i++)
        if (ij_option[i].commands & o->bit)
            printf("  --%-20s %-12s %s\n", ij_option[i].name, ij_option[i].kind == 'n' ? "N" : ij_option[i].kind == 's' ? "TEXT" : "",
                   ij_option[i].help);
    if (o->bit == IJ_ABLATES) printf("\nNAME, with what is compared (what the paper has):\n");
    for (size_t i = 1; o->bit == IJ_ABLATES && i < IJ_ABLATIONS; i++) printf("  %-22s %s\n", ij_ablation[i].name, ij_ablation[i].rows);
    if (!(o->bit & (IJ_CONFIGURED | IJ_RENDERS))) return;
    printf("\nSettings%s%s, with their present values:\n", o->preset ? " of preset " : "", o->preset ? o->preset : "");
    printf("  --%-20s %-12s %s\n", "model_name", "", "vit_tiny, _small, _base, _large, _huge, _giant: the next four at once");
    for (size_t i = 0; i < ij_config_settings(); i++) {
        if (o->bit == IJ_RENDERS && strcmp(ij_config_name(i), "crop_size") && strcmp(ij_config_name(i), "seed")) continue;
        ij_config_text(text, &o->c, i);
        printf("  --%-20s %-12s %s\n", ij_config_name(i), text, ij_config_help(i));
    }
    if (o->bit == IJ_RENDERS) return;
    printf("\nPresets:\n");
    for (size_t i = 0; i < IJ_PRESETS; i++) printf("  %-22s %s\n", ij_preset[i].name, ij_preset[i].help);
}

/* "key=value key=value", up to a semicolon; *0.5 is half of what the setting is. */
static void ij_use_settings(ij_config *c, const char *at)
{
    ij_error why;
    char key[64], value[64], now[IJ_TEXT];
    for (int used = 0; at += strspn(at, " "), *at && *at != ';'; at += used) {
        if (sscanf(at, "%63[^= ]=%63[^ ;]%n", key, value, &used) != 2) ij_die(2, "\"%s\": expected key=value", at);
        for (size_t i = 0; *value == '*' && i < ij_config_settings(); i++) {
            if (strcmp(key, ij_config_name(i))) continue;
            char *end[2];
            ij_config_text(now, c, i);
            const double times = strtod(value + 1, &end[0]) * strtod(now, &end[1]);
            if (*end[0] || *end[1] || !value[1]) ij_die(2, "%s=%s: expected one number, times the %s that is set", key, value, now);
            snprintf(value, sizeof value, "%.17g", times);
        }
        ij_must(ij_config_set(c, key, value, &why), &why);
    }
}

static void ij_use_preset(ij_config *c, const char *name)
{
    for (size_t i = 0; i < IJ_PRESETS; i++)
        if (!strcmp(name, ij_preset[i].name)) { ij_use_settings(c, ij_preset[i].settings); return; }
    ij_die(2, "no preset is called %s; there are scenes, cifar, cifar-long, stl and paper", name);
}

static int ij_is_yaml(const char *path)                 /* the reference's files have sections */
{
    char line[256];
    int yes = 0;
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, "meta:", 5) || !strncmp(line, "optimization:", 13)) yes = 1;
    if (f) fclose(f);
    return yes;
}

/* The option of this name that the command takes; IJ_OPTIONS for a setting of the model; ends with the nearest name
 * if it is neither. */
static size_t ij_find_option(const ij_options *o, const char *name)
{
    const char *best = "help";
    size_t k = 0, s = 0;
    while (k < IJ_OPTIONS && (strcmp(name, ij_option[k].name) || !(ij_option[k].commands & o->bit))) k++;
    if (k < IJ_OPTIONS || (o->bit == IJ_RENDERS && (!strcmp(name, "crop_size") || !strcmp(name, "seed")))) return k;
    while (s < ij_config_settings() && strcmp(name, ij_config_name(s))) s++;
    if ((o->bit & IJ_CONFIGURED) && (s < ij_config_settings() || !strcmp(name, "model_name"))) return k;
    for (k = 0; k < IJ_OPTIONS; k++)
        if ((ij_option[k].commands & o->bit) && ij_distance(name, ij_option[k].name) < ij_distance(name, best)) best = ij_option[k].name;
    for (s = 0; (o->bit & IJ_CONFIGURED) && s < ij_config_settings(); s++)
        if (ij_distance(name, ij_config_name(s)) < ij_distance(name, best)) best = ij_config_name(s);
    ij_die(2, "%s has no setting --%s; the nearest is --%s", o->command, name, best);
    return k;
}

/* --name value or --name=value. Settings of the model are taken in a second pass, after preset and config file. */
static void ij_parse_arguments(ij_options *o, int argc, char **argv, int settings)
{
    ij_error why;
    for (int i = 2; i < argc; i++) {
        char name[64];
        const char *value = strchr(argv[i], '=');
        if (!strcmp(argv[i], "-h")) { o->help = 1; continue; }
        if (strncmp(argv[i], "--", 2)) {
            if (!(o->bit & (IJ_INFOS | IJ_ABLATES | IJ_BENCHES | IJ_SHOWS | IJ_PREDICTS | IJ_REPORTS)) || (!settings && o->what))
                ij_die(2, "\"%s\" is not a setting: expected --name value", argv[i]);
            o->what = argv[i];
            continue;
        }
        snprintf(name, sizeof name, "%.*s", value ? (int)(value - argv[i] - 2) : 60, argv[i] + 2);
        const size_t k = ij_find_option(o, name);
        const char kind = k < IJ_OPTIONS ? ij_option[k].kind : 'c';
        void *at = (char *)o + (k < IJ_OPTIONS ? ij_option[k].offset : 0);
        if (kind == 'f') {
            if (value) ij_die(2, "--%s takes no value", name);
            *(int *)at = 1;
            continue;
        }
        if (!value && i + 1 == argc) ij_die(2, "--%s needs a value", name);
        value = value ? value + 1 : argv[++i];
        if (kind == 's') *(const char **)at = value;
        else if (kind == 'n') {
            char *end;
            *(size_t *)at = strtoul(value, &end, 10);
            if (*end || end == value || *value == '-') ij_die(2, "--%s is \"%s\", expected a whole number", name, value);
        } else {
            o->configured = 1;
            if (settings && ij_config_set(&o->c, name, value, &why)) ij_die(2, "%s", why.text);
        }
    }
}

/* By the size of the first image. */
static void ij_pick_preset(ij_options *o)
{
    ij_error why;
    ij_data *d;
    size_t size, h, w;
    const char *path = o->data ? o->data : "scenes";
    ij_must(ij_data_size(&size, path, IJ_TRAIN_PART, 1, &why), &why);
    void *mem = ij_alloc(size);
    ij_must(ij_data_open(&d, mem, size, path, IJ_TRAIN_PART, 1, &why), &why);
    ij_must(ij_data_shape(&h, &w, d, 0, &why), &why);
    o->picked = 1, o->preset = !strcmp(ij_data_kind(d), "scenes") ? "scenes" : h <= 48 && w <= 48 ? "cifar" : "stl";
    fprintf(stderr, "preset: %s, for images of %lu x %lu (--preset NAME takes another)\n", o->preset, (unsigned long)w, (unsigned long)h);
    ij_data_close(d);
    free(mem);
}

/* What the command line says; returns the command. */
static ij_command_run *ij_parse(ij_options *o, int argc, char **argv)
{
    ij_error why;
    *o = (ij_options){ .c = ij_config_default() };
    if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        ij_help(o);
        exit(argc < 2 ? 2 : 0);
    }
    o->command = argv[1];
    size_t near = 0;
    for (size_t i = 0; i < IJ_COMMANDS; i++)
        if (ij_distance(o->command, ij_command[i].name) < ij_distance(o->command, ij_command[near].name)) near = i;
    if (strcmp(o->command, ij_command[near].name)) ij_die(2, "no command is called %s; the nearest is %s", o->command, ij_command[near].name);
    o->bit = ij_command[near].bit;
    ij_parse_arguments(o, argc, argv, 0);
    if ((o->bit & (IJ_TRAINS | IJ_COMPARES | IJ_ABLATES)) && !o->preset && !o->config && !o->help && (!o->resume || o->configured)) ij_pick_preset(o);
    if (o->preset) ij_use_preset(&o->c, o->preset);
    if (o->config) {
        if (!o->preset && ij_is_yaml(o->config)) ij_use_preset(&o->c, "paper");
        ij_must(ij_config_read(&o->c, o->config, &why), &why);
    }
    ij_parse_arguments(o, argc, argv, 1);
    if (o->help) ij_help(o), exit(0);
    if (!o->threads) o->threads = ij_processors();
    return ij_command[near].run;
}

/* ---- images for training and scoring ---- */

typedef struct { uint8_t *rgb, *small; void *work; size_t rgb_size, work_size, height, width; } ij_slot;

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
    const size_t bytes = s->slot->height * s->slot->width * 3;
    ij_must(ij_data_read(s->drawn + i * bytes, bytes, s->d, i, &why), &why);
}

static ij_images ij_images_open(const char *path, int part, int whole, const ij_config *c, size_t slots, const ij_team *team)
{
    ij_error why;
    size_t size;
    ij_images s = { 0 };
    ij_must(ij_data_size(&size, path, part, whole, &why), &why);
    ij_must(ij_data_open(&s.d, ij_alloc(size), size, path, part, whole, &why), &why);
    s.count = ij_data_count(s.d), s.slots = slots, s.c = *c;
    s.slot = ij_zeros(ij_mul(slots, sizeof *s.slot));
    for (size_t i = 0; i < slots; i++) s.slot[i].small = ij_alloc(ij_mul(3, ij_mul(c->crop_size[0], c->crop_size[1])));
    s.images = ij_alloc(ij_mul(ij_mul(slots, 3 * sizeof(real)), ij_mul(c->crop_size[0], c->crop_size[1])));
    if (slots > 1 && !strcmp(ij_data_kind(s.d), "scenes")) {     /* for one slot, each is drawn when it is read */
        ij_must(ij_data_shape(&s.slot->height, &s.slot->width, s.d, 0, &why), &why);
        s.drawn = ij_alloc(ij_mul(s.count, s.slot->height * s.slot->width * 3));
        ij_each(team, s.count, ij_scene_task, &s);
    }
    return s;
}

static void ij_images_read(ij_images *s, size_t slot, size_t image)
{
    ij_error why;
    ij_slot *k = &s->slot[slot];
    ij_must(ij_data_shape(&k->height, &k->width, s->d, image, &why), &why);
    const size_t need = k->height * k->width * 3;
    if (need > k->rgb_size) free(k->rgb), k->rgb = ij_alloc(need), k->rgb_size = need;
    if (s->drawn) memcpy(k->rgb, s->drawn + image * need, need);
    else ij_must(ij_data_read(k->rgb, need, s->d, image, &why), &why);
}

static void ij_images_resize(ij_slot *k, const ij_config *c, const size_t box[4])
{
    const size_t need = ij_resize_size(box, c->crop_size[0], c->crop_size[1]);
    if (need > k->work_size) free(k->work), k->work = ij_alloc(need), k->work_size = need;
    ij_resize(k->small, c->crop_size[0], c->crop_size[1], k->rgb, k->width, box, k->work);
}

/* The training image: a random-resized crop, maybe mirrored; its draws depend on seed, batch and place only. */
static void ij_augment_task(void *arg, size_t slot)
{
    const ij_images *s = arg;
    ij_slot *k = &s->slot[slot];
    uint64_t state = s->stream + slot;
    size_t box[4];
    ij_rng rng;
    ij_rng_seed(&rng, ij_mix(&state));
    ij_random_crop(box, k->height, k->width, s->c.crop_scale, &rng);
    ij_images_resize(k, &s->c, box);
    const int flip = ij_rng_uniform(&rng) < 0.5 && s->c.use_horizontal_flip;
    if (s->c.color_jitter > 0 || s->c.gray > 0)
        ij_color_jitter(k->small, s->c.crop_size[0] * s->c.crop_size[1], s->c.color_jitter, s->c.gray, &rng);
    ij_normalise(s->images + slot * 3 * s->c.crop_size[0] * s->c.crop_size[1], k->small, s->c.crop_size[0], s->c.crop_size[1], &s->c, flip);
}

/* The image to be scored: its largest central part of the training shape, resized. */
static void ij_centre_task(void *arg, size_t slot)
{
    const ij_images *s = arg;
    ij_slot *k = &s->slot[slot];
    const size_t h = s->c.crop_size[0], w = s->c.crop_size[1];
    size_t bh = k->height, bw = k->height * w / h;
    if (bw > k->width || !bw) bw = k->width, bh = IJ_MAX(1, IJ_MIN(k->height, k->width * h / w));
    const size_t x = (k->width - bw) / 2, y = (k->height - bh) / 2, box[4] = { x, y, x + bw, y + bh };
    ij_images_resize(k, &s->c, box);
    ij_normalise(s->images + slot * 3 * h * w, k->small, h, w, &s->c, 0);
}

typedef struct { real *x[3]; size_t width[3], blocks; int *label[3]; size_t n, tasks, classes[3]; const char *task[3]; } ij_features;
enum { IJ_TRAINED, IJ_RANDOM, IJ_PIXELS };      /* x[]: [n,width], NULL what was not asked for */
static const char *const ij_scored_name[3] = { "trained", "random", "pixels" };

enum { IJ_PIXEL_SIDE = 32, IJ_FEATURE_BATCH = 64 };

/* Features of up to `most` images, evenly spread: by one or two models every token, or the mean of the tokens after each of
 * the last `blocks` blocks, side by side (an encoder of fewer blocks gives the output of a lower one, through the last
 * norm); raw pixels at 32x32 at most. */
static ij_features ij_features_from(ij_images *s, const ij_model *const model[2], int pixels, size_t most, size_t tokens,
                                    size_t blocks, const ij_team *team)
{
    ij_error why;
    const ij_config *c = &model[0]->config;
    const size_t h = c->crop_size[0], w = c->crop_size[1], d = c->embed_dim;
    ij_images p = *s;           /* the same pictures at another size */
    for (int i = 0; i < 2; i++) p.c.crop_size[i] = IJ_MIN(p.c.crop_size[i], IJ_PIXEL_SIDE);
    ij_features f = { 0 };
    f.n = most && most < s->count ? most : s->count;
    f.tasks = ij_data_tasks(s->d), f.blocks = blocks;
    for (size_t t = 0; t < f.tasks; t++) {
        f.label[t] = ij_alloc(f.n * sizeof(int));
        f.task[t] = ij_data_task(s->d, t, &f.classes[t]);
    }
    f.width[IJ_TRAINED] = f.width[IJ_RANDOM] = d * (tokens ? tokens : blocks);
    f.width[IJ_PIXELS] = 3 * p.c.crop_size[0] * p.c.crop_size[1];
    for (int i = 0; i < 3; i++)
        if (i < 2 ? model[i] != NULL : pixels) f.x[i] = ij_alloc(ij_mul(ij_mul(f.n, f.width[i]), sizeof(real)));
    p.images = ij_alloc(s->slots * f.width[IJ_PIXELS] * sizeof(real));
    size_t size;
    ij_pictures in = { s->images, s->slots, h, w };
    ij_must(ij_encode_size(&size, &model[0]->target_encoder, &in, &why), &why);
    const ij_memory work = { ij_alloc(size), size };
    real *mean = ij_alloc(s->slots * d * sizeof *mean);
    double shown = ij_seconds();
    for (size_t at = 0; at < f.n && !ij_interrupted; at += s->slots) {
        const size_t batch = IJ_MIN(s->slots, f.n - at);
        for (size_t i = 0; i < batch; i++) {
            const size_t image = (size_t)((double)(at + i) * (double)s->count / (double)f.n);
            ij_images_read(s, i, image);
            for (size_t t = 0; t < f.tasks; t++) f.label[t][at + i] = ij_data_label(s->d, image, t);
        }
        ij_each(team, batch, ij_centre_task, s);
        if (pixels) {
            ij_each(team, batch, ij_centre_task, &p);
            memcpy(f.x[IJ_PIXELS] + at * f.width[IJ_PIXELS], p.images, batch * f.width[IJ_PIXELS] * sizeof(real));
        }
        for (size_t i = 0; i < 2 && model[i]; i++)
            for (size_t k = 0; k < blocks; k++) {
                ij_encoder e = model[i]->target_encoder;
                real *to = f.x[i] + at * f.width[i];
                e.depth = e.depth + 1 + k - blocks;
                in.count = batch;
                ij_must(ij_encode(tokens ? to : NULL, tokens ? NULL : mean, &e, &in, work, team, &why), &why);
                for (size_t b = 0; b < batch && !tokens; b++) memcpy(to + (b * blocks + k) * d, mean + b * d, d * sizeof(real));
            }
        if (ij_terminal() && (ij_seconds() - shown > 0.2 || at + batch == f.n)) {
            shown = ij_seconds();
            fprintf(stderr, "\rfeatures: %lu of %lu images%s", (unsigned long)(at + batch), (unsigned long)f.n, at + batch == f.n ? "\n" : "");
        }
    }
    free(work.base);
    free(mean);
    free(p.images);
    return f;
}

static ij_features ij_features_of(const char *path, int part, int whole, const ij_model *const model[2], int pixels,
                                  size_t most, size_t tokens, size_t blocks, const ij_team *team)
{
    ij_images s = ij_images_open(path, part, whole, &model[0]->config, IJ_FEATURE_BATCH, team);
    const ij_features f = ij_features_from(&s, model, pixels, most, tokens, blocks, team);
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
    const ij_memory work = { ij_alloc(size), size };
    if (k) ij_must(ij_knn(percent, s, k, 0.07, work, team, &why), &why);
    else ij_must(ij_ridge(percent, chosen, s, work, team, &why), &why);
    free(work.base);
    for (size_t t = 0; t < s->tasks; t++) percent[t] *= 100;
}

/* The cosine of two vectors. */
static double ij_alike(const real *a, const real *b, size_t d)
{
    double ab = 0, aa = 0, bb = 0;
    for (size_t c = 0; c < d; c++) ab += (double)a[c] * (double)b[c], aa += (double)a[c] * (double)a[c], bb += (double)b[c] * (double)b[c];
    return ab / sqrt(IJ_MAX(aa * bb, 1e-300));
}

/* The three main components of features z [n,D] as red, green and blue [n,3]: two standard deviations from dark to bright. */
static void ij_pca_colours(uint8_t *rgb, const real *z, size_t n, size_t d)
{
    ij_error why;
    const size_t size = (2 * d * d + d) * sizeof(double);
    const ij_memory work = { ij_alloc(size), size };
    real *scores = ij_alloc(3 * n * sizeof *scores);
    ij_must(ij_pca(scores, 3, z, n, d, work, &why), &why);
    for (size_t k = 0; k < 3; k++) {
        double square = 0;
        for (size_t i = 0; i < n; i++) square += (double)scores[i * 3 + k] * (double)scores[i * 3 + k];
        const double high = 2 * sqrt(square / (double)n);
        for (size_t i = 0; i < n; i++)
            rgb[i * 3 + k] = (uint8_t)(255 * IJ_MAX(0, IJ_MIN(((double)scores[i * 3 + k] / IJ_MAX(high, 1e-30) + 1) / 2, 1)) + 0.5);
    }
    free(work.base);
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

static int ij_write_png(const char *path, const uint8_t *rgb, size_t h, size_t w)      /* 0: errno says why not */
{
    uint8_t *png = ij_alloc(ij_png_size(h, w));
    FILE *f = fopen(path, "wb");
    int good = f && fwrite(png, 1, ij_png(png, rgb, h, w), f) > 0 && !ferror(f);
    if (f) good = !fclose(f) && good;
    free(png);
    return good;
}

static void ij_print_config(FILE *f, const ij_config *c)
{
    char text[IJ_TEXT];
    for (size_t i = 0; i < ij_config_settings(); i++) {
        ij_config_text(text, c, i);
        fprintf(f, "%s = %s\n", ij_config_name(i), text);
    }
}

/* NumPy's format 1.0, in little-endian order; the item's name is the path. */
static void ij_write_npy(const ij_item *item)
{
    char head[256], shape[100] = "";
    for (size_t i = 0, used = 0; i < item->rank; i++)
        used += (size_t)snprintf(shape + used, sizeof shape - used, "%lu, ", (unsigned long)item->dim[i]);
    snprintf(head, sizeof head, "{'descr': '<%c%d', 'fortran_order': False, 'shape': (%s), }", item->dtype < IJ_I64 ? 'f' : 'i',
             (int)(ij_dtype[item->dtype].bits / 8), shape);
    size_t n = strlen(head);
    while ((10 + n + 1) % 64) head[n++] = ' ';
    head[n++] = '\n';
    FILE *f = ij_open_or_die(item->name, "wb");
    const unsigned char start[10] = { 0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (unsigned char)(n & 255), (unsigned char)(n >> 8) };
    fwrite(start, 1, 10, f);
    fwrite(head, 1, n, f);
    ij_put_data(f, item);
    ij_close_or_die(f, item->name);
}

static const char ij_log_head[] = "epoch,itr,loss,mask-A,mask-B,time (ms),lr,weight decay,ema,grad norm,feature std\n";

/* The log of a resumed run keeps the lines up to the checkpoint. */
static void ij_log_cut(const char *path, uint64_t steps)
{
    char other[1200], line[512];
    FILE *from = fopen(path, "r");
    if (!from) return;
    snprintf(other, sizeof other, "%s.tmp", path);
    FILE *to = ij_open_or_die(other, "w");
    for (uint64_t n = 0; n <= steps && fgets(line, sizeof line, from); n++) fputs(line, to);
    fclose(from);
    ij_close_or_die(to, other);
    if (ij_replace(other, path)) ij_die(1, "log.csv cannot be replaced");
}

/* The n numbers in column `name` of a CSV file, NaN where there is none; a line without an end is still under way. */
static double *ij_csv(size_t *n, const char *folder, const char *file, const char *name)
{
    char path[1100], line[512];
    size_t column = 0, room = 0;
    double *v = NULL;
    *n = 0;
    FILE *csv = fopen(ij_path(path, folder, file), "r");
    const char *at = csv && fgets(line, sizeof line, csv) ? strstr(line, name) : NULL;
    for (const char *c = line; at && c < at; c++) column += *c == ',';
    while (at && fgets(line, sizeof line, csv) && strchr(line, '\n')) {
        const char *c = line;
        for (size_t k = 0; k < column && c; k++) c = strchr(c, ','), c += c != NULL;
        if (*n == room && !(v = realloc(v, (room = 2 * room + 64) * sizeof *v))) ij_die(1, "out of memory: %s", path);
        v[(*n)++] = c && *c != ',' ? strtod(c, NULL) : (double)NAN;
    }
    if (csv) fclose(csv);
    return v;
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

/* Mean tokens of a context and of a target block over 16 draws; *work: the most that a step or ij_watch on one of them needs. */
static void ij_mean_tokens(double *context, double *target, size_t *work, const ij_config *c)
{
    ij_error why;
    ij_masks lists;
    ij_rng rng;
    ij_arena room = { NULL, 0, 0 };
    *context = *target = 0, *work = 0;
    ij_masks_place(&lists, &room, c);
    room = (ij_arena){ ij_alloc(room.used), room.used, 0 };
    ij_masks_place(&lists, &room, c);
    ij_must(ij_masks_check(&lists, c, &why), &why);
    ij_rng_seed(&rng, c->seed);
    for (uint64_t i = 0; i < 16; i++) {
        ij_must(ij_masks_draw(&lists, c, &rng, i, c->batch_size, &why), &why);
        for (size_t k = 0; k < lists.context.lists; k++) *context += (double)lists.context.length[k] / (double)lists.context.lists / 16;
        for (size_t k = 0; k < lists.target.lists; k++) *target += (double)lists.target.length[k] / (double)lists.target.lists / 16;
        for (ij_part p = { 0, ij_part_images(c), c->batch_size }; p.first < p.batch; p.first += p.images) {
            p.images = IJ_MIN(p.images, p.batch - p.first);
            const ij_counts n = ij_count_part(NULL, c, &lists, &p);
            ij_arena part = { NULL, 0, 0 };
            ij_step step;
            ij_step_place(&step, &part, c, &n);
            *work = IJ_MAX(*work, part.used);           /* no more is ever touched */
        }
    }
    free(room.base);
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
    printf("encoder      %lu parameters\npredictor    %lu parameters\n", (unsigned long)m.encoder_size, (unsigned long)(m.size - m.encoder_size));
    printf("images       %lu in the training part, %.0f seen in %lu updates\n", (unsigned long)images, total, (unsigned long)ij_steps(c));
    printf("tokens       %.1f per context, %.1f per target block, %lu per image\n", context, target, (unsigned long)ij_rows(&m.encoder_pos));
    printf("work         %.1f MFLOP per image, %.3g TFLOP in all\n", flops / 1e6, flops * total / 1e12);
    memory -= m.work_size - work;
    memory += c->batch_size * ij_views(c) * pixels * (sizeof(real) + 1) + ij_save_size(&m) + images * sizeof(size_t) + ij_watch_size(c);
    if (data->drawn) memory += images * data->slot->height * data->slot->width * 3;
    printf("memory       %.1f MiB\n", (double)memory / 1048576);
    printf("time         about %.0f s at %.0f GFLOP/s\n", flops * total / rate / 1e9, rate);
}

static void ij_progress(const ij_model *m, const ij_report *r, double start, uint64_t from, double *shown, int last)
{
    const double now = ij_seconds(), done = (double)(m->step - from), steps = (double)ij_steps(&m->config);
    const int terminal = ij_terminal();
    if (!last && now - *shown < (terminal ? 0.2 : 10)) return;
    const double per = done > 0 ? (now - start) / done : 0, left = per * (steps - (double)m->step);
    *shown = now;
    fprintf(stderr, "%sepoch %.2f  step %lu/%.0f  loss %.4f  std %.3f  %.0f images/s  %.0f s left%s", terminal ? "\r" : "",
            (double)m->step / (double)m->config.ipe, (unsigned long)m->step, steps, r->loss, r->feature_std,
            per > 0 ? (double)(m->config.batch_size * m->config.accumulate) / per : 0, left, terminal && !last ? "   " : "\n");
    fflush(stderr);
}

static ij_file ij_open_model(const char *path, ij_config *c)            /* c: its settings, NULL if not wanted */
{
    ij_error why;
    ij_file f;
    size_t size;
    char *file = ij_alloc(1100);
    snprintf(file, 1100, "%.1000s", path);
    static const char *const usual[3] = { "latest.safetensors", "model.safetensors", "model.safetensors.index.json" };
    for (size_t i = 0; ij_is_folder(path) && i < 3; i++) {
        FILE *there = fopen(ij_path(file, path, usual[i]), "rb");
        if (there) { fclose(there); break; }
        if (i == 2) ij_die(1, "%s: holds no latest.safetensors, model.safetensors or model.safetensors.index.json", path);
    }
    ij_must(ij_file_size(&size, file, &why), &why);
    ij_must(ij_file_open(&f, ij_alloc(size), size, file, &why), &why);
    if (c) ij_must(ij_load_config(c, &f, &why), &why);
    return f;
}

/* The settings of the run in `latest`; those given on the command line must be the same. 0: the file has none. */
static int ij_resume_config(ij_file *f, ij_config *c, const char *latest, int given)
{
    ij_error why;
    ij_config saved;
    char a[IJ_TEXT], b[IJ_TEXT];
    *f = ij_open_model(latest, NULL);
    if (ij_file_kind(f) && *ij_file_kind(f) == 'r') return 0;
    ij_must(ij_load_config(&saved, f, &why), &why);
    for (size_t i = 0; given && i < ij_config_settings(); i++) {
        ij_config_text(a, &saved, i), ij_config_text(b, c, i);
        if (strcmp(ij_config_name(i), "ipe") && strcmp(a, b))
            ij_die(1, "%s: the run has %s = %s, asked for is %s", latest, ij_config_name(i), a, b);
    }
    *c = saved;
    return 1;
}

/* Every epoch, or tenth of the run. */
static uint64_t ij_watch_every(const ij_config *c) { return IJ_MAX(1, IJ_MIN(c->ipe, ij_steps(c) / 10)); }

typedef struct {
    ij_model m;
    ij_images s;
    ij_team team;
    char latest[1100], log_path[1100], health_path[1100];
    char best_path[1100], probe_path[1100];
    FILE *log, *health, *probe;
    double best;                /* the highest mean so far in probe.csv, */
    uint64_t probed;            /* and the step of its last line */
    const char *dump, *out;
} ij_run;

static FILE *ij_open_log(char path[1100], const ij_options *o, const char *name, const char *head, uint64_t lines)
{
    ij_path(path, o->out, name);
    if (o->resume) ij_log_cut(path, lines);
    FILE *f = ij_open_or_die(path, o->resume ? "a" : "w");
    if (!fseek(f, 0, SEEK_END) && !ftell(f)) fputs(head, f);
    return f;
}

/* Data, model and folder for a run, new or resumed. Nothing is written before everything is known to be in order. */
static void ij_train_start(ij_run *t, ij_options *o)
{
    ij_error why;
    ij_config *c = &o->c;
    ij_file f;
    if (o->out) {
        FILE *old = fopen(ij_path(t->latest, o->out, "latest.safetensors"), "rb");
        if (old && !o->resume && !o->dry_run)
            ij_die(1, "%s: a run is there already: --resume goes on with it, or choose another --out", t->latest);
        if (old) fclose(old);
    }
    const int known = o->resume && ij_resume_config(&f, c, t->latest, (o->preset && !o->picked) || o->config || o->configured);
    ij_must(ij_config_check(c, &why), &why);
    t->team = ij_team_start(o->threads);
    t->s = ij_images_open(o->data, IJ_TRAIN_PART, o->test != NULL, c, c->batch_size * ij_views(c), &t->team);
    const size_t update = c->batch_size * c->accumulate, ipe = t->s.count / update;
    if (!ipe)
        ij_die(1, "%s: %lu images in the training part, fewer than one update's batch_size * accumulate = %lu", o->data,
               (unsigned long)t->s.count, (unsigned long)update);
    if (known && ipe != c->ipe)
        ij_die(1, "%s: %lu updates in an epoch, the run to be resumed has %lu: other images?", o->data, (unsigned long)ipe, (unsigned long)c->ipe);
    c->ipe = ipe;
    fprintf(stderr, "data: %s: %s, %lu training images\n", o->data, ij_data_kind(t->s.d), (unsigned long)t->s.count);
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
        fprintf(stderr, "resumed at step %lu\n", (unsigned long)t->m.step);
    }
    ij_must(ij_make_folder(o->out, &why), &why);
    ij_must(ij_lock(ij_path(t->log_path, o->out, "lock"), &why), &why);
    ij_print_config(stderr, c);
    FILE *out = ij_open_or_die(ij_path(t->log_path, o->out, "config.txt"), "w");
    ij_print_config(out, c);
    ij_close_or_die(out, t->log_path);
    out = ij_open_or_die(ij_path(t->log_path, o->out, "data.txt"), "w");        /* for the report */
    fprintf(out, "%s\n%s\n", o->data, o->test ? o->test : "");
    ij_close_or_die(out, t->log_path);
    t->out = o->out;
    t->log = ij_open_log(t->log_path, o, "log.csv", ij_log_head, t->m.step);
    t->health = ij_open_log(t->health_path, o, "health.csv",
                            "step,loss,skill,position,rank,feature std,cosine,verdict\n",
                            t->m.step < ij_steps(c) ? t->m.step / ij_watch_every(c) + 1 : UINT64_MAX);
}

/* One forward and backward pass on the next batch. Order, crops and masks follow from the seed and its number. */
static ij_report ij_train_pass(ij_run *t, size_t *order, uint64_t *ordered)
{
    ij_error why;
    ij_report r;
    ij_model *m = &t->m;
    const ij_config *c = &m->config;
    const uint64_t batches = c->ipe * c->accumulate, epoch = m->micro / batches, at = m->micro % batches;
    if (epoch != *ordered) {                            /* drop_last: a new order for each epoch */
        ij_rng rng;
        ij_rng_seed(&rng, c->seed + epoch);
        ij_rng_permutation(&rng, order, t->s.count);
        *ordered = epoch;
    }
    for (size_t i = 0; i < t->s.slots; i++) ij_images_read(&t->s, i, order[at * c->batch_size + i % c->batch_size]);
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

/* pca_STEP.png: main components of the target features of six training images side by side, a pixel for each patch, and once
 * pca_images.png, these images. Training goes on if they cannot be written. */
enum { IJ_WATCHED = 6 };
static void ij_train_picture(ij_run *t)
{
    ij_error why;
    char name[40], path[1100];
    const ij_config *c = &t->m.config;
    const size_t n = ij_rows(&t->m.encoder_pos), d = c->embed_dim, h = c->crop_size[0], w = c->crop_size[1], p = c->patch_size, gw = w / p;
    const size_t row = IJ_WATCHED * (gw + 1), wide = IJ_WATCHED * (w + p);
    size_t size;
    const ij_pictures in = { t->s.images, 1, h, w };
    ij_must(ij_encode_size(&size, &t->m.target_encoder, &in, &why), &why);
    const ij_memory work = { ij_alloc(size), size };
    real *token = ij_alloc(IJ_WATCHED * n * d * sizeof *token);
    uint8_t *rgb = ij_alloc(IJ_WATCHED * n * 3), *all = ij_alloc(n / gw * row * 3), *images = ij_alloc(h * wide * 3);
    memset(all, 255, n / gw * row * 3), memset(images, 255, h * wide * 3);
    for (size_t k = 0; k < IJ_WATCHED; k++) {
        ij_images_read(&t->s, 0, k * t->s.count / IJ_WATCHED);
        ij_centre_task(&t->s, 0);
        for (size_t y = 0; y < h; y++) memcpy(images + (y * wide + k * (w + p)) * 3, t->s.slot->small + y * w * 3, w * 3);
        ij_must(ij_encode(token + k * n * d, NULL, &t->m.target_encoder, &in, work, &t->team, &why), &why);
    }
    ij_pca_colours(rgb, token, IJ_WATCHED * n, d);
    for (size_t i = 0; i < IJ_WATCHED * n; i++) memcpy(all + (i % n / gw * row + i / n * (gw + 1) + i % gw) * 3, rgb + i * 3, 3);
    snprintf(name, sizeof name, "pca_%lu.png", (unsigned long)t->m.step);
    int good = ij_write_png(ij_path(path, t->out, name), all, n / gw, row);
    if (good && !t->m.step) good = ij_write_png(ij_path(path, t->out, "pca_images.png"), images, h, wide);
    if (!good) fprintf(stderr, "%s: %s\n", path, strerror(errno));
    free(work.base);
    free(token);
    free(rgb);
    free(all);
    free(images);
}

/* A line of health.csv, and on the screen: some 500 images spread over the data, the same crops and masks each time. */
static void ij_train_watch(ij_run *t)
{
    ij_error why;
    ij_model *m = &t->m;
    ij_rng rng;
    const ij_config *c = &m->config;
    const size_t images = c->batch_size, d = c->embed_dim, batches = IJ_MAX(1, IJ_MIN(512, t->s.count / 8) / images);
    const size_t seen = batches * images, side = IJ_MIN(seen, d);
    const size_t size = IJ_MAX(ij_watch_size(c), side * side * sizeof(double));
    const ij_memory work = { ij_alloc(size), size };
    real *pooled = ij_alloc(seen * d * sizeof *pooled);
    ij_health all = { 0 };
    ij_rng_seed(&rng, c->seed);
    for (size_t k = 0; k < batches; k++) {
        real *mean = pooled + k * images * d;
        ij_health h = { 0 };
        for (size_t i = 0; i < t->s.slots; i++) ij_images_read(&t->s, i, (k * images + i % images) * t->s.count / seen);
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
    const char *verdict = images < 2 ? "no verdict: in batches of one image there is nothing to compare with" : m->step
                          ? ij_verdict(&all, c->objective, (double)m->step > c->warmup * (double)c->ipe) : "too early to say: these are the first weights";
    const int calm = strchr("htn", *verdict) != NULL;
    fprintf(t->health, "%zu,%.6f,%.5f,%.5f,%.4f,%.5g,%.5f,%s\n", (size_t)m->step, all.loss,
            all.skill, all.position, all.rank, all.feature_std, all.cosine, verdict);
    fprintf(stderr, "%sepoch %.2f  loss %.4f  skill %.3f  position %.3f  rank %.1f  std %.3f  cosine %.2f%s\n%s%s", ij_terminal() ? "\r" : "",
            (double)m->step / (double)c->ipe, all.loss, all.skill, all.position, all.rank, all.feature_std, all.cosine, ij_terminal() ? "          " : "",
            calm ? "" : verdict, calm ? "" : "\n");
    free(work.base);
    free(pooled);
    ij_train_picture(t);
}

static void ij_dump_tensor(const char *folder, const ij_tensor *t, const char *format, ...)
{
    char name[90], path[1100];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    ij_item item = { ij_path(path, folder, name), sizeof(real) == 8 ? IJ_F64 : IJ_F32, t->rank, { 0 }, t->x };
    memcpy(item.dim, t->dim, sizeof t->dim);
    ij_write_npy(&item);
}

static void ij_dump_stack(const char *folder, const char *part, const ij_stack *s)
{
    for (size_t i = 0; i < s->depth; i++) {
        const ij_block_acts *b = &s->block[i];
        const struct { const char *name; const ij_tensor *t; } act[] = { { "x", &b->x }, { "norm1", &b->norm1 }, { "kv", &b->kv },
            { "q", &b->q }, { "heads", &b->heads }, { "y", &b->y }, { "norm2", &b->norm2 }, { "gelu", &b->gelu } };
        for (size_t k = 0; k < sizeof act / sizeof *act; k++)
            ij_dump_tensor(folder, act[k].t, "%s.block%lu.%s.npy", part, (unsigned long)i, act[k].name);
    }
    ij_dump_tensor(folder, &s->norm, "%s.norm.npy", part);
}

/* What an update was made of, for looking inside: images [B,3,H,W]; masks, a list in a row, filled up with -1; the
 * activations of the batch's last part (as ij_block_acts calls them, sequence after sequence), and every gradient. Called
 * between backward and the optimizer, while the activations are still there. */
static void ij_dump(void *arg, ij_real *grad, size_t count)
{
    ij_run *t = arg;
    ij_model *m = &t->m;
    const ij_config *c = &m->config;
    const char *folder = t->dump;
    const ij_lists *l[2] = { &m->masks.context, &m->masks.target };
    const size_t each = ij_part_images(c);
    const ij_tensor images = { t->s.images, 4, { t->s.slots, 3, c->crop_size[0], c->crop_size[1] } };
    ij_step s;
    m->reduce = NULL;                                   /* once */
    if (!count || ij_step_begin(&s, m, t->s.images, &m->masks, (c->batch_size - 1) / each * each, NULL)) return;
    ij_dump_tensor(folder, &images, "images.npy");
    for (size_t k = 0; k < 2; k++) {
        const size_t n = l[k]->lists * l[k]->stride;
        char path[1100];
        int32_t *index = ij_alloc(n * sizeof *index);
        for (size_t i = 0; i < n; i++) index[i] = i % l[k]->stride < l[k]->length[i / l[k]->stride] ? (int32_t)l[k]->index[i] : -1;
        ij_path(path, folder, k ? "masks.target.npy" : "masks.context.npy");
        const ij_item item = { path, IJ_I32, 2, { l[k]->lists, l[k]->stride }, index };
        ij_write_npy(&item);
        free(index);
    }
    ij_dump_tensor(folder, &s.target.stack.norm, "target.norm.npy");
    ij_dump_stack(folder, "context", &s.context.stack);
    ij_dump_stack(folder, "predictor", &s.predictor.stack);
    ij_dump_tensor(folder, &s.predictor.out, "predictor.proj.npy");
    ij_dump_tensor(folder, &s.loss.want, "targets.npy");
    for (size_t i = 0; i < m->params; i++) {
        const ij_param *p = &m->param[i];
        ij_tensor g = p->shape;
        g.x = grad + p->offset;
        ij_dump_tensor(folder, &g, "grad.%s.%s.npy", p->predictor ? "predictor" : "encoder", p->name);
    }
}

enum { IJ_BANK = 5000 };        /* training images of --probe_every at most: four fifths are neighbours, one fifth asks */

/* k-NN of the target encoder's features within the training part (the test part is for the end): a line of probe.csv, and
 * best.safetensors if the mean over tasks is the highest so far. */
static void ij_train_probe(ij_run *t, void *save, size_t save_size)
{
    ij_error why;
    const ij_model *const model[2] = { &t->m, NULL };
    const ij_features f = ij_features_from(&t->s, model, 0, IJ_BANK, 0, 1, &t->team);
    const size_t d = f.width[IJ_TRAINED], asks = f.n / 5, bank = f.n - asks;
    real *x = ij_alloc(f.n * d * sizeof *x);
    int *label = ij_alloc(3 * f.n * sizeof *label);
    double knn[3], mean = 0;
    for (size_t i = 0; i < f.n; i++) {
        const size_t row = i % 5 == 4 ? bank + i / 5 : i - i / 5;
        memcpy(x + row * d, f.x[IJ_TRAINED] + i * d, d * sizeof *x);
        for (size_t k = 0; k < f.tasks; k++) label[k * f.n + row] = f.label[k][i];
    }
    const int *const near[3] = { label, label + f.n, label + 2 * f.n }, *const asked[3] = { near[0] + bank, near[1] + bank, near[2] + bank };
    const ij_scored s = { bank, asks, d, x, x + bank * d, f.tasks, near, asked, f.classes };
    ij_standardise(s.train, bank, s.test, asks, d);
    if (!ij_interrupted) ij_score(knn, &s, 20, &t->team);
    for (size_t k = 0; k < f.tasks; k++) free(f.label[k]);
    free(x), free(label), free(f.x[IJ_TRAINED]);
    if (ij_interrupted) return;                         /* ij_train makes up for it on resume */
    fprintf(t->probe, "%lu", (unsigned long)t->m.step);
    for (size_t k = 0; k < f.tasks; k++) fprintf(t->probe, ",%.2f", knn[k]), mean += knn[k] / (double)f.tasks;
    fprintf(t->probe, ",%.2f\n", mean);
    fprintf(stderr, "%sk-NN %.2f (best so far %.2f)%30s\n", ij_terminal() ? "\r" : "", mean, IJ_MAX(mean, t->best), "");
    if (mean > t->best && !ij_save(&t->m, t->best_path, save, save_size, &why)) t->best = mean;
}

/* Opens probe.csv; of a resumed run it keeps the lines up to the checkpoint, and finds the best. */
static void ij_train_probe_open(ij_run *t, const ij_options *o)
{
    char head[256] = "step";
    size_t rows, kept = 0, classes;
    if (!ij_data_tasks(t->s.d)) ij_die(1, "%s: no labels: --probe_every needs them", o->data);
    for (size_t k = 0; k < ij_data_tasks(t->s.d); k++)
        snprintf(head + strlen(head), 60, ",k-NN %.40s", ij_data_task(t->s.d, k, &classes));
    strcat(head, ",mean\n");
    ij_path(t->best_path, o->out, "best.safetensors");
    double *step = ij_csv(&rows, o->out, "probe.csv", "step"), *mean = ij_csv(&rows, o->out, "probe.csv", "mean");
    for (; o->resume && kept < rows && step[kept] <= (double)t->m.step; kept++)
        t->probed = (uint64_t)step[kept], t->best = IJ_MAX(t->best, mean[kept]);
    free(step), free(mean);
    t->probe = ij_open_log(t->probe_path, o, "probe.csv", head, kept);
}

static void ij_train_save(ij_run *t, const ij_options *o, void *work, size_t size)
{
    ij_error why;
    const int log = fflush(t->log) || fflush(t->health) || (t->probe && fflush(t->probe));
    if (log) ij_fail(&why, IJ_EFILE, "%.300s: cannot be written: %s", t->log_path, strerror(errno));
    if (!log && !ij_save(&t->m, t->latest, work, size, &why)) return;
    if (!o->keep_going) ij_die(1, "%s", why.text);
    fprintf(stderr, "ijepa: %s; training goes on\n", why.text);
}

static int ij_train(ij_options *o)
{
    ij_error why;
    ij_run t = { .best = -1 };
    if (!o->out && !o->dry_run) ij_die(2, "train needs --out DIR");
    if (!o->data) fprintf(stderr, "data: the built-in scenes (--data PATH for your own)\n"), o->data = "scenes";
    ij_train_start(&t, o);
    if (o->dry_run) return 0;
    ij_model *m = &t.m;
    if (o->probe_every) ij_train_probe_open(&t, o);
    if ((t.dump = o->dump) != NULL) ij_must(ij_make_folder(o->dump, &why), &why), m->reduce = ij_dump, m->reduce_arg = &t;
    const ij_config *c = &m->config;
    const size_t save_size = ij_save_size(m);
    void *save_work = ij_alloc(save_size);
    size_t *order = ij_alloc(t.s.count * sizeof *order);
    uint64_t ordered = UINT64_MAX;
    const uint64_t from = m->step, steps = ij_steps(c);
    const double start = ij_seconds();
    double shown = start;
    if (!from) ij_train_watch(&t);
    if (o->probe_every && from > t.probed && from % (c->ipe * o->probe_every) == 0) ij_train_probe(&t, save_work, save_size);    /* it was interrupted */
    while (m->step < steps && !ij_interrupted) {
        const double begin = ij_seconds();
        ij_report r;
        do r = ij_train_pass(&t, order, &ordered);
        while (!r.updated);
        const size_t done = (size_t)m->step;
        fprintf(t.log, "%lu,%lu,%.6f,%.2f,%.2f,%.2f,%.6g,%.6g,%.8g,%.5g,%.5g\n", (unsigned long)((done - 1) / c->ipe + 1),
                (unsigned long)((done - 1) % c->ipe), r.loss, r.context_tokens, r.target_tokens,
                1000 * (ij_seconds() - begin), r.lr, r.weight_decay, r.ema, r.grad_norm, r.feature_std);
        if (done % ij_watch_every(c) == 0 || done == steps) ij_train_watch(&t);
        if (o->probe_every && (done % (c->ipe * o->probe_every) == 0 || done == steps)) ij_train_probe(&t, save_work, save_size);
        if (done % c->ipe == 0 && done < steps) ij_train_save(&t, o, save_work, save_size);
        ij_progress(m, &r, start, from, &shown, done == steps || ij_interrupted);
    }
    ij_close_or_die(t.log, t.log_path);
    ij_close_or_die(t.health, t.health_path);
    if (t.probe) ij_close_or_die(t.probe, t.probe_path);
    ij_must(ij_save(m, t.latest, save_work, save_size, &why), &why);
    fprintf(stderr, "%s: step %lu of %lu\n", t.latest, (unsigned long)m->step, (unsigned long)steps);
    return ij_interrupted ? 130 : 0;
}

/* Closes what was written as PATH.tmp, and gives it its name. */
static void ij_finish(FILE *f, const char *path)
{
    char temporary[1110];
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    int bad = ferror(f);
    bad |= fclose(f);
    if (bad || ij_replace(temporary, path)) {
        const char *said = strerror(errno);
        remove(temporary);
        ij_die(1, "%s: %s", path, said);
    }
    fprintf(stderr, "%s\n", path);
}

/* ---- features and scores ---- */

static ij_model ij_trained(const ij_options *o)
{
    ij_error why;
    ij_config c;
    const char *encoder = o->encoder ? o->encoder : "target";
    const int context = !strcmp(encoder, "context");
    if (!context && strcmp(encoder, "target")) ij_die(2, "--encoder is %s, expected target or context", encoder);
    ij_file f = ij_open_model(o->model, &c);
    ij_model m = ij_model_for(&c, IJ_LOADED);
    ij_must(ij_load_encoder(&m, &f, context ? "encoder" : "target_encoder", &why), &why);
    ij_file_close(&f);
    for (size_t i = 0; i < m.encoder_params && o->int8 && !o->header; i++) {
        const ij_param *p = &m.param[i];
        const size_t out = p->shape.dim[0], in = ij_count(&p->shape) / out;
        if (p->shape.rank < 2) continue;
        int8_t *q = ij_alloc(ij_count(&p->shape));
        real *scale = ij_alloc(out * sizeof *scale), *w = m.target + p->offset;
        ij_quantise(q, scale, w, out, in);
        for (size_t k = 0; k < out * in; k++) w[k] = (real)q[k] * scale[k / in];
        free(q), free(scale);
    }
    return m;
}

/* A way of scoring. k 0: linear. plain: channels as they are, not standardised. blocks: of the last so many. Fewer labels: a
 * share of the training rows, or so many of each class, drawn by the permutations of seeds 0 to 4. */
typedef struct { const char *name; size_t k, blocks, each; int plain; double share; } ij_way;
static const ij_way ij_ways[] = {
    { "k-NN", 20, 1, 0, 0, 0 }, { "linear", 0, 1, 0, 0, 0 },                    /* these two are what `probe` shows */
    { "k-NN 10", 10, 1, 0, 0, 0 }, { "k-NN 100", 100, 1, 0, 0, 0 }, { "k-NN 200", 200, 1, 0, 0, 0 },
    { "k-NN, not standardised", 20, 1, 0, 1, 0 }, { "linear, not standardised", 0, 1, 0, 1, 0 },
    { "linear, last 4 blocks", 0, 4, 0, 0, 0 }, { "linear, last 4, not standardised", 0, 4, 0, 1, 0 },
    { "linear, 1 % of the labels", 0, 1, 0, 0, 0.01 }, { "linear, 10 % of the labels", 0, 1, 0, 0, 0.1 },
    { "linear, 10 per class", 0, 1, 10, 0, 0 } };
enum { IJ_WAYS = sizeof ij_ways / sizeof *ij_ways, IJ_SHORT_WAYS = 2, IJ_DRAWS = 5 };
typedef struct { double percent[IJ_WAYS][3][3], spread[IJ_WAYS][3][3]; } ij_table;     /* [way][features][task] */

/* Fewer rows than channels: takes as features the rows' coordinates in their own span, which leaves what ridge regression
 * predicts as it is. K = X X' = L L': training rows become those of L, a test row x the solution of L c = X x. */
static void ij_into_span(ij_scored *s, const ij_team *team)
{
    const size_t n = s->n, m = s->m, d = s->d;
    real *to = ij_alloc(ij_mul(ij_mul(n + m, n), sizeof *to));
    double *l = ij_alloc((n + 1) * n * sizeof *l), trace = 0;
    const ij_product tests = { m, n, d, s->test, d, 1, s->train, 1, d, to + n * n, n, NULL, 0 };
    ij_matmul(&tests, team);
    memset(to, 0, n * n * sizeof *to);
    for (size_t i = 0; i < n * d; i++) trace += (double)s->train[i] * (double)s->train[i];
    for (size_t i = 0; i < n + m; i++) {
        double *x = l + IJ_MIN(i, n) * n;               /* a row of L, or what becomes c */
        for (size_t j = 0; j <= IJ_MIN(i, n - 1); j++) {
            double sum = i == j ? 1e-9 * trace / (double)n : 0;         /* rows may be equal */
            if (i >= n) sum = (double)to[i * n + j];
            else for (size_t c = 0; c < d; c++) sum += (double)s->train[i * d + c] * (double)s->train[j * d + c];
            for (size_t c = 0; c < j; c++) sum -= x[c] * l[j * n + c];
            x[j] = i == j ? sqrt(IJ_MAX(sum, DBL_MIN)) : sum / l[j * n + j];
        }
        for (size_t j = 0; j <= IJ_MIN(i, n - 1); j++) to[i * n + j] = (real)x[j];
    }
    s->train = to, s->test = to + n * n, s->d = n;
    free(l);
}

/* With few labels: mean and standard deviation over draws of the training rows. */
static void ij_score_few(double *mean, double *spread, const ij_scored *s, size_t task, const ij_way *way, const ij_team *team)
{
    size_t *order = ij_alloc(s->n * sizeof *order), *seen = ij_alloc(s->classes[task] * sizeof *seen);
    int *label = ij_alloc(s->n * sizeof *label);
    const int *const train_label[1] = { label }, *const test_label[1] = { s->test_label[task] };
    double percent[IJ_DRAWS], square = 0;
    *mean = 0;
    for (size_t draw = 0; draw < IJ_DRAWS; draw++) {
        ij_scored few = { 0, s->m, s->d, ij_alloc(ij_mul(ij_mul(s->n, s->d), sizeof(real))), s->test, 1, train_label, test_label, &s->classes[task] };
        real *const rows = few.train;
        ij_rng rng;
        ij_rng_seed(&rng, draw);
        ij_rng_permutation(&rng, order, s->n);
        memset(seen, 0, s->classes[task] * sizeof *seen);
        for (size_t i = 0; i < s->n; i++) {
            const int c = s->train_label[task][order[i]];
            if (way->each ? seen[c]++ >= way->each : (double)i >= way->share * (double)s->n) continue;
            memcpy(rows + few.n * s->d, s->train + order[i] * s->d, s->d * sizeof *rows), label[few.n++] = c;
        }
        if (few.n < few.d) ij_into_span(&few, team);
        ij_score(&percent[draw], &few, way->k, team);
        *mean += percent[draw] / IJ_DRAWS;
        if (few.train != rows) free(few.train);
        free(rows);
    }
    for (size_t draw = 0; draw < IJ_DRAWS; draw++) square += (percent[draw] - *mean) * (percent[draw] - *mean);
    *spread = sqrt(square / (IJ_DRAWS - 1));
    free(order), free(label), free(seen);
}

/* All ways, or the first `ways`, for features i of a (training) and b (test), and of the last four blocks. */
static void ij_score_ways(ij_table *table, int i, size_t ways, const ij_features *a, const ij_features *b, const ij_team *team)
{
    const int *const train_label[3] = { a->label[0], a->label[1], a->label[2] };
    const int *const test_label[3] = { b->label[0], b->label[1], b->label[2] };
    const ij_scored s = { a->n, b->n, a->width[i], a->x[i], b->x[i], a->tasks, train_label, test_label, a->classes };
    for (int plain = 1; plain >= 0; plain--) {
        if (!plain) ij_standardise(s.train, s.n, s.test, s.m, s.d);
        for (size_t w = 0; w < ways; w++) {
            const ij_way *way = &ij_ways[w];
            if (way->plain != plain || way->blocks != a->blocks) continue;
            if (!way->each && way->share <= 0) ij_score(table->percent[w][i], &s, way->k, team);
            for (size_t t = 0; t < s.tasks; t++) {
                double *p = &table->percent[w][i][t], *spread = &table->spread[w][i][t];
                if (way->each || way->share > 0) ij_score_few(p, spread, &s, t, way, team);
                else *spread = 196 * sqrt(*p / 100 * (1 - *p / 100) / (double)s.m);     /* half the 95 % interval */
            }
        }
    }
}

static void ij_print_scores(FILE *f, const ij_features *a, const ij_table *table, size_t ways)
{
    fprintf(f, "{\"tasks\": {");
    for (size_t t = 0; t < a->tasks; t++) {
        fprintf(f, "%s\"%s\": {", t ? ", " : "", a->task[t]);
        for (int i = 0; i < 3; i++) {
            if (table->percent[0][i][t] < 0) continue;
            fprintf(f, "%s\"%s\": {\"knn\": %.2f, \"linear\": %.2f", i ? ", " : "", ij_scored_name[i], table->percent[0][i][t], table->percent[1][i][t]);
            for (size_t w = IJ_SHORT_WAYS; w < ways; w++)
                if (table->percent[w][i][t] >= 0)
                    fprintf(f, ", \"%s\": [%.2f, %.2f]", ij_ways[w].name, table->percent[w][i][t], table->spread[w][i][t]);
            fprintf(f, "}");
        }
        fprintf(f, "}");
    }
    fprintf(f, "}}\n");
}

/* Scores of --model, baselines 1: and of a random encoder, 2: and of pixels; --out as JSON; a: features and labels of the training part. */
static void ij_probe_table(ij_table *table, ij_features *a, const ij_options *o, size_t ways)
{
    const char *data = o->data ? o->data : "scenes", *test = o->test ? o->test : data;
    const ij_team team = ij_team_start(o->threads);
    const ij_model trained = ij_trained(o), random = ij_model_for(&trained.config, IJ_INFER);       /* drawn from the run's seed */
    const ij_model *const model[2] = { &trained, o->baselines ? &random : NULL };
    const size_t most = o->images ? o->images : 10000;
    for (size_t w = 0; w < IJ_WAYS; w++) for (int k = 0; k < 9; k++) table->percent[w][k / 3][k % 3] = -1;
    for (size_t blocks = o->full && trained.config.depth >= 4 ? 4 : 1; blocks; blocks /= 4) {
        *a = ij_features_of(data, IJ_TRAIN_PART, o->test != NULL, model, blocks == 1 && o->baselines > 1, most, 0, blocks, &team);
        const ij_features b = ij_features_of(test, IJ_TEST_PART, o->test != NULL, model, blocks == 1 && o->baselines > 1, most, 0, blocks, &team);
        if (!a->tasks || a->tasks != b.tasks)
            ij_die(1, "%s: no labels: a probe needs them (folders per class, or a labelled format)", data);
        for (size_t t = 0; t < a->tasks; t++) a->classes[t] = IJ_MAX(a->classes[t], b.classes[t]);
        if (blocks == 1) fprintf(stderr, "scoring: %lu training and %lu test images\n", (unsigned long)a->n, (unsigned long)b.n);
        for (int i = 0; i < 3; i++) if (a->x[i]) ij_score_ways(table, i, ways, a, &b, &team);
    }
    FILE *json = o->out ? ij_open_or_die(o->out, "w") : NULL;
    if (json) ij_print_scores(json, a, table, ways), ij_close_or_die(json, o->out);
}

static int ij_probe(ij_options *o)
{
    ij_table table;
    ij_features a;
    if (!o->model) ij_die(2, "probe needs --model FILE");
    const size_t ways = o->full ? IJ_WAYS : IJ_SHORT_WAYS;
    o->baselines = 2;
    ij_probe_table(&table, &a, o, ways);
    if (o->json) return ij_print_scores(stdout, &a, &table, ways), 0;
    for (size_t t = 0; t < a.tasks; t++) {
        printf("%s%-32s %11s %11s %11s %8s\n", t ? "\n" : "", a.task[t], "trained", "random", "pixels", "margin");
        for (size_t w = 0; w < ways; w++) {
            const double *x[3] = { table.percent[w][0], table.percent[w][1], table.percent[w][2] };
            if (x[0][t] < 0) continue;
            printf("%-32s", ij_ways[w].name);
            for (int i = 0; i < 3; i++)
                if (x[i][t] < 0) printf(" %11s", "");
                else printf(" %5.1f %s%4.1f", x[i][t], ij_ways[w].each || ij_ways[w].share > 0 ? "sd" : "+-", table.spread[w][i][t]);
            printf(" %+8.1f\n", x[0][t] - IJ_MAX(x[1][t], x[2][t]));                    /* over the better */
        }
    }
    return 0;
}

static int ij_features_command(ij_options *o)
{
    if (!o->model || !o->out) ij_die(2, "features needs --model FILE and --out FILE.npy");
    const ij_team team = ij_team_start(o->threads);
    ij_model m = ij_trained(o);
    const ij_config c = m.config;
    const size_t n = (c.crop_size[0] / c.patch_size) * (c.crop_size[1] / c.patch_size), d = c.embed_dim, layers = o->last4 ? 4 : 1;
    const size_t last = o->layer ? o->layer : c.depth, length = strlen(o->out);
    if (last > c.depth || last < layers || (o->last4 && o->tokens))
        ij_die(2, "--layer %lu%s: the encoder has %lu blocks%s", (unsigned long)last, o->last4 ? " --last4" : "", (unsigned long)c.depth,
               o->last4 ? ", and --last4 takes means, not --tokens" : "");
    m.target_encoder.depth = last;
    const ij_model *const model[2] = { &m, NULL };
    const ij_features f = ij_features_of(o->data ? o->data : "scenes", IJ_TRAIN_PART, 1, model, 0, o->images, o->tokens ? n : 0, layers, &team);
    const ij_item x = { o->out, sizeof(real) == 8 ? IJ_F64 : IJ_F32, o->tokens ? 3 : 2, { f.n, o->tokens ? n : layers * d, d }, f.x[0] };
    ij_write_npy(&x);
    fprintf(stderr, "%s: %lu images\n", o->out, (unsigned long)f.n);
    if (!f.tasks) return 0;
    char path[1100];
    int32_t *label = ij_alloc(f.n * f.tasks * sizeof *label);
    for (size_t i = 0; i < f.n * f.tasks; i++) label[i] = f.label[i % f.tasks][i / f.tasks];
    snprintf(path, sizeof path, "%.*s.labels.npy", (int)(length > 4 && !strcmp(o->out + length - 4, ".npy") ? length - 4 : length), o->out);
    const ij_item labels = { path, IJ_I32, f.tasks > 1 ? 2 : 1, { f.n, f.tasks }, label };
    ij_write_npy(&labels);
    fprintf(stderr, "%s: their labels\n", path);
    return 0;
}

static void ij_c_array(FILE *f, const char *name, const char *part, const real *x, const int8_t *q, size_t n)
{
    fprintf(f, "static const %s %s_%s[%lu] = {", q ? "int8_t" : "ij_real", name, part, (unsigned long)n);
    for (size_t i = 0; i < n; i++) {
        fprintf(f, i % (q ? 32 : 8) ? "," : i ? ",\n" : "\n");
        if (q) fprintf(f, "%d", q[i]);
        else fprintf(f, sizeof(real) == 8 ? "%.16e" : "%.8ef", (double)x[i]);
    }
    fprintf(f, "\n};\n");
}

/* A header under way: its file and name, and the table's sums. Below: a row of the table; the arrays of a matrix [out,in] that
 * n patches pass, or of a norm [out,1], n 0, with their row. */
typedef struct { FILE *f; const char *name; double madds, flash; } ij_c_file;
static void ij_c_row(ij_c_file *c, const char *what, const char *shape, double madds, double flash, size_t ram)
{
    printf("%-26s %-22s %14.0f %12.0f %10lu\n", what, shape, madds, flash, (unsigned long)ram);
    c->madds += madds, c->flash += flash;
}

static void ij_c_matrix(ij_c_file *c, const char *part, const ij_rom_matrix *m, size_t out, size_t in, size_t n, size_t ram)
{
    char name[200], shape[64];
    snprintf(name, sizeof name, "%.100s_%s", c->name, part);
    if (m->q) ij_c_array(c->f, name, "q", NULL, m->q, out * in), ij_c_array(c->f, name, "scale", m->scale, NULL, out);
    else ij_c_array(c->f, name, "w", m->w, NULL, out * in);
    ij_c_array(c->f, name, "b", m->b, NULL, out);
    snprintf(shape, sizeof shape, n ? "[%lu,%lu]" : "[%lu]", (unsigned long)out, (unsigned long)in);
    ij_c_row(c, part, shape, (double)n * (double)out * (double)in,
             (double)out * (m->q ? (double)in + 2 * sizeof(real) : (double)(in + 1) * sizeof(real)), ram * sizeof(real));
}

static void ij_c_uses(FILE *f, const char *name, const char *part, int block, int int8)
{
    char full[200];
    snprintf(full, sizeof full, block < 0 ? "%.100s_%s" : "%.100s_%s%d", name, part, block);
    if (int8) fprintf(f, " { 0, %s_q, %s_scale, %s_b },", full, full, full);
    else fprintf(f, " { %s_w, 0, 0, %s_b },", full, full);
}

/* The encoder as a C header, and what it takes, layer by layer. */
static void ij_c_header(FILE *f, const char *name, const char *model, const ij_rom *r)
{
    ij_c_file c = { f, name, 0, 0 };
    char part[64], shape[64];
    const size_t gh = r->height / r->patch, gw = r->width / r->patch, n = gh * gw, d = r->dim, dh = d / r->heads, h = r->hidden, R = IJ_ROM_ROWS;
    const size_t pixels = 3 * r->patch * r->patch, positions = r->whole_pos ? n * d : (gh + gw) * (d / 2), wide = r->int8 ? R : 0;
    const size_t heads = 2 * n * (d + dh) + R * (d + 2 + n + 2 * dh) + wide * d, mlp = n * d + R * (d + 2 + h) + wide * IJ_MAX(d, h);
    static const char *const matrix[4] = { "qkv", "proj", "fc1", "fc2" };
    fprintf(f, "/* The encoder of ");
    for (const char *t = model; *t; t++) fputc(*t == '*' ? '+' : *t, f);
    fprintf(f, ", %s, by ijepa export. RGB images of %lux%lu (width, height). To be included in one file. */\n#ifndef %s_ARENA\n#define %s_DIM %lu\n"
               "#define %s_ARENA IJ_ROM_ARENA(%lu, %s_DIM, %lu, %lu, %lu, %d)\n#include \"ijepa.h\"\n#if%sdef IJEPA_DOUBLE\n#error \"these numbers are of the other precision\"\n#endif\n\n",
            r->int8 ? "int8" : "as it is", (unsigned long)r->width, (unsigned long)r->height, name, name, (unsigned long)d, name, (unsigned long)n, name,
            (unsigned long)r->heads, (unsigned long)h, (unsigned long)pixels, r->int8, sizeof(real) == 8 ? "n" : "");
    printf("%-26s %-22s %14s %12s %10s\n", "layer", "shape", "multiply-adds", "flash bytes", "RAM bytes");
    ij_c_array(f, name, "pos", r->pos, NULL, positions);
    ij_c_matrix(&c, "patch_embed", &r->patch_embed, d, pixels, n, n * d + (R + wide) * pixels);
    snprintf(shape, sizeof shape, r->whole_pos ? "[%lu,%lu]" : "[%lu,%lu/2]", (unsigned long)(r->whole_pos ? n : gh + gw), (unsigned long)d);
    ij_c_row(&c, "pos", shape, 0, (double)(positions * sizeof(real)), n * d * sizeof(real));
    for (size_t i = 0; i < r->depth; i++) {
        const ij_rom_block *b = &r->block[i];
        const ij_rom_matrix *const m[4] = { &b->qkv, &b->proj, &b->fc1, &b->fc2 };
        const ij_rom_matrix norm[2] = { { b->norm1_w, NULL, NULL, b->norm1_b }, { b->norm2_w, NULL, NULL, b->norm2_b } };
        const size_t size[4][2] = { { 3 * d, d }, { d, d }, { h, d }, { d, h } };
        for (int k = 0; k < 4; k++) {
            snprintf(part, sizeof part, "norm%d_%lu", k / 2 + 1, (unsigned long)i);
            if (k % 2 == 0) ij_c_matrix(&c, part, &norm[k / 2], d, 1, 0, 0);
            snprintf(part, sizeof part, "%s%lu", matrix[k], (unsigned long)i);
            ij_c_matrix(&c, part, m[k], size[k][0], size[k][1], n, k < 2 ? heads : mlp);
            snprintf(part, sizeof part, "attention%lu", (unsigned long)i), snprintf(shape, sizeof shape, "%lu x [%lu,%lu]", (unsigned long)r->heads, (unsigned long)n, (unsigned long)n);
            if (!k) ij_c_row(&c, part, shape, 2 * (double)n * (double)n * (double)d, 0, heads * sizeof(real));
        }
    }
    const ij_rom_matrix norm = { r->norm_w, NULL, NULL, r->norm_b };
    ij_c_matrix(&c, "norm", &norm, d, 1, 0, 0);
    printf("%-26s %-22s %14.0f %12.0f %10lu\n", "in all", "", c.madds, c.flash, (unsigned long)ij_rom_arena(r));
    fprintf(f, "static const ij_rom_block %s_block[%lu] = {\n", name, (unsigned long)r->depth);
    for (int i = 0; i < (int)r->depth; i++) {
        fprintf(f, "    { %s_norm1_%d_w, %s_norm1_%d_b, %s_norm2_%d_w, %s_norm2_%d_b,", name, i, name, i, name, i, name, i);
        for (int k = 0; k < 4; k++) ij_c_uses(f, name, matrix[k], i, r->int8);
        fprintf(f, " },\n");
    }
    fprintf(f, "};\nstatic const ij_rom %s = { %lu, %lu, %lu, %lu, %lu, %lu, %lu, %d, %d,\n    {", name, (unsigned long)r->height, (unsigned long)r->width,
            (unsigned long)r->patch, (unsigned long)d, (unsigned long)r->depth, (unsigned long)r->heads, (unsigned long)h, r->int8, r->whole_pos);
    for (int k = 0; k < 6; k++) fprintf(f, sizeof(real) == 8 ? "%s %.16e" : "%s %.8ef", k == 3 ? " }, {" : k ? "," : "", (double)(k < 3 ? r->scale[k] : r->shift[k - 3]));
    fprintf(f, " }, %s_pos,", name);
    ij_c_uses(f, name, "patch_embed", -1, r->int8);
    fprintf(f, " %s_block, %s_norm_w, %s_norm_b };\n#endif\n", name, name, name);
}

static int ij_export_c(const ij_options *o, const ij_model *m)
{
    ij_error why;
    size_t size = 0, work_size;
    ij_rom r;
    char temporary[1110], name[80];
    const char *base = strrchr(o->header, '/') ? strrchr(o->header, '/') + 1 : o->header;
    const size_t length = strlen(base), d = m->config.embed_dim;
    int word = length > 2 && length < sizeof name && !strcmp(base + length - 2, ".h");
    for (size_t i = 0; word && i + 2 < length; i++) word = base[i] == '_' || ((base[i] | 32) >= 'a' && (base[i] | 32) <= 'z') || (i && base[i] >= '0' && base[i] <= '9');
    char spaced[84] = "";
    if (word) snprintf(spaced, sizeof spaced, " %.*s ", (int)(length - 2), base);
    word &= (base[0] | 32) != 'i' || (base[1] | 32) != 'j';
    if (!word || strstr(" auto break case char const continue default do double else enum extern float for goto if inline int long register restrict return short "
                        "signed sizeof static struct switch typedef union unsigned void volatile while ", spaced) || strlen(o->header) > 1000)
        ij_die(2, "--c %s: expected NAME.h, NAME a word of C that does not begin with ij", o->header);
    snprintf(name, sizeof name, "%.*s", (int)(length - 2), base);
    ij_must(ij_rom_size(&size, m, o->int8, &why), &why);
    ij_must(ij_rom_init(&r, ij_alloc(size), size, m, o->int8, &why), &why);
    ij_images s = ij_images_open(o->data ? o->data : "scenes", IJ_TEST_PART, 0, &m->config, 1, NULL);
    const ij_pictures in = { s.images, 1, r.height, r.width };
    ij_must(ij_encode_size(&work_size, &m->target_encoder, &in, &why), &why);
    const ij_memory work = { ij_alloc(work_size), work_size };
    void *arena = ij_alloc(ij_rom_arena(&r));
    real *feature = ij_alloc(2 * d * sizeof *feature);
    const size_t images = IJ_MIN(o->images ? o->images : 100, s.count);
    double sum = 0, least = 1;
    for (size_t i = 0; i < images && !ij_interrupted; i++) {
        ij_images_read(&s, 0, (size_t)((double)i * (double)s.count / (double)images));
        ij_centre_task(&s, 0);
        ij_must(ij_encode(NULL, feature, &m->target_encoder, &in, work, NULL, &why), &why);
        ij_must(ij_rom_encode(feature + d, &r, s.slot->small, arena, ij_rom_arena(&r), &why), &why);
        const double cosine = ij_alike(feature, feature + d, d);
        sum += cosine, least = IJ_MIN(least, cosine);
    }
    if (ij_interrupted) return 130;
    if (!(fabs(sum) <= (double)images * 1.01)) ij_die(1, "%s: its features are not finite", o->model);
    snprintf(temporary, sizeof temporary, "%s.tmp", o->header);
    FILE *f = ij_open_or_die(temporary, "w");
    ij_c_header(f, name, o->model, &r);
    printf("cosine to the features of the model as it is, %lu images of %s: mean %.6f, least %.6f\n", (unsigned long)images, o->data ? o->data : "scenes", sum / (double)images, least);
    ij_finish(f, o->header);
    return 0;
}

static int ij_export_command(ij_options *o)
{
    ij_error why;
    if (!o->model || (!o->hf && !o->header)) ij_die(2, "export needs --model FILE, and --hf DIR or --c NAME.h");
    const ij_model m = ij_trained(o);
    if (o->hf) {
        ij_must(ij_make_folder(o->hf, &why), &why);
        ij_must(ij_export(&m, o->hf, ij_alloc(ij_export_size(&m)), ij_export_size(&m), &why), &why);
        fprintf(stderr, "%s: model.safetensors, config.json, preprocessor_config.json\n", o->hf);
    }
    return o->header ? ij_export_c(o, &m) : 0;
}

/* ---- pictures ----
 * Images down, panels across. A panel is a function of one point of one image, in pixels of the training size. */

typedef struct {
    const ij_model *m;          /* NULL: only what needs no model */
    ij_model model;
    ij_config c;
    size_t columns, column[64], which[64];      /* the panels: of ij_panels, and of several of one function */
    size_t images, gw, n, patch;        /* patches in a row, in all; the chosen one */
    uint8_t *rgb;               /* [images,h,w,3] */
    real *tokens, *attention;   /* [images,N,D] [images,heads,N] */
    uint8_t *pca;               /* [images,N,3] */
    char *predicted;            /* [images,N] is this patch predicted? */
    uint8_t *made[4];           /* [images,h,w,3] see ij_show_predicted */
    ij_lists context, target;
    double *seen;               /* [2,N] share of 200 draws in which a patch is context, or a target */
} ij_show;
typedef struct { size_t image, patch, y, x, which; } ij_point;         /* which of several panels of one function */
typedef void ij_panel(uint8_t rgb[3], const ij_show *s, const ij_point *at);    /* rgb: the image's there */
static const uint8_t ij_target_colour[4][3] = { { 230, 80, 60 }, { 60, 140, 230 }, { 60, 180, 90 }, { 220, 170, 40 } };

/* Black, violet, red, orange, pale yellow for 0..1. */
static void ij_heat(uint8_t rgb[3], double x)
{
    static const double stop[5][3] = { { 0, 0, 4 }, { 87, 16, 110 }, { 188, 55, 84 }, { 249, 142, 9 }, { 252, 255, 164 } };
    const double at = IJ_MAX(0, IJ_MIN(x, 1)) * 4;
    const int i = IJ_MIN((int)at, 3);
    for (int c = 0; c < 3; c++) rgb[c] = (uint8_t)(stop[i][c] + (stop[i + 1][c] - stop[i][c]) * (at - i) + 0.5);
}

static int ij_listed(const ij_lists *l, size_t list, size_t patch)
{
    for (size_t j = 0; j < l->length[list]; j++) if (l->index[list * l->stride + j] == patch) return 1;
    return 0;
}

static void ij_panel_image(uint8_t rgb[3], const ij_show *s, const ij_point *at) { (void)rgb, (void)s, (void)at; }

static void ij_panel_context(uint8_t rgb[3], const ij_show *s, const ij_point *at)
{
    if (!ij_listed(&s->context, at->image, at->patch)) rgb[0] = rgb[1] = rgb[2] = 128;
}

static void ij_panel_targets(uint8_t rgb[3], const ij_show *s, const ij_point *at)
{
    int hit = 0;
    for (size_t t = 0; t < s->target.lists / s->images; t++)
        if (ij_listed(&s->target, t * s->images + at->image, at->patch)) {
            for (int c = 0; c < 3; c++) rgb[c] = (uint8_t)((rgb[c] + ij_target_colour[t % 4][c]) / 2);
            hit = 1;
        }
    for (int c = 0; c < 3 && !hit; c++) rgb[c] = (uint8_t)(96 + rgb[c] / 8);
}

static void ij_panel_coverage(uint8_t rgb[3], const ij_show *s, const ij_point *at)
{
    ij_heat(rgb, s->seen ? s->seen[at->which * s->n + at->patch] : ij_listed(at->which ? &s->target : &s->context, at->image, at->patch));
}

static void ij_panel_pca(uint8_t rgb[3], const ij_show *s, const ij_point *at) { memcpy(rgb, s->pca + (at->image * s->n + at->patch) * 3, 3); }

static void ij_panel_similarity(uint8_t rgb[3], const ij_show *s, const ij_point *at)
{
    const size_t d = s->c.embed_dim;
    const real *image = s->tokens + at->image * s->n * d;
    ij_heat(rgb, (ij_alike(image + s->patch * d, image + at->patch * d, d) + 1) / 2);
    if (at->patch == s->patch) rgb[0] = rgb[1] = rgb[2] = 255;
}

static void ij_panel_attention(uint8_t rgb[3], const ij_show *s, const ij_point *at)
{
    const real *p = s->attention + (at->image * s->c.num_heads + at->which) * s->n;
    real most = 0;
    for (size_t j = 0; j < s->n; j++) most = IJ_MAX(most, p[j]);
    ij_heat(rgb, (double)(p[at->patch] / most));
}

static void ij_panel_made(uint8_t rgb[3], const ij_show *s, const ij_point *at)
{
    const size_t h = s->c.crop_size[0], w = s->c.crop_size[1];
    if (s->predicted[at->image * s->n + at->patch]) memcpy(rgb, s->made[at->which] + ((at->image * h + at->y) * w + at->x) * 3, 3);
}

/* needs: 1 masks, 2 a model, 3 both, and its predictor. `attention` is a panel for each head, `coverage` one for context and one for targets. */
static const struct { const char *name; ij_panel *panel; int needs; size_t which; } ij_panels[] = {
    { "image", ij_panel_image, 0, 0 }, { "context", ij_panel_context, 1, 0 }, { "targets", ij_panel_targets, 1, 0 }, { "coverage", ij_panel_coverage, 1, 0 },
    { "pca", ij_panel_pca, 2, 0 }, { "similarity", ij_panel_similarity, 2, 0 }, { "attention", ij_panel_attention, 2, 0 },
    { "montage", ij_panel_made, 3, 0 }, { "nearest", ij_panel_made, 3, 1 }, { "sketch", ij_panel_made, 3, 2 }, { "traced", ij_panel_made, 3, 3 } };
enum { IJ_PANELS = sizeof ij_panels / sizeof *ij_panels, IJ_COLUMNS = 64, IJ_GAP = 4, IJ_FIT = 2000, IJ_TERMINAL = 200 };

/* Tokens, their first three principal components over all images shown, and the last block's attention, mean over what asks. */
static void ij_show_model(ij_show *s, const real *images, const ij_team *team)
{
    ij_error why;
    const ij_config *c = &s->c;
    const size_t n = s->n, d = c->embed_dim, h = c->crop_size[0], w = c->crop_size[1], heads = c->num_heads;
    size_t size;
    ij_pictures in = { images, 1, h, w };
    const ij_encoder *e = &s->m->target_encoder;
    ij_must(ij_encode_size(&size, e, &in, &why), &why);
    const ij_memory work = { ij_alloc(size), size };
    s->tokens = ij_alloc(s->images * n * d * sizeof(real)), s->pca = ij_alloc(s->images * n * 3);
    s->attention = ij_alloc(s->images * heads * n * sizeof(real));
    for (size_t b = 0; b < s->images; b++) {
        ij_encoder_pass pass;
        ij_tensor pos;
        ij_arena a = { work.base, size, 0 };
        in.x = images + b * 3 * h * w;
        ij_must(ij_encode(s->tokens + b * n * d, NULL, e, &in, work, team, &why), &why);
        ij_encode_place(&pass, &pos, &a, e, &in);       /* what is left in the blocks' one place: the last's */
        for (size_t k = 0; k < heads * n; k++) {
            real sum = 0;
            for (size_t i = 0; i < n; i++) sum += pass.stack.block[0].prob[(k / n * n + i) * n + k % n];
            s->attention[b * heads * n + k] = sum / (real)n;
        }
    }
    free(work.base);
    ij_pca_colours(s->pca, s->tokens, s->images * n, d);
}

static void ij_show_masks(ij_show *s)
{
    ij_error why;
    ij_config c = s->c;
    ij_masks masks;
    ij_rng rng;
    ij_arena a = { NULL, 0, 0 };
    c.batch_size = s->images;
    ij_masks_place(&masks, &a, &c);
    a = (ij_arena){ ij_alloc(a.used), a.used, 0 };
    ij_masks_place(&masks, &a, &c);
    ij_must(ij_masks_check(&masks, &c, &why), &why);
    ij_rng_seed(&rng, c.seed);
    s->seen = ij_zeros(2 * s->n * sizeof *s->seen);
    for (uint64_t draw = 0; draw < 200; draw++) {       /* the last one is shown */
        ij_must(ij_masks_draw(&masks, &c, &rng, draw, s->images, &why), &why);
        for (size_t i = 0; i < 2 * s->n * s->images; i++) {
            const size_t image = i / (2 * s->n), k = i / s->n % 2;
            int hit = 0;
            for (size_t t = 0; t < (k ? c.num_pred_masks : c.num_enc_masks); t++) hit |= ij_listed(k ? &masks.target : &masks.context, t * s->images + image, i % s->n);
            s->seen[i % (2 * s->n)] += hit / (200.0 * (double)s->images);
        }
    }
    s->context = masks.context, s->target = masks.target;
}

/* The patches that a hole x,y,w,h (in pixels) touches are one target, the others the context. */
static void ij_show_hole(ij_show *s, const char *text)
{
    unsigned long x, y, w, h;
    char rest;
    const size_t p = s->c.patch_size;
    if (sscanf(text, "%lu,%lu,%lu,%lu%c", &x, &y, &w, &h, &rest) != 4 || !w || !h || w > s->c.crop_size[1] || h > s->c.crop_size[0])
        ij_die(2, "--hole is %s, expected x,y,width,height in pixels of the %lux%lu image", text, (unsigned long)s->c.crop_size[1],
               (unsigned long)s->c.crop_size[0]);
    ij_lists *l[2] = { &s->context, &s->target };
    for (int k = 0; k < 2; k++) {
        *l[k] = (ij_lists){ s->images, s->n, ij_alloc(s->images * sizeof(size_t)), ij_alloc(s->images * s->n * sizeof(size_t)) };
        for (size_t b = 0; b < s->images; b++) {
            l[k]->length[b] = 0;
            for (size_t i = 0; i < s->n; i++) {
                const size_t py = i / s->gw * p, px = i % s->gw * p;
                const int inside = py + p > y && py < y + h && px + p > x && px < x + w;
                if (inside == k) l[k]->index[b * s->n + l[k]->length[b]++] = i;
            }
        }
        if (!l[k]->length[0]) ij_die(2, "--hole %s leaves no %s", text, k ? "patch inside" : "context");
    }
}

enum { IJ_REFERENCE = 1000 };
typedef struct {                /* patches of training images: what a patch's target looks like in pixels */
    ij_model m;                 /* with its predictor, one image at a time */
    ij_step step;
    size_t images, patches, gw, p, h, w;
    uint8_t *rgb;               /* [images,h,w,3] */
    real *z, *near;             /* [patches,D] targets as the loss sees them; [patches] */
    double *square;             /* [patches] their squared lengths */
    ij_probe_work fit;          /* ridge regression from a target to the 3pp pixels of its patch */
} ij_reference;

/* Byte j of a patch (row, column, channel), from the image's first. */
static size_t ij_patch_byte(const ij_reference *r, size_t patch, size_t j)
{
    return ((patch / r->gw * r->p + j / 3 / r->p) * r->w + patch % r->gw * r->p + j / 3 % r->p) * 3 + j % 3;
}

/* The targets of all patches of an image [3,h,w], through a step laid out for these masks. */
static void ij_reference_targets(real *z, ij_reference *r, const real *image, const ij_masks *masks)
{
    if (ij_step_begin(&r->step, &r->m, image, masks, 0, NULL)) ij_die(1, "the hole is larger than the model's memory");
    ij_encode_targets(&r->step, &r->m.team);
    const ij_tensor *t = r->step.loss.target;
    ij_normalise_rows(z, t->x, ij_rows(t), ij_cols(t), 0);
}

static void ij_reference_read(ij_reference *r, const ij_options *o, size_t targets, const ij_team *team)
{
    ij_error why;
    ij_config c;
    size_t one = 1, first[1] = { 0 };
    const ij_masks any = { { 1, 1, &one, first }, { 1, 1, &one, first } };
    ij_file f = ij_open_model(o->model, &c);
    c.batch_size = c.num_enc_masks = c.num_pred_masks = 1, c.vicreg = 0, c.min_keep = 0, c.mask_mode = IJ_MASK_PAPER;
    if (c.objective == IJ_JOINT || *ij_file_kind(&f) == 'H') ij_die(1, "%s: no predictor of patches: no montage, no sketch", o->model);
    r->m = ij_model_for(&c, IJ_TRAIN);
    ij_must(ij_load(&r->m, &f, &why), &why);
    ij_file_close(&f);
    const size_t all = ij_rows(&r->m.encoder_pos), pair = ij_mul(targets, 2 * all);
    const ij_counts most = { .batch = 1, .images = 1, .contexts = 1, .context_tokens = all,
                             .context_squares = ij_mul(all, all), .seqs = targets, .tokens = pair,
                             .squares = ij_mul(pair, 2 * all), .queries = targets * all };
    ij_arena room = { NULL, 0, 0 };
    ij_step_place(&r->step, &room, &c, &most);
    r->m.work = ij_alloc(room.used), r->m.work_size = room.used;
    ij_images data = ij_images_open(o->reference ? o->reference : "scenes:1000", IJ_TRAIN_PART, 0, &c, 1, team);
    const size_t d = ij_target_dim(&c), n = ij_rows(&r->m.encoder_pos);
    r->m.team = *team, r->h = c.crop_size[0], r->w = c.crop_size[1], r->p = c.patch_size, r->gw = r->w / r->p;
    r->images = IJ_MIN(data.count, IJ_REFERENCE), r->patches = r->images * n;
    r->rgb = ij_alloc(r->images * r->h * r->w * 3), r->z = ij_alloc(r->patches * d * sizeof(real));
    r->near = ij_alloc(r->patches * sizeof(real)), r->square = ij_alloc(r->patches * sizeof(double));
    for (size_t i = 0; i < r->images; i++) {
        ij_images_read(&data, 0, i * data.count / r->images);
        ij_centre_task(&data, 0);
        memcpy(r->rgb + i * r->h * r->w * 3, data.slot->small, r->h * r->w * 3);
        ij_reference_targets(r->z + i * n * d, r, data.images, &any);
        if (ij_interrupted) exit(130);
        if (ij_terminal() && (i % 20 == 0 || i + 1 == r->images))
            fprintf(stderr, "\rreference: %lu of %lu images%s", (unsigned long)i + 1, (unsigned long)r->images, i + 1 == r->images ? "\n" : "");
    }
    r->m.config.num_pred_masks = targets;
    for (size_t i = 0; i < r->patches; i++) {
        r->square[i] = 0;
        for (size_t k = 0; k < d; k++) r->square[i] += (double)r->z[i * d + k] * (double)r->z[i * d + k];
    }
}

/* Ridge regression, rows [1 | target | pixels]: see ij_ridge. */
static void ij_reference_fit(ij_reference *r, const ij_team *team)
{
    const size_t d = ij_target_dim(&r->m.config), pixels = 3 * r->p * r->p, n = r->patches / r->images;
    ij_probe_work *w = &r->fit;
    memset(w, 0, sizeof *w);
    w->terms = (d / IJ_WIDE + 1) * IJ_WIDE, w->width = ((w->terms + pixels + IJ_WIDE - 1) / IJ_WIDE | 1) * IJ_WIDE, w->n = (double)r->patches;
    w->z = ij_alloc(IJ_BLOCK * w->width * sizeof(double));
    w->gram = ij_zeros(2 * w->terms * w->width * sizeof(double)), w->factor = w->gram + w->terms * w->width;
    for (size_t i = 0; i < r->patches; i += IJ_BLOCK) {
        ij_gram_work g = { w->gram, 1, w->z, IJ_MIN(IJ_BLOCK, r->patches - i), 0, w->terms, w->width };
        memset(w->z, 0, IJ_BLOCK * w->width * sizeof(double));
        for (size_t k = i; k < i + g.depth; k++) {
            double *row = w->z + (k - i) * w->width;
            row[0] = 1;
            for (size_t j = 0; j < d; j++) row[1 + j] = (double)r->z[k * d + j];
            for (size_t j = 0; j < pixels; j++) row[w->terms + j] = r->rgb[k / n * r->h * r->w * 3 + ij_patch_byte(r, k % n, j)];
        }
        ij_each(team, (w->terms + IJ_BLOCK - 1) / IJ_BLOCK, ij_gram_task, &g);
    }
    if (!ij_ridge_solve(w, 1e-3, team)) ij_die(1, "the sketch has no solution");
}

/* Patch i of an image, from a target v [D]: the nearest patch of the reference, and the sketch. */
static void ij_reference_draw(uint8_t *nearest, uint8_t *sketch, ij_reference *r, const real *v, size_t i)
{
    const size_t d = ij_target_dim(&r->m.config), n = r->patches / r->images;
    const ij_product dot = { 1, r->patches, d, v, d, 1, r->z, 1, d, r->near, r->patches, NULL, 0 };
    size_t best = 0;
    ij_matmul(&dot, NULL);
    for (size_t k = 1; k < r->patches; k++)
        if (r->square[k] - 2 * (double)r->near[k] < r->square[best] - 2 * (double)r->near[best]) best = k;
    for (size_t j = 0; j < 3 * r->p * r->p; j++) {
        const double *w = r->fit.factor + r->fit.terms + j;
        double sum = w[0];
        for (size_t k = 0; k < d; k++) sum += (double)v[k] * w[(k + 1) * r->fit.width];
        nearest[ij_patch_byte(r, i, j)] = r->rgb[best / n * r->h * r->w * 3 + ij_patch_byte(r, best % n, j)];
        sketch[ij_patch_byte(r, i, j)] = (uint8_t)IJ_MAX(0, IJ_MIN(sum + 0.5, 255));
    }
}

/* What does it predict? Two honest answers, without a second network: each predicted patch is filled with the patch of the
 * reference whose target is nearest to the prediction (made[0]), beside the nearest to the true target (1: as good as it
 * gets); and with ridge regression's pixels for the prediction (2) and for the true target (3). */
static void ij_show_predicted(ij_show *s, const ij_options *o, const real *images, const ij_team *team)
{
    const size_t blocks = s->target.lists / s->images, n = s->n, d = ij_target_dim(&s->c), bytes = 3 * s->c.crop_size[0] * s->c.crop_size[1];
    ij_reference r;
    real *predicted = ij_alloc(2 * n * d * sizeof *predicted), *want = predicted + n * d;
    size_t *count = ij_alloc(n * sizeof *count), *length = ij_alloc(blocks * sizeof *length), *index = ij_alloc(blocks * s->target.stride * sizeof *index);
    ij_reference_read(&r, o, blocks, team);
    ij_reference_fit(&r, team);
    s->predicted = ij_alloc(s->images * n);
    for (int k = 0; k < 4; k++) s->made[k] = ij_alloc(s->images * bytes);
    for (size_t b = 0; b < s->images; b++) {
        const ij_masks masks = { { 1, s->context.stride, s->context.length + b, s->context.index + b * s->context.stride },
                                 { blocks, s->target.stride, length, index } };
        for (size_t t = 0; t < blocks; t++) {
            length[t] = s->target.length[t * s->images + b];
            memcpy(index + t * s->target.stride, s->target.index + (t * s->images + b) * s->target.stride, s->target.stride * sizeof *index);
        }
        ij_reference_targets(want, &r, images + b * bytes, &masks);
        ij_encode_context(&r.step, team), ij_predict(&r.step, team);
        memset(predicted, 0, n * d * sizeof *predicted), memset(count, 0, n * sizeof *count);
        for (size_t t = 0, row = 0; t < blocks; t++)
            for (size_t j = 0; j < length[t]; j++, row++) {
                const size_t i = index[t * s->target.stride + j];
                for (size_t k = 0; k < d; k++) predicted[i * d + k] += r.step.predictor.out.x[row * d + k];
                count[i]++;
            }
        for (size_t i = 0; i < n; i++) {
            s->predicted[b * n + i] = count[i] > 0;
            for (size_t k = 0; k < d && count[i]; k++) predicted[i * d + k] /= (real)count[i];          /* of several blocks: their mean */
            for (int true_one = 0; true_one < 2 && count[i]; true_one++)
                ij_reference_draw(s->made[true_one] + b * bytes, s->made[2 + true_one] + b * bytes, &r, (true_one ? want : predicted) + i * d, i);
        }
    }
}

/* To a file by its name's end, or with half blocks to a terminal of 24-bit colour, every so many pixels if it is too wide. */
static void ij_show_write(const char *path, const uint8_t *rgb, size_t h, size_t w)
{
    const size_t each = (w + IJ_TERMINAL - 1) / IJ_TERMINAL;
    if (path && !strcmp(path + strlen(path) - 4, ".ppm")) {
        FILE *f = ij_open_or_die(path, "wb");
        fprintf(f, "P6\n%lu %lu\n255\n", (unsigned long)w, (unsigned long)h), fwrite(rgb, 1, h * w * 3, f);
        ij_close_or_die(f, path);
    } else if (path) {
        if (!ij_write_png(path, rgb, h, w)) ij_die(1, "%s: %s", path, strerror(errno));
    } else
        for (size_t y = 0; y < h; y += 2 * each, printf("\033[0m\n"))
            for (size_t x = 0; x < w; x += each) {
                const uint8_t *a = rgb + (y * w + x) * 3, *b = y + each < h ? a + each * w * 3 : a;
                printf("\033[38;2;%d;%d;%dm\033[48;2;%d;%d;%dm\xe2\x96\x80", a[0], a[1], a[2], b[0], b[1], b[2]);
            }
}

/* Takes the panels apart, reads the images, and computes what the panels need. */
static void ij_show_open(ij_show *s, const ij_options *o, const char *names, size_t images, int whole, const ij_team *team)
{
    int predicts = 0, masked = 0;
    *s = (ij_show){ .c = o->c };
    if (o->model) s->model = ij_trained(o), s->m = &s->model, s->c = s->model.config;
    const size_t h = s->c.crop_size[0], w = s->c.crop_size[1], p = s->c.patch_size;
    s->gw = w / p, s->n = h / p * s->gw, s->patch = o->patch ? o->patch - 1 : s->n / 2 + s->gw / 2;
    if (s->patch >= s->n) ij_die(2, "--patch %lu: there are %lu", (unsigned long)o->patch, (unsigned long)s->n);
    for (const char *at = names; *at; at += strcspn(at, ","), at += *at == ',') {
        const size_t length = strcspn(at, ",");
        size_t k = 0;
        while (k < IJ_PANELS && (strlen(ij_panels[k].name) != length || strncmp(at, ij_panels[k].name, length))) k++;
        if (k == IJ_PANELS) ij_die(2, "no panel is called %.*s; see ijepa show --help", (int)length, at);
        predicts |= ij_panels[k].needs == 3, masked |= ij_panels[k].needs % 2;
        if (ij_panels[k].needs > 1 && !o->model) ij_die(2, "panel %s needs --model", ij_panels[k].name);
        const size_t many = !strcmp(ij_panels[k].name, "attention") ? s->c.num_heads : !strcmp(ij_panels[k].name, "coverage") ? 2 : 1;
        if (many > IJ_COLUMNS - s->columns) ij_die(2, "--panels: more than %d panels", (int)IJ_COLUMNS);
        for (size_t i = 0; i < many; i++) s->column[s->columns] = k, s->which[s->columns++] = ij_panels[k].which + i;
    }
    if (!s->columns) ij_die(2, "--panels names no panel");
    ij_images data = ij_images_open(o->data ? o->data : "scenes:100", IJ_TEST_PART, whole, &s->c, 1, team);
    s->images = IJ_MIN(images, data.count);
    s->rgb = ij_alloc(ij_mul(s->images, h * w * 3));
    real *pixels = ij_alloc(ij_mul(s->images, 3 * h * w * sizeof *pixels));
    for (size_t i = 0; i < s->images; i++) {
        ij_images_read(&data, 0, (size_t)((double)i * (double)data.count / (double)s->images));
        ij_centre_task(&data, 0);
        memcpy(s->rgb + i * h * w * 3, data.slot->small, h * w * 3), memcpy(pixels + i * 3 * h * w, data.images, 3 * h * w * sizeof *pixels);
    }
    if (o->hole) ij_show_hole(s, o->hole);
    else if (masked) ij_show_masks(s);
    if (s->m) ij_show_model(s, pixels, team);
    if (predicts) ij_show_predicted(s, o, pixels, team);
    if (ij_interrupted) exit(130);
    free(pixels);
    ij_data_close(data.d);
}

/* Paints a panel of an image at rgb, whose rows are `row` bytes apart. */
static void ij_show_paint(uint8_t *rgb, size_t row, const ij_show *s, size_t image, size_t column, size_t zoom)
{
    const size_t h = s->c.crop_size[0], w = s->c.crop_size[1], p = s->c.patch_size;
    for (size_t y = 0; y < h * zoom; y++)
        for (size_t x = 0; x < w * zoom; x++) {
            const ij_point at = { image, y / zoom / p * s->gw + x / zoom / p, y / zoom, x / zoom, s->which[column] };
            memcpy(rgb + y * row + 3 * x, s->rgb + ((image * h + at.y) * w + at.x) * 3, 3);
            if (at.x / p < s->gw && at.y / p < s->n / s->gw) ij_panels[s->column[column]].panel(rgb + y * row + 3 * x, s, &at);
        }
}

static int ij_show_command(ij_options *o)
{
    const int predict = o->bit == IJ_PREDICTS;
    const char *names = predict ? "image,context,montage,nearest,sketch,traced" : o->panels ? o->panels
                        : o->model ? "image,context,targets,pca,similarity" : "image,context,targets";
    const ij_team team = ij_team_start(o->threads);
    ij_show s;
    if (predict && (!o->what || !o->model)) ij_die(2, "predict needs an image and --model FILE");
    o->data = o->what;
    const size_t length = o->out ? strlen(o->out) : 4;
    if (o->out && (length < 5 || (strcmp(o->out + length - 4, ".png") && strcmp(o->out + length - 4, ".ppm"))))
        ij_die(2, "--out %s: expected a name that ends in .png or .ppm", o->out);
    if (o->model && (o->configured || o->preset || o->config)) ij_die(2, "the model has its settings: give --model or settings");
    if (!o->out && !ij_colours()) ij_die(2, "--out FILE.png (or .ppm) is needed: standard output is no terminal");
    ij_show_open(&s, o, names, o->images ? o->images : 4, 1, &team);
    const size_t h = s.c.crop_size[0], w = s.c.crop_size[1];
    size_t zoom = 1;
    while (o->out && (zoom + 1) * IJ_MAX(h, w) <= 160 && s.columns * (zoom + 1) * w < IJ_FIT) zoom++;
    const size_t cell_h = h * zoom + IJ_GAP, cell_w = w * zoom + IJ_GAP, height = s.images * cell_h - IJ_GAP, width = s.columns * cell_w - IJ_GAP;
    uint8_t *rgb = ij_alloc(ij_mul(height, 3 * width));
    memset(rgb, 255, height * width * 3);
    for (size_t b = 0; b < s.images; b++)
        for (size_t k = 0; k < s.columns; k++) ij_show_paint(rgb + (b * cell_h * width + k * cell_w) * 3, 3 * width, &s, b, k, zoom);
    ij_show_write(o->out, rgb, height, width);
    for (size_t k = 0; k < s.columns; k++) fprintf(stderr, "%s%s", k ? " | " : "", ij_panels[s.column[k]].name);
    fprintf(stderr, "\n");
    return 0;
}

/* ---- report ----
 * One HTML file with everything inline: no script, nothing fetched, light or dark, narrow or printed. Pictures are as small as
 * the images and enlarged by the browser. */

static void ij_html_text(FILE *f, const char *text)
{
    for (; *text; text++)
        if (strchr("<>&\"", *text)) fprintf(f, "&#%d;", *text);
        else fputc(*text, f);
}

/* png has two bytes more than n */
static void ij_html_data(FILE *f, uint8_t *png, size_t n, const char *what)
{
    static const char letter[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    png[n] = png[n + 1] = 0;
    fprintf(f, "<img alt=\"%s\" src=\"data:image/png;base64,", what);
    for (size_t i = 0; i < n; i += 3) {
        const uint32_t b = (uint32_t)png[i] << 16 | (uint32_t)png[i + 1] << 8 | png[i + 2];
        fprintf(f, "%c%c%c%c", letter[b >> 18], letter[b >> 12 & 63], i + 1 < n ? letter[b >> 6 & 63] : '=', i + 2 < n ? letter[b & 63] : '=');
    }
    fprintf(f, "\">");
}

static void ij_html_png(FILE *f, const uint8_t *rgb, size_t h, size_t w, const char *what)
{
    uint8_t *png = ij_alloc(ij_png_size(h, w) + 2);
    ij_html_data(f, png, ij_png(png, rgb, h, w), what);
    free(png);
}

/* Those panels of a show that are in `names`, as a table. */
static void ij_html_show(FILE *f, const ij_show *s, const char *names)
{
    const size_t h = s->c.crop_size[0], w = s->c.crop_size[1];
    uint8_t *rgb = ij_alloc(h * w * 3);
    fprintf(f, "<div class=wide><table><tr>");
    for (size_t k = 0; k < s->columns; k++)
        if (strstr(names, ij_panels[s->column[k]].name)) fprintf(f, k && s->column[k] == s->column[k - 1] ? "<th>" : "<th>%s", ij_panels[s->column[k]].name);
    for (size_t b = 0; b < s->images; b++) {
        fprintf(f, "<tr>\n");
        for (size_t k = 0; k < s->columns; k++) {
            if (!strstr(names, ij_panels[s->column[k]].name)) continue;
            ij_show_paint(rgb, 3 * w, s, b, k, 1);
            fprintf(f, "<td>"), ij_html_png(f, rgb, h, w, ij_panels[s->column[k]].name);
        }
    }
    fprintf(f, "</table></div>\n");
    free(rgb);
}

/* A column of a CSV file as a curve of at most 300 points, each the mean of those it stands for. */
static void ij_html_curve(FILE *f, const char *folder, const char *file, const char *name, const char *title)
{
    enum { POINTS = 300 };
    double y[POINTS] = { 0 }, low = HUGE_VAL, high = -HUGE_VAL, ends[2] = { 0, 0 };
    size_t count[POINTS] = { 0 }, lines, seen = 0;
    double *v = ij_csv(&lines, folder, file, name);
    for (size_t i = 0; i < lines; i++) {
        const size_t k = lines > POINTS ? i * POINTS / lines : i;
        if (!isfinite(v[i])) continue;
        y[k] += v[i], count[k]++;
        if (!seen++) ends[0] = v[i];
        ends[1] = v[i];
    }
    free(v);
    const size_t points = IJ_MIN(lines, POINTS);
    for (size_t k = 0; k < points; k++) if (count[k]) y[k] /= (double)count[k], low = IJ_MIN(low, y[k]), high = IJ_MAX(high, y[k]);
    if (!(low <= high)) return;
    fprintf(f, "<figure><svg viewBox=\"0 0 320 120\" role=img aria-label=\"%s\"><polyline points=\"", title);
    for (size_t k = 0; k < points; k++)
        if (count[k]) fprintf(f, "%.1f,%.1f ", 4 + 312.0 * (double)k / (double)IJ_MAX(points - 1, 1), 114 - 106 * (high > low ? (y[k] - low) / (high - low) : 0.5));
    fprintf(f, "\"/></svg><figcaption>%s: from %.4g to %.4g (axis %.3g to %.3g)</figcaption></figure>\n", title, ends[0], ends[1], low, high);
}

static void ij_html_file(FILE *f, const char *folder, const char *name, const char *before)
{
    enum { MOST = 1 << 24 };
    char path[1100];
    FILE *in = fopen(ij_path(path, folder, name), "rb");
    if (!in) return;
    uint8_t *png = ij_alloc((size_t)MOST + 2);
    fprintf(f, "<tr><th>%s<td>", before), ij_html_data(f, png, fread(png, 1, MOST, in), name);
    fclose(in), free(png);
}

/* The last verdict of health.csv; or the pictures that training left at eight of its lines. */
static void ij_html_health(FILE *f, const char *folder, int pictures)
{
    enum { SHOWN = 8 };
    char path[1100], line[512], last[512] = "", name[40];
    size_t lines = 0, shown = 0;
    FILE *csv = fopen(ij_path(path, folder, "health.csv"), "r");
    while (csv && fgets(line, sizeof line, csv) && strchr(line, '\n')) lines++, strcpy(last, line);
    const char *verdict = strrchr(last, ',');
    last[strcspn(last, "\n")] = 0;
    if (!pictures && lines > 1 && verdict && verdict[1] > '9')
        fprintf(f, "<p class=verdict>Is it learning? <strong>"), ij_html_text(f, verdict + 1), fprintf(f, "</strong></p>\n");
    if (csv && pictures) {
        const size_t span = IJ_MIN(lines - 1, SHOWN) - 1;
        rewind(csv), fgets(line, sizeof line, csv);
        fprintf(f, "<table class=strips>"), ij_html_file(f, folder, "pca_images.png", "");
        for (size_t i = 0; i + 1 < lines && fgets(line, sizeof line, csv); i++) {
            if (i != shown * (lines - 2) / IJ_MAX(span, 1)) continue;
            line[strcspn(line, ",")] = 0;
            snprintf(name, sizeof name, "pca_%.20s.png", line), ij_html_file(f, folder, name, line);
            shown++;
        }
        fprintf(f, "</table>\n");
    }
    if (csv) fclose(csv);
}

/* probe.json: 1 read, 0 there is none, -1 it is damaged. score: [task][trained, random, pixels][k-NN, linear], -1: not in it */
typedef struct { size_t tasks; char task[3][40]; double score[3][3][2]; } ij_scores;
static int ij_scores_read(ij_scores *s, const char *folder)
{
    ij_error why;
    char path[1100], text[16384];
    const char *task, *who, *what;
    s->tasks = 0;
    for (int i = 0; i < 18; i++) s->score[i / 6][i / 2 % 3][i % 2] = -1;
    FILE *json = fopen(ij_path(path, folder, "probe.json"), "rb");
    if (!json) return 0;
    ij_json j = { text, text, fread(text, 1, sizeof text - 1, json), path, &why, IJ_OK };
    text[j.n] = 0;
    fclose(json);
    ij_json_key(&j, 0);                                 /* {"tasks": { ... */
    for (; s->tasks < 3 && (task = ij_json_key(&j, s->tasks)) != NULL; s->tasks++) {
        snprintf(s->task[s->tasks], sizeof *s->task, "%s", task);
        for (size_t w = 0; (who = ij_json_key(&j, w)) != NULL; w++)
            for (size_t k = 0; (what = ij_json_key(&j, k)) != NULL; k++) {
                ij_json_peek(&j);
                for (int i = 0; i < 3; i++) if (!strcmp(who, ij_scored_name[i]) && k < 2) s->score[s->tasks][i][k] = strtod(j.s, NULL);
                ij_json_skip(&j, 0);
            }
    }
    return j.status ? -1 : 1;
}

static void ij_html_scores(FILE *f, const char *folder)
{
    ij_scores s;
    const int there = ij_scores_read(&s, folder);
    if (!there) { fprintf(f, "<p>No probe.json: <code>ijepa probe --model DIR --out DIR/probe.json</code> writes it.</p>\n"); return; }
    fprintf(f, "<div class=wide><table class=numbers><tr><th>task<th>score<th>trained<th>random encoder<th>raw pixels<th>lead\n");
    for (size_t t = 0; t < s.tasks; t++)
        for (int k = 0; k < 2 && there > 0; k++) {
            const double best = IJ_MAX(s.score[t][1][k], s.score[t][2][k]);
            fprintf(f, "<tr><td>"), ij_html_text(f, k ? "" : s.task[t]), fprintf(f, "<td>%s", k ? "linear" : "k-NN");
            for (int i = 0; i < 3; i++) fprintf(f, s.score[t][i][k] < 0 ? "<td>" : "<td>%.1f", s.score[t][i][k]);
            fprintf(f, best < 0 ? "<td>\n" : "<td>%+.1f\n", s.score[t][0][k] - best);
        }
    fprintf(f, "</table></div>%s\n", there < 0 ? "<p>probe.json is damaged.</p>" : "");
}

/* A few images, and the nearest of the training part by cosine of pooled features. */
enum { IJ_ASKS = 5, IJ_NEAR = 6, IJ_ANSWERS = 1000 };
typedef struct { ij_images part[2]; ij_features x[2]; } ij_neighbours;     /* what asks, what answers */

static void ij_neighbours_read(ij_neighbours *n, const ij_model *m, const char *path[2], int whole, const ij_team *team)
{
    const ij_model *const model[2] = { m, NULL };
    for (int k = 0; k < 2; k++) {
        n->part[k] = ij_images_open(path[k], k ? IJ_TRAIN_PART : IJ_TEST_PART, whole, &m->config, 1, team);
        n->x[k] = ij_features_from(&n->part[k], model, 0, k ? IJ_ANSWERS : IJ_ASKS, 0, 1, team);
        if (ij_interrupted) exit(130);
    }
}

static void ij_html_neighbours(FILE *f, ij_neighbours *n)
{
    const size_t h = n->part[0].c.crop_size[0], w = n->part[0].c.crop_size[1], d = n->x[0].width[0], bank = n->x[1].n;
    double *cosine = ij_alloc(bank * sizeof *cosine);
    fprintf(f, "<div class=wide><table><tr><th>image<th colspan=%d>nearest training images\n", (int)IJ_NEAR);
    for (size_t i = 0; i < n->x[0].n; i++) {
        for (size_t b = 0; b < bank; b++) cosine[b] = ij_alike(n->x[0].x[0] + i * d, n->x[1].x[0] + b * d, d);
        fprintf(f, "<tr>");
        for (size_t k = 0; k <= IJ_NEAR && k <= bank; k++) {
            size_t best = 0;
            for (size_t b = 1; k && b < bank; b++) best = cosine[b] > cosine[best] ? b : best;
            if (k) cosine[best] = -HUGE_VAL;
            ij_images *s = &n->part[k > 0];
            ij_images_read(s, 0, (size_t)((double)(k ? best : i) * (double)s->count / (double)(k ? bank : n->x[0].n)));
            ij_centre_task(s, 0);
            fprintf(f, "<td>"), ij_html_png(f, s->slot->small, h, w, k ? "neighbour" : "image");
        }
    }
    fprintf(f, "</table></div>\n");
    free(cosine);
}

/* An HTML file, under another name until it is whole. */
static FILE *ij_html_begin(char path[1100], const char *folder, const char *name, const char *what)
{
    static const char style[] = ":root{color-scheme:light dark}body{font:1rem/1.5 system-ui,sans-serif;max-width:60rem;margin:auto;padding:1rem}"
        "img{width:5.5rem;image-rendering:pixelated;display:block}table{border-spacing:.25rem}th{font-weight:500;text-align:left}.wide{overflow-x:auto}"
        ".numbers td{padding:0 1rem 0 0}.strips img{width:min(34rem,78vw)}.verdict{border-left:.3rem solid #c33;padding-left:.6rem}figure{display:inline-block;margin:.5rem 1rem .5rem 0;width:18rem}svg{border:1px solid #8888}"
        "polyline{fill:none;stroke:#c33;stroke-width:1.5}figcaption,small{font-size:.85rem}pre{white-space:pre-wrap;overflow-wrap:anywhere}@media print{figure,tr{break-inside:avoid}}";
    char temporary[1110];
    snprintf(temporary, sizeof temporary, "%s.tmp", ij_path(path, folder, name));
    FILE *f = ij_open_or_die(temporary, "w");
    fprintf(f, "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\"><title>I-JEPA: ");
    ij_html_text(f, what), fprintf(f, "</title><style>%s</style>\n", style);
    return f;
}

static int ij_report_command(ij_options *o)
{
    char path[1100], text[IJ_TEXT], trained[2][1100] = { "", "" };
    const ij_team team = ij_team_start(o->threads);
    if (!o->what) ij_die(2, "report needs the folder of a run");
    FILE *f = fopen(ij_path(path, o->what, "data.txt"), "r");
    for (int k = 0; f && k < 2 && fgets(trained[k], 1100, f); k++) trained[k][strcspn(trained[k], "\n")] = 0;
    if (f) fclose(f);
    const char *const data = o->data ? o->data : *trained[0] ? trained[0] : "scenes", *test = o->data || !*trained[1] ? data : trained[1];
    ij_config known;
    ij_file model = ij_open_model(o->what, &known);     /* montage and sketch need a predictor of patches */
    const int predicts = known.objective != IJ_JOINT && *ij_file_kind(&model) != 'H';
    ij_file_close(&model);
    o->model = o->what, o->data = test, o->reference = data;
    ij_show show;
    ij_neighbours near;
    const char *const paths[2] = { test, data };
    ij_show_open(&show, o, predicts ? "image,context,targets,coverage,pca,similarity,attention,montage,nearest,sketch,traced"
                                    : "image,context,targets,coverage,pca,similarity,attention", 6, test != data, &team);
    ij_neighbours_read(&near, show.m, (const char **)paths, test != data, &team);
    const ij_config *c = &show.c;
    f = ij_html_begin(path, o->what, "report.html", o->what);
    fprintf(f, "<h1>What this I-JEPA learned</h1>\n<p>%lu blocks of width %lu, patches of %lu pixels, on <code>", (unsigned long)c->depth, (unsigned long)c->embed_dim, (unsigned long)c->patch_size);
    ij_html_text(f, *trained[0] ? trained[0] : "images that are not on record"), fprintf(f, "</code>%s", data == trained[0] ? "" : ", shown on <code>");
    if (data != trained[0]) ij_html_text(f, data), fprintf(f, "</code>");
    static const char *const objective[] = { ("I-JEPA hides parts of an image and predicts, from the rest, not their pixels but what a slowly following copy of the "
        "encoder makes of them (Assran et al., CVPR 2023)."), "A generative model: it hides parts of an image and predicts their pixels (figure 2b of the paper).",
        "A joint embedding: two views of an image are to have one representation (figure 2a of the paper)." };
    fprintf(f, ". %s</p>\n", objective[c->objective]);
    ij_html_health(f, o->what, 0);
    fprintf(f, "<h2>Scores</h2><p>How well do frozen features tell the labels, which training never saw? k-NN asks the 20 nearest training "
        "images; linear is ridge regression. An encoder with random weights and the raw pixels are what must be beaten.</p>\n");
    ij_html_scores(f, o->what);
    fprintf(f, "<h2>The run</h2>");
    static const char *const curve[][3] = { { "log.csv", "loss", "loss" }, { "log.csv", "lr", "learning rate" }, { "log.csv", "ema", "EMA momentum" },
        { "health.csv", "skill", "skill" }, { "health.csv", "copy skill", "skill against copying" }, { "health.csv", "position", "position share" },
        { "health.csv", "rank", "effective rank" }, { "health.csv", "cosine", "cosine between images" }, { "probe.csv", "mean", "k-NN within the training images" } };
    for (size_t i = 0; i < sizeof curve / sizeof *curve; i++) ij_html_curve(f, o->what, curve[i][0], curve[i][1], curve[i][2]);
    fprintf(f, "<p>The loss alone says little: its target moves. <em>Skill</em> holds it against the best guess that knows only where a patch lies; at 0 nothing else was learnt. "
        "<em>Against copying</em>: against the target of the nearest visible patch. <em>Position share</em> is how much of the targets is position. <em>Effective rank</em> counts the "
        "dimensions that the features use, <em>cosine</em> compares those of different images: near 1, both, all images look alike, which is collapse.</p>\n"
        "<h3>Features over the run</h3><p>The three main components of the patch features of these images as red, green and blue, after so many updates; the first row are the first weights. "
        "Each row has its own components, so look for shapes, not for colours that stay.</p>\n");
    ij_html_health(f, o->what, 1);
    fprintf(f, "<h2>What is hidden</h2><p>Section 3, figure 4: the context is what the encoder sees; target blocks, one colour each, are what is to be predicted and are cut out of the context. "
        "Coverage: how often a patch is context (first) or target (second), over many draws.</p>\n");
    ij_html_show(f, &show, "image,context,targets,coverage");
    fprintf(f, "<h2>What the features see</h2><p>The three main components of the patch features as red, green and blue: patches of one colour are alike to the encoder, in all images. "
        "Similarity: cosine to the white patch. Attention: where each head of the last block looks.</p>\n");
    ij_html_show(f, &show, "image,pca,similarity,attention");
    if (predicts) fprintf(f, "<h2>What it predicts</h2><p>Section 7, figure 6, without a second network. <em>montage</em>: each hidden patch is filled with the training patch whose target is nearest to the "
        "prediction; <em>nearest</em>: nearest to the true target, as good as it gets. <em>sketch</em>: pixels by ridge regression from the prediction; <em>traced</em>: from the true target. "
        "What a prediction leaves open, the sketch blurs.</p>\n");
    if (predicts) ij_html_show(f, &show, "image,context,montage,nearest,sketch,traced");
    fprintf(f, "<h2>Nearest neighbours</h2><p>By cosine of the mean feature: do neighbours share what matters, or only their colours?</p>\n");
    ij_html_neighbours(f, &near);
    fprintf(f, "<h2>Again</h2><pre>ijepa train --data '");
    ij_html_text(f, *trained[0] ? trained[0] : "PATH"), fprintf(f, *trained[1] ? "' --test '" : "'");
    if (*trained[1]) ij_html_text(f, trained[1]), fprintf(f, "'");
    for (size_t i = 0; i < ij_config_settings(); i++) {
        ij_config_text(text, c, i);
        if (strcmp(ij_config_name(i), "ipe")) fprintf(f, " --%s %s", ij_config_name(i), text);
    }
    fprintf(f, " --out again</pre><p><small>The same numbers to the last digit, on the same kind of machine.</small></p></html>\n");
    ij_finish(f, path);
    return 0;
}

/* ---- masks, scenes, info ---- */

static int ij_masks_command(ij_options *o)
{
    ij_error why;
    char mode[IJ_TEXT];
    ij_config c = o->c;
    const size_t show = o->images ? o->images : 4;
    ij_model m = ij_model_for(&c, IJ_TRAIN);
    const size_t gh = ij_gh(&c), gw = ij_gw(&c);
    double context = 0, target = 0;
    size_t lists[2] = { 0, 0 }, shown = 0;
    const uint64_t draws = IJ_MAX(100, (show + c.batch_size - 1) / c.batch_size);
    size_t *seen = ij_zeros(gh * gw * sizeof *seen);
    printf("c context   1..%lu target block   . neither\n\n", (unsigned long)c.num_pred_masks);
    for (uint64_t step = 0; step < draws; step++) {
        ij_must(ij_masks_draw(&m.masks, &c, &m.mask_rng, step, c.batch_size, &why), &why);
        const ij_lists *l[2] = { &m.masks.context, &m.masks.target };
        for (size_t b = 0; b < c.batch_size && shown < show; b++, shown++)
            for (size_t n = 0; n < gh * gw; n++) {
                char mark = '.';
                for (size_t k = 0; k < 2; k++)
                    for (size_t i = b; i < l[k]->lists; i += c.batch_size)
                        if (ij_listed(l[k], i, n)) mark = (char)(k ? '1' + (int)(i / c.batch_size % 9) : 'c');
                printf("%c%s", mark, n % gw == gw - 1 ? n == gh * gw - 1 ? "\n\n" : "\n" : " ");
            }
        for (size_t k = 0; k < 2; k++)
            for (size_t i = 0; i < l[k]->lists; i++, lists[k]++) {
                *(k ? &target : &context) += (double)l[k]->length[i];
                for (size_t j = 0; !k && j < l[k]->length[i]; j++) seen[l[k]->index[i * l[k]->stride + j]]++;
            }
    }
    for (size_t i = 0; i < ij_config_settings(); i++) if (!strcmp(ij_config_name(i), "mask_mode")) ij_config_text(mode, &c, i);
    printf("%lux%lu patches, %s mode, %lu draws of %lu images: context %.1f tokens, target block %.1f\n", (unsigned long)gh, (unsigned long)gw, mode,
           (unsigned long)draws, (unsigned long)c.batch_size, context / (double)lists[0], target / (double)lists[1]);
    printf("share of contexts that see a row, from the top:");
    for (size_t r = 0; r < gh; r++) {
        double sum = 0;
        for (size_t k = 0; k < gw; k++) sum += (double)seen[r * gw + k];
        printf(" %.2f", sum / (double)gw / (double)lists[0]);
    }
    printf("\n");
    return 0;
}

static int ij_render(ij_options *o)
{
    ij_error why;
    const size_t side = o->c.crop_size[0], images = o->images ? o->images : 36;
    char path[1100], labels_path[1100], name[80];
    if (!o->out) ij_die(2, "render needs --out DIR");
    if (side > 4096 || !side) ij_die(2, "crop_size must be 1..4096 here");
    ij_must(ij_make_folder(o->out, &why), &why);
    uint8_t *rgb = ij_alloc(side * side * 3);
    FILE *labels = ij_open_or_die(ij_path(labels_path, o->out, "labels.csv"), "w");
    fprintf(labels, "file,count,dist,kind\n");
    for (size_t i = 0; i < images && !ij_interrupted; i++) {
        int label[IJ_SCENE_TASKS];
        ij_scene(rgb, side, o->c.seed, i, label);
        snprintf(name, sizeof name, "scene_%06lu.ppm", (unsigned long)i);
        ij_show_write(ij_path(path, o->out, name), rgb, side, side);
        fprintf(labels, "%s,%d,%d,%d\n", name, label[IJ_SCENE_COUNT], label[IJ_SCENE_DIST], label[IJ_SCENE_KIND]);
    }
    ij_close_or_die(labels, labels_path);
    return ij_interrupted ? 130 : 0;
}

static int ij_info(ij_options *o)
{
    if (!o->what) {
        printf("numbers      %s\nvectors      %d bits\nmatmul tile  %d x %d, %s\nthreads      %lu, one per processor it may use\n",
               sizeof(real) == 8 ? "double" : "float", (int)(8 * IJ_VL * sizeof(real)), (int)IJ_MR, (int)IJ_NR,
#ifdef IJ_HAS_FMA
               "fused multiply-add",
#else
               "multiply, then add",
#endif
               (unsigned long)ij_processors());
        return 0;
    }
    ij_file f = ij_open_model(o->what, NULL);
    for (size_t i = 0; i < f.metas; i++) printf("%s = %.100s\n", f.meta[2 * i], f.meta[2 * i + 1]);
    double total = 0;
    for (size_t i = 0; i < f.entries; i++) {
        const ij_entry *e = &f.entry[i];
        printf("%-60s %-5s [", e->name, e->type);
        for (size_t k = 0; k < e->rank; k++) printf("%s%lu", k ? "," : "", (unsigned long)e->dim[k]);
        printf("]\n");
        total += (double)e->count;
    }
    const char *kind = ij_file_kind(&f) ? ij_file_kind(&f) : "unknown";
    const char *const part[4][2] = { { "target_encoder", "norm.weight" }, { "encoder", "norm.weight" },
                                     { "predictor", "predictor_norm.weight" }, { "opt.m.encoder", "norm.weight" } };
    printf("%lu tensors, %.0f numbers. Layout: %s. Holds%s", (unsigned long)f.entries, total, kind, *kind == 'H' ? " one encoder" : ":");
    for (int i = 0; i < 4 && *kind != 'H'; i++)
        if (ij_find_named(&f, part[i][0], part[i][1], 0) || (i == 3 && ij_file_find(&f, "opt.state.1.exp_avg")))
            printf(" %s", i == 3 ? "optimizer" : part[i][0]);
    printf("\n");
    ij_file_close(&f);
    return 0;
}

/* ---- bench ---- */

static int ij_by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* GFLOP/s of one core's multiply-adds just now: the tile kernel on data that stays in the first-level cache, 20 ms. */
static double ij_peak_rate(void)
{
    static real a[IJ_MR * IJ_KC], b[IJ_NR * IJ_KC], c[IJ_MR * IJ_NR];
    const double start = ij_seconds();
    double tiles = 0, time;
    do {
        for (int k = 0; k < 100; k++) ij_tile(IJ_KC, a, 1, IJ_MR, b, c, IJ_NR, c, IJ_NR);
        tiles += 100;
    } while ((time = ij_seconds() - start) < 0.02);
    return 2.0 * IJ_MR * IJ_NR * IJ_KC * tiles / time / 1e9;
}

static double ij_median(double *t, size_t n)
{
    qsort(t, n, sizeof *t, ij_by_size);
    return n % 2 ? t[n / 2] : (t[n / 2 - 1] + t[n / 2]) / 2;
}

/* Repetitions of one measurement: a core's speed changes from second to second where others share it, so its peak is
 * taken beside each. */
typedef struct { const ij_options *o; size_t repeat, done; double *time, *peak, start, first; } ij_stopwatch;

static void ij_lap_start(ij_stopwatch *w) { w->peak[w->done] = ij_peak_rate(), w->start = ij_seconds(); }
static void ij_lap_end(ij_stopwatch *w) { w->time[w->done++] = ij_seconds() - w->start; }

/* Medians: milliseconds, images a second, share of the peak of all threads' cores, as a line or as JSON. */
static void ij_bench_print(ij_stopwatch *w, const char *what, double flops, double images)
{
    const ij_options *o = w->o;
    const double peak = ij_median(w->peak, w->done), seconds = ij_median(w->time, w->done);
    const double rate = flops / seconds / 1e9, share = rate / peak / (double)o->threads, mib = ij_peak_mib();
    const double startup = w->first > seconds ? w->first - seconds : 0;     /* what the first step took beyond a step */
    if (o->json)
        printf("{\"what\": \"%s\", \"threads\": %lu, \"ms\": %.3f, \"img_per_s\": %.2f, \"gflop_per_img\": %.4f, "
               "\"gflops\": %.1f, \"peak_gflops\": %.1f, \"share_of_peak\": %.3f, \"startup_ms\": %.1f, \"peak_mib\": %.0f}\n", what,
               (unsigned long)o->threads, 1000 * seconds, images / seconds, flops / images / 1e9, rate, peak, share, 1000 * startup, mib);
    else
        printf("%-28s %9.2f ms %10.1f /s %8.1f GFLOP/s %5.1f %% of peak (%.0f x %lu) %6.0f MiB\n", what, 1000 * seconds,
               images / seconds, rate, 100 * share, peak, (unsigned long)o->threads, mib);
    fflush(stdout);
    w->done = 0;
}

static int ij_bench_matmul(ij_stopwatch *w, const ij_team *team)
{
    static const size_t shape[][3] = {                          /* rows, in, out */
        { 1536, 96, 288 }, { 1536, 384, 96 }, { 1024, 192, 192 }, { 1024, 192, 768 }, { 1024, 768, 192 },
        { 1152, 384, 1152 }, { 1152, 384, 1536 }, { 1152, 1536, 384 },
        { 784, 768, 2304 }, { 784, 768, 3072 }, { 784, 3072, 768 } };
    for (size_t i = 0; i < sizeof shape / sizeof *shape && !ij_interrupted; i++) {
        const size_t t = shape[i][0], in = shape[i][1], out = shape[i][2];
        real *x = ij_zeros(t * in * sizeof *x), *m = ij_zeros(in * out * sizeof *m), *y = ij_zeros(t * out * sizeof *y);
        const ij_product p[3] = { { t, out, in, x, in, 1, m, 1, in, y, out, NULL, 0 }, { t, in, out, y, out, 1, m, in, 1, x, in, NULL, 0 },
                                  { out, in, t, y, 1, out, x, in, 1, m, in, m, in } };
        static const char *const name[3] = { "y=xW'", "dx=dyW", "dW+=dy'x" };
        for (int k = 0; k < 3; k++) {
            char text[64];
            for (size_t r = 0; r < w->repeat; r++) ij_lap_start(w), ij_matmul(&p[k], team), ij_lap_end(w);
            snprintf(text, sizeof text, "%lux%lux%lu %s", (unsigned long)t, (unsigned long)in, (unsigned long)out, name[k]);
            ij_bench_print(w, text, 2.0 * (double)t * (double)in * (double)out, 1);
        }
        free(x), free(m), free(y);
    }
    return ij_interrupted ? 130 : 0;
}

/* Fixed token counts: list i holds patches i, i+1, ... round the grid. */
static void ij_bench_lists(ij_lists *l, size_t lists, size_t tokens, size_t patches)
{
    *l = (ij_lists){ lists, tokens, ij_alloc(lists * sizeof *l->length), ij_alloc(ij_mul(lists, tokens * sizeof *l->index)) };
    for (size_t i = 0; i < lists; i++) {
        l->length[i] = tokens;
        for (size_t j = 0; j < tokens; j++) l->index[i * tokens + j] = (i * 7 + j) % patches;
    }
}

/* A model with random images and lists of fixed length, and one timed repetition after another on it. */
typedef struct { ij_model m; real *images, *pooled; ij_masks masks; void *memory, *work; size_t work_size; int step; } ij_bencher;

static ij_bencher ij_bencher_start(const ij_config *c, size_t context_tokens, size_t target_tokens, int step, const ij_team *team)
{
    ij_error why;
    ij_bencher b;
    size_t size;
    ij_must(ij_model_size(&size, c, step ? IJ_TRAIN : IJ_INFER, &why), &why);
    b.memory = ij_alloc(size), b.step = step;
    ij_must(ij_model_init(&b.m, b.memory, size, c, step ? IJ_TRAIN : IJ_INFER, &why), &why);
    b.m.team = *team;
    const size_t pixels = c->batch_size * ij_views(c) * 3 * c->crop_size[0] * c->crop_size[1];
    b.images = ij_alloc(pixels * sizeof(real)), b.pooled = ij_alloc(c->batch_size * c->embed_dim * sizeof(real));
    uint64_t state = 1;
    for (size_t i = 0; i < pixels; i++) b.images[i] = (real)((double)(ij_mix(&state) >> 40) / 8388608.0 - 1);
    const ij_pictures in = { b.images, c->batch_size, c->crop_size[0], c->crop_size[1] };
    ij_must(ij_encode_size(&b.work_size, &b.m.target_encoder, &in, &why), &why);
    b.work = step ? NULL : ij_alloc(b.work_size);
    ij_bench_lists(&b.masks.context, c->num_enc_masks * c->batch_size, context_tokens, ij_patches(c));
    ij_bench_lists(&b.masks.target, c->num_pred_masks * c->batch_size, target_tokens, ij_patches(c));
    return b;
}

static void ij_bencher_lap(ij_bencher *b, ij_stopwatch *w)
{
    const ij_config *c = &b->m.config;
    const ij_pictures in = { b->images, c->batch_size, c->crop_size[0], c->crop_size[1] };
    const ij_memory work = { b->work, b->work_size };
    ij_report r;
    ij_error why;
    ij_lap_start(w);
    const ij_status s = b->step ? ij_train_step(&b->m, b->images, &b->masks, &r, &why)
                                : ij_encode(NULL, b->pooled, &b->m.target_encoder, &in, work, &b->m.team, &why);
    ij_lap_end(w);
    ij_must(s, &why);
}

static void ij_bencher_end(ij_bencher *b)
{
    free(b->memory), free(b->images), free(b->pooled), free(b->work);
    free(b->masks.context.length), free(b->masks.context.index), free(b->masks.target.length), free(b->masks.target.index);
}

/* Room for lists of any length: any block may span the grid. */
static void ij_bench_room(ij_config *c)
{
    c->mask_mode = IJ_MASK_PAPER, c->enc_mask_scale[0] = 0.85, c->enc_mask_scale[1] = 1, c->min_keep = 0;
    c->pred_mask_scale[1] = IJ_MAX(c->pred_mask_scale[1], 0.5);
}

/* How the time of a step grows along each axis, beside how its arithmetic grows. */
static int ij_bench_scale(ij_stopwatch *w, const ij_team *team)
{
    static const char *const axis[] = { "tokens", "width", "depth", "batch", "threads" };
    double base_time = 0, base_flops = 0;
    printf("%-8s %10s %9s %9s %11s %11s\n", "axis", "value", "ms", "GFLOP", "time / 1st", "work / 1st");
    for (int a = 0; a < 5; a++)
        for (size_t x = 1; x <= 4 && !ij_interrupted; x *= 2) {
            ij_config c = w->o->c;
            c.crop_size[0] = c.crop_size[1] = 32, c.patch_size = 4, c.embed_dim = 128, c.num_heads = 4, c.depth = 4;
            c.pred_emb_dim = 64, c.pred_depth = 2, c.batch_size = 16;
            if (a == 0) c.crop_size[0] *= x;
            if (a == 1) c.embed_dim *= x, c.pred_emb_dim *= x;
            if (a == 2) c.depth *= x, c.pred_depth *= x;
            if (a == 3) c.batch_size *= x;
            const ij_team one = { NULL, NULL, 1 }, t = a == 4 ? ij_team_start(x) : one;
            if (a == 4 && x > team->threads) continue;
            const size_t patches = c.crop_size[0] * c.crop_size[1] / 16, value[] = { patches, c.embed_dim, c.depth, c.batch_size, x };
            ij_bench_room(&c);
            ij_bencher b = ij_bencher_start(&c, patches / 4, patches / 6, 1, &t);
            ij_bencher_lap(&b, w), w->done = 0;         /* the first does not count */
            for (size_t i = 0; i < w->repeat; i++) ij_bencher_lap(&b, w);
            for (size_t i = 0; i < w->done; i++) w->time[i] *= w->peak[i];      /* work that a core could have done */
            const double flops = (double)c.batch_size * ij_flops(&c, patches / 4, patches / 6);
            const double units = ij_median(w->time, w->done), time = units / ij_median(w->peak, w->done);
            if (x == 1) base_time = units, base_flops = flops;
            printf("%-8s %10lu %9.2f %9.3f %11.2f %11.2f\n", x == 1 ? axis[a] : "", (unsigned long)value[a], 1000 * time,
                   flops / 1e9, units / base_time, a == 4 ? 1 / (double)x : flops / base_flops);
            fflush(stdout);
            ij_bencher_end(&b);
        }
    return ij_interrupted ? 130 : 0;
}

/* Reading and augmenting a batch, with one thread. */
static int ij_bench_data(ij_stopwatch *w)
{
    const ij_options *o = w->o;
    const ij_config *c = &o->c;
    const ij_team one = { NULL, NULL, 1 };
    ij_images s = ij_images_open(o->data ? o->data : "scenes", IJ_TRAIN_PART, 0, c, c->batch_size, &one);
    for (size_t r = 0; r < w->repeat + 1 && !ij_interrupted; r++) {
        if (r == 1) w->done = 0;
        ij_lap_start(w);
        for (size_t i = 0; i < c->batch_size; i++) ij_images_read(&s, i, (r * c->batch_size + i) * 7919 % s.count);
        for (size_t i = 0; i < c->batch_size; i++) ij_augment_task(&s, i);
        ij_lap_end(w);
    }
    const double seconds = ij_median(w->time, w->done);
    printf("%s: %s: %.2f ms for %lu images, %.3f ms each\n", o->data ? o->data : "scenes", ij_data_kind(s.d), 1000 * seconds,
           (unsigned long)c->batch_size, 1000 * seconds / (double)c->batch_size);
    return 0;
}

/* ---- bench --profile: every kind of work of a step by itself, on the arrays of the step, with one thread ---- */

enum { IJ_DO_LINEAR, IJ_DO_ATTENTION, IJ_DO_NORM, IJ_DO_GELU, IJ_DO_ADD, IJ_DO_DX, IJ_DO_DATTENTION, IJ_DO_DNORM, IJ_DO_DGELU,
       IJ_DO_DW, IJ_DO_UPDATE, IJ_DOES };
typedef struct { double seconds, flops, bytes; } ij_cost;

static void ij_spent(ij_cost *cost, double *start, double flops, double numbers)
{
    const double now = ij_seconds();
    cost->seconds += now - *start, cost->flops += flops, cost->bytes += numbers * (double)sizeof(real);
    *start = ij_seconds();
}

static void ij_profile_stack(ij_cost cost[IJ_DOES], const ij_stack *s, const ij_block *w, const ij_block *dw, ij_stack_grads *g)
{
    for (size_t i = 0; i < s->depth; i++)
        for (size_t piece = 0; piece < s->seqs.pieces; piece++) {
            const size_t s0 = ij_piece(&s->seqs, piece), s1 = ij_piece(&s->seqs, piece + 1);
            const ij_seqs *all = &s->seqs, *asked = ij_asked(s, i);
            const ij_block_acts a = ij_block_slice(&s->block[i], all, asked, s->heads, s0, s1);
            const double t = (double)ij_rows(&a.x), q = (double)ij_rows(&a.q), d = (double)ij_cols(&a.x), f = (double)ij_cols(&a.fc1);
            const double p = (double)(all->square[s1] - all->square[s0]) * q / t;       /* products of a query and a key */
            const double weights = 4 * d * d + 2 * d * f, made = 2 * (t * 2 * d * d + q * (2 * d * d + 2 * d * f));
            const double in_out = 3 * t * d + q * (6 * d + 2 * f), scores = p * (double)s->heads;
            const ij_tensor q_w = ij_slice(&w[i].qkv_w, 0, ij_cols(&a.x)), kv_w = ij_slice(&w[i].qkv_w, ij_cols(&a.x), 3 * ij_cols(&a.x));
            const ij_tensor q_b = ij_slice(&w[i].qkv_b, 0, ij_cols(&a.x)), kv_b = ij_slice(&w[i].qkv_b, ij_cols(&a.x), 3 * ij_cols(&a.x));
            const size_t row = ij_cols(&a.x);
            double start = ij_seconds();
            ij_layernorm(a.norm1, a.stat1, a.x, &w[i].norm1_w, &w[i].norm1_b);
            ij_layernorm(a.norm2, a.stat2, a.y, &w[i].norm2_w, &w[i].norm2_b);
            ij_spent(&cost[IJ_DO_NORM], &start, 8 * (t + q) * d, 2 * (t + q) * d);
            ij_linear(a.q, a.norm1q, &q_w, &q_b, NULL);
            ij_linear(a.kv, a.norm1, &kv_w, &kv_b, NULL);
            ij_linear(a.y, a.heads, &w[i].proj_w, &w[i].proj_b, NULL);
            ij_linear(a.fc1, a.norm2, &w[i].fc1_w, &w[i].fc1_b, NULL);
            ij_linear(a.xq, a.gelu, &w[i].fc2_w, &w[i].fc2_b, NULL);
            ij_spent(&cost[IJ_DO_LINEAR], &start, made, in_out + weights);
            ij_gelu(a.gelu, a.fc1);
            ij_spent(&cost[IJ_DO_GELU], &start, 40 * q * f, 4 * q * f);
            for (size_t k = s0; k < s1; k++)
                ij_attention(a.heads.x + (asked->start[k] - asked->start[s0]) * row, a.prob + s->heads * (all->square[k] - all->square[s0]),
                             a.q.x + (asked->start[k] - asked->start[s0]) * row, a.kv.x + (all->start[k] - all->start[s0]) * 2 * row,
                             ij_length(asked, k), ij_length(all, k), row, s->heads);
            ij_spent(&cost[IJ_DO_ATTENTION], &start, 4 * p * d + 20 * scores, 2 * (t + q) * d + 2 * scores);
            ij_add(a.y, a.xq), ij_add(a.xq, a.y);
            ij_spent(&cost[IJ_DO_ADD], &start, 2 * q * d, 6 * q * d);
            if (!g) continue;
            const ij_stack_grads b = ij_grads_slice(g, all, asked, s0, s1);
            start = ij_seconds();
            ij_linear_backward(b.dfc1, b.dz, &w[i].fc2_w, 0, NULL);
            ij_linear_backward(b.dnorm2, b.dfc1, &w[i].fc1_w, 0, NULL);
            ij_linear_backward(b.dheads, b.dy, &w[i].proj_w, 0, NULL);
            ij_linear_backward(b.dnorm1, b.dkv, &kv_w, 0, NULL);
            ij_linear_backward(b.dheads, b.dq, &q_w, 0, NULL);
            ij_spent(&cost[IJ_DO_DX], &start, made, in_out + weights);
            ij_gelu_backward(b.dfc1, a.fc1);
            ij_spent(&cost[IJ_DO_DGELU], &start, q * f, 3 * q * f);
            ij_layernorm_backward(b.dy, b.dnorm2, a.stat2, a.y, &w[i].norm2_w);
            ij_layernorm_backward(b.dx, b.dnorm1, a.stat1, a.x, &w[i].norm1_w);
            ij_spent(&cost[IJ_DO_DNORM], &start, 16 * (t + q) * d, 4 * (t + q) * d);
            ij_copy(b.dy, b.dz), ij_copy(b.dz, b.dy);
            ij_spent(&cost[IJ_DO_ADD], &start, 0, 4 * q * d);
            for (size_t k = s0; k < s1; k++) {
                const size_t r = (all->start[k] - all->start[s0]) * 2 * row, asks = (asked->start[k] - asked->start[s0]) * row;
                const size_t square = all->square[k] - all->square[s0];
                ij_attention_backward(b.dq.x + asks, b.dkv.x + r, b.dprob + square, b.dheads.x + asks, a.prob + s->heads * square,
                                      a.q.x + asks, a.kv.x + r, ij_length(asked, k), ij_length(all, k), row, s->heads);
            }
            ij_spent(&cost[IJ_DO_DATTENTION], &start, 8 * p * d + 6 * scores, 3 * (t + q) * d + 3 * scores);
            if (piece) continue;
            ij_weight_jobs jobs = ij_block_weight_jobs(&dw[i], &s->block[i], g, all, asked);
            const double whole = (double)all->tokens / t;
            start = ij_seconds();
            ij_weight_gradients(&jobs, NULL);
            ij_spent(&cost[IJ_DO_DW], &start, made * whole, in_out * whole + 2 * weights);
        }
}

static int ij_bench_profile(ij_stopwatch *w, ij_bencher *b, double flops)
{
    static const char *const name[IJ_DOES] = { "linear: y = x W' + b", "attention", "layer norm", "GELU", "residual sums, copies",
        "linear backward: dx", "attention backward", "layer norm backward", "GELU backward", "linear backward: dW", "AdamW and EMA" };
    ij_model *m = &b->m;
    ij_cost cost[IJ_DOES] = { { 0 } }, total = { 0 };
    ij_step s;
    const double seconds = ij_median(w->time, w->done), peak = ij_median(w->peak, w->done);
    for (size_t first = 0; first < m->config.batch_size; first += s.predictor.part.images) {
        ij_report r;
        if (ij_step_begin(&s, m, b->images, &b->masks, first, NULL)) return 1;
        ij_encode_targets(&s, NULL), ij_encode_context(&s, NULL), ij_predict(&s, NULL), ij_loss(&s, NULL), ij_vicreg(&s), ij_backward(m, &s, NULL);
        ij_profile_stack(cost, &s.predictor.stack, m->predictor.block, m->predictor_grad.block, &s.predictor_grads);
        ij_profile_stack(cost, &s.context.stack, m->encoder.block, m->encoder_grad.block, &s.encoder_grads);
        ij_profile_stack(cost, &s.target.stack, m->target_encoder.block, NULL, NULL);
        memset(m->grad, 0, m->size * sizeof(real));
        double start = ij_seconds();
        if (!first) ij_update(m, &r, NULL), ij_spent(&cost[IJ_DO_UPDATE], &start, 14.0 * (double)m->size + 3.0 * (double)m->encoder_size,
                                               9.0 * (double)m->size + 2.0 * (double)m->encoder_size);
    }
    printf("%-22s %9s %9s %10s %8s %8s %9s %7s\n", "part", "GFLOP", "MB", "FLOP/byte", "ms", "share", "GFLOP/s", "of peak");
    for (int i = 0; i <= IJ_DOES; i++) {
        const ij_cost *k = i < IJ_DOES ? &cost[i] : &total;
        printf("%-22s %9.3f %9.1f %10.1f %8.2f %6.1f %% %9.1f %5.1f %%\n", i < IJ_DOES ? name[i] : "sum", k->flops / 1e9, k->bytes / 1e6, k->flops / k->bytes,
               1000 * k->seconds, 100 * k->seconds / seconds, k->flops / k->seconds / 1e9, 100 * k->flops / k->seconds / peak / 1e9);
        total.seconds += k->seconds, total.flops += k->flops, total.bytes += k->bytes;
    }
    printf("%-22s %9.3f %9s %10s %8.2f %6.1f %% %9.1f %5.1f %%\n", "the step, whole", flops / 1e9, "", "", 1000 * seconds, 100.0,
           flops / seconds / 1e9, 100 * flops / seconds / peak / 1e9);
    return 0;
}

static int ij_bench(ij_options *o)
{
    ij_config *c = &o->c;
    if (o->targets) c->num_pred_masks = o->targets;
    if (!o->what) ij_die(2, "bench needs step, encode, matmul, data or scale");
    if (o->profile) o->threads = 1;
    const size_t repeat = o->repeat ? o->repeat : 11;
    ij_stopwatch w = { o, repeat, 0, ij_alloc((repeat + 2) * sizeof(double)), ij_alloc((repeat + 2) * sizeof(double)), 0, 0 };
    const double begin = ij_seconds();
    const ij_team team = ij_team_start(o->threads);
    if (!strcmp(o->what, "matmul")) return ij_bench_matmul(&w, &team);
    if (!strcmp(o->what, "scale")) return ij_bench_scale(&w, &team);
    if (!strcmp(o->what, "data")) return ij_bench_data(&w);
    const int step = !strcmp(o->what, "step");
    if (!step && strcmp(o->what, "encode")) ij_die(2, "bench knows step, encode, matmul, data and scale");
    if (step && o->context_tokens) ij_bench_room(c);
    ij_error why;
    ij_must(ij_config_check(c, &why), &why);
    const size_t n = ij_patches(c), k = IJ_MAX(1, IJ_MIN(n, o->context_tokens ? o->context_tokens : n / 4));
    const size_t t = IJ_MAX(1, IJ_MIN(n, o->target_tokens ? o->target_tokens : n / 6));
    ij_bencher b = ij_bencher_start(c, k, t, step, &team);
    const double ready = ij_seconds();
    ij_bencher_lap(&b, &w), w.first = ready - begin + w.time[0];        /* from here to the end of the first step */
    ij_bencher_lap(&b, &w), w.done = 0;                 /* the first two do not count */
    for (size_t i = 0; i < repeat && !ij_interrupted; i++) ij_bencher_lap(&b, &w);
    if (ij_interrupted) return 130;
    const double batch = (double)c->batch_size;
    const double flops = batch * (step ? ij_flops(c, k, t) : ij_encode_flops(c, c->crop_size[0], c->crop_size[1]));
    if (step && o->profile) return ij_bench_profile(&w, &b, flops);
    ij_bench_print(&w, o->what, flops, batch);
    return 0;
}

/* ---- compare, ablate ----
 * A list of settings, each trained under one budget and scored, for each seed in a folder of its own; one table, one page. What is
 * done is left as it is, what was interrupted goes on.                                                               */

enum { IJ_ROWS_MOST = 64 };
typedef struct {                /* one run */
    char name[40], paper[16], folder[1100];
    const char *settings;
    ij_config c;
    int resume, done;
    double flops, images;       /* of an update */
    ij_scores s;
} ij_side;

/* Trains or goes on, then scores. */
static int ij_compare_run(void *arg)
{
    ij_options *o = arg;
    ij_table table;
    ij_features a;
    char path[1100];
    const int code = ij_train(o);
    if (code) return code;
    o->model = o->out, o->out = ij_path(path, o->out, "probe.json");
    ij_probe_table(&table, &a, o, IJ_SHORT_WAYS);
    return ij_interrupted ? 130 : 0;
}

/* Sets the length of a run to the budget; warm-up keeps its share. Time is that of updates, measured on noise. */
static void ij_budget(ij_side *k, const char *budget, size_t images, const ij_team *team)
{
    static const struct { const char *name; double times; } unit[] = { { "", 1 }, { "s", 1 }, { "m", 60 }, { "h", 3600 },
        { "GFLOP", 1e9 }, { "TFLOP", 1e12 }, { "PFLOP", 1e15 } };
    ij_config *c = &k->c;
    double context, target, amount, start = 0;
    size_t work, u = 0;
    char *end = NULL;
    ij_error why;
    ij_must(ij_config_check(c, &why), &why);
    ij_mean_tokens(&context, &target, &work, c);
    k->images = (double)(c->batch_size * c->accumulate);
    k->flops = k->images * ij_flops(c, (size_t)(context + 0.5), (size_t)(target + 0.5));
    if ((double)images < k->images) ij_die(1, "%lu training images, fewer than one update takes", (unsigned long)images);
    c->ipe = (size_t)((double)images / k->images);
    if (!budget) return;
    amount = strtod(budget, &end);
    while (u < 7 && strcmp(end, unit[u].name)) u++;
    if (u == 7 || !(amount > 0)) ij_die(2, "--budget is \"%s\", expected a time (90s, 10m, 2h), a number of updates, or work (20TFLOP)", budget);
    amount *= unit[u].times;
    if (u > 3) amount /= k->flops;
    else if (u) {
        ij_bencher b = ij_bencher_start(c, (size_t)(context + 0.5), (size_t)(target + 0.5), 1, team);
        ij_report r;
        for (int i = 0; i < 5 && !ij_interrupted; i++, start = i == 2 ? ij_seconds() : start)
            for (size_t j = 0; j < c->accumulate; j++) if (ij_train_step(&b.m, b.images, &b.masks, &r, NULL)) ij_die(1, "%s: no step", k->name);
        if (ij_interrupted) exit(130);
        amount /= (ij_seconds() - start) / 3;
        ij_bencher_end(&b);
    }
    if (!(amount >= 1 && amount < 9e15)) ij_die(2, "--budget %s is not one update of %s", budget, k->name);
    c->warmup *= amount / (double)ij_steps(c);
    c->steps = (size_t)amount;
}

/* Mean and standard deviation over seeds of every score, and what a run took; the baselines are those of the first row. */
static void ij_compare_table(FILE *f, const ij_side *side, size_t runs, size_t seeds)
{
    const size_t rows = runs / seeds;
    fprintf(f, "%-16s%s", "", *side->paper ? "   paper" : "");
    for (size_t t = 0; t < side->s.tasks; t++) fprintf(f, "  %5.5s k-NN    linear      ", side->s.task[t]);
    fprintf(f, " %9s %8s %8s\n", "images", "TFLOP", "minutes");
    for (size_t r = 0; r <= rows + 1; r++) {            /* then the baselines */
        const ij_side *k = &side[r < rows ? r * seeds : 0];
        const size_t who = r < rows ? IJ_TRAINED : IJ_RANDOM + r - rows, n = who == IJ_PIXELS ? 1 : seeds;
        fprintf(f, "%-16s", r < rows ? k->name : who == IJ_RANDOM ? "random encoder" : "raw pixels");
        if (*side->paper) fprintf(f, " %7s", r < rows ? k->paper : "");
        for (size_t i = 0; i < 2 * k->s.tasks; i++) {
            double mean = 0, square = 0;
            for (size_t j = 0; j < n; j++) mean += k[j].s.score[i / 2][who][i % 2] / (double)n;
            for (size_t j = 0; j < n; j++) square += pow(k[j].s.score[i / 2][who][i % 2] - mean, 2);
            fprintf(f, n > 1 ? "  %5.1f sd %3.1f" : "  %5.1f       ", mean, sqrt(square / (double)IJ_MAX(n - 1, 1)));
        }
        double ms = 0;
        for (size_t j = 0, lines; r < rows && j < seeds; j++) {
            double *v = ij_csv(&lines, k[j].folder, "log.csv", "time (ms)");
            for (size_t i = 0; i < lines; i++) ms += v[i] / (double)seeds;
            free(v);
        }
        if (r < rows) fprintf(f, " %9.0f %8.3g %8.1f", k->images * (double)ij_steps(&k->c), k->flops * (double)ij_steps(&k->c) / 1e12, ms / 60000);
        fprintf(f, "\n");
    }
}

/* k-NN within the training images (probe.csv) over work, a colour for each row. */
static void ij_compare_curves(FILE *f, const ij_side *side, size_t runs, size_t seeds)
{
    static const char *const colour[] = { "#c33", "#36c", "#393", "#c80", "#83b", "#088", "#b58", "#777" };
    double low = HUGE_VAL, high = -HUGE_VAL, most = 0;
    fprintf(f, "<svg viewBox=\"0 0 640 240\" role=img aria-label=\"score over work\">");
    for (int draw = 0; draw < 2; draw++)
        for (size_t i = 0; i < runs; i++) {
            size_t n, lines;
            double *step = ij_csv(&n, side[i].folder, "probe.csv", "step"), *score = ij_csv(&lines, side[i].folder, "probe.csv", "mean");
            if (draw) fprintf(f, "<polyline style=\"stroke:%s\" points=\"", colour[i / seeds % 8]);
            for (size_t k = 0; k < n; k++) {
                const double x = step[k] * side[i].flops;
                if (!draw) low = IJ_MIN(low, score[k]), high = IJ_MAX(high, score[k]), most = IJ_MAX(most, x);
                else fprintf(f, "%.1f,%.1f ", 8 + 624 * x / most, high > low ? 232 - 224 * (score[k] - low) / (high - low) : 120);
            }
            if (draw) fprintf(f, "\"/>");
            free(step), free(score);
        }
    fprintf(f, "</svg><p>");
    for (size_t i = 0; i < runs; i += seeds) fprintf(f, "<b style=\"color:%s\">%s</b> ", colour[i / seeds % 8], side[i].name);
    fprintf(f, "<br><small>Up: from %.1f to %.1f %%. To the right: work, up to %.3g TFLOP.</small></p>\n", low, high, most / 1e12);
}

static int ij_compare(ij_options *o)
{
    const char *list = o->bit == IJ_COMPARES ? "objective" : o->what ? o->what : "", *at = o->rows;
    const size_t seeds = IJ_MAX(o->seeds, 1), time = o->budget && *o->budget && strchr("smh", o->budget[strlen(o->budget) - 1]);
    char path[1100], name[90], known[200] = "", made[4096], with[4096];
    size_t runs = 0;
    ij_error why;
    for (size_t i = 0; i < IJ_ABLATIONS; i++) {
        if (i) snprintf(known + strlen(known), 30, " %s", ij_ablation[i].name);
        if (!o->rows && !strcmp(list, ij_ablation[i].name)) at = ij_ablation[i].rows;
    }
    if (!o->out) ij_die(2, "%s needs --out DIR", o->command);
    if (!at) ij_die(2, "ablate is of one of%s", known);
    if (!o->data) o->data = "scenes";
    const ij_team team = ij_team_start(o->threads);
    ij_images data = ij_images_open(o->data, IJ_TRAIN_PART, o->test != NULL, &o->c, 1, &team);
    ij_images test = ij_images_open(o->test ? o->test : o->data, IJ_TEST_PART, o->test != NULL, &o->c, 1, &team);
    if (!ij_data_tasks(data.d) || ij_data_tasks(data.d) != ij_data_tasks(test.d)) ij_die(1, "%s: no labels: a comparison needs them", o->data);
    snprintf(made, sizeof made, "--data %s --test %s --images %lu --budget %s", o->data, o->test ? o->test : "-", (unsigned long)o->images, o->budget ? o->budget : "-");
    FILE *f = fopen(ij_path(path, o->out, "compare.txt"), "r");         /* runs under other conditions do not stand side by side */
    if (f && fgets(with, sizeof with, f) && strcmp(with, made)) ij_die(1, "%s: made with %s, asked for is %s", path, with, made);
    const int there = f != NULL;
    if (f) fclose(f);
    ij_side *side = ij_zeros(ij_mul(IJ_ROWS_MOST * sizeof *side, seeds));
    for (const char *next = at; *at; at = next) {       /* all is checked before anything is trained */
        int used = 0, begun = 0;
        ij_side *k = &side[runs];
        next += strcspn(at, ";"), next += *next == ';';
        if (runs == IJ_ROWS_MOST * seeds) ij_die(2, "more than %d rows", (int)IJ_ROWS_MOST);
        sscanf(at, " %39[-_.a-zA-Z0-9 ]%n (%15[^)])%n", k->name, &used, k->paper, &used);
        if (!used || at[used] != ':') ij_die(2, "\"%.200s\": expected NAME: key=value key=value; NAME: ...", at);
        for (size_t end = strlen(k->name); end && k->name[end - 1] == ' ';) k->name[--end] = 0;
        k->settings = at + used + 1, k->c = o->c;
        ij_use_settings(&k->c, k->settings);
        for (size_t i = 0; i < seeds; i++) {
            ij_side *run = &side[runs + i];
            *run = *k, run->c.seed = k->c.seed + i;
            snprintf(name, sizeof name, "%s_%lu", k->name, (unsigned long)run->c.seed);
            for (char *space = name; (space = strchr(space, ' ')) != NULL;) *space = '_';
            ij_path(run->folder, o->out, name);
            for (size_t j = 0; j < runs; j++) if (!strcmp(side[j].folder, run->folder)) ij_die(2, "two rows are called %s", k->name);
            FILE *old = fopen(ij_path(path, run->folder, "latest.safetensors"), "rb");
            ij_file file;
            ij_config saved;
            if (!old) continue;
            fclose(old), run->resume = 1;
            if (begun++ || !time) continue;
            if (ij_resume_config(&file, &saved, path, 0)) k->c.steps = saved.steps, k->c.warmup = saved.warmup;     /* as it was measured */
            ij_file_close(&file);
        }
        ij_budget(k, begun && time ? NULL : o->budget, data.count, &team);
        for (size_t i = 0; i < seeds; i++) {
            ij_side *run = &side[runs + i];
            run->c = k->c, run->c.seed += i, run->flops = k->flops, run->images = k->images;
            if (!run->resume) continue;
            ij_file file;
            ij_resume_config(&file, &run->c, ij_path(path, run->folder, "latest.safetensors"), 1);
            const char *step = ij_file_meta(&file, "step");
            run->done = ij_scores_read(&run->s, run->folder) > 0 && step && strtoul(step, NULL, 10) == ij_steps(&run->c) &&
                        (runs || run->s.score[0][IJ_RANDOM][0] >= 0) && (runs || i || run->s.score[0][IJ_PIXELS][0] >= 0);
            ij_file_close(&file);
        }
        runs += seeds;
        if (ij_interrupted) return 130;
    }
    ij_must(ij_make_folder(o->out, &why), &why);
    if (!there) f = ij_open_or_die(ij_path(path, o->out, "compare.txt"), "w"), fputs(made, f), ij_close_or_die(f, path);
    for (size_t i = 0; i < runs; i++) {
        ij_side *k = &side[i];
        ij_options run = *o;
        run.c = k->c, run.out = k->folder, run.resume = k->resume, run.probe_every = IJ_MAX(1, ij_steps(&k->c) / k->c.ipe / 8);
        run.baselines = !i ? 2 : i < seeds;             /* the table has one of each */
        fprintf(stderr, "%s, seed %lu (%lu of %lu)\n", k->name, (unsigned long)k->c.seed, (unsigned long)i + 1, (unsigned long)runs);
        const int code = k->done ? 0 : ij_apart(ij_compare_run, &run, &ij_interrupted);
        if (code || ij_interrupted) return code ? code : 130;
        if (ij_scores_read(&k->s, k->folder) < 1) ij_die(1, "%s: no scores", k->folder);
    }
    ij_compare_table(stdout, side, runs, seeds);
    f = ij_html_begin(path, o->out, "compare.html", o->out);
    fprintf(f, "<h1>Side by side</h1>\n<p>Each row trained on <code>"), ij_html_text(f, o->data);
    fprintf(f, "</code>, budget %s; sd is the standard deviation over %lu seeds.</p>\n<pre class=wide style=\"white-space:pre\">", o->budget ? o->budget : "by epochs", (unsigned long)seeds);
    ij_compare_table(f, side, runs, seeds);
    fprintf(f, "</pre>\n<h2>Score over work</h2><p>k-NN within the training images, mean of the tasks.</p>\n");
    ij_compare_curves(f, side, runs, seeds);
    fprintf(f, "<h2>What the features see</h2><p>Their three main components as red, green and blue at the end of each run, of the images in the first line.</p>\n<div class=wide><table class=strips>");
    ij_html_file(f, side->folder, "pca_images.png", "");
    for (size_t i = 0; i < runs; i += seeds)
        snprintf(name, sizeof name, "pca_%lu.png", (unsigned long)ij_steps(&side[i].c)), ij_html_file(f, side[i].folder, name, side[i].name);
    fprintf(f, "</table></div>\n<h2>Settings</h2><pre>");
    for (size_t i = 0; i < runs; i += seeds) fprintf(f, "%s:%.*s\n", side[i].name, (int)strcspn(side[i].settings, ";<&"), side[i].settings);
    fprintf(f, "</pre></html>\n");
    ij_finish(f, path);
    return 0;
}

/* Before anything else: does this processor have the instructions that the compiler was allowed to use? */
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
        fputs("ijepa: this processor lacks ", stderr), fputs(missing, stderr);
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
