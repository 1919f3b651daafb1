#include "cluster/discovery.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <functional>
#include <set>
#include <string>
#include <vector>

namespace conclave::cluster {

// A daemon in this process: what it has to say waits in each reference.
struct DnsSdRef {
  int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  std::function<void(DnsSd::Ref)> reply;
  bool broken = false;
};

namespace {

struct FakeDaemon {
  bool runs = true;
  std::set<DnsSd::Ref> open;
  DnsSd::Ref browser = nullptr;
  DnsSd::BrowseReply browse_reply = nullptr;
  void* browse_context = nullptr;
  std::string published_name;
  std::uint16_t published_port = 0;
  std::string published_txt;
  std::string host = "studio.local.";
  bool answers = true;
  int n_resolves = 0;
};

// The library's functions have no context: one daemon for this program.
FakeDaemon& daemon() {
  static FakeDaemon fake;
  return fake;
}

constexpr std::int32_t kNoDaemon = -65563;

DnsSd::Ref new_ref() {
  DnsSd::Ref ref = std::make_unique<DnsSdRef>().release();
  daemon().open.insert(ref);
  return ref;
}

void say(DnsSd::Ref ref, std::function<void(DnsSd::Ref)> reply) {
  ref->reply = std::move(reply);
  eventfd_write(ref->event, 1);
}

// Their parameters are the library's.
// NOLINTBEGIN(readability-function-size)
std::int32_t fake_register(DnsSd::Ref* ref, std::uint32_t, std::uint32_t, const char* name,
                           const char* type, const char*, const char*, std::uint16_t port,
                           std::uint16_t txt_size, const void* txt, DnsSd::RegisterReply reply,
                           void* context) {
  if (!daemon().runs) return kNoDaemon;
  EXPECT_STREQ(type, "_conclave._tcp");
  daemon().published_name = name;
  daemon().published_port = ntohs(port);
  daemon().published_txt.assign(static_cast<const char*>(txt), txt_size);
  *ref = new_ref();
  say(*ref, [reply, context](DnsSd::Ref self) {
    reply(self, 0, 0, "studio", "_conclave._tcp.", "local.", context);
  });
  return 0;
}

std::int32_t fake_browse(DnsSd::Ref* ref, std::uint32_t, std::uint32_t, const char*, const char*,
                         DnsSd::BrowseReply reply, void* context) {
  if (!daemon().runs) return kNoDaemon;
  *ref = new_ref();
  daemon().browser = *ref;
  daemon().browse_reply = reply;
  daemon().browse_context = context;
  return 0;
}

std::int32_t fake_resolve(DnsSd::Ref* ref, std::uint32_t, std::uint32_t, const char*, const char*,
                          const char*, DnsSd::ResolveReply reply, void* context) {
  *ref = new_ref();
  ++daemon().n_resolves;
  if (!daemon().answers) return 0;
  say(*ref, [reply, context](DnsSd::Ref self) {
    const std::string txt = std::string("\x05") + "fp=ab" + std::string("\x03") + "x=y";
    reply(self, 0, 1, 0, "studio._conclave._tcp.local.", daemon().host.c_str(), htons(7400),
          static_cast<std::uint16_t>(txt.size()),
          reinterpret_cast<const unsigned char*>(txt.data()), context);
  });
  return 0;
}
// NOLINTEND(readability-function-size)

int fake_socket(DnsSd::Ref ref) { return ref->event; }

std::int32_t fake_process(DnsSd::Ref ref) {
  eventfd_t count = 0;
  if (!ref->broken) eventfd_read(ref->event, &count);
  if (ref->broken) return -65569;
  if (ref->reply) ref->reply(ref);
  return 0;
}

void fake_deallocate(DnsSd::Ref ref) {
  EXPECT_EQ(daemon().open.erase(ref), 1u);
  ::close(ref->event);
  const std::unique_ptr<DnsSdRef> owner(ref);
}

DnsSd fake_library() {
  return {.register_service = fake_register,
          .browse = fake_browse,
          .resolve = fake_resolve,
          .socket = fake_socket,
          .process_result = fake_process,
          .deallocate = fake_deallocate};
}

class DiscoveryTest : public ::testing::Test {
 protected:
  void SetUp() override { daemon() = FakeDaemon(); }
  void TearDown() override { EXPECT_TRUE(daemon().open.empty()); }

  Time now_{std::chrono::hours(1)};

  static void announce(bool add, const char* name) {
    say(daemon().browser, [add, name](DnsSd::Ref self) {
      daemon().browse_reply(self, add ? 2 : 0, 1, 0, name, "_conclave._tcp.", "local.",
                            daemon().browse_context);
    });
  }
};

TEST(LoadDnsSd, IsAbsentWithoutTheLibrary) {
  const std::array<const char*, 2> none{"libno_such_dns_sd.so.9", ""};
  EXPECT_FALSE(load_dns_sd(none).has_value());
  // A library that is there and lacks the functions.
  const std::array<const char*, 1> other{"libc.so.6"};
  EXPECT_FALSE(load_dns_sd(other).has_value());
}

TEST(LoadDnsSd, TheSystemsLibraryLoadsOrIsNotThere) {
  const auto discovery = make_discovery();
  if (discovery) {
    EXPECT_GE(discovery->fd(), 0);
  }
}

TEST(TxtRecord, ComesBack) {
  const TxtRecord txt{{"fp", "0123"}, {"empty", ""}, {"v", "a=b"}};
  EXPECT_EQ(decode_txt(encode_txt(txt).value()), txt);
  EXPECT_FALSE(encode_txt({{"a=b", "c"}}).has_value());
  EXPECT_FALSE(encode_txt({{"", "c"}}).has_value());
  EXPECT_FALSE(encode_txt({{"k", std::string(254, 'v')}}).has_value());
  TxtRecord large;
  for (int i = 0; i < 6; ++i) large["k" + std::to_string(i)] = std::string(250, 'v');
  EXPECT_FALSE(encode_txt(large).has_value());
}

TEST(TxtRecord, LeavesNonsenseOut) {
  EXPECT_TRUE(decode_txt("").empty());
  EXPECT_TRUE(decode_txt("\x05"
                         "ab=")
                  .empty());  // cut short
  EXPECT_EQ(decode_txt(std::string_view("\0\x02=x\x03"
                                        "k=1\x03k=2\x03key\0",
                                        17)),
            (TxtRecord{{"k", "1"}}));
}

TEST_F(DiscoveryTest, PublishesUntilItIsDestroyed) {
  {
    Discovery discovery(fake_library());
    ASSERT_TRUE(discovery.publish("studio", 7400, {{"fp", "ab"}}).has_value());
    EXPECT_EQ(daemon().published_name, "studio");
    EXPECT_EQ(daemon().published_port, 7400);
    EXPECT_EQ(decode_txt(daemon().published_txt), (TxtRecord{{"fp", "ab"}}));
    discovery.poll(now_);
    EXPECT_EQ(daemon().open.size(), 1u);
    ASSERT_TRUE(discovery.publish("studio", 7401, {}).has_value());
    EXPECT_EQ(daemon().open.size(), 1u);
    EXPECT_EQ(daemon().published_port, 7401);
  }
  EXPECT_TRUE(daemon().open.empty());
}

TEST_F(DiscoveryTest, FindsAndLosesServices) {
  Discovery discovery(fake_library());
  std::vector<FoundService> found;
  ASSERT_TRUE(discovery.browse([&found](const FoundService& service) { found.push_back(service); })
                  .has_value());
  announce(true, "studio");
  discovery.poll(now_);  // browsed
  discovery.poll(now_);  // resolved
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].name, "studio");
  EXPECT_EQ(found[0].address, (HostPort{"studio.local", 7400}));
  EXPECT_EQ(found[0].txt, (TxtRecord{{"fp", "ab"}, {"x", "y"}}));
  EXPECT_EQ(daemon().open.size(), 1u);  // the resolve is over

  announce(false, "studio");
  discovery.poll(now_);
  ASSERT_EQ(found.size(), 2u);
  EXPECT_TRUE(found[1].gone);
}

TEST_F(DiscoveryTest, ResolvesAFewAtOnceAndNoNonsense) {
  Discovery discovery(fake_library());
  int n_found = 0;
  ASSERT_TRUE(discovery.browse([&n_found](const FoundService&) { ++n_found; }).has_value());
  daemon().host = "not a host";
  announce(true, "odd");
  discovery.poll(now_);
  discovery.poll(now_);
  EXPECT_EQ(n_found, 0);
  daemon().host = "studio.local.";
  say(daemon().browser, [](DnsSd::Ref self) {
    for (int i = 0; i < 1000; ++i) {
      daemon().browse_reply(self, 2, 1, 0, "many", "_conclave._tcp.", "local.",
                            daemon().browse_context);
    }
  });
  discovery.poll(now_);
  EXPECT_EQ(daemon().n_resolves, 1 + static_cast<int>(Discovery::kResolvesMax));
  for (int i = 0; i < 10; ++i) discovery.poll(now_);
  EXPECT_EQ(n_found, static_cast<int>(Discovery::kResolvesMax));
}

TEST_F(DiscoveryTest, AMachineThatDoesNotSayWhereItIsIsForgotten) {
  Discovery discovery(fake_library());
  int n_found = 0;
  ASSERT_TRUE(discovery.browse([&n_found](const FoundService&) { ++n_found; }).has_value());
  daemon().answers = false;
  announce(true, "silent");
  discovery.poll(now_);
  EXPECT_EQ(daemon().open.size(), 2u);
  now_ += std::chrono::seconds(11);
  discovery.poll(now_);
  EXPECT_EQ(daemon().open.size(), 1u);
  EXPECT_EQ(n_found, 0);
}

TEST_F(DiscoveryTest, ADaemonThatGoesAwayEndsTheQueries) {
  Discovery discovery(fake_library());
  ASSERT_TRUE(discovery.browse([](const FoundService&) {}).has_value());
  daemon().browser->broken = true;
  eventfd_write(daemon().browser->event, 1);
  discovery.poll(now_);
  EXPECT_TRUE(daemon().open.empty());
}

TEST_F(DiscoveryTest, SaysThatNoDaemonRuns) {
  daemon().runs = false;
  Discovery discovery(fake_library());
  EXPECT_EQ(discovery.publish("studio", 7400, {}).error().code, ErrorCode::kUnavailable);
  const auto browsed = discovery.browse([](const FoundService&) {});
  ASSERT_FALSE(browsed.has_value());
  EXPECT_NE(browsed.error().message.find("--peer"), std::string::npos);
}

}  // namespace
}  // namespace conclave::cluster
