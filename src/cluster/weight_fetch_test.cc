// A server and a fetch over real connections of this machine, in threads.
#include "cluster/weight_fetch.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <memory>
#include <thread>
#include <utility>

#include "cluster/bulk_link.h"
#include "cluster/served_model.h"
#include "cluster/test_giver.h"
#include "cluster/test_weights.h"
#include "cluster/weight_server.h"

namespace conclave::cluster {
namespace {

using backend::WeightArena;
using transport::Identity;
using transport::SecureStream;
using namespace std::chrono_literals;

const RealClock kClock;
constexpr NodeId kNode{1};

// Copies what goes from `from` to `to` and changes the byte at `spoilt_at`.
void relay(int from, int to, std::size_t spoilt_at) {
  std::array<std::byte, 4096> bytes;
  std::size_t done = 0;
  for (;;) {
    const ssize_t n = ::recv(from, bytes.data(), bytes.size(), 0);
    if (n <= 0) break;
    const auto size = static_cast<std::size_t>(n);
    if (spoilt_at >= done && spoilt_at < done + size) bytes[spoilt_at - done] ^= std::byte{1};
    done += size;
    if (::send(to, bytes.data(), size, MSG_NOSIGNAL) != n) break;
  }
  ::shutdown(from, SHUT_RDWR);
  ::shutdown(to, SHUT_RDWR);
}

std::array<int, 2> socket_pair() {
  std::array<int, 2> fds{};
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()), 0);
  return fds;
}

class WeightFetchTest : public testing::Test {
 public:
  ~WeightFetchTest() override {
    for (std::thread& thread : relays_) thread.join();
    std::filesystem::remove_all(dir_);
  }

 protected:
  Giver& give(NodeId node, const WeightServerLimits& limits = {}) {
    givers_.push_back(std::make_unique<Giver>(own_.fingerprint(), std::vector{&ember()}, limits));
    known_.push_back(givers_.back()->holder(node));
    return *givers_.back();
  }

  FetchOptions options() {
    BulkWaiting waiting{.clock = kClock,
                        .stop = [this] { return stop_.load(); },
                        .on_bytes =
                            [this](std::uint64_t bytes) {
                              bytes_ += bytes;
                              if (on_bytes_) on_bytes_();
                            },
                        .dial_limit = 5s,
                        .reply_limit = 20s};
    return {.model = ember().fingerprint(),
            .waiting = waiting,
            .holders = [this] { return known_; },
            .dial =
                [this, waiting](const WeightHolder& holder) {
                  ++n_dials_;
                  return dial_holder(holder, own_, waiting);
                },
            .patience = 10s,
            .retry = 20ms};
  }

  // A dial to `server` in clear that changes one byte of what comes, of the first connections.
  auto spoiling_dial(WeightServer& server, std::size_t spoilt_at, int times) {
    return [this, &server, spoilt_at, times](const WeightHolder&) -> Result<SecureStream> {
      const auto near = socket_pair();
      const auto far = socket_pair();
      server.add(SecureStream::clear(far[1]), "spoilt");
      const std::size_t at = n_dials_++ < times ? spoilt_at : SIZE_MAX;
      relays_.emplace_back([to = near[1], from = far[0], at] {
        relay(from, to, at);
        ::close(from);
        ::close(to);
      });
      relays_.emplace_back([from = ::dup(near[1]), to = ::dup(far[0])] {
        relay(from, to, SIZE_MAX);
        ::close(from);
        ::close(to);
      });
      return SecureStream::clear(near[0]);
    };
  }

  Result<void> load(WeightFetch& fetch, WeightArena& arena) {
    return backend::load_slice(ember(), slice_, cpu_, fetch, arena, {});
  }
  WeightArena arena() const { return memory_of(backend::cpu_slice_bytes(ember(), slice_, cpu_)); }
  void expect_whole(const WeightArena& arena) const {
    const WeightArena expected = slice_arena(slice_);
    EXPECT_EQ(arena.filled_key(), expected.filled_key());
    EXPECT_TRUE(std::ranges::equal(arena.bytes(), expected.bytes()));
  }
  template <class Done>
  static bool soon(const Done& done) {
    for (int i = 0; i < 2000; ++i) {
      if (done()) return true;
      ::poll(nullptr, 0, 5);
    }
    return false;
  }

  const Identity own_ = Identity::generate("taker").value();
  const backend::CpuOptions cpu_{};
  const model::Slice slice_ = some_slice();
  std::vector<std::unique_ptr<Giver>> givers_;
  std::vector<WeightHolder> known_;
  std::vector<std::thread> relays_;
  std::atomic<bool> stop_{false};
  std::uint64_t bytes_ = 0;
  std::function<void()> on_bytes_;
  int n_dials_ = 0;
  std::filesystem::path dir_ = std::filesystem::temp_directory_path() /
                               (std::string("conclave_fetch_") +
                                testing::UnitTest::GetInstance()->current_test_info()->name());
};

TEST_F(WeightFetchTest, ArenasAreThoseThatTheFilesGive) {
  Giver& giver = give(kHeadNode);
  WeightFetch fetch(options());
  for (const model::Slice& slice : {model::Slice::whole(ember().config()), some_slice()}) {
    WeightArena got = memory_of(backend::cpu_slice_bytes(ember(), slice, cpu_));
    const auto loaded = backend::load_slice(ember(), slice, cpu_, fetch, got, {});
    ASSERT_TRUE(loaded) << loaded.error().message;
    const WeightArena expected = slice_arena(slice);
    EXPECT_EQ(got.filled_key(), expected.filled_key());
    EXPECT_TRUE(std::ranges::equal(got.bytes(), expected.bytes()));
  }
  WeightArena common = memory_of(backend::cpu_common_bytes(ember(), true, cpu_));
  ASSERT_TRUE(backend::load_common(ember(), true, cpu_, fetch, common, {}));
  EXPECT_TRUE(std::ranges::equal(common.bytes(), common_arena().bytes()));
  EXPECT_EQ(n_dials_, 1);
  EXPECT_GE(giver.server().sent_bytes(), bytes_);
}

TEST_F(WeightFetchTest, TheSkeletonOpensAsTheSameModel) {
  Giver& giver = give(kHeadNode);
  WeightFetch fetch(options());
  const auto dir = fetch_skeleton(fetch, dir_);
  ASSERT_TRUE(dir) << dir.error().message;
  const auto source = model::ModelSource::open(*dir);
  ASSERT_TRUE(source) << source.error().message;
  EXPECT_EQ(source->fingerprint(), ember().fingerprint());
  EXPECT_EQ(backend::cpu_slice_bytes(*source, slice_, cpu_), arena().bytes().size());
  WeightArena got = arena();  // laid out by the skeleton alone
  ASSERT_TRUE(backend::load_slice(*source, slice_, cpu_, fetch, got, {}));
  expect_whole(got);

  const std::uint64_t sent = giver.server().sent_bytes();
  ASSERT_TRUE(fetch_skeleton(fetch, dir_));  // it is there
  EXPECT_EQ(giver.server().sent_bytes(), sent);
  std::filesystem::resize_file(*dir / "config.json", 10);
  ASSERT_TRUE(fetch_skeleton(fetch, dir_));  // and damaged ones are replaced
  EXPECT_TRUE(model::ModelSource::open(*dir));
}

TEST_F(WeightFetchTest, GoesOnWhereAConnectionBroke) {
  Giver& giver = give(kHeadNode);
  FetchOptions narrow = options();
  narrow.window_bytes = 100'000;  // so that little is asked for twice
  WeightFetch fetch(std::move(narrow));
  WeightArena got = arena();
  int breaks = 0;
  on_bytes_ = [&] {
    if (bytes_ > (got.bytes().size() / 4) * static_cast<std::size_t>(breaks + 1) && breaks < 3) {
      ++breaks;
      giver.server().drop("taker");
    }
  };
  const auto loaded = load(fetch, got);
  ASSERT_TRUE(loaded) << loaded.error().message;
  expect_whole(got);
  EXPECT_EQ(breaks, 3);
  EXPECT_GE(n_dials_, 2);
  EXPECT_LT(bytes_, got.bytes().size() * 3 / 2);
}

TEST_F(WeightFetchTest, GoesOnWithAnotherMachine) {
  give(NodeId{1});
  give(NodeId{2});
  WeightFetch fetch(options());
  WeightArena got = arena();
  on_bytes_ = [&] {
    if (bytes_ > got.bytes().size() / 2 && givers_[0]) givers_[0].reset();
  };
  const auto loaded = load(fetch, got);
  ASSERT_TRUE(loaded) << loaded.error().message;
  expect_whole(got);
  EXPECT_EQ(givers_[1]->n_taken, 1);
}

TEST_F(WeightFetchTest, TheHeadIsAskedLast) {
  Giver& head = give(kHeadNode);
  Giver& other = give(kNode);
  WeightFetch fetch(options());
  WeightArena got = arena();
  ASSERT_TRUE(load(fetch, got));
  EXPECT_EQ(head.n_taken, 0);
  EXPECT_EQ(other.n_taken, 1);
}

TEST_F(WeightFetchTest, AByteThatChangedOnItsWayIsNoticed) {
  WeightServer server({&ember()}, kClock, {});
  known_.push_back({.node = kNode, .endpoint = {}});
  FetchOptions spoiling = options();
  // Beyond the answer to kModel and the header of the first part.
  spoiling.dial = spoiling_dial(server, 2 * kBulkAnswerSize + 100, 2);
  WeightFetch fetch(std::move(spoiling));
  WeightArena got = arena();
  const auto loaded = load(fetch, got);
  ASSERT_TRUE(loaded) << loaded.error().message;
  EXPECT_EQ(n_dials_, 3);
  expect_whole(got);
}

TEST_F(WeightFetchTest, BytesThatChangeAlwaysAreAnError) {
  WeightServer server({&ember()}, kClock, {});
  known_.push_back({.node = kNode, .endpoint = {}});
  known_[0].endpoint.host = "10.9.8.7";
  FetchOptions spoiling = options();
  spoiling.dial = spoiling_dial(server, 2 * kBulkAnswerSize + 100, 1000);
  WeightFetch fetch(std::move(spoiling));
  WeightArena got = arena();
  const auto loaded = load(fetch, got);
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().code, ErrorCode::kCorrupt);
  EXPECT_NE(loaded.error().message.find("10.9.8.7"), std::string::npos) << loaded.error().message;
  EXPECT_EQ(n_dials_, 3);
}

TEST_F(WeightFetchTest, AModelThatNobodyHas) {
  give(kHeadNode);
  FetchOptions wrong = options();
  wrong.model = 0xabc;
  wrong.patience = 100ms;
  WeightFetch fetch(std::move(wrong));
  const auto dir = fetch_skeleton(fetch, dir_);
  ASSERT_FALSE(dir);
  EXPECT_NE(dir.error().message.find("does not have the files of model abc"), std::string::npos)
      << dir.error().message;
  EXPECT_NE(dir.error().message.find("127.0.0.1:"), std::string::npos);
}

TEST_F(WeightFetchTest, WhatEveryHolderRefusesIsAnErrorAtOnce) {
  Giver& first = give(NodeId{1});
  Giver& second = give(NodeId{2});
  WeightFetch fetch(options());
  BulkRequest request{.kind = BulkKind::kPart};
  request.part = backend::PackedPart{LayerId{99}, model::Weight::kO,          {}, {0, 16}, {0, 32},
                                     false,       kernels::PackedFormat::kF32};
  fetch.plan({request});
  const Time begin = kClock.now();
  const auto got = fetch.next([](std::uint64_t) { return std::span<std::byte>(); });
  ASSERT_FALSE(got);
  EXPECT_NE(got.error().message.find("no such weight"), std::string::npos) << got.error().message;
  EXPECT_EQ(first.n_taken, 1);
  EXPECT_EQ(second.n_taken, 1);
  EXPECT_LT(kClock.now() - begin, 5s);  // without patience
}

TEST_F(WeightFetchTest, NobodyToAskIsSaid) {
  FetchOptions lonely = options();
  lonely.patience = 50ms;
  WeightFetch fetch(std::move(lonely));
  WeightArena got = arena();
  const auto loaded = load(fetch, got);
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().code, ErrorCode::kUnavailable);
  EXPECT_NE(loaded.error().message.find("none has its files"), std::string::npos);
}

TEST_F(WeightFetchTest, AStrangerGetsNothing) {
  give(kNode);
  known_[0].endpoint.fingerprint[3] ^= std::byte{1};  // and whoever shows another key is not asked
  FetchOptions impatient = options();
  impatient.patience = 50ms;
  WeightFetch fetch(std::move(impatient));
  WeightArena got = arena();
  EXPECT_FALSE(load(fetch, got));
  EXPECT_EQ(givers_[0]->n_taken, 0);
  EXPECT_EQ(bytes_, 0u);
}

TEST_F(WeightFetchTest, EndsSoonWhenTold) {
  const auto fds = socket_pair();  // whose other end never answers
  known_.push_back({.node = kNode, .endpoint = {}});
  FetchOptions silent = options();
  silent.dial = [&](const WeightHolder&) -> Result<SecureStream> {
    return SecureStream::clear(::dup(fds[0]));
  };
  WeightFetch fetch(std::move(silent));
  WeightArena got = arena();
  Time stopped_at{};
  std::thread stopper([&] {
    ::poll(nullptr, 0, 100);
    stopped_at = kClock.now();
    stop_ = true;
  });
  EXPECT_FALSE(load(fetch, got));
  const Time ended = kClock.now();
  stopper.join();
  EXPECT_LT(ended - stopped_at, 2s);
  ::close(fds[0]);
  ::close(fds[1]);
}

TEST_F(WeightFetchTest, LeavesAHolderThatTheHeadNoLongerNames) {
  const auto fds = socket_pair();  // of a machine that hangs
  Giver& giver = give(kHeadNode);
  known_.push_back({.node = kNode, .endpoint = {}});
  FetchOptions hanging = options();
  hanging.dial = [&, dial = hanging.dial](const WeightHolder& holder) -> Result<SecureStream> {
    if (holder.node == kNode) return SecureStream::clear(::dup(fds[0]));
    return dial(holder);
  };
  std::atomic<bool> named{true};
  hanging.holders = [&] { return named ? known_ : std::vector{known_[0]}; };
  WeightFetch fetch(std::move(hanging));
  WeightArena got = arena();
  std::thread head([&] {
    ::poll(nullptr, 0, 100);
    named = false;
  });
  const Time begin = kClock.now();
  const auto loaded = load(fetch, got);
  head.join();
  ASSERT_TRUE(loaded) << loaded.error().message;
  expect_whole(got);
  EXPECT_EQ(giver.n_taken, 1);
  EXPECT_LT(kClock.now() - begin, 15s);  // reply_limit is 20 s
  ::close(fds[0]);
  ::close(fds[1]);
}

TEST_F(WeightFetchTest, WorksWithTheSmallestLimits) {
  give(kHeadNode, {.ahead_max = 1, .ahead_all_max = 1, .packing_threads = 1});
  FetchOptions narrow = options();
  narrow.window_bytes = 1;
  narrow.window_parts = 1;
  WeightFetch fetch(std::move(narrow));
  WeightArena got = arena();
  ASSERT_TRUE(load(fetch, got));
  expect_whole(got);
}

}  // namespace
}  // namespace conclave::cluster
