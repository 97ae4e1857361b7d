#include "manifest.h"

#include <algorithm>
#include <array>
#include <set>

#include "errors.h"
#include "record.h"

namespace blastscope {
namespace {

constexpr int64_t ANY = std::numeric_limits<int64_t>::min();
constexpr size_t VALUE_LIMIT = 100'000, RECORD_LIMIT = 64;

// Numbers of a format 'major.minor'; nothing where it is none.
std::optional<std::array<int, 2>> version_of(const std::string& text) {
    const size_t dot = text.find('.');
    if (dot == std::string::npos) return std::nullopt;
    std::array<int, 2> found{};
    const std::string parts[2] = {text.substr(0, dot), text.substr(dot + 1)};
    for (int i = 0; i < 2; i++) {
        const std::string& part = parts[i];
        const bool number = !part.empty() && part.size() <= 4 && part.find_first_not_of("0123456789") == std::string::npos;
        if (!number || (part[0] == '0' && part.size() > 1)) return std::nullopt;
        found[i] = std::stoi(part);
    }
    return found;
}

double take_interval(Record record) {
    const double value = record.number("value"), low = record.number("low"), high = record.number("high");
    record.end();
    if (low > high) record.wrong("low", "lies above high");
    return value;
}

void take_file(Record& record, FileEntry& entry) {
    entry.file = record.text("file");
    if (!is_relative_path(entry.file)) record.wrong("file", "is no path of lower case letters");
    entry.sha256 = record.digest("sha256");
    entry.size = record.whole("size", 0);
}

// The names of keys and values that format 1.3 replaced by others (runtime/bundle/manifest.py).
struct Names {
    bool former;  // format 1.0 to 1.2
    const char* flip_rate = former ? "flips" : "flip_rate";
    const char* max_flip_rate = former ? "flips_at_most" : "max_flip_rate";
    const char* flip_rate_upper = former ? "flips_upper" : "flip_rate_upper";
    const char* patient_flip_rate = former ? "patient_flips" : "patient_flip_rate";
    const char* f1_drop_points = former ? "f1_loss" : "f1_drop_points";
    const char* max_f1_drop_points = former ? "f1_loss_at_most" : "max_f1_drop_points";
    const char* passed = former ? "held" : "passed";
    const char* waived = former ? "waived: benchmark" : "waived";
    const char* ensemble = former ? "fused" : "ensemble";
};

void take_gate(Record record, GraphEntry& entry, const Names& names) {
    record.text("engine", 1, 40);
    record.whole("cells", 0);
    record.whole("patients", 0);
    take_interval(record.record(names.flip_rate));
    record.number(names.max_flip_rate);
    take_interval(record.record(names.f1_drop_points));
    record.number(names.max_f1_drop_points);
    entry.gate_passed = record.flag("passed");
    entry.gate_tells_patients = record.has(names.patient_flip_rate);
    if (entry.gate_tells_patients) take_interval(record.record(names.patient_flip_rate));
    record.end();
}

GraphEntry take_graph(Record record, const Names& names) {
    GraphEntry entry;
    take_file(record, entry);
    entry.models = record.one_of("models", {names.ensemble, "a", "b", "combined"});
    if (entry.models == names.ensemble) entry.models = "ensemble";
    entry.precision = record.one_of("precision", {"fp32", "fp16", "int8"});
    if (record.has("parent")) record.digest("parent");
    for (const auto& [execution, value] : record.items("tolerances")) {
        if (execution != "f32" && execution != "bf16" && execution != "f16" && execution != "int8")
            record.wrong("tolerances", "'" + execution.substr(0, 40) + "' is no execution");
        entry.tolerances.emplace_back(execution, number_of(*value, SHARE, "tolerances." + execution));
    }
    if (entry.tolerances.empty()) record.wrong("tolerances", "a graph needs the tolerance of one execution at least");
    if (!record.absent("passes")) record.whole("passes", 1);
    if (record.has("gate")) take_gate(record.record("gate"), entry, names);
    if (entry.gate_passed && entry.precision != "int8")
        record.wrong("gate", "a gate result goes with int8, not with " + entry.precision);
    record.end();
    return entry;
}

CropSpecification take_crop(Record record) {
    CropSpecification crop;
    if (!record.absent("side_px")) crop.side_px = static_cast<int>(record.whole("side_px", 8, 2048));
    const bool keep = !record.absent("scale") && record.one_of("scale", {"fit", "keep"}) == "keep";
    if (record.has("window_px")) crop.window_px = static_cast<int>(record.whole("window_px", 8, 4096));
    if (!record.absent("erosion_px")) crop.erosion_px = static_cast<int>(record.whole("erosion_px", 0, 16));
    if (!record.absent("grow_back")) crop.grow_back = record.flag("grow_back");
    if (!record.absent("min_box_px")) crop.min_box_px = record.whole("min_box_px", 1);
    if (!record.absent("max_box_px")) crop.max_box_px = record.whole("max_box_px", 8);
    if (!record.absent("max_background")) crop.max_background = static_cast<int>(record.whole("max_background", 0, 254));
    if (keep != (crop.window_px != 0)) record.wrong("window_px", "goes with scale = 'keep', and only with it");
    record.end();
    return crop;
}

CascadeRule take_cascade(Record record, const Names& names) {
    CascadeRule rule;
    rule.first = record.one_of("first", {"a", "b"}) == "b";
    rule.threshold = record.number("threshold", {0.5, 1, false, false});
    rule.precision = record.one_of("precision", {"fp32", "fp16", "int8"});
    record.text("engine", 1, 40);
    record.whole("cells", 0);
    record.whole("patients", 0);
    rule.flips = take_interval(record.record(names.flip_rate));
    record.number(names.flip_rate_upper, SHARE);
    const double most = record.number(names.max_flip_rate, SHARE);
    take_interval(record.record(names.patient_flip_rate));
    record.number("skipped", SHARE);
    record.end();
    if (rule.flips > most) record.wrong(names.flip_rate, "a cascade that flips more calls than may be");
    return rule;
}

void take_smear(Record record) {
    const Range mean = {-1e6, 1e6, false, false}, deviation = {1e-6, 1e6, false, false};
    const double hem = record.number("hem_mean", mean), all = record.number("all_mean", mean);
    record.number("person_deviation", deviation);
    record.number("cell_deviation", deviation);
    record.whole("least_cells", 1);
    const int64_t people = record.whole("people", 2), right = record.whole("right", 0);
    record.end();
    if (all <= hem) record.wrong("all_mean", "must lie above hem_mean");
    if (right > people) record.wrong("right", "is above people");
}

void take_uncertainty(Record record, Manifest& manifest) {
    const Range inside = {0, 1, true, true}, positive = {0, std::numeric_limits<double>::infinity(), true, false};
    record.number("temperature", positive);
    record.number("calibration_error", SHARE);
    Record sets = record.record("sets");
    sets.number("level", inside);
    manifest.sets = PredictionSets{sets.number("hem", SHARE), sets.number("all", SHARE)};
    for (const char* key : {"hem_coverage", "all_coverage", "both"}) sets.number(key, SHARE);
    sets.end();
    if (record.has("novelty")) {
        Record novelty = record.record("novelty");
        manifest.novelty_limit = novelty.number("limit", positive);
        novelty.number("quantile", inside);
        novelty.number("refused", SHARE);
        novelty.end();
    }
    if (record.has("smear")) take_smear(record.record("smear"));
    for (const char* key : {"weighted_f1", "auroc", "sensitivity", "specificity"}) take_interval(record.record(key));
    for (const char* key : {"cells", "hem_people", "all_people"}) record.whole(key, 1);
    record.end();
    manifest.has_uncertainty = true;
}

std::set<std::string> take_patients(Record& record, const char* part) {
    const std::vector<std::string> names = record.texts(part);
    std::set<std::string> found(names.begin(), names.end());
    if (found.size() != names.size()) record.wrong(part, "a patient stands twice in it");
    return found;
}

void take_training(Record record) {
    record.need("data_sha256");
    if (record.has("data_sha256")) record.digest("data_sha256");
    const std::string split = record.one_of("split", {"patient", "image", "none"});
    record.whole("seed", ANY);
    record.object("config");
    record.texts_by_name("versions");
    Record patients = record.record("patients");
    const std::set<std::string> training = take_patients(patients, "training");
    std::set<std::string> others = take_patients(patients, "validation");
    if (!patients.absent("calibration")) others.merge(take_patients(patients, "calibration"));
    patients.end();
    record.end();
    for (const std::string& name : training)
        if (split == "patient" && others.count(name)) record.wrong("patients", "split by patient, yet on both sides: " + name.substr(0, 80));
}

bool take_calibration(Record record) {  // whether it has keys that came with 1.1
    record.one_of("method", {"minmax", "entropy", "percentile"});
    record.texts("cells");
    record.digest("cells_sha256");
    record.whole("seed", ANY);
    record.texts_by_name("versions");
    bool late = false;
    for (const char* key : {"corrected", "equalised"})
        if (record.has(key)) record.flag(key), late = true;
    if (record.has("floats")) record.texts("floats"), late = true;
    if (record.has("int8_share")) record.number("int8_share", SHARE), late = true;
    record.end();
    return late;
}

void take_scores(Record record) {
    record.one_of("precision", {"fp32", "fp16", "int8"});
    record.whole("cells", ANY);
    record.whole("patients", ANY);
    for (const char* key : {"weighted_f1", "auroc", "sensitivity", "specificity"}) take_interval(record.record(key));
    record.end();
}

void take_operating_point(Record record, Manifest& manifest) {
    manifest.operating_point = record.number("threshold", SHARE);
    record.number("sensitivity_wanted", {0, 1, true, false});
    record.number("sensitivity");
    record.number("specificity");
    record.whole("cells", ANY);
    record.end();
}

void take_detector_int8(Record record, Manifest& manifest) {
    manifest.has_int8_detector = true;
    Record file = record.record("graph");
    take_file(file, manifest.detector.emplace_back());
    file.end();
    record.number("tolerance", SHARE);
    record.whole("pictures", 1);
    Record gate = record.record("gate");
    gate.text("engine", 1, 40);
    gate.whole("frames", 1);
    gate.whole("cells", 1);
    const double agreement = take_interval(gate.record("agreement"));
    const double least = gate.number("min_agreement", SHARE);
    const double recall = take_interval(gate.record("recall_drop_points"));
    const double precision = take_interval(gate.record("precision_drop_points"));
    const double most = gate.number("max_drop_points", {0, std::numeric_limits<double>::infinity(), false, false});
    gate.end();
    record.end();
    if (agreement < least || std::max(recall, precision) > most)
        record.wrong("gate", "the int8 graph of a detector, with a gate result that didn't pass");
}

void take_detector(Record record, Manifest& manifest) {
    for (const char* key : {"graph", "golden"}) {
        Record file = record.record(key);
        take_file(file, manifest.detector.emplace_back());
        file.end();
    }
    record.number("tolerance", SHARE);
    record.number("pixel_um", {0.02, 5, true, true});
    record.number("least_score", {0, 1, true, true});
    record.texts("sources");
    if (record.has("int8")) take_detector_int8(record.record("int8"), manifest);
    record.end();
}

void take_neighbours(Record record, Manifest& manifest) {
    take_file(record, manifest.neighbours.emplace());
    manifest.neighbours_graph = record.digest("graph");
    record.whole("cells", 1, 100'000);
    record.whole("people", 1);
    record.whole("features", 1, 10'000);
    record.end();
}

void check_neighbours(Record& record, const Manifest& manifest) {
    if (!manifest.neighbours) return;
    if (!manifest.measures_novelty)
        record.wrong("neighbours", "features of the training's cells, and graphs that don't measure novelty by such features");
    for (const GraphEntry& entry : manifest.graphs)
        if (entry.models == "ensemble" && entry.sha256 == manifest.neighbours_graph) return;
    record.wrong("neighbours", "features of a graph that is none of the fused ones in this bundle");
}

void check_words(Record& record, const char* key, const std::vector<std::string>& wanted) {
    if (!record.absent(key) && record.texts(key) != wanted) record.wrong(key, "must be as runtime/FORMAT.md says, in that order");
}

// The rules between keys.
void check_whole(Record& record, const Manifest& manifest, bool late_calibration) {
    std::set<std::pair<std::string, std::string>> kinds;
    bool fused = false, patient_flips = false;
    for (const GraphEntry& entry : manifest.graphs) {
        if (!kinds.emplace(entry.models, entry.precision).second) record.wrong("graphs", "two of the same models and precision");
        fused |= entry.models == "ensemble";
        patient_flips |= entry.gate_tells_patients;
        if (entry.models == "ensemble" && entry.precision == "int8" && manifest.gate_passed && !entry.gate_passed.value_or(false))
            record.wrong("graphs", "a fused int8 graph without a gate result that passed, in a bundle that says its gate passed");
    }
    if (!fused) record.wrong("graphs", "no fused graph");
    if (manifest.cascade && !manifest.fused(manifest.cascade->precision))
        record.wrong("cascade", "judged on a fused " + manifest.cascade->precision + " graph, which isn't there");
    const bool late = manifest.cascade || patient_flips || late_calibration;
    const bool later = manifest.has_uncertainty || manifest.measures_novelty || manifest.card;
    const int with_detector = manifest.has_int8_detector ? 4 : 3;  // the minor format that it came with
    const int least = std::max(manifest.neighbours ? 5 : 0, manifest.detector.empty() ? 0 : with_detector);
    const bool latest = (*version_of(manifest.format))[1] < least;
    if ((manifest.format == "1.0" && late) || ((manifest.format == "1.0" || manifest.format == "1.1") && later) || latest)
        record.wrong("format", "keys that format " + manifest.format + " doesn't have: say " + NEWEST_FORMAT);
    if (manifest.novelty_limit && !manifest.measures_novelty)
        record.wrong("uncertainty", "a limit of novelty, and graphs that don't measure it");
    check_neighbours(record, manifest);
    std::set<std::string> paths = {MANIFEST};
    const std::vector<FileEntry> files = manifest.files();
    for (const FileEntry& entry : files)
        if (!paths.insert(entry.file).second) record.wrong("graphs", "two entries name the same file");
    for (const std::string& path : paths)
        for (size_t end = path.find('/'); end != std::string::npos; end = path.find('/', end + 1))
            if (paths.count(path.substr(0, end))) record.wrong("graphs", "'" + path.substr(0, end) + "' is both a file and a folder");
}

Manifest take_manifest(Record record) {
    Manifest manifest;
    manifest.format = record.text("format");
    const Names names{(*version_of(manifest.format))[1] < 3};
    manifest.name = record.text("name", 1, 80);
    if (!is_moment(record.text("created"))) record.wrong("created", "should be a moment in UTC, ISO 8601");
    check_words(record, "classes", {"hem", "all"});
    check_words(record, "voters", {"a", "b", "combined"});
    record.text("backbone");
    manifest.crop = take_crop(record.record("crop"));
    if (!record.absent("vote")) {
        Record vote = record.record("vote");
        if (!vote.absent("rule")) vote.one_of("rule", {"largest-probability"});
        check_words(vote, "tie", {"all", "a", "b", "combined"});
        vote.end();
    }
    if (record.has("operating_point")) take_operating_point(record.record("operating_point"), manifest);
    if (record.has("cascade")) manifest.cascade = take_cascade(record.record("cascade"), names);
    if (record.has("uncertainty")) take_uncertainty(record.record("uncertainty"), manifest);
    if (record.has("card")) {
        Record card = record.record("card");
        take_file(card, manifest.card.emplace());
        card.end();
    }
    if (record.has("detector")) take_detector(record.record("detector"), manifest);
    if (record.has("neighbours")) take_neighbours(record.record("neighbours"), manifest);
    if (!record.absent("measures_novelty")) manifest.measures_novelty = record.flag("measures_novelty");
    if (!record.absent("gate")) manifest.gate_passed = record.one_of("gate", {names.passed, names.waived}) == names.passed;
    for (Record& graph : record.records("graphs")) manifest.graphs.push_back(take_graph(std::move(graph), names));
    if (manifest.graphs.empty()) record.wrong("graphs", "should have at least one");
    Record golden = record.record("golden");
    take_file(golden, manifest.golden);
    manifest.golden_count = golden.whole("count", 1, 16);
    golden.one_of("source", {"drawn", "validation"});
    golden.end();
    take_training(record.record("training"));
    const bool late = record.has("calibration") && take_calibration(record.record("calibration"));
    if (!record.absent("scores"))
        for (Record& scores : record.records("scores")) take_scores(std::move(scores));
    record.end();
    check_whole(record, manifest, late);
    return manifest;
}

void check_format(const Json& table, const std::string& shown) {
    const auto found = table.find("format");
    const auto wanted = found != table.end() && found->is_string() ? version_of(found->get<std::string>()) : std::nullopt;
    if (!wanted) bundle_fail(shown, std::string(MANIFEST) + " names no format such as '" + NEWEST_FORMAT + "'");
    const std::string text = found->get<std::string>();
    const std::array<int, 2> ours = *version_of(NEWEST_FORMAT);
    if (*wanted > ours)
        bundle_fail(shown, "format " + text + " is newer than " + NEWEST_FORMAT + ": upgrade blastscope to one that reads format " + text,
                    BLASTSCOPE_FORMAT_TOO_NEW);
    if ((*wanted)[0] != ours[0]) bundle_fail(shown, "format " + text + " is no longer read: export the run again");
}

size_t count_values(const Json& value) {
    size_t count = 0;
    for (const Json& inner : value) count += 1 + (inner.is_structured() ? count_values(inner) : 0);
    return count;
}

void check_extent(const Json& table, const std::string& shown) {
    for (const char* key : {"graphs", "scores"}) {
        const auto found = table.find(key);
        if (found != table.end() && found->is_array() && found->size() > RECORD_LIMIT)
            bundle_fail(shown, std::string(MANIFEST) + ": " + key + ": lists " + std::to_string(found->size()) + " records, at most " +
                                   std::to_string(RECORD_LIMIT) + " are read");
    }
    if (count_values(table) > VALUE_LIMIT)
        bundle_fail(shown, std::string(MANIFEST) + " holds more than " + std::to_string(VALUE_LIMIT) + " values");
}

}  // namespace

std::optional<double> GraphEntry::tolerance(const std::string& execution) const {
    for (const auto& [name, value] : tolerances)
        if (name == execution) return value;
    return std::nullopt;
}

std::vector<FileEntry> Manifest::files() const {
    std::vector<FileEntry> all(graphs.begin(), graphs.end());
    all.push_back(golden);
    all.insert(all.end(), detector.begin(), detector.end());
    if (neighbours) all.push_back(*neighbours);
    if (card) all.push_back(*card);
    return all;
}

const GraphEntry* Manifest::fused(const std::string& precision) const {
    for (const GraphEntry& entry : graphs)
        if (entry.models == "ensemble" && entry.precision == precision) return &entry;
    return nullptr;
}

Manifest parse_manifest(const std::string& data, const std::string& shown) {
    try {
        const Json table = parse_strict_json(data);
        if (!table.is_object()) bundle_fail(shown, std::string(MANIFEST) + " is not a JSON object");
        check_format(table, shown);
        check_extent(table, shown);
        return take_manifest(Record(table, ""));
    } catch (const NotJson& error) {
        bundle_fail(shown, std::string(MANIFEST) + " is not JSON: " + error.what());
    } catch (const Wrong& error) {
        bundle_fail(shown, std::string(MANIFEST) + ": " + error.what());
    }
}

}  // namespace blastscope
