// Measures after the first answer which candidates are fastest on this machine, for the next opening.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "session.h"

namespace blastscope {

class Measurement {
public:
    // `infer` runs one crop on a lane of the open engine; `busy` tells how many calls are under way and how many ever began.
    struct Access {
        std::function<void(const uint8_t* crop)> infer;
        std::function<std::pair<size_t, uint64_t>()> busy;
    };

    explicit Measurement(Session& session) : session_(session) {}
    ~Measurement() { finish(); }
    void start(const Access& access);  // begins, in a thread of its own, unless it began or there is nothing to measure
    void finish();                     // ends the candidate that is being measured, in as few rounds as do

private:
    void run();
    bool measure(const Candidate& candidate, Times& times);
    std::optional<std::pair<double, double>> race(Engine& other);
    void wait_until_idle();
    bool stopping() const { return stop_.load(); }

    Session& session_;
    Access access_;
    std::once_flag once_;
    std::thread thread_;
    std::mutex lock_;
    std::condition_variable hurry_;
    std::atomic<bool> stop_{false};
};

}  // namespace blastscope
