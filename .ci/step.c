/* step.c - one training step on given images, for interchange.py. Usage: step MODEL IMAGES AFTER GRADIENT
 * MODEL is a checkpoint, IMAGES a safetensors file with a tensor of that name. AFTER becomes the checkpoint after the step,
 * GRADIENT the same with the gradients in place of the first moments. Prints loss, learning rate, weight decay, EMA; then
 * the masks, a list in a line. */
#include "../ijepa.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(ij_status s, const ij_error *why)
{
    if (!s) return;
    fprintf(stderr, "%s: %s\n", ij_status_string(s), why->text);
    exit(1);
}

static ij_file open_file(const char *path)
{
    ij_error why;
    ij_file f;
    size_t size;
    must(ij_file_size(&size, path, &why), &why);
    must(ij_file_open(&f, malloc(size), size, path, &why), &why);
    return f;
}

static void keep(void *to, ij_real *gradient, size_t count)
{
    memcpy(to, gradient, count * sizeof *gradient);
}

static void print_lists(const char *name, const ij_lists *l)
{
    for (size_t i = 0; i < l->lists; i++) {
        printf("%s", name);
        for (size_t k = 0; k < l->length[i]; k++) printf(" %zu", l->index[i * l->stride + k]);
        printf("\n");
    }
}

int main(int argc, char **argv)
{
    ij_error why = { "the step" };
    ij_config c;
    ij_model m;
    ij_report r;
    size_t size;
    if (argc != 5) return 2;
    ij_file file = open_file(argv[1]), pixels = open_file(argv[2]);
    must(ij_load_config(&c, &file, &why), &why);
    must(ij_model_size(&size, &c, IJ_TRAIN, &why), &why);
    must(ij_model_init(&m, malloc(size), size, &c, IJ_TRAIN, &why), &why);
    must(ij_load(&m, &file, &why), &why);
    const ij_entry *e = ij_file_find(&pixels, "images");
    const size_t views = c.objective == IJ_JOINT ? 2 : 1;
    if (!e || e->count != views * c.batch_size * 3 * c.crop_size[0] * c.crop_size[1]) return 2;
    ij_real *images = malloc(e->count * sizeof *images);
    must(ij_file_read(images, &pixels, e, &why), &why);
    must(ij_masks_draw(&m.masks, &c, &m.mask_rng, m.micro, c.batch_size, &why), &why);
    m.reduce = keep;
    m.reduce_arg = calloc(m.size, sizeof(ij_real));
    must(ij_train_step(&m, images, &m.masks, &r, &why), &why);
    printf("%.17g %.17g %.17g %.17g\n", r.loss, r.lr, r.weight_decay, r.ema);
    print_lists("context", &m.masks.context);
    print_lists("target", &m.masks.target);
    must(ij_save(&m, argv[3], &why), &why);
    memcpy(m.adam_m, m.reduce_arg, m.size * sizeof(ij_real));
    must(ij_save(&m, argv[4], &why), &why);
    return 0;
}
