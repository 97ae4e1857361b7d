#include "options.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <vector>

#include "cpu_info.h"
#include "errors.h"
#include "files.h"
#include "signature.h"

namespace blastscope {
namespace {

constexpr int32_t MOST_THREADS = 1024;

std::optional<std::string> one_of(const char* what, const char* value, const std::vector<std::string>& known) {
    if (value == nullptr || std::strcmp(value, "auto") == 0) return std::nullopt;
    if (std::find(known.begin(), known.end(), value) != known.end()) return value;
    std::string all = "auto";
    for (const std::string& one : known) all += ", " + one;
    fail(BLASTSCOPE_USAGE, std::string(what) + " '" + std::string(value).substr(0, 80) + "' is not known: say " + all);
}

bool flag(const char* what, int32_t value) {
    if (value != 0 && value != 1) fail(BLASTSCOPE_USAGE, std::string(what) + " is " + std::to_string(value) + ": say 0 or 1");
    return value == 1;
}

std::string device_of(const char* value) {
    const std::string text = value == nullptr ? "auto" : value, prefix = "openvino:";
    if (text == "auto" || text == "cpu") return "CPU";
    const std::string name = text.rfind(prefix, 0) == 0 ? text.substr(prefix.size()) : "";
    const char* letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.";
    if (!name.empty() && name.find_first_not_of(letters) == std::string::npos) {
        std::string upper = name;
        std::transform(upper.begin(), upper.end(), upper.begin(), [](char one) { return one >= 'a' && one <= 'z' ? one - 32 : one; });
        return upper;
    }
    if (text.rfind("cuda", 0) == 0) fail(BLASTSCOPE_DEVICE, "device '" + text.substr(0, 80) + "' is Python's alone: say cpu or openvino:NAME");
    fail(BLASTSCOPE_USAGE, "device '" + text.substr(0, 80) + "' is not known: say auto, cpu or openvino:NAME");
}

}  // namespace

Options parse_options(const blastscope_options* given) {
    blastscope_options all;
    blastscope_options_init(&all, sizeof all);
    if (given != nullptr) {
        if (given->struct_size < offsetof(blastscope_options, reserved) || given->struct_size > 4096)
            fail(BLASTSCOPE_USAGE, "options of " + std::to_string(given->struct_size) + " bytes: call blastscope_options_init first");
        std::memcpy(&all, given, std::min<size_t>(given->struct_size, sizeof all));
        const auto* bytes = reinterpret_cast<const unsigned char*>(given);
        if (std::any_of(bytes + std::min<size_t>(given->struct_size, sizeof all), bytes + given->struct_size, [](unsigned char one) { return one != 0; }))
            fail(BLASTSCOPE_USAGE, "an option is set that this version of libblastscope doesn't know: take a newer one");
    }
    Options options;
    options.device = device_of(all.device);
    options.precision = one_of("precision", all.precision, {"fp32", "fp16", "int8"});
    options.execution = one_of("execution", all.execution, {"f32", "bf16", "f16", "int8"});
    options.layout = one_of("layout", all.layout, {"fused", "side-by-side", "paired", "staged"});
    options.workload = one_of("workload", all.workload, {"latency", "throughput"}).value_or("latency");
    if (all.threads < 0) fail(BLASTSCOPE_USAGE, "threads is " + std::to_string(all.threads) + ": at least 1 is needed, or 0 for all");
    if (all.queue < 0) fail(BLASTSCOPE_USAGE, "queue is " + std::to_string(all.queue) + ": at least 1 is needed, or 0 for 64");
    if (all.threads > MOST_THREADS)
        fail(BLASTSCOPE_USAGE, "threads is " + std::to_string(all.threads) + ": at most " + std::to_string(MOST_THREADS) + " are allowed");
    options.threads = all.threads == 0 ? usable_threads() : all.threads;
    options.queue = all.queue == 0 ? 64 : all.queue;
    options.cache_dir = all.cache_dir == nullptr ? default_cache_dir() : real_path(all.cache_dir);
    options.allow_ungated = flag("allow_ungated", all.allow_ungated);
    options.cascade = flag("cascade", all.cascade);
    options.call_unlike_training = flag("call_unlike_training", all.call_unlike_training);
    options.measure = flag("measure", all.measure);
    if (all.require_signature != nullptr) options.signers = required_keys(all.require_signature);
    return options;
}

}  // namespace blastscope
