// Error: what the library throws inside; api.cpp turns it into a status and a message.
#pragma once

#include <stdexcept>
#include <string>

#include "blastscope.h"

namespace blastscope {

class Error : public std::runtime_error {
public:
    Error(blastscope_status status, const std::string& message) : std::runtime_error(message), status(status) {}
    const blastscope_status status;
};

[[noreturn]] inline void fail(blastscope_status status, const std::string& message) { throw Error(status, message); }

// A bundle that can't be used, with the words of Python's BundleError.
[[noreturn]] inline void bundle_fail(const std::string& bundle, const std::string& problem,
                                     blastscope_status status = BLASTSCOPE_BUNDLE) {
    throw Error(status, "bundle '" + bundle + "': " + problem);
}

}  // namespace blastscope
