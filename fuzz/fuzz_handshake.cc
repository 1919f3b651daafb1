// What a stranger may say to a rank that joins a group, in clear and as TLS: no crash, and nobody
// is let in but who sends the one right greeting.
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/check.h"
#include "transport/greeting.h"
#include "transport/hello.h"

namespace conclave::transport {
namespace {

const Identity& identity() {
  static const Identity kIdentity = Identity::generate("fuzz").value();
  return kIdentity;
}

GroupSpec group(Rank rank) {
  GroupSpec spec{.cluster = 1, .epoch = 2, .rank = rank, .ranks = std::vector<Endpoint>(3)};
  for (Endpoint& endpoint : spec.ranks) {
    endpoint.clear = true;
    endpoint.host_id = "here";
  }
  return spec;
}

void decode(std::span<const std::byte> bytes) {
  if (bytes.size() < kHelloSize) return;
  const auto hello = decode_hello(bytes.first<kHelloSize>());
  if (!hello) return;
  CHECK(hello->n_ranks <= kRanksMax && hello->rank < hello->n_ranks);
  const auto encoded = encode(hello.value());
  CHECK(std::equal(encoded.begin(), encoded.end(), bytes.begin()));
}

// One end of a connection whose other end says these bytes, and then nothing more.
void greet(std::span<const std::byte> bytes, bool calls) {
  std::array<int, 2> fds{};
  CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds.data()) == 0);
  const GroupSpec spec = group(1);
  Greeting greeting = calls ? Greeting::call(Socket(fds[0]), 0, spec, identity(), true)
                            : Greeting::accept(Socket(fds[0]), spec, identity(), true);
  Socket other(fds[1]);
  [[maybe_unused]] const ssize_t sent =
      ::send(other.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  shutdown(other.get(), SHUT_WR);
  Greeting::State state = Greeting::State::kWorking;
  for (int i = 0; i < 4 && state == Greeting::State::kWorking; ++i) state = greeting.step();
  if (state != Greeting::State::kDone) return;
  CHECK(bytes.size() >= kHelloSize);
  const auto hello = decode_hello(bytes.first<kHelloSize>());
  CHECK(hello && check_hello(hello.value(), spec, calls ? Rank{0} : Rank{2}));
}

}  // namespace
}  // namespace conclave::transport

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  conclave::transport::decode(bytes);
  for (const bool calls : {false, true}) conclave::transport::greet(bytes, calls);
  return 0;
}
