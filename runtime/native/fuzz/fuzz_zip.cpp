// libFuzzer: any bytes as a zip are unpacked into a cache, or refused with an Error.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "errors.h"
#include "files.h"
#include "unpack.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static const std::string place = [] {
        char memory[] = "/dev/shm/fuzz-zip-XXXXXX", disk[] = "/tmp/fuzz-zip-XXXXXX";
        const char* const made = ::mkdtemp(memory);
        return std::string(made ? made : ::mkdtemp(disk));
    }();
    static const int removed_at_the_end = std::atexit([] { blastscope::remove_all(place); });
    (void)removed_at_the_end;
    const std::string path = place + "/fuzzed.zip";
    std::FILE* file = std::fopen(path.c_str(), "wb");
    std::fwrite(data, 1, size, file);
    std::fclose(file);
    try {
        blastscope::unpack(path, place + "/cache");
    } catch (const blastscope::Error&) {
    }
    blastscope::remove_all(place + "/cache");
    return 0;
}
