#include "cluster/control_hub.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/rng.h"

namespace conclave::cluster {
namespace {

using transport::Fingerprint;
using transport::Identity;
using transport::SecureStream;
using transport::Socket;
using namespace std::chrono_literals;

wire::pb::PairRequest numbered(std::uint64_t n) {
  wire::pb::PairRequest message;
  message.set_name(std::to_string(n));
  return message;
}

// A hub that writes down what happens, and an owner's rules that a test may change.
struct Machine {
  explicit Machine(const char* name, HubOptions options = {})
      : identity(Identity::generate(name).value()) {
    HubHandlers handlers{
        .trust =
            [this](const Fingerprint& peer) {
              const auto found = trust.find(peer);
              return found == trust.end() ? Trust::kStranger : found->second;
            },
        .on_open =
            [this](const OpenedConnection& connection) {
              opened.push_back(connection);
              if (on_open) on_open(connection);
            },
        .on_message =
            [this](ConnectionId id, std::string_view payload) {
              messages.emplace_back(payload);
              if (on_message) on_message(id, payload);
            },
        .on_close = [this](ConnectionId id,
                           const std::string& reason) { closed.emplace_back(id, reason); },
        .on_refused = [this](const std::string& address,
                             const std::string& reason) { refused.emplace_back(address, reason); },
    };
    options.build = name;
    hub = std::move(ControlHub::create(identity, options, std::move(handlers))).value();
  }

  Identity identity;
  std::map<Fingerprint, Trust> trust;
  std::function<void(const OpenedConnection&)> on_open;
  std::function<void(ConnectionId, std::string_view)> on_message;
  std::vector<OpenedConnection> opened;
  std::vector<std::string> messages;
  std::vector<std::pair<ConnectionId, std::string>> closed;
  std::vector<std::pair<std::string, std::string>> refused;
  std::unique_ptr<ControlHub> hub;
};

class ControlHubTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto port = head_.hub->listen("127.0.0.1", 0);
    ASSERT_TRUE(port.has_value()) << port.error().message;
    port_ = *port;
    head_.trust[node_.identity.fingerprint()] = Trust::kMember;
  }

  // Real time, which a test may move on.
  Time now() const { return RealClock().now() + skipped_; }

  // Runs the machines until `done`, at most 20 s of real time.
  template <class Done>
  [[nodiscard]] bool run(const std::vector<Machine*>& machines, Done done) {
    const Time limit = RealClock().now() + 20s;
    while (RealClock().now() < limit) {
      std::vector<pollfd> fds;
      for (Machine* machine : machines) {
        machine->hub->poll(now());
        fds.push_back({.fd = machine->hub->fd(), .events = POLLIN, .revents = 0});
      }
      if (done()) return true;
      ::poll(fds.data(), fds.size(), 20);
    }
    return false;
  }

  ConnectionId call(Machine& from, Purpose purpose = Purpose::kControl) {
    return from.hub->connect({"127.0.0.1", port_}, head_.identity.fingerprint(), purpose, now());
  }

  // A bare TCP connection to the head.
  Socket bare() const {
    const auto addresses = transport::resolve("127.0.0.1", port_);
    Socket socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const transport::Address& address = addresses.value().front();
    EXPECT_EQ(
        ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address.storage), address.size),
        0);
    return socket;
  }

  Duration skipped_{};
  Machine head_{"head"};
  Machine node_{"node"};
  std::uint16_t port_ = 0;
};

TEST_F(ControlHubTest, AMemberConnects) {
  const ConnectionId id = call(node_);
  ASSERT_TRUE(run({&head_, &node_},
                  [this] { return head_.opened.size() == 1 && node_.opened.size() == 1; }));
  const OpenedConnection& at_head = head_.opened[0];
  EXPECT_EQ(at_head.peer, node_.identity.fingerprint());
  EXPECT_EQ(at_head.trust, Trust::kMember);
  EXPECT_EQ(at_head.purpose, Purpose::kControl);
  EXPECT_FALSE(at_head.outgoing);
  EXPECT_EQ(at_head.address.host, "127.0.0.1");
  EXPECT_EQ(at_head.build, "node");
  EXPECT_EQ(node_.opened[0].id, id);
  EXPECT_EQ(node_.opened[0].peer, head_.identity.fingerprint());
  EXPECT_TRUE(node_.opened[0].outgoing);

  node_.hub->send(id, numbered(1));
  ASSERT_TRUE(run({&head_, &node_}, [this] { return head_.messages.size() == 1; }));
  head_.hub->send(at_head.id, numbered(2));
  ASSERT_TRUE(run({&head_, &node_}, [this] { return node_.messages.size() == 1; }));
  EXPECT_EQ(wire::parse<wire::pb::PairRequest>(node_.messages[0])->name(), "2");
}

TEST_F(ControlHubTest, ListensForBothFamiliesAndLooksNamesUp) {
  Machine other("other");
  const auto port = other.hub->listen("", 0);
  ASSERT_TRUE(port.has_value());
  other.trust[node_.identity.fingerprint()] = Trust::kMember;
  for (const char* host : {"127.0.0.1", "localhost"}) {
    node_.opened.clear();
    other.opened.clear();
    node_.hub->connect({host, *port}, other.identity.fingerprint(), Purpose::kControl, now());
    ASSERT_TRUE(run({&other, &node_}, [&] {
      return other.opened.size() == 1 && node_.opened.size() == 1;
    })) << host;
  }
  EXPECT_EQ(other.opened[0].address.host.find("ffff"), std::string::npos);
}

TEST_F(ControlHubTest, TenThousandMessagesEachWayInOrder) {
  const ConnectionId id = call(node_);
  ASSERT_TRUE(run({&head_, &node_},
                  [this] { return head_.opened.size() == 1 && node_.opened.size() == 1; }));
  for (std::uint64_t i = 0; i < 10'000; ++i) {
    node_.hub->send(id, numbered(i));
    head_.hub->send(head_.opened[0].id, numbered(i + 1'000'000));
  }
  ASSERT_TRUE(run({&head_, &node_}, [this] {
    return head_.messages.size() == 10'000 && node_.messages.size() == 10'000;
  }));
  for (std::size_t i = 0; i < 10'000; ++i) {
    EXPECT_EQ(wire::parse<wire::pb::PairRequest>(head_.messages[i])->name(), std::to_string(i));
    EXPECT_EQ(wire::parse<wire::pb::PairRequest>(node_.messages[i])->name(),
              std::to_string(i + 1'000'000));
  }
}

TEST_F(ControlHubTest, AMemberMaySendALargeFrame) {
  const ConnectionId id = call(node_);
  ASSERT_TRUE(run({&head_, &node_}, [this] { return node_.opened.size() == 1; }));
  wire::pb::PairRequest large;
  large.set_token(std::string(20 << 20, 'w'));
  node_.hub->send(id, large);
  ASSERT_TRUE(run({&head_, &node_}, [this] { return head_.messages.size() == 1; }));
  EXPECT_EQ(head_.messages[0].size(), large.ByteSizeLong());
}

TEST_F(ControlHubTest, StrangersGetNoControlConnection) {
  Machine stranger("stranger");
  call(stranger);
  ASSERT_TRUE(run({&head_, &stranger},
                  [&] { return stranger.closed.size() == 1 && head_.refused.size() == 1; }));
  EXPECT_NE(stranger.closed[0].second.find("conclave pair"), std::string::npos);
  EXPECT_TRUE(head_.opened.empty());

  head_.trust[stranger.identity.fingerprint()] = Trust::kRefused;
  call(stranger, Purpose::kPair);
  ASSERT_TRUE(run({&head_, &stranger}, [&] { return stranger.closed.size() == 2; }));
  EXPECT_NE(stranger.closed[1].second.find("does not want"), std::string::npos);
}

TEST_F(ControlHubTest, NobodyElseGetsAByte) {
  // The right address, another key than the code says.
  HeadPin pin = pin_of(head_.identity.fingerprint());
  pin[15] ^= std::byte{1};
  node_.hub->connect({"127.0.0.1", port_}, pin, Purpose::kPair, now());
  ASSERT_TRUE(run({&head_, &node_},
                  [this] { return node_.closed.size() == 1 && head_.refused.size() == 1; }));
  EXPECT_TRUE(head_.opened.empty());
  EXPECT_TRUE(node_.opened.empty());
  node_.hub->connect({"127.0.0.1", port_}, pin_of(head_.identity.fingerprint()), Purpose::kPair,
                     now());
  ASSERT_TRUE(run({&head_, &node_}, [this] { return node_.opened.size() == 1; }));
}

TEST_F(ControlHubTest, AStrangerSaysOneSmallThing) {
  Machine stranger("stranger");
  const ConnectionId id = call(stranger, Purpose::kPair);
  ASSERT_TRUE(run({&head_, &stranger}, [&] { return stranger.opened.size() == 1; }));
  EXPECT_EQ(head_.opened[0].trust, Trust::kStranger);
  wire::pb::PairRequest large;
  large.set_token(std::string(5000, 'x'));
  stranger.hub->send(id, large);
  ASSERT_TRUE(run({&head_, &stranger}, [&] { return stranger.closed.size() == 1; }));
  EXPECT_TRUE(head_.messages.empty());
  ASSERT_EQ(head_.closed.size(), 1u);
}

TEST_F(ControlHubTest, AStrangersTimeIsShort) {
  Machine stranger("stranger");
  call(stranger, Purpose::kPair);
  ASSERT_TRUE(run({&head_, &stranger}, [&] { return stranger.opened.size() == 1; }));
  skipped_ += 9s;
  head_.hub->poll(now());
  EXPECT_TRUE(head_.closed.empty());
  skipped_ += 2s;
  ASSERT_TRUE(run({&head_, &stranger}, [&] { return stranger.closed.size() == 1; }));
  EXPECT_NE(head_.closed[0].second.find("time is over"), std::string::npos);
}

TEST_F(ControlHubTest, StrangersAreFew) {
  std::vector<std::unique_ptr<Machine>> strangers;
  std::vector<Machine*> all{&head_};
  for (int i = 0; i < 10; ++i) {
    strangers.push_back(std::make_unique<Machine>("stranger"));
    all.push_back(strangers.back().get());
    call(*strangers.back(), Purpose::kPair);
  }
  const auto count = [&](auto what) {
    std::size_t n = 0;
    for (const auto& stranger : strangers) n += what(*stranger);
    return n;
  };
  ASSERT_TRUE(run(all, [&] {
    return count([](Machine& m) { return m.opened.size() + m.closed.size(); }) == 10;
  }));
  EXPECT_EQ(count([](Machine& m) { return m.opened.size(); }), 8u);
  // A member gets in beside them.
  all.push_back(&node_);
  call(node_);
  ASSERT_TRUE(run(all, [this] { return node_.opened.size() == 1; }));
}

TEST_F(ControlHubTest, StrangersComeSlowly) {
  HubOptions options;
  options.limits.strangers_max = 100;
  Machine other("other", options);
  port_ = other.hub->listen("127.0.0.1", 0).value();
  Machine stranger("stranger");
  const Time stopped = now();
  const auto try_once = [&] {
    const std::size_t before = stranger.opened.size();
    const std::size_t ends = stranger.closed.size();
    stranger.hub->connect({"127.0.0.1", port_}, other.identity.fingerprint(), Purpose::kPair,
                          stopped);
    const bool ended = run({&stranger}, [&] {
      other.hub->poll(stopped + skipped_);
      return stranger.opened.size() + stranger.closed.size() > before + ends;
    });
    EXPECT_TRUE(ended);
    return stranger.opened.size() > before;
  };
  for (int i = 0; i < 8; ++i) EXPECT_TRUE(try_once()) << i;
  EXPECT_FALSE(try_once());
  skipped_ += 100ms;
  EXPECT_TRUE(try_once());
  EXPECT_FALSE(try_once());
}

TEST_F(ControlHubTest, GarbageIsRefused) {
  const Socket socket = bare();
  const std::string garbage = "GET / HTTP/1.1\r\nHost: head\r\n\r\n";
  ASSERT_EQ(::send(socket.get(), garbage.data(), garbage.size(), 0),
            static_cast<ssize_t>(garbage.size()));
  ASSERT_TRUE(run({&head_}, [this] { return head_.refused.size() == 1; }));
  EXPECT_TRUE(head_.refused[0].first.starts_with("127.0.0.1:")) << head_.refused[0].first;
  EXPECT_EQ(head_.hub->n_connections(), 0u);
}

TEST_F(ControlHubTest, OneWhoSaysNothingIsClosed) {
  const Socket silent = bare();
  const Socket slow = bare();
  ASSERT_EQ(::send(slow.get(), "\x16\x03", 2, 0), 2);  // as TLS begins
  ASSERT_TRUE(run({&head_}, [this] { return head_.hub->n_connections() == 2; }));
  skipped_ += 4s;
  head_.hub->poll(now());
  EXPECT_EQ(head_.hub->n_connections(), 2u);
  skipped_ += 2s;
  head_.hub->poll(now());
  EXPECT_EQ(head_.hub->n_connections(), 0u);
  ASSERT_EQ(head_.refused.size(), 2u);
  EXPECT_NE(head_.refused[0].second.find("within 5 s"), std::string::npos);
  char byte = 0;
  EXPECT_LE(::recv(silent.get(), &byte, 1, 0), 0);
}

TEST_F(ControlHubTest, ACrowdThatSaysNothingKeepsNoMemberOut) {
  std::vector<Socket> crowd;
  for (int i = 0; i < 300; ++i) {
    crowd.push_back(bare());
    head_.hub->poll(now());
  }
  EXPECT_LE(head_.hub->n_connections(), HubLimits{}.unknown_max);
  EXPECT_GE(head_.refused.size(), 200u);
  call(node_);
  ASSERT_TRUE(run({&head_, &node_}, [this] { return node_.opened.size() == 1; }));
}

TEST_F(ControlHubTest, RunningOutOfDescriptorsIsSurvived) {
  const Socket waiting = bare();
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit none = before;
  none.rlim_cur = 0;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  head_.hub->poll(now());
  head_.hub->poll(now());  // the listener rests: nothing is tried
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  ASSERT_EQ(head_.refused.size(), 1u);
  EXPECT_NE(head_.refused[0].second.find("open files"), std::string::npos);
  skipped_ += 1s;
  ASSERT_TRUE(run({&head_}, [this] { return head_.hub->n_connections() == 1; }));
}

TEST_F(ControlHubTest, ConnectionsHaveALimit) {
  HubOptions options;
  options.limits.connections_max = 2;
  Machine other("other", options);
  port_ = other.hub->listen("127.0.0.1", 0).value();
  other.trust[node_.identity.fingerprint()] = Trust::kMember;
  for (int i = 0; i < 3; ++i) {
    node_.hub->connect({"127.0.0.1", port_}, other.identity.fingerprint(), Purpose::kControl,
                       now());
    ASSERT_TRUE(run({&other, &node_}, [&] {
      return node_.opened.size() + node_.closed.size() == static_cast<std::size_t>(i) + 1;
    }));
  }
  EXPECT_EQ(node_.opened.size(), 2u);
  ASSERT_EQ(other.refused.size(), 1u);
  EXPECT_NE(other.refused[0].second.find("2 connections"), std::string::npos);
  const ConnectionId id = other.hub->connect({"127.0.0.1", port_}, node_.identity.fingerprint(),
                                             Purpose::kControl, now());
  ASSERT_TRUE(run({&other}, [&] { return other.closed.size() == 1; }));
  EXPECT_EQ(other.closed[0].first, id);
}

TEST_F(ControlHubTest, AnOldVersionIsToldToUpgrade) {
  HubOptions options;
  options.wire_version = kWireVersion + 2;
  Machine newer("newer", options);
  head_.trust[newer.identity.fingerprint()] = Trust::kMember;
  call(newer);
  ASSERT_TRUE(
      run({&head_, &newer}, [&] { return newer.closed.size() == 1 && head_.refused.size() == 1; }));
  EXPECT_NE(newer.closed[0].second.find("needs upgrade"), std::string::npos);
  EXPECT_NE(head_.refused[0].second.find("needs upgrade"), std::string::npos);
  EXPECT_NE(head_.refused[0].second.find("newer"), std::string::npos);  // its build

  options.wire_version = kWireVersion + 1;
  Machine next("next", options);
  head_.trust[next.identity.fingerprint()] = Trust::kMember;
  call(next);
  ASSERT_TRUE(run({&head_, &next}, [&] { return next.opened.size() == 1; }));
  EXPECT_EQ(next.opened[0].wire_version, kWireVersion);
}

TEST_F(ControlHubTest, RemovalClosesTheConnectionAtOnce) {
  const ConnectionId id = call(node_);
  ASSERT_TRUE(run({&head_, &node_},
                  [this] { return head_.opened.size() == 1 && node_.opened.size() == 1; }));
  node_.hub->send(id, numbered(1));
  head_.trust.erase(node_.identity.fingerprint());
  head_.hub->close_peer(node_.identity.fingerprint(), "removed from the pool");
  ASSERT_TRUE(run({&head_, &node_},
                  [this] { return head_.closed.size() == 1 && node_.closed.size() == 1; }));
  EXPECT_EQ(head_.closed[0].second, "removed from the pool");
  EXPECT_TRUE(head_.messages.empty());
  call(node_);
  ASSERT_TRUE(run({&head_, &node_}, [this] { return node_.closed.size() == 2; }));
  EXPECT_EQ(head_.opened.size(), 1u);
}

TEST_F(ControlHubTest, FinishTellsFirst) {
  head_.on_open = [this](const OpenedConnection& connection) {
    head_.hub->send(connection.id, numbered(7));
    head_.hub->finish(connection.id, "told");
  };
  const ConnectionId id = call(node_);
  ASSERT_TRUE(run({&head_, &node_},
                  [this] { return head_.closed.size() == 1 && node_.closed.size() == 1; }));
  EXPECT_EQ(node_.messages.size(), 1u);
  EXPECT_EQ(node_.closed[0].first, id);
  EXPECT_EQ(head_.closed[0].second, "told");
}

TEST_F(ControlHubTest, OneWhoDoesNotCloseAfterTheFinishIsClosed) {
  call(node_);
  ASSERT_TRUE(run({&head_, &node_}, [this] { return head_.opened.size() == 1; }));
  head_.hub->finish(head_.opened[0].id, "told");
  head_.hub->poll(now());
  EXPECT_TRUE(head_.closed.empty());
  skipped_ += 6s;
  head_.hub->poll(now());
  ASSERT_EQ(head_.closed.size(), 1u);
  EXPECT_EQ(head_.closed[0].second, "told");
}

TEST_F(ControlHubTest, ABulkStreamIsHandedOut) {
  std::vector<SecureStream> streams;
  head_.on_open = [&](const OpenedConnection& connection) {
    ASSERT_EQ(connection.purpose, Purpose::kBulk);
    streams.push_back(head_.hub->take(connection.id));
  };
  node_.on_open = [&](const OpenedConnection& connection) {
    streams.push_back(node_.hub->take(connection.id));
  };
  call(node_, Purpose::kBulk);
  ASSERT_TRUE(run({&head_, &node_}, [&] { return streams.size() == 2; }));
  EXPECT_EQ(head_.hub->n_connections() + node_.hub->n_connections(), 0u);
  const std::string sent = "weights";
  ASSERT_EQ(streams[0].write_some(std::as_bytes(std::span(sent))).bytes, sent.size());
  std::array<std::byte, 100> bytes{};
  std::size_t n = 0;
  ASSERT_TRUE(run({&head_, &node_}, [&] {
    n = streams[1].read_some(bytes).bytes;
    return n > 0;
  }));
  EXPECT_EQ(n, sent.size());
  EXPECT_TRUE(head_.closed.empty() && node_.closed.empty());
}

TEST_F(ControlHubTest, ABulkStreamThatNobodyTakesIsClosed) {
  call(node_, Purpose::kBulk);
  ASSERT_TRUE(run({&head_, &node_}, [this] { return node_.closed.size() == 1; }));
}

TEST_F(ControlHubTest, SaysWhyACallFailed) {
  std::uint16_t unused = 0;
  {
    Machine gone("gone");
    unused = gone.hub->listen("127.0.0.1", 0).value();
  }
  node_.hub->connect({"127.0.0.1", unused}, head_.identity.fingerprint(), Purpose::kControl, now());
  node_.hub->connect({"no such host", 1}, head_.identity.fingerprint(), Purpose::kControl, now());
  ASSERT_TRUE(run({&node_}, [this] { return node_.closed.size() == 2; }));
  const std::string all = node_.closed[0].second + node_.closed[1].second;
  EXPECT_NE(all.find("refused"), std::string::npos) << all;
  EXPECT_NE(all.find("no such host"), std::string::npos) << all;
}

TEST_F(ControlHubTest, ACallThatNobodyAnswersEnds) {
  // Listens, and never takes a connection.
  const Socket deaf = std::move(transport::listen_on("127.0.0.1", 0)).value();
  node_.hub->connect({"127.0.0.1", transport::local_port(deaf.get())}, head_.identity.fingerprint(),
                     Purpose::kControl, now());
  node_.hub->poll(now());
  skipped_ += 6s;
  ASSERT_TRUE(run({&node_}, [this] { return node_.closed.size() == 1; }));
  EXPECT_NE(node_.closed[0].second.find("within 5 s"), std::string::npos);
}

TEST_F(ControlHubTest, AMachineDoesNotTalkToItself) {
  head_.trust[head_.identity.fingerprint()] = Trust::kMember;
  call(head_);
  ASSERT_TRUE(run({&head_}, [this] { return head_.closed.size() == 1; }));
  EXPECT_TRUE(head_.opened.empty());
}

// --- pairing, from end to end -----------------------------------------------------------------

class PairingFlowTest : public ControlHubTest {
 protected:
  void SetUp() override {
    ControlHubTest::SetUp();
    head_.trust.clear();
    head_.on_message = [this](ConnectionId id, std::string_view payload) { answer(id, payload); };
  }

  void answer(ConnectionId id, std::string_view payload) {
    const auto request = wire::parse<wire::pb::PairRequest>(payload);
    if (!request) return head_.hub->close(id, "no pairing request");
    Fingerprint peer{};
    for (const OpenedConnection& connection : head_.opened) {
      if (connection.id == id) peer = connection.peer;
    }
    const PairVisit visit{.peer = peer, .at = {now(), 1}};
    const auto member = desk_.admit(*request, visit, members_);
    if (member) head_.trust[peer] = Trust::kMember;
    head_.hub->send(id,
                    member ? pair_answer(members_, head_.identity) : pair_refusal(member.error()));
    head_.hub->finish(id, "paired");
  }

  std::string new_code() {
    return encode({.addresses = {{"127.0.0.1", port_}},
                   .head = pin_of(head_.identity.fingerprint()),
                   .token = desk_.issue({now(), 1}).value()})
        .value();
  }

  // What `conclave node --join CODE` does.
  Result<JoinedPool> join(Machine& machine, const std::string& text) {
    const PairCode code = TRY(parse_pair_code(text));
    machine.messages.clear();
    machine.closed.clear();
    machine.on_open = [&machine, code](const OpenedConnection& connection) {
      if (connection.purpose != Purpose::kPair) return;
      machine.hub->send(connection.id, pair_request(code, machine.identity, "Mac", {}));
    };
    machine.hub->connect(code.addresses.front(), code.head, Purpose::kPair, now());
    if (!run({&head_, &machine}, [&] { return !machine.closed.empty(); })) {
      return unavailable("no end");
    }
    if (machine.messages.empty()) return unavailable(machine.closed[0].second);
    return read_pair_answer(TRY(wire::parse<wire::pb::PairAnswer>(machine.messages[0])), code,
                            machine.opened.back().peer, machine.identity);
  }

  PairingDesk desk_{PairingOptions{}, [random = SplitMix(5)](std::span<std::byte> bytes) mutable {
                      for (std::byte& byte : bytes) {
                        byte = static_cast<std::byte>(random.next() & 255u);
                      }
                    }};
  Membership members_{Member{.public_key = head_.identity.public_key(), .name = "head"}};
};

TEST_F(PairingFlowTest, ACodeMakesAMember) {
  const auto pool = join(node_, new_code());
  ASSERT_TRUE(pool.has_value()) << pool.error().message;
  EXPECT_EQ(pool->head(), head_.identity.fingerprint());
  EXPECT_EQ(pool->members().find(node_.identity.fingerprint())->name, "mac");

  // It comes back as a member with what it kept.
  node_.opened.clear();
  node_.hub->connect(pool->addresses().front(), pool->head(), Purpose::kControl, now());
  ASSERT_TRUE(run({&head_, &node_}, [this] { return !node_.opened.empty(); }));
  EXPECT_EQ(head_.opened.back().trust, Trust::kMember);

  Machine second("second");
  const auto joined = join(second, new_code());
  ASSERT_TRUE(joined.has_value()) << joined.error().message;
  EXPECT_EQ(joined->members().find(second.identity.fingerprint())->name, "mac-2");
}

TEST_F(PairingFlowTest, WrongUsedAndExpiredCodesAreRefused) {
  const std::string used = new_code();
  ASSERT_TRUE(join(node_, used).has_value());
  Machine other("other");
  const auto again = join(other, used);
  ASSERT_FALSE(again.has_value());
  EXPECT_NE(again.error().message.find("used already"), std::string::npos);

  const std::string old = new_code();
  PairCode wrong = parse_pair_code(old).value();
  wrong.token[0] ^= std::byte{1};
  const auto unknown = join(other, encode(wrong).value());
  ASSERT_FALSE(unknown.has_value());
  EXPECT_NE(unknown.error().message.find("does not know"), std::string::npos);

  skipped_ += 11min;
  const auto expired = join(other, old);
  ASSERT_FALSE(expired.has_value());
  EXPECT_NE(expired.error().message.find("expired"), std::string::npos);
  EXPECT_EQ(members_.members().size(), 1u);
}

}  // namespace
}  // namespace conclave::cluster
