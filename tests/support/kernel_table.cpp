// The kernels themselves, compiled as plain C++.
#include "host_shim.h"

#include "crop.cu"
#include "faults.cuh"

#include "kernel_table.h"

#include <cstddef>
#include <type_traits>
#include <utility>
#include <vector>

namespace shim {
namespace {

template <class Parameter>
Parameter argument(std::uint64_t value) {
    if constexpr (std::is_pointer_v<Parameter>)
        return reinterpret_cast<Parameter>(value);
    else
        return static_cast<Parameter>(value);
}

template <auto kernel, class Parameters>
struct Caller;

template <auto kernel, class... Parameters>
struct Caller<kernel, void (*)(Parameters...)> {
    static_assert(((std::is_pointer_v<Parameters> || std::is_same_v<Parameters, int>) && ...), "addresses and ints only");

    static void call(const std::uint64_t* values) { spread(values, std::index_sequence_for<Parameters...>()); }

    template <std::size_t... at>
    static void spread(const std::uint64_t* values, std::index_sequence<at...>) {
        kernel(argument<Parameters>(values[at])...);
    }

    static std::string kinds() { return {(std::is_pointer_v<Parameters> ? 'a' : 'i')...}; }
};

template <auto kernel>
Kernel kernel_of(const char* name) {
    using Call = Caller<kernel, decltype(kernel)>;
    return {name, Call::kinds(), &Call::call};
}

}  // namespace

const Kernel* kernel_named(const std::string& name) {
    static const std::vector<Kernel> kernels = {
        kernel_of<&crop_gray>("crop_gray"),       kernel_of<&crop_mask>("crop_mask"),   kernel_of<&crop_join>("crop_join"),
        kernel_of<&crop_tally>("crop_tally"),     kernel_of<&crop_measure>("crop_measure"),
        kernel_of<&crop_resize>("crop_resize"),
        // kernels with faults, on which the tests try the shim itself
        kernel_of<&fault_barrier_in_branch>("fault_barrier_in_branch"), kernel_of<&fault_two_barriers>("fault_two_barriers"),
        kernel_of<&fault_past_shared>("fault_past_shared"), kernel_of<&fault_lost_update>("fault_lost_update"),
        kernel_of<&fault_past_end>("fault_past_end"),
    };
    for (const Kernel& kernel : kernels)
        if (kernel.name == name) return &kernel;
    return nullptr;
}

}  // namespace shim
