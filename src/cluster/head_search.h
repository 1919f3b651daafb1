// How a node finds a head whose address it does not know any more: the head announces itself with
// the beginning of its key's fingerprint, and the node looks for that (discovery.h).
//
// What is found is where to call, no more: the key decides.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "cluster/discovery.h"
#include "cluster/membership.h"
#include "cluster/pairing.h"

namespace conclave::cluster {

TxtRecord head_record(const HeadPin& head);

class HeadSearch {
 public:
  static constexpr std::size_t kFoundMax = 8;  // addresses; the oldest gives way

  explicit HeadSearch(const HeadPin& head) : record_(head_record(head)) {}

  void on_found(const FoundService& service);
  std::vector<HostPort> addresses() const;  // newest first

 private:
  TxtRecord record_;
  std::vector<std::pair<std::string, HostPort>> found_;  // by the service's name
};

}  // namespace conclave::cluster
