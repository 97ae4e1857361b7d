#include "bundle.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <set>

#include "errors.h"
#include "files.h"
#include "sha256.h"
#include "unpack.h"

namespace blastscope {
namespace {

constexpr int DEPTH = 100;  // folders in one another: a path has 200 letters

[[noreturn]] void differs(const std::string& bundle, const std::string& file, const std::string& problem) {
    bundle_fail(bundle, file + " " + problem, BLASTSCOPE_DIGEST_MISMATCH);
}

// Throws Error for the first file below `folder` that isn't listed, or isn't a plain one. Links are never followed.
void check_listed(const std::string& folder, const std::string& prefix, int depth, const std::set<std::string>& listed,
                  const std::string& shown) {
    std::unique_ptr<DIR, int (*)(DIR*)> open(::opendir(folder.c_str()), ::closedir);
    if (!open) throw FileError(folder, errno);
    while (dirent* item = ::readdir(open.get())) {
        const std::string name = item->d_name;
        if (name == "." || name == "..") continue;
        struct stat found;
        if (::fstatat(::dirfd(open.get()), item->d_name, &found, AT_SYMLINK_NOFOLLOW) != 0) throw FileError(folder, errno);
        if (S_ISDIR(found.st_mode) && depth < DEPTH) {
            check_listed(folder + "/" + name, prefix + name + "/", depth + 1, listed, shown);
            continue;
        }
        if (!listed.count(prefix + name)) bundle_fail(shown, "holds '" + prefix + name + "', which the manifest doesn't list");
        if (!S_ISREG(found.st_mode)) differs(shown, prefix + name, "is a link or a special file, not a plain file");
    }
}

void verify(const std::string& folder, const FileEntry& entry, const std::string& shown) {
    if (entry.size > FILE_LIMIT)
        bundle_fail(shown, entry.file + " is " + std::to_string(entry.size) + " bytes by the manifest, at most " +
                               std::to_string(FILE_LIMIT) + " are read");
    try {
        const File file = File::open_plain(folder + "/" + entry.file);
        if (file.status().st_size != entry.size)
            differs(shown, entry.file, "is " + std::to_string(file.status().st_size) + " bytes, manifest says " + std::to_string(entry.size));
        const std::string found = file.sha256();
        if (found != entry.sha256)
            differs(shown, entry.file, "has sha256 " + found.substr(0, 12) + "…, manifest says " + entry.sha256.substr(0, 12) + "…");
    } catch (const FileError& error) {
        if (error.code == ENOENT || error.code == ENOTDIR) differs(shown, entry.file, "is missing");
        if (error.code == EINVAL || error.code == ELOOP) differs(shown, entry.file, "is not a plain file");
        throw;
    }
}

struct Identity {  // what changes when another folder takes the name
    dev_t device = 0;
    ino_t inode = 0;
    int64_t seconds = 0, nanoseconds = 0;
    explicit Identity(const std::string& path) {
        struct stat found;
        if (::stat(path.c_str(), &found) == 0)
            device = found.st_dev, inode = found.st_ino, seconds = found.st_ctim.tv_sec, nanoseconds = found.st_ctim.tv_nsec;
    }
    bool operator==(const Identity& other) const {
        return device == other.device && inode == other.inode && seconds == other.seconds && nanoseconds == other.nanoseconds;
    }
};

void recover(const std::string& path) {
    const std::string folder = real_path(path);
    if (exists(folder) || !exists(sibling(folder, "old"))) return;
    try {
        const FileLock alone(sibling(folder, "lock"));  // a writer that is alive finishes first
        settle(folder);
    } catch (const FileError& error) {
        bundle_fail(path, std::string("a broken change of it can't be undone: ") + error.what());
    }
}

}  // namespace

void settle(const std::string& folder) {
    const std::string old = sibling(folder, "old"), gone = sibling(folder, "gone");
    if (exists(old) && !exists(folder)) rename_to(old, folder);
    for (const char* kind : {"gone", "old", "new"}) {
        const std::string leftover = sibling(folder, kind);
        if (!exists(leftover)) continue;
        // renamed before it is deleted: a half-deleted folder must never be found under a name that is trusted
        if (leftover != gone) rename_to(leftover, gone);
        remove_all(gone);
    }
}

std::string read_manifest_bytes(const std::string& folder, const std::string& shown) {
    std::string data;
    try {
        data = File::open_plain(folder + "/" + MANIFEST).read(MANIFEST_LIMIT + 1);
    } catch (const FileError& error) {
        bundle_fail(shown, std::string("holds no ") + MANIFEST + ", so it is not a bundle (" + error.what() + ")");
    }
    if (data.size() > MANIFEST_LIMIT)
        bundle_fail(shown, std::string(MANIFEST) + " is larger than " + std::to_string(MANIFEST_LIMIT) + " bytes");
    return data;
}

Bundle read_folder(const std::string& folder, const std::string& shown) {
    try {
        const std::string data = read_manifest_bytes(folder, shown);
        Manifest manifest = parse_manifest(data, shown);
        std::set<std::string> listed = {MANIFEST};
        const std::vector<FileEntry> files = manifest.files();
        for (const FileEntry& entry : files) listed.insert(entry.file);
        check_listed(folder, "", 0, listed, shown);
        for (const FileEntry& entry : files) verify(folder, entry, shown);
        return {real_path(folder), std::move(manifest), sha256_hex(data)};
    } catch (const FileError& error) {
        bundle_fail(shown, std::string("can't be read: ") + error.what());
    }
}

std::string Bundle::read(const FileEntry& entry) const {
    std::string data;
    try {
        data = File::open_plain(path + "/" + entry.file).read(static_cast<uint64_t>(entry.size) + 1);
    } catch (const FileError& error) {
        differs(path, entry.file, std::string("can't be read any more: ") + error.what());
    }
    if (sha256_hex(data) != entry.sha256) differs(path, entry.file, CHANGED);
    return data;
}

Bundle read_bundle(const std::string& path, const std::string& cache_dir) {
    if (is_file(path)) return unpack(path, cache_dir);
    for (int attempt = 0; attempt < 3; attempt++) {
        recover(path);
        if (!is_folder(path)) {
            if (exists(sibling(real_path(path), "old")) || is_folder(path)) continue;  // a writer stood between its renames
            bundle_fail(path, "no such folder or zip");
        }
        const Identity before(path);
        try {
            return read_folder(path, path);
        } catch (const Error&) {
            // a writer may have put the next bundle in this one's place while it was being read
            if (Identity(path) == before) throw;
        }
    }
    bundle_fail(path, "is being changed again and again: try once more when its writer is done");
}

}  // namespace blastscope
