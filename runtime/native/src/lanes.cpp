#include "lanes.h"

#include <cmath>
#include <cstring>

#include <openvino/runtime/infer_request.hpp>

#include "errors.h"
#include "openvino_errors.h"
#include "partition.h"

namespace blastscope {
namespace {

void copy_crop(ov::Tensor& entry, const uint8_t* crop) { std::memcpy(entry.data<uint8_t>(), crop, entry.get_byte_size()); }

void take_answer(const ov::InferRequest& request, float* answer) {
    const ov::Tensor found = const_cast<ov::InferRequest&>(request).get_output_tensor(0);
    std::memcpy(answer, found.data<const float>(), found.get_byte_size());
}

class RequestLane : public Lane {
public:
    explicit RequestLane(ov::CompiledModel& network) : request_(network.create_infer_request()), entry_(request_.get_input_tensor(0)) {}

    void infer(const uint8_t* crop, float* answer) override {
        translating("inference", [&] {
            copy_crop(entry_, crop);
            request_.infer();
            take_answer(request_, answer);
        });
    }

private:
    ov::InferRequest request_;
    ov::Tensor entry_;
};

// Requests of a network's parts, which hand their tensors on without a copy.
class PartitionedLane : public Lane {
public:
    PartitionedLane(Networks& parts, bool together) : together_(together) {
        if (parts[0]) stem_ = parts[0]->create_infer_request();
        for (int side = 0; side < 2; side++) sides_[side] = parts[1 + side]->create_infer_request();
        rest_ = parts[3]->create_infer_request();
        opinion_ = parts[4]->create_infer_request();
        entry_ = (stem_ ? *stem_ : sides_[0]).get_input_tensor(0);
        if (stem_) {
            for (int side = 0; side < 2; side++)
                for (const auto& input : parts[1 + side]->inputs()) sides_[side].set_tensor(input, stem_->get_output_tensor(place_of(input)));
        } else {
            sides_[1].set_input_tensor(0, entry_);
        }
        size_t place = 0;
        for (int side = 0; side < 2; side++)
            for (size_t output = 0; output < parts[1 + side]->outputs().size(); output++)
                rest_.set_input_tensor(place++, sides_[side].get_output_tensor(output));
    }

    void infer(const uint8_t* crop, float* answer) override {
        translating("inference", [&] {
            begin(crop);
            if (together_) {
                sides_[0].start_async();
                try {
                    sides_[1].infer();
                } catch (...) {
                    settle(sides_[0]);
                    throw;
                }
                sides_[0].wait();
            } else {
                for (ov::InferRequest& side : sides_) side.infer();
            }
            rest_.infer();
            take_answer(rest_, answer);
        });
    }

    void infer_in_turn(const uint8_t* crop, float* answer, const CascadeTurn& turn) override {
        translating("inference", [&] {
            begin(crop);
            ov::InferRequest& first = sides_[turn.first];
            first.infer();
            opinion_.set_input_tensor(0, first.get_output_tensor(0));
            opinion_.infer();
            const float* pair = opinion_.get_output_tensor(0).data<const float>();
            if (!std::isfinite(pair[0]) || !std::isfinite(pair[1]))
                fail(BLASTSCOPE_ENGINE, "a network answered with something that is not a number");
            if (std::max(pair[0], pair[1]) >= turn.threshold) {
                for (int i = 0; i < 6; i++) answer[i] = NAN;
                answer[2 * turn.first] = pair[0];
                answer[2 * turn.first + 1] = pair[1];
                return;
            }
            sides_[1 - turn.first].infer();
            rest_.infer();
            take_answer(rest_, answer);
        });
    }

private:
    static size_t place_of(const ov::Output<const ov::Node>& input) {
        for (const std::string& name : input.get_names())
            if (name.rfind(STEM, 0) == 0) return std::stoul(name.substr(std::strlen(STEM)));
        throw std::runtime_error("a part of a network has an input that nothing gives");
    }
    static void settle(ov::InferRequest& request) {
        try {
            request.wait();
        } catch (const std::exception&) {  // what a run that was given up came to
        }
    }
    void begin(const uint8_t* crop) {
        copy_crop(entry_, crop);
        if (stem_) stem_->infer();
    }

    bool together_;
    std::optional<ov::InferRequest> stem_;
    ov::InferRequest sides_[2], rest_, opinion_;
    ov::Tensor entry_;
};

}  // namespace

void Lane::infer_in_turn(const uint8_t*, float*, const CascadeTurn&) {
    fail(BLASTSCOPE_ENGINE, "openvino runs a network whole, so no voter can be left out");
}

std::unique_ptr<Lane> make_lane(Networks& networks, bool together) {
    if (networks.size() == 1) return std::make_unique<RequestLane>(*networks[0]);
    return std::make_unique<PartitionedLane>(networks, together);
}

}  // namespace blastscope
