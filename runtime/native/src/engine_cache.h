// The cache of compiled engines and what was proved and measured with them. It is Python's: names, contents and rules are one.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "files.h"
#include "sha256.h"

namespace blastscope {

// The digest of `facts` and of the machine, in hex.
std::string engine_digest(const std::vector<std::pair<std::string, std::string>>& facts);

struct CachedEngine {
    std::shared_ptr<Mapping> memory;
    size_t size = 0;         // without the seal
    Sha256::Digest content;  // the seal
};

std::string engine_file(const std::string& cache_dir, const std::string& digest);
// The engine kept at `path`; nothing where there is none, where it is damaged or where others could have written it.
std::optional<CachedEngine> read_engine(const std::string& path);
// Keeps `pieces` in a row, sealed. Gives the reason where it can't.
std::optional<std::string> write_engine(const std::string& path, const Pieces& pieces);

// Python's repr of a float.
std::string python_repr(double value);

}  // namespace blastscope
