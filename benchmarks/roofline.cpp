// Peak multiply-adds a second of one core, by type: loops of nothing but the instruction that does them, on registers. Compiled
// at run time by roofline.py; a CPU or a compiler that lacks an instruction lacks the kernel.

#include <immintrin.h>

namespace {

constexpr int kChains = 12;  // independent sums: more than latency times width of any core so far, fewer than 16 registers
constexpr int kShort = 6;    // for chains that need a second register

// Written as instructions, so that the compiler neither merges the chains nor moves them out of the loop.
#define KERNEL(NAME, TARGET, VECTOR, CHAINS, ...)                                                                     \
    __attribute__((target(TARGET))) void NAME(long steps) {                                                           \
        VECTOR left{}, right{}, sums[CHAINS]{};                                                                       \
        for (long step = 0; step < steps; ++step) {                                                                   \
            _Pragma("GCC unroll 16") for (int chain = 0; chain < CHAINS; ++chain) {                                   \
                VECTOR &sum = sums[chain];                                                                            \
                VECTOR more;                                                                                          \
                asm volatile(__VA_ARGS__ : "+v"(sum), "=&v"(more) : "v"(left), "v"(right));                           \
            }                                                                                                         \
        }                                                                                                             \
    }

KERNEL(fma_256, "avx2,fma", __m256, kChains, "vfmadd231ps %3, %2, %0")
KERNEL(fma_512, "avx512f", __m512, kChains, "vfmadd231ps %3, %2, %0")
KERNEL(vnni_256, "avx2,avxvnni", __m256, kChains, "%{vex%} vpdpbusd %3, %2, %0")
KERNEL(vnni_512, "avx512f,avx512vnni", __m512, kChains, "vpdpbusd %3, %2, %0")
KERNEL(bf16_512, "avx512f,avx512bf16", __m512, kChains, "vdpbf16ps %3, %2, %0")
// Without VNNI a sum of four products takes three instructions; this is how libraries do it on such a CPU.
KERNEL(maddubs_256, "avx2", __m256, kShort, "vpmaddubsw %3, %2, %1\n\tvpmaddwd %3, %1, %1\n\tvpaddd %1, %0, %0")

struct Kernel {
    const char *name, *type;
    int runs;
    double macs;  // of one step
    void (*run)(long);
};

const Kernel kernels[] = {
    {"vfmadd, 256 bits", "f32", __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"), 8.0 * kChains, fma_256},
    {"vfmadd, 512 bits", "f32", __builtin_cpu_supports("avx512f"), 16.0 * kChains, fma_512},
    {"vpmaddubsw, vpmaddwd and vpaddd, 256 bits", "int8", __builtin_cpu_supports("avx2"), 32.0 * kShort, maddubs_256},
    {"vpdpbusd, 256 bits", "int8", __builtin_cpu_supports("avxvnni"), 32.0 * kChains, vnni_256},
    {"vpdpbusd, 512 bits", "int8", __builtin_cpu_supports("avx512vnni"), 64.0 * kChains, vnni_512},
    {"vdpbf16ps, 512 bits", "bf16", __builtin_cpu_supports("avx512bf16"), 32.0 * kChains, bf16_512},
};

}  // namespace

extern "C" {
int kernel_count() { return sizeof(kernels) / sizeof(kernels[0]); }
const char *kernel_name(int number) { return kernels[number].name; }
const char *kernel_type(int number) { return kernels[number].type; }
int kernel_runs(int number) { return kernels[number].runs; }
double kernel_macs(int number) { return kernels[number].macs; }
void kernel_run(int number, long steps) { kernels[number].run(steps); }
}
