#include "measurement.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <limits>

#include "errors.h"
#include "files.h"
#include "quiet.h"

namespace blastscope {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int LEAST_ROUNDS = 3, MOST_ROUNDS = 20;
constexpr std::chrono::milliseconds GLANCE(50), MEASURED(1000);

double ms_since(Clock::time_point start) { return std::chrono::duration<double, std::milli>(Clock::now() - start).count(); }

// Milliseconds a crop, with `count` threads at work at once.
double time_of(size_t count, const std::function<void(size_t)>& infer) {
    const auto start = Clock::now();
    std::vector<std::thread> helpers;
    for (size_t lane = 1; lane < count; lane++) helpers.emplace_back([&infer, lane] { infer(lane); });
    infer(0);
    for (std::thread& helper : helpers) helper.join();
    return ms_since(start) / static_cast<double>(count);
}

}  // namespace

void Measurement::start(const Access& access) {
    if (!session_.options.measure || (session_.unmeasured.empty() && session_.layouts.empty())) return;
    std::call_once(once_, [&] {
        access_ = access;
        const std::lock_guard<std::mutex> held(lock_);
        const Quiet signals;
        if (!stopping()) thread_ = std::thread([this] { run(); });
    });
}

void Measurement::finish() {
    {
        const std::lock_guard<std::mutex> held(lock_);
        stop_ = true;
    }
    hurry_.notify_all();
    if (thread_.joinable()) thread_.join();
}

void Measurement::run() {
    std::vector<Candidate> line = session_.unmeasured;
    for (size_t place = 0;; place++) {
        if (place == session_.unmeasured.size()) {  // other layouts only of the fastest, unless another proved faster
            const Times times = session_.times->read();
            const auto ours = times.find(session_.taken.name());
            const bool beaten = std::any_of(session_.unmeasured.begin(), session_.unmeasured.end(), [&](const Candidate& one) {
                const auto found = times.find(one.name());
                return ours != times.end() && ours->second && found != times.end() && found->second && *found->second < *ours->second;
            });
            if (!beaten) line.insert(line.end(), session_.layouts.begin(), session_.layouts.end());
        }
        if (place >= line.size()) return;
        wait_until_idle();  // so that two engines aren't held in memory all through a long job
        if (stopping()) return;
        try {
            Times times;
            if (measure(line[place], times)) session_.times->remember(times);
        } catch (const Error& error) {  // one of the two broke off, and the next opening may find out which
            session_.notes.add(line[place].name() + " is not measured yet: " + error.what());
        } catch (const FileError& error) {
            session_.notes.add(std::string("what was measured can't be kept: ") + error.what());
        } catch (const std::exception& error) {
            session_.notes.add(line[place].name() + " is not measured yet: " + error.what());
        }
    }
}

bool Measurement::measure(const Candidate& candidate, Times& times) {
    const std::string name = candidate.name(), own = session_.taken.name();
    std::unique_ptr<Engine> other;
    try {
        other = open_validated(session_, candidate);
    } catch (const Error& error) {
        session_.notes.add(name + (error.status == BLASTSCOPE_DIGEST_MISMATCH ? " is not measured: " : " is passed over: ") + error.what());
        // a bundle that was replaced meanwhile says nothing of the candidate
        if (error.status != BLASTSCOPE_DIGEST_MISMATCH) times[name] = std::nullopt;
        return !times.empty();
    }
    if (other->save_to_cache)
        if (const auto reason = other->save_to_cache()) session_.notes.add(*reason);
    const auto best = race(*other);
    if (!best) {
        session_.notes.add(name + " is not measured yet: the handle was at work all the time");
        return false;
    }
    const auto [ours, theirs] = *best;
    char told[160];
    std::snprintf(told, sizeof told, "measured %s: %.1f ms a crop, %s %.1f ms", name.c_str(), theirs, own.c_str(), ours);
    session_.notes.add(told);
    // the ratio counts: what the open engine was found to take in quieter hours stays
    const Times before = session_.times->read();
    const auto found = before.find(own);
    const double known = found != before.end() && found->second.value_or(0) > 0 ? *found->second : ours;
    times = {{own, known}, {name, theirs * known / ours}};
    return true;
}

std::optional<std::pair<double, double>> Measurement::race(Engine& other) {
    double best[2] = {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity()};
    const auto end = Clock::now() + MEASURED;
    const size_t size = session_.golden.crops.size() / static_cast<size_t>(session_.golden.count);
    auto crop = [&](size_t lane) { return session_.golden.crops.data() + lane % static_cast<size_t>(session_.golden.count) * size; };
    int rounds = 0;
    for (int attempt = 0; attempt < MOST_ROUNDS; attempt++) {
        if (rounds >= LEAST_ROUNDS && (Clock::now() > end || stopping())) break;
        wait_until_idle();
        const uint64_t begun = access_.busy().second;
        const double ours = time_of(session_.engine->lanes.size(), [&](size_t lane) { access_.infer(crop(lane)); });
        const double theirs = time_of(other.lanes.size(), [&](size_t lane) {
            float answer[8];
            other.lanes[lane]->infer(crop(lane), answer);
        });
        const auto [busy, now] = access_.busy();
        if (busy == 0 && now == begun) {  // waiting for somebody else's calls isn't work
            best[0] = std::min(best[0], ours);
            best[1] = std::min(best[1], theirs);
            rounds++;
        }
    }
    if (rounds == 0) return std::nullopt;
    return std::make_pair(best[0], best[1]);
}

void Measurement::wait_until_idle() {
    std::unique_lock<std::mutex> held(lock_);
    while (!stopping() && access_.busy().first > 0) hurry_.wait_for(held, GLANCE);
}

}  // namespace blastscope
