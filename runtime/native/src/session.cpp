#include "session.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <tuple>

#include "cpu_info.h"
#include "engine_cache.h"
#include "errors.h"
#include "files.h"
#include "record.h"
#include "validation.h"

namespace blastscope {
namespace {

constexpr double MOST_TOLERANCE = 0.1;  // of a probability, from which on an execution isn't taken unless it is asked for; int8 has a gate
constexpr uint64_t TIMES_LIMIT = 1 << 20;  // bytes of the file that keeps them

// Executions in the order in which this CPU is likely fast, fastest first: runtime/inference/autotune.py has the same.
std::vector<std::string> likely_fastest(const std::string& device) {
    const std::set<std::string> features = device == "CPU" ? cpu_features() : std::set<std::string>{};
    if (!features.count("avx2")) return {"bf16", "f16", "f32", "int8"};
    if (features.count("avx512_bf16") || features.count("amx_bf16")) return {"int8", "bf16", "f32", "f16"};
    return {"int8", "f32", "bf16", "f16"};
}

std::string joined(const std::vector<std::string>& parts) {
    std::string all;
    for (const std::string& part : parts) all += (all.empty() ? "" : ", ") + part;
    return all;
}

bool contains(const std::vector<std::string>& all, const std::string& one) { return std::find(all.begin(), all.end(), one) != all.end(); }

std::string fused_of(const Bundle& bundle) {
    std::vector<std::string> found;
    for (const GraphEntry& entry : bundle.manifest.graphs)
        if (entry.models == "ensemble") found.push_back(entry.precision);
    return joined(found);
}

// The candidates that the options, the bundle's tolerances and the device's `offered` leave. Throws where none is left.
std::vector<Candidate> eligible(const Bundle& bundle, const Options& options, const std::string& layout,
                                const std::vector<std::string>& offered) {
    std::vector<Candidate> left;
    std::vector<Error> reasons;
    for (const std::string& precision : options.precision ? std::vector<std::string>{*options.precision}
                                                          : std::vector<std::string>{"fp32", "fp16", "int8"}) {
        const GraphEntry* entry = bundle.manifest.fused(precision);
        if (entry == nullptr) {
            reasons.emplace_back(BLASTSCOPE_USAGE, "bundle '" + bundle.path + "' has no fused " + precision + " graph: it has " + fused_of(bundle));
            continue;
        }
        std::vector<std::string> fitting, wanted, possible;
        for (const auto& [execution, tolerance] : entry->tolerances) {
            if ((execution == "int8") != (precision == "int8")) continue;
            fitting.push_back(execution);
            const bool fine = execution == "int8" || tolerance <= MOST_TOLERANCE;
            if (options.execution ? *options.execution == execution : fine) wanted.push_back(execution);
        }
        if (wanted.empty() && !options.execution) wanted = fitting;
        for (const std::string& one : wanted)
            if (contains(offered, one)) possible.push_back(one);
        if (wanted.empty())
            reasons.emplace_back(BLASTSCOPE_USAGE, "bundle '" + bundle.path + "' gives no tolerance for " + precision + " computed in " +
                                                       options.execution.value_or("anything") + ": it gives " +
                                                       (fitting.empty() ? "none" : joined(fitting)));
        else if (possible.empty())
            reasons.emplace_back(BLASTSCOPE_DEVICE,
                                 precision + " is to be computed in " + joined(wanted) + "; the device offers " + joined(offered));
        for (const std::string& execution : possible) {
            // where the precision is open an execution is taken from the first graph that has it
            const bool there = std::any_of(left.begin(), left.end(), [&](const Candidate& one) { return one.execution == execution; });
            if (!there) left.push_back({entry, execution, layout});
        }
    }
    if (left.empty()) {  // what the bundle lacks says less than what was refused
        for (const Error& reason : reasons)
            if (reason.status != BLASTSCOPE_USAGE) throw Error(reason);
        throw Error(reasons.front());
    }
    return left;
}

// The measured ones, fastest first; then the others in the order of `guess`, and those that failed last.
void rank(std::vector<Candidate>& candidates, const Times& times, const std::vector<std::string>& guess) {
    auto key = [&](const Candidate& one) {
        const auto known = times.find(one.name());
        const bool failed = known != times.end() && !known->second;
        const double ms = known == times.end() || failed ? std::numeric_limits<double>::infinity() : *known->second;
        return std::make_tuple(ms, failed, std::find(guess.begin(), guess.end(), one.execution) - guess.begin());
    };
    std::stable_sort(candidates.begin(), candidates.end(), [&](const Candidate& one, const Candidate& other) { return key(one) < key(other); });
}

std::string ms_text(double ms) {
    char text[32];
    std::snprintf(text, sizeof text, "%.1f ms", ms);
    return text;
}

// Notes what was taken and why.
void tell(Session& session, const std::vector<Candidate>& candidates, const Times& known) {
    const Candidate& taken = session.taken;
    if (taken.entry->precision == "fp16" && taken.execution != "f16")
        session.notes.add("the fp16 graph is computed in " + taken.execution + " on this device");
    std::vector<std::string> timed, failed;
    size_t others = 0;
    for (const Candidate& one : candidates) {
        const auto found = known.find(one.name());
        if (found != known.end() && found->second) timed.push_back(one.name() + " " + ms_text(*found->second));
        if (one == taken) continue;
        others++;
        if (found != known.end() && !found->second) failed.push_back(one.name());
    }
    if (!failed.empty()) session.notes.add(joined(failed) + " failed on this machine when last measured");
    const auto ours = known.find(taken.name());
    if (others == 0 || failed.size() == others)
        session.notes.add("took " + taken.name() + ": the only one to choose from");
    else if (ours != known.end() && ours->second)
        session.notes.add("took " + taken.name() + ": fastest of what was measured on this machine (" + joined(timed) + " a crop)");
    else
        session.notes.add("took " + taken.name() + ": not measured on this machine yet");
}

// On the CPU the first voter of a bundle with a cascade may decide alone; its graph and layout are the record's.
Options with_cascade(const Bundle& bundle, Options options) {
    const std::optional<CascadeRule>& rule = bundle.manifest.cascade;
    if (!rule) fail(BLASTSCOPE_USAGE, "bundle '" + bundle.path + "' has no cascade: 'blastscope calibrate --cascade' measures one");
    const std::string precision = options.precision.value_or(rule->precision), layout = options.layout.value_or("staged");
    if (precision != rule->precision || layout != "staged")
        fail(BLASTSCOPE_USAGE, "the cascade of bundle '" + bundle.path + "' is of its " + rule->precision + " graph, staged: not " +
                                   (precision != rule->precision ? precision : layout));
    options.precision = precision;
    options.layout = layout;
    return options;
}

// What the first of the ranked candidates that passes the golden set gives; the others' reasons go to the notes.
void open_first(Session& session, const std::vector<Candidate>& ranked) {
    std::optional<Error> mismatch, last;
    for (const Candidate& candidate : ranked) {
        try {
            session.engine = open_validated(session, candidate);
            session.taken = candidate;
            return;
        } catch (const Error& error) {
            if (error.status != BLASTSCOPE_GOLDEN_MISMATCH && error.status < BLASTSCOPE_UNAVAILABLE) throw;
            session.notes.add(candidate.name() + " is passed over: " + error.what());
            if (error.status == BLASTSCOPE_GOLDEN_MISMATCH && !mismatch) mismatch.emplace(error);
            last.emplace(error);
        }
    }
    // a wrong answer says more of the bundle than a library that broke off
    throw Error(mismatch ? *mismatch : *last);
}

}  // namespace

std::string Candidate::name() const {
    const std::string plain = entry->precision == "int8" ? "int8" : "f32";
    const std::string text = execution == plain ? entry->precision : entry->precision + "-" + execution;
    return layout == "fused" ? text : text + " " + layout;
}

Times TimingCache::read() const {
    Times times;
    try {
        const std::optional<File> file = File::open_own(path_);
        if (!file) return times;
        const Json found = parse_strict_json(file->read(TIMES_LIMIT + 1));
        for (const auto& [name, value] : found.at("ms_per_crop").items())
            times[name] = value.is_null() ? std::nullopt : std::optional(value.get<double>());
    } catch (const std::exception&) {  // damaged: it can be measured again
        return {};
    }
    return times;
}

void TimingCache::remember(const Times& times) const {
    Times all = read();
    for (const auto& [name, ms] : times) all[name] = ms;
    Json table = Json::object();
    for (const auto& [name, ms] : all) table[name] = ms ? Json(*ms) : Json(nullptr);
    const std::string text = Json({{"ms_per_crop", table}}).dump(1);
    make_private_folder(parent_of(path_));
    write_private(path_, {{text.data(), text.size()}});
}

void NoteBook::add(const std::string& note) {
    const std::lock_guard<std::mutex> held(lock_);
    notes_.push_back(note);
}
std::string NoteBook::text() const {
    const std::lock_guard<std::mutex> held(lock_);
    std::string all;
    for (const std::string& note : notes_) all += (all.empty() ? "" : "\n") + note;
    return all;
}

std::unique_ptr<Engine> open_validated(const Session& session, const Candidate& candidate) {
    EngineOptions options = {session.options.device,    candidate.execution,       candidate.layout, session.options.workload,
                             session.options.cache_dir, session.options.threads, false};
    const double tolerance = *candidate.entry->tolerance(candidate.execution);
    auto validated = [&](std::unique_ptr<Engine> engine) {
        if (engine->execution != candidate.execution)
            fail(BLASTSCOPE_DEVICE, "openvino was asked for " + candidate.execution + " and computes in " + engine->execution);
        const GoldenCheck found = validate(*engine, session.golden, tolerance, session.options.cache_dir);
        if (!found.passed) {
            char told[160];
            std::snprintf(told, sizeof told, "differs from the trained networks by %.2g (at most %.2g), and %lld calls changed",
                          found.difference, tolerance, static_cast<long long>(found.flips));
            bundle_fail(session.bundle->path, candidate.entry->file + " computed in " + candidate.execution + " by openvino " + told,
                        BLASTSCOPE_GOLDEN_MISMATCH);
        }
        return engine;
    };
    std::unique_ptr<Engine> engine = open_engine(session.core, *session.bundle, *candidate.entry, options);
    const bool cached = engine->content.has_value();
    try {
        return validated(std::move(engine));
    } catch (const Error& error) {
        const bool broken = error.status == BLASTSCOPE_GOLDEN_MISMATCH || error.status == BLASTSCOPE_ENGINE || error.status == BLASTSCOPE_DEVICE;
        if (!cached || !broken) throw;
    }
    // sound, and yet another network's: its place is taken, or it would be refused at every opening from now on
    options.rebuild = true;
    return validated(open_engine(session.core, *session.bundle, *candidate.entry, options));
}

std::unique_ptr<Session> open_session(Bundle bundle, const Options& given) {
    if (!bundle.manifest.gate_passed && !given.allow_ungated)
        bundle_fail(bundle.path, "its gate is 'waived', so its calls mean nothing; allow_ungated opens it anyway",
                    BLASTSCOPE_UNGATED);
    auto session = std::make_unique<Session>();
    session->bundle = std::make_shared<const Bundle>(std::move(bundle));
    const Bundle& opened = *session->bundle;
    session->options = given.cascade ? with_cascade(opened, given) : given;
    const Options& options = session->options;
    session->core = shared_core();
    std::vector<std::string> layouts = offered_layouts(options.device, options.workload, options.threads);
    if (options.layout) layouts = {*options.layout};
    const std::vector<Candidate> candidates = eligible(opened, options, layouts[0], executions_of(*session->core, options.device));
    Facts facts = fingerprint(*session->core, options.device);
    facts.insert(facts.end(), {{"bundle", opened.digest}, {"workload", options.workload}, {"threads", std::to_string(options.threads)}});
    session->times = std::make_unique<TimingCache>(options.cache_dir, engine_digest(facts));
    const Times known = session->times->read();
    std::vector<Candidate> ranked = candidates;
    std::vector<Candidate> laid_out;
    for (const Candidate& one : candidates)
        for (size_t other = 1; other < layouts.size(); other++) laid_out.push_back({one.entry, one.execution, layouts[other]});
    for (const Candidate& one : laid_out) {  // a layout that was not measured is never taken
        const auto found = known.find(one.name());
        if (found != known.end() && found->second.value_or(0) > 0) ranked.push_back(one);
    }
    rank(ranked, known, likely_fastest(options.device));
    session->golden = read_golden(opened);
    open_first(*session, ranked);
    for (const std::string& note : session->engine->notes) session->notes.add(note);
    if (session->engine->save_to_cache) {
        if (const std::optional<std::string> reason = session->engine->save_to_cache()) session->notes.add(*reason);
        session->engine->save_to_cache = nullptr;
    }
    for (const Candidate& one : laid_out)
        if (one.entry == session->taken.entry && one.execution == session->taken.execution) session->layouts.push_back(one);
    std::vector<Candidate> all = session->layouts;
    all.insert(all.end(), candidates.begin(), candidates.end());
    tell(*session, all, known);
    auto unknown = [&](const Candidate& one) { return !(one == session->taken) && !known.count(one.name()); };
    for (const Candidate& one : ranked)
        if (unknown(one) && one.layout == layouts[0]) session->unmeasured.push_back(one);
    session->layouts.erase(std::remove_if(session->layouts.begin(), session->layouts.end(), [&](const Candidate& one) { return !unknown(one); }),
                           session->layouts.end());
    if (given.cascade) {
        const CascadeRule& rule = *opened.manifest.cascade;
        session->cascade = CascadeTurn{rule.first, static_cast<float>(rule.threshold)};
        char told[160];
        std::snprintf(told, sizeof told, "cascade: %s decides alone from %.4g on, which changed %.2f %% of the calls that were judged",
                      rule.first ? "b" : "a", rule.threshold, 100 * rule.flips);
        session->notes.add(told);
    }
    return session;
}

}  // namespace blastscope
