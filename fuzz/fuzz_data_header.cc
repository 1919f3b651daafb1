// The header of a message between ranks, and the stream of messages that a link cuts: no crash, no
// reading past the end, and what decodes survives a round trip.
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/check.h"
#include "transport/link.h"
#include "wire/wire.h"

namespace conclave {
namespace {

void decode(std::span<const std::byte> bytes) {
  if (bytes.size() < wire::kDataHeaderSize) return;
  const auto header = wire::decode_data_header(bytes.first<wire::kDataHeaderSize>());
  if (!header) return;
  const auto encoded = wire::encode(header.value());
  CHECK(std::equal(encoded.begin(), encoded.end(), bytes.begin()));
}

// The first byte says how much of the rest comes as the payload of a header that is right, so that
// the fuzzer gets past the checksum.
void read_link(std::span<const std::byte> bytes) {
  std::array<int, 2> fds{};
  CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()) == 0);
  const transport::Link::Limits limits{.queue_bytes_max = std::size_t{1} << 20,
                                       .silence_max = std::chrono::seconds(2)};
  transport::Link link(1, 7, limits, transport::SecureStream::clear(fds[0]), std::nullopt);
  transport::Socket other(fds[1]);
  const auto say = [&other](std::span<const std::byte> said) {
    // What does not fit into the socket is cut off.
    [[maybe_unused]] const ssize_t sent =
        ::send(other.get(), said.data(), said.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  };
  const auto size = std::min(std::to_integer<std::size_t>(bytes[0]), bytes.size() - 1);
  say(wire::encode({.epoch = 7, .sequence = 0, .size = static_cast<std::uint32_t>(size)}));
  say(bytes.subspan(1));
  other.reset();
  std::size_t messages = 0;
  while (const auto message = link.read()) {
    CHECK(message->header.sequence == messages++);
    CHECK(message->payload.size() == message->header.size);
  }
  CHECK(messages >= 1 && link.lost());
}

}  // namespace
}  // namespace conclave

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  conclave::decode(bytes);
  if (!bytes.empty()) conclave::read_link(bytes);
  return 0;
}
