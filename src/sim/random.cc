#include <cmath>
#include <numbers>

#include "base/check.h"
#include "base/rng.h"
#include "sim/sim.h"

namespace conclave::sim {

Duration from_seconds(double seconds) {
  CHECK(std::isfinite(seconds) && std::abs(seconds) < 9e9);
  return std::chrono::round<Duration>(std::chrono::duration<double>(seconds));
}

RandomStream RandomStream::child(std::uint64_t index) const {
  // The constant keeps child k apart from the k-th number.
  return RandomStream(hash_combine(hash_combine(key_, 0x6368696c64u), index));
}

std::uint64_t RandomStream::next() { return hash_combine(key_, count_++); }

double RandomStream::uniform() { return unit_interval(next()); }

std::size_t RandomStream::below(std::size_t end) {
  CHECK(end > 0);
  // The bias of the remainder is below end / 2^64.
  return static_cast<std::size_t>(next() % end);
}

bool RandomStream::chance(double probability) {
  return probability > 0.0 && uniform() < probability;
}

Duration RandomStream::exponential(Duration mean) {
  if (mean == Duration::zero()) return mean;
  return from_seconds(-std::log(uniform()) * seconds(mean));
}

double RandomStream::normal() {
  // Box and Muller (1958); the second number is given up, so that no state is kept.
  const double radius = std::sqrt(-2.0 * std::log(uniform()));
  return radius * std::cos(2.0 * std::numbers::pi * uniform());
}

}  // namespace conclave::sim
