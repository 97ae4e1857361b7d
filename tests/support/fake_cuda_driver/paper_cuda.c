// NVIDIA's driver on paper: a libcuda whose device memory is the host's, so that the code that calls the driver runs where
// there is none. It holds callers to the rules that a real one enforces: nothing works without a current context, addresses must be
// known, a stream under capture does nothing and can't be waited for, and after a loss every call fails with the same code.
// Work is done at once; kernels are handed to whoever registered with paper_on_kernel.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int R;
enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101, INVALID_CONTEXT = 201,
       INVALID_HANDLE = 400, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700, NOT_SUPPORTED = 801, CAPTURE_UNSUPPORTED = 900 };
enum { CAPACITY = 4096 };

// ---- what tests set

static int devices = 1, version = 13000, retained;
static R lost;
static char failing[64];
static R failure;
static size_t memory_left = (size_t)1 << 34;
static void (*on_kernel)(const char*, const unsigned*, const unsigned*, const void*, size_t);
static int calls_of_sync;

void paper_reset(int count, int driver) { devices = count; version = driver; lost = failure = OK; failing[0] = 0; }
void paper_lose(R code) { lost = code; }
void paper_fail(const char* name, R code) { snprintf(failing, sizeof failing, "%s", name); failure = code; }
void paper_memory(size_t bytes) { memory_left = bytes; }
void paper_on_kernel(void (*hook)(const char*, const unsigned*, const unsigned*, const void*, size_t)) { on_kernel = hook; }
int paper_retained(void) { return retained; }

static R injected(const char* name) { return failure && !strcmp(failing, name) ? failure : OK; }
#define BEGIN do { R early = injected(__func__); if (early) return early; } while (0)
#define INSIDE do { BEGIN; if (!depth) return INVALID_CONTEXT; if (lost) return lost; } while (0)

// ---- device and context

static _Thread_local int depth;  // contexts on this thread's stack: all of them the primary one
static char primary;
int paper_depth(void) { return depth; }

R cuInit(unsigned flags) { BEGIN; return flags ? INVALID_VALUE : devices ? OK : NO_DEVICE; }
R cuDriverGetVersion(int* out) { BEGIN; *out = version; return OK; }
R cuDeviceGetCount(int* out) { BEGIN; *out = devices; return OK; }
R cuDeviceGet(int* out, int ordinal) { BEGIN; if (ordinal >= devices) return INVALID_DEVICE; *out = ordinal; return OK; }
R cuDeviceGetName(char* out, int size, int device) { BEGIN; snprintf(out, size, "Paper GPU %d", device); return OK; }
R cuDeviceGetAttribute(int* out, int attribute, int device) {
    BEGIN; (void)device;
    *out = attribute == 75 ? 8 : attribute == 76 ? 6 : 0;
    return OK;
}
R cuDeviceComputeCapability(int* major, int* minor, int device) { BEGIN; (void)device; *major = 8; *minor = 6; return OK; }
R cuDeviceTotalMem_v2(size_t* out, int device) { BEGIN; (void)device; *out = (size_t)1 << 34; return OK; }
R cuDeviceGetPCIBusId(char* out, int size, int device) { BEGIN; snprintf(out, size, "0000:0%d:00.0", device + 1); return OK; }
R cuDevicePrimaryCtxRetain(void** out, int device) { (void)device; BEGIN; retained++; *out = &primary; return OK; }
R cuDevicePrimaryCtxRelease_v2(int device) { (void)device; if (--retained == 0) lost = OK; return OK; }
R cuCtxPushCurrent_v2(void* context) { BEGIN; if (context != &primary) return INVALID_CONTEXT; depth++; return OK; }
R cuCtxPopCurrent_v2(void** out) { if (!depth) return INVALID_CONTEXT; depth--; if (out) *out = &primary; return OK; }
R cuCtxGetCurrent(void** out) { BEGIN; *out = depth ? &primary : NULL; return OK; }
R cuCtxGetDevice(int* out) { BEGIN; *out = 0; return OK; }
R cuCtxSynchronize(void) { INSIDE; calls_of_sync++; return OK; }

// ---- memory

typedef struct { uintptr_t start; size_t size; int pinned; } Block;
static Block blocks[CAPACITY];

static Block* block_of(uintptr_t address, size_t size) {
    for (int i = 0; i < CAPACITY; i++)
        if (blocks[i].start && blocks[i].start <= address && address + size <= blocks[i].start + blocks[i].size)
            return &blocks[i];
    return NULL;
}
static R take(void** out, size_t size, int pinned) {
    if (!size) return INVALID_VALUE;
    if (!pinned && size > memory_left) return OUT_OF_MEMORY;
    for (int i = 0; i < CAPACITY; i++)
        if (!blocks[i].start) {
            *out = aligned_alloc(pinned ? 4096 : 256, (size + 4095) / 4096 * 4096);
            memset(*out, 0xC3, size);
            blocks[i] = (Block){(uintptr_t)*out, size, pinned};
            if (!pinned) memory_left -= size;
            return OK;
        }
    return OUT_OF_MEMORY;
}
static R drop(uintptr_t address) {
    Block* block = block_of(address, 1);
    if (!block || block->start != address) return INVALID_VALUE;
    if (!block->pinned) memory_left += block->size;
    free((void*)address);
    block->start = 0;
    return OK;
}
int paper_blocks(void) { int n = 0; for (int i = 0; i < CAPACITY; i++) n += blocks[i].start != 0; return n; }

R cuMemAlloc_v2(uintptr_t* out, size_t size) { INSIDE; return take((void**)out, size, 0); }
R cuMemFree_v2(uintptr_t address) { INSIDE; return drop(address); }
R cuMemHostAlloc(void** out, size_t size, unsigned flags) { INSIDE; (void)flags; return take(out, size, 1); }
R cuMemFreeHost(void* address) { INSIDE; return drop((uintptr_t)address); }
R cuMemGetInfo_v2(size_t* left, size_t* total) { INSIDE; *left = memory_left; *total = (size_t)1 << 34; return OK; }
R cuPointerGetAttribute(void* out, int attribute, uintptr_t address) {
    INSIDE;
    Block* block = block_of(address, 1);
    if (!block) return INVALID_VALUE;
    *(unsigned*)out = attribute == 2 ? (block->pinned ? 1 : 2) : 0;  // 2: the memory's type; 9: the device's ordinal
    return OK;
}

// ---- work, done at once or captured

typedef struct {
    size_t srcXInBytes, srcY, srcZ, srcLOD;
    int srcMemoryType;
    const void* srcHost;
    uintptr_t srcDevice;
    void *srcArray, *reserved0;
    size_t srcPitch, srcHeight, dstXInBytes, dstY, dstZ, dstLOD;
    int dstMemoryType;
    void* dstHost;
    uintptr_t dstDevice;
    void *dstArray, *reserved1;
    size_t dstPitch, dstHeight, WidthInBytes, Height, Depth;
} Copy3D;  // CUDA_MEMCPY3D

typedef struct { char name[64]; unsigned grid[3], block[3]; size_t size; unsigned char arguments[256]; } Kernel;
typedef struct Node { int type; Copy3D copy; Kernel kernel; } Node;  // type: 0 kernel, 1 copy
typedef struct { Node* nodes[CAPACITY]; int count; } Graph;
typedef struct { Graph* source; Node* nodes[CAPACITY]; int count; } Running;
typedef struct { Graph* capture; int open; } Stream;

static R run(const Node* node) {
    if (node->type == 0) {
        const Kernel* kernel = &node->kernel;
        if (on_kernel) on_kernel(kernel->name, kernel->grid, kernel->block, kernel->arguments, kernel->size);
        return OK;
    }
    const Copy3D* copy = &node->copy;
    uintptr_t from = copy->srcHost ? (uintptr_t)copy->srcHost : copy->srcDevice;
    uintptr_t to = copy->dstHost ? (uintptr_t)copy->dstHost : copy->dstDevice;
    Block *source = block_of(from, copy->WidthInBytes), *target = block_of(to, copy->WidthInBytes);
    if (!source || !target) return lost = ILLEGAL_ADDRESS;  // pageable memory too: a recording of it would be of no use
    memcpy((void*)to, (void*)from, copy->WidthInBytes);
    return OK;
}
static R queue(Stream* stream, Node node) {
    if (!stream || !stream->open) return INVALID_HANDLE;
    if (!stream->capture) return run(&node);
    Node* kept = malloc(sizeof *kept);
    *kept = node;
    stream->capture->nodes[stream->capture->count++] = kept;
    return OK;
}
static Node copy_node(uintptr_t to, uintptr_t from, size_t size, int up) {
    Node node = {1, {0}, {{0}, {0}, {0}, 0, {0}}};
    node.copy.srcMemoryType = up ? 1 : 2;
    node.copy.dstMemoryType = up ? 2 : 1;
    if (up) { node.copy.srcHost = (void*)from; node.copy.dstDevice = to; }
    else { node.copy.srcDevice = from; node.copy.dstHost = (void*)to; }
    node.copy.WidthInBytes = size;
    node.copy.Height = node.copy.Depth = 1;
    return node;
}

R cuMemcpyHtoDAsync_v2(uintptr_t to, const void* from, size_t size, Stream* stream) {
    INSIDE; return queue(stream, copy_node(to, (uintptr_t)from, size, 1));
}
R cuMemcpyDtoHAsync_v2(void* to, uintptr_t from, size_t size, Stream* stream) {
    INSIDE; return queue(stream, copy_node((uintptr_t)to, from, size, 0));
}
R cuMemsetD8Async(uintptr_t address, unsigned char value, size_t size, Stream* stream) {
    INSIDE;
    if (!stream || !stream->open || stream->capture) return INVALID_HANDLE;
    if (!block_of(address, size)) return lost = ILLEGAL_ADDRESS;
    memset((void*)address, value, size);
    return OK;
}
R cuStreamCreate(Stream** out, unsigned flags) {
    INSIDE;
    if (flags != 1) return INVALID_VALUE;  // every stream of ours must be a non-blocking one
    *out = calloc(1, sizeof **out);
    (*out)->open = 1;
    return OK;
}
R cuStreamDestroy_v2(Stream* stream) { INSIDE; stream->open = 0; return OK; }
R cuStreamSynchronize(Stream* stream) { INSIDE; return stream->capture ? CAPTURE_UNSUPPORTED : OK; }
R cuStreamQuery(Stream* stream) { INSIDE; return stream->capture ? CAPTURE_UNSUPPORTED : OK; }
R cuStreamWaitEvent(Stream* stream, void* event, unsigned flags) {
    INSIDE; (void)flags; return stream && event ? OK : INVALID_HANDLE;
}
R cuEventCreate(void** out, unsigned flags) { INSIDE; (void)flags; *out = malloc(1); return OK; }
R cuEventDestroy_v2(void* event) { INSIDE; free(event); return OK; }
R cuEventRecord(void* event, Stream* stream) { INSIDE; (void)stream; return event ? OK : INVALID_HANDLE; }

// ---- kernels

R cuModuleLoadDataEx(void** out, const void* image, unsigned count, void* options, void** values) {
    INSIDE; (void)count; (void)options; (void)values;
    if (*(const uint32_t*)image != 0xBA55ED50) return 200;  // a fatbin's first word
    *out = malloc(1);
    return OK;
}
R cuModuleUnload(void* module) { INSIDE; free(module); return OK; }
R cuModuleGetFunction(char** out, void* module, const char* name) {
    INSIDE;
    if (!module || strncmp(name, "crop_", 5)) return NOT_FOUND;
    *out = strdup(name);
    return OK;
}
R cuFuncSetBlockShape(void* function, int x, int y, int z) { INSIDE; return function && x && y && z ? OK : INVALID_VALUE; }
R cuLaunchKernel(const char* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                 unsigned shared, Stream* stream, void** parameters, void** extra) {
    INSIDE;
    if (parameters || !extra || shared || !gx || !gy || !gz || bx * by * bz > 1024) return INVALID_VALUE;
    Node node = {0, {0}, {{0}, {gx, gy, gz}, {bx, by, bz}, *(size_t*)extra[3], {0}}};
    snprintf(node.kernel.name, sizeof node.kernel.name, "%s", function);
    if (node.kernel.size > sizeof node.kernel.arguments) return INVALID_VALUE;
    memcpy(node.kernel.arguments, extra[1], node.kernel.size);
    return queue(stream, node);
}

// ---- graphs

R cuStreamBeginCapture_v2(Stream* stream, int mode) {
    INSIDE;
    if (mode != 2 || stream->capture) return INVALID_VALUE;  // 2: relaxed
    stream->capture = calloc(1, sizeof(Graph));
    return OK;
}
R cuStreamEndCapture(Stream* stream, Graph** out) {
    INSIDE;
    if (!stream->capture) return INVALID_VALUE;
    *out = stream->capture;
    stream->capture = NULL;
    return OK;
}
R cuGraphInstantiateWithFlags(Running** out, Graph* graph, unsigned long long flags) {
    INSIDE;
    if (flags) return INVALID_VALUE;
    *out = calloc(1, sizeof **out);
    (*out)->source = graph;
    for (; (*out)->count < graph->count; (*out)->count++) {
        (*out)->nodes[(*out)->count] = malloc(sizeof(Node));
        *(*out)->nodes[(*out)->count] = *graph->nodes[(*out)->count];
    }
    return OK;
}
R cuGraphGetNodes(Graph* graph, Node** nodes, size_t* count) {
    INSIDE;
    if (nodes) memcpy(nodes, graph->nodes, *count * sizeof *nodes);
    else *count = graph->count;
    return OK;
}
R cuGraphNodeGetType(const Node* node, int* out) { INSIDE; *out = node->type; return OK; }
R cuGraphMemcpyNodeGetParams(const Node* node, Copy3D* out) {
    INSIDE;
    if (node->type != 1) return INVALID_VALUE;
    *out = node->copy;
    return OK;
}
R cuGraphExecMemcpyNodeSetParams(Running* running, Node* node, const Copy3D* copy, void* context) {
    INSIDE;
    if (context != &primary || !copy->WidthInBytes || copy->Height != 1 || copy->Depth != 1) return INVALID_VALUE;
    for (int i = 0; i < running->count; i++)
        if (running->source->nodes[i] == node) { running->nodes[i]->copy = *copy; return OK; }
    return INVALID_VALUE;
}
R cuGraphUpload(Running* running, Stream* stream) { INSIDE; return running && stream->open ? OK : INVALID_HANDLE; }
R cuGraphLaunch(Running* running, Stream* stream) {
    INSIDE;
    if (stream->capture) return CAPTURE_UNSUPPORTED;
    R result = OK;
    for (int i = 0; i < running->count && !result; i++) result = run(running->nodes[i]);
    return result;
}
static R release(Node** nodes, int count, void* owner) {
    for (int i = 0; i < count; i++) free(nodes[i]);
    free(owner);
    return OK;
}
R cuGraphExecDestroy(Running* running) { INSIDE; return release(running->nodes, running->count, running); }
R cuGraphDestroy(Graph* graph) { INSIDE; return release(graph->nodes, graph->count, graph); }

// ---- words, and the rest

R cuGetErrorString(R code, const char** out) {
    static char text[64];
    snprintf(text, sizeof text, "paper error %d", code);
    *out = text;
    return OK;
}
R cuGetErrorName(R code, const char** out) { return cuGetErrorString(code, out); }
static R unwritten(void) { return NOT_SUPPORTED; }
R cuGetProcAddress_v2(const char* name, void** out, int asked, uint64_t flags, int* status) {
    char longer[128];
    static const char* endings[] = {"_v2", "", "WithFlags"};
    (void)asked; (void)flags;
    void* self = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    for (int i = 0; i < 3; i++) {
        snprintf(longer, sizeof longer, "%s%s", name, endings[i]);
        if ((*out = dlsym(self, longer))) break;
    }
    if (!*out) *out = (void*)unwritten;
    if (status) *status = 0;
    return OK;
}
#define X(name) R name(void) { return NOT_SUPPORTED; }
#include "unwritten.h"
