// Files: plain ones alone are read, and a cache's own are private and replaced in one step.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace blastscope {

class FileError : public std::runtime_error {  // what the system said, without the path
public:
    FileError(const std::string& path, int code);
    const int code;  // errno
};

class File {  // open while this lives
public:
    // A plain file for reading: no link is followed, no pipe waited for. Throws FileError.
    static File open_plain(const std::string& path);
    // The same of a file of this user that nobody else may write; nothing where there is none.
    static std::optional<File> open_own(const std::string& path);

    File(File&& other) noexcept;
    File(const File&) = delete;
    File& operator=(const File&) = delete;
    ~File();

    int handle() const { return handle_; }
    const struct stat& status() const { return status_; }
    // At most `limit` bytes. Throws FileError.
    std::string read(uint64_t limit) const;
    std::string sha256() const;  // of all of it, in hex; throws FileError

private:
    File(std::string path, int handle);
    std::string path_;
    int handle_;
    struct stat status_;
};

// A file mapped for reading, its pages private.
class Mapping {
public:
    explicit Mapping(const File& file);  // throws FileError
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    ~Mapping();
    uint8_t* data() const { return data_; }
    size_t size() const { return size_; }

private:
    uint8_t* data_;
    size_t size_;
};

// A lock that another process or thread can't hold at the same time, with a file that is gone afterwards.
class FileLock {
public:
    explicit FileLock(const std::string& path);  // waits; throws FileError
    FileLock(const FileLock&) = delete;
    FileLock& operator=(const FileLock&) = delete;
    ~FileLock();

private:
    std::string path_;
    int handle_;
};

using Pieces = std::vector<std::pair<const void*, size_t>>;

// Puts a private file into place, whole or not at all. Throws FileError.
void write_private(const std::string& path, const Pieces& pieces);
// Makes a folder, and those above it, into which nobody but this user may look. Throws FileError.
void make_private_folder(const std::string& path);
void flush(const std::string& path);  // waits until the disk holds a file or folder
std::string sibling(const std::string& path, const std::string& kind);  // '.NAME.kind' beside it
std::string parent_of(const std::string& path);
std::string real_path(const std::string& path);  // links resolved, as far as the path exists
bool is_folder(const std::string& path);         // links are followed
bool is_file(const std::string& path);
bool exists(const std::string& path);            // links are followed
void remove_all(const std::string& path);        // throws FileError
void rename_to(const std::string& from, const std::string& to);
std::string default_cache_dir();                 // as Python's: $XDG_CACHE_HOME/blastscope, or ~/.cache/blastscope
std::string default_config_dir();                // the same: $XDG_CONFIG_HOME/blastscope, or ~/.config/blastscope

}  // namespace blastscope
