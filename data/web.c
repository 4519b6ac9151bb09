/* web.c - what data/web.html calls: the program itself, in a browser. `make web` builds it as
 * WebAssembly.
 *
 * An instance has one model, for good: web_start() trains one from first weights, web_open() looks
 * at that of a file. Words go in and out through web_text(), numbers out through web_number(),
 * pictures out through web_picture(): bytes [h,w,3], or [N,3], a colour for each patch. What would
 * end the program ends the instance: one line, and exit. */
#include "../ijepa.c"
#pragma GCC visibility push(default)    /* for WebAssembly, what follows is exported */

enum {
    WEB_PICTURES = 6,                           /* that are looked at, of the test part */
    WEB_NEAR = 6,                               /* neighbours of each of them */
    WEB_MASKED = 4,                             /* pictures under masks */
    WEB_WATCHED = 128,                          /* pictures of the health while it trains */
    WEB_BANK = 2000, WEB_ASKED = 1000,          /* pictures of k-NN while it trains, */
    WEB_FEW = 300,                              /* and of what is looked at, to save time */
    WEB_PATCHES = 16000,                        /* of what is looked at, when nothing trains */
    WEB_NUMBERS = 16
};

static char text[4000];
static double *number;
static uint8_t *picture;
static size_t bytes, patches, dim;      /* of a picture; the encoder's width */
static ij_run run;              /* the model, and the training part of the pictures */
static ij_config settings;      /* the run's; a model that is only looked at has a smaller batch */
static ij_model other;          /* its encoder at another time */
static ij_images asked;         /* the test part */
static size_t *order;           /* NULL: nothing trains */
static uint64_t ordered;
static ij_config masked;        /* settings of what is shown under masks */
static ij_masks masks;
static ij_rng mask_rng;
static uint8_t *seen;           /* [6,h,w,3] the pictures that are looked at, */
static real *planes;            /* [6,3,h,w] as the encoder takes them, */
static real *token;             /* [6,N,D] their tokens, */
static real *scores;            /* [6,N,3] and the main components of these */
static ij_reference reference;  /* for predictions, after so many updates: */
static uint64_t reference_step;
static ij_show hole;

char *web_text(void) { return text; }
double *web_number(void) { return number; }
uint8_t *web_picture(void) { return picture; }
real *web_weights(void) { return run.m.weight; }
size_t web_weights_count(void) { return run.m.size; }
double web_interval(double percent, size_t n) { return ij_interval(percent, n); }

/* ---- a model ---- */

/* What the page wants to know of the model, beside its settings. known: whether these are. */
static void web_describe(int predicts, int known)
{
    const double n[] = { (double)ij_steps(&settings), (double)run.m.encoder_size, predicts, known };
    memcpy(number, n, sizeof n);
}

/* text: "name value" lines: the settings of the run, or of a preset and before them its name. */
void web_settings(int preset)
{
    char value[IJ_TEXT];
    ij_config c = ij_config_default();
    const char *name = preset < 0 ? "run" : ij_preset[preset].name;
    if (preset >= 0) ij_use_preset(&c, name);
    else c = settings;
    int n = snprintf(text, sizeof text, "preset %s\n", name);
    for (size_t i = 0; i < IJ_SETTINGS; i++) {
        ij_config_text(value, &c, i);
        n += snprintf(text + n, sizeof text - (size_t)n, "%s %s\n", ij_config_name(i), value);
    }
}
size_t web_presets(void) { return IJ_PRESETS; }

/* Pictures to train on and to look at, so many at a time, and room for what is shown of them. */
static void web_data(const char *path, size_t slots)
{
    const ij_config *c = &settings;
    masked = *c;
    masked.batch_size = WEB_MASKED;
    bytes = 3 * c->crop_size[0] * c->crop_size[1];
    patches = ij_patches(c);
    dim = c->embed_dim;
    run.s = ij_images_open(path, IJ_TRAIN_PART, c, slots, &run.team);
    asked = ij_images_open(path, IJ_TEST_PART, c, slots, &run.team);
    masks = ij_masks_for(&masked);
    ij_rng_seed(&mask_rng, c->seed);
    number = ij_alloc((WEB_NUMBERS + WEB_PICTURES * WEB_NEAR + patches) * sizeof *number);
    picture = ij_alloc(WEB_PICTURES * WEB_NEAR * bytes + c->num_heads * patches * 3);
    seen = ij_alloc(WEB_PICTURES * bytes);
    planes = ij_alloc(WEB_PICTURES * bytes * sizeof *planes);
    token = ij_alloc(WEB_PICTURES * patches * dim * sizeof *token);
    hole.images = 1;
    hole.n = patches;
    hole.masks.context = ij_lists_for(1, patches);
    hole.masks.target = ij_lists_for(1, patches);
    reference_step = UINT64_MAX;
}

/* text: "key=value key=value", over the preset of `make run`. Draws the scenes and the first
 * weights. */
void web_start(void)
{
    ij_error why;
    ij_config *c = &settings;
    *c = ij_config_default();
    ij_use_preset(c, "scenes");
    ij_use_settings(c, text);
    ij_must(ij_config_check(c, &why), &why);
    web_data("scenes:4000", c->batch_size * ij_views(c));
    c->ipe = run.s.count / (c->batch_size * c->accumulate);
    run.m = ij_model_for(c, IJ_TRAIN);
    other = ij_model_for(c, IJ_INFER);
    order = ij_alloc(run.s.count * sizeof *order);
    ordered = UINT64_MAX;
    web_describe(c->objective != IJ_JOINT, 1);
}

/* The weights of a file, without what only training needs. */
static void web_read(ij_model *m, const ij_file *f)
{
    ij_error why;
    const int both = ij_file_find(f, "target_encoder.norm.weight") != NULL;
    const char *target = both || f->kind == IJ_KIND_HUGGING_FACE ? "target_encoder" : "encoder";
    if (!m->training) {
        ij_must(ij_load_encoder(m, f, target, &why), &why);
        return;
    }
    for (size_t i = 0; i < m->params; i++) {
        const ij_param *p = &m->param[i];
        const char *part = p->predictor ? "predictor" : "encoder";
        ij_tensor t = p->shape;
        t.x = m->weight + p->offset;
        ij_must(ij_load_tensor(&t, f, part, p->name, 1, &why), &why);
        t.x = m->target + p->offset;
        if (!p->predictor) ij_must(ij_load_tensor(&t, f, target, p->name, 1, &why), &why);
    }
}

/* text: the name of a file and, on a line of its own, of the data to look at. */
void web_open(void)
{
    char *data = text + strcspn(text, "\n");
    *data++ = 0;
    ij_file f = ij_open_model(text, &settings);
    const int known = f.kind != IJ_KIND_HUGGING_FACE;
    const int predicts = known && settings.objective != IJ_JOINT;
    ij_config c = settings;
    ij_reference_config(&c);
    web_data(data, 1);
    run.m = ij_model_for(&c, predicts ? IJ_TRAIN : IJ_LOADED);
    web_read(&run.m, &f);
    web_describe(predicts, known);
    ij_file_close(&f);
}

/* text: the name of another file of the run, whose encoder becomes the other one; or nothing, for
 * the first weights. */
void web_load(void)
{
    if (!other.target) other = ij_model_for(&settings, IJ_LOADED);
    if (!*text) {
        ij_model_draw(&other);
        return;
    }
    ij_file f = ij_open_model(text, NULL);
    web_read(&other, &f);
    ij_file_close(&f);
}

/* ---- training ---- */

/* Settings that may change while it trains: nothing in memory is laid out by them. */
void web_turn(void) { ij_use_settings(&run.m.config, text); }

void web_step(void)
{
    ij_report r;
    do r = ij_train_pass(&run, order, &ordered);
    while (!r.updated);
    const double n[] = { (double)run.m.step, r.loss, r.lr, r.ema, r.context_tokens,
                         r.target_tokens };
    memcpy(number, n, sizeof n);
}

/* As in the program's health.csv, on fewer pictures. text: the verdict. */
void web_watch(void)
{
    const ij_health h = ij_train_health(&run, WEB_WATCHED);
    const double n[] = { (double)run.m.step, h.loss, h.skill, h.position, h.rank, h.cosine };
    snprintf(text, sizeof text, "%s", ij_train_verdict(&run.m, &h));
    memcpy(number, n, sizeof n);
}

static void web_free(const ij_features *f)
{
    for (size_t k = 0; k < 3; k++) {
        free((void *)f->label[k]);
        free(f->x[k]);
    }
}

/* k-NN as `probe` scores it, in percent: numbers[0..3) of the model's features, or if it is asked
 * for the baselines, of those before training, and [3..6) of raw pixels. */
void web_score(int baselines)
{
    const ij_model *const model[2] = { baselines ? &other : &run.m, NULL };
    ij_features a = ij_features_from(&run.s, model, baselines, WEB_BANK, 0, &run.team);
    ij_features b = ij_features_from(&asked, model, baselines, WEB_ASKED, 0, &run.team);
    for (int k = 0; k <= baselines; k++) {
        const int i = k ? IJ_PIXELS : IJ_TRAINED;
        const ij_scored s = { a.n, b.n, a.width[i], a.x[i], b.x[i],
                              a.tasks, a.label, b.label, a.classes };
        ij_standardise(s.train, s.n, s.test, s.m, s.d);
        ij_score(number + 3 * k, &s, 20, &run.team);
    }
    web_free(&a);
    web_free(&b);
}

/* ---- looking ---- */

/* Adds a line to the text: what picture i of the scenes shows. */
static void web_label(const ij_images *s, size_t i)
{
    static const char *const kind[] = { "sphere", "cube", "cylinder" };
    const size_t used = strlen(text);
    const int count = ij_data_label(s->d, i, IJ_SCENE_COUNT) + 1;
    snprintf(text + used, sizeof text - used, "%d object%s, distance %d, nearest a %s\n", count,
             count > 1 ? "s" : "", ij_data_label(s->d, i, IJ_SCENE_DIST) + 1,
             kind[ij_data_label(s->d, i, IJ_SCENE_KIND)]);
}

/* Pictures to look at, spread over the test part [6,h,w,3]; the next ones for another `first`.
 * text: a line for each. */
void web_pictures(size_t first)
{
    *text = 0;
    free(scores);
    scores = NULL;
    for (size_t k = 0; k < WEB_PICTURES; k++) {
        const size_t i = (first + k * asked.count / WEB_PICTURES) % asked.count;
        ij_images_read(&asked, 0, i);
        ij_centre_task(&asked, 0);
        memcpy(seen + k * bytes, asked.slot->small, bytes);
        memcpy(planes + k * bytes, asked.images, bytes * sizeof *planes);
        web_label(&asked, i);
    }
    memcpy(picture, seen, WEB_PICTURES * bytes);
}

/* Pictures as training sees them: [2,4,h,w,3], for a joint embedding both views, and for each patch
 * [4,N] a sum of 1: context, and 2, 4, 8 ...: target block 0, 1, 2 ... Each call draws anew. */
void web_masks(void)
{
    ij_error why;
    const ij_config *c = &masked;
    uint8_t *to = picture, *patch = picture + 2 * WEB_MASKED * bytes;
    ij_rng view = mask_rng;
    for (size_t k = 0; k < 2 * WEB_MASKED; k++) {
        ij_images_spread(&asked, 0, k % WEB_MASKED, WEB_MASKED);
        ij_images_view(&asked, 0, &view);
        for (size_t i = 0; i < bytes; i++, to++) {
            const double x = (double)asked.images[i % 3 * (bytes / 3) + i / 3];
            const double byte = 255 * (x * c->std[i % 3] + c->mean[i % 3]);
            *to = (uint8_t)(IJ_MAX(0, IJ_MIN(byte, 255)) + 0.5);
        }
    }
    ij_must(ij_masks_draw(&masks, c, &mask_rng, 0, WEB_MASKED, &why), &why);
    for (size_t i = 0; i < WEB_MASKED * patches; i++) {
        const size_t k = i / patches, at = i % patches;
        patch[i] = (uint8_t)(ij_block_with(&masks.context, WEB_MASKED, k, at) > 0);
        for (size_t t = 0; t < c->num_pred_masks; t++)
            if (ij_listed(&masks.target, t * WEB_MASKED + k, at)) patch[i] |= (uint8_t)(2 << t % 7);
    }
}

/* Turns (and mirrors) points x [n,3] to lie as near as they can to y: the map is the orthogonal
 * factor of x'y (Procrustes), to which Newton and Schulz's iteration leads. */
static void web_turn_to(real *x, const real *y, size_t n)
{
    double m[9] = { 0 }, square[9], sum = 0;
    for (size_t r = 0; r < n; r++)
        for (size_t i = 0; i < 9; i++)
            m[i] += (double)x[3 * r + i / 3] * (double)y[3 * r + i % 3];
    for (size_t i = 0; i < 9; i++) sum += m[i] * m[i];
    for (size_t i = 0; i < 9; i++) m[i] /= sqrt(IJ_MAX(sum, 1e-300));
    for (int round = 0; round < 60; round++) {          /* m = (3 m - m m' m) / 2 */
        for (size_t i = 0; i < 9; i++)
            square[i] = ij_dot3(m + i / 3 * 3, m + i % 3 * 3);
        double next[9] = { 0 };
        for (size_t i = 0; i < 27; i++)
            next[i / 3] -= square[i / 9 * 3 + i % 3] * m[i % 3 * 3 + i / 3 % 3] / 2;
        for (size_t i = 0; i < 9; i++) m[i] = 1.5 * m[i] + next[i];
    }
    for (size_t r = 0; r < n; r++, x += 3) {
        real turned[3] = { 0 };
        for (size_t i = 0; i < 9; i++) turned[i % 3] += x[i / 3] * (real)m[i];
        memcpy(x, turned, sizeof turned);
    }
}

/* Tokens of pictures; their memory is returned, and in it, if pass is not NULL, what the last block
 * did. */
static ij_memory web_encode(real *to, const ij_encoder *e, size_t first, size_t count,
                            ij_encoder_pass *pass)
{
    ij_error why;
    ij_tensor pos;
    const ij_pictures in = { planes + first * bytes, count, settings.crop_size[0],
                             settings.crop_size[1] };
    const ij_memory work = ij_encode_memory(e, &in);
    ij_arena a = { work.base, work.size, 0 };
    ij_must(ij_encode(to, NULL, e, &in, work, &run.team, &why), &why);
    if (pass) ij_encode_place(pass, &pos, &a, e, &in);
    return work;
}

/* The main components of the tokens of the pictures, as colours [6,N,3], turned to those of the
 * last call that kept them. */
void web_components(int of_other, int keep)
{
    const size_t rows = WEB_PICTURES * patches;
    const ij_encoder *e = of_other ? &other.target_encoder : &run.m.target_encoder;
    real *z = of_other ? ij_alloc(rows * dim * sizeof *z) : token;
    free(web_encode(z, e, 0, WEB_PICTURES, NULL).base);
    real *x = ij_pca_scores(z, rows, dim);
    if (scores) web_turn_to(x, scores, rows);
    ij_colours_of(picture, x, rows);
    if (of_other) free(z);
    free(keep ? scores : x);
    if (keep) scores = x;
}

/* From a patch of picture k: how alike all patches are to it [6,N,3], brightest at a cosine of 1,
 * black from 0 down; and where each head of the last block looks from it [heads,N,3], brightest
 * where most. */
void web_patch(size_t k, size_t patch)
{
    const ij_encoder *e = &run.m.target_encoder;
    const real *from = token + (k * patches + patch) * dim;
    uint8_t *to = picture;
    ij_encoder_pass pass;
    if (order) free(web_encode(token, e, 0, WEB_PICTURES, NULL).base);  /* it has trained since */
    for (size_t i = 0; i < WEB_PICTURES * patches; i++, to += 3)
        ij_heat(to, ij_alike(from, token + i * dim, dim));
    const ij_memory work = web_encode(NULL, e, k, 1, &pass);
    for (size_t head = 0; head < settings.num_heads; head++) {
        const real *p = pass.stack.block[0].prob + (head * patches + patch) * patches;
        real most = 0;
        for (size_t j = 0; j < patches; j++) most = IJ_MAX(most, p[j]);
        for (size_t j = 0; j < patches; j++, to += 3) ij_heat(to, (double)(p[j] / most));
    }
    free(work.base);
}

/* So many training pictures are asked for what is nearest to others. */
size_t web_most(void) { return order ? WEB_FEW : IJ_MIN(IJ_REFERENCE, WEB_PATCHES / patches + 1); }

/* What patches of training pictures are to the target encoder as it is now. */
static void web_reference(void)
{
    if (reference_step == run.m.step) return;
    ij_reference_free(&reference);
    ij_reference_read(&reference, &hole, &run.s, web_most(), &run.team);
    ij_reference_fit(&reference, &run.team);
    reference_step = run.m.step;
}

/* Picture k with a hole of columns x..x+w, rows y..y+h of patches: the montage and the sketch, each
 * from the prediction and from the true target [4,h,w,3]; how far these two are apart, as colours
 * [N,3], and in numbers: the mean, and each patch's, of the squared difference. Targets are
 * normalised: a prediction of zero has 1, one that has nothing in common with the target 2. */
void web_predict(size_t k, size_t x, size_t y, size_t w, size_t h)
{
    const size_t gw = ij_gw(&settings), d = ij_target_dim(&settings);
    ij_lists *context = &hole.masks.context, *target = &hole.masks.target;
    *context->length = *target->length = 0;
    for (size_t i = 0; i < patches; i++) {
        const size_t column = i % gw, row = i / gw;
        const int inside = column >= x && column < x + w && row >= y && row < y + h;
        ij_lists *l = inside ? target : context;
        l->index[(*l->length)++] = i;
    }
    free(reference.m.work);
    reference.m = run.m;
    ij_reference_room(&reference, &hole);
    web_reference();
    real *mean = ij_alloc(2 * patches * d * sizeof *mean), *want = mean + patches * d;
    size_t *count = ij_alloc(patches * sizeof *count);
    uint8_t *const heat = picture + 4 * bytes;
    ij_reference_predict(mean, want, count, &reference, planes + k * bytes, &hole.masks, 0);
    for (size_t i = 0; i < 4; i++) memcpy(picture + i * bytes, seen + k * bytes, bytes);
    number[0] = 0;
    for (size_t i = 0; i < patches; i++) {
        double *apart = &number[1 + i];
        *apart = 0;
        if (!count[i]) continue;
        for (size_t j = i * d; j < (i + 1) * d; j++)
            *apart += (double)((mean[j] - want[j]) * (mean[j] - want[j])) / (double)d;
        ij_heat(heat + 3 * i, *apart / 2);
        number[0] += *apart / (double)*target->length;
        ij_reference_draw(picture, picture + 2 * bytes, &reference, mean + i * d, i);
        ij_reference_draw(picture + bytes, picture + 3 * bytes, &reference, want + i * d, i);
    }
    free(mean);
    free(count);
}

/* To each picture the nearest of the training part, by cosine of the mean of their tokens:
 * [6,6,h,w,3]. text: a line for each; numbers: their cosines. */
void web_neighbours(void)
{
    const ij_model *const model[2] = { &run.m, NULL };
    const ij_features bank = ij_features_from(&run.s, model, 0, web_most(), 0, &run.team);
    uint8_t *to = picture;
    double *near = number;
    real *pooled = ij_alloc(dim * sizeof *pooled);
    double *cosine = ij_alloc(bank.n * sizeof *cosine);
    *text = 0;
    for (size_t k = 0; k < WEB_PICTURES; k++) {
        memset(pooled, 0, dim * sizeof *pooled);
        for (size_t i = 0; i < patches * dim; i++) pooled[i % dim] += token[k * patches * dim + i];
        for (size_t b = 0; b < bank.n; b++) cosine[b] = ij_alike(pooled, bank.x[0] + b * dim, dim);
        for (size_t i = 0; i < WEB_NEAR; i++, to += bytes) {
            size_t best = 0;
            for (size_t b = 1; b < bank.n; b++) best = cosine[b] > cosine[best] ? b : best;
            *near++ = cosine[best];
            cosine[best] = -2;
            web_label(&run.s, ij_images_spread(&run.s, 0, best, bank.n));
            ij_centre_task(&run.s, 0);
            memcpy(to, run.s.slot->small, bytes);
        }
    }
    web_free(&bank);
    free(pooled);
    free(cosine);
}
