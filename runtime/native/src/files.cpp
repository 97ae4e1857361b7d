#include "files.h"

#include <fcntl.h>
#include <pwd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "sha256.h"

namespace blastscope {
namespace {

std::string told(int code) { return std::error_code(code, std::generic_category()).message(); }  // thread-safe, unlike strerror

bool same(const struct stat& one, const struct stat& other) { return one.st_dev == other.st_dev && one.st_ino == other.st_ino; }

void write_all(int handle, const void* data, size_t size, const std::string& path) {
    const char* at = static_cast<const char*>(data);
    while (size > 0) {
        const ssize_t written = ::write(handle, at, std::min<size_t>(size, 1 << 30));
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) throw FileError(path, errno);
        at += written;
        size -= static_cast<size_t>(written);
    }
}

std::string own_folder(const char* variable, const char* below_home) {
    if (const char* place = std::getenv(variable); place && *place) return std::string(place) + "/blastscope";
    if (const char* home = std::getenv("HOME"); home && *home) return std::string(home) + below_home + "/blastscope";
    struct passwd entry, *found = nullptr;
    char buffer[4096];
    ::getpwuid_r(::getuid(), &entry, buffer, sizeof buffer, &found);
    return (found ? std::string(found->pw_dir) : std::string("/tmp")) + below_home + "/blastscope";
}

class Fresh {  // a temporary file beside `path`, gone unless it was renamed
public:
    explicit Fresh(const std::string& path) {
        static std::atomic<uint64_t> count{0};
        for (int attempt = 0; attempt < 64; attempt++) {
            name = sibling(path, std::to_string(getpid()) + "-" + std::to_string(count++) + ".new");
            handle = ::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
            if (handle >= 0) {
                ::flock(handle, LOCK_EX | LOCK_NB);  // whoever clears leftovers sees that it is being written
                return;
            }
            if (errno != EEXIST) break;
        }
        throw FileError(path, errno);
    }
    Fresh(const Fresh&) = delete;
    Fresh& operator=(const Fresh&) = delete;
    ~Fresh() {
        if (!name.empty()) ::unlink(name.c_str());
        ::close(handle);
    }
    std::string name;
    int handle = -1;
};

}  // namespace

FileError::FileError(const std::string&, int code) : std::runtime_error(told(code)), code(code) {}

File::File(std::string path, int handle) : path_(std::move(path)), handle_(handle), status_{} {}
File::File(File&& other) noexcept : path_(std::move(other.path_)), handle_(other.handle_), status_(other.status_) {
    other.handle_ = -1;
}
File::~File() {
    if (handle_ >= 0) ::close(handle_);
}

File File::open_plain(const std::string& path) {
    const int handle = ::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (handle < 0) throw FileError(path, errno);
    File file(path, handle);
    if (::fstat(handle, &file.status_) != 0) throw FileError(path, errno);
    if (!S_ISREG(file.status_.st_mode)) throw FileError(path, EINVAL);
    return file;
}

std::optional<File> File::open_own(const std::string& path) {
    try {
        File file = open_plain(path);
        if (file.status_.st_uid != ::geteuid() || (file.status_.st_mode & (S_IWGRP | S_IWOTH))) return std::nullopt;
        return file;
    } catch (const FileError&) {
        return std::nullopt;
    }
}

std::string File::read(uint64_t limit) const {
    std::string data;
    const uint64_t told_size = static_cast<uint64_t>(std::max<int64_t>(status_.st_size, 0));
    data.resize(std::min(limit, told_size + 1));
    size_t at = 0;
    while (at < limit) {
        if (at == data.size()) data.resize(std::min<uint64_t>(limit, 2 * data.size() + 4096));
        const ssize_t count = ::read(handle_, data.data() + at, std::min<size_t>(data.size() - at, 1 << 30));
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) throw FileError(path_, errno);
        if (count == 0) break;
        at += static_cast<size_t>(count);
    }
    data.resize(at);
    return data;
}

std::string File::sha256() const {
    Sha256 digest;
    std::string piece(1 << 20, '\0');
    for (off_t at = 0;;) {
        const ssize_t count = ::pread(handle_, piece.data(), piece.size(), at);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) throw FileError(path_, errno);
        if (count == 0) return digest.hex();
        digest.update(piece.data(), static_cast<size_t>(count));
        at += count;
    }
}

Mapping::Mapping(const File& file) : data_(nullptr), size_(static_cast<size_t>(file.status().st_size)) {
    if (size_ == 0) throw FileError("", EINVAL);
    void* place = ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE, file.handle(), 0);
    if (place == MAP_FAILED) throw FileError("", errno);
    data_ = static_cast<uint8_t*>(place);
}
Mapping::~Mapping() { ::munmap(data_, size_); }

FileLock::FileLock(const std::string& path) : path_(path), handle_(-1) {
    for (;;) {
        handle_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
        if (handle_ < 0) throw FileError(path, errno);
        while (::flock(handle_, LOCK_EX) != 0)
            if (errno != EINTR) {
                const int code = errno;
                ::close(handle_);
                throw FileError(path, code);
            }
        struct stat held, named;
        // whoever held it before has deleted this very file: it is no lock any more
        if (::fstat(handle_, &held) == 0 && ::lstat(path.c_str(), &named) == 0 && same(held, named)) return;
        ::close(handle_);
    }
}
FileLock::~FileLock() {
    ::unlink(path_.c_str());
    ::close(handle_);
}

void write_private(const std::string& path, const Pieces& pieces) {
    Fresh fresh(path);
    for (const auto& [data, size] : pieces) write_all(fresh.handle, data, size, path);
    if (::fsync(fresh.handle) != 0 || ::rename(fresh.name.c_str(), path.c_str()) != 0) throw FileError(path, errno);
    fresh.name.clear();
    flush(parent_of(path));
}

void make_private_folder(const std::string& path) {
    std::error_code error;
    std::filesystem::create_directories(parent_of(path), error);
    if (error) throw FileError(path, error.value());
    if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) throw FileError(path, errno);
    struct stat found;
    if (::stat(path.c_str(), &found) != 0) throw FileError(path, errno);
    if (!S_ISDIR(found.st_mode)) throw FileError(path, ENOTDIR);
    if ((found.st_mode & 077) && ::chmod(path.c_str(), 0700) != 0 && errno != EPERM) throw FileError(path, errno);
}

void flush(const std::string& path) {
    const int handle = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (handle < 0) throw FileError(path, errno);
    const int failed = ::fsync(handle) != 0 ? errno : 0;
    ::close(handle);
    if (failed) throw FileError(path, failed);
}

std::string sibling(const std::string& path, const std::string& kind) {
    const std::filesystem::path whole(path);
    return (whole.parent_path() / ("." + whole.filename().string() + "." + kind)).string();
}
std::string parent_of(const std::string& path) {
    const std::string parent = std::filesystem::path(path).parent_path().string();
    return parent.empty() ? "." : parent;
}
std::string real_path(const std::string& path) {
    std::error_code error;
    std::filesystem::path found = std::filesystem::weakly_canonical(std::filesystem::absolute(path, error), error);
    std::string text = error ? path : found.string();
    while (text.size() > 1 && text.back() == '/') text.pop_back();
    return text;
}
bool is_folder(const std::string& path) {
    struct stat found;
    return ::stat(path.c_str(), &found) == 0 && S_ISDIR(found.st_mode);
}
bool is_file(const std::string& path) {
    struct stat found;
    return ::stat(path.c_str(), &found) == 0 && S_ISREG(found.st_mode);
}
bool exists(const std::string& path) {
    struct stat found;
    return ::stat(path.c_str(), &found) == 0;
}
void remove_all(const std::string& path) {
    std::error_code error;
    std::filesystem::remove_all(path, error);
    if (error) throw FileError(path, error.value());
}
void rename_to(const std::string& from, const std::string& to) {
    if (::rename(from.c_str(), to.c_str()) != 0) throw FileError(to, errno);
}

std::string default_cache_dir() { return own_folder("XDG_CACHE_HOME", "/.cache"); }
std::string default_config_dir() { return own_folder("XDG_CONFIG_HOME", "/.config"); }

}  // namespace blastscope
