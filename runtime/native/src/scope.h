// Scope: an open bundle for many threads, its lanes, and the line of what was submitted.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "measurement.h"
#include "session.h"

namespace blastscope {

class Scope;

class Ticket {  // one submitted image
public:
    enum class State { waiting, computing, done, taken };

    blastscope_ticket number = 0;
    blastscope_callback callback = nullptr;
    void* user = nullptr;
    std::vector<uint8_t> crop;
    Box box;
    std::weak_ptr<Scope> scope;
    void (*ended)(blastscope_ticket) = nullptr;  // called once the callback returned

    std::mutex lock;  // of what follows
    std::condition_variable answered;
    State state = State::waiting;
    bool forgotten = false;
    blastscope_status status = BLASTSCOPE_OK;
    std::string message;
    blastscope_prediction prediction{};
};

class Scope {  // to be closed before it is destroyed
public:
    explicit Scope(std::unique_ptr<Session> session);

    void classify(const blastscope_image& image, blastscope_prediction& prediction);
    void classify_many(const blastscope_image* images, size_t count, blastscope_prediction* predictions);
    // Crops now, and puts the ticket in line; answers a refusal at once.
    void submit(const blastscope_image& image, const std::shared_ptr<Ticket>& ticket);
    void crop(const blastscope_image& image, uint8_t* crop, size_t size, blastscope_prediction& prediction);
    int side_px() const { return session_->bundle->manifest.crop.side_px; }
    std::string describe(blastscope_text text);
    void close();  // waits for the calls under way; throws Error (USAGE) in a callback

    void check_process() const;  // throws Error (USAGE) in a forked child
    bool inherited() const;
    bool works_here() const;     // this thread is one of the pool's: a callback runs in one

private:
    class Call;  // holds the engine open
    class Turn;  // holds a lane
    using Answer = float[8];

    void begin();
    void end();
    void infer(const uint8_t* crop, Answer& answer);
    void predict(const uint8_t* crop, const Box& box, blastscope_prediction& prediction);
    void classify_here(const blastscope_image& image, blastscope_prediction& prediction);
    void start(std::function<void()> task);  // in a thread of the pool, of which there is one for each lane
    void work();
    void answer(const std::shared_ptr<Ticket>& ticket);
    void finish(const std::shared_ptr<Ticket>& ticket, blastscope_status status, const std::string& message);

    std::unique_ptr<Session> session_;
    Measurement measurement_;
    const int process_;

    std::mutex lock_;  // of what follows
    std::condition_variable state_, lane_freed_, task_there_;
    size_t calls_ = 0, waiting_ = 0;
    uint64_t begun_ = 0;
    bool closing_ = false, closed_ = false, stopping_ = false;
    std::vector<Lane*> free_lanes_;
    std::deque<std::function<void()>> tasks_;
    std::vector<std::thread> threads_;
    size_t idle_ = 0;
};

}  // namespace blastscope
