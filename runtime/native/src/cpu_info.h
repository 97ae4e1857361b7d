// This machine's processor, as Python's runtime/io/cpu_info.py sees it.
#pragma once

#include <set>
#include <string>

namespace blastscope {

int usable_threads();                  // cores that the process may keep busy
std::string machine();                 // "x86_64"
std::string cpu_identity();            // tells this CPU from others
std::set<std::string> cpu_features();  // Linux' names, such as "avx512_vnni"
bool int8_sums_overflow();             // products of uint8 and int8 are added in 16 bits, as x86 does without VNNI

}  // namespace blastscope
