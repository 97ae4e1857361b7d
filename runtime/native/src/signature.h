// Signatures of bundles, by OpenSSF's model signing: runtime/bundle/signature.py says what they are, and has the same rules.
#pragma once

#include <string>
#include <vector>

#include "bundle.h"

namespace blastscope {

// The paths of public keys in `required`, one a line; 'trusted' stands for those of the user. Throws Error (USAGE, DATA).
std::vector<std::string> required_keys(const std::string& required);

// Holds a bundle that was read from `path` to be signed, with every byte of it, by one of the keys.
// Throws Error: SIGNATURE, DATA for what is no key.
void check_signature(const Bundle& bundle, const std::string& path, const std::vector<std::string>& keys);

}  // namespace blastscope
