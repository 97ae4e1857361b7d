#include "cpu_info.h"

#include <sched.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <vector>

namespace blastscope {
namespace {

std::string read_text(const std::string& path) {
    std::ifstream stream(path);
    std::stringstream text;
    text << stream.rdbuf();
    return text.str();
}

std::string stripped(const std::string& text) {
    const size_t first = text.find_first_not_of(" \t\n"), last = text.find_last_not_of(" \t\n");
    return first == std::string::npos ? "" : text.substr(first, last - first + 1);
}

std::vector<std::string> split(const std::string& text, char separator) {
    std::vector<std::string> parts;
    std::stringstream stream(text);
    for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
    return parts;
}

std::vector<int> allowed_cpus() {
    std::vector<int> found;
    for (int room = 1024; room <= 1 << 20; room *= 4) {
        cpu_set_t* set = CPU_ALLOC(room);
        const size_t size = CPU_ALLOC_SIZE(room);
        CPU_ZERO_S(size, set);
        const bool told = ::sched_getaffinity(0, size, set) == 0;
        for (int cpu = 0; told && cpu < room; cpu++)
            if (CPU_ISSET_S(cpu, size, set)) found.push_back(cpu);
        CPU_FREE(set);
        if (told) return found;
    }
    for (long cpu = 0; cpu < std::max(1L, ::sysconf(_SC_NPROCESSORS_ONLN)); cpu++) found.push_back(static_cast<int>(cpu));
    return found;
}

// Cores' worth of time by one group's files; 0: no limit.
double quota_of(const std::string& folder, bool second_version) {
    std::stringstream text(second_version ? read_text(folder + "/cpu.max")
                                          : read_text(folder + "/cpu.cfs_quota_us") + " " + read_text(folder + "/cpu.cfs_period_us"));
    double quota, period;
    return text >> quota >> period && quota > 0 && period > 0 ? quota / period : 0;
}

// The smallest quota of this process's control group and those above it; 0: none.
double cgroup_quota() {
    double least = 0;
    auto look = [&](const std::string& root, const std::string& path, bool second_version) {
        std::vector<std::string> folders = {root};
        for (const std::string& step : split(path, '/'))
            if (!step.empty() && step != "..") folders.push_back(folders.back() + "/" + step);
        for (const std::string& folder : folders) {
            const double quota = quota_of(folder, second_version);
            if (quota > 0 && (least == 0 || quota < least)) least = quota;
        }
    };
    const std::string root = "/sys/fs/cgroup";
    for (const std::string& line : split(read_text("/proc/self/cgroup"), '\n')) {
        const size_t first = line.find(':'), second = line.find(':', first + 1);
        if (first == std::string::npos || second == std::string::npos) continue;
        const std::string controllers = line.substr(first + 1, second - first - 1), path = line.substr(second + 1);
        const std::vector<std::string> names = split(controllers, ',');
        if (controllers.empty()) {
            look(root, path, true);
            look(root + "/unified", path, true);
        } else if (std::find(names.begin(), names.end(), "cpu") != names.end()) {
            look(root + "/cpu", path, false);
            look(root + "/" + controllers, path, false);
        }
    }
    return least;
}

}  // namespace

int usable_threads() {
    std::set<std::string> cores;  // second threads of a core don't count
    for (int cpu : allowed_cpus()) {
        const std::string place = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list";
        const std::string siblings = stripped(read_text(place));
        cores.insert(siblings.empty() ? std::to_string(cpu) : siblings);
    }
    const double quota = cgroup_quota();
    const int count = static_cast<int>(cores.size());
    return std::max(1, quota > 0 ? std::min(count, static_cast<int>(quota + 0.5)) : count);
}

std::string machine() {
    utsname names;
    return ::uname(&names) == 0 ? names.machine : "";
}

std::string cpu_identity() {
    static const std::set<std::string> wanted = {"vendor_id", "cpu family", "model",    "model name",
                                                 "stepping",  "flags",      "CPU part", "Features"};
    const std::string all = read_text("/proc/cpuinfo");
    std::string found = machine();
    for (const std::string& line : split(all.substr(0, all.find("\n\n")), '\n')) {
        const std::string key = line.substr(0, line.find('\t'));
        if (wanted.count(stripped(key.substr(0, key.find(':'))))) found += "\n" + line;
    }
    return found;
}

std::set<std::string> cpu_features() {
    std::set<std::string> found;
    for (const std::string& line : split(cpu_identity(), '\n')) {
        const size_t colon = line.find(':');
        const std::string key = stripped(line.substr(0, colon));
        if (colon == std::string::npos || (key != "flags" && key != "Features")) continue;
        std::stringstream words(line.substr(colon + 1));
        for (std::string word; words >> word;) found.insert(word);
        break;
    }
    return found;
}

bool int8_sums_overflow() {
    if (machine() != "x86_64") return false;
    const std::set<std::string> features = cpu_features();
    return !features.count("avx512_vnni") && !features.count("avx_vnni") && !features.count("amx_int8");
}

}  // namespace blastscope
