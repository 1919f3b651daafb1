// Links between the machines of a placement, and what a message over them costs.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "plan/placement.h"

namespace conclave::plan {

// The links that an exchange between these machines uses; the slowest decides. Machines without a
// link of their own are reached over others.
std::vector<Link> links_between(const Pool& pool, std::span<const std::size_t> machines);

// One exchange of `bytes` from each of `n_ranks` ranks to all others over links like this one.
double link_exchange_seconds(const Cluster& cluster, const Link& link, std::size_t n_ranks,
                             double bytes);
// Whether a one-shot collective goes as reduce-scatter and all-gather: large messages do.
bool exchange_scatters(const Cluster& cluster, const Link& link, std::size_t n_ranks, double bytes);
// One message from a pipeline stage to the next.
double hop_seconds(const Cluster& cluster, std::span<const std::size_t> machines, double elements);
// Mean of the slowest link's jitter.
double jitter_seconds(const Cluster& cluster, std::span<const std::size_t> machines);

}  // namespace conclave::plan
