#include "cluster/link_table.h"

#include <map>
#include <utility>

namespace conclave::cluster {
void LinkTable::set(Time now, NodeId from, NodeId to, LinkMeasurement found) {
  links_[{from, to}] = {std::move(found), now};
}

void LinkTable::forget(NodeId node) {
  std::erase_if(links_, [node](const auto& item) {
    return item.first.first == node || item.first.second == node;
  });
}

const MeasuredLink* LinkTable::find(NodeId from, NodeId to) const {
  const auto it = links_.find({from, to});
  return it == links_.end() ? nullptr : &it->second;
}

}  // namespace conclave::cluster
