#include "cluster/bulk_link.h"

#include <poll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>

#include "base/check.h"
#include "cluster/control_connection.h"

namespace conclave::cluster {
namespace {

using transport::IoStatus;
using transport::SecureStream;

constexpr int kStopCheckMs = 100;
constexpr std::size_t kReadMax = std::size_t{1} << 20;  // between two reports of progress

// Until the socket is ready. kUnavailable: the time is over, or it was told to stop.
Result<void> wait_ready(int fd, short events, Time deadline, const BulkWaiting& waiting,
                        const char* what) {
  for (;;) {
    if (waiting.stop()) return unavailable("no longer wanted");
    if (waiting.clock.now() >= deadline) return unavailable(std::string(what) + " in time");
    pollfd ready{fd, events, 0};
    if (::poll(&ready, 1, kStopCheckMs) > 0) return {};
  }
}

short events_of(IoStatus status) {
  return static_cast<short>(status == IoStatus::kWantWrite ? POLLOUT : POLLIN);
}

Result<transport::Socket> connect_one(const transport::Address& address, Time deadline,
                                      const BulkWaiting& waiting) {
  transport::Socket socket = transport::start_connect(address, waiting.dial_limit);
  if (!socket.open()) return unavailable(transport::error_text(errno));
  TRY(wait_ready(socket.get(), POLLOUT, deadline, waiting, "does not answer"));
  if (const int error = transport::connect_error(socket.get()); error != 0) {
    return unavailable(transport::error_text(error));
  }
  return socket;
}

Result<SecureStream> open_bulk(transport::Socket socket, const WeightHolder& holder,
                               const transport::Identity& self, Time deadline,
                               const BulkWaiting& waiting) {
  using Step = ControlConnection::Step;
  const auto is_holder = [expected = holder.endpoint.fingerprint](
                             const transport::Fingerprint& shown) { return shown == expected; };
  ControlConnection connection(
      SecureStream::tls(socket.release(), self, SecureStream::Side::kCaller, is_holder),
      {.side = SecureStream::Side::kCaller,
       .purpose = Purpose::kBulk,
       .build = CONCLAVE_VERSION,
       .queue_max = 2 * kOpenSizeMax});
  for (;;) {
    const Step step = connection.advance();
    if (step == Step::kOpened) break;
    if (step == Step::kClosed) return unavailable(connection.reason());
    if (step == Step::kMore) continue;
    CHECK(step == Step::kIdle);
    const auto events = static_cast<short>(POLLIN | (connection.wants_write() ? POLLOUT : 0));
    TRY(wait_ready(connection.fd(), events, deadline, waiting, "does not open"));
  }
  SecureStream stream = connection.take();
  transport::set_user_timeout(stream.fd(), Duration::zero());  // reply_limit decides
  return stream;
}

}  // namespace

Result<SecureStream> dial_holder(const WeightHolder& holder, const transport::Identity& self,
                                 const BulkWaiting& waiting) {
  const std::vector<transport::Address> addresses =
      TRY(transport::resolve(holder.endpoint.host, holder.endpoint.port));
  std::optional<Error> error;
  for (const transport::Address& address : addresses) {
    const Time deadline = waiting.clock.now() + waiting.dial_limit;
    Result<transport::Socket> socket = connect_one(address, deadline, waiting);
    if (!socket) {
      error = socket.error();
      continue;
    }
    Result<SecureStream> stream =
        open_bulk(std::move(socket).value(), holder, self, deadline, waiting);
    if (stream) return stream;
    error = stream.error();
  }
  CHECK(error.has_value());
  return *error;
}

Result<void> BulkLink::send(const BulkRequest& request) {
  const auto bytes = encode(request);
  std::span<const std::byte> rest = bytes;
  const Time deadline = waiting_.clock.now() + waiting_.reply_limit;
  while (!rest.empty()) {
    const transport::IoResult sent = stream_.write_some(rest);
    rest = rest.subspan(sent.bytes);
    if (sent.status == IoStatus::kDone) continue;
    if (sent.status == IoStatus::kClosed || sent.status == IoStatus::kFailed) {
      return unavailable(std::string(stream_.error()));
    }
    TRY(wait_ready(stream_.fd(), events_of(sent.status), deadline, waiting_, "takes no request"));
  }
  return {};
}

Result<void> BulkLink::receive(std::span<std::byte> out, Hasher* hasher) {
  Time deadline = waiting_.clock.now() + waiting_.reply_limit;
  while (!out.empty()) {
    const transport::IoResult got = stream_.read_some(out.first(std::min(out.size(), kReadMax)));
    if (got.status == IoStatus::kDone) {
      if (hasher != nullptr) {
        hasher->add(out.first(got.bytes));
        waiting_.on_bytes(got.bytes);
      }
      out = out.subspan(got.bytes);
      deadline = waiting_.clock.now() + waiting_.reply_limit;
      continue;
    }
    if (got.status == IoStatus::kClosed || got.status == IoStatus::kFailed) {
      return unavailable(std::string(stream_.error()));
    }
    TRY(wait_ready(stream_.fd(), events_of(got.status), deadline, waiting_, "sends nothing"));
  }
  return {};
}

Result<BulkAnswer> BulkLink::receive_header() {
  std::array<std::byte, kBulkAnswerSize> header;
  TRY(receive(header, nullptr));
  return decode_answer(header);
}

Result<void> BulkLink::receive_bytes(const BulkAnswer& answer, std::span<std::byte> out) {
  CHECK(out.size() == answer.bytes);
  if (answer.kind == BulkKind::kEcho) return receive(out, nullptr);
  Hasher hasher;
  TRY(receive(out, &hasher));
  if (hasher.finish() != answer.hash) return corrupt("bytes changed on their way");
  return {};
}

}  // namespace conclave::cluster
