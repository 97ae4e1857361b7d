// A program for sanitizers and valgrind: every function, right and wrong, from many threads, while handles close.
//     stress BUNDLE CACHE                    every function from 32 threads, and while handles close
//     stress BUNDLE CACHE refusals FOLDER    from 32 threads: bundles in FOLDER, none of which may be opened, and bad images
//     stress BUNDLE CACHE signed FOLDER      from 32 threads: opens the bundle, which FOLDER/right.pub signed, with keys in FOLDER
//     stress BUNDLE CACHE flat CALLS         so many calls, whose memory, threads and descriptors must stay flat
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
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

long told_by_system(const char* key) {  // of /proc/self/status, kB or a count
    std::ifstream status("/proc/self/status");
    const size_t size = std::strlen(key);
    for (std::string line; std::getline(status, line);)
        if (line.compare(0, size, key) == 0) return std::atol(line.c_str() + size);
    return 0;
}

int threads_here() { return static_cast<int>(told_by_system("Threads:")); }

int descriptors_here() {
    const auto all = std::filesystem::directory_iterator("/proc/self/fd");
    return static_cast<int>(std::distance(begin(all), end(all)));
}

// `function` of each number below 32, in a thread of its own.
template <class Function>
void from_32_threads(Function function) {
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 32; caller++) callers.emplace_back([&function, caller] { function(caller); });
    for (std::thread& caller : callers) caller.join();
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

void bad_images(const blastscope::Scope& scope, const std::vector<uint8_t>& pixels) {
    const auto status_of = [&](const blastscope_image& image) {
        blastscope_prediction prediction;
        return blastscope_classify(scope.handle(), &image, &prediction);
    };
    const uint8_t* const good = pixels.data();
    const int32_t most = INT32_MAX;
    const int64_t far = INT64_MAX, back = INT64_MIN;
    for (const blastscope_image& image : {
             blastscope_image{nullptr, 10, 10, 0, 0, 0, 0}, blastscope_image{good, -1, 10, 0, 0, 0, 0}, blastscope_image{good, 10, -1, 0, 0, 0, 0},
             blastscope_image{good, 10, 10, 0, 0, 9, 0}, blastscope_image{good, 10, 10, 0, 0, -1, 0}, blastscope_image{good, most, most, 0, 0, 0, 0},
             blastscope_image{good, 10, 10, far, 0, 0, 0}, blastscope_image{good, 10, 10, back, 0, 0, 0}, blastscope_image{good, 10, 10, 0, far, 0, 0},
             blastscope_image{good, 10, 10, 0, back, 0, 0}})
        EXPECT(status_of(image) == BLASTSCOPE_IMAGE);
    const auto refusal_of = [&](const std::vector<uint8_t>& image, int width, int height) {
        return scope.classify(blastscope::image(image.data(), width, height)).refusal;
    };
    EXPECT(refusal_of({}, 0, 0) == BLASTSCOPE_EMPTY);
    EXPECT(refusal_of(std::vector<uint8_t>(3), 1, 1) == BLASTSCOPE_EMPTY);
    EXPECT(refusal_of(std::vector<uint8_t>(3 * 50 * 50), 50, 50) == BLASTSCOPE_EMPTY);
    EXPECT(refusal_of(std::vector<uint8_t>(3 * 50 * 50, 255), 50, 50) == BLASTSCOPE_NOT_ON_BLACK);
    EXPECT(refusal_of(disk(40, 30), 40, 40) != BLASTSCOPE_NOT_REFUSED);
}

void everything_is_refused(const std::string& damaged, const blastscope::Options& options) {
    std::vector<std::string> bundles;
    for (const auto& entry : std::filesystem::directory_iterator(damaged)) bundles.push_back(entry.path());
    std::sort(bundles.begin(), bundles.end());
    EXPECT(bundles.size() > 40);
    from_32_threads([&](int caller) {
        for (size_t place = static_cast<size_t>(caller) % 8; place < bundles.size(); place += 8) {  // each by four at once
            blastscope_handle none = 7;
            const blastscope_status status = blastscope_open(bundles[place].c_str(), &options.all, &none);
            if (status < BLASTSCOPE_BUNDLE || status > BLASTSCOPE_GOLDEN_MISMATCH || none != 0)
                std::fprintf(stderr, "%s: %d, %s\n", bundles[place].c_str(), status, blastscope_last_error());
            EXPECT(status >= BLASTSCOPE_BUNDLE && status <= BLASTSCOPE_GOLDEN_MISMATCH && none == 0);
            EXPECT(*blastscope_last_error() != 0);
        }
    });
}

void signatures_are_required(const std::string& bundle, const std::string& cache, const std::string& keys) {
    from_32_threads([&](int caller) {
        for (const auto& [names, wanted] : std::vector<std::pair<std::vector<std::string>, int>>{
                 {{"wrong.pub"}, BLASTSCOPE_SIGNATURE}, {{"none.pub"}, BLASTSCOPE_DATA}, {{"wrong.pub", "right.pub"}, BLASTSCOPE_OK}}) {
            if (wanted == BLASTSCOPE_OK && caller % 8 != 0) continue;
            blastscope::Options options;
            std::vector<std::string> paths;
            for (const std::string& name : names) paths.push_back(keys + "/" + name);
            options.cache_dir(cache).threads(1).measure(false).require_signature(paths);
            blastscope_handle handle = 0;
            EXPECT(blastscope_open(bundle.c_str(), &options.all, &handle) == wanted && (handle != 0) == (wanted == BLASTSCOPE_OK));
            blastscope_close(handle);
        }
    });
}

void open_and_close_at_once(const std::string& bundle, const blastscope::Options& options, const blastscope_image& image) {
    from_32_threads([&](int) {
        blastscope::Scope scope(bundle, options);
        EXPECT(scope.submit(image).get().refusal == scope.classify(image).refusal);
        scope.close();
    });
}

struct Taken {  // by this process
    long resident_kb = told_by_system("VmRSS:");
    int threads = threads_here(), descriptors = descriptors_here();
};

void stay_flat(const std::string& bundle, const blastscope::Options& options, const std::vector<uint8_t>& pixels, long calls) {
    const blastscope_image image = blastscope::image(pixels.data(), 64, 64), black = blastscope_image{};
    const blastscope::Scope scope(bundle, options);
    Taken before;
    for (long call = 0; call < calls; call++) {
        scope.classify(image);
        if (call % 10 == 3) scope.submit(image).get();
        if (call % 10 == 5) EXPECT(scope.classify_many({image, black, image})[1].refusal == BLASTSCOPE_EMPTY);
        if (call % 10 == 7) bad_images(scope, pixels);
        if (call % std::max(calls / 200, 1L) == 0) {  // one at a time: OpenVINO keeps threads for as many as were ever open at once
            blastscope::Scope(bundle, options).classify(image);
            wrong_arguments(bundle, image);
        }
        if (call == calls / 10) before = Taken();
    }
    const Taken after;
    std::printf("%ld calls and %ld openings: %ld kB, %d threads, %d descriptors more after the first tenth\n", calls,
                std::min(calls, 200L), after.resident_kb - before.resident_kb, after.threads - before.threads,
                after.descriptors - before.descriptors);
    EXPECT(after.descriptors <= before.descriptors);
    if (calls < 1000) return;  // what is filled once, such as OpenVINO's pool, isn't full yet
    EXPECT(after.resident_kb - before.resident_kb < 4096 && after.threads <= before.threads);
}

}  // namespace

int main(int count, char** arguments) {
    EXPECT(count == 3 || count == 5);
    const std::string bundle = arguments[1], part = count > 3 ? arguments[3] : "";
    blastscope::Options options;
    options.cache_dir(arguments[2]).workload("throughput").threads(2).call_unlike_training();
    const std::vector<uint8_t> pixels = disk(64, 20);
    const blastscope_image image = blastscope::image(pixels.data(), 64, 64);
    wrong_arguments(bundle, image);
    if (part == "flat") {
        stay_flat(bundle, options, pixels, std::atol(arguments[4]));
    } else if (part == "signed") {
        signatures_are_required(bundle, arguments[2], arguments[4]);
    } else if (part == "refusals") {
        everything_is_refused(arguments[4], options);
        const blastscope::Scope scope(bundle, options);
        from_32_threads([&](int) { bad_images(scope, pixels); });
    } else {
        {
            const blastscope::Scope scope(bundle, options);
            from_32_threads([&](int) { use(scope, image, 3); });
        }
        const int before = threads_here();
        close_while_others_call(bundle, options, image);
        closing_in_a_callback_is_refused(bundle, options, image);
        open_and_close_at_once(bundle, options, image);
        EXPECT(threads_here() <= before);
    }
    std::puts("ok");
}
