#include "transport/greeting.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <memory>
#include <string>

#include "transport/test_group.h"

namespace conclave::transport {
namespace {

using State = Greeting::State;

// A caller, rank 1, and an acceptor, rank 0, over a pair of sockets.
struct TwoGreetings {
  TwoGreetings() {
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds.data()) == 0);
    specs[0] = {.cluster = 5, .epoch = 9, .rank = 0, .ranks = std::vector<Endpoint>(2)};
    for (std::size_t i = 0; i < 2; ++i) {
      specs[0].ranks[i].fingerprint = identities[i].fingerprint();
      specs[0].ranks[i].host_id = "here";
    }
    specs[1] = specs[0];
    specs[1].rank = 1;
  }

  void mark_clear() {
    for (GroupSpec& spec : specs) {
      for (Endpoint& endpoint : spec.ranks) endpoint.clear = true;
    }
  }

  // Steps both until they end or nothing moves any more.
  std::array<State, 2> run(bool caller_shares, bool acceptor_shares) {
    acceptor = std::make_unique<Greeting>(
        Greeting::accept(Socket(fds[0]), specs[0], identities[0], acceptor_shares));
    caller = std::make_unique<Greeting>(
        Greeting::call(Socket(fds[1]), 0, specs[1], identities[1], caller_shares));
    std::array<State, 2> states = {State::kWorking, State::kWorking};
    for (int i = 0; i < 100; ++i) {
      step(acceptor, states[0], reasons[0]);
      step(caller, states[1], reasons[1]);
    }
    return states;
  }

  // One that fails closes its connection.
  static void step(std::unique_ptr<Greeting>& greeting, State& state, std::string& reason) {
    if (state != State::kWorking) return;
    state = greeting->step();
    if (state != State::kFailed) return;
    reason = greeting->reason();
    greeting.reset();
  }

  std::array<int, 2> fds{};
  std::array<Identity, 2> identities = {Identity::generate("0").value(),
                                        Identity::generate("1").value()};
  std::array<GroupSpec, 2> specs;
  std::array<std::string, 2> reasons;  // of failures: the acceptor's, the caller's
  std::unique_ptr<Greeting> acceptor;
  std::unique_ptr<Greeting> caller;
};

constexpr std::array kBothDone = {State::kDone, State::kDone};

TEST(Greeting, EndsInTlsUnlessBothAreMarkedClear) {
  TwoGreetings secure;
  EXPECT_EQ(secure.run(false, false), kBothDone);
  EXPECT_EQ(secure.acceptor->peer(), 1);
  EXPECT_TRUE(secure.acceptor->take_stream()->is_tls());
  EXPECT_TRUE(secure.caller->take_stream()->is_tls());

  TwoGreetings clear;
  clear.mark_clear();
  EXPECT_EQ(clear.run(false, false), kBothDone);
  EXPECT_FALSE(clear.acceptor->take_stream()->is_tls());
}

// A caller that does not trust the link is welcome where it would not have to be so careful.
TEST(Greeting, TlsIsTakenWhereClearWouldDo) {
  TwoGreetings greetings;
  for (Endpoint& endpoint : greetings.specs[0].ranks) endpoint.clear = true;
  EXPECT_EQ(greetings.run(false, false), kBothDone);
  EXPECT_TRUE(greetings.acceptor->take_stream()->is_tls());
}

TEST(Greeting, SharedMemoryTakesTheStreamsPlaceWhereBothHaveIt) {
  for (const bool caller_shares : {false, true}) {
    for (const bool acceptor_shares : {false, true}) {
      TwoGreetings greetings;
      ASSERT_EQ(greetings.run(caller_shares, acceptor_shares), kBothDone);
      const bool shared = caller_shares && acceptor_shares;
      auto lane = greetings.caller->take_lane();
      EXPECT_EQ(lane.has_value(), shared);
      EXPECT_EQ(greetings.acceptor->take_lane().has_value(), shared);
      EXPECT_EQ(greetings.caller->take_stream().has_value(), !shared);
      EXPECT_EQ(greetings.acceptor->take_stream().has_value(), !shared);
    }
  }
}

TEST(Greeting, OtherHostsShareNoMemory) {
  for (const std::string other : {"there", ""}) {
    TwoGreetings greetings;
    for (GroupSpec& spec : greetings.specs) spec.ranks[1].host_id = other;
    if (other.empty()) {
      for (GroupSpec& spec : greetings.specs) spec.ranks[0].host_id = other;
    }
    ASSERT_EQ(greetings.run(true, true), kBothDone);
    EXPECT_FALSE(greetings.caller->take_lane());
  }
}

TEST(Greeting, AnotherEpochFailsAtBothEnds) {
  TwoGreetings greetings;
  greetings.specs[1].epoch = 8;
  const auto states = greetings.run(false, false);
  EXPECT_EQ(states[0], State::kFailed);
  EXPECT_EQ(greetings.reasons[0], "it is of epoch 8, not 9");
  EXPECT_EQ(states[1], State::kFailed);
  EXPECT_NE(greetings.reasons[1].find("another epoch"), std::string::npos);
}

// The acceptor too is asked who it is: its answer is a hello like the caller's.
TEST(Greeting, TheCallerChecksTheAnswer) {
  TwoGreetings greetings;
  greetings.mark_clear();
  Greeting caller = Greeting::call(Socket(greetings.fds[1]), 0, greetings.specs[1],
                                   greetings.identities[1], false);
  EXPECT_EQ(caller.step(), State::kWorking);
  const Hello answer{.cluster = 5, .epoch = 9, .n_ranks = 2, .rank = 1, .to = 1};
  const auto bytes = encode(answer);
  ASSERT_EQ(::send(greetings.fds[0], bytes.data(), bytes.size(), 0),
            static_cast<ssize_t>(bytes.size()));
  EXPECT_EQ(caller.step(), State::kFailed);
  EXPECT_EQ(caller.reason(), "it is of rank 1, not 0");
  close(greetings.fds[0]);
}

}  // namespace
}  // namespace conclave::transport
