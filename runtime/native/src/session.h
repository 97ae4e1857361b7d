// Session: an engine of a verified bundle that passed the golden set, with what is to be told of how it was chosen.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "engine.h"
#include "golden.h"
#include "options.h"

namespace blastscope {

struct Candidate {  // a fused graph, what it would be computed in, and how it would lie on the cores
    const GraphEntry* entry;
    std::string execution, layout;
    std::string name() const;  // as in Python's notes: 'fp32', 'fp32-bf16', 'int8 side-by-side'
    bool operator==(const Candidate& other) const {
        return entry == other.entry && execution == other.execution && layout == other.layout;
    }
};

using Times = std::map<std::string, std::optional<double>>;  // ms a crop by a candidate's name; nothing: it failed

class TimingCache {  // what was measured on this machine, in one small file that Python shares
public:
    TimingCache(const std::string& cache_dir, const std::string& key) : path_(cache_dir + "/choices/" + key + ".json") {}
    Times read() const;
    void remember(const Times& times) const;  // adds them; throws FileError

private:
    std::string path_;
};

class NoteBook {  // notes that several threads add to
public:
    void add(const std::string& note);
    std::string text() const;

private:
    mutable std::mutex lock_;
    Notes notes_;
};

struct Session {
    std::shared_ptr<const Bundle> bundle;
    Options options;
    Golden golden;
    std::shared_ptr<ov::Core> core;
    std::unique_ptr<TimingCache> times;
    std::unique_ptr<Engine> engine;
    Candidate taken{};
    std::vector<Candidate> unmeasured, layouts;  // other candidates, and other layouts of the one that was taken
    std::optional<CascadeTurn> cascade;
    NoteBook notes;
};

// The engine that the options name, or the best of those that they leave open. Throws Error.
std::unique_ptr<Session> open_session(Bundle bundle, const Options& options);

// An engine of the candidate that passes the golden set. Throws Error.
std::unique_ptr<Engine> open_validated(const Session& session, const Candidate& candidate);

}  // namespace blastscope
