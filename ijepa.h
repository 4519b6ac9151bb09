/* ijepa.h - I-JEPA in C99: learning image representations by predicting representations, not
 *           pixels (Assran et al., CVPR 2023, arXiv:2301.08243). libc and libm only. Licence (MIT)
 *           at the foot.
 *
 * Use it as a program (make && ./ijepa --help), or put ijepa.c and ijepa.h into yours:
 *
 *     ij_config c = ij_config_default();    // a small model for 32x32 images; change any field
 *     ij_error why;
 *     ij_model m;
 *     ij_report r;
 *     size_t size;
 *     if (ij_model_size(&size, &c, IJ_TRAIN, &why)) { puts(why.text); return 1; }
 *     ij_model_init(&m, malloc(size), size, &c, IJ_TRAIN, &why);
 *     // [B,3,H,W]: yours, normalised
 *     ij_real *images = calloc(c.batch_size * 3 * 32 * 32, sizeof *images);
 *     ij_masks_draw(&m.masks, &c, &m.mask_rng, m.micro, c.batch_size, &why);
 *     ij_train_step(&m, images, &m.masks, &r, &why); // r.loss, r.grad_norm, ...; again and again
 *
 * Every function takes its memory from the caller, returns a status, and never exits, prints,
 * allocates or keeps global state. Two models in two threads never meet. Not reentrant on one
 * model.
 *
 * Dimensions, here and in ijepa.c:
 *   B images · N patches of an image (gh rows by gw columns, row-major) · K context patches ·
 *   T tokens in all (the rows of a packed batch), Q those whose output is asked for ·
 *   D width of the encoder · P width of the predictor · H heads · F hidden width of the MLP ·
 *   p side of a patch.
 * Terms: the reference code says "enc mask" for our context, "pred mask" for our target.
 */
#ifndef IJEPA_H
#define IJEPA_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---------------------------------------------------------------- knobs ----
 * -DIJEPA_DOUBLE      numbers are double: for tests of exactness, half the speed
 * -DIJEPA_NO_POSIX    no threads, no directories, no fsync: only the C library
 * -DIJEPA_MAIN        the command-line program (main) as well
 * -DIJEPA_INFER_ONLY  only what stands below under "without a system", ij_matmul and the texts of
 *                     ij_status: no stdio, no malloc; of libc memcpy and memset, of libm sqrt and
 *                     sqrtf, and with gcc -ffreestanding none of these (clang for ARM asks its
 *                     builtins for __aeabi_mem*). Double, and float that is kept wider (x87),
 *                     take exp and erfc too.
 * Compile with -std=c99 -ffp-contract=off: otherwise the last bits are the compiler's. Never with
 * -ffast-math or a part of it: -ffinite-math-only is refused, -funsafe-math-optimizations cannot be
 * seen. */
#define IJEPA_VERSION "1.0"        /* what ijepa --version prints */
#ifdef IJEPA_DOUBLE
typedef double ij_real;
#else
typedef float ij_real;
#endif

typedef enum {
    IJ_OK = 0,
    IJ_EARG,   /* a setting or an argument is out of its range */
    IJ_EMEM,   /* the memory given is too small, or a size overflows size_t */
    IJ_EFILE,  /* a file cannot be opened, read or written */
    IJ_EDATA,  /* a file does not hold what it should */
    IJ_EMASK,  /* these mask settings cannot be met on this grid */
    IJ_ENAN    /* the loss is not finite */
} ij_status;

enum { IJ_TEXT = 128 };            /* room for any setting as text */

/* One line that says what is wrong: file, place, expected, found. Written on every failure; who
 * does not want it gives NULL. */
typedef struct { char text[512]; } ij_error;

const char *ij_status_string(ij_status s);

/* ------------------------------------------------------------- settings ----
 * Names, meanings and defaults of the reference's configs/ where it has them (pairs are
 * start,end or low,high). */
enum { IJ_JEPA, IJ_GENERATIVE, IJ_JOINT };       /* objective: Figure 2 of the paper */
enum { IJ_MASK_REFERENCE, IJ_MASK_PAPER, IJ_MASK_RANDOM, IJ_MASK_RASTERIZED };       /* mask_mode */
enum { IJ_LOSS_SMOOTH_L1, IJ_LOSS_L2 };          /* loss */

typedef struct {
    /* data */
    size_t batch_size;             /* images of one forward pass */
    size_t accumulate;             /* forward passes of one update (1: none) */
    size_t crop_size[2];           /* height, width of the training image, pixels */
    double crop_scale[2];          /* area of a random-resized crop, share of the image */
    int use_horizontal_flip;
    /* strength (SimCLR's s) of random changes of colour; share of images without any */
    double color_jitter, gray;
    double mean[3], std[3];        /* of R, G, B in 0..1, for normalising */
    /* mask: paper section 3 and appendix A.1; src/masks/multiblock.py */
    size_t patch_size;
    /* blocks, by the reference's sampler or the paper's; random: num_pred_masks targets of
     * pred_mask_scale patches anywhere, the context all others; rasterized: a quadrant each */
    int mask_mode;
    double enc_mask_scale[2];      /* context block, share of the patches */
    double pred_mask_scale[2];     /* target block, share of the patches */
    double aspect_ratio[2];        /* of a target block, height / width */
    size_t num_enc_masks, num_pred_masks, min_keep;
    int allow_overlap;             /* 1: targets are not cut out of the context */
    /* model: src/models/vision_transformer.py */
    size_t embed_dim, depth, num_heads;
    double mlp_ratio;
    size_t pred_emb_dim, pred_depth;
    double init_std;               /* of every weight matrix; 0: Xavier-uniform, as in MAE */
    double patch_init_std;         /* of the patch embedding */
    /* optimisation: appendix A.1; src/helper.py, src/utils/schedulers.py */
    /* targets: mean of the last so many layers' outputs, each normalised (data2vec), the patch
     * embedding being the first of depth + 1, more mean all; 0: the encoder's output (the paper) */
    size_t average_top_k_layers;
    /* weight of variance + covariance / 25 of the mean of each context's tokens, over the contexts
     * of a batch (VICReg, C-JEPA); 0: none */
    double vicreg;
    /* IJ_JEPA: predict tokens of the target encoder. IJ_GENERATIVE: pixels, each patch normalised;
     * the target encoder is then a copy of the encoder. IJ_JOINT: the mean token of another view,
     * by two-layer heads (pred_depth 0: no predictor); images are then [2,B,3,H,W], contexts of the
     * first view, targets the second */
    int objective;
    int loss;                      /* IJ_LOSS_SMOOTH_L1 (the code) or IJ_LOSS_L2 (the paper) */
    double epochs, warmup;         /* both in epochs */
    size_t steps;                  /* length of the run in updates; 0: epochs * ipe */
    size_t ipe;                    /* updates per epoch; follows from the data */
    double ipe_scale;              /* stretches the schedules beyond the run */
    double start_lr, lr, final_lr, weight_decay, final_weight_decay;
    double ema[2];                 /* momentum of the target encoder */
    double beta[2], eps;           /* AdamW */
    double clip_grad;              /* largest gradient norm; 0: no clipping */
    size_t seed;
} ij_config;

ij_config ij_config_default(void);                      /* a small model for 32x32 images */
ij_status ij_config_check(const ij_config *c, ij_error *why);   /* every range */
/* The settings by name, as in config files and checkpoints: "ema", "0.996,1". Also model_name,
 * vit_tiny ... vit_giant. */
ij_status ij_config_set(ij_config *c, const char *name, const char *value, ij_error *why);
const char *ij_config_name(size_t i);                   /* NULL beyond the last */
void ij_config_text(char text[IJ_TEXT], const ij_config *c, size_t i);
/* A file of `key = value` lines. */
ij_status ij_config_read(ij_config *c, const char *path, ij_error *why);

/* ------------------------------------------------------ random numbers -----
 * The Mersenne twister as PyTorch draws from it (spec of the reference sampler): one 32-bit word
 * per draw. */
typedef struct { uint32_t state[624]; uint32_t at; } ij_rng;
void ij_rng_seed(ij_rng *r, uint64_t seed);             /* the low 32 bits count */

/* -------------------------------------------------------------- threads ----
 * The library has none. It hands `count` independent tasks to the caller's run(); which thread
 * does which task never changes a result. A zeroed ij_team does them one after the other. run()
 * is never entered twice at once. */
typedef void ij_task(void *arg, size_t index);
typedef struct {
    void (*run)(void *pool, size_t count, ij_task *task, void *arg);
    void *pool;
    size_t threads;                /* how many tasks run at once: a hint for cutting the work */
} ij_team;

/* --------------------------------------------------------------- tensor ----
 * A pointer that knows its shape: row-major, no strides. Rows is the product of all but the last
 * dimension. */
typedef struct { ij_real *x; size_t rank, dim[4]; } ij_tensor;

/* C[m,n] = S + A[m,k] B[k,n]. Element (i,j) of A lies at a[i*a_row + j*a_col], likewise B, so a
 * transpose is an exchange of strides; C is dense with row stride c_row. S[i,j] lies at
 * start[i*start_row + j]: start = C adds to C, start_row = 0 adds a bias to each row, start =
 * NULL is zero. Each element is one chain of multiply-adds over k ascending, in both versions:
 * the results are equal to the last bit. C must not overlap A or B. */
typedef struct {
    size_t m, n, k;
    const ij_real *a; size_t a_row, a_col;
    const ij_real *b; size_t b_row, b_col;
    ij_real *c; size_t c_row;
    const ij_real *start; size_t start_row;
} ij_product;
void ij_matmul_naive(const ij_product *p);
void ij_matmul(const ij_product *p, const ij_team *team);

/* ---------------------------------------------------------------- masks ----
 * Lists of patch indices, ascending. Context list e*B+b is image b seen through context mask e,
 * target list t*B+b is target block t of image b (the reference's row order). List r starts at
 * index[r * stride]. */
typedef struct { size_t lists, stride, *length, *index; } ij_lists;
typedef struct { ij_lists context, target; } ij_masks;

/* step is the number of the draw from 0: it seeds the block sizes in reference mode, as the
 * reference's counter does. `images` may be less than batch_size. Fails with IJ_EMASK instead of
 * trying for ever. */
ij_status ij_masks_draw(ij_masks *m, const ij_config *c, ij_rng *rng, uint64_t step, size_t images,
                        ij_error *why);

/* ---------------------------------------------------------------- model ---- */
typedef struct {                   /* one transformer block: shapes in ijepa.c, ij_list_block() */
    ij_tensor norm1_w, norm1_b, qkv_w, qkv_b, proj_w, proj_b;
    ij_tensor norm2_w, norm2_b, fc1_w, fc1_b, fc2_w, fc2_b;
} ij_block;
typedef struct { ij_tensor fc1_w, fc1_b, fc2_w, fc2_b; } ij_head;
typedef struct {                   /* VisionTransformer */
    size_t depth, heads, patch;
    ij_tensor pos;                 /* [N,D] of a file with its own; x is NULL: sines and cosines */
    ij_tensor patch_w, patch_b;    /* [D,3,p,p] [D] */
    ij_block *block;
    ij_tensor norm_w, norm_b;      /* [D] */
    ij_head projector;             /* joint only, [4P,D] [P,4P] */
} ij_encoder;
typedef struct {                   /* VisionTransformerPredictor */
    size_t depth, heads;
    ij_tensor mask_token;          /* [1,1,P] */
    ij_tensor embed_w, embed_b;    /* [P,D] [P] */
    ij_block *block;
    ij_tensor norm_w, norm_b;      /* [P] */
    ij_tensor proj_w, proj_b;      /* [D,P] [D] */
    ij_head head;                  /* joint: instead of all these, [4P,P] [P,4P] */
} ij_predictor;
typedef struct {                   /* one row of the parameter table */
    char name[56];                 /* the reference's state-dict name */
    size_t offset;                 /* of its numbers in weight, grad, adam_m, adam_v (and target) */
    ij_tensor shape;               /* x is NULL here */
    int predictor;                 /* 0: encoder, 1: predictor */
} ij_param;

/* LOADED: as INFER, but without first weights, for a file's to come */
enum { IJ_INFER, IJ_TRAIN, IJ_LOADED };

typedef struct {
    ij_config config;
    int training;                  /* 0: only `target` is there */
    ij_param *param; size_t params;            /* the table; the encoder's rows come first */
    size_t encoder_params, encoder_size, size; /* rows and numbers: encoder, encoder + predictor */
    ij_real *weight, *grad, *adam_m, *adam_v;  /* [size] each */
    ij_real *target;               /* [encoder_size]: the EMA of the encoder */
    ij_encoder encoder, encoder_grad, target_encoder;      /* the same numbers by name */
    ij_predictor predictor, predictor_grad;
    ij_tensor encoder_pos, predictor_pos;      /* [N,D] [N,P], fixed */
    ij_tensor file_pos;            /* [N,D] room for those of a Hugging Face file */
    ij_masks masks;                /* room for one batch */
    ij_rng mask_rng;
    uint64_t step, micro;          /* updates done; forward passes done */
    ij_team team;                  /* set it after init to use threads */
    /* Optional, set after init: called once an update with all gradients, between backward and the
     * optimizer, to average them over machines (README: MPI). A loss that is not finite arrives
     * here as such a gradient. */
    void (*reduce)(void *arg, ij_real *grad, size_t count);
    void *reduce_arg;
    unsigned char *work; size_t work_size;     /* activations of one step */
} ij_model;

/* Bytes for ij_model_init with the same arguments; alignment as malloc's. */
ij_status ij_model_size(size_t *size, const ij_config *c, int training, ij_error *why);
/* Lays the model out in mem and draws the first weights from config.seed. mem must outlive it. */
ij_status ij_model_init(ij_model *m, void *mem, size_t size, const ij_config *c, int training,
                        ij_error *why);

/* ------------------------------------------------------------- training ---- */
typedef struct {
    double loss, lr, weight_decay, ema, grad_norm;
    double context_tokens, target_tokens;      /* mean length of the lists */
    /* of pooled target features over the images of the batch, mean over channels */
    double feature_std;
    int updated;                   /* 0: gradients were only accumulated */
} ij_report;

/* One step of Figure 3 on images [B,3,H,W]: target encoder, context encoder, predictor, loss,
 * backward, AdamW, EMA. IJ_ENAN (loss or gradients not finite) leaves the weights as they were. */
ij_status ij_train_step(ij_model *m, const ij_real *images, const ij_masks *masks, ij_report *r,
                        ij_error *why);

size_t ij_steps(const ij_config *c);           /* updates of the whole run */

/* ------------------------------------------------------------- features ----
 * Target-encoder (or any encoder's) output for pictures of any size that is at least one patch:
 * tokens [B,N,D] after the last norm and their mean [B,D], the paper's image representation (A.1).
 * Of the two, NULL: not wanted. The size needs no pixels: x NULL. */
typedef struct {
    const ij_real *x;              /* [count,3,height,width] */
    size_t count, height, width;
} ij_pictures;
typedef struct { void *base; size_t size; } ij_memory;     /* yours to lend, aligned as malloc's */
ij_status ij_encode_size(size_t *size, const ij_encoder *e, const ij_pictures *in, ij_error *why);
ij_status ij_encode(ij_real *tokens, ij_real *pooled, const ij_encoder *e, const ij_pictures *in,
                    ij_memory work, const ij_team *team, ij_error *why);

/* --------------------------------------------------------------- images ----
 * A set of images behind one path, recognised by content: a PNM file (P2 P3 P5 P6), a folder of
 * them (with one folder per class, or none), CIFAR-10, CIFAR-100, STL-10 or IDX binary files, a
 * folder with such files, or the word "scenes". Pixels are read on demand; only names are kept. */
enum { IJ_TRAIN_PART, IJ_TEST_PART, IJ_WHOLE };
enum { IJ_SCENES, IJ_PICTURES, IJ_RECORDS };
typedef struct {                   /* a binary file of equal records */
    void *stream;
    const struct ij_format *format;
    size_t start, record, count, height, width;
    char path[1024];
} ij_source;
typedef struct {
    /* IJ_SCENES: drawn; IJ_PICTURES: PNM; IJ_RECORDS: a binary set */
    int kind;
    const char *name;              /* "CIFAR-10", "folder of PNM", ... */
    size_t count;                  /* images of the part */
    size_t tasks, classes[3];      /* kinds of labels: none, 3 of scenes, else 1; classes of each */
    const char *task[3];           /* "label"; "count", "dist", "kind" */
    const char *path;
    int part, pair;                /* pair: it has two parts of its own */
    size_t all, training;          /* images of the path; of the first part of a pair */
    size_t side;                   /* of scenes */
    size_t sources; ij_source source[8];
    const char **file;             /* [all] of a folder, relative to path */
    int *label;                    /* [tasks,all] */
} ij_data;
typedef struct {
    size_t height, width;
    uint8_t *rgb;                  /* [height,width,3] */
    size_t size;                   /* bytes there is room for */
} ij_image;

/* Bytes for ij_data_open. part chooses the half of a train/test pair, or both; where the path has
 * none, every tenth image is the test part. */
ij_status ij_data_size(size_t *size, const char *path, ij_error *why);
ij_status ij_data_open(ij_data *d, void *mem, size_t size, const char *path, int part,
                       ij_error *why);
void      ij_data_close(ij_data *d);
int       ij_data_label(const ij_data *d, size_t i, size_t task);      /* 0.., or -1: none */
/* Image i of the part into rgb, which has room for `size` bytes; NULL: only its height and
 * width. */
ij_status ij_data_read(ij_image *to, ij_data *d, size_t i, ij_error *why);

/* An image as the model sees it, planes [3,h,w] of c->crop_size. With rng as in training: a
 * random-resized crop (torchvision's box, Pillow's antialiased bilinear filter to the bit), maybe
 * mirrored, maybe changed in colour; with NULL the largest central part of that shape. Then
 * normalised. Before that and before mirroring it lies at the beginning of work, [h,w,3].
 * Bytes of work: ij_view_size of the image's height and width. */
size_t ij_view_size(size_t height, size_t width, const ij_config *c);
ij_status ij_view(ij_real *planes, const ij_image *from, const ij_config *c, ij_rng *rng,
                  void *work, size_t size, ij_error *why);

/* The built-in scenes: image `index` of the set `seed`, side by side pixels, with its three labels
 * (count, dist, kind). Always the same for the same arguments. */
enum { IJ_SCENE_COUNT, IJ_SCENE_DIST, IJ_SCENE_KIND, IJ_SCENE_TASKS };
void ij_scene(uint8_t *rgb, size_t side, uint64_t seed, uint64_t index, int labels[IJ_SCENE_TASKS]);

/* ------------------------------------------------------------ files --------
 * safetensors: the one container. Header and table lie in the caller's memory, data is read on
 * demand. */
enum { IJ_F64, IJ_F32, IJ_F16, IJ_BF16, IJ_I64, IJ_I32, IJ_U8, IJ_OTHER };   /* OTHER: not read */
typedef struct {
    const char *name, *type;       /* "encoder.norm.weight", "F32" */
    int dtype;
    size_t rank, dim[8], count;
    uint64_t begin, end;           /* bytes, from the start of the data */
} ij_entry;
enum { IJ_KIND_NONE, IJ_KIND_IJEPA, IJ_KIND_HUGGING_FACE };
typedef struct {
    const char *path;
    int kind;                      /* what the model in it is, IJ_KIND_... */
    void *stream;
    uint64_t data;                 /* where the data begins */
    ij_entry *entry; size_t entries;
    const char **meta; size_t metas;       /* key, value, key, value, ... */
    size_t heads;                  /* of a config.json beside it; 0: none */
    uint64_t image[2];             /* height, width of its image_size, if it is a pair; 0: square */
} ij_file;
ij_status ij_file_size(size_t *size, const char *path, ij_error *why);
ij_status ij_file_open(ij_file *f, void *mem, size_t size, const char *path, ij_error *why);
void ij_file_close(ij_file *f);
const char *ij_file_meta(const ij_file *f, const char *key);                 /* NULL: absent */
const ij_entry *ij_file_find(const ij_file *f, const char *name);            /* NULL: absent */
ij_status ij_file_read(ij_real *to, const ij_file *f, const ij_entry *e, ij_error *why);

/* A checkpoint holds encoder.*, target_encoder.*, predictor.*, opt.m.*, opt.v.* and all settings;
 * of a model that does not train only target_encoder.*. To open one: ij_file_open, ij_load_config,
 * ij_model_init, ij_load. Hugging Face's IJepaModel and IJepaForImageClassification are read too
 * (one encoder; F32, F16, BF16): sizes from the tensors, heads and the sides of images that are not
 * square from config.json. */
ij_status ij_load_config(ij_config *c, const ij_file *f, ij_error *why);
ij_status ij_load(ij_model *m, const ij_file *f, ij_error *why);
/* One of its encoders, "target_encoder" or "encoder", into the target encoder of a model that does
 * not train. */
ij_status ij_load_encoder(ij_model *m, const ij_file *f, const char *part, ij_error *why);
/* Writes beside path, flushes, renames over path: it holds the old file or the whole new one,
 * never a part. */
ij_status ij_save(const ij_model *m, const char *path, ij_error *why);

/* ---------------------------------------------------- is it learning? ----
 * What the model makes of images [B,3,H,W], B >= 2, without changing it: pooled [B,D] target
 * features, and of the targets (as the loss sees them) and their prediction: */
typedef struct {
    double loss;                   /* as in training */
    /* 1 - loss / loss of the best guess that knows only where a patch lies (the mean of the batch's
     * other images there); 0 or less: nothing but position was learnt */
    double skill;
    double position;               /* share of the targets' variance between positions, 0..1 */
    size_t images;                 /* and of pooled features over so many images: */
    double rank;                   /* RankMe (Garrido et al., ICML 2023), 1..min(n,D) */
    double cosine;                 /* mean of all pairs */
    double feature_std;            /* mean over channels */
} ij_health;
size_t ij_watch_size(const ij_config *c);
ij_status ij_watch(ij_health *h, ij_real *pooled, ij_model *m, const ij_real *images,
                   const ij_masks *masks, ij_memory work, ij_error *why);
/* The last four, from pooled [n,D], n >= 2, after ij_watch, which clears them.
 * work: the larger of D and min(n,D)^2 doubles */
ij_status ij_watch_features(ij_health *h, const ij_real *pooled, size_t n, size_t d, ij_memory work,
                            ij_error *why);
/* "healthy" (and so far as few images tell), "warning: because; try", "collapsing: because; try";
 * before warm is set (the end of the warm-up) skill is not judged: "too early to say: because" if
 * nothing else is wrong. */
const char *ij_verdict(const ij_health *h, int objective, int warm);

/* -------------------------------------------------------- evaluation -------
 * Features are [n,D]; labels 0..classes-1. Several label sets are scored at once: they share the
 * costly parts. */
typedef struct {
    size_t n, m, d;                /* training rows, test rows, width */
    ij_real *train, *test;
    size_t tasks;
    const int *const *train_label, *const *test_label;     /* [tasks][n] [tasks][m] */
    const size_t *classes;         /* [tasks] */
} ij_scored;
/* z-score of every channel by mean and standard deviation of the training rows; a constant channel
 * becomes 0. */
void ij_standardise(ij_real *train, size_t n, ij_real *test, size_t m, size_t d);
/* k nearest neighbours by cosine; each votes exp(similarity / temperature). accuracy [tasks] is
 * 0..1. */
ij_status ij_knn_size(size_t *size, const ij_scored *s, ij_error *why);
ij_status ij_knn(double *accuracy, const ij_scored *s, size_t k, double temperature, ij_memory work,
                 const ij_team *team, ij_error *why);
/* Ridge regression to one-hot labels; strength (times n) chosen per task on every fifth training
 * row, then refitted. */
ij_status ij_ridge_size(size_t *size, const ij_scored *s, ij_error *why);
ij_status ij_ridge(double *accuracy, double *chosen, const ij_scored *s, ij_memory work,
                   const ij_team *team, ij_error *why);

/* ------------------------------------------------ without a system -------
 * An encoder as constants, for flash: `ijepa export --c NAME.h` writes them, int8 or as they are,
 * as an ij_rom called NAME. A matrix [out,in] is w, or q times its row's scale [out]; b [out].
 * Beside it stands NAME_ARENA, the bytes of RAM that encoding takes:
 *
 *     static ij_real arena[NAME_ARENA / sizeof(ij_real)];
 *     static ij_real feature[NAME_DIM];
 *     ij_rom_encode(feature, &NAME, rgb, arena, sizeof arena, &why);
 *
 * The numbers are those of ij_encode on the same weights (q times scale), to the last bit; but for
 * an ARM or RISC-V without floating point, or with -DIJEPA_ROM_INTEGER, what meets an int8 matrix
 * is rounded to 8 bits too. The arena holds two residual streams, one head's keys and values, and
 * one layer's activations of IJ_ROM_ROWS patches (int8: and as many rows of a weight matrix as
 * floats); what is asked for again, the first norm, is made again. Some 3 KB of stack come on top.
 */
typedef struct { const ij_real *w; const int8_t *q; const ij_real *scale, *b; } ij_rom_matrix;
typedef struct {
    const ij_real *norm1_w, *norm1_b, *norm2_w, *norm2_b;
    ij_rom_matrix qkv, proj, fc1, fc2;
} ij_rom_block;
typedef struct {
    size_t height, width, patch, dim, depth, heads, hidden;        /* hidden: F */
    int int8, whole_pos;
    ij_real scale[3], shift[3];    /* a byte of colour becomes byte * scale - shift */
    /* [gw,D/2] [gh,D/2]: the columns' half, the rows'; with whole_pos [N,D] */
    const ij_real *pos;
    ij_rom_matrix patch_embed;     /* [D,3pp] */
    const ij_rom_block *block;     /* [depth] */
    const ij_real *norm_w, *norm_b;
} ij_rom;
enum { IJ_ROM_ROWS = 4 };
#define IJ_ROM_MAX(a, b) ((a) > (b) ? (a) : (b))
#define IJ_ROM_ARENA(n, d, heads, hidden, pixels, int8)                                            \
    (sizeof(ij_real) * (size_t)(2 * (n) * ((d) + (d) / (heads)) + IJ_ROM_ROWS * ((d) + 2 +         \
     IJ_ROM_MAX(IJ_ROM_MAX(hidden, pixels), (n) + 2 * ((d) / (heads))) +                           \
     ((int8) ? IJ_ROM_MAX(IJ_ROM_MAX(hidden, pixels), d) : 0))))
/* feature [D]: the mean of the tokens of rgb [height,width,3]; the tokens [N,D] themselves lie
 * at the arena's beginning. IJ_EMEM, "need X bytes, have Y", if the arena (aligned as ij_real)
 * is too small: then nothing is touched. */
ij_status ij_rom_encode(ij_real *feature, const ij_rom *m, const uint8_t *rgb, void *arena,
                        size_t size, ij_error *why);

/* Learns classes from a few features [D] each, one after another; a new class may come at any
 * time. ridge 0: the class whose mean direction is nearest (cosine). Above 0: ridge regression
 * to one-hot labels by recursive least squares, after every feature the solution for all so far,
 * up to rounding: in float ridge should not be below a 100,000th of a feature's squared length.
 * The constant and the weights are shrunk alike. IJ_FEW_SIZE: bytes; ridge there is 0 or 1. */
typedef struct {
    size_t dim, most, classes;
    ij_real *w, *p, *gain;         /* [most,D+1]  [D+1,D+1], its lower half  [D+1] */
} ij_few;
#define IJ_FEW_SIZE(d, most, ridge)                                                                \
    (sizeof(ij_real) * (size_t)(((d) + 1) * (most) + ((ridge) ? ((d) + 1) * ((d) + 4) / 2 : 0)))
ij_status ij_few_init(ij_few *f, void *mem, size_t size, size_t dim, size_t most, double ridge,
                      ij_error *why);
/* IJ_EARG: label >= most; IJ_ENAN: not finite */
ij_status ij_few_learn(ij_few *f, const ij_real *feature, size_t label);
/* One of the classes up to the largest learnt. */
size_t ij_few_guess(const ij_few *f, const ij_real *feature);

#ifdef __cplusplus
}
#endif

/* Limits: images of one batch have one size; sizes are size_t and checked; safetensors headers up
 * to 100 MB, tensors of rank 8; PNM up to 2^28 pixels; folders 16 deep, paths of 1,000 bytes.
 * matmul keeps about 110 KB (AVX: 220, AVX-512: 430) of packed blocks on the stack: IJ_NC and IJ_KC
 * in ijepa.c. Activations and weights on large pages (Linux: madvise) are worth a few per cent.
 *
 * Checkpoint format 1. 2026-11-29: a setting that a file lacks takes its default; one that is gone
 * (mask_target_input) is passed over at its default, otherwise refused by name.
 *
 * MIT License
 *
 * Copyright (c) 2026 the ijepa authors
 *
 * Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
 * associated documentation files (the "Software"), to deal in the Software without restriction,
 * including without limitation the rights to use, copy, modify, merge, publish, distribute,
 * sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
 * furnished to do so, subject to the following conditions:
 *
 * The above copyright notice and this permission notice shall be included in all copies or
 * substantial portions of the Software.
 *
 * THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
 * NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
 * NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM,
 * DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
 * OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE. */
#endif
