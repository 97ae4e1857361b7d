// Bundle: a bundle whose files were, when it was read, exactly those of its manifest.
#pragma once

#include <string>
#include <vector>

#include "manifest.h"

namespace blastscope {

struct Bundle {
    std::string path;  // the folder, absolute
    Manifest manifest;
    std::string digest;  // sha256 of manifest.json, and through it of every file

    // The bytes of one of the bundle's files, verified again. Throws Error (DIGEST_MISMATCH).
    std::string read(const FileEntry& entry) const;
};

// The bundle in a folder or zip; a zip is unpacked into `cache_dir` once. Throws Error (BUNDLE, DIGEST_MISMATCH, FORMAT_TOO_NEW).
Bundle read_bundle(const std::string& path, const std::string& cache_dir);

// The same of a folder, read once; `shown` is what errors call the bundle.
Bundle read_folder(const std::string& folder, const std::string& shown);
std::string read_manifest_bytes(const std::string& folder, const std::string& shown);

// Puts back a folder whose change broke off between its two renames, and clears what that left. The lock must be held.
void settle(const std::string& folder);

constexpr const char* CHANGED = "was changed since the bundle was read: open it anew";
constexpr int64_t FILE_LIMIT = 2147483647;  // bytes: what one protobuf message can have

}  // namespace blastscope
