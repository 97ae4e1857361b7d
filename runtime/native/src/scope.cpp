#include "scope.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "errors.h"
#include "prediction.h"
#include "quiet.h"
#include "utf8.h"
#include "vote.h"

namespace blastscope {
namespace {

thread_local const Scope* at_work = nullptr;  // the scope whose thread this is

std::vector<uint8_t>& scratch(size_t size) {  // a crop of this thread's
    thread_local std::vector<uint8_t> crop;
    if (crop.size() < size) crop.resize(size);
    return crop;
}

}  // namespace

class Scope::Call {
public:
    explicit Call(Scope& scope) : scope_(scope) { scope_.begin(); }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;
    ~Call() { scope_.end(); }

private:
    Scope& scope_;
};

class Scope::Turn {
public:
    explicit Turn(Scope& scope) : scope_(scope) {
        std::unique_lock<std::mutex> held(scope_.lock_);
        scope_.lane_freed_.wait(held, [this] { return !scope_.free_lanes_.empty(); });
        lane = scope_.free_lanes_.back();
        scope_.free_lanes_.pop_back();
    }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    ~Turn() {
        {
            const std::lock_guard<std::mutex> held(scope_.lock_);
            scope_.free_lanes_.push_back(lane);  // there is room: it was taken from there
        }
        scope_.lane_freed_.notify_one();
    }
    Lane* lane;

private:
    Scope& scope_;
};

Scope::Scope(std::unique_ptr<Session> session) : session_(std::move(session)), measurement_(*session_), process_(::getpid()) {
    for (const auto& lane : session_->engine->lanes) free_lanes_.push_back(lane.get());
}

bool Scope::inherited() const { return ::getpid() != process_; }
bool Scope::works_here() const { return at_work == this; }

void Scope::check_process() const {
    if (inherited())
        fail(BLASTSCOPE_USAGE, "the handle was opened in process " + std::to_string(process_) +
                                   " and doesn't survive a fork: open the bundle in the child");
}

void Scope::begin() {
    const std::lock_guard<std::mutex> held(lock_);
    if (closing_) fail(BLASTSCOPE_CLOSED, "the handle is closed: open the bundle again");
    calls_++;
    begun_++;
}

void Scope::end() {
    const std::lock_guard<std::mutex> held(lock_);
    calls_--;
    state_.notify_all();
}

void Scope::infer(const uint8_t* crop, Answer& answer) {
    const Turn turn(*this);
    if (session_->cascade)
        turn.lane->infer_in_turn(crop, answer, *session_->cascade);
    else
        turn.lane->infer(crop, answer);
}

void Scope::predict(const uint8_t* crop, const Box& box, blastscope_prediction& prediction) {
    const Manifest& manifest = session_->bundle->manifest;
    Answer answer;
    infer(crop, answer);
    clear_prediction(prediction);
    set_box(prediction, box);
    float table[3][2];
    std::memcpy(table, answer, sizeof table);
    const float threshold = static_cast<float>(manifest.operating_point.value_or(0));
    const Vote call = vote(table, manifest.operating_point ? &threshold : nullptr, session_->cascade.has_value());
    if (session_->engine->rows == 4) {
        if (!std::isfinite(answer[6])) fail(BLASTSCOPE_ENGINE, "a network answered with something that is not a number");
        prediction.novelty = answer[6];
    }
    measurement_.start({[this](const uint8_t* golden) {
                            Answer unused;
                            infer(golden, unused);
                        },
                        [this] {
                            const std::lock_guard<std::mutex> held(lock_);
                            return std::make_pair(calls_, begun_);
                        }});
    if (manifest.novelty_limit && !session_->options.call_unlike_training && session_->engine->rows == 4 &&
        static_cast<double>(answer[6]) > *manifest.novelty_limit) {
        char detail[160];
        std::snprintf(detail, sizeof detail, "its features lie %.2f from those of the training's cells, and %.2f is the limit",
                      static_cast<double>(answer[6]), *manifest.novelty_limit);
        prediction.refusal = BLASTSCOPE_UNLIKE_TRAINING;
        put_detail(prediction, detail);
        return;
    }
    fill_call(prediction, call, table, manifest.sets);
}

void Scope::classify_here(const blastscope_image& image, blastscope_prediction& prediction) {
    const CropSpecification& spec = session_->bundle->manifest.crop;
    std::vector<uint8_t>& crop = scratch(static_cast<size_t>(spec.side_px) * spec.side_px * 3);
    Box box;
    if (const Refusal refusal = crop_cell(image, spec, crop.data(), box))
        fill_refusal(prediction, refusal);
    else
        predict(crop.data(), box, prediction);
}

void Scope::classify(const blastscope_image& image, blastscope_prediction& prediction) {
    const Call call(*this);
    classify_here(image, prediction);
}

void Scope::crop(const blastscope_image& image, uint8_t* crop, size_t size, blastscope_prediction& prediction) {
    const Call call(*this);
    const CropSpecification& spec = session_->bundle->manifest.crop;
    const size_t needed = static_cast<size_t>(spec.side_px) * spec.side_px * 3;
    if (size < needed)
        fail(BLASTSCOPE_USAGE, "a crop has " + std::to_string(needed) + " bytes, and there is room for " + std::to_string(size));
    std::vector<uint8_t>& made = scratch(needed);  // what is refused leaves the caller's alone
    Box box;
    if (const Refusal refusal = crop_cell(image, spec, made.data(), box)) {
        fill_refusal(prediction, refusal);
        return;
    }
    clear_prediction(prediction);
    set_box(prediction, box);
    std::memcpy(crop, made.data(), needed);
}

void Scope::classify_many(const blastscope_image* images, size_t count, blastscope_prediction* predictions) {
    const Call call(*this);
    struct Work {  // shared with helpers that may begin when all is done
        std::atomic<size_t> next{0};
        std::mutex lock;
        std::condition_variable idle;
        size_t helping = 0;
        bool over = false;
        std::optional<Error> failure;
        bool out_of_memory = false;
    };
    const auto work = std::make_shared<Work>();
    auto run = [this, images, count, predictions](Work& shared) {
        for (size_t place; (place = shared.next++) < count;) {
            blastscope_prediction& prediction = predictions[place];
            try {
                classify_here(images[place], prediction);
            } catch (const Error& error) {
                if (error.status == BLASTSCOPE_IMAGE) {
                    fill_refusal(prediction, {BLASTSCOPE_NOT_8_BIT_RGB, error.what()});
                    continue;
                }
                clear_prediction(prediction);
                prediction.status = error.status;
                const std::lock_guard<std::mutex> held(shared.lock);
                if (!shared.failure) shared.failure.emplace(error);
            } catch (const std::bad_alloc&) {
                clear_prediction(prediction);
                prediction.status = BLASTSCOPE_OUT_OF_MEMORY;
                const std::lock_guard<std::mutex> held(shared.lock);
                shared.out_of_memory = true;
            }
        }
    };
    auto help = [work, run] {
        {
            const std::lock_guard<std::mutex> held(work->lock);
            if (work->over) return;
            work->helping++;
        }
        run(*work);
        const std::lock_guard<std::mutex> held(work->lock);
        if (--work->helping == 0) work->idle.notify_all();
    };
    try {
        for (size_t helper = 1; helper < std::min(session_->engine->lanes.size(), count); helper++) start(help);
    } catch (const std::exception&) {  // fewer helpers, or none: this thread does what they don't
    }
    run(*work);
    std::unique_lock<std::mutex> held(work->lock);
    work->over = true;
    work->idle.wait(held, [&] { return work->helping == 0; });
    if (work->failure) throw Error(*work->failure);
    if (work->out_of_memory) throw std::bad_alloc();
}

void Scope::submit(const blastscope_image& image, const std::shared_ptr<Ticket>& ticket) {
    {
        const Call call(*this);
        const CropSpecification& spec = session_->bundle->manifest.crop;
        ticket->crop.resize(static_cast<size_t>(spec.side_px) * spec.side_px * 3);
        if (const Refusal refusal = crop_cell(image, spec, ticket->crop.data(), ticket->box)) {
            fill_refusal(ticket->prediction, refusal);
            ticket->crop.clear();
        }
    }
    {
        std::unique_lock<std::mutex> held(lock_);
        auto there_is_room = [this] { return closing_ || waiting_ < static_cast<size_t>(session_->options.queue); };
        if (works_here() && !there_is_room())
            fail(BLASTSCOPE_USAGE, std::to_string(session_->options.queue) +
                                       " images wait, and a callback can't wait for room: it would wait for itself; hand over fewer, "
                                       "open the bundle with a larger queue, or submit from a thread of your own");
        state_.wait(held, there_is_room);
        if (closing_) fail(BLASTSCOPE_CLOSED, "the handle is closed: open the bundle again");
        calls_++;  // until it is answered
        begun_++;
        waiting_++;
    }
    try {
        start([this, ticket] { answer(ticket); });
    } catch (...) {
        const std::lock_guard<std::mutex> held(lock_);
        waiting_--;
        calls_--;
        state_.notify_all();
        throw;
    }
}

void Scope::answer(const std::shared_ptr<Ticket>& ticket) {
    {
        const std::lock_guard<std::mutex> held(lock_);
        waiting_--;
        state_.notify_all();
    }
    blastscope_status status = BLASTSCOPE_OK;
    std::string message;
    bool wanted;
    {
        const std::lock_guard<std::mutex> held(ticket->lock);
        wanted = !ticket->forgotten;
        ticket->state = Ticket::State::computing;
    }
    if (wanted && !ticket->crop.empty()) {
        try {
            blastscope_prediction prediction;
            predict(ticket->crop.data(), ticket->box, prediction);
            ticket->prediction = prediction;
        } catch (const Error& error) {
            status = error.status;
            message = readable(error.what());
        } catch (const std::bad_alloc&) {
            status = BLASTSCOPE_OUT_OF_MEMORY;
        } catch (const std::exception& error) {
            status = BLASTSCOPE_ERROR;
            message = readable(error.what());
        }
    }
    std::vector<uint8_t>().swap(ticket->crop);
    finish(ticket, status, message);
    end();
}

void Scope::finish(const std::shared_ptr<Ticket>& ticket, blastscope_status status, const std::string& message) {
    bool tell;
    {
        const std::lock_guard<std::mutex> held(ticket->lock);
        ticket->status = status;
        ticket->message = message;
        ticket->state = Ticket::State::done;
        tell = ticket->callback != nullptr && !ticket->forgotten;
        ticket->answered.notify_all();
    }
    if (ticket->callback == nullptr) return;
    if (tell)
        ticket->callback(ticket->user, ticket->number, status, status == BLASTSCOPE_OK ? &ticket->prediction : nullptr, message.c_str());
    ticket->ended(ticket->number);
}

void Scope::start(std::function<void()> task) {
    const std::lock_guard<std::mutex> held(lock_);
    tasks_.push_back(std::move(task));
    if (idle_ < tasks_.size() && threads_.size() < session_->engine->lanes.size()) {
        try {
            const Quiet signals;
            threads_.emplace_back([this] { work(); });
        } catch (const std::system_error&) {  // no more threads may be had: those that are there do it
            if (threads_.empty()) {
                tasks_.pop_back();
                fail(BLASTSCOPE_ERROR, "no thread can be started: the process has too many");
            }
        }
    }
    task_there_.notify_one();
}

void Scope::work() {
    at_work = this;
    std::unique_lock<std::mutex> held(lock_);
    for (;;) {
        idle_++;
        task_there_.wait(held, [this] { return stopping_ || !tasks_.empty(); });
        idle_--;
        if (tasks_.empty()) return;
        const std::function<void()> task = std::move(tasks_.front());
        tasks_.pop_front();
        held.unlock();
        task();
        held.lock();
    }
}

void Scope::close() {
    if (inherited()) return;
    if (works_here()) fail(BLASTSCOPE_USAGE, "a callback can't close its own handle: it would wait for itself");
    std::unique_lock<std::mutex> held(lock_);
    closing_ = true;
    state_.notify_all();
    state_.wait(held, [this] { return calls_ == 0; });
    if (closed_) return;
    closed_ = true;
    stopping_ = true;
    task_there_.notify_all();
    held.unlock();
    for (std::thread& thread : threads_) thread.join();
    measurement_.finish();
    session_->engine.reset();
    session_->core.reset();
}

std::string Scope::describe(blastscope_text text) {
    const Call call(*this);
    const Engine& engine = *session_->engine;
    switch (text) {
        case BLASTSCOPE_AUDIT_BUNDLE: return session_->bundle->digest;
        case BLASTSCOPE_AUDIT_ENGINE: return engine.digest;
        case BLASTSCOPE_AUDIT_BACKEND: return "openvino";
        case BLASTSCOPE_AUDIT_DEVICE: return engine.device;
        case BLASTSCOPE_AUDIT_PRECISION: return session_->taken.entry->precision;
        case BLASTSCOPE_AUDIT_EXECUTION: return engine.execution;
        case BLASTSCOPE_AUDIT_LAYOUT: return engine.layout;
        case BLASTSCOPE_BUNDLE_NAME: return session_->bundle->manifest.name;
        case BLASTSCOPE_NOTES: return session_->notes.text();
    }
    fail(BLASTSCOPE_USAGE, "there is no text " + std::to_string(static_cast<int>(text)));
}

}  // namespace blastscope
