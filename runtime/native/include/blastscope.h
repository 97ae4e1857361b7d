/* blastscope.h: calls on single blood cells from C, and from every language that calls C.
 *
 * A bundle is opened once and then classifies images of single cells on black, from any number of threads at once. Labels,
 * probabilities, boxes and refusals are those of the Python package on the same engine.
 *
 * Memory. Images belong to the caller and are read during the call only: `blastscope_submit` takes what it needs before it
 * returns. Structures are the caller's as well. Strings that are returned are never freed by the caller.
 *
 * Handles are numbers, 0 is none. A number is never used twice, so a call with a handle that was closed, or never existed, is safe:
 * it returns BLASTSCOPE_CLOSED.
 *
 * Errors. A function returns a `blastscope_status`; `blastscope_last_error` gives the calling thread's latest message. An
 * unfit image is a refusal, not an error: BLASTSCOPE_OK with `label` -1 and a code in `refusal`.
 *
 * Threads. Every function may be called from any thread at any time. The library starts threads of its own for work that is
 * submitted or spread, and a bundle's threads have ended when `blastscope_close` returns. It installs no signal handler, and no
 * C++ exception leaves it. After a fork the child opens the bundle anew: a handle of the parent returns BLASTSCOPE_USAGE there.
 *
 * ABI. `blastscope_options` holds its size and may grow at its end; the other structures and all numbers stay as they are. An
 * option that a newer program sets and the library doesn't know returns BLASTSCOPE_USAGE; it is never ignored.
 */
#ifndef BLASTSCOPE_H
#define BLASTSCOPE_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#  if defined(BLASTSCOPE_BUILDING)
#    define BLASTSCOPE_API __declspec(dllexport)
#  else
#    define BLASTSCOPE_API __declspec(dllimport)
#  endif
#elif defined(__GNUC__)
#  define BLASTSCOPE_API __attribute__((visibility("default")))
#else
#  define BLASTSCOPE_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define BLASTSCOPE_VERSION "0.1.0"

/* The result of a call. The codes are those of Python's exceptions (runtime/errors.py); from 20 to 49 the first digit is the
 * command line's exit code. */
typedef enum blastscope_status {
    BLASTSCOPE_OK = 0,
    BLASTSCOPE_PENDING = 1,            /* `blastscope_wait` alone: not answered yet */
    BLASTSCOPE_ERROR = 10,             /* none of those below */
    BLASTSCOPE_OUT_OF_MEMORY = 11,
    BLASTSCOPE_CLOSED = 12,            /* the handle was closed, or never existed */
    BLASTSCOPE_USAGE = 20,             /* an argument is wrong */
    BLASTSCOPE_IMAGE = 21,             /* not an image at all: no pixels, or impossible strides */
    BLASTSCOPE_DATA = 22,              /* a file of the caller's, such as a key, can't be used */
    BLASTSCOPE_BUNDLE = 30,            /* the bundle can't be used: get a good copy */
    BLASTSCOPE_DIGEST_MISMATCH = 31,   /* a file of it differs from what the manifest says */
    BLASTSCOPE_FORMAT_TOO_NEW = 32,    /* written for a later version: upgrade */
    BLASTSCOPE_GOLDEN_MISMATCH = 33,   /* this engine's results differ from those of the trained networks */
    BLASTSCOPE_UNGATED = 34,           /* a benchmark bundle, whose calls mean nothing */
    BLASTSCOPE_SIGNATURE = 35,         /* it isn't signed by a key that was required: ask its maker */
    BLASTSCOPE_UNAVAILABLE = 40,       /* this machine lacks something */
    BLASTSCOPE_MISSING_LIBRARY = 41,
    BLASTSCOPE_DEVICE = 42,            /* no such device, or one that doesn't compute in what was asked for */
    BLASTSCOPE_ENGINE = 43             /* the inference library failed */
} blastscope_status;

/* Why an image got no label; `blastscope_refusal_name` gives the names that Python uses. */
typedef enum blastscope_refusal {
    BLASTSCOPE_NOT_REFUSED = 0,
    BLASTSCOPE_UNDECODABLE = 1,        /* 'undecodable'; 1, 2, 9, 10, 11, 13 and 14 come from Python alone */
    BLASTSCOPE_BOMB = 2,               /* 'bomb' */
    BLASTSCOPE_NOT_8_BIT_RGB = 3,      /* 'not-8-bit-rgb': in `blastscope_classify_many`, what is BLASTSCOPE_IMAGE elsewhere */
    BLASTSCOPE_EMPTY = 4,              /* 'empty': nothing is brighter than background */
    BLASTSCOPE_NOT_ON_BLACK = 5,       /* 'not-on-black' */
    BLASTSCOPE_TOUCHES_BORDER = 6,     /* 'touches-border': the image's edge cuts the cell */
    BLASTSCOPE_TOO_SMALL = 7,          /* 'too-small' */
    BLASTSCOPE_TOO_LARGE = 8,          /* 'too-large' */
    BLASTSCOPE_CLUMPED = 9,            /* 'clumped' */
    BLASTSCOPE_OUT_OF_FOCUS = 10,      /* 'out-of-focus' */
    BLASTSCOPE_NOT_LYMPHOID = 11,      /* 'not-lymphoid' */
    BLASTSCOPE_UNLIKE_TRAINING = 12,   /* 'unlike-training': farther from the training's cells than the bundle's limit */
    BLASTSCOPE_FAILED = 13,            /* 'failed' */
    BLASTSCOPE_UNSEGMENTED = 14        /* 'unsegmented' */
} blastscope_refusal;

typedef enum blastscope_format {       /* order of the bytes of a pixel */
    BLASTSCOPE_RGB = 0,
    BLASTSCOPE_BGR = 1,
    BLASTSCOPE_RGBA = 2,               /* the fourth byte is ignored */
    BLASTSCOPE_BGRA = 3
} blastscope_format;

typedef enum blastscope_text {         /* of an open bundle, for `blastscope_describe` */
    BLASTSCOPE_AUDIT_BUNDLE = 0,       /* sha256 of the manifest, in hex, and through it of all the bundle's files */
    BLASTSCOPE_AUDIT_ENGINE = 1,       /* sha256 of what can change the engine: graph, library, device, execution, threads */
    BLASTSCOPE_AUDIT_BACKEND = 2,      /* the inference library: "openvino" */
    BLASTSCOPE_AUDIT_DEVICE = 3,       /* such as "CPU" */
    BLASTSCOPE_AUDIT_PRECISION = 4,    /* of the graph's file: "fp32", "fp16" or "int8" */
    BLASTSCOPE_AUDIT_EXECUTION = 5,    /* what the engine computes in: "f32", "bf16", "f16" or "int8" */
    BLASTSCOPE_AUDIT_LAYOUT = 6,       /* on a CPU's cores: "fused", "side-by-side", "paired" or "staged" */
    BLASTSCOPE_BUNDLE_NAME = 7,
    BLASTSCOPE_NOTES = 8               /* what opening chose and rejected, and why: one sentence per line */
} blastscope_text;

typedef struct blastscope_image {
    const uint8_t *pixels;             /* the first byte of the first pixel of the first row */
    int32_t width, height;             /* pixels */
    int64_t row_stride;                /* bytes from a row to the next, negative where rows lie bottom up; 0: rows are packed */
    int64_t pixel_stride;              /* bytes from a pixel to the next; 0: 3, or 4 with a fourth byte */
    int32_t format;                    /* a blastscope_format */
    int32_t reserved;                  /* 0 */
} blastscope_image;

typedef struct blastscope_prediction { /* the call on one image, or the reason why there is none */
    int32_t label;                     /* 0 hem: a normal cell, 1 all: a malignant lymphoblast; -1: refused */
    int32_t voter;                     /* the one that decided: 0 a, 1 b, 2 combined; -1: refused */
    int32_t refusal;                   /* a blastscope_refusal */
    int32_t status;                    /* BLASTSCOPE_OK; in classify_many otherwise the error of this image */
    float probability;                 /* the deciding voter's of `label`, 0 to 1; NaN: refused */
    float score;                       /* the deciding voter's of ALL, 0 to 1: for thresholds; NaN: refused */
    float probabilities[3][2];         /* of a, b, combined and hem, all; NaN: refused, or a voter that was not run */
    float novelty;                     /* distance from the training's cells, about 1 for one of them; NaN: not measured */
    int32_t set;                       /* classes that can't be excluded: 1 hem, 2 all, added up; -1: the bundle has no levels */
    int32_t decided_early;             /* 1: a cascade's first voter decided alone */
    int32_t has_box;                   /* 1: `box` is valid */
    int32_t box[4];                    /* the cell, x0, y0, x1, y1 in pixels of the image, half-open */
    char detail[256];                  /* of a refusal: a sentence for people, UTF-8, ends in a 0 */
    int32_t reserved[12];              /* 0; 384 bytes in all */
} blastscope_prediction;

typedef struct blastscope_options {    /* filled by `blastscope_options_init`; a string that is NULL is "auto" */
    uint32_t struct_size;
    int32_t threads;                   /* cores to use, at most 1024; 0: all that the process may */
    const char *device;                /* "auto" and "cpu": the CPU; "openvino:NAME": a device of OpenVINO */
    const char *precision;             /* "fp32", "fp16", "int8"; "auto": what is fastest here */
    const char *execution;             /* "f32", "bf16", "f16", "int8"; "auto": what is fastest here */
    const char *layout;                /* "fused", "side-by-side", "paired", "staged"; "auto": what is fastest here */
    const char *workload;              /* "latency" (as "auto"): one answer soon; "throughput": many answers */
    const char *cache_dir;             /* for compiled engines, shared with Python; NULL: the user's cache */
    int32_t queue;                     /* how many images may wait in `blastscope_submit`; 0: 64 */
    int32_t allow_ungated;             /* 1: open a bundle whose gate was waived, too. Its calls mean nothing */
    int32_t cascade;                   /* 1: the bundle's first voter may decide alone where it is sure */
    int32_t call_unlike_training;      /* 1: call cells unlike the training's; 0: refuse them */
    int32_t measure;                   /* 1 (the default): where something is "auto", measure after the first answer what is
                                          fastest here, for the next opening; 0: never */
    int32_t reserved;                  /* 0 */
    const char *require_signature;     /* paths of public keys in PEM, one a line, one of which must have signed the bundle;
                                          "trusted": those that `blastscope trust` keeps; NULL: none need have */
} blastscope_options;

typedef uint64_t blastscope_handle;    /* an open bundle */
typedef uint64_t blastscope_ticket;    /* an image that was submitted */

/* Called once for a submitted image, in a thread of the library: with BLASTSCOPE_OK and a prediction that is valid during the
 * call, or with an error and its message. It may submit where there is room; it may neither wait nor close its handle. */
typedef void (*blastscope_callback)(void *user, blastscope_ticket ticket, blastscope_status status,
                                    const blastscope_prediction *prediction, const char *message);

/* The library's version, such as "0.1.0". */
BLASTSCOPE_API const char *blastscope_version(void);

/* The calling thread's latest error as a sentence, "" where there was none; valid until its next call into this library. */
BLASTSCOPE_API const char *blastscope_last_error(void);

/* The name of a status, which is Python's exception ("DigestMismatch"), and of a refusal ("touches-border"); "" for none. */
BLASTSCOPE_API const char *blastscope_status_name(int32_t status);
BLASTSCOPE_API const char *blastscope_refusal_name(int32_t refusal);

/* Fills `options` with the defaults: all of "auto". `struct_size` is sizeof(blastscope_options) of the caller's header. */
BLASTSCOPE_API void blastscope_options_init(blastscope_options *options, uint32_t struct_size);

/* Opens the bundle at `path`, a folder or a zip (UTF-8), verifies all of its files, loads a network and validates it on the
 * bundle's golden set. `options` may be NULL. On failure `*handle` is 0. Where a signature is required it is looked for in NAME.sig,
 * beside the bundle NAME or NAME.zip.
 * USAGE, DATA, BUNDLE and the codes after it, DEVICE, ENGINE, OUT_OF_MEMORY. */
BLASTSCOPE_API blastscope_status blastscope_open(const char *path, const blastscope_options *options, blastscope_handle *handle);

/* Waits for the calls under way, answers what was submitted, ends the threads and frees the networks. Later calls with the
 * handle return CLOSED, this one too. USAGE in a callback of the same handle, which would wait for itself. */
BLASTSCOPE_API blastscope_status blastscope_close(blastscope_handle handle);

/* A text about the open bundle; valid until the calling thread asks for the same text again. NULL: see blastscope_last_error. */
BLASTSCOPE_API const char *blastscope_describe(blastscope_handle handle, blastscope_text text);

/* The square crop that the networks get of an image, `side` x `side` RGB without gaps, into `crop`, which has room for `size`
 * bytes. With `crop` NULL it only gives the side. `prediction` (may be NULL) gets the box, or the refusal; then `crop` is not
 * written. USAGE where `size` is too small. */
BLASTSCOPE_API blastscope_status blastscope_crop(blastscope_handle handle, const blastscope_image *image, uint8_t *crop, size_t size,
                                                 int32_t *side, blastscope_prediction *prediction);

/* The call on one image. IMAGE, ENGINE, CLOSED, USAGE, OUT_OF_MEMORY. */
BLASTSCOPE_API blastscope_status blastscope_classify(blastscope_handle handle, const blastscope_image *image,
                                                     blastscope_prediction *prediction);

/* The calls on `count` images, in their order, spread over the bundle's lanes. What is no image is refused as NOT_8_BIT_RGB.
 * If an engine fails the first error is returned, and each prediction's `status` says whether that one is valid. */
BLASTSCOPE_API blastscope_status blastscope_classify_many(blastscope_handle handle, const blastscope_image *images, size_t count,
                                                          blastscope_prediction *predictions);

/* Crops the image at once, so that its buffer may be used again when this returns, and queues the crop; blocks while the queue
 * is full. With a callback `ticket` may be NULL and ends once the callback returns; without one
 * `*ticket` must be given to `blastscope_wait` until it is answered, or to `blastscope_forget`.
 * IMAGE, CLOSED, OUT_OF_MEMORY; USAGE where a callback would have to wait for room. */
BLASTSCOPE_API blastscope_status blastscope_submit(blastscope_handle handle, const blastscope_image *image,
                                                   blastscope_callback callback, void *user, blastscope_ticket *ticket);

/* Takes the result of a submitted image, waiting for it at most `timeout_ms` milliseconds; 0 polls, negative waits without end.
 * PENDING: not yet. Anything else ends the ticket. A result can still be taken after its handle was closed. USAGE for a ticket
 * that is unknown or was ended, and in a callback where it would have to wait. */
BLASTSCOPE_API blastscope_status blastscope_wait(blastscope_ticket ticket, int64_t timeout_ms, blastscope_prediction *prediction);

/* Gives up a ticket whose result isn't wanted any more; what still waits is not computed. Does nothing for one that ended. */
BLASTSCOPE_API void blastscope_forget(blastscope_ticket ticket);

#ifdef __cplusplus
}
#endif

#endif
