#include <utility>

#include "transport/link_transport.h"
#include "transport/rendezvous.h"
#include "transport/socket.h"
#include "transport/transport.h"

namespace conclave::transport {
namespace {

// The slowest of the ranks, on whom all wait at the end of each phase of a layer, is late by tenths
// of a millisecond, sometimes by more. A processor that slept needs about a tenth itself to be
// back.
constexpr Duration kSpin = std::chrono::milliseconds(2);

}  // namespace

struct TcpFabric::State {
  const Clock& clock;
  Identity identity;
  TcpOptions options;
  Socket listener;
};

TcpFabric::TcpFabric(std::unique_ptr<State> state) : state_(std::move(state)) {}
TcpFabric::~TcpFabric() = default;

Result<std::unique_ptr<TcpFabric>> TcpFabric::listen(const Clock& clock, const Identity& identity,
                                                     const TcpOptions& options) {
  Socket listener = TRY(listen_on(options.host, options.port));
  auto state = std::make_unique<State>(State{clock, identity, options, std::move(listener)});
  return std::unique_ptr<TcpFabric>(new TcpFabric(std::move(state)));
}

std::uint16_t TcpFabric::port() const { return local_port(state_->listener.get()); }

Result<std::unique_ptr<Transport>> TcpFabric::join(const GroupSpec& spec, Time deadline,
                                                   Watch* watch) {
  if (spec.ranks.size() > kRanksMax || spec.rank >= spec.ranks.size()) {
    return invalid_input("rank " + std::to_string(spec.rank) + " of a group of " +
                         std::to_string(spec.ranks.size()) + "; at most " +
                         std::to_string(kRanksMax) + " ranks");
  }
  Rendezvous rendezvous(state_->clock, state_->identity, state_->options, state_->listener, spec);
  auto links = TRY(rendezvous.run(deadline, watch));
  const Duration spin = state_->options.spin.value_or(kSpin);
  return std::unique_ptr<Transport>(
      std::make_unique<LinkTransport>(state_->clock, spec.rank, std::move(links), spin, watch));
}

}  // namespace conclave::transport
