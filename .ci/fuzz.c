/* fuzz.c - libFuzzer over every reader: clang -fsanitize=fuzzer,address,undefined; READER=N in the environment, N in the order below.
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

/* A model of width 4, 2x2 patches and one block in Hugging Face's layout, all numbers zero. */
static void hugging_face(const char *name)
{
    static const struct { const char *name, *shape; int count; } row[] = { { "embeddings.position_embeddings", "1,4,4", 16 },
        { "embeddings.patch_embeddings.projection.weight", "4,3,2,2", 48 }, { "embeddings.patch_embeddings.projection.bias", "4", 4 },
        { "encoder.layer.0.layernorm_before.weight", "4", 4 }, { "encoder.layer.0.layernorm_before.bias", "4", 4 },
        { "encoder.layer.0.attention.attention.query.weight", "4,4", 16 }, { "encoder.layer.0.attention.attention.query.bias", "4", 4 },
        { "encoder.layer.0.attention.attention.key.weight", "4,4", 16 }, { "encoder.layer.0.attention.attention.key.bias", "4", 4 },
        { "encoder.layer.0.attention.attention.value.weight", "4,4", 16 }, { "encoder.layer.0.attention.attention.value.bias", "4", 4 },
        { "encoder.layer.0.attention.output.dense.weight", "4,4", 16 }, { "encoder.layer.0.attention.output.dense.bias", "4", 4 },
        { "encoder.layer.0.layernorm_after.weight", "4", 4 }, { "encoder.layer.0.layernorm_after.bias", "4", 4 },
        { "encoder.layer.0.intermediate.dense.weight", "8,4", 32 }, { "encoder.layer.0.intermediate.dense.bias", "8", 8 },
        { "encoder.layer.0.output.dense.weight", "4,8", 32 }, { "encoder.layer.0.output.dense.bias", "4", 4 },
        { "layernorm.weight", "4", 4 }, { "layernorm.bias", "4", 4 } };
    static char text[8192];
    size_t n = 8;
    int at = 0;
    for (size_t i = 0; i < sizeof row / sizeof *row; at += 2 * row[i++].count)
        n += (size_t)snprintf(text + n, sizeof text - n, "%c\"%s\":{\"dtype\":\"F16\",\"shape\":[%s],\"data_offsets\":[%d,%d]}", i ? ',' : '{', row[i].name,
                              row[i].shape, at, at + 2 * row[i].count);
    text[n++] = '}';
    for (size_t i = 0; i < 8; i++) text[i] = (char)((uint64_t)(n - 8) >> 8 * i & 255);
    memset(text + n, 0, (size_t)at);
    put(name, (const uint8_t *)text, n + (size_t)at);
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
    static const char *const name[READERS] = { "a.safetensors", "config.json", "a.ppm", "data_batch_1.bin", "train_X.bin",
                                         "train-images-idx3-ubyte", "config.txt" };
    (void)argc, (void)argv;
    reader = getenv("READER") ? atoi(getenv("READER")) : 0;
    snprintf(folder, sizeof folder, "/dev/shm/ijepa-fuzz-%d-%ld", reader, (long)getpid());
    mkdir(folder, 0700);
    for (size_t i = 0; i < READERS; i++) snprintf(path[i], sizeof path[i], "%s/%s", folder, name[i]);
    if (reader == JSON) hugging_face(path[SAFETENSORS]);         /* what the text stands beside */
    if (getenv("SEED")) hugging_face(getenv("SEED"));            /* a good file to start from */
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *x, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *x, size_t n)
{
    static const size_t record[READERS] = { 0, 0, 0, 3073, 27648, 0, 0 };
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
    else if (reader < CONFIG) pictures(reader == CIFAR ? folder : path[reader]), pictures(path[reader]);
    else ij_config_read(&c, path[CONFIG], &why);
    return 0;
}
