// Runs the launches that come in on stdin over memory of its own, each array in an allocation that ends where the array does, so
// that the address sanitizer sees every step beside it. tests/support/host_kernels.py writes the requests.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

extern "C" const char* shim_launch(const char*, const unsigned*, const unsigned*, const char*, const std::uint64_t*,
                                   std::uint64_t);

namespace {

constexpr int OFFSET_BITS = 40;   // an address on the wire: (array + 1) << 40 | offset
constexpr std::size_t IMAGE_ROW = 40;

struct Array {
    std::size_t size;
    std::unique_ptr<char[]> bytes;
};

void read(void* place, std::size_t size) {
    if (size && std::fread(place, 1, size, stdin) != size) {
        std::fputs("the request is cut short\n", stderr);
        std::exit(3);
    }
}

template <class Value>
Value read() {
    Value value;
    read(&value, sizeof value);
    return value;
}

std::string read_text() {
    std::string text(read<std::uint32_t>(), ' ');
    read(text.data(), text.size());
    return text;
}

std::uint64_t real(const std::vector<Array>& arrays, std::uint64_t wire) {
    if (wire == 0) return 0;
    const std::uint64_t offset = wire & ((1ull << OFFSET_BITS) - 1);
    return reinterpret_cast<std::uint64_t>(arrays.at((wire >> OFFSET_BITS) - 1).bytes.get()) + offset;
}

// Array 0 is the table of images, whose rows begin with an address.
std::vector<Array> read_arrays() {
    std::vector<Array> arrays(read<std::uint32_t>());
    for (Array& array : arrays) {
        array.size = read<std::uint64_t>();
        array.bytes.reset(new char[array.size]);
        if (read<std::uint8_t>())
            read(array.bytes.get(), array.size);
        else
            std::memset(array.bytes.get(), 0xC3, array.size);
    }
    for (std::size_t row = 0; !arrays.empty() && row + IMAGE_ROW <= arrays[0].size; row += IMAGE_ROW) {
        std::uint64_t address;
        std::memcpy(&address, arrays[0].bytes.get() + row, sizeof address);
        address = real(arrays, address);
        std::memcpy(arrays[0].bytes.get() + row, &address, sizeof address);
    }
    return arrays;
}

std::string run_launch(const std::vector<Array>& arrays, std::uint64_t seed) {
    const std::string name = read_text(), kinds = read_text();
    unsigned shape[6];
    read(shape, sizeof shape);
    std::vector<std::uint64_t> arguments(kinds.size());
    for (std::size_t at = 0; at < kinds.size(); at++) {
        arguments[at] = read<std::uint64_t>();
        if (kinds[at] == 'a') arguments[at] = real(arrays, arguments[at]);
    }
    const char* failure = shim_launch(name.c_str(), shape, shape + 3, kinds.c_str(), arguments.data(), seed);
    return failure ? failure : "";
}

void answer(const std::vector<Array>& arrays, const std::string& failure) {
    const std::uint32_t length = static_cast<std::uint32_t>(failure.size());
    std::fwrite(&length, sizeof length, 1, stdout);
    std::fwrite(failure.data(), 1, length, stdout);
    for (std::uint32_t count = read<std::uint32_t>(); count; count--) {
        const Array& array = arrays.at(read<std::uint32_t>());
        if (failure.empty()) std::fwrite(array.bytes.get(), 1, array.size, stdout);
    }
    std::fflush(stdout);
}

}  // namespace

int main() {
    for (int more; (more = std::getchar()) != EOF;) {
        std::ungetc(more, stdin);
        const std::vector<Array> arrays = read_arrays();
        const std::uint64_t seed = read<std::uint64_t>();
        std::string failure;
        for (std::uint32_t launches = read<std::uint32_t>(), at = 0; at < launches; at++) {
            const std::string problem = run_launch(arrays, seed ? seed + at : 0);
            if (failure.empty()) failure = problem;
        }
        answer(arrays, failure);
    }
}
