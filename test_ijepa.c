/* test_ijepa.c - checks ijepa.c against the reference's numbers, against differences, and against
 * bad input.
 *
 *   ./test_ijepa                  every test (golden files from data/golden/)
 *   ./test_ijepa masks_ gradient  tests whose name contains one of the words
 *   ./test_ijepa check_table      every gradient against differences, as a table
 *   ./test_ijepa FILE...          golden training runs: each file checked from its own metadata
 *
 * Exit 0 if all passed. Bounds come from the golden files' own documentation
 * (data/golden/README.md): worst of three evaluations by other programs, with a margin of three or
 * so.                                                       */
#if !defined(_POSIX_C_SOURCE)
#define _POSIX_C_SOURCE 200809L
#define _GNU_SOURCE
#endif
#include <stdio.h>
#include <unistd.h>

/* What writes a file, made to fail at its n-th call: */
static long fail_at = -1;
static int failing(void) { return fail_at >= 0 && fail_at-- == 0; }
static int short_write;
#define fopen(path, mode) (failing() ? NULL : fopen(path, mode))
#define fwrite(x, size, n, f) (failing() ? (short_write = 1, (size_t)0) : fwrite(x, size, n, f))
#define ferror(f) (short_write || ferror(f))
#define fflush(f) (failing() ? EOF : fflush(f))
#define fsync(f) (failing() ? -1 : fsync(f))
#define fclose(f) (failing() ? (fclose(f), EOF) : fclose(f))
#define rename(a, b) (failing() ? -1 : rename(a, b))
#define IJEPA_MAIN
#define main ijepa_main
#include "ijepa.c"
#undef main
#undef fopen
#undef fwrite
#undef ferror
#undef fflush
#undef fsync
#undef fclose
#undef rename

#include <stdlib.h>
#include <sys/stat.h>
#include <signal.h>
#ifndef IJEPA_NO_POSIX
#include <sys/resource.h>
#endif
#include <sys/types.h>

static size_t failed_checks;

#define CHECK(condition, ...)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            failed_checks++;                                                                       \
            printf("  %s:%d: ", __FILE__, __LINE__);                                               \
            printf(__VA_ARGS__);                                                                   \
            printf("\n");                                                                          \
        }                                                                                          \
    } while (0)

/* The call succeeds; it is refused, and says so in these words. Its ij_error is `why`. */
#define SUCCEED(call) CHECK(!(call), "%s", why.text)
#define REFUSE(status, words, call)                                                                \
    CHECK((call) == (status) && strstr(why.text, words), "%s: %s", words, why.text)

static const char *scratch(const char *name)            /* valid for eight calls */
{
    static char folder[128], path[8][256];
    const char *below = getenv("TMPDIR");
    static size_t next;
    char *p = path[next++ % 8];
    if (!folder[0]) {
        snprintf(folder, sizeof folder, "%.90s/ijepa-test-%zu", below ? below : "/tmp",
                 (size_t)getpid());
        mkdir(folder, 0700);
    }
    snprintf(p, 256, "%s%s%s", folder, *name ? "/" : "", name);
    return p;
}

static const char *scratch_folder(const char *name)
{
    const char *path = scratch(name);
    mkdir(path, 0700);
    return path;
}

static void scratch_remove(void)
{
    char command[300];
    snprintf(command, sizeof command, "rm -rf '%s'", scratch(""));
#if defined(_WIN32) || defined(__wasi__)                /* no rm, no other program */
    printf("scratch files remain: %s\n", command);
#else
    if (system(command)) printf("scratch files remain\n");
#endif
}

static void write_file(const char *path, const void *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");
    const int ok = f && fwrite(bytes, 1, n, f) == n;
    CHECK(f && !fclose(f) && ok, "cannot write %s", path);
}

static size_t read_file(const char *path, void *bytes, size_t cap)
{
    FILE *f = fopen(path, "rb");
    if (!f) return 0;
    const size_t n = fread(bytes, 1, cap, f);
    fclose(f);
    return n;
}

static void *need(size_t size)
{
    void *p = malloc(size ? size : 1);
    if (!p) { printf("out of memory: %zu bytes\n", size); exit(1); }
    return p;
}

static double random_unit(uint64_t *state)
{
    return (double)(ij_mix(state) >> 11) / 4503599627370496.0 - 1;
}

static real *random_reals(size_t n, uint64_t seed)
{
    real *x = need(n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = (real)random_unit(&seed);
    return x;
}

/* ---- small models ---- */

static ij_config small_config(void)
{
    ij_config c = ij_config_default();
    c.batch_size = 3;
    c.crop_size[0] = 24;
    c.crop_size[1] = 32;
    c.embed_dim = 24;
    c.depth = 2;
    c.num_heads = 2;
    c.pred_emb_dim = 16;
    c.min_keep = 1;
    c.ipe = 5;
    c.epochs = 2;
    return c;
}

/* A model ready to train; its memory is the caller's to free. */
static void *start_model(ij_model *m, const ij_config *c)
{
    ij_error why;
    size_t size;
    SUCCEED(ij_model_size(&size, c, IJ_TRAIN, &why));
    void *mem = need(size);
    SUCCEED(ij_model_init(m, mem, size, c, IJ_TRAIN, &why));
    return mem;
}

static void draw_masks(ij_model *m, uint64_t step)
{
    const ij_config *c = &m->config;
    ij_error why;
    SUCCEED(ij_masks_draw(&m->masks, c, &m->mask_rng, step, c->batch_size, &why));
}

/* A step up to its loss. */
static double forward_step(ij_step *s, ij_model *m, const real *images, size_t first)
{
    CHECK(!ij_step_begin(s, m, images, &m->masks, first, NULL), "the step does not begin");
    ij_encode_targets(s, NULL);
    ij_encode_context(s, NULL);
    ij_predict(s, NULL);
    return ij_loss(s, NULL);
}

/* ---- golden files ---- */

#ifdef IJEPA_DOUBLE
enum { IN_DOUBLE = 1 };
#else
enum { IN_DOUBLE = 0 };
#endif

typedef struct { ij_file f; void *mem; } open_file;

/* Opens with exactly the memory that was promised. */
static ij_status file_try(open_file *g, const char *path, ij_error *why)
{
    size_t size;
    ij_status s = ij_file_size(&size, path, why);
    if (s) return s;
    g->mem = need(size);
    s = ij_file_open(&g->f, g->mem, size, path, why);
    if (s) free(g->mem);
    return s;
}

static int file_open(open_file *g, const char *path)
{
    ij_error why;
    const ij_status s = file_try(g, path, &why);
    CHECK(!s, "%s", why.text);
    return !s;
}

static void file_close(open_file *g)
{
    ij_file_close(&g->f);
    free(g->mem);
}

/* The tensor's numbers as double, the caller's to free; NULL and a failed check without it. */
static double *golden_read(const open_file *g, const char *name, size_t *count)
{
    const ij_entry *e = ij_file_find(&g->f, name);
    if (count) *count = e ? e->count : 0;
    CHECK(e, "%s: no tensor %s", g->f.path, name);
    if (!e) return NULL;
    double *x = need(e->count * sizeof *x);
    FILE *stream = g->f.stream;
    const int at = fseek(stream, (long)(g->f.data + e->begin), SEEK_SET);
    CHECK(e->dtype != IJ_OTHER && !at, "%s cannot be read", name);
    for (size_t i = 0; i < e->count && e->dtype != IJ_OTHER; i++) {
        unsigned char b[8];
        const size_t size = ij_dtype[e->dtype].bits / 8;
        CHECK(fread(b, 1, size, stream) == size, "%s ends", name);
        x[i] = ij_number(e->dtype, ij_little(b, size));
    }
    return x;
}

static double meta_number(const open_file *g, const char *key)
{
    const char *v = ij_file_meta(&g->f, key);
    CHECK(v, "%s: no metadata %s", g->f.path, key);
    return v ? strtod(v, NULL) : 0;
}

/* One row of the table: the worst error of a group of tensors, against its bound. */
typedef struct {
    const char *name;
    double bound, worst;
    char where[128];
    size_t tensors;
} golden_group;

static void group_add(golden_group *g, double error, const char *where)
{
    g->tensors++;
    if (!(error <= g->worst)) {                         /* NaN is worst of all */
        g->worst = error;
        snprintf(g->where, sizeof g->where, "%s", where);
    }
}

/* max |got - want|, or |got - want| / |want| as norms; a reference that is not finite or all
 * zero is refused. */
static double compare(const real *got, const double *want, size_t n, int relative)
{
    double most = 0, error = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        const double e = fabs((double)got[i] - want[i]);
        if (!(e <= most)) most = e;
        error += e * e;
        norm += want[i] * want[i];
    }
    if (!isfinite(norm) || !(norm > 0)) return (double)NAN;
    return relative ? sqrt(error / norm) : most;
}

enum {
    G_EMBED, G_BLOCK, G_NORM, G_LOSS, G_GRAD, G_GRAD_KEY, G_MOMENTS, G_WEIGHT, G_WEIGHT_WORST,
    G_WEIGHT_ALL, G_TARGET, G_TARGET_WORST, G_TARGET_ALL, G_POS, G_KEY, G_GROUPS
};

static void golden_act(golden_group *g, const open_file *f, const char *name, const real *x,
                       size_t count)
{
    size_t n;
    char full[80];
    snprintf(full, sizeof full, "step0.act.%s", name);
    double *want = golden_read(f, full, &n);
    if (!want) return;
    CHECK(n == count, "%s: %zu numbers, expected %zu", full, n, count);
    if (n == count) group_add(g, compare(x, want, n, 0), full);
    free(want);
}

/* The output of the last block and of the norm: of each sequence the last rows, which are all
 * that was asked for. */
static void golden_asked(golden_group *g, const open_file *f, const char *name, const ij_stack *s,
                         const ij_tensor *x)
{
    size_t n, d = ij_cols(x), row = 0;
    char full[80];
    snprintf(full, sizeof full, "step0.act.%s", name);
    double *want = golden_read(f, full, &n);
    CHECK(want && n == s->seqs.tokens * d, "%s: %zu numbers", full, n);
    for (size_t i = 0; want && i < s->seqs.count; i++)
        for (size_t r = s->seqs.start[i + 1] - ij_length(&s->asked, i); r < s->seqs.start[i + 1];
             r++, row++)
            group_add(g, compare(x->x + row * d, want + r * d, d, 0), full);
    CHECK(row == ij_rows(x), "%s: %zu rows", full, row);
    free(want);
}

static void golden_stack(golden_group *g, const open_file *f, const char *part, const ij_stack *s)
{
    char name[64];
    for (size_t i = 0; i < s->depth; i++) {
        snprintf(name, sizeof name, "%s.block%zu", part, i);
        if (i + 1 < s->depth)
            golden_act(&g[G_BLOCK], f, name, s->block[i + 1].x.x, ij_count(&s->block[i + 1].x));
        else golden_asked(&g[G_BLOCK], f, name, s, &s->out);
    }
    snprintf(name, sizeof name, "%s.norm", part);
    golden_asked(&g[G_NORM], f, name, s, &s->norm);
    snprintf(name, sizeof name, "%s.%s", part, strcmp(part, "predictor") ? "embed" : "in");
    golden_act(&g[G_EMBED], f, name, s->block[0].x.x, ij_count(&s->block[0].x));
}

static ij_config golden_config(const open_file *g)
{
    static const char *const name[] = {
        "img_size", "nenc", "npred", "wd", "final_wd", "patch_size", "embed_dim", "depth",
        "num_heads", "mlp_ratio", "pred_emb_dim", "pred_depth", "batch_size", "enc_mask_scale",
        "pred_mask_scale", "aspect_ratio", "min_keep", "allow_overlap", "ipe", "epochs", "warmup",
        "ipe_scale", "start_lr", "lr", "final_lr", "ema", "betas", "eps"
    };
    static const char *const ours[] = {                 /* of the first; the others are the same */
        "crop_size", "num_enc_masks", "num_pred_masks", "weight_decay", "final_weight_decay"
    };
    ij_config c = ij_config_default();
    ij_error why;
    c.mask_mode = IJ_MASK_REFERENCE;
    for (size_t i = 0; i < sizeof name / sizeof *name; i++) {
        const char *value = ij_file_meta(&g->f, name[i]);
        CHECK(value, "%s: no metadata %s", g->f.path, name[i]);
        const char *key = i < sizeof ours / sizeof *ours ? ours[i] : name[i];
        if (value) SUCCEED(ij_config_set(&c, key, value, &why));
    }
    CHECK((size_t)meta_number(g, "mlp_hidden") == ij_hidden(&c),
          "mlp_hidden is not embed_dim * mlp_ratio");
    return c;
}

static void golden_lists(ij_lists *l, const open_file *g, size_t step, const char *part)
{
    char name[64];
    size_t n;
    snprintf(name, sizeof name, "step%zu.%s_masks", step, part);
    double *x = golden_read(g, name, &n);
    const ij_entry *e = ij_file_find(&g->f, name);
    if (!x) return;
    const size_t k = e->dim[2];
    CHECK(l->lists == e->dim[0] * e->dim[1], "%s: %zu lists drawn", name, l->lists);
    /* the sampler, drawn anew, gives the lists of the file */
    for (size_t i = 0; i < l->lists; i++) {
        CHECK(l->length[i] == k, "%s: list %zu has %zu, expected %zu", name, i, l->length[i], k);
        for (size_t j = 0; j < k && l->length[i] == k; j++)
            CHECK((double)l->index[i * l->stride + j] == x[i * k + j], "%s[%zu,%zu]", name, i, j);
    }
    free(x);
}

/* got against init and final of the file: worst element, update of each tensor and of all; key
 * biases apart. */
static void golden_update(golden_group *group, golden_group *key, const open_file *g,
                          const ij_model *m, const real *got, int part)
{
    static const char *const prefix[3] = { "encoder", "predictor", "target_encoder" };
    double total_error = 0, total_update = 0;
    for (int from = part == 2 ? 2 : 0, to = part == 2 ? 3 : 2, k = from; k < to; k++)
        for (size_t p = 0; p < m->params; p++) {
            const ij_param *at = &m->param[p];
            if (at->predictor != (k == 1)) continue;
            char name[128];
            size_t n;
            snprintf(name, sizeof name, "init.%s.%s", prefix[k], at->name);
            double *init = golden_read(g, name, &n);
            snprintf(name, sizeof name, "final.%s.%s", prefix[k], at->name);
            double *final = golden_read(g, name, &n);
            const real *x = got + at->offset;
            double error = 0, update = 0;
            for (size_t i = 0; init && final && i < n; i++) {
                const double e = fabs((double)x[i] - final[i]), u = final[i] - init[i];
                if (strstr(name, "qkv.bias") && i >= n / 3 && i < 2 * n / 3) {
                    group_add(key, e, name);
                    continue;
                }
                group_add(&group[0], e, name);
                error += e * e;
                update += u * u;
            }
            group_add(&group[1], update > 0 ? sqrt(error / update) : (double)NAN, name);
            total_error += error;
            total_update += update;
            free(init);
            free(final);
        }
    group_add(&group[2], sqrt(total_error / total_update), prefix[part]);
}

/* Activations and gradients of the first step. */
static void golden_first_step(golden_group *group, const open_file *g, ij_model *m,
                              const real *images)
{
    const ij_config *c = &m->config;
    char name[128];
    size_t n;
    ij_step s;
    forward_step(&s, m, images, 0);
    golden_stack(group, g, "context", &s.context.stack);
    golden_stack(group, g, "predictor", &s.predictor.stack);
    golden_act(&group[G_NORM], g, "predictor.out", s.predictor.out.x,
               ij_count(&s.predictor.out));
    golden_act(&group[G_NORM], g, "targets", s.loss.want.x, ij_count(&s.loss.want));
    /* the target encoder again, keeping what the step need not */
    ij_encoder_pass keep = s.target;
    ij_arena a = { NULL, 0, 0 };
    const size_t patches = ij_rows(&m->encoder_pos), b = c->batch_size;
    for (int pass = 0; pass < 2; pass++) {
        if (pass) {
            a.base = need(a.used);
            a.size = a.used;
            a.used = 0;
        }
        ij_encoder_place(&keep, &a, c->depth, c->num_heads, c->patch_size, c->embed_dim,
                         ij_hidden(c), b, b * patches, b * patches * patches,
                         1);
    }
    keep.stack.seqs = keep.stack.asked = s.target.stack.seqs;
    ij_each(NULL, keep.stack.seqs.pieces, ij_encoder_task, &keep);
    golden_stack(group, g, "target", &keep.stack);
    for (size_t r = 0, d = c->embed_dim; r < b * patches; r++) {
        real mean, rstd, *x = keep.stack.norm.x + r * d;
        ij_moments(&mean, &rstd, x, d, IJ_TARGET_EPS);
        for (size_t i = 0; i < d; i++) x[i] = (x[i] - mean) * rstd;
    }
    golden_act(&group[G_NORM], g, "target.layernormed", keep.stack.norm.x,
               ij_count(&keep.stack.norm));
    free(a.base);
    ij_backward(m, &s, NULL);
    for (size_t p = 0; p < m->params; p++) {
        const ij_param *at = &m->param[p];
        snprintf(name, sizeof name, "step0.grad.%s.%s",
                 at->predictor ? "predictor" : "encoder",
                 at->name);
        double *want = golden_read(g, name, &n);
        real *got = m->grad + at->offset;
        if (!want) continue;
        if (strstr(name, "qkv.bias")) {
            for (size_t i = n / 3; i < 2 * n / 3; i++) {
                group_add(&group[G_GRAD_KEY], fabs((double)got[i]), name);
                got[i] = 0;
                want[i] = 0;
            }
        }
        group_add(&group[G_GRAD], compare(got, want, n, 1), name);
        free(want);
    }
    memset(m->grad, 0, m->size * sizeof(real));
}

static void golden_moments(golden_group *group, const open_file *g, const ij_model *m)
{
    char name[128];
    size_t n;
    for (size_t p = 0; p < m->params; p++)
        for (int v = 0; v < 2; v++) {
            const ij_param *at = &m->param[p];
            snprintf(name, sizeof name, "final.opt.%c.%s.%s", "mv"[v],
                     at->predictor ? "predictor" : "encoder",
                     at->name);
            double *want = golden_read(g, name, &n);
            real *got = (v ? m->adam_v : m->adam_m) + at->offset;
            if (!want) continue;
            if (strstr(name, "qkv.bias"))
                for (size_t i = n / 3; i < 2 * n / 3; i++) {
                    got[i] = 0;
                    want[i] = 0;
                }
            group_add(group, compare(got, want, n, 1), name);
            free(want);
        }
}

static void golden_run(const char *path, int print)
{
    open_file g;
    if (!file_open(&g, path)) return;
    const int rounded = ij_file_find(&g.f, "step0.act.targets") &&
                        ij_file_find(&g.f, "step0.act.targets")->dtype == IJ_F32;
    const double act = rounded ? 6e-7 : 1e-11;
    golden_group group[G_GROUPS] = {
        { "activations: embed, predictor.in", IN_DOUBLE ? act : 7e-6, 0, "", 0 },
        { "activations: blocks", IN_DOUBLE ? act : 2e-5, 0, "", 0 },
        { "activations: norms, targets, out", IN_DOUBLE ? act : 1e-5, 0, "", 0 },
        { "loss of every step", IN_DOUBLE ? 1e-12 : 3e-7, 0, "", 0 },
        { "gradient, relative", IN_DOUBLE ? 1e-11 : 4e-6, 0, "", 0 },
        { "gradient of key bias (truth: 0)", IN_DOUBLE ? 1e-15 : 2e-9, 0, "", 0 },
        { "moments m, v, relative", IN_DOUBLE ? (rounded ? 1e-7 : 1e-11) : 5e-6, 0, "", 0 },
        { "weights after the last step", IN_DOUBLE ? 1e-11 : 4e-5, 0, "", 0 },
        { "  their update, worst tensor", IN_DOUBLE ? 1e-10 : 2e-4, 0, "", 0 },
        { "  their update, all", IN_DOUBLE ? 1e-11 : 5e-5, 0, "", 0 },
        { "target encoder after the last step", IN_DOUBLE ? 1e-11 : 1.2e-5, 0, "", 0 },
        { "  its update, worst tensor", IN_DOUBLE ? 1e-10 : 2e-3, 0, "", 0 },
        { "  its update, all", IN_DOUBLE ? 1e-11 : 2e-4, 0, "", 0 },
        { "position tables", IN_DOUBLE ? 1e-14 : 6e-7, 0, "", 0 },
        { "key bias after the last step", 1e-11, 0, "", 0 },
    };
    const ij_config c = golden_config(&g);
    const size_t steps = (size_t)meta_number(&g, "steps");
    ij_error why;
    ij_model m;
    size_t n;
    double lr_sum = 0;
    char name[128];
    void *mem = start_model(&m, &c);
    for (size_t p = 0; p < m.params; p++) {             /* the start */
        const ij_param *at = &m.param[p];
        snprintf(name, sizeof name, "init.%s.%s", at->predictor ? "predictor" : "encoder",
                 at->name);
        double *w = golden_read(&g, name, &n);
        CHECK(n == ij_count(&at->shape), "%s: %zu numbers", name, n);
        for (size_t i = 0; w && i < n; i++) m.weight[at->offset + i] = (real)w[i];
        free(w);
        if (at->predictor) continue;
        snprintf(name, sizeof name, "init.target_encoder.%s", at->name);
        w = golden_read(&g, name, &n);
        for (size_t i = 0; w && i < n; i++) m.target[at->offset + i] = (real)w[i];
        free(w);
    }
    ij_rng_seed(&m.mask_rng, (uint64_t)meta_number(&g, "mask_seed"));
    for (size_t k = 0; k < steps; k++) {
        const struct { const char *name; double value; } schedule[3] = {
            { "lr", ij_lr(&c, k + 1) }, { "wd", ij_weight_decay(&c, k + 1) },
            { "ema", ij_ema(&c, k + 1) }
        };
        for (int i = 0; i < 3; i++) {
            snprintf(name, sizeof name, "step%zu.%s", k, schedule[i].name);
            double *want = golden_read(&g, name, &n);
            CHECK(want && fabs(schedule[i].value - want[0]) <= 1e-12 * fabs(want[0]),
                  "%s is %.17g, expected %.17g", name, schedule[i].value,
                  want ? want[0] : 0);
            free(want);
        }
        lr_sum += schedule[0].value;
        draw_masks(&m, k);
        golden_lists(&m.masks.context, &g, k, "enc");
        golden_lists(&m.masks.target, &g, k, "pred");
        snprintf(name, sizeof name, "step%zu.images", k);
        double *pixels = golden_read(&g, name, &n);
        real *images = need(n * sizeof *images);
        for (size_t i = 0; pixels && i < n; i++) images[i] = (real)pixels[i];
        if (k == 0) golden_first_step(group, &g, &m, images);
        ij_report r;
        SUCCEED(ij_train_step(&m, images, &m.masks, &r, &why));
        snprintf(name, sizeof name, "step%zu.loss", k);
        double *want = golden_read(&g, name, &n);
        if (want) group_add(&group[G_LOSS], fabs(r.loss - want[0]), name);
        free(want);
        free(pixels);
        free(images);
    }
    if (!IN_DOUBLE) group[G_KEY].bound = lr_sum;
    golden_update(&group[G_WEIGHT], &group[G_KEY], &g, &m, m.weight, 0);
    golden_update(&group[G_TARGET], &group[G_KEY], &g, &m, m.target, 2);
    golden_moments(&group[G_MOMENTS], &g, &m);
    const struct { const char *name; const ij_tensor *t; } pos[3] = {
        { "final.encoder.pos_embed", &m.encoder_pos },
        { "final.target_encoder.pos_embed", &m.encoder_pos },
        { "final.predictor.predictor_pos_embed", &m.predictor_pos }
    };
    for (int i = 0; i < 3; i++) {
        double *want = golden_read(&g, pos[i].name, &n);
        if (want && n == ij_count(pos[i].t))
            group_add(&group[G_POS], compare(pos[i].t->x, want, n, 0), pos[i].name);
        else CHECK(0, "%s: wrong size", pos[i].name);
        free(want);
    }
    if (print) printf("%s (%s build)\n", path, IN_DOUBLE ? "double" : "float");
    for (int i = 0; i < G_GROUPS; i++) {
        if (print)
            printf("  %-36s worst %9.2e  bound %9.2e  %s\n", group[i].name, group[i].worst,
                   group[i].bound,
                   group[i].where);
        CHECK(group[i].tensors && group[i].worst <= group[i].bound, "%s: %s: %g exceeds %g at %s",
              path, group[i].name, group[i].worst, group[i].bound,
              group[i].where);
    }
    free(mem);
    file_close(&g);
}

static void test_golden_a(void) { golden_run("data/golden/golden_a.safetensors", 0); }
static void test_golden_b(void) { golden_run("data/golden/golden_b.safetensors", 0); }

/* ---- gradients ----
 * Every backward against central differences: of one layer, the objective sum(y * r) for a random
 * r; of the whole loss, every parameter tensor of a small model. In double the errors are about
 * 1e-9; in float differences are so rough that only blunders show. `make check` prints them. */

static const double gradient_eps = IN_DOUBLE ? 1e-5 : 1e-2;
static const double gradient_bound = IN_DOUBLE ? 1e-7 : 2e-2;
static struct { int print; size_t rows, right; } gradients;

/* |g - d| / |d| over every stride-th number of x, where d are differences of f(arg). */
static void gradient_row(const char *what, const char *part, ij_tensor x, ij_tensor g,
                         size_t stride, double (*f)(void *), void *arg)
{
    double square = 0, norm = 0, error = 0;
    for (size_t i = 0; i < ij_count(&x); i += stride) {
        const real keep = x.x[i];
        x.x[i] = keep + (real)gradient_eps;
        const double high = f(arg), above = (double)x.x[i];
        x.x[i] = keep - (real)gradient_eps;
        const double low = f(arg), d = (high - low) / (above - (double)x.x[i]);
        x.x[i] = keep;
        square += (d - (double)g.x[i]) * (d - (double)g.x[i]);
        norm += d * d;
    }
    if (!(square <= 0)) error = norm > 0 ? sqrt(square / norm) : 1e300;
    const int right = error <= gradient_bound;
    CHECK(right, "gradient of %s%s: error %g, bound %g", what, part, error, gradient_bound);
    if (gradients.print)
        printf("%17s%-44s %3zu numbers  error %-9.2e %s\n", what, part,
               (ij_count(&x) + stride - 1) / stride, error,
               right ? "ok" : "WRONG");
    gradients.rows++;
    gradients.right += (size_t)right;
}

static ij_tensor random_matrix(ij_arena *a, uint64_t *state, size_t rows, size_t cols)
{
    const ij_tensor t = ij_matrix(a, rows, cols);
    for (size_t i = 0; i < rows * cols; i++) t.x[i] = (real)random_unit(state);
    return t;
}

enum { LAYER_LINEAR, LAYER_NORM, LAYER_GELU, LAYER_ATTENTION, LAYERS };
typedef struct {                        /* a layer with input x, parameters w and b, output y */
    int kind;
    ij_tensor part[3], dpart[3], y, dy, stat;
    real *prob;
} layer_case;

static double layer_forward(void *arg)
{
    const layer_case *c = arg;
    const ij_tensor x = c->part[0], w = c->part[1];
    double sum = 0;
    if (c->kind == LAYER_LINEAR) ij_linear(c->y, x, &w, &c->part[2], NULL);
    if (c->kind == LAYER_NORM) ij_layernorm(c->y, c->stat, x, &w, &c->part[2]);
    if (c->kind == LAYER_GELU) {
        ij_copy(c->stat, x);
        ij_gelu(c->y, c->stat);
    }
    if (c->kind == LAYER_ATTENTION)
        ij_attention(c->y.x, c->prob, w.x, x.x, ij_rows(&c->y), ij_rows(&x), ij_cols(&c->y), 2);
    for (size_t i = 0; i < ij_count(&c->y); i++) sum += (double)c->y.x[i] * (double)c->dy.x[i];
    return sum;
}

static void layer_backward(const layer_case *c)
{
    const ij_tensor x = c->part[0], w = c->part[1], dx = c->dpart[0];
    const ij_tensor *dw = &c->dpart[1], *db = &c->dpart[2];
    if (c->kind == LAYER_LINEAR) {
        ij_linear_backward(dx, c->dy, &w, 0, NULL);
        ij_linear_backward_weight(dw, db, &c->dy, &x, 0, ij_cols(&c->y));
    }
    if (c->kind == LAYER_NORM) {
        ij_layernorm_backward(dx, c->dy, c->stat, x, &w);
        ij_layernorm_backward_weight(dw, db, &c->dy, &c->stat, &x, 0, ij_cols(&x));
    }
    if (c->kind == LAYER_GELU) {
        ij_copy(dx, c->dy);
        ij_gelu_backward(dx, c->stat);
    }
    if (c->kind == LAYER_ATTENTION)
        ij_attention_backward(dw->x, dx.x, c->stat.x, c->dy.x, c->prob, w.x, x.x, ij_rows(&c->y),
                              ij_rows(&x), ij_cols(&c->y),
                              2);
}

static void gradients_of_layers(void)
{
    static const struct { const char *name, *part[3]; size_t dim[4][2], stat; } of[LAYERS] = {
        /* of x, w, b, y; [5,stat] */
        { "linear: ", { "input", "weight", "bias" },
          { { 5, 12 }, { 8, 12 }, { 1, 8 }, { 5, 8 } }, 2 },
        { "layer norm: ", { "input", "weight", "bias" },
          { { 5, 12 }, { 1, 12 }, { 1, 12 }, { 5, 12 } }, 2 },
        { "GELU: ", { "input", NULL, NULL }, { { 5, 12 }, { 12, 12 }, { 1, 12 }, { 5, 12 } }, 12 },
        { "attention: ", { "k, v", "q", NULL }, { { 5, 16 }, { 3, 8 }, { 1, 8 }, { 3, 8 } }, 5 }
    };
    uint64_t state = 1;
    for (int kind = 0; kind < LAYERS; kind++) {
        ij_arena a = { need(16384), 16384, 0 };
        layer_case c = { .kind = kind };
        memset(a.base, 0, a.size);
        for (int i = 0; i < 3; i++)
            c.part[i] = random_matrix(&a, &state, of[kind].dim[i][0], of[kind].dim[i][1]);
        c.dy = random_matrix(&a, &state, of[kind].dim[3][0], of[kind].dim[3][1]);
        for (int i = 0; i < 3; i++) c.dpart[i] = ij_matrix(&a, c.part[i].dim[0], c.part[i].dim[1]);
        c.y = ij_matrix(&a, c.dy.dim[0], c.dy.dim[1]);
        c.stat = ij_matrix(&a, 5, of[kind].stat);
        c.prob = ij_take(&a, 2 * 3 * 5, sizeof(real));  /* [H,m,n] */
        CHECK(a.used <= a.size, "%zu bytes", a.used);
        layer_forward(&c);
        layer_backward(&c);
        for (int i = 0; i < 3 && of[kind].part[i]; i++)
            gradient_row(of[kind].name, of[kind].part[i], c.part[i], c.dpart[i], 1, layer_forward,
                         &c);
        free(a.base);
    }
}

typedef struct { ij_model m; real *images; ij_step step; } whole_case;

static double whole_forward(void *arg)
{
    whole_case *w = arg;
    return forward_step(&w->step, &w->m, w->images, 0) + ij_vicreg(&w->step);
}

static void gradients_of_loss(const char *name, int loss, int objective)
{
    whole_case w;
    uint64_t state = 8;
    ij_config c = ij_config_default();
    c.batch_size = 2;
    c.crop_size[0] = 20;
    c.crop_size[1] = 24;
    c.embed_dim = 8;
    c.depth = 2;
    c.num_heads = 2;
    c.pred_emb_dim = 12;
    c.pred_depth = 2;
    c.num_enc_masks = 2;
    c.num_pred_masks = 3;
    c.min_keep = 1;
    c.init_std = 0.3;
    c.mlp_ratio = 2;
    c.loss = loss;
    c.allow_overlap = 1;
    c.objective = objective;
    c.average_top_k_layers = loss == IJ_LOSS_L2 ? 2 : 0;
    c.vicreg = loss == IJ_LOSS_L2 ? 30 : 0;
    if (objective == IJ_GENERATIVE) {
        c.mask_mode = IJ_MASK_RANDOM;
        c.num_enc_masks = 1;
    }
    void *mem = start_model(&w.m, &c);
    w.images = random_reals(4 * 3 * 20 * 24, 7);
    draw_masks(&w.m, 0);
    for (size_t i = 0; i < w.m.size; i++) w.m.weight[i] += (real)(random_unit(&state) * 0.1);
    whole_forward(&w);
    ij_backward(&w.m, &w.step, NULL);
    for (size_t p = 0; p < w.m.params; p++) {
        ij_tensor x = w.m.param[p].shape, g = x;
        const size_t n = ij_count(&x);
        x.x = w.m.weight + w.m.param[p].offset;
        g.x = w.m.grad + w.m.param[p].offset;
        /* softmax is blind to the key's bias: its gradient is zero */
        if (strstr(w.m.param[p].name, "qkv.bias")) memset(g.x + n / 3, 0, n / 3 * sizeof(real));
        gradient_row(name, w.m.param[p].name, x, g, n / 40 + 1, whole_forward, &w);
    }
    free(w.images);
    free(mem);
}

static void test_gradient_check(void)
{
    gradients_of_layers();
    gradients_of_loss("smooth L1 loss: ", IJ_LOSS_SMOOTH_L1, IJ_JEPA);
    gradients_of_loss("L2 loss: ", IJ_LOSS_L2, IJ_JEPA);
    gradients_of_loss("generative loss: ", IJ_LOSS_SMOOTH_L1, IJ_GENERATIVE);
    gradients_of_loss("joint loss: ", IJ_LOSS_SMOOTH_L1, IJ_JOINT);
    CHECK(gradients.rows > 140, "only %zu rows", gradients.rows);
    if (gradients.print)
        printf("%zu of %zu right (bound %g, %s build)\n", gradients.right, gradients.rows,
               gradient_bound,
               IN_DOUBLE ? "double" : "float");
}

/* ---- matmul ---- */

/* fast against naive, to the last bit, with NaN where nothing may be read and a guard where
 * nothing may be written */
enum { FROM_ZERO, FROM_C, FROM_BIAS };
static void matmul_case(size_t m, size_t n, size_t k, int ta, int tb, int from, const ij_team *team)
{
    const uint64_t state = m * 1000003 + n * 1009 + k;
    const size_t row = n + 3;
    real *a = random_reals(m * k, state + 1), *b = random_reals(k * n, state + 2);
    real *c = random_reals(m * row, state), *want = need(m * row * sizeof *want);
    real *bias = random_reals(n, state + 3);
    const real *const start[3] = { NULL, c, bias };
    for (size_t i = 0; i < m * row; i++) {
        if (from != FROM_C) c[i] = (real)NAN;
        if (i % row >= n) c[i] = 7;
    }
    memcpy(want, c, m * row * sizeof *want);
    ij_product p = {
        m, n, k, a, ta ? 1 : k, ta ? m : 1, b, tb ? 1 : n, tb ? k : 1, c, row, start[from],
        from == FROM_C ? row : 0
    };
    ij_matmul(&p, team);
    p.c = want;
    if (from == FROM_C) p.start = want;
    ij_matmul_naive(&p);
    CHECK(!memcmp(c, want, m * row * sizeof *c), "%zux%zux%zu ta %d tb %d from %d differs", m, n,
          k, ta, tb,
          from);
    free(a);
    free(b);
    free(c);
    free(want);
    free(bias);
}

/* the last task first */
static void backwards(void *pool, size_t count, ij_task *task, void *arg)
{
    (void)pool;
    while (count--) task(arg, count);
}

static void test_matmul_equals_naive(void)
{
    static const size_t edge[] = {
        1, IJ_MR - 1, IJ_MR, IJ_MR + 1, IJ_NR - 1, IJ_NR, IJ_NR + 1, 2 * IJ_NR + 5, 37
    };
    const ij_team team = { backwards, NULL, 3 };
    for (size_t i = 0; i < 9; i++)
        for (size_t j = 0; j < 9; j++)
            for (int form = 0; form < 12; form++)
                matmul_case(edge[i], edge[j], edge[(i + j) % 9], form & 1, form >> 1 & 1, form >> 2,
                            form & 1 ? &team : NULL);
    for (int form = 0; form < 12; form++) {
        matmul_case(IJ_MR + 1, IJ_NC + 3, IJ_KC + 1, form & 1, form >> 1 & 1, form >> 2,
                    form & 2 ? &team : NULL);
        matmul_case(5, 2 * IJ_NR, 3 * IJ_KC, form & 1, form >> 1 & 1, form >> 2, NULL);
    }
    matmul_case(5, 2 * IJ_NC + 7, 4 * IJ_KC + 3, 0, 1, 0, NULL);
    matmul_case(8 * IJ_MR + 3, IJ_NC + IJ_NR, 2 * IJ_KC + 9, 1, 0, 1, &team);
    matmul_case(3, 5, 0, 0, 0, 0, NULL);
    matmul_case(3, 5, 0, 0, 0, 1, NULL);
}

/* ---- exp, normal ---- */

static double ulps(double got, double want)         /* in units of the last place of a real */
{
    return fabs(got - want) / ldexp(1, ilogb(want) - (IN_DOUBLE ? 52 : 23));
}

static void worse(double *worst, double error) { if (!(error <= *worst)) *worst = error; }

/* Against libm in double, over the whole range: exp where it is not held, the normal
 * distribution where it is one. */
static void test_exp_and_normal(void)
{
    double worst_exp = 0, worst_cdf = 0, worst_pdf = 0, near_cdf = 0, tail_cdf = 0, near_pdf = 0,
           tail_pdf = 0;
    for (double x = -87; x <= 88; x += 0.00037)
        worse(&worst_exp, ulps((double)ij_exp((real)x), exp((double)(real)x)));
    for (double x = -40; x <= 40; x += 0.00011) {
        real pdf, cdf;
        const double u = (double)(real)x, want = 0.5 * erfc(-u * sqrt(0.5)),
                     density = exp(-u * u / 2) / sqrt(2 * IJ_PI);
        ij_normal(&pdf, &cdf, (real)x);
        worse(&worst_cdf, fabs((double)cdf - want));
        worse(&worst_pdf, fabs((double)pdf - density));
        /* beyond, both are below 1e-37 and count as nothing */
        if (fabs(u) > 13) continue;
        worse(u < -4 ? &tail_cdf : &near_cdf, ulps((double)cdf, want));
        worse(fabs(u) > 4 ? &tail_pdf : &near_pdf, ulps((double)pdf, density));
    }
    CHECK(worst_exp <= (IN_DOUBLE ? 1 : 1.4), "exp is wrong by %g ulp", worst_exp);
    CHECK(worst_cdf <= (IN_DOUBLE ? 1e-15 : 2.5e-7), "normal cdf is wrong by %g", worst_cdf);
    CHECK(worst_pdf <= (IN_DOUBLE ? 1e-15 : 6e-8), "normal density is wrong by %g", worst_pdf);
    CHECK(near_cdf <= (IN_DOUBLE ? 1 : 9) && tail_cdf <= (IN_DOUBLE ? 1 : 67),
          "cdf is wrong by %g ulp, below -4 by %g", near_cdf,
          tail_cdf);
    CHECK(near_pdf <= (IN_DOUBLE ? 1 : 5.5) && tail_pdf <= (IN_DOUBLE ? 1 : 65),
          "pdf is wrong by %g ulp, beyond 4 by %g", near_pdf,
          tail_pdf);
}

/* ---- golden masks, streams, tables, schedules ---- */

/* key=value in a line of such words */
static double word_value(const char *text, const char *key)
{
    char find[40];
    snprintf(find, sizeof find, "%s=", key);
    const char *at = text ? strstr(text, find) : NULL;
    while (at && at != text && at[-1] != ' ') at = strstr(at + 1, find);
    CHECK(at, "no %s in \"%s\"", key, text ? text : "");
    return at ? strtod(at + strlen(find), NULL) : 0;
}

static void golden_mask_case(const open_file *g, int k)
{
    char name[64];
    ij_error why;
    ij_rng rng;
    ij_config c = ij_config_default();
    snprintf(name, sizeof name, "m%d", k);
    const char *t = ij_file_meta(&g->f, name);
    c.crop_size[0] = (size_t)word_value(t, "height");
    c.crop_size[1] = (size_t)word_value(t, "width");
    c.patch_size = (size_t)word_value(t, "patch");
    c.enc_mask_scale[0] = word_value(t, "enc_scale_min");
    c.enc_mask_scale[1] = word_value(t, "enc_scale_max");
    c.pred_mask_scale[0] = word_value(t, "pred_scale_min");
    c.pred_mask_scale[1] = word_value(t, "pred_scale_max");
    c.aspect_ratio[0] = word_value(t, "aspect_min");
    c.aspect_ratio[1] = word_value(t, "aspect_max");
    c.num_enc_masks = (size_t)word_value(t, "nenc");
    c.num_pred_masks = (size_t)word_value(t, "npred");
    c.min_keep = (size_t)word_value(t, "min_keep");
    c.allow_overlap = (int)word_value(t, "allow_overlap");
    c.batch_size = (size_t)word_value(t, "batch");
    c.mask_mode = IJ_MASK_REFERENCE;
    ij_masks m;
    ij_arena a = { NULL, 0, 0 };
    ij_masks_place(&m, &a, &c);
    void *mem = need(a.used);
    a.base = mem;
    a.size = a.used;
    a.used = 0;
    ij_masks_place(&m, &a, &c);
    ij_rng_seed(&rng, (uint64_t)word_value(t, "seed"));
    const uint64_t first = (uint64_t)(word_value(t, "itr_start") + 1),
                   calls = (uint64_t)word_value(t, "calls");
    for (uint64_t call = 0; call < calls; call++) {
        const ij_status s = ij_masks_draw(&m, &c, &rng, first + call, c.batch_size, &why);
        CHECK(!s, "m%d: %s", k, why.text);
        for (int part = 0; part < 2; part++) {
            const ij_lists *l = part ? &m.target : &m.context;
            size_t n;
            snprintf(name, sizeof name, "m%d.call%zu.%s", k, (size_t)call, part ? "pred" : "enc");
            double *want = golden_read(g, name, &n);
            const ij_entry *e = ij_file_find(&g->f, name);
            if (!want) continue;
            const size_t kinds = e->dim[1], len = e->dim[2];
            CHECK(e->dim[0] == c.batch_size && kinds * c.batch_size == l->lists, "%s: shape", name);
            for (size_t b = 0; b < c.batch_size; b++)           /* the file has the batch first */
                for (size_t i = 0; i < kinds; i++) {
                    const size_t list = i * c.batch_size + b;
                    CHECK(l->length[list] == len, "%s: length %zu, expected %zu", name,
                          l->length[list],
                          len);
                    for (size_t j = 0; j < len && l->length[list] == len; j++)
                        CHECK((double)l->index[list * l->stride + j] ==
                                  want[(b * kinds + i) * len + j], "%s[%zu,%zu,%zu]", name, b, i,
                              j);
                }
            free(want);
        }
    }
    free(mem);
}

static void test_golden_masks(void)
{
    open_file g;
    if (!file_open(&g, "data/golden/golden_masks.safetensors")) return;
    for (int k = 0; k < (int)meta_number(&g, "masks"); k++) golden_mask_case(&g, k);
    file_close(&g);
}

static void test_golden_random(void)
{
    open_file g;
    static const int seed[3] = { 0, 1, 42 };
    static const size_t below[8] = { 2, 3, 5, 7, 10, 16, 100, 1000 };
    if (!file_open(&g, "data/golden/golden_masks.safetensors")) return;
    for (int s = 0; s < 3; s++)
        for (int list = 0; list < 10; list++) {
            char name[64];
            size_t n;
            ij_rng r;
            if (list == 0) snprintf(name, sizeof name, "mt.seed%d.u32", seed[s]);
            else if (list == 1) snprintf(name, sizeof name, "mt.seed%d.rand", seed[s]);
            else snprintf(name, sizeof name, "mt.seed%d.randint%zu", seed[s], below[list - 2]);
            const ij_entry *e = ij_file_find(&g.f, name);
            /* unsigned words: the next two lists hold the same */
            if (e && e->dtype == IJ_OTHER) continue;
            double *want = golden_read(&g, name, &n);
            ij_rng_seed(&r, (uint64_t)seed[s]);
            for (size_t i = 0; want && i < n; i++) {
                double got = 0;
                if (list == 0) got = (double)ij_rng_next(&r);
                else if (list == 1) got = ij_rng_uniform(&r);
                else got = (double)ij_rng_below(&r, below[list - 2]);
                CHECK(got == want[i], "%s[%zu]: %g, expected %g", name, i, got, want[i]);
            }
            free(want);
        }
    file_close(&g);
    /* the published tenth-thousandth word of seed 5489 */
    ij_rng r;
    ij_rng_seed(&r, 5489);
    uint32_t word = 0;
    for (int i = 0; i < 10000; i++) word = ij_rng_next(&r);
    CHECK(word == 4123659995u, "word 10000 is %zu", (size_t)word);
}

static void test_golden_positions(void)
{
    static const size_t table[5][2] = {
        { 24, 5 }, { 44, 8 }, { 192, 8 }, { 384, 14 }, { 1280, 16 }
    };
    open_file g;
    if (!file_open(&g, "data/golden/golden_masks.safetensors")) return;
    for (int t = 0; t < 5; t++) {
        char name[40];
        size_t n;
        snprintf(name, sizeof name, "pos.d%zu.g%zu", table[t][0], table[t][1]);
        double *want = golden_read(&g, name, &n);
        const size_t side = table[t][1];
        ij_tensor pos = { NULL, 2, { side * side, table[t][0], 0, 0 } };
        pos.x = need(ij_count(&pos) * sizeof(real));
        ij_positions(pos, side, side);
        /* rounded to float in both builds */
        for (size_t i = 0; want && i < n; i++)
            CHECK(fabs((double)pos.x[i] - want[i]) <= 3.1e-8, "%s[%zu]", name, i);
        free(want);
        free(pos.x);
    }
    file_close(&g);
}

static void test_golden_schedules(void)
{
    open_file g;
    if (!file_open(&g, "data/golden/golden_masks.safetensors")) return;
    for (int k = 0; k < (int)meta_number(&g, "schedules"); k++) {
        char name[40];
        ij_config c = ij_config_default();
        snprintf(name, sizeof name, "s%d", k);
        const char *t = ij_file_meta(&g.f, name);
        c.ipe = (size_t)word_value(t, "ipe");
        c.epochs = word_value(t, "epochs");
        c.warmup = word_value(t, "warmup");
        c.start_lr = word_value(t, "start_lr");
        c.lr = word_value(t, "lr");
        c.final_lr = word_value(t, "final_lr");
        c.weight_decay = word_value(t, "wd");
        c.final_weight_decay = word_value(t, "final_wd");
        c.ema[0] = word_value(t, "ema_start");
        c.ema[1] = word_value(t, "ema_end");
        c.ipe_scale = word_value(t, "ipe_scale");
        static const char *const what[3] = { "lr", "wd", "ema" };
        for (int w = 0; w < 3; w++) {
            size_t n;
            snprintf(name, sizeof name, "s%d.%s", k, what[w]);
            double *want = golden_read(&g, name, &n);
            CHECK(n == (size_t)word_value(t, "steps"), "%s: %zu steps", name, n);
            for (size_t i = 0; want && i < n; i++) {
                const double got[3] = { ij_lr(&c, i + 1), ij_weight_decay(&c, i + 1),
                                        ij_ema(&c, i + 1) };
                CHECK(fabs(got[w] - want[i]) <= 1e-12 * fabs(want[i]),
                      "%s[%zu]: %.17g, expected %.17g", name, i, got[w],
                      want[i]);
            }
            free(want);
        }
    }
    file_close(&g);
}

/* ---- masks: what the paper mode promises, and that nothing hangs ---- */

/* Random and rasterized: targets of the asked size, every patch in just one list, every patch in
 * every role. */
static void test_masks_split(void)
{
    for (int mode = IJ_MASK_RANDOM; mode <= IJ_MASK_RASTERIZED; mode++) {
        ij_config c = ij_config_default();
        ij_error why;
        size_t seen[4][60] = { { 0 } };                 /* 6 by 10 patches */
        ij_model m;
        c.batch_size = 8;
        c.crop_size[0] = 24;
        c.crop_size[1] = 40;
        c.mask_mode = mode;
        c.num_pred_masks = 3;
        void *mem = start_model(&m, &c);
        for (uint64_t step = 0; step < 200; step++) {
            draw_masks(&m, step);
            for (size_t b = 0; b < 8; b++) {
                size_t at[60] = { 0 }, all = 0;
                for (size_t t = 0; t < 4; t++) {
                    const ij_lists *l = t < 3 ? &m.masks.target : &m.masks.context;
                    const size_t list = t < 3 ? t * 8 + b : b;
                    CHECK(l->length[list] <= l->stride, "a list of %zu", l->length[list]);
                    if (mode == IJ_MASK_RASTERIZED)
                        CHECK(l->length[list] == 15, "a quadrant of %zu", l->length[list]);
                    else if (t < 3)
                        CHECK(l->length[list] >= 9 && l->length[list] <= 12 &&
                                  l->length[list] == m.masks.target.length[b], "a target of %zu",
                              l->length[list]);
                    for (size_t j = 0; j < l->length[list]; j++, all++) {
                        const size_t n = l->index[list * l->stride + j],
                                     first = l->index[list * l->stride];
                        at[n]++;
                        seen[t][n]++;
                        CHECK(!j || n > l->index[list * l->stride + j - 1],
                              "indices do not ascend");
                        CHECK(mode == IJ_MASK_RANDOM ||
                                  (n / 30 == first / 30 && n % 10 / 5 == first % 10 / 5),
                              "not one quadrant");
                    }
                }
                for (size_t n = 0; n < 60; n++)
                    CHECK(at[n] == 1 && all == 60, "patch %zu is in %zu lists", n, at[n]);
            }
        }
        for (size_t n = 0; n < 240; n++) {
            const double patches = n < 180 ? 10.1 : 60 - 3 * 10.1;      /* in a list of that role */
            const double want = 1600 * (mode == IJ_MASK_RASTERIZED ? 15 : patches) / 60;
            CHECK(fabs((double)seen[n / 60][n % 60] - want) < 0.25 * want,
                  "role %zu, patch %zu: %zu times of some %g", n / 60, n % 60, seen[n / 60][n % 60],
                  want);
        }
        free(mem);
        c.num_pred_masks = mode == IJ_MASK_RANDOM ? 5 : 4;
        CHECK(ij_config_check(&c, &why) == IJ_EARG, "targets that leave nothing");
        c.num_pred_masks = 3;
        c.num_enc_masks = 2;
        CHECK(ij_config_check(&c, &why) == IJ_EARG, "two contexts");
    }
}

static void test_masks_paper_mode(void)
{
    ij_config c = ij_config_default();
    ij_model m;
    c.batch_size = 32;
    void *mem = start_model(&m, &c);
    size_t context[64] = { 0 }, target[64] = { 0 }, lengths = 0;
    for (uint64_t step = 0; step < 200; step++) {
        draw_masks(&m, step);
        for (size_t b = 0; b < 32; b++) {
            int hidden[64] = { 0 };
            for (size_t t = b; t < m.masks.target.lists; t += 32) {
                CHECK(m.masks.target.length[t] > c.min_keep, "short target");
                for (size_t j = 0; j < m.masks.target.length[t]; j++) {
                    const size_t n = m.masks.target.index[t * m.masks.target.stride + j];
                    CHECK(!j || n > m.masks.target.index[t * m.masks.target.stride + j - 1],
                          "indices do not ascend");
                    hidden[n] = 1;
                    target[n]++;
                }
            }
            CHECK(m.masks.context.length[b] > c.min_keep, "short context");
            lengths |= (size_t)1 << m.masks.context.length[b] % 64;
            for (size_t j = 0; j < m.masks.context.length[b]; j++) {
                const size_t n = m.masks.context.index[b * m.masks.context.stride + j];
                CHECK(!hidden[n], "context and target overlap");
                context[n]++;
            }
        }
    }
    for (size_t n = 0; n < 64; n++) {
        CHECK(context[n] > 0 && target[n] > 0, "patch %zu is never drawn", n);
        CHECK(fabs((double)target[n] - (double)target[63 - n]) < 0.15 * (double)target[27],
              "targets are lopsided at %zu: %zu, %zu", n, target[n],
              target[63 - n]);
    }
    CHECK(lengths & (lengths - 1), "all contexts have one length");
    free(mem);
}

/* ijepa #68: 32-pixel crops hang the reference. */
static void test_masks_impossible(void)
{
    ij_error why;
    size_t size;
    ij_model m;
    for (int mode = 0; mode < 2; mode++)
        for (size_t keep = mode ? 13 : 9; keep < 70; keep += 15) {
            ij_config c = ij_config_default();
            c.mask_mode = mode;
            c.min_keep = keep;
            SUCCEED(ij_model_size(&size, &c, IJ_TRAIN, &why));
            void *mem = need(size);
            REFUSE(IJ_EMASK, "min_keep", ij_model_init(&m, mem, size, &c, IJ_TRAIN, &why));
            free(mem);
        }
    ij_config c = ij_config_default();          /* as a caller may hand it over, unchecked */
    ij_rng rng;
    ij_masks masks = { { 0, 0, NULL, NULL }, { 0, 0, NULL, NULL } };
    for (c.mask_mode = -1; c.mask_mode < 5; c.mask_mode += 5)
        REFUSE(IJ_EARG, "mask_mode", ij_masks_draw(&masks, &c, &rng, 0, 1, &why));
}

/* ---- model ---- */

static void train_some(ij_model *m, size_t steps)
{
    const ij_config *c = &m->config;
    const size_t n = c->batch_size * 3 * c->crop_size[0] * c->crop_size[1];
    real *images = need(n * sizeof *images);
    ij_error why;
    ij_report r;
    while (steps--)
        do {
            uint64_t state = m->micro;
            for (size_t i = 0; i < n; i++) images[i] = (real)random_unit(&state);
            draw_masks(m, m->micro);
            SUCCEED(ij_train_step(m, images, &m->masks, &r, &why));
        } while (!r.updated);
    free(images);
}

/* The model of a file, ready to train; its memory is the caller's. */
static ij_status load_model(ij_model *m, void **mem, const char *path, ij_error *why)
{
    open_file g;
    ij_config c;
    size_t size = 0;
    *mem = NULL;
    if (!file_open(&g, path)) return IJ_EFILE;
    ij_status s = ij_load_config(&c, &g.f, why);
    if (!s) s = ij_model_size(&size, &c, IJ_TRAIN, why);
    *mem = need(size);
    if (!s) s = ij_model_init(m, *mem, size, &c, IJ_TRAIN, why);
    if (!s) s = ij_load(m, &g.f, why);
    file_close(&g);
    return s;
}

static void test_model_threads_same_bytes(void)
{
    const ij_config c = small_config();
    real *first = NULL;
    for (size_t threads = 1; threads <= 5; threads++) {
        ij_model m;
        void *mem = start_model(&m, &c);
        if (threads > 1) {
            m.team.run = backwards;
            m.team.threads = threads;
        }
        train_some(&m, 3);
        if (!first) {
            first = need(m.size * sizeof *first);
            memcpy(first, m.weight, m.size * sizeof *first);
        } else
            CHECK(!memcmp(first, m.weight, m.size * sizeof *first), "%zu threads give other bytes",
                  threads);
        free(mem);
    }
    free(first);
}

static void test_model_resume_same_bytes(void)
{
    ij_config c = small_config();
    static char a[1 << 21], b[1 << 21];
    ij_error why;
    ij_model m;
    c.accumulate = 2;
    void *mem = start_model(&m, &c), *other;
    train_some(&m, 2);
    SUCCEED(ij_save(&m, scratch("half.safetensors"), &why));
    train_some(&m, 3);
    SUCCEED(ij_save(&m, scratch("whole.safetensors"), &why));

    SUCCEED(load_model(&m, &other, scratch("half.safetensors"), &why));
    CHECK(m.step == 2, "step %zu", (size_t)m.step);
    train_some(&m, 3);
    SUCCEED(ij_save(&m, scratch("resumed.safetensors"), &why));
    const size_t n = read_file(scratch("whole.safetensors"), a, sizeof a),
                 k = read_file(scratch("resumed.safetensors"), b, sizeof b);
    CHECK(n > 1000 && n < sizeof a && n == k && !memcmp(a, b, n),
          "the resumed run saved other bytes");
    free(mem);
    free(other);
}

static void test_model_memory_ladder(void)
{
    const ij_config c = small_config();
    ij_error why;
    ij_model m;
    size_t size;
    for (int training = 0; training < 2; training++) {
        SUCCEED(ij_model_size(&size, &c, training, &why));
        unsigned char *mem = need(size + 64);
        for (size_t less = size; less > 0; less = less > 4096 ? less - 4093 : less - 1) {
            if (less == size) continue;
            CHECK(ij_model_init(&m, mem, less, &c, training, &why) == IJ_EMEM,
                  "%zu bytes were enough",
                  less);
        }
        memset(mem + size, 0x5a, 64);
        SUCCEED(ij_model_init(&m, mem, size, &c, training, &why));
        if (training) train_some(&m, 2);
        for (int i = 0; i < 64; i++) CHECK(mem[size + (size_t)i] == 0x5a, "written past the end");
        free(mem);
    }
}

static void test_model_sizes(void)                      /* published parameter counts */
{
    static const struct {
        const char *name;
        size_t patch, side, pred_depth, encoder, predictor;
    } known[] = {
        { "vit_tiny", 16, 224, 6, 5486400, 10795968 },
        { "vit_small", 16, 224, 6, 21589632, 10943616 },
        { "vit_base", 16, 224, 6, 85646592, 11238912 },
        { "vit_large", 16, 224, 12, 303098880, 22082560 },
        { "vit_huge", 16, 448, 12, 630664960, 22279424 },
        { "vit_huge", 14, 224, 12, 630434560, 22279424 },
        { "vit_giant", 16, 224, 16, 1011092608, 29475712 }
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        ij_config c = ij_config_default();
        ij_error why;
        ij_model m;
        ij_arena a = { NULL, 0, 0 };
        SUCCEED(ij_config_set(&c, "model_name", known[i].name, &why));
        c.patch_size = known[i].patch;
        c.crop_size[0] = c.crop_size[1] = known[i].side;
        c.pred_emb_dim = 384;
        c.pred_depth = known[i].pred_depth;
        memset(&m, 0, sizeof m);
        m.config = c;
        m.training = IJ_TRAIN;
        ij_model_place(&m, &a);
        CHECK(m.encoder_size == known[i].encoder && m.size - m.encoder_size == known[i].predictor,
              "%s: %zu and %zu", known[i].name, m.encoder_size,
              (m.size - m.encoder_size));
    }
}

static void test_model_bad_settings(void)
{
    static const char *const bad[][2] = {
        { "embed_dim", "130" }, { "embed_dim", "0" }, { "num_heads", "3" }, { "patch_size", "0" },
        { "patch_size", "33" }, { "batch_size", "0" }, { "crop_scale", "0.5,0.4" },
        { "crop_scale", "0,2" }, { "ema", "0.9,1.1" }, { "pred_mask_scale", "0.9,0.1" },
        { "aspect_ratio", "0,1" }, { "mlp_ratio", "0" }, { "depth", "0" }, { "betas", "0.9,1" },
        { "depth", "99999999" }, { "pred_emb_dim", "6" }, { "std", "0,1,1" }
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ij_config c = ij_config_default();
        ij_error why;
        size_t size;
        snprintf(why.text, sizeof why.text, "nothing");
        SUCCEED(ij_config_set(&c, bad[i][0], bad[i][1], &why));
        CHECK(ij_model_size(&size, &c, IJ_TRAIN, &why) == IJ_EARG && strstr(why.text, "expected"),
              "%s = %s is accepted: %s", bad[i][0], bad[i][1],
              why.text);
    }
    ij_config huge = ij_config_default();
    ij_error why;
    size_t size;
    huge.batch_size = 1 << 20;
    huge.crop_size[0] = huge.crop_size[1] = 1 << 20;
    huge.patch_size = 1;
    const ij_status s = ij_model_size(&size, &huge, IJ_INFER, &why);
    CHECK(!s, "inference does not depend on the batch: %s", why.text);
    huge.embed_dim = 1 << 20;
    huge.mlp_ratio = 16;
    huge.depth = 1 << 20;
    CHECK(ij_model_size(&size, &huge, IJ_INFER, &why) == IJ_EMEM, "an impossible size is accepted");
}

static void test_model_not_finite(void)
{
    const ij_config c = small_config();
    ij_model m;
    ij_error why;
    ij_report r;
    void *mem = start_model(&m, &c);
    const size_t n = c.batch_size * 3 * 24 * 32;
    real *images = need(n * sizeof *images), *before = need(m.size * sizeof *before);
    for (size_t i = 0; i < n; i++) images[i] = (real)NAN;
    memcpy(before, m.weight, m.size * sizeof *before);
    draw_masks(&m, 0);
    REFUSE(IJ_ENAN, "update 1: the loss is ", ij_train_step(&m, images, &m.masks, &r, &why));
    CHECK(!memcmp(before, m.weight, m.size * sizeof *before) && m.step == 0, "the weights moved");
    m.work_size /= 2;
    REFUSE(IJ_EMEM, "activations", ij_train_step(&m, images, &m.masks, &r, &why));
    m.masks.target.lists = 0;
    REFUSE(IJ_EARG, "0 lists", ij_train_step(&m, images, &m.masks, &r, &why));
    free(images);
    free(before);
    free(mem);
}

/* relative error of the norm */
static double compare_reals(const real *want, const real *got, size_t n)
{
    double error = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        const double e = (double)got[i] - (double)want[i];
        error += e * e;
        norm += (double)want[i] * (double)want[i];
    }
    return sqrt(error / norm);
}

static void test_model_accumulates_and_clips(void)
{
    ij_config c = small_config();
    real *mean = NULL;
    /* one pass; the same batch twice; one pass, clipped */
    for (int run = 0; run < 3; run++) {
        ij_model m;
        ij_error why;
        ij_report r;
        c.accumulate = run == 1 ? 2 : 1;
        c.clip_grad = run == 2 ? 1e-3 : 0;
        void *mem = start_model(&m, &c);
        const size_t n = c.batch_size * 3 * 24 * 32;
        real *images = random_reals(n, 5);
        draw_masks(&m, 0);
        for (size_t pass = 0; pass < c.accumulate; pass++) {
            SUCCEED(ij_train_step(&m, images, &m.masks, &r, &why));
            CHECK(r.updated == (pass + 1 == c.accumulate), "updated after pass %zu", pass);
        }
        CHECK(m.step == 1, "step %zu", (size_t)m.step);
        if (!mean) {
            mean = need(m.size * sizeof *mean);
            memcpy(mean, m.adam_m, m.size * sizeof *mean);
        }
        /* the first moment is a tenth of the gradient */
        double error = 0, norm = 0;
        const double scale = run == 2 ? c.clip_grad / r.grad_norm : 1;
        for (size_t i = 0; i < m.size; i++) {
            const double want = (double)mean[i] * scale, e = (double)m.adam_m[i] - want;
            error += e * e;
            norm += want * want;
        }
        CHECK(sqrt(error / norm) < 1e-5 && r.grad_norm > 1e-3, "run %d: the gradient differs by %g",
              run,
              sqrt(error / norm));
        free(images);
        free(mem);
    }
    free(mean);
}

static void count_numbers(void *arg, ij_real *grad, size_t count)
{
    (void)grad;
    *(size_t *)arg += count;
}

/* A batch that is taken in two parts, and the same images one by one: the same gradient, one
 * call of the hook. */
static void test_model_parts(void)
{
    ij_config c = small_config();
    real *mean = NULL;
    c.crop_size[0] = c.crop_size[1] = 32;
    c.patch_size = 4;
    c.min_keep = 4;
    c.pred_mask_scale[0] = c.pred_mask_scale[1] = 0.16;
    c.aspect_ratio[0] = c.aspect_ratio[1] = 1;
    for (int run = 0; run < 2; run++) {
        ij_model m;
        ij_error why;
        ij_report r;
        size_t numbers = 0;
        c.batch_size = run ? 1 : 40;
        c.accumulate = run ? 40 : 1;
        CHECK(ij_part_images(&c) == (run ? 1 : 20), "parts of %zu images", ij_part_images(&c));
        void *mem = start_model(&m, &c);
        m.reduce = count_numbers;
        m.reduce_arg = &numbers;
        real *images = random_reals(40 * 3 * 32 * 32, 5);
        double loss = 0;
        for (size_t i = 0; i < c.accumulate; i++) {
            draw_masks(&m, i);
            SUCCEED(ij_train_step(&m, images + i * 3 * 32 * 32, &m.masks, &r, &why));
            loss += r.loss / (double)c.accumulate;
        }
        CHECK(numbers == m.size && m.step == 1, "the hook saw %zu numbers", numbers);
        if (!run) {
            mean = need((m.size + 1) * sizeof *mean);
            memcpy(mean, m.adam_m, m.size * sizeof *mean);
            mean[m.size] = (real)loss;
        } else
            CHECK(compare_reals(mean, m.adam_m, m.size) < (IN_DOUBLE ? 1e-12 : 1e-5) &&
                      fabs(loss - (double)mean[m.size]) < 1e-6,
                  "the gradient differs by %g, the loss by %g",
                  compare_reals(mean, m.adam_m, m.size),
                  loss - (double)mean[m.size]);
        free(images);
        free(mem);
    }
    free(mean);
}

static void encode_images(real *tokens, real *pooled, const ij_encoder *e, const ij_pictures in,
                          const ij_team *team)
{
    ij_error why;
    size_t size = 0;
    SUCCEED(ij_encode_size(&size, e, &in, &why));
    const ij_memory work = { need(size), size };
    SUCCEED(ij_encode(tokens, pooled, e, &in, work, team, &why));
    free(work.base);
}

static void test_encode_other_sizes(void)
{
    const ij_config c = small_config();
    ij_model m;
    ij_error why;
    size_t work_size;
    void *mem = start_model(&m, &c);
    const size_t h = 40, w = 19, tokens = (40 / 4) * (19 / 4), d = c.embed_dim;
    real *image = random_reals(2 * 3 * h * w, 3), *token = need(2 * tokens * d * sizeof *token);
    real pooled[48];
    const ij_encoder *e = &m.target_encoder;
    const ij_pictures in = { image, 2, h, w }, second = { image + 3 * h * w, 1, h, w },
                      small = { image, 1, 3, 40 };
    SUCCEED(ij_encode_size(&work_size, e, &in, &why));
    const ij_memory work = { need(work_size), work_size - 1 };
    REFUSE(IJ_EMEM, "work memory: need", ij_encode(token, pooled, e, &in, work, NULL, &why));
    encode_images(token, pooled, e, in, NULL);
    for (size_t i = 0; i < 2 * d; i++) {
        double mean = 0;
        for (size_t n = 0; n < tokens; n++)
            mean += (double)token[(i / d * tokens + n) * d + i % d] / (double)tokens;
        CHECK(fabs(mean - (double)pooled[i]) < 1e-5, "pooled[%zu]", i);
    }
    /* the second image by itself: the same features */
    real alone[24];
    encode_images(NULL, alone, e, second, NULL);
    CHECK(!memcmp(alone, pooled + d, sizeof alone), "features depend on the batch");
    REFUSE(IJ_EARG, "3x40 pixels", ij_encode(token, pooled, e, &small, work, NULL, &why));
    m.target_encoder.pos = m.encoder_pos;
    REFUSE(IJ_EARG, "expected 48", ij_encode(token, pooled, e, &in, work, NULL, &why));
    free(mem);
    free(work.base);
    free(image);
    free(token);
}

static void counted(void *runs, size_t count, ij_task *task, void *arg)
{
    ++*(size_t *)runs;
    while (count--) task(arg, count);
}

/* by the threads, product by product: the same bytes */
static void test_encode_one_image_shared(void)
{
    ij_config c = small_config();
    ij_model m;
    size_t runs = 0;
    c.embed_dim = 256;
    c.num_heads = 4;
    c.depth = 1;
    void *mem = start_model(&m, &c);
    const ij_team team = { counted, &runs, 3 };
    real *image = random_reals(3 * 40 * 40, 4), alone[256], shared[256];
    encode_images(NULL, alone, &m.target_encoder, (ij_pictures){ image, 1, 40, 40 }, NULL);
    encode_images(NULL, shared, &m.target_encoder, (ij_pictures){ image, 1, 40, 40 }, &team);
    CHECK(runs, "no product was shared");
    CHECK(!memcmp(alone, shared, sizeof alone), "threads give other bytes");
    free(mem);
    free(image);
}

static void test_init_statistics(void)
{
    ij_config c = ij_config_default();
    ij_model m;
    c.init_std = 0.02;
    c.patch_init_std = 0.02;
    void *mem = start_model(&m, &c);
    for (size_t p = 0; p < m.params; p++) {
        const ij_param *at = &m.param[p];
        const size_t n = ij_count(&at->shape);
        double sum = 0, square = 0, top = 0;
        for (size_t i = 0; i < n; i++) {
            const double w = (double)m.weight[at->offset + i];
            sum += w;
            square += w * w;
            top = IJ_MAX(top, fabs(w));
        }
        const double std = sqrt(square / (double)n);
        if (at->shape.rank > 1) {
            CHECK(fabs(std - 0.02) < 0.1 * 0.02 * 16 / sqrt((double)n) + 0.0002, "%s: std %g",
                  at->name,
                  std);
            CHECK(fabs(sum / (double)n) < 0.1 / sqrt((double)n) && top < 0.13,
                  "%s: mean %g, largest %g", at->name, sum / (double)n,
                  top);
        } else
            CHECK(strstr(at->name, ".bias") ? top == 0 : fabs(std - 1) < 1e-6, "%s: %g", at->name,
                  std);
    }
    CHECK(!memcmp(m.weight, m.target, m.encoder_size * sizeof(real)),
          "the target encoder is not a copy");
    free(mem);
}

/* ---- settings ---- */

static void test_settings_round_trip(void)
{
    ij_error why;
    ij_config a = ij_config_default(), b;
    char text[IJ_TEXT];
    memset(&b, 0, sizeof b);
    a.lr = 1.0 / 3;
    a.crop_size[1] = 48;
    a.std[1] = 1e-7;
    a.seed = 123456789;
    a.mlp_ratio = 48.0 / 11;
    a.loss = IJ_LOSS_L2;
    for (size_t i = 0; i < IJ_SETTINGS; i++) {
        ij_config_text(text, &a, i);
        SUCCEED(ij_config_set(&b, ij_config_name(i), text, &why));
        CHECK(*ij_setting[i].help, "%s has no help", ij_config_name(i));
    }
    for (size_t i = 0; i < IJ_SETTINGS; i++) {
        char other[IJ_TEXT];
        ij_config_text(text, &a, i);
        ij_config_text(other, &b, i);
        CHECK(!strcmp(text, other), "%s: %s became %s", ij_config_name(i), text, other);
    }
    CHECK(b.lr == a.lr && b.std[1] == a.std[1] && b.mlp_ratio == a.mlp_ratio, "a number changed");
}

static void test_settings_bad_values(void)
{
    static const char *const bad[][2] = {
        { "batch_size", "-1" }, { "batch_size", "1.5" }, { "batch_size", "1,2" }, { "lr", "" },
        { "lr", "fast" }, { "lr", "1e" }, { "lr", "nan" }, { "lr", "inf" }, { "ema", "0.9" },
        { "ema", "0.9," }, { "ema", "0.9,1,1" }, { "mean", "1,2" }, { "mask_mode", "other" },
        { "allow_overlap", "2" }, { "crop_size", "1,2,3" }, { "model_name", "vit_nano" },
        { "batchsize", "3" }
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ij_config c = ij_config_default(), keep = c;
        ij_error why;
        CHECK(ij_config_set(&c, bad[i][0], bad[i][1], &why) == IJ_EARG, "%s = \"%s\" is accepted",
              bad[i][0],
              bad[i][1]);
        CHECK(!memcmp(&c, &keep, sizeof c), "%s = \"%s\" changed something", bad[i][0], bad[i][1]);
        if (i + 1 == sizeof bad / sizeof *bad)
            CHECK(strstr(why.text, "batch_size"), "no hint: %s", why.text);
    }
}

static void test_settings_files(void)
{
    static const char plain[] =
        "# mine\nlr = 0.5\r\n\n  ema=0.9, 1   # inline\nmask_mode = reference\n"
        "model_name = vit_huge\ncrop_size = 224";
    static const char *const bad[][3] = {
        { "lr = 0.5\nwarmupp = 3\n", "line 2", "nearest is warmup" },
        { "lr = 1\nlr = x\n", "line 2", "a number" },
        { "data:\n  batch_size: 3\n", "line 1", "--preset paper" },
        { "lr\n", "line 1", "key = value" },
        { "= 3\n", "line 1", "key = value" },
        { "lr =\n", "line 1", "key = value" }
    };
    ij_config c = ij_config_default();
    ij_error why;
    const char *path = scratch("settings.txt");
    write_file(path, plain, sizeof plain - 1);
    SUCCEED(ij_config_read(&c, path, &why));
    CHECK(c.lr == 0.5 && c.ema[0] == (double)0.9 && c.ema[1] == 1 &&
              c.mask_mode == IJ_MASK_REFERENCE,
          "numbers");
    CHECK(c.embed_dim == 1280 && c.depth == 32 && c.crop_size[0] == 224 && c.crop_size[1] == 224,
          "whole numbers");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_file(path, bad[i][0], strlen(bad[i][0]));
        CHECK(ij_config_read(&c, path, &why), "line %zu is accepted", i);
        CHECK(strstr(why.text, bad[i][1]) && strstr(why.text, bad[i][2]), "%s", why.text);
    }
    CHECK(ij_config_read(&c, scratch("absent"), &why) == IJ_EFILE, "an absent file");
    /* cut anywhere: no crash, and an error names the file */
    for (size_t n = 0; n < sizeof plain - 1; n++) {
        write_file(path, plain, n);
        if (ij_config_read(&c, path, &why)) CHECK(strstr(why.text, path), "%s", why.text);
    }
}

/* ---- checkpoints ---- */

/* A file's bytes with the first `from` made `to`, of the same length, as bad.safetensors. */
static const char *spoilt(const char *bytes, size_t n, const char *from, const char *to)
{
    const char *path = scratch("bad.safetensors");
    char *other = need(n), *at = NULL;
    memcpy(other, bytes, n);
    for (size_t k = 8; k + 60 < n && !at; k++)
        if (!memcmp(other + k, from, strlen(from))) at = other + k;
    CHECK(at, "%s is not in the file", from);
    if (at) memcpy(at, to, strlen(to));
    write_file(path, other, n);
    free(other);
    return path;
}

static void test_checkpoint_refuses(void)
{
    ij_config c = small_config();
    static char bytes[1 << 21];
    static const char two[] = "\"init_std\":\"0\",\"patch_init_std\":\"0.14\"";   /* not needed */
    static const char *const spoil[][2] = {
        { "\"mask_rng\":\"", "\"mask_rng\":\"x" },
        { "\"step\":\"1\"", "\"step\":\"z\"" },
        { "\"ijepa\":\"1\"", "\"ijepa\":\"2\"" },
        { "\"embed_dim\":\"24\"", "\"embed_dim\":\"48\"" },
        { "\"depth\":\"2\"", "\"depth\":\"3\"" },
        { "\"ijepa\":\"1\"", "\"iJepa\":\"1\"" },
        { "opt.v.encoder.norm.bias", "opt.v.encoder.norm.bios" },
        { "predictor.mask_token", "predictor.mask_tokem" },
        { "\"step\":", "\"stop\":" },
        { two, "\"mask_target_input\":\"true\"            " }
    };
    ij_error why;
    ij_model m, copy;
    ij_rng seeded;
    c.vicreg = 0.25;
    void *mem = start_model(&m, &c), *other;
    train_some(&m, 1);
    const char *path = scratch("whole.safetensors");
    SUCCEED(ij_save(&m, path, &why));
    const size_t n = read_file(path, bytes, sizeof bytes);
    for (size_t i = 0; i < sizeof spoil / sizeof *spoil; i++) {
        const char *bad = spoilt(bytes, n, spoil[i][0], spoil[i][1]);
        const ij_status s = load_model(&copy, &other, bad, &why);
        CHECK(s == IJ_EDATA && strstr(why.text, bad), "%s: accepted: %s", spoil[i][1], why.text);
        free(other);
    }
    /* What a file lacks: a setting takes its default, the generator is as seeded. */
    path = spoilt(bytes, n, "\"vicreg\":", "\"vicrEg\":");
    CHECK(!load_model(&copy, &other, path, &why) && copy.config.vicreg == 0, "%s", why.text);
    CHECK(copy.step == 1, "step %zu", (size_t)copy.step);
    CHECK(!memcmp(&copy.mask_rng, &m.mask_rng, sizeof m.mask_rng), "another generator");
    free(other);
    ij_rng_seed(&seeded, c.seed);
    path = spoilt(bytes, n, "\"mask_rng\":", "\"mask_rnG\":");
    SUCCEED(load_model(&copy, &other, path, &why));
    CHECK(!memcmp(copy.mask_rng.state, seeded.state, sizeof seeded.state), "not as seeded");
    free(other);
    path = spoilt(bytes, n, two, "\"mask_target_input\":\"false\"           ");
    SUCCEED(load_model(&copy, &other, path, &why));
    free(other);
    free(mem);
}

/* The features of an image by an encoder. */
static void features_by(real *to, const ij_encoder *e, const ij_config *c)
{
    const size_t h = c->crop_size[0], w = c->crop_size[1];
    real *image = random_reals(3 * h * w, 5);
    encode_images(NULL, to, e, (ij_pictures){ image, 1, h, w }, NULL);
    free(image);
}

/* The target encoder under Hugging Face's names, q, k and v apart; memory: those that transformers
 * has in memory. */
static void put_hugging_face(const char *path, const ij_model *m, int memory)
{
    static char text[1 << 16];
    const size_t each = sizeof(real), count = m->encoder_size + ij_count(&m->encoder_pos);
    real *data = need(count * each);
    size_t n = 8, end = 0;
    memcpy(data, m->target, m->encoder_size * each);
    memcpy(data + m->encoder_size, m->encoder_pos.x, ij_count(&m->encoder_pos) * each);
    for (size_t i = 0; i <= m->encoder_params; i++) {
        const ij_tensor pos = ij_pos_table(&m->encoder_pos);
        const char *ours = i < m->encoder_params ? m->param[i].name : "pos_embed";
        const ij_tensor *t = i < m->encoder_params ? &m->param[i].shape : &pos;
        const size_t pieces = strstr(ours, "qkv") ? 3 : 1;
        for (size_t k = 0; k < pieces; k++) {
            char name[128], shape[80] = "";
            ij_hf_name(name, ours, k, memory);
            for (size_t j = 0, used = 0; j < t->rank; j++)
                used += (size_t)snprintf(shape + used, sizeof shape - used, j ? ",%zu" : "%zu",
                                         t->dim[j] / (j ? 1 : pieces));
            const size_t next = end + ij_count(t) / pieces * each;
            n += (size_t)snprintf(text + n, sizeof text - n, "%c\"%s%s\":{\"dtype\":\"F%zu\","
                                  "\"shape\":[%s],\"data_offsets\":[%zu,%zu]}", i ? ',' : '{',
                                  memory ? "ijepa." : "", name, 8 * each, shape, end,
                                  next);
            end = next;
        }
    }
    text[n++] = '}';
    CHECK(end == count * each, "%zu bytes", end);
    for (size_t i = 0; i < 8; i++) text[i] = (char)((uint64_t)(n - 8) >> 8 * i & 255);
    FILE *f = fopen(path, "wb");
    const ij_item item = { NULL, IJ_REAL, 1, { count }, data };
    const int ok = f && fwrite(text, 1, n, f) == n;
    if (ok) ij_put_data(f, &item);
    CHECK(ok && !fclose(f), "cannot write %s", path);
    free(data);
}

/* A file's encoder, in a model that does not train, has the features of the model that was saved:
 * ours, and in Hugging Face's layouts. */
static void test_checkpoint_encoders(void)
{
    static const char *const file[4] = {
        "whole.safetensors", "whole.safetensors", "hf/model.safetensors", "hf/memory.safetensors"
    };
    static const char config[] =
        "{\"model_type\": \"ijepa\", \"x\": {\"y\": [\"z\"]}, \"hidden_act\": \"gelu\", "
        "\"layer_norm_eps\": 1e-06, \"image_size\": [24, 32], \"num_attention_heads\": 2}";
    ij_config c = small_config(), read;
    ij_error why;
    ij_model m, copy;
    size_t size;
    void *mem = start_model(&m, &c);
    train_some(&m, 3);
    SUCCEED(ij_save(&m, scratch(file[0]), &why));
    scratch_folder("hf");
    put_hugging_face(scratch(file[2]), &m, 0);
    put_hugging_face(scratch(file[3]), &m, 1);
    write_file(scratch("hf/config.json"), config, sizeof config - 1);
    for (int i = 0; i < 8; i++) {
        real want[24], got[24];
        open_file g;
        const int how = i % 2 ? IJ_LOADED : IJ_INFER;
        features_by(want, i / 2 == 1 ? &m.encoder : &m.target_encoder, &c);
        if (!file_open(&g, scratch(file[i / 2]))) continue;
        CHECK(g.f.kind == (i < 4 ? IJ_KIND_IJEPA : IJ_KIND_HUGGING_FACE), "kind %d", g.f.kind);
        SUCCEED(ij_load_config(&read, &g.f, &why));
        CHECK(read.depth == 2 && read.num_heads == 2 && read.patch_size == 4, "sizes");
        CHECK(ij_hidden(&read) == 96 && read.embed_dim == 24, "widths");
        CHECK(read.crop_size[0] == 24 && read.crop_size[1] == 32, "sides");
        SUCCEED(ij_model_size(&size, &read, how, &why));
        void *room = need(size);
        memset(room, 0x5a, size);
        SUCCEED(ij_model_init(&copy, room, size, &read, how, &why));
        const char *part = i / 2 == 1 ? "encoder" : "target_encoder";
        const ij_status s = i ? ij_load_encoder(&copy, &g.f, part, &why)
                              : ij_load(&copy, &g.f, &why);
        CHECK(!s, "%s", why.text);
        CHECK(!copy.target_encoder.pos.x, "the positions are not taken for sines and cosines");
        features_by(got, &copy.target_encoder, &read);
        CHECK(!memcmp(want, got, sizeof want), "case %d: other features", i);
        if (i == 4) CHECK(ij_load(&m, &g.f, &why) == IJ_EARG, "one encoder is loaded to train");
        file_close(&g);
        free(room);
    }
    remove(scratch("hf/config.json"));
    open_file g;
    if (file_open(&g, scratch(file[2]))) {
        CHECK(ij_load_config(&read, &g.f, &why) == IJ_EDATA, "without config.json");
        CHECK(strstr(why.text, "num_attention_heads"), "%s", why.text);
        file_close(&g);
    }
    free(mem);
}

#ifndef IJEPA_NO_POSIX
/* Each call that a save makes fails in turn, then the disk is full at each of many bytes: the old
 * file stays whole, and opens, and nothing lies beside it. */
static void test_save_failing_everywhere(void)
{
    const ij_config c = small_config();
    static char before[1 << 21], after[1 << 21];
    ij_error why;
    ij_model m;
    void *mem = start_model(&m, &c);
    train_some(&m, 1);
    const char *path = scratch("steady.safetensors"), *aside = scratch("steady.safetensors.tmp");
    SUCCEED(ij_save(&m, path, &why));
    const size_t n = read_file(path, before, sizeof before);
    train_some(&m, 1);
    struct rlimit old, less;
    getrlimit(RLIMIT_FSIZE, &old);
    signal(SIGXFSZ, SIG_IGN);
    long calls = 0;
    int late = 0;
    for (size_t limit = 0; limit < n; calls < 0 ? limit += n / 97 : 0) {
        less = old;
        less.rlim_cur = limit;
        if (calls >= 0) fail_at = calls++;
        else setrlimit(RLIMIT_FSIZE, &less);
        why.text[0] = 0;
        const ij_status s = ij_save(&m, path, &why);
        const int reached = fail_at < 0;
        setrlimit(RLIMIT_FSIZE, &old);
        fail_at = -1;
        short_write = 0;
        /* every call had its turn; that save was whole */
        if (calls >= 0 && !reached) {
            CHECK(!s && calls > 200, "%ld calls; %s", calls, why.text);
            calls = -1;
            write_file(path, before, n);
            continue;
        }
        const int last = calls > 0 && s == IJ_OK;     /* the folder is flushed after all is done */
        late += last;
        const int said = s == IJ_EFILE && strstr(why.text, "steady");
        const int kept = read_file(path, after, sizeof after) == n && !memcmp(before, after, n);
        CHECK(last || said, "call %ld, byte %zu: status %d %s", calls, limit, (int)s, why.text);
        CHECK(last || kept, "call %ld, byte %zu: the old file changed", calls, limit);
        if (last) write_file(path, before, n);
        CHECK(access(aside, F_OK), "call %ld, byte %zu: %s remains", calls, limit, aside);
    }
    CHECK(calls < 0 && late == 1, "%d failures unnoticed, beside the folder's flush", late - 1);
    signal(SIGXFSZ, SIG_DFL);
    free(mem);
}

/* A failed save: the old file as it was, and nothing aside. */
static void save_refused(const ij_model *m, const char *path, const char *says, int old)
{
    char aside[300], b[4] = "";
    ij_error why = { "" };
    const ij_status s = ij_save(m, path, &why);
    CHECK(s == IJ_EFILE && strstr(why.text, says), "%s: status %d: %s", path, (int)s, why.text);
    snprintf(aside, sizeof aside, "%.290s.tmp", path);
    CHECK(access(aside, F_OK), "%s is left", aside);
    if (!old) return;
    CHECK(read_file(path, b, sizeof b) == 3 && !memcmp(b, "old", 3), "%s has changed", path);
}

static void test_save_refused(void)
{
    static char long_name[2000];
    const ij_config c = small_config();
    ij_error why;
    ij_model m;
    struct stat st;
    void *mem = start_model(&m, &c);
    save_refused(&m, scratch("no-such-folder/x.safetensors"), "No such file", 0);
    scratch_folder("folder.safetensors");
    save_refused(&m, scratch("folder.safetensors"), "folder.safetensors", 0);
    CHECK(!stat(scratch("folder.safetensors"), &st) && S_ISDIR(st.st_mode), "the folder has gone");
    const char *path = scratch("full.safetensors");
    write_file(path, "old", 3);
    if (!access("/dev/full", W_OK)) {
        CHECK(!symlink("/dev/full", scratch("full.safetensors.tmp")), "no symlink");
        save_refused(&m, path, "No space", 1);
    }
    CHECK(!ij_save(&m, path, &why), "replacing: %s", why.text);
    scratch_folder("readonly");
    path = scratch("readonly/x.safetensors");
    write_file(path, "old", 3);
    chmod(scratch("readonly"), 0500);
    if (geteuid()) save_refused(&m, path, "denied", 1);
    chmod(scratch("readonly"), 0700);
    memset(long_name, 'a', sizeof long_name - 1);
    save_refused(&m, long_name, "too long", 0);
    free(mem);
}
#endif

/* ---- documentation ---- */

static void test_readme_names_exist(void)
{
    static char readme[1 << 17], source[1 << 20], header[1 << 17];
    const size_t n = read_file("README.md", readme, sizeof readme - 1);
    read_file("ijepa.c", source, sizeof source - 1);
    read_file("ijepa.h", header, sizeof header - 1);
    size_t names = 0;
    for (char *at = readme; n && (at = strstr(at, "`ij_")) != NULL; at++) {
        char name[64], call[68];
        const size_t k = strspn(at + 1, "abcdefghijklmnopqrstuvwxyz_0123456789");
        if (k >= sizeof name) continue;
        snprintf(name, sizeof name, "%.*s", (int)k, at + 1);
        snprintf(call, sizeof call, "%s(", name);
        CHECK(strstr(source, call) || strstr(header, name), "README names %s, which does not exist",
              name);
        names++;
    }
    CHECK(names > 20, "README's map names only %zu functions", names);
}

static void test_status_strings(void)
{
    for (int i = 0; i < 7; i++) CHECK(strlen(ij_status_string((ij_status)i)) > 1, "status %d", i);
    CHECK(strstr(ij_status_string((ij_status)99), "unknown"), "an unknown status");
}

/* ---- image readers ---- */

/* Opens path; mem is the caller's to free. */
static ij_status open_set(ij_data *d, void **mem, const char *path, int part, ij_error *why)
{
    size_t size;
    *mem = NULL;
    memset(d, 0, sizeof *d);
    const ij_status s = ij_data_size(&size, path, why);
    if (s) return s;
    *mem = need(size);
    for (size_t less = 0; less < size; less += (size - less + 1) / 2)
        CHECK(ij_data_open(d, *mem, less, path, part, why) == IJ_EMEM, "%zu bytes were enough",
              less);
    return ij_data_open(d, *mem, size, path, part, why);
}

/* Image i of the part; its pixels, NULL if there are very many, are the caller's to free. */
static ij_status read_image(ij_image *to, ij_data *d, size_t i, ij_error *why)
{
    memset(to, 0, sizeof *to);
    const ij_status s = ij_data_read(to, d, i, why);
    const size_t size = to->height * to->width * 3;
    if (s || size > 1 << 22) return s;
    to->rgb = need(size);
    to->size = size - 1;
    CHECK(ij_data_read(to, d, i, why) == IJ_EMEM, "too little memory is accepted");
    to->size = size;
    return ij_data_read(to, d, i, why);
}

/* Reads every image; the first status that is not IJ_OK. */
static ij_status read_all(const char *path, ij_error *why)
{
    void *mem;
    ij_data d;
    ij_image image;
    ij_status s = open_set(&d, &mem, path, IJ_WHOLE, why);
    for (size_t i = 0; !s && i < d.count; i++) {
        s = read_image(&image, &d, i, why);
        free(image.rgb);
    }
    ij_data_close(&d);
    free(mem);
    return s;
}

/* Image i in words: the kind of data, of how many, its label, its colour at a pixel. */
static void check_record(const char *path, int part, size_t i, size_t pixel, const char *want)
{
    ij_error why;
    void *mem;
    ij_data d;
    ij_image image;
    char got[80];
    const ij_status s = open_set(&d, &mem, path, part, &why);
    CHECK(!s, "%s", why.text);
    if (!s) {
        SUCCEED(read_image(&image, &d, i, &why));
        const uint8_t *rgb = image.rgb + 3 * pixel;
        snprintf(got, sizeof got, "%s %zu %d: %d %d %d", d.name, d.count, ij_data_label(&d, i, 0),
                 rgb[0], rgb[1],
                 rgb[2]);
        CHECK(!strcmp(got, want), "%s: %s, expected %s", path, got, want);
        free(image.rgb);
        CHECK(read_image(&image, &d, d.count, &why) == IJ_EARG, "an image past the end");
    }
    ij_data_close(&d);
    free(mem);
}

/* two pixels */
static void pnm_case(const char *name, const void *bytes, size_t n, const uint8_t *want)
{
    ij_error why;
    const char *path = scratch(name);
    write_file(path, bytes, n);
    for (size_t pixel = 0; pixel < 2; pixel++, want += 3) {
        char words[80];
        snprintf(words, sizeof words, "PNM 1 -1: %d %d %d", want[0], want[1], want[2]);
        check_record(path, IJ_TEST_PART, 0, pixel, words);
    }
    /* cut at every byte: refused, and the line names the file */
    for (size_t cut = 0; cut < n; cut++) {
        if (n - cut == 1 &&
            (((const char *)bytes)[n - 1] == '\n' || ((const char *)bytes)[1] < '5'))
            continue;
        /* text: the last number may lose digits */
        if (((const char *)bytes)[1] < '5' && cut + 3 >= n) continue;
        write_file(path, bytes, cut);
        CHECK(read_all(path, &why) != IJ_OK, "%s cut to %zu bytes is accepted", name, cut);
        CHECK(strstr(why.text, path), "the message does not name the file: %s", why.text);
    }
    unsigned char other[256];
    /* any byte changed: no crash, whatever the verdict */
    for (size_t i = 0; i < n; i++)
        for (int k = 0; k < 12; k++) {
            static const unsigned char value[12] = {
                0, 255, '0', '9', ' ', '\n', '#', 'P', '-', '1', 128, '.'
            };
            memcpy(other, bytes, n);
            other[i] = value[k];
            write_file(path, other, n);
            if (read_all(path, &why))
                CHECK(strlen(why.text) > 10 && strstr(why.text, path), "%s", why.text);
        }
    memcpy(other, bytes, n);
    memcpy(other + n, "\0x", 2);
    write_file(path, other, n + 2);
    if (other[1] >= '5')
        CHECK(read_all(path, &why) == IJ_EDATA, "%s: bytes after the raster are accepted", name);
}

static void test_pnm_flavours(void)
{
    static const uint8_t grey[6] = { 0, 0, 0, 255, 255, 255 }, rgb[6] = { 1, 2, 3, 250, 128, 0 },
                         half[6] = { 128, 128, 128, 64, 64, 64 };
    static const uint8_t wide[6] = { 255, 0, 128, 0, 255, 64 };
    pnm_case("a.pgm", "P5\n2 1\n255\n\0\377", 13, grey);
    pnm_case("b.ppm", "P6 # note\n2\t1 #more\n255\n\1\2\3\372\200\0", 30, rgb);
    pnm_case("c.pgm", "P2\n# a comment\n2 1\n15\n0 15\n", 26, grey);
    pnm_case("d.ppm", "P3\r\n2 1 255\r\n1 2 3\r\n250 128 0\r\n", 32, rgb);
    pnm_case("e.pgm", "P5 2 1 65535 \200\0\100\0", 17, half);
    pnm_case("f.ppm", "P6 2 1 1000 \003\350\0\0\001\366\0\0\003\350\0\372", 24, wide);
}

static void test_pnm_hostile(void)
{
    static const char *const bad[] = { "P6 4294967295 4294967295 255 ",
                                       "P6 0 5 255 ",
                                       "P6 5 0 255 ",
                                       "P6 2 2 0 ",
                                       "P6 2 2 65536 ",
                                       "P6 99999999999999999999999 1 255 ",
                                       "P6 -1 5 255 ",
                                       "P6 2 2",
                                       "P7\nWIDTH 2\n",
                                       "P1 1 1 0",
                                       "P4 1 1 x",
                                       "P6",
                                       "P6 1 1 255x123",
                                       "P5 1000000 1000000 255\n",
                                       "P2 1 1 5 6",
                                       "P3 1 1 255 1 2",
                                       "P2 1 1 255 1 # x" };
    ij_error why;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const char *path = scratch("hostile.ppm");
        write_file(path, bad[i], strlen(bad[i]));
        const ij_status s = read_all(path, &why);
        if (i + 1 < sizeof bad / sizeof *bad)
            CHECK(s == IJ_EDATA && strstr(why.text, "hostile.ppm"), "\"%s\": %s", bad[i], why.text);
        else CHECK(!s, "%s", why.text);
    }
    static const struct { const char *bytes; size_t n; const char *name; } foreign[] = {
        { "\x89PNG\r\n\x1a\n", 8, "PNG" }, { "\xff\xd8\xff\xe0....", 8, "JPEG" },
        { "GIF89a..", 8, "GIF" }, { "PK\3\4....", 8, "zip" }, { "\x1f\x8b......", 8, "gzip" }
    };
    for (size_t i = 0; i < 5; i++) {
        write_file(scratch("x.ppm"), foreign[i].bytes, foreign[i].n);
        CHECK(read_all(scratch("x.ppm"), &why) && strstr(why.text, foreign[i].name), "%s",
              why.text);
    }
    REFUSE(IJ_EFILE, "absent.ppm", read_all(scratch("absent.ppm"), &why));
    write_file(scratch("empty.ppm"), "", 0);
    CHECK(read_all(scratch("empty.ppm"), &why) == IJ_EDATA, "%s", why.text);
}

static void put_color(uint8_t *at, size_t plane)
{
    at[0] = 11;
    at[plane] = 22;
    at[2 * plane] = 33;
}

static void test_records_formats(void)
{
    static uint8_t b[4 * 27648];
    ij_error why;
    memset(b, 0, sizeof b);
    for (size_t i = 0; i < 4; i++) b[i * 3073] = (uint8_t)(i + 5);      /* CIFAR-10 */
    put_color(b + 2 * 3073 + 1 + 40, 1024);
    write_file(scratch("c10.dat"), b, 4 * 3073);
    check_record(scratch("c10.dat"), IJ_WHOLE, 2, 40, "CIFAR-10 4 7: 11 22 33");
    const char *folder = scratch_folder("cifar");
    write_file(scratch("cifar/data_batch_1.bin"), b, 2 * 3073);
    check_record(folder, IJ_WHOLE, 1, 0, "CIFAR-10 2 6: 0 0 0");
    write_file(scratch("cifar/data_batch_2.bin"), b, 3073);
    write_file(scratch("cifar/test_batch.bin"), b + 3073, 3 * 3073);
    check_record(folder, IJ_TRAIN_PART, 2, 40, "CIFAR-10 3 5: 0 0 0");
    check_record(folder, IJ_TEST_PART, 1, 40, "CIFAR-10 3 7: 11 22 33");
    check_record(folder, IJ_WHOLE, 4, 40, "CIFAR-10 6 7: 11 22 33");

    memset(b, 0, sizeof b);
    b[3074] = 19;                                               /* CIFAR-100 */
    b[3075] = 99;
    put_color(b + 3076 + 7, 1024);
    write_file(scratch("c100.dat"), b, 2 * 3074);
    check_record(scratch("c100.dat"), IJ_WHOLE, 1, 7, "CIFAR-100 2 99: 11 22 33");
    b[3074] = 20;
    write_file(scratch("c100.dat"), b, 2 * 3074);
    CHECK(read_all(scratch("c100.dat"), &why) == IJ_EDATA, "a coarse label of 20 is accepted");

    /* STL-10: column-major; y = 3, x = 5 */
    memset(b, 0, sizeof b);
    put_color(b + 27648 + 96 * 5 + 3, 9216);
    write_file(scratch("train_X.bin"), b, 2 * 27648);
    check_record(scratch("train_X.bin"), IJ_WHOLE, 1, 3 * 96 + 5, "STL-10 2 -1: 11 22 33");
    write_file(scratch("train_y.bin"), "\1\12", 2);
    check_record(scratch("train_X.bin"), IJ_WHOLE, 1, 3 * 96 + 5, "STL-10 2 9: 11 22 33");
    for (int bad = 0; bad < 4; bad++) {
        static const struct { const char *y; size_t n; } label[4] = {
            { "\1", 1 }, { "\0\1", 2 }, { "\1\13", 2 }, { "\1\1\1", 3 }
        };
        write_file(scratch("train_y.bin"), label[bad].y, label[bad].n);
        REFUSE(IJ_EDATA, "train_y.bin", read_all(scratch("train_X.bin"), &why));
    }

    memcpy(b, "\0\0\x08\3\0\0\0\3\0\0\0\2\0\0\0\2abcdefghijkl", 28);    /* IDX: 3 images of 2x2 */
    write_file(scratch("train-images-idx3-ubyte"), b, 28);
    check_record(scratch("train-images-idx3-ubyte"), IJ_WHOLE, 1, 2, "IDX 3 -1: 103 103 103");
    write_file(scratch("train-labels-idx1-ubyte"), "\0\0\x08\1\0\0\0\3\4\0\7", 11);
    check_record(scratch("train-images-idx3-ubyte"), IJ_WHOLE, 2, 3, "IDX 3 7: 108 108 108");
    for (size_t cut = 0; cut < 28; cut++) {
        write_file(scratch("train-images-idx3-ubyte"), b, cut);
        CHECK(read_all(scratch("train-images-idx3-ubyte"), &why) == IJ_EDATA, "IDX cut to %zu",
              cut);
    }
    for (size_t cut = 0; cut < 11; cut++) {
        write_file(scratch("train-images-idx3-ubyte"), b, 28);
        write_file(scratch("train-labels-idx1-ubyte"), "\0\0\x08\1\0\0\0\3\4\0\7", cut);
        CHECK(read_all(scratch("train-images-idx3-ubyte"), &why) == IJ_EDATA,
              "IDX labels cut to %zu",
              cut);
    }
    for (size_t i = 0; i < 16; i++)
        for (int k = 0; k < 8; k++) {
            uint8_t other[28];
            memcpy(other, b, 28);
            other[i] = (uint8_t)(1 << k);
            write_file(scratch("flip.idx"), other, 28);
            if (read_all(scratch("flip.idx"), &why))
                CHECK(strstr(why.text, "flip.idx"), "%s", why.text);
        }
    write_file(scratch("huge.idx"), "\0\0\x08\3\377\377\377\377\377\377\377\377\377\377\377\377abc",
               19);
    CHECK(read_all(scratch("huge.idx"), &why) == IJ_EDATA, "an IDX that overflows is accepted");
    memset(b, 9, 3073 * 2);
    for (size_t cut = 1; cut < 2 * 3073; cut += 97) {
        write_file(scratch("cut.bin"), b, 2 * 3073 - cut);
        if (cut != 3073) REFUSE(IJ_EDATA, "cut.bin", read_all(scratch("cut.bin"), &why));
    }
}

static void put_ppm(const char *folder, const char *name, int value)
{
    char path[400];
    unsigned char bytes[16] = "P6 1 1 255 ...";
    bytes[11] = bytes[12] = bytes[13] = (unsigned char)value;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    for (char *slash = strchr(path + strlen(folder) + 1, '/'); slash;
         slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(path, 0700);
        *slash = '/';
    }
    write_file(path, bytes, 14);
}

static void test_folder_trees(void)
{
    static const char *const class[3] = { "cat", "cat.big", "dog" };
    ij_error why;
    char name[64];
    const char *folder = scratch_folder("tree");
    REFUSE(IJ_EDATA, "no .ppm", read_all(folder, &why));
    put_ppm(folder, "note.txt", 0);
    REFUSE(IJ_EDATA, ".txt", read_all(folder, &why));
    for (int i = 0; i < 25; i++) {
        snprintf(name, sizeof name, "%s/deep/%02d.PPM", class[(i >= 10) + (i >= 18)], i);
        put_ppm(folder, name, i);
    }
    check_record(folder, IJ_WHOLE, 12, 0, "folder of PNM 25 1: 12 12 12");
    check_record(folder, IJ_TEST_PART, 1, 0, "folder of PNM 2 2: 19 19 19");
    check_record(folder, IJ_TRAIN_PART, 9, 0, "folder of PNM 23 1: 10 10 10");

    folder = scratch_folder("flat");                            /* no classes */
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "%d.pnm", i);
        put_ppm(folder, name, i);
    }
    check_record(folder, IJ_WHOLE, 2, 0, "folder of PNM 3 -1: 2 2 2");
    size_t size;                                                /* more files than were counted */
    SUCCEED(ij_data_size(&size, folder, &why));
    ij_data d;
    ij_arena less = { need(size - 64), size - 64, 0 };
    SUCCEED(ij_data_find(&d, &less, folder, &why));
    CHECK(!d.label && less.used > less.size, "they are written past the memory");
    free(less.base);

    folder = scratch_folder("pair");                            /* train and val */
    put_ppm(folder, "train/b/1.ppm", 1);
    put_ppm(folder, "train/a/1.ppm", 2);
    put_ppm(folder, "train/c/1.ppm", 3);
    put_ppm(folder, "val/c/1.ppm", 4);
    put_ppm(folder, "val/a/1.ppm", 5);
    check_record(folder, IJ_TRAIN_PART, 0, 0, "folder of PNM 3 0: 2 2 2");
    check_record(folder, IJ_TEST_PART, 1, 0, "folder of PNM 2 2: 4 4 4");
    put_ppm(folder, "val/zebra/1.ppm", 4);
    REFUSE(IJ_EDATA, "zebra", read_all(folder, &why));

    folder = scratch_folder("deep");
    put_ppm(folder, "1/2/3/4/5/6/7/8/9/a/b/c/d/e/f/g/h/i.ppm", 1);
    REFUSE(IJ_EARG, "deep", read_all(folder, &why));
}

#ifndef IJEPA_NO_POSIX
static void test_far_folder(void)                       /* its path leaves little room for names */
{
    enum { FAR = 1010 };
    char path[FAR + 20];
    ij_error why;
    snprintf(path, sizeof path, "%s", scratch_folder("far"));
    for (size_t n = strlen(path); n < FAR; n = strlen(path)) {
        snprintf(path + n, sizeof path - n, "/%0*d", (int)IJ_MIN(200, FAR - n), 0);
        mkdir(path, 0700);
    }
    REFUSE(IJ_EDATA, "no .ppm", read_all(path, &why));
    const size_t n = strlen(path);
    strcpy(path + n, "/1.ppm");
    write_file(path, "P6 1 1 255 \7\7\7", 14);
    path[n] = 0;
    check_record(path, IJ_WHOLE, 0, 0, "folder of PNM 1 -1: 7 7 7");
}
#endif

static void test_held_out_tenth(void)                   /* disjoint, and together everything */
{
    ij_data d;
    for (size_t count = 1; count < 45; count++) {
        int seen[64] = { 0 };
        memset(&d, 0, sizeof d);
        d.all = count;
        for (int part = 0; part < 2; part++) {
            ij_data_choose(&d, part);
            for (size_t i = 0; i < d.count; i++) seen[ij_data_at(&d, i)]++;
        }
        for (size_t i = 0; i < count; i++)
            CHECK(seen[i] == 1, "image %zu of %zu is in %d parts", i, count, seen[i]);
    }
}

static void test_resize_golden(void)                    /* Pillow, to the bit */
{
    open_file g;
    if (!file_open(&g, "data/golden/golden_images.safetensors")) return;
    for (int k = 0; k < (int)meta_number(&g, "cases"); k++) {
        char name[40];
        size_t n, differ = 0;
        snprintf(name, sizeof name, "i%d.in", k);
        double *in = golden_read(&g, name, &n);
        const ij_entry *from = ij_file_find(&g.f, name);
        uint8_t *src = need(n);
        for (size_t i = 0; i < n; i++) src[i] = (uint8_t)in[i];
        snprintf(name, sizeof name, "i%d.box", k);
        double *b = golden_read(&g, name, &n);
        const ij_box box = { (size_t)b[0], (size_t)b[1], (size_t)(b[3] - b[1]),
                             (size_t)(b[2] - b[0]) };
        snprintf(name, sizeof name, "i%d.out", k);
        double *want = golden_read(&g, name, &n);
        const ij_entry *to = ij_file_find(&g.f, name);
        const ij_image whole = { from->dim[0], from->dim[1], src, 0 },
                       small = { to->dim[0], to->dim[1], need(n), 0 };
        ij_arena a = { NULL, 0, 0 };
        ij_resize(&small, &whole, &box, &a);
        ij_arena work = { need(a.used), a.used, 0 };
        ij_resize(&small, &whole, &box, &work);
        for (size_t i = 0; i < n; i++) differ += (double)small.rgb[i] != want[i];
        CHECK(!differ, "i%d: %zu of %zu values differ", k, differ, n);
        free(in);
        free(src);
        free(b);
        free(want);
        free(work.base);
        free(small.rgb);
    }
    file_close(&g);
}

static void test_crop_and_normalise(void)
{
    ij_rng rng;
    const double scale[2] = { 0.3, 1 };
    double area = 0;
    ij_rng_seed(&rng, 1);
    for (size_t i = 0; i < 3000; i++) {
        const ij_image odd = { 1 + i % 97, 1 + i * 7 % 211, NULL, 0 },
                       square = { 100, 100, NULL, 0 };
        ij_box box = ij_random_crop(&odd, scale, &rng);
        CHECK(box.width && box.height && box.x + box.width <= odd.width &&
                  box.y + box.height <= odd.height,
              "box %zu %zu %zu %zu of %zux%zu", box.x, box.y, box.height, box.width, odd.height,
              odd.width);
        box = ij_random_crop(&square, scale, &rng);
        area += (double)(box.width * box.height) / 1e4 / 3000;
    }
    CHECK(area > 0.55 && area < 0.7, "mean area %g", area);
    const ij_config c = ij_config_default();
    uint8_t rgb[6] = { 255, 0, 51, 0, 255, 102 };
    const ij_image two = { 1, 2, rgb, 0 };
    real planes[6];
    ij_normalise(planes, &two, &c, 1);                          /* mirrored */
    const double want[6] = {
        (0 - .485) / .229, (1 - .485) / .229, (1 - .456) / .224, (0 - .456) / .224,
        (.4 - .406) / .225, (.2 - .406) / .225
    };
    for (int i = 0; i < 6; i++)
        CHECK(fabs((double)planes[i] - want[i]) < 1e-6, "plane value %d: %g, expected %g", i,
              (double)planes[i],
              want[i]);
}

static void test_view(void)                             /* of a picture of columns */
{
    enum { H = 30, W = 70 };
    static uint8_t rgb[H * W * 3];
    ij_image from = { H, W, rgb, 0 };
    ij_config c = ij_config_default();
    ij_error why;
    c.crop_size[0] = c.crop_size[1] = H;
    for (size_t i = 0; i < sizeof rgb; i++) rgb[i] = (uint8_t)(i / 3 % W);
    const size_t size = ij_view_size(H, W, &c);
    uint8_t *work = need(size);
    real *planes = need(3 * H * H * sizeof *planes);
    SUCCEED(ij_view(planes, &from, &c, NULL, work, size, &why));
    for (size_t i = 0; i < H * H; i++)
        CHECK(work[3 * i] == 20 + i % H &&
                  fabs((double)planes[i] - (work[3 * i] / 255.0 - c.mean[0]) / c.std[0]) < 1e-5,
              "pixel %zu of the middle is %d, %g", i, work[3 * i],
              (double)planes[i]);
    for (size_t less = 0; less < size; less += less / 3 + 1)
        CHECK(ij_view(planes, &from, &c, NULL, work, less, &why) == IJ_EMEM,
              "%zu bytes were enough",
              less);
    from.width = 0;
    CHECK(ij_view(planes, &from, &c, NULL, work, size, &why) == IJ_EARG,
          "a picture without pixels is seen");
    free(work);
    free(planes);
}

/* ---- scenes ---- */

/* Nothing at strength 0; gray is luma; else one map for all pixels: what lies half-way stays
 * half-way, greys stay grey, one image in five is left alone, hue is a turn around the grey
 * axis, either way; brightness, contrast and saturation reach both ends. */
static void test_color_jitter(void)
{
    static const uint8_t plain[5][3] = {
        { 60, 160, 110 }, { 170, 80, 150 }, { 115, 120, 130 }, { 115, 115, 115 }, { 75, 75, 75 }
    };
    uint8_t rgb[5][3], grey[2][3];
    double turn = 0, turns = 0, low[3] = { 9, 9, 9 }, high[3] = { 0 };
    size_t same = 0, clipped = 0;
    ij_rng rng;
    ij_rng_seed(&rng, 3);
    memcpy(rgb, plain, sizeof rgb);
    ij_color_jitter(rgb[0], 5, 0, 0, &rng);
    CHECK(!memcmp(rgb, plain, sizeof rgb), "strength 0 changes something");
    ij_color_jitter(rgb[0], 5, 0, 1, &rng);
    for (int i = 0; i < 5; i++)
        CHECK(rgb[i][0] == rgb[i][1] && rgb[i][0] == rgb[i][2] &&
                  rgb[i][0] ==
                      (int)(0.299 * plain[i][0] + 0.587 * plain[i][1] + 0.114 * plain[i][2] + 0.5),
              "gray is %d %d %d", rgb[i][0], rgb[i][1],
              rgb[i][2]);
    for (int draw = 0; draw < 2000; draw++) {
        memcpy(rgb, plain, sizeof rgb);
        memset(grey[0], 75, 3);
        memset(grey[1], 155, 3);
        ij_color_jitter(rgb[0], 5, 0.3, 0, &rng);
        same += !memcmp(rgb, plain, sizeof rgb);
        int out = 0;
        for (int i = 0; i < 15; i++) out |= rgb[i / 3][i % 3] == 0 || rgb[i / 3][i % 3] == 255;
        clipped += (size_t)out;
        for (int k = 0; k < 3 && !out; k++)
            CHECK(abs(2 * rgb[2][k] - rgb[0][k] - rgb[1][k]) <= 2, "half-way: %d %d %d", rgb[0][k],
                  rgb[2][k],
                  rgb[1][k]);
        CHECK(out || (abs(rgb[3][0] - rgb[3][1]) <= 1 && abs(rgb[3][0] - rgb[3][2]) <= 1),
              "grey has a colour: %d %d %d", rgb[3][0], rgb[3][1],
              rgb[3][2]);
        /* in the plane of red - blue and green - (red + blue) / 2 */
        double cross[2], length[2];
        for (int i = 0; i < 2; i++) {
            const uint8_t *a = plain[i], *b = rgb[i];
            const double x = a[0] - a[2], y = (2 * a[1] - a[0] - a[2]) / sqrt(3), u = b[0] - b[2],
                         v = (2 * b[1] - b[0] - b[2]) / sqrt(3);
            CHECK(out || fabs(atan2(x * v - y * u, x * u + y * v)) < 2 * IJ_PI * 0.2 * 0.3 + 0.02,
                  "hue turned by %g",
                  atan2(x * v - y * u, x * u + y * v));
            cross[i] = (x * v - y * u) / (x * x + y * y);
            length[i] = sqrt((u * u + v * v) / (x * x + y * y));
        }
        CHECK(out || (fabs(length[0] - length[1]) < 0.03 && fabs(cross[0] - cross[1]) < 0.03),
              "colours by %g and %g, turned by %g and %g", length[0], length[1], cross[0],
              cross[1]);
        turn += cross[0] / 2000;
        turns += fabs(cross[0]) / 2000;
        const double spread = (rgb[3][0] - rgb[4][0]) / 40.0;
        ij_color_jitter(grey[0], 2, 0.3, 0, &rng);
        const double bright = (grey[0][0] + grey[1][0]) / 230.0,
                     of[3] = { bright, (grey[1][0] - grey[0][0]) / 80.0 / bright,
                               length[0] / spread };
        for (int k = 0; k < 3 && !out; k++) {
            low[k] = of[k] < low[k] ? of[k] : low[k];
            high[k] = of[k] > high[k] ? of[k] : high[k];
        }
    }
    CHECK(same > 340 && same < 470 && clipped < 200, "%zu of 2,000 are as they were, %zu clipped",
          same,
          clipped);
    CHECK(fabs(turn) < 0.1 * turns && turns > 0.1, "hue %g of %g", turn, turns);
    for (int k = 0; k < 3; k++)
        CHECK(fabs(low[k] - 0.76) < 0.04 && fabs(high[k] - 1.24) < 0.04,
              "brightness, contrast, saturation: %d from %g to %g", k, low[k],
              high[k]);
}

static void test_scenes(void)
{
    static const char *const bad[] = {
        "scenes:", "scenes:0", "scenes:10k", "scenes:5:", "scenes:5:8x", "scenes:5:4097",
        "scenes:-1",
    };
    static uint8_t a[33 * 33 * 3], b[33 * 33 * 3];
    ij_error why;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        REFUSE(IJ_EARG, "scenes:COUNT", read_all(bad[i], &why));
    size_t count[8] = { 0 }, dist[6] = { 0 }, kind[3] = { 0 };
    enum { N = 12000 };
    for (size_t i = 0; i < N; i++) {
        int label[3];
        double nearest = 0;
        ij_world w;
        ij_world_draw(&w, 0, i, label);
        count[label[0]]++;
        dist[label[1]]++;
        kind[label[2]]++;
        CHECK(w.objects == label[0] + 1 && w.object[0].kind == label[2], "scene %zu: labels", i);
        for (int k = 0; k < w.objects; k++) {
            const ij_object *o = &w.object[k];
            const double far =
                sqrt(o->x * o->x + o->y * o->y + (w.height - o->size) * (w.height - o->size));
            if (!k) nearest = far;
            CHECK(!k || far > nearest, "scene %zu: object %d is nearer than the nearest", i, k);
            for (int j = 0; j < k; j++) {
                const double dx = o->x - w.object[j].x, dy = o->y - w.object[j].y;
                CHECK(sqrt(dx * dx + dy * dy) > 1.4 * (o->size + w.object[j].size),
                      "scene %zu: objects %d and %d touch", i, j,
                      k);
            }
        }
        const int bin = (int)floor(log(nearest / ij_nearest) / log(ij_distance_ratio));
        CHECK(bin == label[1], "scene %zu: distance %g is not of class %d", i, nearest, label[1]);
    }
    for (int i = 0; i < 8; i++)
        CHECK(fabs((double)count[i] / N - 1.0 / 8) < 0.012, "count %d: %zu", i, count[i]);
    for (int i = 0; i < 6; i++)
        CHECK(fabs((double)dist[i] / N - 1.0 / 6) < 0.013, "distance %d: %zu", i, dist[i]);
    for (int i = 0; i < 3; i++)
        CHECK(fabs((double)kind[i] / N - 1.0 / 3) < 0.017, "kind %d: %zu", i, kind[i]);
    for (size_t side = 1; side <= 33; side += 16) {
        int x[3], y[3], z[3];
        ij_scene(a, side, 5, 7, x);
        ij_scene(b, side, 5, 7, y);
        ij_scene(NULL, side, 5, 7, z);
        CHECK(!memcmp(a, b, side * side * 3) && !memcmp(x, y, sizeof x) && !memcmp(x, z, sizeof x),
              "side %zu is not deterministic",
              side);
    }
    int label[3];
    ij_scene(a, 33, 5, 7, label);
    ij_scene(b, 33, 5, 8, label);
    CHECK(memcmp(a, b, sizeof a), "two scenes are the same");
    ij_scene(b, 33, 6, 7, label);
    CHECK(memcmp(a, b, sizeof a), "two seeds give one scene");
}

static void test_data_scenes_kept(void)                 /* data/scenes holds the first of seed 0 */
{
    static uint8_t drawn[32 * 32 * 3];
    ij_error why = { "" };
    void *mem;
    ij_data d;
    CHECK(!open_set(&d, &mem, "data/scenes", IJ_WHOLE, &why) && d.count == 36, "%s, or %zu images",
          why.text,
          d.count);
    for (size_t i = 0; i < d.count; i++) {
        ij_image kept;
        int label[3], worst = 0;
        CHECK(!read_image(&kept, &d, i, &why) && kept.size == sizeof drawn, "%s, or %zu bytes",
              why.text,
              kept.size);
        ij_scene(drawn, 32, 0, i, label);
        for (size_t k = 0; k < sizeof drawn; k++)
            worst = IJ_MAX(worst, abs(kept.rgb[k] - drawn[k]));
        CHECK(worst <= 1, "scene %zu differs by %d grey levels", i, worst);
        free(kept.rgb);
    }
    ij_data_close(&d);
    free(mem);
}

/* ---- safetensors ---- */

#define ST(dtype, shape, place) "{'dtype':'" dtype "','shape':" shape ",'data_offsets':" place "}"
#define ST_U8 "'dtype':'U8','shape':[],'data_offsets':[0,1]"
#define ST_DEEP8 "[[[[[[[["
#define ST_DEEP8_END "]]]]]]]]"

/* A file of its own making: ' in the header stands for ", the data is 0 1 2 ... */
static void st_put(const char *path, const char *header, size_t length, size_t data)
{
    unsigned char *b = need(8 + length + data);
    for (size_t i = 0; i < 8; i++) b[i] = (unsigned char)((uint64_t)length >> 8 * i & 255);
    for (size_t i = 0; i < length; i++)
        b[8 + i] = (unsigned char)(header[i] == '\'' ? '"' : header[i]);
    for (size_t i = 0; i < data; i++) b[8 + length + i] = (unsigned char)i;
    write_file(path, b, 8 + length + data);
    free(b);
}

/* The tensors neither overlap nor leave a hole: checked pair by pair, not by sorting. */
static int st_tiles(const ij_file *f, uint64_t data)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < f->entries; i++) {
        const ij_entry *a = &f->entry[i];
        if (a->begin > a->end || a->end > data) return 0;
        for (size_t k = 0; k < i; k++) {
            const ij_entry *b = &f->entry[k];
            if (!strcmp(a->name, b->name) || (a->begin < b->end && b->begin < a->end)) return 0;
        }
        sum += a->end - a->begin;
    }
    return sum == data;
}

/* 2x3 F32, an empty I64, a scalar U8, an F16 that is not aligned; the order of names is not that
 * of places. */
static const char st_sample[] =
    "{'w':{'dtype':'F32','shape':[2,3],'data_offsets':[1,25]},"
    "'__metadata__':{'format':'pt','a':'\\u00e9'},"
    "'e':{'shape':[0,7],'dtype':'I64','data_offsets':[25,25]},"
    "'u':{'dtype':'U8','x':[1.5e+3,{'y':null}],'shape':[],'data_offsets':[0,1]}, "
    "'h' : { 'dtype':'F16','shape':[1],'data_offsets':[25,27] } }  ";
enum { ST_SAMPLE = sizeof st_sample - 1, ST_DATA = 27 };

static void test_safetensors_table(void)
{
    static const struct { const char *name; int dtype; size_t rank, dim[2], count; } want[] = {
        { "u", IJ_U8, 0, { 0 }, 1 }, { "w", IJ_F32, 2, { 2, 3 }, 6 },
        { "e", IJ_I64, 2, { 0, 7 }, 0 }, { "h", IJ_F16, 1, { 1 }, 1 }
    };
    const char *path = scratch("table.safetensors");
    open_file g;
    st_put(path, st_sample, ST_SAMPLE, ST_DATA);
    if (!file_open(&g, path)) return;
    CHECK(g.f.entries == 4 && g.f.metas == 2, "%zu tensors, %zu strings", g.f.entries, g.f.metas);
    CHECK(g.f.kind == IJ_KIND_NONE, "kind %d", g.f.kind);
    for (size_t i = 0; i < 4; i++) {
        const ij_entry *e = ij_file_find(&g.f, want[i].name);
        CHECK(e == &g.f.entry[i], "%s: its place", want[i].name);
        if (!e) continue;
        CHECK(e->dtype == want[i].dtype && e->count == want[i].count, "%s: numbers", want[i].name);
        const int same = !memcmp(e->dim, want[i].dim, sizeof want[i].dim);
        CHECK(e->rank == want[i].rank && same, "%s: shape", want[i].name);
    }
    CHECK(!strcmp(ij_file_meta(&g.f, "format"), "pt"), "format");
    CHECK(!strcmp(ij_file_meta(&g.f, "a"), "\\u00e9"), "an escape stays as it is");
    CHECK(!ij_file_meta(&g.f, "Format") && !ij_file_find(&g.f, "W"), "what is not there");
    ij_file_close(&g.f);
    file_close(&g);                                     /* twice is harmless */
}

/* Strings end at a quote without a backslash, and hold no control characters; all else stays. */
static void test_safetensors_text(void)
{
    static const struct { const char *text; int ok; } text[] = {
        { "", 1 }, { "plain /", 1 }, { "\\\\", 1 }, { "\\\"x\\\\", 1 }, { "\\u00e9\\ud800", 1 },
        { "\xc3\xa9\x80", 1 }, { "\\", 0 }, { "\\\\\\", 0 }, { "\t", 0 }, { "\\\n", 0 },
        { "\x1f", 0 }, { "a\"", 0 }
    };
    const char *path = scratch("text.safetensors");
    ij_error why;
    open_file g;
    char header[200];
    for (size_t i = 0; i < sizeof text / sizeof *text; i++) {
        const int n = snprintf(header, sizeof header, "{'__metadata__':{'a':'%s'}}", text[i].text);
        st_put(path, header, (size_t)n, 0);
        const ij_status s = file_try(&g, path, &why);
        CHECK(s == (text[i].ok ? IJ_OK : IJ_EDATA), "text %zu: status %d", i, (int)s);
        if (s) continue;
        const char *got = ij_file_meta(&g.f, "a");
        CHECK(!strcmp(got, text[i].text), "text %zu is %s", i, got);
        file_close(&g);
    }
    memcpy(header, "{'a\0':{" ST_U8 "}}", sizeof "{'a.':{" ST_U8 "}}");
    st_put(path, header, sizeof "{'a.':{" ST_U8 "}}" - 1, 1);
    REFUSE(IJ_EDATA, "found 0x00", file_try(&g, path, &why));          /* a zero in a name */
}

static void test_safetensors_cut(void)
{
    unsigned char b[8 + ST_SAMPLE + ST_DATA + 1] = { 0 };
    const char *path = scratch("cut.safetensors");
    ij_error why;
    open_file g;
    st_put(path, st_sample, ST_SAMPLE, ST_DATA);
    const size_t n = read_file(path, b, sizeof b);
    CHECK(n == sizeof b - 1, "%zu bytes", n);
    if (!file_open(&g, path)) return;
    CHECK(g.f.entries == 4 && st_tiles(&g.f, ST_DATA), "the whole file");
    file_close(&g);
    for (size_t i = 0; i <= sizeof b; i++) {
        if (i == n) continue;
        remove(path);
        write_file(path, b, i);
        CHECK(file_try(&g, path, &why) == IJ_EDATA && strstr(why.text, path), "%zu bytes: %s", i,
              why.text);
    }
}

static void test_safetensors_flipped(void)
{
    static const unsigned char value[] = {
        0, 1, 8, '\t', '\n', ' ', '"', ',', '-', '0', '1', '9', ':', '[', ']', '\\', '{', '}', 'u',
        'F', 'e', 0x7f, 0x80, 0xc3, 0xff
    };
    unsigned char b[8 + ST_SAMPLE + ST_DATA], was[2];
    const char *path = scratch("flip.safetensors");
    ij_error why;
    open_file g;
    uint64_t state = 1;
    size_t accepted = 0, rounds = (8 + ST_SAMPLE) * sizeof value;
    st_put(path, st_sample, ST_SAMPLE, ST_DATA);
    CHECK(read_file(path, b, sizeof b) == sizeof b, "%s", path);
    /* every byte and value; then two bytes at random */
    for (size_t i = 0; i < rounds + 4000; i++) {
        size_t at[2] = { i / sizeof value, i / sizeof value };
        unsigned char to[2] = { value[i % sizeof value], value[i % sizeof value] };
        for (size_t k = 0; k < 2 && i >= rounds; k++) {
            at[k] = 8 + ij_mix(&state) % ST_SAMPLE;
            to[k] = k ? value[ij_mix(&state) % sizeof value] : b[8 + ij_mix(&state) % ST_SAMPLE];
        }
        for (size_t k = 0; k < 2; k++) {
            was[k] = b[at[k]];
            b[at[k]] = to[k];
        }
        /* some file systems flush what replaces old content */
        remove(path);
        write_file(path, b, sizeof b);
        const ij_status s = file_try(&g, path, &why);
        if (!s) {
            accepted++;
            CHECK(st_tiles(&g.f, sizeof b - g.f.data), "bytes %zu, %zu: accepted, but no tiling",
                  at[0],
                  at[1]);
            for (size_t k = 0; k < g.f.entries; k++) {
                real x[ST_DATA];
                const ij_status r = ij_file_read(x, &g.f, &g.f.entry[k], &why);
                CHECK(r == (g.f.entry[k].dtype == IJ_OTHER ? IJ_EDATA : IJ_OK), "%s", why.text);
            }
            file_close(&g);
        } else CHECK(s == IJ_EDATA && strstr(why.text, path), "status %d: %s", (int)s, why.text);
        for (size_t k = 2; k-- > 0;) b[at[k]] = was[k];
    }
    CHECK(accepted > 100 && accepted < rounds, "%zu of %zu accepted", accepted, rounds);
}

static void test_safetensors_hostile(void)
{
    static const struct { const char *header; size_t data; const char *says; } bad[] = {
        { " {}", 0, "byte 0" },
        { "[]", 0, "byte 0" },
        { "{", 0, "the end" },
        { "{}x", 0, "the end of the header" },
        { "{},", 0, "found ," },
        { "{'a'}", 0, "expected :" },
        { "{'a':}", 0, "expected {" },
        { "{'a':{" ST_U8 "},}", 1, "expected \"" },
        { "{'a':{" ST_U8 ",}}", 1, "expected \"" },
        { "{'a':{" ST_U8 "}", 1, "expected }" },
        { "{a:{" ST_U8 "}}", 1, "found a" },
        { "{'a':{" ST_U8 "}}", 0, "0 bytes of data, the header says 1" },
        { "{'a':{" ST_U8 "}}", 2, "2 bytes of data" },
        { "{}", 1, "1 bytes" },
        { "{'a':{" ST_U8 "},'a':{" ST_U8 "}}", 1, "\"a\" is there twice" },
        { "{'a':{" ST_U8 "},'b':{" ST_U8 "}}", 1, "begins at data byte 0, expected 1" },
        { "{'a':{" ST_U8 "},'b':" ST("U8", "[]", "[2,3]") "}", 3,
          "begins at data byte 2, expected 1" },
        { "{'a':" ST("U8", "[0]", "[1,1]") "}", 0, "expected 0" },
        { "{'a':" ST("U8", "[2]", "[2,0]") "}", 2, "-2 bytes" },
        { "{'encoder.norm.weight':" ST("F32", "[1280]", "[0,4096]") "}", 4096,
          "header byte 68: tensor \"encoder.norm.weight\": 4096 bytes of data, shape "
          "[1280] F32 needs 5120" },
        { "{'a':" ST("U8", "[4294967296,4294967296]", "[0,0]") "}", 0,
          "needs 18446744073709551616" },
        { "{'a':" ST("U8", "[4294967296,4294967296,0]", "[0,0]") "}", 0,
          "needs 18446744073709551616" },
        { "{'a':" ST("F64", "[2305843009213693952]", "[0,0]") "}", 0,
          "needs 18446744073709551616" },
        { "{'a':" ST("U8", "[]", "[9999999999999999999,1]") "}", 1, "bytes of data" },
        { "{'a':" ST("U8", "[99999999999999999999]", "[0,0]") "}", 0, "below 10^19" },
        { "{'a':" ST("F4", "[1]", "[0,1]") "}", 1, "shape [1] F4" },
        { "{'a':" ST("U8", "[1,1,1,1,1,1,1,1,1]", "[0,1]") "}", 1, "at most 8 dimensions" },
        { "{'a':" ST("U8", "[-1]", "[0,1]") "}", 1, "whole number" },
        { "{'a':" ST("U8", "[1.0]", "[0,1]") "}", 1, "expected ]" },
        { "{'a':" ST("U8", "[1e0]", "[0,1]") "}", 1, "expected ]" },
        { "{'a':" ST("U8", "[01]", "[0,1]") "}", 1, "whole number" },
        { "{'a':" ST("U8", "[1,]", "[0,1]") "}", 1, "whole number" },
        { "{'a':" ST("U8", "['1']", "[0,1]") "}", 1, "whole number" },
        { "{'a':{'dtype':'U8','shape':1,'data_offsets':[0,1]}}", 1, "expected [" },
        { "{'a':" ST("U8", "[1]", "[0,1,1]") "}", 1, "two numbers" },
        { "{'a':" ST("U8", "[1]", "[1]") "}", 1, "two data_offsets" },
        { "{'a':{'dtype':'U8','shape':[1]}}", 1, "two data_offsets" },
        { "{'a':{'dtype':'U8','data_offsets':[0,1]}}", 1, "shape" },
        { "{'a':{'shape':[1],'data_offsets':[0,1]}}", 1, "expected dtype" },
        { "{'a':{}}", 0, "expected dtype" },
        { "{'a':{" ST_U8 ",'dtype':'U8'}}", 1, "once" },
        { "{'a':{" ST_U8 ",'shape':[]}}", 1, "once" },
        { "{'a':" ST("Q8", "[]", "[0,1]") "}", 1, "header byte 14: expected a dtype" },
        { "{'a':{'dtype':8,'shape':[],'data_offsets':[0,1]}}", 1, "expected \"" },
        { "{'a':{" ST_U8 ",'x':}}", 1, "a value" },
        { "{'a':{" ST_U8 ",'x':[1}}}", 1, "expected ]" },
        { "{'a':{" ST_U8 ",'x'}}", 1, ":" },
        { "{'a':{" ST_U8 ",'x':" ST_DEEP8 ST_DEEP8 "[" ST_DEEP8_END ST_DEEP8_END "]}}", 1,
          "16 levels" },
        { "{'__metadata__':{'a':1}}", 0, "expected \"" },
        { "{'__metadata__':{'a':null}}", 0, "expected \"" },
        { "{'__metadata__':null}", 0, "expected {" },
        { "{'__metadata__':[]}", 0, "expected {" },
        { "{'__metadata__':{'a':'1'", 0, "the end" },
        { "{'__metadata__':{},'__metadata__':{}}", 0, "once" },
        { "{'a':'x'}", 0, "expected {" }
    };
    static const struct { const char *bytes; size_t n; const char *says; } other[] = {
        { "PK\3\4\24\0\0\0\10\0\0\0", 12, "zip" },
        { "\x89PNG\r\n\x1a\n\0\0\0\15", 12, "PNG" },
        { "\xff\xd8\xff\xe0\0\20JFIF\0\1", 12, "JPEG" },
        { "\x89HDF\r\n\x1a\n\0\0\0\0", 12, "HDF5" },
        { "\x80\x02\x8a\nl\xfc\x9c\x46\xf9 j\xa8", 12, "pickle" },
        { "\x80\x04\x95\0\0\0\0\0\0\0]\x94", 12, "pickle" },
        { "\x1f\x8b\10\0\0\0\0\0\0\3\1\1", 12, "gzip" },
        { "P6\n32 32\n255\n", 13, "PNM" },
        { "{\n  \"metadata\": {\"total_size\": 12}", 34, "IJepaModel.from_pretrained" },
        { "P5 1 1 255 x", 12, "PNM" },
        { "", 0, "something else" },
        { "\0\0\0\0\0\0\0\0{}", 10, "the end" },
        { "\1\0\0\0\0\0\0\0", 8, "something else" },
        { "\377\377\377\377\377\377\377\377{}", 10, "something else" },
        { "\370\377\377\377\377\377\377\377{}", 10, "something else" },
        { "\3\0\0\0\0\0\0\0{}", 10, "cut short" },
        { "\2\0\0\0\0\0\0\200{}", 10, "something else" },
        { "\1\341\365\5\0\0\0\0{}", 10, "something else" }
    };
    const char *path = scratch("hostile.safetensors");
    ij_error why;
    open_file g;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        st_put(path, bad[i].header, strlen(bad[i].header), bad[i].data);
        CHECK(file_try(&g, path, &why) == IJ_EDATA, "accepted: %s", bad[i].header);
        const char *says =
            sizeof(size_t) == 4 && strstr(bad[i].says, "184467") ? "needs 4294967295" : bad[i].says;
        CHECK(strstr(why.text, path) && strstr(why.text, says), "%s: %s", bad[i].header, why.text);
    }
    for (size_t i = 0; i < sizeof other / sizeof *other; i++) {
        write_file(path, other[i].bytes, other[i].n);
        CHECK(file_try(&g, path, &why) == IJ_EDATA, "other file %zu accepted", i);
        CHECK(strstr(why.text, path) && strstr(why.text, other[i].says), "%zu: %s", i, why.text);
    }
    REFUSE(IJ_EFILE, "nowhere", file_try(&g, scratch("nowhere.safetensors"), &why));
    CHECK(file_try(&g, scratch(""), &why) == IJ_EFILE, "a folder: %s", why.text);
}

/* What the public parser accepts, and lengths of the header whose first bytes look like another
 * format's. */
static void test_safetensors_accepts(void)
{
    static const struct { const char *header; size_t data; } good[] = {
        { "{}", 0 },
        { "{ }  ", 0 },
        { "{'__metadata__':{}}", 0 },
        { "{'__metadata__':{'a':'1','a':'2'}}", 0 },
        { "{\n\t'a' :\r{ 'dtype' : 'U8' , 'shape' : [ ] , 'data_offsets' : [ 0 , 1 ] } }", 1 },
        { "{'b':" ST("C64", "[1]", "[1,9]") ",'a':{" ST_U8 "}}", 9 },
        { "{'a':" ST("F4", "[2,3]", "[0,3]") ",'b':" ST("F6_E2M3", "[4]", "[3,6]") "}", 6 },
        { "{'a':{'x':'}','y':{'z':[true,false,null,-1.5E-3,{}]}," ST_U8 "}}", 1 },
        { "{'a':{'x':" ST_DEEP8 ST_DEEP8 ST_DEEP8_END ST_DEEP8_END "," ST_U8 "}}", 1 },
        { "{'a':" ST("U8", "[0,4294967296,4294967296]", "[0,0]") ",'b':{" ST_U8 "},"
          "'c':" ST("F32", "[0]", "[1,1]") "}", 1 },
        { "{'a':" ST("U8", "[1,1,1,1,1,1,1,1]", "[0,1]") "}", 1 }
    };
    static char wide[19779];
    /* 80 02: a pickle's, BM: a bitmap's, PK: an archive's */
    const size_t length[] = { 640, 19778, 19280 };
    const char *path = scratch("accepts.safetensors");
    open_file g;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        st_put(path, good[i].header, strlen(good[i].header), good[i].data);
        if (!file_open(&g, path)) continue;
        CHECK(st_tiles(&g.f, good[i].data), "%s: no tiling", good[i].header);
        if (i == 3)
            CHECK(!strcmp(ij_file_meta(&g.f, "a"), "2"), "of a key given twice the last counts");
        file_close(&g);
    }
    memset(wide, ' ', sizeof wide);
    memcpy(wide, "{}", 2);
    for (size_t i = 0; i < 3; i++) {
        st_put(path, wide, length[i], 0);
        if (file_open(&g, path)) file_close(&g);
    }
}

/* The shortest entries and pairs there can be fill the table to its end; the sanitizer watches
 * it. */
static void test_safetensors_capacity(void)
{
    enum { PAIRS = 500, TENSORS = 10 };
    static char header[16 + 6 * PAIRS + 60 * TENSORS];
    const char *path = scratch("capacity.safetensors");
    open_file g;
    for (int pairs = 0; pairs <= PAIRS; pairs += pairs < 20 ? 1 : 160) {
        size_t n = (size_t)snprintf(header, sizeof header, "{'__metadata__':{");
        for (int i = 0; i < pairs; i++)
            n += (size_t)snprintf(header + n, sizeof header - n, "%s'':''", i ? "," : "");
        n += (size_t)snprintf(header + n, sizeof header - n, "}}");
        st_put(path, header, n, 0);
        if (!file_open(&g, path)) continue;
        CHECK(g.f.metas == (size_t)pairs, "%zu pairs, expected %d", g.f.metas, pairs);
        file_close(&g);
    }
    for (int tensors = 1; tensors <= TENSORS; tensors++) {
        size_t n = 0;
        for (int i = 0; i < tensors; i++)
            n += (size_t)snprintf(header + n, sizeof header - n,
                                  "%c'%.*s':" ST("U8", "[]", "[%d,%d]"), i ? ',' : '{', i > 0,
                                  &"-abcdefghi"[i], i,
                                  i + 1);
        header[n++] = '}';
        st_put(path, header, n, (size_t)tensors);
        if (!file_open(&g, path)) continue;
        CHECK(g.f.entries == (size_t)tensors, "%zu tensors, expected %d", g.f.entries, tensors);
        file_close(&g);
    }
}

/* All 65,536 patterns of both 16-bit types, against their definition; more than the read buffer. */
static void test_safetensors_half(void)
{
    enum { N = 65536 };
    real *got = need(N * sizeof *got);
    static unsigned char b[100 + 2 * N];
    const char *path = scratch("half.safetensors");
    ij_error why;
    open_file g;
    for (int brain = 0; brain < 2; brain++) {
        const int wide = brain ? 8 : 5, fraction = 15 - wide, top = (1 << wide) - 1, bias = top / 2;
        const char *header = brain ? "{'x':" ST("BF16", "[65536]", "[0,131072]") "}"
                                   : "{'x':" ST("F16", "[65536]", "[0,131072]") "}";
        size_t wrong = 0, finite = 0;
        st_put(path, header, strlen(header), 2 * N);
        const size_t n = read_file(path, b, sizeof b);
        for (size_t i = 0; i < N; i++) {
            b[n - 2 * N + 2 * i] = i & 255;
            b[n - 2 * N + 2 * i + 1] = (unsigned char)(i >> 8);
        }
        write_file(path, b, n);
        if (!file_open(&g, path)) break;
        SUCCEED(ij_file_read(got, &g.f, g.f.entry, &why));
        for (int i = 0; i < N; i++) {
            const int e = i >> fraction & top, m = i & ((1 << fraction) - 1);
            const double sign = i >> 15 ? -1 : 1, x = (double)got[i];
            const double whole = ldexp((e ? 1 << fraction : 0) + m, (e ? e : 1) - bias - fraction);
            if (e == top && m) wrong += x == x;
            else if (e == top) wrong += x != sign * HUGE_VAL;
            else wrong += x != sign * whole || !signbit(x) != !(i >> 15);
            finite += e != top;
        }
        CHECK(wrong == 0, "%s: %zu of 65536 wrong", brain ? "BF16" : "F16", wrong);
        CHECK(finite == (brain ? 65280 : 63488), "%zu finite", finite);
        file_close(&g);
    }
    free(got);
}

/* Extreme numbers, byte by byte, at offsets that are not aligned. */
static void test_safetensors_numbers(void)
{
    static const char header[] = "{'o':" ST("BOOL", "[1]", "[0,1]")
                                 ",'l':" ST("I64", "[3]", "[1,25]")
                                 ",'i':" ST("I32", "[3]", "[25,37]")
                                 ",'d':" ST("F64", "[3]", "[37,61]")
                                 ",'f':" ST("F32", "[3]", "[61,73]")
                                 ",'u':" ST("U8", "[3]", "[73,76]") "}";
    static const char data[] =
        "\1"
        "\0\0\0\0\0\0\0\x80" "\xff\xff\xff\xff\xff\xff\xff\xff" "\xff\xff\xff\xff\xff\xff\xff\x7f"
        "\0\0\0\x80" "\xff\xff\xff\xff" "\xff\xff\xff\x7f"
        "\1\0\0\0\0\0\0\0" "\0\0\0\0\0\0\xf0\xff" "\0\0\0\0\0\0\x04\xc0"
        "\1\0\0\0" "\0\0\x80\x7f" "\0\0\xc0\xbf"
        "\0\x80\xff";
    static const struct { const char *name; double x[3]; } want[] = {
        { "l", { -9223372036854775808.0, -1, 9223372036854775808.0 } },
        { "i", { -2147483648.0, -1, 2147483647 } },
        { "d", { 0, 0, -2.5 } },
        { "f", { 0, 0, -1.5 } },
        { "u", { 0, 128, 255 } }
    };
    const char *path = scratch("numbers.safetensors");
    unsigned char b[8 + sizeof header - 1 + 76];
    real got[3];
    ij_error why;
    open_file g;
    CHECK(sizeof data - 1 == 76, "the data");
    st_put(path, header, sizeof header - 1, 76);
    CHECK(read_file(path, b, sizeof b) == sizeof b, "%s", path);
    memcpy(b + sizeof b - 76, data, 76);
    write_file(path, b, sizeof b);
    if (!file_open(&g, path)) return;
    for (size_t t = 0; t < sizeof want / sizeof *want; t++) {
        double x[3];
        memcpy(x, want[t].x, sizeof x);
        if (t == 2) {
            x[0] = ldexp(1, -1074);
            x[1] = -HUGE_VAL;
        }
        if (t == 3) {
            x[0] = ldexp(1, -149);
            x[1] = HUGE_VAL;
        }
        SUCCEED(ij_file_read(got, &g.f, ij_file_find(&g.f, want[t].name), &why));
        for (int i = 0; i < 3; i++)
            CHECK(got[i] == (real)x[i], "%s[%d]: %g, expected %g", want[t].name, i, (double)got[i],
                  x[i]);
    }
    REFUSE(IJ_EDATA, "BOOL", ij_file_read(got, &g.f, ij_file_find(&g.f, "o"), &why));
    file_close(&g);
}

static void test_safetensors_ladder(void)
{
    const char *path = scratch("ladder.safetensors");
    ij_error why;
    ij_file f;
    size_t all = 0;
    st_put(path, st_sample, ST_SAMPLE, ST_DATA);
    SUCCEED(ij_file_size(&all, path, &why));
    for (size_t size = 0; size <= all; size++) {
        void *mem = need(size);
        const ij_status s = ij_file_open(&f, mem, size, path, &why);
        CHECK(s == (size < all ? IJ_EMEM : IJ_OK), "%zu of %zu bytes: status %d", size, all,
              (int)s);
        if (!s) ij_file_close(&f);
        else CHECK(strstr(why.text, path) && !f.stream, "%s", why.text);
        free(mem);
    }
}

/* The file changes after ij_file_size, and after ij_file_open. */
static void test_safetensors_changed(void)
{
    static char more[4 * ST_SAMPLE];
    const char *path = scratch("changed.safetensors");
    ij_error why;
    ij_file f;
    size_t all = 0;
    static real x[30000];
    st_put(path, st_sample, ST_SAMPLE, ST_DATA);
    SUCCEED(ij_file_size(&all, path, &why));
    void *mem = need(all);
    memset(more, ' ', sizeof more);
    memcpy(more, st_sample, ST_SAMPLE);
    st_put(path, more, sizeof more, ST_DATA);
    CHECK(ij_file_open(&f, mem, all, path, &why) == IJ_EMEM, "a longer header: %s", why.text);
    st_put(path, "{}", 2, 0);
    CHECK(!ij_file_open(&f, mem, all, path, &why) && f.entries == 0, "a shorter header: %s",
          why.text);
    ij_file_close(&f);
    remove(path);
    CHECK(ij_file_open(&f, mem, all, path, &why) == IJ_EFILE, "no file: %s", why.text);
    int n = snprintf(more, sizeof more, "{'w':" ST("U8", "[30000]", "[0,30000]") "}");
    st_put(path, more, (size_t)n, 30000);
    SUCCEED(ij_file_open(&f, mem, all, path, &why));
    st_put(path, more, (size_t)n, 29999);
    REFUSE(IJ_EFILE, "\"w\"", ij_file_read(x, &f, f.entry, &why));
    CHECK(x[299] > 0, "what there was is not read");
    ij_file_close(&f);
    free(mem);
}

/* A tensor beyond 4 GiB, in a file that is mostly a hole. */
static void test_safetensors_large(void)
{
#if LONG_MAX > 2147483647
    const double big = 4500000001.0;
    const char *path = scratch("large.safetensors");
    char header[200];
    ij_error why;
    open_file g;
    real x[3] = { 0 };
    static const char format[] = "{'big':" ST("U8", "[%.0f]", "[0,%.0f]")
                                 ",'x':" ST("U8", "[3]", "[%.0f,%.0f]") "}";
    const int n = snprintf(header, sizeof header, format, big, big, big, big + 3);
    st_put(path, header, (size_t)n, 0);
    FILE *out = fopen(path, "r+b");
    const int ok =
        out && !fseek(out, 8 + n + (long)big, SEEK_SET) && fwrite("\7\10\11", 1, 3, out) == 3;
    CHECK(out && !fclose(out) && ok, "cannot write %s", path);
    if (file_open(&g, path)) {
        CHECK(!ij_file_read(x, &g.f, ij_file_find(&g.f, "x"), &why) && x[0] == 7 && x[2] == 9,
              "%g %g", (double)x[0],
              (double)x[2]);
        file_close(&g);
    }
    remove(path);
#endif
}

/* ---- evaluation ---- */

/* Two label sets: task 0 shifts channel `label` by `signal`, task 1 is noise. Channels are
 * correlated. */
typedef struct {
    ij_scored s;
    int *label[4];
    const int *train[2], *test[2];
    size_t classes[2];
} evaluate_case;

static void evaluate_make(evaluate_case *e, size_t n, size_t m, size_t d, double signal,
                          uint64_t seed)
{
    uint64_t state = seed;
    real *x = need(n * d * sizeof *x), *y = need(m * d * sizeof *y);
    for (size_t t = 0; t < 2; t++) {
        e->classes[t] = t ? 3 : 5;
        e->train[t] = e->label[t] = need(n * sizeof(int));
        e->test[t] = e->label[2 + t] = need(m * sizeof(int));
        for (size_t i = 0; i < n; i++) e->label[t][i] = (int)(ij_mix(&state) % e->classes[t]);
        for (size_t i = 0; i < m; i++) e->label[2 + t][i] = (int)(ij_mix(&state) % e->classes[t]);
    }
    for (size_t i = 0; i < n + m; i++) {
        double last = 0;
        for (size_t c = 0; c < d; c++) {
            last = 0.6 * last + random_unit(&state) / 2;
            const int hit = (size_t)(i < n ? e->label[0][i] : e->label[2][i - n]) == c;
            (i < n ? x + i * d : y + (i - n) * d)[c] = (real)(3 + last + (hit ? signal : 0));
        }
    }
    const ij_scored s = { n, m, d, x, y, 2, e->train, e->test, e->classes };
    e->s = s;
    ij_standardise(x, n, y, m, d);
}

static void evaluate_free(evaluate_case *e)
{
    free(e->s.train);
    free(e->s.test);
    for (size_t t = 0; t < 4; t++) free(e->label[t]);
}

static double evaluate_at(const ij_scored *s, size_t i, size_t c)
{
    return (double)(i < s->n ? s->train + i * s->d : s->test + (i - s->n) * s->d)[c];
}

static void evaluate_knn(double *accuracy, const ij_scored *s, size_t k, double temperature)
{
    ij_error why;
    size_t size = 0;
    SUCCEED(ij_knn_size(&size, s, &why));
    const ij_memory work = { need(size), size };
    SUCCEED(ij_knn(accuracy, s, k, temperature, work, NULL, &why));
    free(work.base);
}

/* Against the definition, in double; the moments are the training rows'. A mean a thousand
 * deviations away must not cost the deviation its digits; a constant channel becomes zeros. */
static void test_standardise_equals_definition(void)
{
    enum { N = 3000, M = 7, D = 5 };
    real *x = random_reals((N + M) * D, 3), *got = need((N + M) * D * sizeof *got);
    real one[2] = { 3, -4 };
    for (size_t i = 0; i < (N + M) * D; i++) x[i] += (real)(1000 * (i % D));
    for (size_t i = 0; i < N * D; i += D) x[i] = (real)0.1;
    memcpy(got, x, (N + M) * D * sizeof *got);
    ij_standardise(got, N, got + N * D, M, D);
    for (size_t c = 0; c < D; c++) {
        double mean = 0, square = 0;
        for (size_t i = 0; i < N; i++) mean += (double)x[i * D + c] / N;
        for (size_t i = 0; i < N; i++) square += pow((double)x[i * D + c] - mean, 2) / N;
        for (size_t i = c; i < (N + M) * D; i += D) {
            const double want = c ? ((double)x[i] - mean) / sqrt(square) : 0;
            CHECK(fabs((double)got[i] - want) <= (c ? 1e-6 : 0),
                  "row %zu channel %zu: %g, expected %g", i / D, c, (double)got[i],
                  want);
        }
    }
    free(x);
    free(got);
    ij_standardise(one, 1, NULL, 0, 2);
    CHECK(one[0] == 0 && one[1] == 0, "one row: %g %g, expected zeros", (double)one[0],
          (double)one[1]);
}

/* What the next test lacks: ties, a row of zeros, extreme temperatures. */
static void test_knn_by_hand(void)
{
    static const struct {
        int train[7], test;
        real x;
        size_t k;
        double heat;
        const char *why;
    } of[] = {
        { { 2, 0, 3, 1, 0, 0, 0 }, 3, 4, 1, 0.07, "of equally similar rows the lower is first" },
        { { 2, 0, 3, 1, 0, 0, 0 }, 1, 4, 2, 0.07, "of equal votes the lower class wins" },
        { { 2, 0, 1, 2, 0, 0, 0 }, 2, 4, 3, 1e6, "of the equal rows 0 and 1 the lower one stays" },
        { { 2, 2, 3, 3, 0, 0, 0 }, 3, 4, 7, 0.07, "warm: the nearest two outweigh the rest" },
        { { 2, 2, 3, 3, 0, 0, 0 }, 0, 4, 7, 1e6, "hot: votes are only counted" },
        { { 2, 2, 3, 3, 0, 0, 0 }, 3, 4, 7, 1e-4, "cold: exp does not overflow" },
        { { 2, 0, 3, 1, 0, 0, 0 }, 2, 0, 1, 0.07, "a row of zeros is equally far from all" }
    };
    static real train[7][2] = {                         /* cosines to (4,0): 0.6 0.6 1 1 0 -1 0 */
        { 3, 4 }, { 6, 8 }, { 2, 0 }, { 1, 0 }, { 0, 5 }, { -1, 0 }, { 0, 0 }
    };
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
        real x[2] = { of[i].x, 0 };
        const int *const a[1] = { of[i].train }, *const b[1] = { &of[i].test };
        const size_t classes[1] = { 4 };
        const ij_scored s = { 7, 1, 2, &train[0][0], x, 1, a, b, classes };
        double accuracy = -1;
        evaluate_knn(&accuracy, &s, of[i].k, of[i].heat);
        CHECK(accuracy == 1, "k = %zu: %s", of[i].k, of[i].why);
    }
}

/* The definition, in double: sort by cosine, then vote. */
static int knn_plain(const ij_scored *s, size_t task, size_t row, size_t k, double temperature)
{
    double *similar = need(s->n * sizeof *similar), votes[8] = { 0 };
    for (size_t i = 0; i < s->n; i++) {
        double xy = 0, xx = 0, yy = 0;
        for (size_t c = 0; c < s->d; c++) {
            const double x = evaluate_at(s, i, c), y = evaluate_at(s, s->n + row, c);
            xy += x * y;
            xx += x * x;
            yy += y * y;
        }
        similar[i] = xy / sqrt(xx * yy);
    }
    for (size_t j = 0; j < k && j < s->n; j++) {
        size_t best = 0;
        for (size_t i = 1; i < s->n; i++)
            if (similar[i] > similar[best]) best = i;
        votes[s->train_label[task][best]] += exp(similar[best] / temperature);
        similar[best] = -9;
    }
    free(similar);
    int best = 0;
    for (int c = 1; c < (int)s->classes[task]; c++)
        if (votes[c] > votes[best]) best = c;
    return best;
}

/* The plain prediction is made the label of every test row: so every single prediction is
 * compared. */
static void test_knn_equals_definition(void)
{
    static const size_t shape[4][4] = {
        { 200, 129, 17, 20 }, { 150, 129, 9, 4 }, { 33, 1, 40, 7 }, { 90, 64, 8, 500 }
    };
    static const double temperature[4] = { 0.07, 5, 0.07, 0.2 };
    for (int i = 0; i < 4; i++) {
        evaluate_case e;
        double accuracy[2] = { -1, -1 };
        evaluate_make(&e, shape[i][0], shape[i][1], shape[i][2], 0.5, 7 + (uint64_t)i);
        for (size_t t = 0; t < 2; t++)
            for (size_t row = 0; row < e.s.m; row++)
                e.label[2 + t][row] = knn_plain(&e.s, t, row, shape[i][3], temperature[i]);
        evaluate_knn(accuracy, &e.s, shape[i][3], temperature[i]);
        CHECK(accuracy[0] == 1 && accuracy[1] == 1, "case %d: %g and %g of the rows as defined", i,
              accuracy[0],
              accuracy[1]);
        e.label[2][0] = (e.label[2][0] + 1) % 5;
        evaluate_knn(accuracy, &e.s, shape[i][3], temperature[i]);
        CHECK(fabs(accuracy[0] - (1 - 1 / (double)e.s.m)) < 1e-12,
              "case %d: one changed label gives %g", i,
              accuracy[0]);
        evaluate_free(&e);
    }
}

/* Generative: what the loss compares with are the patches' own pixels, normalised; the target
 * encoder is a copy. */
static void test_generative(void)
{
    ij_config c = small_config();
    ij_error why;
    ij_report r;
    ij_model m;
    ij_step s;
    c.objective = IJ_GENERATIVE;
    c.batch_size = 4;
    c.lr = 0.01;
    c.steps = 40;
    c.warmup = 0;
    void *mem = start_model(&m, &c);
    const size_t p = c.patch_size, d = 3 * p * p, gw = c.crop_size[1] / p,
                 area = c.crop_size[0] * c.crop_size[1];
    real *images = random_reals(4 * 3 * area, 7);
    draw_masks(&m, 0);
    double loss = forward_step(&s, &m, images, 0), sum = 0;
    CHECK(ij_cols(&s.predictor.out) == d, "predictions of %zu numbers", ij_cols(&s.predictor.out));
    for (size_t t = 0, row = 0; t < m.masks.target.lists; t++)
        for (size_t j = 0; j < m.masks.target.length[t]; j++, row++) {
            const size_t n = m.masks.target.index[t * m.masks.target.stride + j];
            double x[3 * 16 * 16], mean = 0, variance = 0;
            for (size_t k = 0; k < d; k++) {
                x[k] =
                    (double)images[(t % 4 * 3 + k / p / p) * area +
                                   (n / gw * p + k / p % p) * c.crop_size[1] + n % gw * p + k % p];
                mean += x[k] / (double)d;
            }
            for (size_t k = 0; k < d; k++) variance += (x[k] - mean) * (x[k] - mean) / (double)d;
            for (size_t k = 0; k < d; k++) {
                const double want = (x[k] - mean) / sqrt(variance + 1e-5),
                             e = fabs((double)s.predictor.out.x[row * d + k] - want);
                CHECK(fabs((double)s.loss.want.x[row * d + k] - want) < (IN_DOUBLE ? 1e-12 : 1e-5),
                      "target %g, expected %g", (double)s.loss.want.x[row * d + k],
                      want);
                sum += (e < 1 ? e * e / 2 : e - 0.5) / (double)(ij_rows(&s.loss.want) * d);
            }
        }
    CHECK(fabs(loss - sum) < (IN_DOUBLE ? 1e-12 : 1e-6), "loss %g, expected %g", loss, sum);
    for (int i = 0; i < 40; i++) SUCCEED(ij_train_step(&m, images, &m.masks, &r, &why));
    CHECK(r.loss < 0.8 * loss && r.feature_std > 0, "loss from %g to %g, std %g", loss, r.loss,
          r.feature_std);
    CHECK(!memcmp(m.target, m.weight, m.encoder_size * sizeof(real)),
          "the target encoder is no copy");
    free(mem);
    free(images);
}

/* ij_watch in memory of just the right size. */
static void watch(ij_health *h, real *pooled, ij_model *m, const real *images)
{
    ij_error why;
    const size_t size = ij_watch_size(&m->config);
    const ij_memory work = { need(size), size }, less = { work.base, size - 1 };
    REFUSE(IJ_EMEM, "work memory: need", ij_watch(h, pooled, m, images, &m->masks, less, &why));
    SUCCEED(ij_watch(h, pooled, m, images, &m->masks, work, &why));
    free(work.base);
}

/* Joint embedding: the context encoder sees the first view, the target encoder the second; the
 * loss by its formula, in parts as in one; skill against the mean of the other images' targets. */
static void test_joint(void)
{
    enum { B = 40 };
    for (size_t pred_depth = 0; pred_depth < 2; pred_depth++) {
        ij_config c = small_config();
        ij_report r;
        ij_health h;
        ij_model m;
        c.objective = IJ_JOINT;
        c.batch_size = B;
        c.pred_depth = pred_depth;
        c.num_enc_masks = 2;
        void *mem = start_model(&m, &c);
        const size_t area = c.crop_size[0] * c.crop_size[1], d = c.embed_dim, p = c.pred_emb_dim;
        real *images = need(2 * B * 3 * area * sizeof *images), pooled[B * 24];
        double target[B][16], loss = 0, guess = 0;
        uint64_t state = 7;
        for (size_t i = 0; i < 2 * B * 3 * area; i++)
            images[i] = (real)(random_unit(&state) + sin((double)(i / area)));
        draw_masks(&m, 0);
        CHECK(m.masks.context.length[0] >= 35, "targets are cut out of the view: %zu of 48 left",
              m.masks.context.length[0]);
        encode_images(NULL, pooled, &m.target_encoder,
                      (ij_pictures){ images + B * 3 * area, B, 24, 32 },
                      NULL);
        for (size_t b = 0; b < B; b++) {                /* the target side by hand */
            double hidden[64], length = 0;
            for (size_t i = 0; i < 4 * p; i++) {
                double u = (double)m.target_encoder.projector.fc1_b.x[i];
                for (size_t k = 0; k < d; k++)
                    u += (double)m.target_encoder.projector.fc1_w.x[i * d + k] *
                         (double)pooled[b * d + k];
                hidden[i] = u * 0.5 * erfc(-u * sqrt(0.5));
            }
            for (size_t i = 0; i < p; i++) {
                target[b][i] = (double)m.target_encoder.projector.fc2_b.x[i];
                for (size_t k = 0; k < 4 * p; k++)
                    target[b][i] +=
                        (double)m.target_encoder.projector.fc2_w.x[i * 4 * p + k] * hidden[k];
                length += target[b][i] * target[b][i];
            }
            for (size_t i = 0; i < p; i++) target[b][i] /= sqrt(length);
        }
        for (size_t first = 0; first < B;) {
            ij_step s;
            forward_step(&s, &m, images, first);
            const ij_tensor *q = pred_depth ? &s.joint.predict.y : &s.joint.project.y;
            for (size_t i = 0; i < ij_rows(q); i++) {
                double qt = 0, qq = 0;
                for (size_t k = 0; k < p; k++) {
                    qq += (double)q->x[i * p + k] * (double)q->x[i * p + k];
                    qt += (double)q->x[i * p + k] * target[first + i % s.predictor.part.images][k];
                }
                loss += (2 - 2 * qt / sqrt(qq)) / (2 * B);
            }
            first += s.predictor.part.images;
        }
        for (size_t b = 0; b < B; b++) {
            double mt = 0, mm = 0;
            for (size_t k = 0; k < p; k++) {
                double mean = 0;
                for (size_t o = 0; o < B; o++) mean += o == b ? 0 : target[o][k];
                mt += mean * target[b][k];
                mm += mean * mean;
            }
            guess += (2 - 2 * mt / sqrt(mm)) / B;
        }
        watch(&h, pooled, &m, images);
        CHECK(fabs(h.loss - loss) < (IN_DOUBLE ? 1e-12 : 1e-5) &&
                  fabs(h.skill - (1 - loss / guess)) < (IN_DOUBLE ? 1e-11 : 1e-3),
              "loss %g, expected %g; skill %g, expected %g", h.loss, loss, h.skill,
              1 - loss / guess);
        CHECK(!ij_train_step(&m, images, &m.masks, &r, NULL) &&
                  fabs(r.loss - loss) < (IN_DOUBLE ? 1e-12 : 1e-5),
              "the step's loss is %g, expected %g", r.loss,
              loss);
        free(mem);
        free(images);
    }
}

/* What a verdict rests on: cosines by hand, and each of its bounds from both sides. */
static void test_verdict(void)
{
    const double none = (double)NAN;
    const struct {
        double loss, skill, position;
        size_t images;
        double rank, cosine;
        int warm;
        const char *says;
    } of[] = {
        { 0, 0.5, 0, 512, 16, 0.4, 1, "healthy" },
        { 0, 0.76, 0, 512, 6, 0.71, 1, "healthy" },  /* patches of 4, 400 updates: counts well */
        { 0, 0.21, 0, 512, 5.1, 0.74, 1, "healthy" },
        { 0, 0.21, 0, 512, 4.9, 0.74, 1, "warning: the features" },
        { 0, 0.21, 0, 512, 5.1, 0.76, 0, "warning: the features" },
        { 0, 0.19, 0, 512, 5.1, 0.74, 1, "warning: predictions" },
        { 0, -1, 0, 512, 5.1, 0.74, 0, "too early" },
        { 0, 0.09, 0.1, 512, 16, 0.4, 1, "collapsing: predictions" },
        { 0, 0.09, 0.7, 512, 16, 0.4, 1, "collapsing: only where" },
        { 0, 0.5, 0, 512, 16, 0.86, 0, "collapsing: the features" },
        { 0, 0.5, 0, 512, 2.9, 0.4, 0, "collapsing: the features" },
        { 0, 0.5, 0, 32, 2.9, 0.4, 1, "healthy as far" },
        { 0, 0.5, 0, 512, none, 0.4, 1, "collapsing" },
        { none, none, 0, 512, 16, 0.4, 1, "collapsing" },
        { 0.1, none, 0, 512, 16, 0.4, 1, "collapsing" }
    };
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
        const ij_health h = {
            .loss = of[i].loss, .skill = of[i].skill, .position = of[i].position,
            .images = of[i].images, .rank = of[i].rank, .cosine = of[i].cosine
        };
        const char *says = ij_verdict(&h, IJ_JEPA, of[i].warm);
        CHECK(!strncmp(says, of[i].says, strlen(of[i].says)) && !strchr(says, ','), "case %zu: %s",
              i,
              says);
    }
    /* generative: no harm (README) */
    ij_health alike = { .skill = 0.03, .images = 512, .rank = 13, .cosine = 0.9 };
    CHECK(!strcmp(ij_verdict(&alike, IJ_GENERATIVE, 1), "healthy") &&
              !strncmp(ij_verdict(&alike, IJ_JOINT, 1), "coll", 4),
          "generative");
    alike.skill = 0.01;
    CHECK(!strncmp(ij_verdict(&alike, IJ_GENERATIVE, 1), "coll", 4), "generative without skill");
    /* pairs: 0, 1/2, -1, 1/2, 0, -1/2, each over sqrt 2 where a half stands */
    const real z[8] = { 3, 0, 0, 2, 1, 1, -1, 0 };
    double numbers[4];
    const ij_memory work = { numbers, sizeof numbers }, less = { numbers, sizeof numbers - 1 };
    ij_error why;
    ij_health h = { 0 };
    REFUSE(IJ_EMEM, "need 32 bytes, have 31", ij_watch_features(&h, z, 4, 2, less, &why));
    REFUSE(IJ_EARG, "1 images", ij_watch_features(&h, z, 1, 2, work, &why));
    SUCCEED(ij_watch_features(&h, z, 4, 2, work, &why));
    CHECK(fabs(h.cosine - (sqrt(0.5) - 1) / 6) < 1e-12 && h.images == 4, "cosine %g, expected %g",
          h.cosine,
          (sqrt(0.5) - 1) / 6);
}

/* ij_watch against its definition: each image's guess is the mean of the others at that place.
 * Two parts, both losses. */
static void test_watch_equals_definition(void)
{
    enum { B = 40, N = 48, D = 24, PIXELS = 3 * 24 * 32 };
    static double want[B][N][D];
    for (int loss = 0; loss < 2; loss++) {
        ij_config c = small_config();
        ij_model m;
        ij_health h;
        ij_error why;
        ij_report r;
        c.batch_size = B;
        c.loss = loss;
        c.num_enc_masks = 2;
        void *mem = start_model(&m, &c);
        real *images = random_reals(B * PIXELS, 7), *token = need(B * N * D * sizeof *token);
        real *before = need(2 * m.size * sizeof *before);
        real pooled[B * D], watched[B * D];
        train_some(&m, 2);
        encode_images(token, pooled, &m.target_encoder, (ij_pictures){ images, B, 24, 32 }, NULL);
        draw_masks(&m, 9);
        memcpy(before, m.weight, m.size * sizeof *before);
        memcpy(before + m.size, m.grad, m.size * sizeof *before);
        watch(&h, watched, &m, images);
        CHECK(!memcmp(before, m.weight, m.size * sizeof *before) &&
                  !memcmp(before + m.size, m.grad, m.size * sizeof *before),
              "watching changes the model");
        CHECK(!memcmp(pooled, watched, sizeof pooled), "pooled features differ from ij_encode's");
        for (size_t i = 0; i < B * N; i++) {
            const real *t = token + i * D;
            double mean = 0, variance = 0;
            for (size_t k = 0; k < D; k++) mean += (double)t[k] / D;
            for (size_t k = 0; k < D; k++)
                variance += ((double)t[k] - mean) * ((double)t[k] - mean) / D;
            for (size_t k = 0; k < D; k++)
                want[i / N][i % N][k] = ((double)t[k] - mean) / sqrt(variance + 1e-5);
        }
        /* within: half the mean square of differences */
        double within = 0, all = 0, mean[D] = { 0 }, guess = 0, terms = 0;
        for (size_t k = 0; k < D; k++)
            for (size_t i = 0; i < B * N; i++) mean[k] += want[i / N][i % N][k] / (B * N);
        for (size_t n = 0; n < N; n++)
            for (size_t a = 0; a < B; a++)
                for (size_t k = 0; k < D; k++) {
                    all += (want[a][n][k] - mean[k]) * (want[a][n][k] - mean[k]) / (B * N);
                    for (size_t b = 0; b < B; b++)
                        within += (want[a][n][k] - want[b][n][k]) *
                                  (want[a][n][k] - want[b][n][k]) / (2.0 * N * B * (B - 1));
                }
        for (size_t l = 0; l < m.masks.target.lists; l++)
            for (size_t j = 0; j < m.masks.target.length[l]; j++, terms += 1)
                for (size_t k = 0; k < D; k++) {
                    const size_t n = m.masks.target.index[l * m.masks.target.stride + j];
                    double others = 0;
                    for (size_t b = 0; b < B; b++)
                        others += b == l % B ? 0 : want[b][n][k] / (B - 1);
                    const double e = fabs(want[l % B][n][k] - others);
                    const double smooth = e < 1 ? e * e / 2 : e - 0.5;
                    guess += loss == IJ_LOSS_L2 ? e * e : smooth;
                }
        guess /= loss == IJ_LOSS_L2 ? (double)m.masks.target.lists : terms * D;
        CHECK(fabs(h.position - (1 - within / all)) < (IN_DOUBLE ? 1e-12 : 1e-5),
              "position share %g, expected %g", h.position,
              1 - within / all);
        CHECK(fabs(h.skill - (1 - h.loss / guess)) < (IN_DOUBLE ? 1e-12 : 1e-5),
              "skill %g, expected %g", h.skill,
              1 - h.loss / guess);
        SUCCEED(ij_train_step(&m, images, &m.masks, &r, &why));
        CHECK(!(r.loss < h.loss || r.loss > h.loss), "the loss is %g, that of the step %g", h.loss,
              r.loss);
        m.config.batch_size = B - 1;
        REFUSE(IJ_EARG, "expected 2..39",
               ij_watch(&h, watched, &m, images, &m.masks, (ij_memory){ NULL, 0 }, &why));
        free(mem);
        free(images);
        free(token);
        free(before);
    }
}

/* Targets that average layers, against encoders that end after each: with first weights their
 * norm is the plain one. */
static void test_targets_average_layers(void)
{
    enum { B = 3, N = 48, D = 24, PIXELS = 3 * 24 * 32 };
    for (size_t k = 1; k <= 4; k++) {
        ij_config c = small_config();
        ij_model m;
        ij_step s;
        c.average_top_k_layers = k;
        void *mem = start_model(&m, &c);
        real *images = random_reals(B * PIXELS, 8), *token = need(B * N * D * sizeof *token);
        real *sum = need(B * N * D * sizeof *sum);
        memset(sum, 0, B * N * D * sizeof *sum);
        for (size_t layer = k < 3 ? 3 - k : 0; layer < 3; layer++) {      /* of 4 there are 3 */
            ij_encoder e = m.target_encoder;
            e.depth = layer;
            encode_images(token, NULL, &e, (ij_pictures){ images, B, 24, 32 }, NULL);
            for (size_t i = 0; i < B * N * D; i++) sum[i] += token[i];
        }
        draw_masks(&m, 0);
        forward_step(&s, &m, images, 0);
        CHECK(compare_reals(sum, s.target.stack.top.x, B * N * D) < 1e-4,
              "layers %zu: differ by %g", k,
              compare_reals(sum, s.target.stack.top.x, B * N * D));
        /* what the loss wants of the first patch asked for */
        double mean = 0, square = 0;
        const real *h = sum + m.masks.target.index[0] * D;
        for (size_t i = 0; i < D; i++) mean += (double)h[i] / D;
        for (size_t i = 0; i < D; i++) square += ((double)h[i] - mean) * ((double)h[i] - mean) / D;
        for (size_t i = 0; i < D; i++)
            CHECK(fabs((double)s.loss.want.x[i] - ((double)h[i] - mean) / sqrt(square)) < 1e-4,
                  "layers %zu: target %zu", k,
                  i);
        free(mem);
        free(images);
        free(token);
        free(sum);
    }
}

/* VICReg's term from its definition, over a batch that would be taken in two parts without it. */
static void test_vicreg_equals_definition(void)
{
    enum { B = 40, D = 24, PIXELS = 3 * 24 * 32 };
    ij_config c = small_config();
    ij_model m;
    ij_error why;
    ij_step s;
    double z[B][D] = { { 0 } }, v = 0, cov = 0, plain;
    ij_report r;
    c.batch_size = B;
    c.vicreg = 0.5;
    c.min_keep = 4;
    void *mem = start_model(&m, &c);
    /* some deviations above 1 */
    for (size_t i = 0; i < m.encoder.norm_w.dim[0]; i += 2) m.encoder.norm_w.x[i] = 5;
    real *images = need(B * PIXELS * sizeof *images);
    uint64_t state = 9;
    for (size_t i = 0; i < B * PIXELS; i++)
        images[i] = (real)random_unit(&state) * (real)(i / PIXELS % 4);
    draw_masks(&m, 0);
    plain = forward_step(&s, &m, images, 0);
    CHECK(s.predictor.part.images == B, "a part of %zu images", s.predictor.part.images);
    const double term = ij_vicreg(&s);
    for (size_t b = 0; b < B; b++)
        for (size_t k = s.context.stack.seqs.start[b]; k < s.context.stack.seqs.start[b + 1]; k++)
            for (size_t i = 0; i < D; i++)
                z[b][i] += (double)s.context.stack.norm.x[k * D + i] /
                           (double)ij_length(&s.context.stack.seqs, b);
    size_t above = 0;
    for (size_t i = 0; i < D; i++)
        for (size_t j = 0; j < D; j++) {
            double mi = 0, mj = 0, dot = 0;
            for (size_t b = 0; b < B; b++) {
                mi += z[b][i] / B;
                mj += z[b][j] / B;
            }
            for (size_t b = 0; b < B; b++) dot += (z[b][i] - mi) * (z[b][j] - mj) / (B - 1);
            if (i == j) {
                v += fmax(0, 1 - sqrt(dot + 1e-4)) / D;
                above += dot > 1;
            } else cov += dot * dot / D;
        }
    CHECK(above > 0 && above < D, "%zu of %d deviations are above 1", above, D);
    CHECK(fabs(term / (0.5 * (v + cov / 25)) - 1) < (IN_DOUBLE ? 1e-12 : 1e-5),
          "the term is %.12g, expected %.12g", term,
          0.5 * (v + cov / 25));
    SUCCEED(ij_train_step(&m, images, &m.masks, &r, &why));
    CHECK(fabs(r.loss - plain - term) < 1e-9, "a step's loss is %.12g, expected %.12g", r.loss,
          plain + term);
    free(mem);
    free(images);
}

/* z = U diag(s) V' with U and V from Hadamard's matrix: its singular values are s. Wide and
 * tall. */
static void test_rankme_by_hand(void)
{
    static const double s[4] = { 5, 2, 1, 0 };
    double expected = 0, rank, numbers[16];
    const ij_memory work = { numbers, sizeof numbers }, less = { numbers, sizeof numbers - 1 };
    real z[2][32];
    memset(z, 0, sizeof z);
    for (size_t k = 0; k < 4; k++) {
        expected -= (s[k] / 8 + 1e-7) * log(s[k] / 8 + 1e-7);
        for (size_t i = 0; i < 8; i++)
            for (size_t j = 0; j < 4; j++) {
                const double u = (i & k & 1) ^ ((i & k) >> 1 & 1) ? -sqrt(0.125) : sqrt(0.125);
                const double v = (j & k & 1) ^ ((j & k) >> 1 & 1) ? -0.5 : 0.5;
                z[0][i * 4 + j] += (real)(u * s[k] * v);
                z[1][j * 8 + i] += (real)(u * s[k] * v);
            }
    }
    for (size_t i = 0; i < 2; i++) {
        CHECK(ij_rankme(&rank, z[i], i ? 4 : 8, i ? 8 : 4, less, NULL) == IJ_EMEM,
              "too little memory");
        CHECK(!ij_rankme(&rank, z[i], i ? 4 : 8, i ? 8 : 4, work, NULL), "rankme failed");
        CHECK(fabs(rank - exp(expected)) < (IN_DOUBLE ? 1e-6 : 2e-3), "rank %.9g, expected %.9g",
              rank,
              exp(expected));
    }
    memset(z, 0, sizeof z);
    CHECK(!ij_rankme(&rank, z[0], 8, 4, work, NULL) && fabs(rank - 1) < 1e-4, "zeros: rank %g",
          rank);
}

/* All scores: uncorrelated, of falling variance, their lengths those of z about its mean. The
 * axes follow from them: orthonormal, the largest number of each positive. */
static void test_pca_equals_definition(void)
{
    enum { N = 50, D = 7 };
    static ij_real z[N * D], s[N * D];
    static double numbers[2 * D * D + D], centred[N][D];
    const ij_memory work = { numbers, sizeof numbers }, less = { numbers, sizeof numbers - 1 };
    uint64_t state = 11;
    double last = 1e300, axis[D][D];
    for (size_t i = 0; i < N * D; i++)
        z[i] = (ij_real)(random_unit(&state) * (double)(1 + i % D) +
                         (i % D ? (double)z[i - 1] / 2 : 0));
    for (size_t c = 0; c < D; c++) {
        double mean = 0;
        for (size_t i = 0; i < N; i++) mean += (double)z[i * D + c] / N;
        for (size_t i = 0; i < N; i++) centred[i][c] = (double)z[i * D + c] - mean;
    }
    CHECK(ij_pca(s, D, z, N, D, less, NULL) == IJ_EMEM, "too little memory");
    CHECK(ij_pca(s, D + 1, z, N, D, work, NULL) == IJ_EARG, "more axes than channels");
    CHECK(!ij_pca(s, D, z, N, D, work, NULL), "pca");
    for (size_t a = 0; a < D; a++) {
        double high = 0, variance = 0;
        for (size_t i = 0; i < N; i++) variance += (double)s[i * D + a] * (double)s[i * D + a];
        for (size_t c = 0; c < D; c++) {
            axis[a][c] = 0;
            for (size_t i = 0; i < N; i++)
                axis[a][c] += centred[i][c] * (double)s[i * D + a] / variance;
            high = fabs(axis[a][c]) > fabs(high) ? axis[a][c] : high;
        }
        CHECK(high > 0 && variance <= last, "axis %zu: largest number %g, variance %g after %g", a,
              high, variance,
              last);
        last = variance;
        for (size_t b = 0; b <= a; b++) {
            double dot = 0, cov = 0;
            for (size_t c = 0; c < D; c++) dot += axis[a][c] * axis[b][c];
            for (size_t i = 0; i < N; i++) cov += (double)s[i * D + a] * (double)s[i * D + b] / N;
            CHECK(fabs(dot - (a == b)) < 1e-5 && (a == b || fabs(cov) < 1e-4),
                  "axes %zu, %zu: %g; scores: %g", a, b, dot,
                  cov);
        }
    }
    for (size_t i = 0; i < N * D; i++) {
        double sum = 0;
        for (size_t a = 0; a < D; a++) sum += (double)s[i / D * D + a] * axis[a][i % D];
        CHECK(fabs(sum - centred[i / D][i % D]) < 1e-4, "z comes back with an error of %g",
              sum - centred[i / D][i % D]);
    }
}

/* A picture of several stored blocks, taken apart again. */
static void test_png_blocks(void)
{
    enum { H = 150, W = 151, ROW = 3 * W + 1, RAW = H * ROW };
    static uint8_t rgb[H * W * 3], file[RAW + 200], raw[RAW];
    uint64_t state = 12;
    for (size_t i = 0; i < sizeof rgb; i++) rgb[i] = (uint8_t)(ij_mix(&state) >> 56);
    CHECK(ij_png_size(H, W) <= sizeof file, "%zu bytes", ij_png_size(H, W));
    CHECK(ij_png_size(0, W) == SIZE_MAX && ij_png_size(H, 0) == SIZE_MAX &&
              ij_png_size(SIZE_MAX / 2, 3) == SIZE_MAX && ij_png_size(600000000, 1) == SIZE_MAX &&
              ij_png_size(1000, 700000) < 0x7fffffff,
          "nothing, or too much for a chunk");
    const size_t n = ij_png(file, rgb, H, W);
    CHECK(n <= ij_png_size(H, W) &&
              !memcmp(file, "\211PNG\r\n\32\n\0\0\0\15IHDR\0\0\0\227\0\0\0\226\10\2\0\0\0", 29),
          "head");
    CHECK(!memcmp(file + n - 12, "\0\0\0\0IEND\256B`\202", 12),
          "the end, with the checksum that every PNG has there");
    const size_t data = ij_big(file + 33);
    const uint8_t *z = file + 41, *end = z + data;
    size_t got = 0, last = 0;
    uint32_t a = 1, b = 0;
    CHECK(!memcmp(file + 37, "IDAT", 4) && n == data + 57 && (z[0] * 256 + z[1]) % 31 == 0,
          "data of %zu bytes",
          data);
    for (z += 2; !last && z + 9 < end; z += 5 + (size_t)(z[1] | z[2] << 8)) {
        const size_t length = (size_t)(z[1] | z[2] << 8);
        CHECK((length ^ (size_t)(z[3] | z[4] << 8)) == 0xffff && got + length <= RAW, "block");
        memcpy(raw + got, z + 5, length);
        got += length;
        last = z[0];
    }
    for (size_t i = 0; i < RAW; i++) {
        a = (a + raw[i]) % 65521;
        b = (b + a) % 65521;
    }
    CHECK(got == RAW && z + 4 == end && ij_big(z) == (b << 16 | a), "%zu of %d bytes", got, RAW);
    for (size_t y = 0; y < H; y++)
        CHECK(!raw[y * ROW] && !memcmp(raw + y * ROW + 1, rgb + y * W * 3, W * 3), "row %zu", y);
}

/* Solves for lambda, by all rows or without every fifth, and proves the weights b, W [1+d,q] by
 * what defines them: 1'(XW + b - Y) = 0 and X'(XW + b - Y) + lambda n W = 0. */
static void ridge_proven(ij_probe_work *w, const ij_scored *s, double lambda, int all)
{
    const size_t d = s->d, step = w->width;
    double *residual = need((1 + d) * sizeof *residual), worst = 0, largest = 0;
    CHECK(ij_ridge_solve(w, lambda, NULL), "not positive");
    const double *weight = w->factor + w->terms;
    for (size_t q = 0; q < 8; q++) {
        const size_t task = q >= 5, class = q - 5 * task;
        double n = 0;
        residual[0] = 0;
        for (size_t c = 1; c <= d; c++) residual[c] = 0;
        for (size_t i = 0; i < s->n; i++) {
            if (!all && i % 5 == 4) continue;
            double y = weight[q] - ((size_t)s->train_label[task][i] == class);
            for (size_t c = 0; c < d; c++) y += evaluate_at(s, i, c) * weight[(1 + c) * step + q];
            residual[0] += y;
            for (size_t c = 0; c < d; c++) residual[1 + c] += y * evaluate_at(s, i, c);
            n++;
        }
        CHECK(w->n == n, "%g rows, expected %g", w->n, n);
        for (size_t c = 1; c <= d; c++) {
            residual[c] += lambda * n * weight[c * step + q];
            largest = fmax(largest, fabs(weight[c * step + q]));
        }
        for (size_t c = 0; c <= d; c++) worst = fmax(worst, fabs(residual[c]) / n);
    }
    CHECK(worst < 1e-12 && largest > 1e-3, "%zux%zu: residual %g, weight %g", s->n, d, worst,
          largest);
    free(residual);
}

/* The class of row i by those weights, of equals the lower. */
static int ridge_class(const ij_probe_work *w, const ij_scored *s, size_t task, size_t i)
{
    const double *weight = w->factor + w->terms + 5 * task;
    double most = 0;
    int best = 0;
    for (size_t q = 0; q < s->classes[task]; q++) {
        double y = weight[q];
        for (size_t c = 0; c < s->d; c++)
            y += evaluate_at(s, i, c) * weight[(1 + c) * w->width + q];
        if (q && y <= most) continue;
        most = y;
        best = (int)q;
    }
    return best;
}

/* Of lambdas equally right on every fifth row the smallest; then every test row's label is made
 * what the weights of all rows say, so that every single prediction is compared. */
static void test_ridge_equals_definition(void)
{
    static const double lambda[6] = { 1e-4, 1e-3, 1e-2, 1e-1, 1, 10 };
    static const size_t shape[8][2] = {
        { 200, 7 }, { 131, 8 }, { 64, 63 }, { 300, 64 }, { 50, 65 }, { 90, 130 }, { 5, 1 },
        { 400, 20 }
    };
    for (int i = 0; i < 8; i++) {
        evaluate_case e;
        ij_probe_work w;
        ij_error why;
        size_t size, most[2] = { 0 };
        double accuracy[2], chosen[2], want[2] = { lambda[0], lambda[0] };
        evaluate_make(&e, shape[i][0], 131, shape[i][1], 0.4, 20 + (uint64_t)i);
        SUCCEED(ij_ridge_size(&size, &e.s, &why));
        const ij_memory work = { need(size), size };
        SUCCEED(ij_probe_open(&w, work, &e.s, 0, &why));
        memset(w.gram, 0, w.terms * w.width * sizeof *w.gram);
        ij_ridge_add(&w, 0, NULL);
        for (int k = 0; k < 6; k++) {
            ridge_proven(&w, &e.s, lambda[k], 0);
            for (size_t t = 0; t < 2; t++) {
                size_t right = 0;
                for (size_t r = 4; r < e.s.n; r += 5)
                    right += ridge_class(&w, &e.s, t, r) == e.label[t][r];
                if (right <= most[t]) continue;
                most[t] = right;
                want[t] = lambda[k];
            }
        }
        ij_ridge_add(&w, 1, NULL);
        for (size_t t = 0; t < 2; t++) {
            ridge_proven(&w, &e.s, want[t], 1);
            for (size_t r = 0; r < e.s.m; r++)
                e.label[2 + t][r] = ridge_class(&w, &e.s, t, e.s.n + r);
        }
        SUCCEED(ij_ridge(accuracy, chosen, &e.s, work, NULL, &why));
        for (size_t t = 0; t < 2; t++)
            CHECK(chosen[t] == want[t] && accuracy[t] == 1,
                  "case %d task %zu: lambda %g, expected %g; %g of the rows as defined", i, t,
                  chosen[t], want[t],
                  accuracy[t]);
        free(work.base);
        evaluate_free(&e);
    }
}

/* Not only the scores: all that was computed is the same when tasks run last to first. */
static void test_scores_same_in_any_order(void)
{
    const ij_team team = { backwards, NULL, 3 };
    ij_error why;
    evaluate_case e;
    double one[4], two[4], chosen[4];
    size_t size = 0, other = 0;
    evaluate_make(&e, 333, 150, 150, 0.5, 70);
    SUCCEED(ij_knn_size(&size, &e.s, &why));
    SUCCEED(ij_ridge_size(&other, &e.s, &why));
    size = IJ_MAX(size, other);
    const ij_memory a = { need(size), size }, b = { need(size), size };
    memset(a.base, 0x55, size);
    memset(b.base, 0x55, size);
    SUCCEED(ij_knn(one, &e.s, 20, 0.07, a, NULL, &why));
    SUCCEED(ij_knn(two, &e.s, 20, 0.07, b, &team, &why));
    CHECK(!memcmp(one, two, 2 * sizeof *one) && !memcmp(a.base, b.base, size),
          "k-NN depends on the order of its tasks");
    SUCCEED(ij_ridge(one, chosen, &e.s, a, NULL, &why));
    SUCCEED(ij_ridge(two, chosen + 2, &e.s, b, &team, &why));
    CHECK(!memcmp(one, two, 2 * sizeof *one) && !memcmp(chosen, chosen + 2, 2 * sizeof *one) &&
              !memcmp(a.base, b.base, size),
          "ridge depends on the order of its tasks");
    free(a.base);
    free(b.base);
    evaluate_free(&e);
}

static void test_scores_memory_ladder(void)
{
    evaluate_case e;
    ij_error why;
    evaluate_make(&e, 23, 70, 9, 1, 80);
    for (int ridge = 0; ridge < 2; ridge++) {
        double accuracy[2] = { -1, -1 }, chosen[2] = { -1, -1 };
        size_t all = 0;
        SUCCEED((ridge ? ij_ridge_size : ij_knn_size)(&all, &e.s, &why));
        /* up to one byte too few, then all */
        for (size_t step = 0; step <= 30; step++) {
            const size_t size = step < 30 ? (all - 1) * step / 29 : all;
            const size_t have = step ? size : all;              /* the first has no memory at all */
            const ij_memory work = { step ? need(size) : NULL, have };
            char words[80];
            const ij_status s = ridge ? ij_ridge(accuracy, chosen, &e.s, work, NULL, &why)
                                      : ij_knn(accuracy, &e.s, 5, 0.07, work, NULL, &why);
            free(work.base);
            CHECK(s == (step < 30 ? IJ_EMEM : IJ_OK), "%zu of %zu bytes: status %d", size, all,
                  (int)s);
            if (step == 30) continue;
            snprintf(words, sizeof words, "need %zu bytes, have %zu", all, have);
            CHECK(strstr(why.text, words), "\"%s\" does not say \"%s\"", why.text, words);
            CHECK(accuracy[0] == -1 && chosen[0] == -1, "a refused call wrote a score");
        }
        CHECK(accuracy[0] >= 0 && accuracy[1] >= 0, "scores %g %g", accuracy[0], accuracy[1]);
    }
    e.classes[0] = SIZE_MAX;
    size_t size;
    CHECK(ij_knn_size(&size, &e.s, &why) == IJ_EMEM && ij_ridge_size(&size, &e.s, &why) == IJ_EMEM,
          "as many classes as bytes");
    e.classes[0] = 5;
    e.s.d = SIZE_MAX;
    CHECK(ij_ridge_size(&size, &e.s, &why) == IJ_EMEM, "as many channels as bytes");
    e.s.d = 9;
    e.s.n = SIZE_MAX / 64;
    CHECK(ij_knn_size(&size, &e.s, &why) == IJ_EMEM, "as many rows as bytes");
    e.s.n = 23;
    evaluate_free(&e);
}

static void evaluate_refused(const ij_scored *s, size_t k, double temperature, const char *words)
{
    double accuracy[2], chosen[2];
    ij_error why = { "" };
    const ij_memory work = { need(1 << 20), 1 << 20 };
    REFUSE(IJ_EARG, words, ij_knn(accuracy, s, k, temperature, work, NULL, &why));
    if (k && temperature > 0)
        REFUSE(IJ_EARG, words, ij_ridge(accuracy, chosen, s, work, NULL, &why));
    free(work.base);
}

static void test_scores_refuse(void)
{
    evaluate_case e;
    evaluate_make(&e, 23, 7, 9, 1, 90);
    ij_scored *s = &e.s;
    s->n = 0;
    evaluate_refused(s, 1, 1, "0 training rows");
    s->n = 23;
    s->m = 0;
    evaluate_refused(s, 1, 1, "0 test rows");
    s->m = 7;
    s->d = 0;
    evaluate_refused(s, 1, 1, "0 channels");
    s->d = 9;
    s->tasks = 0;
    evaluate_refused(s, 1, 1, "0 tasks");
    s->tasks = 2;
    evaluate_refused(s, 0, 1, "k is 0");
    evaluate_refused(s, 1, 0, "temperature 0");
    evaluate_refused(s, 1, (double)NAN, "temperature");
    /* both parts of both tasks, below and beyond */
    for (int i = 0; i < 4; i++) {
        int *label = e.label[i] + 6;
        const int kept = *label, bad = i % 2 ? -1 : 5;
        char words[80];
        snprintf(words, sizeof words, "%s row 6, task %d: label %d", i < 2 ? "training" : "test",
                 i % 2,
                 bad);
        *label = bad;
        evaluate_refused(s, 1, 1, words);
        *label = kept;
    }
    const real kept = s->train[22 * 9 + 4], last = s->test[7 * 9 - 1];
    s->train[22 * 9 + 4] = (real)NAN;
    evaluate_refused(s, 1, 1, "training row 22: channel 4 is not finite");
    s->train[22 * 9 + 4] = kept;
    s->test[7 * 9 - 1] = (real)-INFINITY;
    evaluate_refused(s, 1, 1, "test row 6: channel 8 is not finite");
    s->test[7 * 9 - 1] = last;
    ij_error why;
    double accuracy[2], chosen[2];
    size_t size;
    /* nine times the same channel */
    for (size_t i = 0; i < 23 * 9; i++) s->train[i] = (real)(i / 9 % 2 ? 1e12 : -1e12);
    SUCCEED(ij_ridge_size(&size, s, &why));
    void *work = need(size);
    REFUSE(IJ_EARG, "lambda 0.0001",
           ij_ridge(accuracy, chosen, s, (ij_memory){ work, size }, NULL, &why));
    free(work);
    evaluate_free(&e);
}

/* ---- without a system ---- */

/* to the last bit, of the same weights; and in exactly the arena it names */
static void test_rom_equals_encode(void)
{
    for (int run = 0; run < 6; run++) {
        const int int8 = run % 2;
        ij_config c = small_config();
        ij_model m;
        ij_error why;
        c.crop_size[0] = 20;  /* 35 patches: not a multiple of four */
        c.crop_size[1] = 28;
        c.init_std = 0.2;
        c.patch_init_std = 0.2;
        c.depth = run < 2 ? 3 : 1;
        c.mlp_ratio = run < 4 ? 4 : 1;
        void *mem = start_model(&m, &c);
        const size_t n = 35, d = c.embed_dim, h = 20, w = 28;
        uint64_t state = 9;
        for (size_t i = 0; i < m.encoder_size; i++)
            m.target[i] += (real)(random_unit(&state) - 0.5) * (real)0.2;
        real *table = random_reals(n * d, 10);
        if (run >= 4) {                         /* a file's own positions */
            m.target_encoder.pos = m.encoder_pos;
            m.target_encoder.pos.x = table;
        }
        const ij_rom r = ij_rom_of(&m, int8);
        double worst = 0;                       /* rounding is half a step at most */
        for (size_t i = 0; i < d * d && int8; i++)
            worst = fmax(worst,
                         fabs((double)r.block[0].proj.q[i] * (double)r.block[0].proj.scale[i / d] -
                              (double)m.target_encoder.block[0].proj_w.x[i]) /
                             (double)r.block[0].proj.scale[i / d]);
        CHECK(worst <= 0.5001 && (!int8 || worst > 0.4), "rounded by %g steps", worst);
        if (int8) ij_round_matrices(&m);
        uint8_t *rgb = need(h * w * 3);
        for (size_t i = 0; i < h * w * 3; i++) rgb[i] = (uint8_t)(random_unit(&state) * 127 + 128);
        real *image = need(3 * h * w * sizeof *image), *token = need(n * d * sizeof *token);
        real pooled[24], feature[24];
        ij_normalise(image, &(ij_image){ h, w, rgb, 0 }, &c, 0);
        encode_images(token, pooled, &m.target_encoder, (ij_pictures){ image, 1, h, w }, NULL);
        const size_t bytes = ij_rom_arena(&r);
        real *arena = need(bytes + 4 * sizeof *arena);
        memset(arena, 7, bytes + 4 * sizeof *arena);
        char expected[80];
        snprintf(expected, sizeof expected, "arena: need %zu bytes, have %zu", bytes, bytes - 1);
        REFUSE(IJ_EMEM, expected, ij_rom_encode(feature, &r, rgb, arena, bytes - 1, &why));
        for (size_t i = 0; i < bytes + 4 * sizeof *arena; i++)
            CHECK(((unsigned char *)arena)[i] == 7, "a refused arena was written");
        REFUSE(IJ_EMEM, "have 0", ij_rom_encode(feature, &r, rgb, NULL, bytes, &why));
        SUCCEED(ij_rom_encode(feature, &r, rgb, arena, bytes, &why));
        for (size_t i = bytes; i < bytes + 4 * sizeof *arena; i++)
            CHECK(((unsigned char *)arena)[i] == 7, "beyond the arena");
        CHECK(((unsigned char *)arena)[bytes - 1] != 7 || !int8 || IJ_ROM_INTEGER,
              "the arena is larger than what is used");
        if (int8 && IJ_ROM_INTEGER) {           /* 8 bits of x too: near is all that can be asked */
            double dot = 0, square = 0, other = 0;
            for (size_t i = 0; i < d; i++) {
                dot += (double)feature[i] * (double)pooled[i];
                square += (double)feature[i] * (double)feature[i];
                other += (double)pooled[i] * (double)pooled[i];
            }
            CHECK(dot / sqrt(square * other) > 0.999 && memcmp(feature, pooled, sizeof pooled),
                  "run %d: cosine %g", run,
                  dot / sqrt(square * other));
            memcpy(feature, pooled, sizeof pooled);
            memcpy(arena, token, n * d * sizeof *token);
        }
        CHECK(!memcmp(feature, pooled, sizeof pooled), "run %d: features differ by %g", run,
              compare_reals(feature, pooled, d));
        CHECK(!memcmp(arena, token, n * d * sizeof *token), "run %d: tokens differ", run);
        free(mem);
        free(table);
        free((void *)r.block);
        free(rgb);
        free(image);
        free(token);
        free(arena);
    }
}

/* after every feature: the normal equations, solved in double */
static void test_few_equals_ridge(void)
{
    enum { D = 6, Z = D + 1, MOST = 3, N = 10000 };
    ij_few f;
    ij_error why;
    const double ridge = 0.3;
    double gram[Z][Z] = { { 0 } }, to[Z][MOST] = { { 0 } };
    const size_t size = IJ_FEW_SIZE(D, MOST, 1);
    real *mem = need(size), x[D];
    uint64_t state = 3;
    REFUSE(IJ_EMEM, "head: need ", ij_few_init(&f, mem, size - 1, D, MOST, ridge, &why));
    SUCCEED(ij_few_init(&f, mem, size, D, MOST, ridge, &why));
    for (size_t i = 0; i < Z; i++) gram[i][i] = ridge;
    for (size_t n = 0; n < N; n++) {
        const size_t label = n < 10 ? n % 2 : n % MOST;         /* the third class comes late */
        double a[Z][Z + MOST], z[Z] = { 1 };
        for (size_t i = 0; i < D; i++) {
            x[i] = (real)(random_unit(&state) + (i == label));
            z[i + 1] = (double)x[i];
        }
        CHECK(!ij_few_learn(&f, x, label), "not learnt");
        for (size_t i = 0; i < Z; i++) {
            for (size_t j = 0; j < Z; j++) gram[i][j] += z[i] * z[j];
            to[i][label] += z[i];
            memcpy(a[i], gram[i], sizeof gram[i]);
            memcpy(a[i] + Z, to[i], sizeof to[i]);
        }
        if (n > 25 && n % 1000 < 995) continue;
        /* Gauss-Jordan; gram is positive definite */
        for (size_t k = 0; k < Z; k++)
            for (size_t i = 0; i < Z; i++) {
                const double by = i == k ? 0 : a[i][k] / a[k][k];
                for (size_t j = k; j < Z + MOST; j++) a[i][j] -= by * a[k][j];
            }
        double worst = 0;
        for (size_t c = 0; c < f.classes; c++)
            for (size_t i = 0; i < Z; i++)
                worst = fmax(worst, fabs(a[i][Z + c] / a[i][i] - (double)f.w[c * Z + i]));
        CHECK(worst < (IN_DOUBLE ? 1e-13 : 1e-5), "after %zu: differs by %g", n, worst);
        /* and the guess is its largest score */
        double best = -1e30;
        size_t expected = 0;
        for (size_t c = 0; c < f.classes; c++) {
            double score = 0;
            for (size_t i = 0; i < Z; i++) score += a[i][Z + c] / a[i][i] * z[i];
            if (score > best) {
                best = score;
                expected = c;
            }
        }
        CHECK(ij_few_guess(&f, x) == expected, "another guess");
    }
    CHECK(f.classes == MOST && ij_few_learn(&f, x, MOST) == IJ_EARG, "a class too many");
    const real before = f.w[3];
    x[2] = (real)NAN;
    CHECK(ij_few_learn(&f, x, 1) == IJ_ENAN && memcmp(&f.w[3], &before, sizeof before) == 0,
          "learnt what is no number");
    CHECK(ij_few_init(&f, mem, size, SIZE_MAX / 4, 8, 0, NULL) == IJ_EMEM &&
              ij_few_init(&f, mem, size, 8, SIZE_MAX / 4, 1, NULL) == IJ_EMEM,
          "sizes overflow");
    free(mem);
}

static void test_few_means(void)
{
    ij_few f;
    ij_error why;
    real mem[IJ_FEW_SIZE(2, 3, 0) / sizeof(real)];
    const real x[6][2] = {
        { 10, 0 }, { 3, 4 }, { 0, (real)0.1 }, { 0, 0 }, { 1, (real)0.4 }, { -1, (real)0.2 }
    };
    SUCCEED(ij_few_init(&f, mem, sizeof mem, 2, 3, 0, &why));
    CHECK(!ij_few_learn(&f, x[0], 0) && !ij_few_learn(&f, x[1], 0) && !ij_few_learn(&f, x[2], 2) &&
              !ij_few_learn(&f, x[3], 2),
          "not learnt");
    /* long ones weigh no more */
    CHECK(fabs((double)f.w[1] - 1.6) < 1e-6 && fabs((double)f.w[2] - 0.8) < 1e-6,
          "not the sum of directions");
    /* class 1 was never seen */
    CHECK(ij_few_guess(&f, x[4]) == 0 && ij_few_guess(&f, x[5]) == 2, "not the nearest mean");
}

/* ---- the runner ---- */

#define TEST(name) { #name, test_##name }
static const struct { const char *name; void (*run)(void); } test[] = {
    TEST(golden_a), TEST(golden_b), TEST(gradient_check), TEST(matmul_equals_naive),
    TEST(exp_and_normal), TEST(golden_masks), TEST(golden_random), TEST(golden_positions),
    TEST(golden_schedules), TEST(masks_paper_mode), TEST(masks_split), TEST(generative),
    TEST(joint), TEST(masks_impossible), TEST(model_threads_same_bytes),
    TEST(model_resume_same_bytes), TEST(checkpoint_encoders), TEST(model_memory_ladder),
    TEST(model_sizes), TEST(model_bad_settings), TEST(model_not_finite),
    TEST(model_accumulates_and_clips), TEST(model_parts), TEST(encode_other_sizes),
    TEST(encode_one_image_shared), TEST(init_statistics), TEST(settings_round_trip),
    TEST(settings_bad_values), TEST(settings_files), TEST(checkpoint_refuses),
    TEST(readme_names_exist), TEST(status_strings), TEST(pnm_flavours), TEST(pnm_hostile),
    TEST(records_formats), TEST(folder_trees), TEST(held_out_tenth), TEST(resize_golden),
    TEST(crop_and_normalise), TEST(view), TEST(color_jitter), TEST(scenes), TEST(data_scenes_kept),
    TEST(safetensors_table), TEST(safetensors_text), TEST(safetensors_cut),
    TEST(safetensors_flipped), TEST(safetensors_hostile), TEST(safetensors_accepts),
    TEST(safetensors_capacity), TEST(safetensors_half), TEST(safetensors_numbers),
    TEST(safetensors_ladder), TEST(safetensors_changed), TEST(safetensors_large),
    TEST(standardise_equals_definition), TEST(watch_equals_definition), TEST(verdict),
    TEST(targets_average_layers), TEST(vicreg_equals_definition), TEST(rankme_by_hand),
    TEST(knn_by_hand), TEST(knn_equals_definition), TEST(pca_equals_definition), TEST(png_blocks),
    TEST(ridge_equals_definition), TEST(scores_same_in_any_order), TEST(scores_memory_ladder),
    TEST(scores_refuse), TEST(rom_equals_encode), TEST(few_equals_ridge), TEST(few_means),
#ifndef IJEPA_NO_POSIX                                  /* full disks, limits, links, permissions */
    TEST(save_failing_everywhere), TEST(save_refused), TEST(far_folder),
#endif
};

int main(int argc, char **argv)
{
    const size_t tests = sizeof test / sizeof *test;
    size_t passed = 0, failed = 0, files = 0;
    if (argc == 2 && !strcmp(argv[1], "check_table")) {
        gradients.print = 1;
        test_gradient_check();
        return gradients.right < gradients.rows;
    }
    for (int i = 1; i < argc; i++) {
        FILE *f = fopen(argv[i], "rb");
        if (!f) continue;
        fclose(f);
        files++;
        failed_checks = 0;
        golden_run(argv[i], 1);
        *(failed_checks ? &failed : &passed) += 1;
    }
    for (size_t t = 0; t < tests && !files; t++) {
        int wanted = argc == 1;
        for (int i = 1; i < argc; i++) wanted |= strstr(test[t].name, argv[i]) != NULL;
        if (!wanted) continue;
        failed_checks = 0;
        test[t].run();
        printf("%s %s\n", failed_checks ? "FAIL" : "ok  ", test[t].name);
        fflush(stdout);
        *(failed_checks ? &failed : &passed) += 1;
    }
    scratch_remove();
    printf("%zu passed, %zu failed\n", passed, failed);
    return failed || !passed;
}
