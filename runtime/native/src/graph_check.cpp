#include "graph_check.h"

#include "errors.h"

namespace blastscope {

std::string read_graph(const Bundle& bundle, const GraphEntry& entry) {
    return bundle.read(entry);
}

}  // namespace blastscope
