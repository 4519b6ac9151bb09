/* stops.c - the program, which interrupts itself (as Ctrl-C does) after STOP updates, however fast the machine is:
 *     cc -std=c99 -O2 -ffp-contract=off -I. .ci/stops.c -o stops -lm -lpthread && STOP=77 ./stops train ...
 * An update ends with its line in log.csv, so what is printed into the file of that name is counted. */
#ifdef __linux__
#define _GNU_SOURCE
#endif
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static FILE *stops_log;
static unsigned long stops_lines;

static FILE *stops_fopen(const char *path, const char *mode)
{
    static const char name[] = "log.csv";
    const size_t length = strlen(path);
    FILE *f = fopen(path, mode);
    if (*mode != 'r' && length >= sizeof name && !strcmp(path + length - (sizeof name - 1), name)) stops_log = f;
    return f;
}

static int stops_fprintf(FILE *f, const char *format, ...)
{
    const char *stop = getenv("STOP");
    va_list args;
    va_start(args, format);
    const int printed = vfprintf(f, format, args);
    va_end(args);
    if (!stops_log || f != stops_log) return printed;
    stops_lines++;
    if (stop && stops_lines == strtoul(stop, NULL, 10)) raise(SIGINT);
    return printed;
}

#define fopen stops_fopen
#define fprintf stops_fprintf
#define IJEPA_MAIN
#include "../ijepa.c"
