// What a stranger may send to an agent's port once TLS is done, and what a head may send to a node:
// the two Opens, frames, pairing requests, member lists. No crash, no byte beyond a limit, and a
// list that is taken survives a round trip.
#include <sys/socket.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "cluster/control_connection.h"
#include "cluster/facts.h"
#include "cluster/pairing.h"

namespace conclave::cluster {
namespace {

using Step = ControlConnection::Step;

constexpr std::size_t kFrameMax = 4096;
constexpr std::size_t kBytesMax = 64 << 10;  // what a socket takes at once

struct Head {
  transport::Identity identity = transport::Identity::generate("head").value();
  Membership members{Member{.public_key = identity.public_key(), .name = "head"}};
};

void read_message(std::string_view payload) {
  static const Head head;
  if (const auto request = wire::parse<wire::pb::PairRequest>(payload)) {
    // The peer that the request claims to be, so that more than the first check is reached.
    transport::PublicKey key{};
    for (std::size_t i = 0; i < key.size() && i < request->public_key().size(); ++i) {
      key[i] = static_cast<std::byte>(request->public_key()[i]);
    }
    PairingDesk desk(PairingOptions{}, [](std::span<std::byte> bytes) {
      for (std::byte& byte : bytes) byte = std::byte{'t'};
    });
    CHECK(desk.issue({}).has_value());
    Membership members = head.members;
    const auto member =
        desk.admit(*request, {.peer = transport::fingerprint_of(key), .at = {Time{}, 1}}, members);
    CHECK(members.members().size() == (member.has_value() ? 1u : 0u));
    if (member) CHECK(verify(sign(members, head.identity), head.identity.fingerprint()));
  }
  if (auto message = wire::parse<wire::pb::FromNode>(payload)) {
    static_cast<void>(check(message->hello()));
    const bool fit = message->has_report() && clean(*message->mutable_report());
    if (fit) CHECK(message->report().error().size() <= kCleanTextMax);
  }
  if (const auto list = wire::parse<wire::pb::MemberList>(payload)) {
    const auto members = Membership::from_list(*list);
    if (members) CHECK(Membership::from_list(members->to_list()).has_value());
  }
  if (const auto signed_list = wire::parse<wire::pb::SignedMemberList>(payload)) {
    CHECK(!verify(*signed_list, head.identity.fingerprint()).has_value());
  }
  if (const auto pool = wire::parse<wire::pb::JoinedPool>(payload)) {
    static_cast<void>(JoinedPool::from_message(*pool));
  }
  if (const auto answer = wire::parse<wire::pb::PairAnswer>(payload)) {
    const PairCode code{.addresses = {{"h", 1}}, .head = pin_of(head.identity.fingerprint())};
    CHECK(!read_pair_answer(*answer, code, head.identity.fingerprint(), head.identity));
  }
}

void run(ControlConnection& connection) {
  while (true) {
    switch (connection.advance()) {
      case Step::kIdle:
      case Step::kClosed:
        return;
      case Step::kMore:
        break;
      case Step::kAsked:
        connection.limit_frames(kFrameMax, 8);
        connection.accept();
        break;
      case Step::kOpened:
        if (connection.purpose() != Purpose::kBulk) break;
        static_cast<void>(connection.take());
        return;
      case Step::kFrame:
        CHECK(connection.payload().size() <= kFrameMax);
        read_message(connection.payload());
        break;
    }
  }
}

}  // namespace
}  // namespace conclave::cluster

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using conclave::cluster::ControlConnection;
  if (size == 0 || size > conclave::cluster::kBytesMax) return 0;
  std::array<int, 2> fds{};
  CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()) == 0);
  const conclave::FileDescriptor peer(fds[0]);
  // The first byte says where the stream is cut, so that frames straddle two reads.
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const std::size_t cut = bytes.size() * data[0] / 256;
  ControlConnection connection(conclave::transport::SecureStream::clear(fds[1]),
                               {.queue_max = std::size_t{1} << 20});
  for (const std::string_view part : {bytes.substr(0, cut), bytes.substr(cut)}) {
    static_cast<void>(::send(peer.get(), part.data(), part.size(), MSG_NOSIGNAL | MSG_DONTWAIT));
    conclave::cluster::run(connection);
  }
  return 0;
}
