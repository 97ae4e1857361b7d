// The C functions: handles and tickets by number, and no exception leaves.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>
#include <unordered_map>

#include "errors.h"
#include "scope.h"
#include "signature.h"
#include "utf8.h"

static_assert(sizeof(blastscope_prediction) == 384 && sizeof(blastscope_image) == 40, "other languages have these sizes");

namespace blastscope {
namespace {

thread_local std::string last_error, described[BLASTSCOPE_NOTES + 1];  // a text each, so that one doesn't take another's place

class Registry {  // never destroyed: threads may outlive the statics
public:
    static Registry& instance() {
        static Registry* const registry = new Registry;
        return *registry;
    }

    blastscope_handle add(std::shared_ptr<Scope> scope) {
        const std::lock_guard<std::mutex> held(lock_);
        if (!ends_.exchange(true)) std::atexit([] { instance().close_all(); });  // before the libraries' own ends
        scopes_[++last_] = std::move(scope);
        return last_;
    }
    std::shared_ptr<Scope> scope(blastscope_handle handle) {
        const std::lock_guard<std::mutex> held(lock_);
        const auto found = scopes_.find(handle);
        if (found == scopes_.end()) fail(BLASTSCOPE_CLOSED, "the handle is closed, or never was: open the bundle again");
        found->second->check_process();
        return found->second;
    }
    std::shared_ptr<Scope> any_scope(blastscope_handle handle) {  // an inherited one, too
        const std::lock_guard<std::mutex> held(lock_);
        const auto found = scopes_.find(handle);
        if (found == scopes_.end()) fail(BLASTSCOPE_CLOSED, "the handle is closed, or never was");
        return found->second;
    }
    void drop(blastscope_handle handle) {
        const std::lock_guard<std::mutex> held(lock_);
        scopes_.erase(handle);
    }

    void add(const std::shared_ptr<Ticket>& ticket) {
        const std::lock_guard<std::mutex> held(lock_);
        ticket->number = ++last_;
        tickets_[ticket->number] = ticket;
    }
    std::shared_ptr<Ticket> ticket(blastscope_ticket number) {
        const std::lock_guard<std::mutex> held(lock_);
        const auto found = tickets_.find(number);
        return found == tickets_.end() ? nullptr : found->second;
    }
    void drop_ticket(blastscope_ticket number) {
        const std::lock_guard<std::mutex> held(lock_);
        tickets_.erase(number);
    }

private:
    void close_all() {
        for (;;) {
            std::shared_ptr<Scope> scope;
            {
                const std::lock_guard<std::mutex> held(lock_);
                if (scopes_.empty()) return;
                scope = scopes_.begin()->second;
                scopes_.erase(scopes_.begin());
            }
            if (!scope->inherited() && !scope->works_here()) scope->close();
        }
    }

    std::mutex lock_;
    std::atomic<bool> ends_{false};
    uint64_t last_ = 0;
    std::unordered_map<blastscope_handle, std::shared_ptr<Scope>> scopes_;
    std::unordered_map<blastscope_ticket, std::shared_ptr<Ticket>> tickets_;
};

void keep(const char* message) noexcept {
    try {
        last_error = readable(message);
    } catch (...) {
        last_error.clear();
    }
}

template <class Function>
blastscope_status guarded(Function function) noexcept {
    try {
        return function();
    } catch (const Error& error) {
        keep(error.what());
        return error.status;
    } catch (const std::bad_alloc&) {
        keep("memory doesn't suffice");
        return BLASTSCOPE_OUT_OF_MEMORY;
    } catch (const std::exception& error) {
        keep(error.what());
        return BLASTSCOPE_ERROR;
    } catch (...) {
        keep("something that is no exception was thrown");
        return BLASTSCOPE_ERROR;
    }
}

template <class Pointer>
void need(const char* name, Pointer pointer) {
    if (pointer == nullptr) fail(BLASTSCOPE_USAGE, std::string(name) + " is NULL");
}

std::unique_ptr<Session> open(const std::string& path, const Options& options) {
    for (int attempt = 0;; attempt++) {
        try {
            Bundle bundle = read_bundle(path, options.cache_dir);
            if (options.signers) check_signature(bundle, path, *options.signers);
            return open_session(std::move(bundle), options);
        } catch (const Error& error) {
            // a writer may have put the next bundle in this one's place; of a damaged one the next reading tells
            if (error.status != BLASTSCOPE_DIGEST_MISMATCH || attempt == 2) throw;
        }
    }
}

// Waits until the ticket is answered, or `timeout_ms` is over.
bool wait_for(std::unique_lock<std::mutex>& held, Ticket& ticket, int64_t timeout_ms) {
    auto answered = [&] { return ticket.state == Ticket::State::done || ticket.state == Ticket::State::taken; };
    if (timeout_ms < 0) {
        ticket.answered.wait(held, answered);
        return true;
    }
    const auto most = std::chrono::hours(24 * 365);
    return ticket.answered.wait_for(held, std::min<std::chrono::milliseconds>(std::chrono::milliseconds(timeout_ms), most), answered);
}

}  // namespace
}  // namespace blastscope

using namespace blastscope;

extern "C" {

const char* blastscope_version(void) { return BLASTSCOPE_VERSION; }
const char* blastscope_last_error(void) { return last_error.c_str(); }

const char* blastscope_status_name(int32_t status) {
    switch (status) {
        case BLASTSCOPE_OK: return "Ok";
        case BLASTSCOPE_PENDING: return "Pending";
        case BLASTSCOPE_ERROR: return "BlastscopeError";
        case BLASTSCOPE_OUT_OF_MEMORY: return "MemoryError";
        case BLASTSCOPE_CLOSED: return "Closed";
        case BLASTSCOPE_USAGE: return "UsageError";
        case BLASTSCOPE_IMAGE: return "ImageError";
        case BLASTSCOPE_DATA: return "DataError";
        case BLASTSCOPE_BUNDLE: return "BundleError";
        case BLASTSCOPE_DIGEST_MISMATCH: return "DigestMismatch";
        case BLASTSCOPE_FORMAT_TOO_NEW: return "FormatTooNew";
        case BLASTSCOPE_GOLDEN_MISMATCH: return "GoldenMismatch";
        case BLASTSCOPE_UNGATED: return "UngatedBundle";
        case BLASTSCOPE_SIGNATURE: return "SignatureError";
        case BLASTSCOPE_UNAVAILABLE: return "UnavailableError";
        case BLASTSCOPE_MISSING_LIBRARY: return "MissingLibrary";
        case BLASTSCOPE_DEVICE: return "DeviceError";
        case BLASTSCOPE_ENGINE: return "EngineError";
        default: return "";
    }
}

const char* blastscope_refusal_name(int32_t refusal) {
    static const char* const names[] = {"",          "undecodable", "bomb",      "not-8-bit-rgb", "empty",        "not-on-black",    "touches-border",
                                        "too-small", "too-large",   "clumped",   "out-of-focus",  "not-lymphoid", "unlike-training", "failed",
                                        "unsegmented"};
    return refusal >= 0 && refusal < static_cast<int32_t>(sizeof names / sizeof *names) ? names[refusal] : "";
}

void blastscope_options_init(blastscope_options* options, uint32_t struct_size) {
    if (options == nullptr || struct_size < sizeof(uint32_t)) return;
    blastscope_options defaults{};
    defaults.struct_size = struct_size;
    defaults.measure = 1;
    std::memset(options, 0, struct_size);
    std::memcpy(options, &defaults, std::min<size_t>(struct_size, sizeof defaults));
}

blastscope_status blastscope_open(const char* path, const blastscope_options* options, blastscope_handle* handle) {
    return guarded([&] {
        need("handle", handle);
        *handle = 0;
        need("path", path);
        auto scope = std::make_shared<Scope>(open(path, parse_options(options)));
        *handle = Registry::instance().add(std::move(scope));
        return BLASTSCOPE_OK;
    });
}

blastscope_status blastscope_close(blastscope_handle handle) {
    return guarded([&] {
        const std::shared_ptr<Scope> scope = Registry::instance().any_scope(handle);
        scope->close();
        if (scope->inherited()) new std::shared_ptr<Scope>(scope);  // its threads and networks are the parent's: nothing is freed
        Registry::instance().drop(handle);
        return BLASTSCOPE_OK;
    });
}

const char* blastscope_describe(blastscope_handle handle, blastscope_text text) {
    const char* found = nullptr;
    guarded([&] {
        const std::shared_ptr<Scope> scope = Registry::instance().scope(handle);
        if (text < 0 || text > BLASTSCOPE_NOTES) fail(BLASTSCOPE_USAGE, "there is no text " + std::to_string(static_cast<int>(text)));
        described[text] = scope->describe(text);
        found = described[text].c_str();
        return BLASTSCOPE_OK;
    });
    return found;
}

blastscope_status blastscope_crop(blastscope_handle handle, const blastscope_image* image, uint8_t* crop, size_t size, int32_t* side,
                                  blastscope_prediction* prediction) {
    return guarded([&] {
        const std::shared_ptr<Scope> scope = Registry::instance().scope(handle);
        if (side != nullptr) *side = scope->side_px();
        if (crop == nullptr) return BLASTSCOPE_OK;
        need("image", image);
        blastscope_prediction unwanted;
        scope->crop(*image, crop, size, prediction ? *prediction : unwanted);
        return BLASTSCOPE_OK;
    });
}

blastscope_status blastscope_classify(blastscope_handle handle, const blastscope_image* image, blastscope_prediction* prediction) {
    return guarded([&] {
        need("image", image);
        need("prediction", prediction);
        Registry::instance().scope(handle)->classify(*image, *prediction);
        return BLASTSCOPE_OK;
    });
}

blastscope_status blastscope_classify_many(blastscope_handle handle, const blastscope_image* images, size_t count,
                                           blastscope_prediction* predictions) {
    return guarded([&] {
        const std::shared_ptr<Scope> scope = Registry::instance().scope(handle);
        if (count > 0) {
            need("images", images);
            need("predictions", predictions);
        }
        scope->classify_many(images, count, predictions);
        return BLASTSCOPE_OK;
    });
}

blastscope_status blastscope_submit(blastscope_handle handle, const blastscope_image* image, blastscope_callback callback, void* user,
                                    blastscope_ticket* ticket) {
    return guarded([&] {
        need("image", image);
        if (callback == nullptr) need("ticket", ticket);
        const std::shared_ptr<Scope> scope = Registry::instance().scope(handle);
        const auto fresh = std::make_shared<Ticket>();
        fresh->callback = callback;
        fresh->user = user;
        fresh->scope = scope;
        fresh->ended = [](blastscope_ticket number) { Registry::instance().drop_ticket(number); };
        Registry::instance().add(fresh);
        if (ticket != nullptr) *ticket = fresh->number;
        try {
            scope->submit(*image, fresh);
        } catch (...) {
            Registry::instance().drop_ticket(fresh->number);
            if (ticket != nullptr) *ticket = 0;
            throw;
        }
        return BLASTSCOPE_OK;
    });
}

blastscope_status blastscope_wait(blastscope_ticket ticket, int64_t timeout_ms, blastscope_prediction* prediction) {
    return guarded([&] {
        need("prediction", prediction);
        const std::shared_ptr<Ticket> found = Registry::instance().ticket(ticket);
        const char* unknown = "the ticket is unknown, or was answered or forgotten";
        if (!found || found->callback != nullptr) fail(BLASTSCOPE_USAGE, found ? "the ticket's answer goes to its callback" : unknown);
        std::unique_lock<std::mutex> held(found->lock);
        if (found->state < Ticket::State::done && timeout_ms != 0) {
            const std::shared_ptr<Scope> scope = found->scope.lock();
            if (scope && scope->works_here()) fail(BLASTSCOPE_USAGE, "a callback can't wait for an answer: it would wait for itself");
        }
        if (!wait_for(held, *found, timeout_ms)) return BLASTSCOPE_PENDING;
        if (found->state == Ticket::State::taken || found->forgotten) fail(BLASTSCOPE_USAGE, unknown);
        found->state = Ticket::State::taken;
        Registry::instance().drop_ticket(ticket);
        if (found->status != BLASTSCOPE_OK) fail(found->status, found->message);
        *prediction = found->prediction;
        return BLASTSCOPE_OK;
    });
}

void blastscope_forget(blastscope_ticket ticket) {
    guarded([&] {
        const std::shared_ptr<Ticket> found = Registry::instance().ticket(ticket);
        if (!found) return BLASTSCOPE_OK;
        Registry::instance().drop_ticket(ticket);
        const std::lock_guard<std::mutex> held(found->lock);
        found->forgotten = true;
        return BLASTSCOPE_OK;
    });
}

}  // extern "C"
