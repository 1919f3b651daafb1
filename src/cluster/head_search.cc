#include "cluster/head_search.h"

#include <algorithm>

namespace conclave::cluster {
namespace {

constexpr const char* kHeadKey = "head";

}  // namespace

TxtRecord head_record(const HeadPin& head) {
  std::string hex;
  for (const std::byte byte : head) {
    hex += "0123456789abcdef"[static_cast<unsigned>(byte) >> 4u];
    hex += "0123456789abcdef"[static_cast<unsigned>(byte) & 15u];
  }
  return {{kHeadKey, hex}};
}

void HeadSearch::on_found(const FoundService& service) {
  if (service.gone) {
    std::erase_if(found_, [&service](const auto& item) { return item.first == service.name; });
    return;
  }
  const auto key = service.txt.find(kHeadKey);
  if (key == service.txt.end() || key->second != record_.at(kHeadKey)) return;
  const auto known = std::pair(service.name, service.address);
  std::erase(found_, known);
  if (found_.size() == kFoundMax) found_.erase(found_.begin());
  found_.push_back(known);
}

std::vector<HostPort> HeadSearch::addresses() const {
  std::vector<HostPort> addresses;
  for (auto it = found_.rbegin(); it != found_.rend(); ++it) addresses.push_back(it->second);
  return addresses;
}

}  // namespace conclave::cluster
