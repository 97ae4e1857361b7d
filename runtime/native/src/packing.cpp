// As runtime/bundle/archive.py writes it, by Python's zipfile: manifest.json, then the others sorted, stored, with fixed times.
#include "packing.h"

#include <algorithm>
#include <initializer_list>
#include <utility>
#include <vector>

#include <zlib.h>

#include "errors.h"
#include "sha256.h"

namespace blastscope {
namespace {

constexpr uint64_t LARGE = 2000000000;  // bytes: what is larger is written otherwise, as ZIP64
constexpr uint32_t LONG_AGO = 33;       // 1980-01-01, the first day that a zip can tell
constexpr uint32_t VERSION = 20;
constexpr uint32_t UNIX = 3, PLAIN_FILE = 0100644;

std::string numbers(std::initializer_list<std::pair<uint64_t, int>> parts) {  // each with its bytes, the lowest first
    std::string found;
    for (auto [value, size] : parts)
        for (int at = 0; at < size; at++) found += static_cast<char>(value >> 8 * at & 255);
    return found;
}

struct Zip {
    Sha256 digest;
    uint64_t size = 0;
    std::string directory;
    uint64_t members = 0;

    void write(const std::string& data) {
        digest.update(data);
        size += data.size();
    }
    void add(const std::string& name, const std::string& data) {
        const uint64_t checksum = ::crc32_z(0, reinterpret_cast<const unsigned char*>(data.data()), data.size());
        // version, flags, method, time, day, checksum, packed and unpacked size, length of the name and of what more there is
        const std::string told = numbers({{VERSION, 2}, {0, 2}, {0, 2}, {0, 2}, {LONG_AGO, 2}, {checksum, 4}, {data.size(), 4},
                                          {data.size(), 4}, {name.size(), 2}, {0, 2}});
        directory += "PK\x01\x02" + numbers({{VERSION, 1}, {UNIX, 1}}) + told +
                     numbers({{0, 2}, {0, 2}, {0, 2}, {uint64_t(PLAIN_FILE) << 16, 4}, {size, 4}}) + name;
        members++;
        write("PK\x03\x04" + told + name);
        write(data);
    }
    std::string end() {
        const uint64_t start = size;
        write(directory);
        write("PK\x05\x06" + numbers({{0, 2}, {0, 2}, {members, 2}, {members, 2}, {directory.size(), 4}, {start, 4}, {0, 2}}));
        return digest.hex();
    }
};

}  // namespace

std::string packed_sha256(const Bundle& bundle) {
    std::vector<FileEntry> files = bundle.manifest.files();
    std::sort(files.begin(), files.end(), [](const FileEntry& one, const FileEntry& other) { return one.file < other.file; });
    uint64_t total = 0;
    for (const FileEntry& entry : files) total += static_cast<uint64_t>(entry.size);
    if (total > LARGE) bundle_fail(bundle.path, "has more than 2 GB, too much for a zip whose signature can be checked: sign and open its folder");
    const std::string manifest = read_manifest_bytes(bundle.path, bundle.path);
    if (sha256_hex(manifest) != bundle.digest) bundle_fail(bundle.path, std::string(MANIFEST) + " " + CHANGED, BLASTSCOPE_DIGEST_MISMATCH);
    Zip zip;
    zip.add(MANIFEST, manifest);
    for (const FileEntry& entry : files) zip.add(entry.file, bundle.read(entry));
    return zip.end();
}

}  // namespace blastscope
