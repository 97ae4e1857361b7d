#include "golden.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "errors.h"
#include "record.h"

namespace blastscope {
namespace {

constexpr int64_t MAX_CROPS = 16, HEADER_LIMIT = 64 * 1024;

struct Tensor {
    std::string type;
    std::vector<int64_t> shape;
    uint64_t begin = 0, end = 0;  // in the data behind the header
};

Tensor take_tensor(Record record) {
    Tensor tensor;
    tensor.type = record.text("dtype");
    std::vector<int64_t> offsets;
    std::vector<int64_t>* rows[] = {&tensor.shape, &offsets};
    const char* keys[] = {"shape", "data_offsets"};
    for (int i = 0; i < 2; i++) {
        const Json& found = record.need(keys[i]);
        if (!found.is_array()) record.wrong(keys[i], "should be a list");
        for (const Json& one : found) {
            if (!one.is_number_unsigned() || one.get<uint64_t>() > (uint64_t(1) << 40)) record.wrong(keys[i], "holds what can't be");
            rows[i]->push_back(static_cast<int64_t>(one.get<uint64_t>()));
        }
    }
    record.end();
    if (offsets.size() != 2 || offsets[0] > offsets[1]) record.wrong("data_offsets", "should be from and to");
    tensor.begin = static_cast<uint64_t>(offsets[0]);
    tensor.end = static_cast<uint64_t>(offsets[1]);
    return tensor;
}

class Safetensors {
public:
    explicit Safetensors(const std::string& data) {
        uint64_t size = 0;
        if (data.size() < 8) throw Wrong("is no safetensors file: it has no header");
        for (int i = 0; i < 8; i++) size |= static_cast<uint64_t>(static_cast<unsigned char>(data[i])) << 8 * i;
        if (size > data.size() - 8) throw Wrong("is no safetensors file: its header is cut off");
        body_ = data.data() + 8 + size;
        room_ = data.size() - 8 - size;
        const Json header = parse_strict_json(data.substr(8, size));
        if (!header.is_object()) throw Wrong("is no safetensors file: its header is no object");
        for (const auto& [name, value] : header.items()) {
            if (name == "__metadata__") continue;
            tensors_.emplace_back(name, take_tensor(Record(value, name)));
        }
        std::vector<std::pair<uint64_t, uint64_t>> spans;
        for (const auto& [name, tensor] : tensors_) spans.emplace_back(tensor.begin, tensor.end);
        std::sort(spans.begin(), spans.end());
        uint64_t at = 0;
        for (const auto& [begin, end] : spans) {
            if (begin != at) throw Wrong("has tensors that overlap or leave gaps");
            at = end;
        }
        if (at != room_) throw Wrong("has more or fewer bytes than its tensors");
    }

    std::vector<std::string> names() const {
        std::vector<std::string> all;
        for (const auto& [name, tensor] : tensors_) all.push_back(name);
        return all;
    }

    template <class Value>
    std::vector<Value> take(const std::string& wanted, const char* type, const std::vector<int64_t>& shape) const {
        for (const auto& [name, tensor] : tensors_) {
            if (name != wanted) continue;
            int64_t count = 1;
            for (int64_t side : shape) count *= side;
            if (tensor.type != type || tensor.shape != shape || tensor.end - tensor.begin != static_cast<uint64_t>(count) * sizeof(Value))
                throw Wrong(wanted + " is not " + type + " in the shape that the manifest says");
            std::vector<Value> values(static_cast<size_t>(count));
            std::memcpy(values.data(), body_ + tensor.begin, values.size() * sizeof(Value));
            return values;
        }
        throw Wrong("holds no " + wanted);
    }

private:
    const char* body_;
    uint64_t room_;
    std::vector<std::pair<std::string, Tensor>> tensors_;
};

void check(const Golden& golden) {
    for (size_t i = 0; i < golden.probabilities.size(); i += 2) {
        const float hem = golden.probabilities[i], all = golden.probabilities[i + 1];
        const bool inside = hem >= 0 && hem <= 1 && all >= 0 && all <= 1;  // false for NaN
        if (!inside || std::fabs(static_cast<double>(hem) + all - 1) > 1e-4)
            throw Wrong("golden probabilities are not probabilities: each pair lies within 0 to 1 and sums to 1");
    }
    for (float novelty : golden.novelty)
        if (!std::isfinite(novelty) || novelty < 0) throw Wrong("golden novelty is not a distance: each is a number of at least 0");
}

}  // namespace

Golden parse_golden(const std::string& data, const Manifest& manifest, const std::string& shown) {
    try {
        const Safetensors file(data);
        std::vector<std::string> wanted = {"crops", "probabilities"};
        if (manifest.measures_novelty) wanted.insert(wanted.begin() + 1, "novelty");
        std::vector<std::string> names = file.names();
        std::sort(names.begin(), names.end());
        if (names != wanted) throw Wrong("holds other arrays than crops, probabilities and, where it is measured, novelty");
        Golden golden;
        golden.count = manifest.golden_count;
        const int64_t side = manifest.crop.side_px;
        golden.crops = file.take<uint8_t>("crops", "U8", {golden.count, side, side, 3});
        golden.probabilities = file.take<float>("probabilities", "F32", {golden.count, 3, 2});
        if (manifest.measures_novelty) golden.novelty = file.take<float>("novelty", "F32", {golden.count});
        check(golden);
        return golden;
    } catch (const Wrong& error) {
        bundle_fail(shown, manifest.golden.file + ": " + error.what());
    } catch (const NotJson& error) {
        bundle_fail(shown, manifest.golden.file + ": " + error.what());
    }
}

Golden read_golden(const Bundle& bundle) {
    const FileEntry& entry = bundle.manifest.golden;
    const int64_t side = bundle.manifest.crop.side_px;
    if (entry.size > MAX_CROPS * (side * side * 3 + 3 * 2 * 4) + HEADER_LIMIT)
        bundle_fail(bundle.path, entry.file + " is " + std::to_string(entry.size) + " bytes, more than 16 crops need");
    return parse_golden(bundle.read(entry), bundle.manifest, bundle.path);
}

}  // namespace blastscope
