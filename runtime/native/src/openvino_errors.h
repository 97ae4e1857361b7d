// Turns what OpenVINO throws into Error (ENGINE), as Python's backends/openvino/infer_request.py words it.
#pragma once

#include <exception>
#include <new>
#include <sstream>
#include <string>

#include "errors.h"

namespace blastscope {

template <class Function>
auto translating(const std::string& what, Function function) -> decltype(function()) {
    try {
        return function();
    } catch (const Error&) {
        throw;
    } catch (const std::bad_alloc&) {
        throw;
    } catch (const std::exception& error) {
        std::stringstream lines(error.what());
        std::string told = error.what();
        for (std::string line; std::getline(lines, line);)
            if (!line.empty() && line.rfind("Exception from", 0) != 0) {
                told = line;
                break;
            }
        fail(BLASTSCOPE_ENGINE, "openvino, " + what + ": " + told);
    }
}

}  // namespace blastscope
