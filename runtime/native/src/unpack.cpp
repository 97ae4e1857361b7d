#include "unpack.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <optional>
#include <set>

#include <minizip/unzip.h>

#include "errors.h"
#include "files.h"
#include "sha256.h"

namespace blastscope {
namespace {

constexpr uint64_t GROWTH_LIMIT = 100;               // times the zip's size; weights hardly shrink at all
constexpr size_t MEMBER_LIMIT = 256, NAME_LIMIT = 1024;
constexpr uint64_t DIRECTORY_LIMIT = 1 << 20;        // bytes; a longer one is no bundle's
constexpr size_t PIECE = 1 << 18;

class Zip {
public:
    explicit Zip(const std::string& path) : zip_(::unzOpen64(path.c_str())) {
        if (zip_ == nullptr) throw std::runtime_error("it has no directory");
    }
    Zip(const Zip&) = delete;
    Zip& operator=(const Zip&) = delete;
    ~Zip() { ::unzClose(zip_); }
    unzFile get() const { return zip_; }

    static void check(int code) {
        if (code == UNZ_OK) return;
        throw std::runtime_error(code == UNZ_CRCERROR ? "a checksum is wrong" : "it is damaged (" + std::to_string(code) + ")");
    }

private:
    unzFile zip_;
};

struct Member {
    std::string name;
    uint64_t size = 0;
    unz64_file_pos place{};
};

void check_member(const std::string& name, const unz_file_info64& info, const std::string& shown) {
    bool leaves = name.find('\\') != std::string::npos || name.find(':') != std::string::npos || name[0] == '/' ||
                  name.find('\0') != std::string::npos;
    for (size_t start = 0; start <= name.size();) {
        const size_t end = std::min(name.find('/', start), name.size());
        leaves |= name.substr(start, end - start) == "..";
        start = end + 1;
    }
    if (leaves) bundle_fail(shown, "holds '" + name + "', a path that could leave the bundle");
    const unsigned kind = static_cast<unsigned>(info.external_fa >> 16) & S_IFMT;
    if (kind != 0 && kind != S_IFREG) bundle_fail(shown, "holds '" + name + "', which is a link or a special file");
    if (info.flag & 1) bundle_fail(shown, "holds '" + name + "', which is encrypted");
    if (info.compression_method != 0 && info.compression_method != 8)
        bundle_fail(shown, "holds '" + name + "' in a compression other than deflate");
}

// Gives the bytes of the member at which the zip stands, piece by piece; no more than it is told to have.
template <class Sink>
void extract(const Zip& zip, const Member& member, Sink sink) {
    unz64_file_pos place = member.place;
    Zip::check(::unzGoToFilePos64(zip.get(), &place));
    Zip::check(::unzOpenCurrentFile(zip.get()));
    std::string piece(PIECE, '\0');
    uint64_t left = member.size;
    try {
        for (;;) {
            const int count = ::unzReadCurrentFile(zip.get(), piece.data(), static_cast<unsigned>(piece.size()));
            if (count < 0) Zip::check(count);
            if (count == 0) break;
            if (static_cast<uint64_t>(count) > left) throw std::runtime_error("a file is larger than it is told to be");
            left -= static_cast<uint64_t>(count);
            sink(piece.data(), static_cast<size_t>(count));
        }
    } catch (...) {
        ::unzCloseCurrentFile(zip.get());
        throw;
    }
    Zip::check(::unzCloseCurrentFile(zip.get()));
    if (left > 0) throw std::runtime_error("a file is smaller than it is told to be");
}

// What a zip holds: the files of its manifest, once each and in the sizes that it says, before a byte is unpacked.
struct Contents {
    std::vector<Member> members;
    std::string digest;  // of the manifest

    Contents(const Zip& zip, uint64_t zip_size, const std::string& shown) {
        unz_global_info64 global;
        Zip::check(::unzGetGlobalInfo64(zip.get(), &global));
        if (global.number_entry > MEMBER_LIMIT)
            bundle_fail(shown, "holds " + std::to_string(global.number_entry) + " files and folders, at most 256 are unpacked");
        uint64_t total = 0;
        std::map<std::string, uint64_t> sizes;
        for (int code = ::unzGoToFirstFile(zip.get()); code != UNZ_END_OF_LIST_OF_FILE; code = ::unzGoToNextFile(zip.get())) {
            Zip::check(code);
            Member member;
            unz_file_info64 info;
            std::string name(NAME_LIMIT + 1, '\0');
            Zip::check(::unzGetCurrentFileInfo64(zip.get(), &info, name.data(), NAME_LIMIT, nullptr, 0, nullptr, 0));
            if (info.size_filename > NAME_LIMIT) bundle_fail(shown, "holds a path of " + std::to_string(info.size_filename) + " letters");
            member.name = name.substr(0, info.size_filename);
            if (!member.name.empty() && member.name.back() == '/') continue;
            check_member(member.name, info, shown);
            member.size = info.uncompressed_size;
            Zip::check(::unzGetFilePos64(zip.get(), &member.place));
            if (!sizes.emplace(member.name, member.size).second) bundle_fail(shown, "holds '" + member.name + "' twice");
            if (member.size > uint64_t(1) << 40) bundle_fail(shown, "would grow more than 100-fold in unpacking");
            total += member.size;
            members.push_back(std::move(member));
        }
        const auto found = sizes.find(MANIFEST);
        if (found == sizes.end()) bundle_fail(shown, std::string("holds no ") + MANIFEST + " at its top, so it is not a bundle");
        if (total > GROWTH_LIMIT * zip_size) bundle_fail(shown, "would grow more than 100-fold in unpacking");
        if (found->second > MANIFEST_LIMIT)
            bundle_fail(shown, std::string(MANIFEST) + " is larger than " + std::to_string(MANIFEST_LIMIT) + " bytes");
        sizes.erase(found);
        std::string data;
        for (const Member& member : members)
            if (member.name == MANIFEST) extract(zip, member, [&](const char* bytes, size_t count) { data.append(bytes, count); });
        digest = sha256_hex(data);
        check_sizes(parse_manifest(data, shown), sizes, shown);
    }

private:
    static void check_sizes(const Manifest& manifest, std::map<std::string, uint64_t> sizes, const std::string& shown) {
        for (const FileEntry& entry : manifest.files()) {
            const auto found = sizes.find(entry.file);
            if (found == sizes.end()) bundle_fail(shown, entry.file + " is missing", BLASTSCOPE_DIGEST_MISMATCH);
            if (found->second != static_cast<uint64_t>(entry.size))
                bundle_fail(shown, entry.file + " is " + std::to_string(found->second) + " bytes, manifest says " + std::to_string(entry.size),
                            BLASTSCOPE_DIGEST_MISMATCH);
            sizes.erase(found);
        }
        if (!sizes.empty()) bundle_fail(shown, "holds '" + sizes.begin()->first + "', which the manifest doesn't list");
    }
};

void write_member(const Zip& zip, const Member& member, const std::string& folder) {
    for (size_t slash = member.name.find('/'); slash != std::string::npos; slash = member.name.find('/', slash + 1)) {
        const std::string step = folder + "/" + member.name.substr(0, slash);
        if (::mkdir(step.c_str(), 0700) != 0 && errno != EEXIST) throw FileError(step, errno);
    }
    const std::string path = folder + "/" + member.name;
    const int handle = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (handle < 0) throw FileError(path, errno);
    try {
        extract(zip, member, [&](const char* bytes, size_t count) {
            while (count > 0) {
                const ssize_t written = ::write(handle, bytes, count);
                if (written < 0 && errno == EINTR) continue;
                if (written < 0) throw FileError(path, errno);
                bytes += written;
                count -= static_cast<size_t>(written);
            }
        });
        if (::fsync(handle) != 0) throw FileError(path, errno);
    } catch (...) {
        ::close(handle);
        throw;
    }
    ::close(handle);
}

// The bundle that was unpacked before; nothing where it is damaged, or another than that of the zip.
std::optional<Bundle> cached(const std::string& folder, const std::string& digest, const std::string& shown) {
    if (!is_folder(folder)) return std::nullopt;
    try {
        Bundle found = read_folder(folder, shown);
        if (found.digest == digest) return found;
    } catch (const Error&) {
    }
    return std::nullopt;
}

Bundle unpack_into(const std::string& folder, const Zip& zip, const Contents& contents, const std::string& shown) {
    const FileLock alone(sibling(folder, "lock"));
    settle(folder);
    const std::string fresh = sibling(folder, "new"), old = sibling(folder, "old");
    if (::mkdir(fresh.c_str(), 0700) != 0) throw FileError(fresh, errno);
    try {
        for (const Member& member : contents.members) write_member(zip, member, fresh);
        read_folder(fresh, shown);
        flush(fresh);
        if (exists(folder)) rename_to(folder, old);
        rename_to(fresh, folder);
        flush(parent_of(folder));
    } catch (...) {
        settle(folder);
        throw;
    }
    settle(folder);
    Bundle found = read_folder(folder, shown);
    if (found.digest != contents.digest) bundle_fail(shown, std::string(MANIFEST) + " " + CHANGED, BLASTSCOPE_DIGEST_MISMATCH);
    return found;
}

// Refuses a zip whose directory is so long that reading it would take memory and time.
void check_directory(const File& file) {
    const uint64_t size = static_cast<uint64_t>(file.status().st_size);
    const size_t reach = static_cast<size_t>(std::min<uint64_t>(size, 65536 + 22));  // the end's record, and a comment
    std::string tail(reach, '\0');
    const ssize_t count = ::pread(file.handle(), tail.data(), reach, static_cast<off_t>(size - reach));
    if (count != static_cast<ssize_t>(reach)) throw std::runtime_error("it is being changed");
    const size_t end = tail.rfind("PK\x05\x06");
    if (end == std::string::npos || end + 22 > tail.size()) throw std::runtime_error("it has no directory");
    uint32_t length = 0;
    for (int i = 3; i >= 0; i--) length = length << 8 | static_cast<unsigned char>(tail[end + 12 + static_cast<size_t>(i)]);
    if (length > DIRECTORY_LIMIT) throw std::runtime_error("its directory is larger than 1 MiB");
}

}  // namespace

Bundle unpack(const std::string& path, const std::string& cache_dir) {
    const std::string home = cache_dir + "/bundles";
    try {
        const File file = File::open_plain(real_path(path));
        check_directory(file);
        // by the open file, so that its name may be given to another meanwhile
        const Zip zip("/proc/self/fd/" + std::to_string(file.handle()));
        const Contents contents(zip, static_cast<uint64_t>(file.status().st_size), path);
        const std::string folder = home + "/" + file.sha256();
        make_private_folder(home);
        const FileLock alone(sibling(folder, "unpack.lock"));  // no two processes unpack one zip
        if (std::optional<Bundle> found = cached(folder, contents.digest, path)) return std::move(*found);
        return unpack_into(folder, zip, contents, path);
    } catch (const FileError& error) {
        bundle_fail(path, "can't be unpacked into '" + home + "': " + error.what());
    } catch (const Error&) {
        throw;
    } catch (const std::bad_alloc&) {
        throw;
    } catch (const std::exception& error) {
        bundle_fail(path, std::string("is not a zip that can be read: ") + error.what());
    }
}

}  // namespace blastscope
