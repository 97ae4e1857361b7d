#include "engine.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <sstream>
#include <thread>

#include <openvino/openvino.hpp>

#include "engine_cache.h"
#include "errors.h"
#include "graph_check.h"
#include "lanes.h"
#include "openvino_errors.h"
#include "partition.h"
#include "uint8_activations.h"

namespace blastscope {
namespace {

constexpr size_t PAGE = 4096;
constexpr int PARTS = 5;

struct Share {  // what of the cores a network, or a part of one, may use
    int streams, threads;
};

struct Plan {  // a layout on so many cores
    int lanes = 1;
    std::vector<Share> shares;  // one: the network is whole; five: its parts
    bool together = false;      // A and B run at the same time
};

Plan execution_plan(const std::string& layout, const std::string& workload, int threads) {
    const int many = workload == "throughput" ? threads : 1;
    const Share whole = {many, threads};
    if (layout == "fused") return {many, {whole}, false};
    if (layout == "staged") return {many, std::vector<Share>(PARTS, whole), false};
    const std::vector<std::string> there = offered_layouts("CPU", workload, threads);
    if (std::find(there.begin(), there.end(), layout) == there.end()) {
        std::string told;
        for (const std::string& one : there) told += (told.empty() ? "" : ", ") + one;
        fail(BLASTSCOPE_USAGE,
             "layout '" + layout + "' is not for " + workload + " on " + std::to_string(threads) + " cores: " + told + " may be had");
    }
    const int half = threads / 2;
    if (layout == "paired") return {half, {{half, threads}}, false};
    return {1, {whole, {1, threads - half}, {1, half}, whole, whole}, true};
}

std::string hint_of(const std::string& execution) { return execution == "int8" ? "f32" : execution; }  // int8 stands in the graph

std::string upper(std::string text) {
    for (char& letter : text) letter = static_cast<char>(letter >= 'a' && letter <= 'z' ? letter - 32 : letter);
    return text;
}

ov::AnyMap settings_of(const EngineOptions& options, const Share& share) {
    static const std::map<std::string, ov::element::Type> types = {
        {"f32", ov::element::f32}, {"bf16", ov::element::bf16}, {"f16", ov::element::f16}};
    ov::AnyMap settings = {ov::hint::inference_precision(types.at(hint_of(options.execution))),
                           ov::hint::performance_mode(options.workload == "throughput" ? ov::hint::PerformanceMode::THROUGHPUT
                                                                                       : ov::hint::PerformanceMode::LATENCY)};
    if (options.device == "CPU") {
        settings.insert(ov::num_streams(ov::streams::Num(share.streams)));
        settings.insert(ov::inference_num_threads(share.threads));
        settings.insert(ov::hint::enable_cpu_pinning(false));  // threads that crop share the cores with those that infer
    }
    return settings;
}

// The settings as Python's repr writes them, for the digest that both share.
std::string settings_text(const EngineOptions& options, const Plan& plan) {
    std::string text;
    for (const Share& share : plan.shares) {
        const std::string precision = "('INFERENCE_PRECISION_HINT', '" + hint_of(options.execution) + "')";
        const std::string mode = "('PERFORMANCE_HINT', '" + upper(options.workload) + "')";
        text += text.empty() ? "[[" : ", [";
        if (options.device == "CPU")
            text += "('ENABLE_CPU_PINNING', False), ('INFERENCE_NUM_THREADS', " + std::to_string(share.threads) + "), " + precision +
                    ", ('NUM_STREAMS', " + std::to_string(share.streams) + "), " + mode;
        else
            text += precision + ", " + mode;
        text += "]";
    }
    return text + "]";
}

// `function` of 0 to count - 1, two at a time: A and B cost almost all of it, and the library loads a network with one thread.
void two_at_a_time(size_t count, const std::function<void(size_t)>& function) {
    std::atomic<size_t> next{0};
    std::exception_ptr failure;
    std::mutex lock;
    auto work = [&] {
        try {
            for (size_t place; (place = next++) < count;) function(place);
        } catch (...) {
            const std::lock_guard<std::mutex> held(lock);
            if (!failure) failure = std::current_exception();
            next = count;
        }
    };
    if (count > 1) {
        std::thread helper(work);
        work();
        helper.join();
    } else {
        work();
    }
    if (failure) std::rethrow_exception(failure);
}

// The fused graph for one crop, with what lanes answer as its only output: the vote is made by vote.cpp.
std::shared_ptr<ov::Model> read_model(ov::Core& core, const std::string& content, const std::string& file) {
    const std::shared_ptr<ov::Model> model = core.read_model(content, ov::Tensor());
    ov::PartialShape shape = model->input("crops").get_partial_shape();
    shape[0] = 1;
    model->reshape({{"crops", shape}});
    std::shared_ptr<ov::op::v0::Result> answer;
    for (const char* name : {"answers", "probabilities"})
        for (const auto& result : model->get_results())
            if (!answer && result->output(0).get_names().count(name)) answer = result;
    if (!answer || answer->get_output_partial_shape(0).rank() != 3 || answer->get_output_partial_shape(0)[2] != 2)
        fail(BLASTSCOPE_ENGINE, "'" + file + "' is not a fused graph");
    return std::make_shared<ov::Model>(ov::ResultVector{answer}, model->get_parameters());
}

Networks compile(ov::Core& core, const std::string& content, const std::string& file, const EngineOptions& options, const Plan& plan) {
    return translating("'" + file + "'", [&] {
        const std::shared_ptr<ov::Model> model = read_model(core, content, file);
        Networks networks(plan.shares.size());
        if (networks.size() == 1) {
            networks[0] = core.compile_model(model, options.device, settings_of(options, plan.shares[0]));
            return networks;
        }
        std::vector<std::shared_ptr<ov::Model>> parts;
        try {
            const Partition found = partition(model);
            for (const auto& part : {found.stem, found.a, found.b, found.rest, found.opinion})
                parts.push_back(part ? part->clone() : nullptr);  // parts share operators: two compilers must not meet in one
        } catch (const NotPartitionable& error) {
            fail(BLASTSCOPE_ENGINE, "'" + file + "' can't be cut into parts: " + error.what());
        }
        two_at_a_time(parts.size(), [&](size_t place) {
            if (parts[place]) networks[place] = core.compile_model(parts[place], options.device, settings_of(options, plan.shares[place]));
        });
        return networks;
    });
}

// The networks in an engine file: each from the start of a page, their sizes at the end. Throws Error (ENGINE).
Networks import(ov::Core& core, const CachedEngine& kept, const EngineOptions& options, const Plan& plan) {
    const size_t count = plan.shares.size();
    std::vector<uint64_t> sizes(count), starts(count);
    if (kept.size < 8 * count) fail(BLASTSCOPE_ENGINE, "the file is none of ours");
    std::memcpy(sizes.data(), kept.memory->data() + kept.size - 8 * count, 8 * count);
    uint64_t at = 0;
    for (size_t place = 0; place < count; place++) {
        starts[place] = at;
        if (sizes[place] > kept.size) fail(BLASTSCOPE_ENGINE, "the file is none of ours");
        at += (sizes[place] + PAGE - 1) / PAGE * PAGE;
    }
    if (at + 8 * count != kept.size) fail(BLASTSCOPE_ENGINE, "the file is none of ours");
    Networks networks(count);
    translating("the engine cache", [&] {
        two_at_a_time(count, [&](size_t place) {
            if (sizes[place] == 0) return;
            // the library reads weights where they are mapped: the engine holds the mapping
            const ov::Tensor blob(ov::element::u8, ov::Shape{static_cast<size_t>(sizes[place])}, kept.memory->data() + starts[place]);
            networks[place] = core.import_model(blob, options.device, settings_of(options, plan.shares[place]));
        });
    });
    return networks;
}

std::optional<std::string> save(const Networks& networks, const std::string& path) {
    static const std::string padding(PAGE, '\0');
    std::vector<std::string> blobs;
    std::vector<uint64_t> sizes;
    Pieces pieces;
    try {
        translating("export", [&] {
            for (const auto& network : networks) {
                std::stringstream stream;
                if (network) ov::CompiledModel(*network).export_model(stream);
                blobs.push_back(stream.str());
            }
        });
    } catch (const Error& error) {
        return std::string("engine cache: ") + error.what() + ", so every opening compiles anew";
    }
    for (const std::string& blob : blobs) {
        sizes.push_back(blob.size());
        pieces.emplace_back(blob.data(), blob.size());
        pieces.emplace_back(padding.data(), (PAGE - blob.size() % PAGE) % PAGE);
    }
    pieces.emplace_back(sizes.data(), 8 * sizes.size());
    const std::optional<std::string> reason = write_engine(path, pieces);
    return reason ? std::optional("engine cache: " + *reason + ", so every opening compiles anew") : std::nullopt;
}

// What the engine computes in, whatever was asked. In an int8 graph that is int8, the rest of it f32.
std::string read_back(const Networks& networks, const std::string& asked) {
    if (asked == "int8") return asked;
    for (const auto& network : networks)
        if (network) {
            const ov::element::Type told = network->get_property(ov::hint::inference_precision);
            return told == ov::element::f32 ? "f32" : told == ov::element::bf16 ? "bf16" : told == ov::element::f16 ? "f16" : told.get_type_name();
        }
    return "";
}

int rows_of(const Networks& networks) {
    const ov::CompiledModel& answering = networks.size() == 1 ? *networks[0] : *networks[3];
    return static_cast<int>(answering.output(0).get_shape().at(1));
}

}  // namespace

std::shared_ptr<ov::Core> shared_core() {
    static std::mutex lock;
    static std::weak_ptr<ov::Core> held;
    const std::lock_guard<std::mutex> guard(lock);
    std::shared_ptr<ov::Core> core = held.lock();
    if (!core) {
        core = translating("loading the library", [] { return std::make_shared<ov::Core>(); });
        held = core;
    }
    return core;
}

std::vector<std::string> executions_of(ov::Core& core, const std::string& device) {
    static const std::vector<std::pair<std::string, std::string>> known = {{"FP32", "f32"}, {"BF16", "bf16"}, {"FP16", "f16"}, {"INT8", "int8"}};
    return translating("device '" + device + "'", [&] {
        const std::vector<std::string> here = core.get_available_devices();
        if (std::find(here.begin(), here.end(), device) == here.end()) {
            std::string all;
            for (const std::string& one : here) all += (all.empty() ? "" : ", ") + one;
            fail(BLASTSCOPE_DEVICE, "openvino has no device '" + device + "' here: it has " + (all.empty() ? "none" : all));
        }
        const std::vector<std::string> capabilities = core.get_property(device, ov::device::capabilities);
        std::vector<std::string> found;
        for (const auto& [name, execution] : known)
            if (std::find(capabilities.begin(), capabilities.end(), name) != capabilities.end()) found.push_back(execution);
        return found;
    });
}

Facts fingerprint(ov::Core& core, const std::string& device) {
    return translating("device '" + device + "'", [&]() -> Facts {
        const std::string name = core.get_property(device, ov::device::full_name);
        const std::string version = core.get_versions(device).at(device).buildNumber;
        return {{"backend", "openvino"}, {"version", version}, {"device", device}, {"device_name", name}};
    });
}

std::vector<std::string> offered_layouts(const std::string& device, const std::string& workload, int threads) {
    if (device != "CPU" || threads < 2) return {"fused"};
    return {"fused", workload == "latency" ? "side-by-side" : "paired"};
}

std::unique_ptr<Engine> open_engine(const std::shared_ptr<ov::Core>& core, const Bundle& bundle, const GraphEntry& entry,
                                    const EngineOptions& options) {
    const std::vector<std::string> offered = executions_of(*core, options.device);
    if (std::find(offered.begin(), offered.end(), options.execution) == offered.end())
        fail(BLASTSCOPE_DEVICE, "'" + options.device + "' doesn't offer " + options.execution);
    const Plan plan = execution_plan(options.layout, options.workload, options.threads);
    Facts facts = fingerprint(*core, options.device);
    facts.insert(facts.end(), {{"graph", entry.sha256}, {"execution", options.execution}, {"settings", settings_text(options, plan)}});
    auto engine = std::make_unique<Engine>();
    engine->core = core;
    engine->device = options.device;
    engine->layout = options.layout;
    engine->digest = engine_digest(facts);
    const std::string path = engine_file(options.cache_dir, engine->digest);
    const std::optional<CachedEngine> kept = options.rebuild ? std::nullopt : read_engine(path);
    Networks networks;
    if (kept) {
        try {
            networks = import(*core, *kept, options, plan);
            engine->memory = kept->memory;
            engine->content = kept->content;
        } catch (const Error& error) {
            engine->notes = {std::string("an engine in the cache was replaced: ") + error.what()};
        }
    } else if (options.rebuild) {
        engine->notes = {"an engine in the cache was replaced: it is not the one that it is kept as"};
    } else if (exists(path)) {
        engine->notes = {"an engine in the cache was replaced: it is damaged, or others could have written it"};
    }
    if (networks.empty()) {
        std::string content = read_graph(bundle, entry);
        if (options.execution == "int8") content = with_uint8_activations(content, bundle.path + "/" + entry.file, options.device);
        networks = compile(*core, content, bundle.path + "/" + entry.file, options, plan);
        engine->save_to_cache = [networks, path] { return save(networks, path); };
    }
    try {
        translating("loading", [&] {
            engine->execution = read_back(networks, options.execution);
            engine->rows = rows_of(networks);
            for (int lane = 0; lane < plan.lanes; lane++) engine->lanes.push_back(make_lane(networks, plan.together));
        });
    } catch (const Error&) {
        if (!engine->content) throw;
        EngineOptions anew = options;
        anew.rebuild = true;
        return open_engine(core, bundle, entry, anew);
    }
    return engine;
}

}  // namespace blastscope
