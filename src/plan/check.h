// The checks behind check(Pool) and check(Cluster), for one value each, and the ranges that they
// share with the reader of files.
#pragma once

#include "base/result.h"
#include "plan/placement.h"

namespace conclave::plan {

// Far beyond any hardware, and small enough that sums and products of them stay finite.
inline constexpr double kBytesMax = 1e18;
inline constexpr double kRateMax = 1e18;  // bytes per second
inline constexpr double kFlopsMax = 1e21;
inline constexpr double kSecondsMax = 1e4;
inline constexpr double kWattsMax = 1e9;
inline constexpr double kUsdMax = 1e12;
inline constexpr std::size_t kBatchMax = 1'000'000;
inline constexpr std::size_t kTokensMax = 1'000'000'000'000;
inline constexpr std::size_t kContextMax = 1'000'000'000;
inline constexpr std::size_t kDraftTokensMax = 64;
inline constexpr std::size_t kExpertCopiesMax = 1024;
inline constexpr double kSmallest = 1e-12;  // stands for "above zero"
inline constexpr double kZipfMax = 10.0;
inline constexpr double kYearsMax = 100.0;

Result<void> check(const Machine& machine);
Result<void> check(const Link& link);
Result<void> check(const Software& software);
Result<void> check(const Quant& quant);
Result<void> check(const Workload& workload);
Result<void> check(const Policy& policy);

}  // namespace conclave::plan
