/* The start of a process with libblastscope: opens a bundle, classifies one cell, and prints when it had the first label.
 *     native_start BUNDLE CELL WIDTH HEIGHT PRECISION EXECUTION LAYOUT [CACHE]       CELL: a file of RGB bytes without a header */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <blastscope.h>

static double peak_mib(void) {
    char line[256];
    long kib = 0;
    FILE *status = fopen("/proc/self/status", "r");
    if (status == NULL) return 0;
    while (fgets(line, sizeof line, status) != NULL) sscanf(line, "VmHWM: %ld", &kib);
    fclose(status);
    return (double)kib / 1024;
}

int main(int count, char **arguments) {
    if (count < 8) return 2;
    const int width = atoi(arguments[3]), height = atoi(arguments[4]);
    const size_t size = (size_t)width * (size_t)height * 3;
    unsigned char *pixels = malloc(size);
    FILE *file = fopen(arguments[2], "rb");
    if (pixels == NULL || file == NULL || fread(pixels, 1, size, file) != size) return 2;
    fclose(file);
    blastscope_options options;
    blastscope_options_init(&options, sizeof options);
    options.device = "cpu";
    options.precision = arguments[5];
    options.execution = arguments[6];
    options.layout = arguments[7];
    options.cache_dir = count > 8 ? arguments[8] : NULL;
    options.allow_ungated = options.call_unlike_training = 1;
    blastscope_handle handle;
    const blastscope_image image = {pixels, width, height, 0, 0, BLASTSCOPE_RGB, 0};
    blastscope_prediction prediction;
    if (blastscope_open(arguments[1], &options, &handle) != BLASTSCOPE_OK ||
        blastscope_classify(handle, &image, &prediction) != BLASTSCOPE_OK) {
        fprintf(stderr, "%s\n", blastscope_last_error());
        return 1;
    }
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    const char *const labels[] = {"null", "\"hem\"", "\"all\""};
    printf("{\"time_s\": %.6f, \"label\": %s, \"peak_mib\": %.3f}\n", (double)now.tv_sec + (double)now.tv_nsec * 1e-9,
           labels[prediction.label + 1], peak_mib());
    free(pixels);
    return blastscope_close(handle) != BLASTSCOPE_OK;
}
