// The kernels that the shim can launch, by name, and how their arguments are unpacked.
#pragma once

#include <cstdint>
#include <string>

namespace shim {

struct Kernel {
    std::string name, kinds;  // of each parameter: 'a' an address, 'i' an int
    void (*call)(const std::uint64_t*);
};

const Kernel* kernel_named(const std::string& name);

}  // namespace shim
