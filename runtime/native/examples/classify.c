/* Classifies a picture of one cell on black, from a binary PPM file (P6), which every tool can write:
 *     classify BUNDLE CELL.ppm
 * Prints the label and the deciding voter's probability, or why there is no label. */
#include <stdio.h>
#include <stdlib.h>

#include <blastscope.h>

static unsigned char *read_ppm(const char *path, int *width, int *height) {
    FILE *file = fopen(path, "rb");
    unsigned char *pixels = NULL;
    int most = 0;
    if (file == NULL) return NULL;
    if (fscanf(file, "P6 %d %d %d", width, height, &most) == 3 && most == 255 && fgetc(file) != EOF && *width > 0 && *height > 0 &&
        *width <= 8192 && *height <= 8192) {
        const size_t size = (size_t)*width * (size_t)*height * 3;
        pixels = malloc(size);
        if (pixels != NULL && fread(pixels, 1, size, file) != size) {
            free(pixels);
            pixels = NULL;
        }
    }
    fclose(file);
    return pixels;
}

int main(int count, char **arguments) {
    if (count != 3) {
        fprintf(stderr, "usage: %s BUNDLE CELL.ppm\n", arguments[0]);
        return 2;
    }
    int width, height;
    unsigned char *pixels = read_ppm(arguments[2], &width, &height);
    if (pixels == NULL) {
        fprintf(stderr, "'%s' is no binary PPM file of 8 bits\n", arguments[2]);
        return 2;
    }
    blastscope_handle handle;
    blastscope_status status = blastscope_open(arguments[1], NULL, &handle);
    if (status == BLASTSCOPE_OK) {
        const blastscope_image image = {pixels, width, height, 0, 0, BLASTSCOPE_RGB, 0};
        blastscope_prediction prediction;
        status = blastscope_classify(handle, &image, &prediction);
        if (status == BLASTSCOPE_OK && prediction.label >= 0)
            printf("%s %.4f\n", prediction.label == 1 ? "all" : "hem", (double)prediction.probability);
        else if (status == BLASTSCOPE_OK)
            printf("refused as %s: %s\n", blastscope_refusal_name(prediction.refusal), prediction.detail);
    }
    if (status != BLASTSCOPE_OK) fprintf(stderr, "%s: %s\n", blastscope_status_name(status), blastscope_last_error());
    blastscope_close(handle);
    free(pixels);
    return status == BLASTSCOPE_OK ? 0 : status / 10;
}
