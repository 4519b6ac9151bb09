/* fuzz.c - libFuzzer over every reader: clang -fsanitize=fuzzer,address,undefined. In the environment READER=N, N in the
 * order below, and for JSON MODEL, a model.safetensors as transformers writes it: a config.json stands beside one.
 * The bytes become a file in /dev/shm, and the reader gets its path, as in life. */
#include "../ijepa.c"
#include <sys/stat.h>

enum { SAFETENSORS, JSON, PNM, CIFAR, STL, IDX, CONFIG, READERS };
static char folder[64], path[READERS][128];
static int reader;

static void put(const char *name, const uint8_t *x, size_t n)
{
    FILE *f = fopen(name, "wb");
    if (!f || fwrite(x, 1, n, f) != n || fclose(f)) abort();
}

static void model(const char *name)
{
    ij_error why;
    ij_file f;
    ij_config c;
    ij_model m;
    size_t size;
    if (ij_file_size(&size, name, &why)) return;
    void *mem = malloc(size), *room = NULL;
    if (!ij_file_open(&f, mem, size, name, &why)) {
        for (size_t i = 0; i < f.entries; i++) {
            if (f.entry[i].count > 100000) continue;
            ij_real *x = malloc(f.entry[i].count * sizeof *x + 1);
            ij_file_read(x, &f, &f.entry[i], &why);
            free(x);
        }
        for (int training = 0; training < 2; training++)
            if (!ij_load_config(&c, &f, &why) && !ij_model_size(&size, &c, training ? IJ_TRAIN : IJ_LOADED, &why) && size < 1 << 24) {
                room = malloc(size);
                if (!ij_model_init(&m, room, size, &c, training ? IJ_TRAIN : IJ_LOADED, &why)) {
                    ij_load(&m, &f, &why);
                    if (!training) ij_load_encoder(&m, &f, "encoder", &why);
                }
                free(room);
            }
        ij_file_close(&f);
    }
    free(mem);
}

static void pictures(const char *name)
{
    ij_error why;
    ij_data d;
    size_t size;
    if (ij_data_size(&size, name, &why)) return;
    void *mem = malloc(size);
    for (int part = 0; part < 2; part++) {
        if (ij_data_open(&d, mem, size, name, part, &why)) continue;
        for (size_t i = 0; i < d.count && i < 4; i++) {
            ij_image image = { 0 };
            if (ij_data_read(&image, &d, i, &why) || image.height * image.width > 1 << 20) continue;
            image.size = image.height * image.width * 3;
            image.rgb = malloc(image.size);
            ij_data_read(&image, &d, i, &why);
            free(image.rgb);
            for (size_t t = 0; t < d.tasks; t++) ij_data_label(&d, i, t);
        }
        ij_data_close(&d);
    }
    free(mem);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static const char *const name[READERS] = { "a.safetensors", "config.json", "a.ppm", "data_batch_1.bin",
                                               "train_X.bin", "train-images-idx3-ubyte", "config.txt" };
    (void)argc;
    (void)argv;
    reader = getenv("READER") ? atoi(getenv("READER")) : 0;
    snprintf(folder, sizeof folder, "/dev/shm/ijepa-fuzz-%d-%ld", reader, (long)getpid());
    mkdir(folder, 0700);
    for (size_t i = 0; i < READERS; i++) snprintf(path[i], sizeof path[i], "%s/%s", folder, name[i]);
    if (reader == JSON && (!getenv("MODEL") || symlink(getenv("MODEL"), path[SAFETENSORS]))) abort();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *x, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *x, size_t n)
{
    static const size_t record[READERS] = { [CIFAR] = 3073, [STL] = 27648 };
    static uint8_t whole[4 * 27648];
    char labels[128];
    ij_error why;
    ij_config c = ij_config_default();
    size_t used = n;
    if (record[reader] && n && *x % 4) {                 /* mostly whole records: the bytes, then zeros */
        used = IJ_MIN(n, sizeof whole) / record[reader] * record[reader] + record[reader];
        used = IJ_MIN(used, sizeof whole / record[reader] * record[reader]);
        memset(whole, 0, sizeof whole);
        memcpy(whole, x, IJ_MIN(n, used));
        x = whole;
    }
    put(path[reader], x, used);
    if (reader == STL || reader == IDX) {                /* the last bytes as labels too */
        snprintf(labels, sizeof labels, "%s/%s", folder, reader == STL ? "train_y.bin" : "train-labels-idx1-ubyte");
        const size_t last = IJ_MIN(n, reader == STL ? used / 27648 : 12);
        if (n % 2) put(labels, x + used - last, last);
        else remove(labels);
    }
    if (reader <= JSON) model(path[SAFETENSORS]);
    else if (reader < CONFIG) {
        pictures(reader == CIFAR ? folder : path[reader]);
        pictures(path[reader]);
    } else ij_config_read(&c, path[CONFIG], &why);
    return 0;
}
