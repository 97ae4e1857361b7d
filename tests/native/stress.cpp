// A program for sanitizers and valgrind: every function, right and wrong, from many threads, while handles close.
//     stress BUNDLE CACHE [CALLS]: with CALLS, so many calls whose memory must stay flat
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <thread>
#include <vector>

#include <blastscope.hpp>

namespace {

#define EXPECT(condition)                                                        \
    do {                                                                         \
        if (!(condition)) {                                                      \
            std::fprintf(stderr, "line %d: %s\n", __LINE__, #condition);         \
            std::exit(1);                                                        \
        }                                                                        \
    } while (false)

std::vector<uint8_t> disk(int side, int radius) {
    std::vector<uint8_t> pixels(static_cast<size_t>(side) * side * 3);
    for (int y = 0; y < side; y++)
        for (int x = 0; x < side; x++)
            if ((x - side / 2) * (x - side / 2) + (y - side / 2) * (y - side / 2) < radius * radius) {
                uint8_t* pixel = &pixels[3 * (static_cast<size_t>(side) * y + x)];
                pixel[0] = static_cast<uint8_t>(100 + x % 50), pixel[1] = 40, pixel[2] = static_cast<uint8_t>(120 + y % 50);
            }
    return pixels;
}

long resident_kb() {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);)
        if (line.rfind("VmRSS:", 0) == 0) return std::atol(line.c_str() + 6);
    return 0;
}

int threads_here() {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);)
        if (line.rfind("Threads:", 0) == 0) return std::atoi(line.c_str() + 8);
    return 0;
}

void wrong_arguments(const std::string& bundle, const blastscope_image& image) {
    blastscope_handle none = 7;
    blastscope_prediction prediction;
    EXPECT(blastscope_open("/no/such/bundle", nullptr, &none) == BLASTSCOPE_BUNDLE && none == 0);
    EXPECT(std::strstr(blastscope_last_error(), "/no/such/bundle") != nullptr);
    EXPECT(blastscope_open(nullptr, nullptr, &none) == BLASTSCOPE_USAGE);
    EXPECT(blastscope_open(bundle.c_str(), nullptr, nullptr) == BLASTSCOPE_USAGE);
    blastscope::Options options;
    options.precision("fp8");
    EXPECT(blastscope_open(bundle.c_str(), &options.all, &none) == BLASTSCOPE_USAGE);
    EXPECT(blastscope_classify(12345, &image, &prediction) == BLASTSCOPE_CLOSED);
    EXPECT(blastscope_close(12345) == BLASTSCOPE_CLOSED);
    EXPECT(blastscope_wait(12345, -1, &prediction) == BLASTSCOPE_USAGE);
    EXPECT(blastscope_describe(12345, BLASTSCOPE_NOTES) == nullptr);
    blastscope_forget(12345);
}

void use(const blastscope::Scope& scope, const blastscope_image& image, int rounds) {
    const blastscope::Prediction wanted = scope.classify(image);
    for (int round = 0; round < rounds; round++) {
        const auto many = scope.classify_many({image, image, blastscope_image{}});
        EXPECT(many[0].label == wanted.label && many[1].refusal == wanted.refusal && many[2].refusal == BLASTSCOPE_EMPTY);
        EXPECT(scope.submit(image).get().refusal == wanted.refusal);
        blastscope_ticket ticket, unwanted;
        EXPECT(blastscope_submit(scope.handle(), &image, nullptr, nullptr, &ticket) == BLASTSCOPE_OK);
        EXPECT(blastscope_submit(scope.handle(), &image, nullptr, nullptr, &unwanted) == BLASTSCOPE_OK);
        blastscope_forget(unwanted);
        blastscope_prediction prediction;
        const blastscope_status polled = blastscope_wait(ticket, 0, &prediction);
        EXPECT(polled == BLASTSCOPE_PENDING || polled == BLASTSCOPE_OK);
        if (polled == BLASTSCOPE_PENDING) EXPECT(blastscope_wait(ticket, -1, &prediction) == BLASTSCOPE_OK);
        EXPECT(prediction.refusal == wanted.refusal);
        EXPECT(blastscope_wait(ticket, -1, &prediction) == BLASTSCOPE_USAGE);
        blastscope_image broken = image;
        broken.pixels = nullptr;
        EXPECT(blastscope_classify(scope.handle(), &broken, &prediction) == BLASTSCOPE_IMAGE);
        EXPECT(!scope.describe(BLASTSCOPE_AUDIT_ENGINE).empty());
    }
}

void close_while_others_call(const std::string& bundle, const blastscope::Options& options, const blastscope_image& image) {
    blastscope::Scope scope(bundle, options);
    const blastscope_handle handle = scope.handle();
    std::atomic<int> answered{0}, closed{0};
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 32; caller++)
        callers.emplace_back([&] {
            for (;;) {
                blastscope_prediction prediction;
                const blastscope_status status = blastscope_classify(handle, &image, &prediction);
                if (status == BLASTSCOPE_CLOSED) break;
                EXPECT(status == BLASTSCOPE_OK);
                answered++;
            }
            closed++;
        });
    while (answered < 64) std::this_thread::yield();
    scope.close();
    for (std::thread& caller : callers) caller.join();
    EXPECT(closed == 32);
}

void closing_in_a_callback_is_refused(const std::string& bundle, const blastscope::Options& options, const blastscope_image& image) {
    struct Seen {
        blastscope_handle handle;
        std::atomic<int> status{-1};
    } seen;
    blastscope::Scope scope(bundle, options);
    seen.handle = scope.handle();
    auto callback = [](void* user, blastscope_ticket, blastscope_status, const blastscope_prediction*, const char*) {
        auto* told = static_cast<Seen*>(user);
        told->status = blastscope_close(told->handle);
    };
    EXPECT(blastscope_submit(scope.handle(), &image, callback, &seen, nullptr) == BLASTSCOPE_OK);
    scope.close();
    EXPECT(seen.status == BLASTSCOPE_USAGE);
}

void stay_flat(const blastscope::Scope& scope, const blastscope_image& image, long calls) {
    long before = 0;
    for (long call = 0; call < calls; call++) {
        scope.classify(image);
        if (call == calls / 10) before = resident_kb();
    }
    const long grown = resident_kb() - before;
    std::printf("%ld calls: %ld kB more after the first tenth\n", calls, grown);
    EXPECT(grown < 1024);
}

}  // namespace

int main(int count, char** arguments) {
    EXPECT(count >= 3);
    const std::string bundle = arguments[1];
    blastscope::Options options;
    options.cache_dir(arguments[2]).workload("throughput").threads(2).call_unlike_training();
    const std::vector<uint8_t> pixels = disk(64, 20);
    const blastscope_image image = blastscope::image(pixels.data(), 64, 64);
    wrong_arguments(bundle, image);
    if (count > 3) {
        stay_flat(blastscope::Scope(bundle, options), image, std::atol(arguments[3]));
        return 0;
    }
    {
        const blastscope::Scope scope(bundle, options);
        std::vector<std::thread> callers;
        for (int caller = 0; caller < 32; caller++) callers.emplace_back([&] { use(scope, image, 3); });
        for (std::thread& caller : callers) caller.join();
    }
    const int before = threads_here();
    close_while_others_call(bundle, options, image);
    closing_in_a_callback_is_refused(bundle, options, image);
    EXPECT(threads_here() <= before);
    std::puts("ok");
}
