// blastscope.hpp: the C interface for C++17, with errors as exceptions and handles that close themselves. Header only.
#ifndef BLASTSCOPE_HPP
#define BLASTSCOPE_HPP

#include <cmath>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "blastscope.h"

namespace blastscope {

/// What a function came to, where that isn't OK: `status()` for programs, `what()` for people.
class Failure : public std::runtime_error {
public:
    Failure(blastscope_status status, const std::string& message)
        : std::runtime_error(std::string(blastscope_status_name(status)) + ": " + message), status_(status) {}
    blastscope_status status() const noexcept { return status_; }

private:
    blastscope_status status_;
};

inline void check(blastscope_status status) {
    if (status != BLASTSCOPE_OK) throw Failure(status, blastscope_last_error());
}

/// Pixels that stay the caller's. `row_stride` 0: rows lie side by side.
inline blastscope_image image(const std::uint8_t* pixels, std::int32_t width, std::int32_t height, std::int64_t row_stride = 0,
                              blastscope_format format = BLASTSCOPE_RGB) {
    return {pixels, width, height, row_stride, 0, format, 0};
}

/// The call on one image, or the reason why there is none.
struct Prediction : blastscope_prediction {
    bool called() const noexcept { return label >= 0; }
    const char* label_name() const noexcept { return label == 1 ? "all" : label == 0 ? "hem" : ""; }
    const char* refusal_name() const noexcept { return blastscope_refusal_name(refusal); }
};
static_assert(sizeof(Prediction) == sizeof(blastscope_prediction), "arrays of one are arrays of the other");

/// Options of `Scope`: the defaults, and what is set. Its strings live as long as it does.
class Options {
public:
    Options() { blastscope_options_init(&all, sizeof all); }
    Options(const Options&) = delete;
    Options& operator=(const Options&) = delete;
    Options& device(std::string value) { return keep(all.device, std::move(value)); }
    Options& precision(std::string value) { return keep(all.precision, std::move(value)); }
    Options& execution(std::string value) { return keep(all.execution, std::move(value)); }
    Options& layout(std::string value) { return keep(all.layout, std::move(value)); }
    Options& workload(std::string value) { return keep(all.workload, std::move(value)); }
    Options& cache_dir(std::string value) { return keep(all.cache_dir, std::move(value)); }
    /// Public keys in PEM, one of which must have signed; "trusted" stands for those of the user.
    Options& require_signature(const std::vector<std::string>& keys) {
        std::string lines;
        for (const std::string& key : keys) {
            if (key.find('\n') != std::string::npos) throw Failure(BLASTSCOPE_USAGE, "a key's path with a line break: '" + key + "'");
            lines += (&key == keys.data() ? "" : "\n") + key;
        }
        return keep(all.require_signature, std::move(lines));
    }
    Options& threads(std::int32_t value) { return all.threads = value, *this; }
    Options& queue(std::int32_t value) { return all.queue = value, *this; }
    Options& allow_ungated(bool value = true) { return all.allow_ungated = value, *this; }
    Options& cascade(bool value = true) { return all.cascade = value, *this; }
    Options& call_unlike_training(bool value = true) { return all.call_unlike_training = value, *this; }
    Options& measure(bool value) { return all.measure = value, *this; }

    blastscope_options all;

private:
    Options& keep(const char*& place, std::string value) {
        texts_.push_back(std::make_unique<std::string>(std::move(value)));
        place = texts_.back()->c_str();
        return *this;
    }
    std::vector<std::unique_ptr<std::string>> texts_;
};

/// An open bundle, for many threads at once. Closed when it goes out of scope. It can be moved, not copied.
class Scope {
public:
    explicit Scope(const std::string& path) { check(blastscope_open(path.c_str(), nullptr, &handle_)); }
    Scope(const std::string& path, const Options& options) { check(blastscope_open(path.c_str(), &options.all, &handle_)); }
    Scope(Scope&& other) noexcept : handle_(std::exchange(other.handle_, 0)) {}
    Scope& operator=(Scope&& other) noexcept {
        if (this != &other) {
            blastscope_close(handle_);
            handle_ = std::exchange(other.handle_, 0);
        }
        return *this;
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
    ~Scope() { blastscope_close(handle_); }

    blastscope_handle handle() const noexcept { return handle_; }
    void close() { check(blastscope_close(handle_)); }

    Prediction classify(const blastscope_image& image) const {
        Prediction prediction;
        check(blastscope_classify(handle_, &image, &prediction));
        return prediction;
    }

    std::vector<Prediction> classify_many(const std::vector<blastscope_image>& images) const {
        std::vector<Prediction> predictions(images.size());
        check(blastscope_classify_many(handle_, images.data(), images.size(), predictions.data()));
        return predictions;
    }

    /// The image's pixels may be used again when this returns. Waits while the line is full.
    std::future<Prediction> submit(const blastscope_image& image) const {
        auto promise = std::make_unique<std::promise<Prediction>>();
        std::future<Prediction> future = promise->get_future();
        check(blastscope_submit(handle_, &image, &Scope::answered, promise.get(), nullptr));
        promise.release();  // the callback's from here on
        return future;
    }

    std::string describe(blastscope_text text) const {
        const char* found = blastscope_describe(handle_, text);
        if (found == nullptr) throw Failure(BLASTSCOPE_ERROR, blastscope_last_error());
        return found;
    }

private:
    static void answered(void* user, blastscope_ticket, blastscope_status status, const blastscope_prediction* prediction,
                         const char* message) noexcept {
        const std::unique_ptr<std::promise<Prediction>> promise(static_cast<std::promise<Prediction>*>(user));
        try {
            if (status == BLASTSCOPE_OK) {
                Prediction copy;
                static_cast<blastscope_prediction&>(copy) = *prediction;
                promise->set_value(copy);
            } else {
                promise->set_exception(std::make_exception_ptr(Failure(status, message)));
            }
        } catch (...) {  // out of memory: whoever waits finds a broken promise
        }
    }

    blastscope_handle handle_ = 0;
};

}  // namespace blastscope

#endif
