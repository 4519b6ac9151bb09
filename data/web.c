/* web.c - what data/web.html calls: the program's own training, in a browser. `make web` builds it
 * as WebAssembly. One run per instance: a new run is a new instance. Settings come and words go
 * through web_text(), numbers through web_number(), pictures as [h,w,3] bytes. A bad setting ends
 * the instance as it ends the program: one line, and exit. */
#include "../ijepa.c"

#ifdef __wasm__
#define WEB_EXPORT(name) __attribute__((export_name(#name)))
#else
#define WEB_EXPORT(name)
#endif
#define WEB(type, name) WEB_EXPORT(name) type name(void); type name(void)

/* images in the pictures of masks and of components, of the health, of k-NN */
enum { WEB_SHOWN = 4, WEB_PICTURES = 6, WEB_WATCHED = 128, WEB_BANK = 2000, WEB_ASKED = 1000 };

static char text[2000];
static double number[8];
static ij_run run;
static ij_images asked;         /* the test part */
static ij_model first;          /* the same encoder before training */
static size_t *order;
static uint64_t ordered;
static uint8_t *picture;

WEB(char *, web_text) { return text; }
WEB(double *, web_number) { return number; }
WEB(uint8_t *, web_picture) { return picture; }
WEB(real *, web_weights) { return run.m.weight; }
WEB(size_t, web_weights_count) { return run.m.size; }

/* text: "key=value key=value", over the preset of `make run`. Draws the scenes and the first
 * weights. */
WEB(void, web_start)
{
    ij_error why;
    ij_config c = ij_config_default();
    ij_use_preset(&c, "scenes");
    ij_use_settings(&c, text);
    ij_must(ij_config_check(&c, &why), &why);
    const size_t views = c.batch_size * ij_views(&c);
    run.s = ij_images_open("scenes:4000", IJ_TRAIN_PART, &c, views, &run.team);
    asked = ij_images_open("scenes:4000", IJ_TEST_PART, &c, c.batch_size, &run.team);
    c.ipe = run.s.count / (c.batch_size * c.accumulate);
    run.m = ij_model_for(&c, IJ_TRAIN);
    first = ij_model_for(&c, IJ_INFER);
    order = ij_alloc(run.s.count * sizeof *order);
    ordered = UINT64_MAX;
    picture = ij_alloc(3 * WEB_SHOWN * 3 * c.crop_size[0] * c.crop_size[1]);
    const double n[5] = { (double)ij_steps(&c), (double)c.batch_size, (double)c.patch_size,
                          (double)c.crop_size[0], (double)run.m.size };
    memcpy(number, n, sizeof n);
}

/* Settings that may change while it trains: nothing in memory is laid out by them. */
WEB(void, web_turn) { ij_use_settings(&run.m.config, text); }

WEB(void, web_step)
{
    ij_report r;
    do r = ij_train_pass(&run, order, &ordered);
    while (!r.updated);
    const double n[7] = { (double)run.m.step, r.loss, r.lr, r.ema, r.context_tokens,
                          r.target_tokens, r.grad_norm };
    memcpy(number, n, sizeof n);
}

/* As in the program's health.csv, on fewer images. text: the verdict. */
WEB(void, web_watch)
{
    const ij_health h = ij_train_health(&run, WEB_WATCHED);
    const double n[5] = { (double)run.m.step, h.loss, h.skill, h.rank, h.cosine };
    snprintf(text, sizeof text, "%s", ij_train_verdict(&run.m, &h));
    memcpy(number, n, sizeof n);
}

/* The last batch, before web_watch draws another: images, contexts, targets (joint: the other
 * view), [3,WEB_SHOWN,h,w,3] */
WEB(void, web_batch)
{
    const ij_config *c = &run.m.config;
    const size_t w = c->crop_size[1], hw = c->crop_size[0] * w, p = c->patch_size;
    const ij_show s = { .images = c->batch_size, .masks = run.m.masks };
    for (size_t i = 0; i < 3 * WEB_SHOWN * hw; i++) {
        const size_t k = i / hw / WEB_SHOWN, at = i % hw;
        const size_t image = i / hw % WEB_SHOWN % c->batch_size;
        const size_t other = k == 2 && c->objective == IJ_JOINT;
        const ij_point point = { image, at / w / p * (w / p) + at % w / p, 0 };
        for (size_t j = 0; j < 3; j++) {
            const size_t plane = (image + other * c->batch_size) * 3 + j;
            const double x = (double)run.s.images[plane * hw + at] * c->std[j] + c->mean[j];
            picture[i * 3 + j] = (uint8_t)(255 * IJ_MAX(0, IJ_MIN(x, 1)) + 0.5);
        }
        if (k == 1) ij_panel_context(picture + i * 3, &s, &point);
        if (k == 2 && !other) ij_panel_targets(picture + i * 3, &s, &point);
    }
}

/* Six images of the test part [6,h,w,3], and behind them the main components of their target
 * features [6,gh,gw,3]. */
WEB(void, web_components)
{
    ij_error why;
    const ij_config *c = &run.m.config;
    const size_t hw = c->crop_size[0] * c->crop_size[1], n = ij_rows(&run.m.encoder_pos);
    const ij_encoder *e = &run.m.target_encoder;
    const ij_pictures in = { asked.images, 1, c->crop_size[0], c->crop_size[1] };
    const ij_memory work = ij_encode_memory(e, &in);
    real *token = ij_alloc(WEB_PICTURES * n * c->embed_dim * sizeof *token);
    for (size_t k = 0; k < WEB_PICTURES; k++) {
        ij_images_read(&asked, 0, k);
        ij_centre_task(&asked, 0);
        memcpy(picture + k * hw * 3, asked.slot->small, hw * 3);
        ij_must(ij_encode(token + k * n * c->embed_dim, NULL, e, &in, work, &run.team, &why), &why);
    }
    ij_pca_colours(picture + WEB_PICTURES * hw * 3, token, WEB_PICTURES * n, c->embed_dim);
    free(work.base);
    free(token);
}

/* k-NN as `probe` scores it, in percent: number[0..3) of the features, [3..6) of raw pixels, if
 * asked for. */
static void web_score(const ij_model *m, int pixels)
{
    const ij_model *const model[2] = { m, NULL };
    const ij_features a = ij_features_from(&run.s, model, pixels, WEB_BANK, 0, &run.team);
    const ij_features b = ij_features_from(&asked, model, pixels, WEB_ASKED, 0, &run.team);
    for (int k = 0; k <= pixels; k++) {
        const int i = k ? IJ_PIXELS : IJ_TRAINED;
        const ij_scored s = { a.n, b.n, a.width[i], a.x[i], b.x[i],
                              a.tasks, a.label, b.label, a.classes };
        ij_standardise(s.train, s.n, s.test, s.m, s.d);
        ij_score(number + 3 * k, &s, 20, &run.team);
    }
    for (size_t k = 0; k < 3; k++) {
        free((void *)a.label[k]);
        free((void *)b.label[k]);
        free(a.x[k]);
        free(b.x[k]);
    }
}
WEB(void, web_trained) { web_score(&run.m, 0); }
WEB(void, web_baselines) { web_score(&first, 1); }
