#include "cluster/membership.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

namespace conclave::cluster {
namespace {

namespace fs = std::filesystem;
using transport::Identity;

Member member_of(const Identity& identity, std::string name) {
  return {.public_key = identity.public_key(), .name = std::move(name)};
}

class MembershipTest : public ::testing::Test {
 protected:
  static Identity make(const char* name) { return Identity::generate(name).value(); }

  Identity head_ = make("head");
  Identity mac_ = make("mac");
  Identity other_ = make("other");
  Membership members_{Member{.public_key = head_.public_key(),
                             .name = "Studio",
                             .added_at = 1,
                             .addresses = {{"10.0.0.1", 7400}}}};
};

TEST(HostPort, ReadsWhatPeopleWrite) {
  EXPECT_EQ(parse_host_port("10.0.0.2:7000", 0).value(), (HostPort{"10.0.0.2", 7000}));
  EXPECT_EQ(parse_host_port("mac.local", 7400).value(), (HostPort{"mac.local", 7400}));
  EXPECT_EQ(parse_host_port("fd00::2", 7400).value(), (HostPort{"fd00::2", 7400}));
  EXPECT_EQ(parse_host_port("[fd00::2]:7000", 1).value(), (HostPort{"fd00::2", 7000}));
  EXPECT_EQ(parse_host_port("[fe80::1%en0]", 5).value(), (HostPort{"fe80::1%en0", 5}));
  for (const HostPort& address : {HostPort{"10.0.0.2", 7000}, HostPort{"fd00::2", 65535}}) {
    EXPECT_EQ(parse_host_port(to_text(address), 0).value(), address);
  }
}

TEST(HostPort, RefusesTheRest) {
  for (const char* text : {"", ":7000", "host", "host:", "host:0", "host:65536", "host:7x", "a b:1",
                           "[::1:7", "[::1]7", "-rf:1", "host:-1"}) {
    EXPECT_FALSE(parse_host_port(text, 0).has_value()) << text;
  }
}

TEST(CleanName, KeepsWhatIsReadable) {
  EXPECT_EQ(clean_name("Ann's Mac"), "ann-s-mac");
  EXPECT_EQ(clean_name("--x--"), "x");
  EXPECT_EQ(clean_name("\xc3\xa9"), "machine");
  EXPECT_EQ(clean_name(std::string(100, 'a')), std::string(kNameMax, 'a'));
  EXPECT_EQ(clean_name(""), "machine");
}

TEST_F(MembershipTest, NamesAreUnique) {
  EXPECT_EQ(members_.add(member_of(mac_, "studio")).value().name, "studio-2");
  EXPECT_EQ(members_.add(member_of(other_, "STUDIO")).value().name, "studio-3");
  EXPECT_EQ(members_.find("studio-3")->fingerprint, other_.fingerprint());
  EXPECT_EQ(members_.find("studio")->fingerprint, head_.fingerprint());
  EXPECT_EQ(members_.find("nobody"), nullptr);
}

TEST_F(MembershipTest, LongNamesStayWithinTheLimit) {
  const std::string name(kNameMax, 'a');
  EXPECT_EQ(members_.add(member_of(mac_, name)).value().name, name);
  EXPECT_EQ(members_.add(member_of(other_, name)).value().name,
            std::string(kNameMax - 2, 'a') + "-2");
}

TEST_F(MembershipTest, VersionsGrowWithChangesOnly) {
  EXPECT_EQ(members_.version(), 1u);
  ASSERT_TRUE(members_.add(member_of(mac_, "mac")).has_value());
  EXPECT_EQ(members_.version(), 2u);
  ASSERT_TRUE(members_.add(member_of(mac_, "again")).has_value());
  EXPECT_EQ(members_.version(), 2u);
  EXPECT_EQ(members_.members().size(), 1u);
  EXPECT_EQ(members_.find(mac_.fingerprint())->name, "mac");
  ASSERT_TRUE(members_.set_addresses(mac_.fingerprint(), {{"10.0.0.2", 1}}).has_value());
  ASSERT_TRUE(members_.set_addresses(mac_.fingerprint(), {{"10.0.0.2", 1}}).has_value());
  ASSERT_TRUE(members_.rename(mac_.fingerprint(), "mini").has_value());
  EXPECT_EQ(members_.version(), 4u);
  EXPECT_EQ(members_.rename(mac_.fingerprint(), "studio").error().code, ErrorCode::kInvalidInput);
  EXPECT_FALSE(members_.rename(mac_.fingerprint(), "Mini Mac").has_value());
  EXPECT_EQ(members_.version(), 4u);
  ASSERT_TRUE(members_.remove(mac_.fingerprint()).has_value());
  EXPECT_EQ(members_.version(), 5u);
  EXPECT_EQ(members_.remove(mac_.fingerprint()).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(members_.find(mac_.fingerprint()), nullptr);
}

TEST_F(MembershipTest, TheHeadIsNoMember) {
  EXPECT_FALSE(members_.add(member_of(head_, "x")).has_value());
  EXPECT_FALSE(members_.remove(head_.fingerprint()).has_value());
}

TEST_F(MembershipTest, IsFullAtItsLimit) {
  for (std::size_t i = 0; i < kMembersMax; ++i) {
    Member member{.name = "m"};
    member.public_key[0] = static_cast<std::byte>(i);
    ASSERT_TRUE(members_.add(member).has_value());
  }
  EXPECT_EQ(members_.add(member_of(mac_, "mac")).error().code, ErrorCode::kExhausted);
  EXPECT_TRUE(verify(sign(members_, head_), head_.fingerprint()).has_value());
}

TEST_F(MembershipTest, ASignedListComesBack) {
  ASSERT_TRUE(members_.add(member_of(mac_, "mac")).has_value());
  const auto back = verify(sign(members_, head_), head_.fingerprint());
  ASSERT_TRUE(back.has_value()) << back.error().message;
  EXPECT_EQ(back->version(), members_.version());
  EXPECT_EQ(back->head(), members_.head());
  ASSERT_EQ(back->members().size(), 1u);
  EXPECT_EQ(back->members()[0], members_.members()[0]);
}

TEST_F(MembershipTest, EveryChangedByteIsNoticed) {
  ASSERT_TRUE(members_.add(member_of(mac_, "mac")).has_value());
  const wire::pb::SignedMemberList good = sign(members_, head_);
  for (std::size_t i = 0; i < good.list().size(); ++i) {
    wire::pb::SignedMemberList bad = good;
    (*bad.mutable_list())[i] = static_cast<char>(good.list()[i] ^ 1);
    EXPECT_FALSE(verify(bad, head_.fingerprint()).has_value()) << i;
  }
  wire::pb::SignedMemberList bad = good;
  bad.mutable_signature()->back() = static_cast<char>(bad.signature().back() ^ 1);
  EXPECT_FALSE(verify(bad, head_.fingerprint()).has_value());
  EXPECT_FALSE(verify(good, mac_.fingerprint()).has_value());
}

TEST_F(MembershipTest, AnotherKeyCannotSign) {
  // The list names the head's key; the signature is of the other.
  wire::pb::SignedMemberList forged = sign(members_, head_);
  const std::string text = "conclave member list 1\n" + forged.list();
  forged.set_signature(mac_.sign(std::as_bytes(std::span(text))));
  EXPECT_FALSE(verify(forged, head_.fingerprint()).has_value());
  forged.set_signature(head_.sign(std::as_bytes(std::span(text))));
  EXPECT_TRUE(verify(forged, head_.fingerprint()).has_value());
}

TEST_F(MembershipTest, RefusesListsThatBreakTheRules) {
  ASSERT_TRUE(members_.add(member_of(mac_, "mac")).has_value());
  const wire::pb::MemberList good = members_.to_list();
  ASSERT_TRUE(Membership::from_list(good).has_value());

  wire::pb::MemberList twice = good;
  *twice.add_members() = good.members(0);
  EXPECT_FALSE(Membership::from_list(twice).has_value());
  wire::pb::MemberList name = good;
  name.mutable_members(0)->set_name("a\nb");
  EXPECT_FALSE(Membership::from_list(name).has_value());
  wire::pb::MemberList key = good;
  key.mutable_members(0)->mutable_public_key()->pop_back();
  EXPECT_FALSE(Membership::from_list(key).has_value());
  wire::pb::MemberList port = good;
  port.mutable_head()->mutable_addresses(0)->set_port(70000);
  EXPECT_FALSE(Membership::from_list(port).has_value());
  wire::pb::MemberList many = good;
  for (std::size_t i = 0; i < kAddressesMax; ++i) {
    *many.mutable_head()->add_addresses() = good.head().addresses(0);
  }
  EXPECT_FALSE(Membership::from_list(many).has_value());
}

TEST_F(MembershipTest, ANodeTakesNewerListsOnly) {
  const wire::pb::SignedMemberList first = sign(members_, head_);
  auto pool = JoinedPool::create(head_.fingerprint(), {{"head.local", 7400}}, first);
  ASSERT_TRUE(pool.has_value());
  ASSERT_TRUE(members_.add(member_of(mac_, "mac")).has_value());
  const wire::pb::SignedMemberList second = sign(members_, head_);

  EXPECT_TRUE(pool->update(second).value());
  EXPECT_FALSE(pool->update(second).value());
  EXPECT_EQ(pool->update(first).error().code, ErrorCode::kCorrupt);
  EXPECT_NE(pool->members().find("mac"), nullptr);

  const std::vector<HostPort> expected{{"head.local", 7400}, {"10.0.0.1", 7400}};
  EXPECT_EQ(pool->addresses(), expected);
  pool->answered_at({"10.0.0.1", 7400});
  EXPECT_EQ(pool->addresses().front(), expected[1]);
  EXPECT_EQ(pool->addresses().size(), 2u);
}

TEST_F(MembershipTest, FilesComeBackAndDamageIsNamed) {
  std::string pattern = (fs::temp_directory_path() / "conclave-members-XXXXXX").string();
  ASSERT_NE(mkdtemp(pattern.data()), nullptr);
  {
    const auto state = StateDir::open(pattern);
    ASSERT_TRUE(state.has_value());
    EXPECT_FALSE(load_members(*state, head_).value().has_value());
    EXPECT_FALSE(load_pool(*state).value().has_value());

    ASSERT_TRUE(members_.add(member_of(mac_, "mac")).has_value());
    ASSERT_TRUE(save(*state, members_, head_).has_value());
    EXPECT_EQ(load_members(*state, head_).value()->members()[0], members_.members()[0]);
    const auto of_another = load_members(*state, other_);
    ASSERT_FALSE(of_another.has_value());
    EXPECT_NE(of_another.error().message.find(pattern), std::string::npos);

    auto pool = JoinedPool::create(head_.fingerprint(), {{"h", 1}}, sign(members_, head_));
    ASSERT_TRUE(pool.has_value());
    ASSERT_TRUE(save(*state, *pool).has_value());
    const auto back = load_pool(*state);
    ASSERT_TRUE(back.has_value() && back->has_value());
    EXPECT_EQ((*back)->head(), head_.fingerprint());
    EXPECT_EQ((*back)->addresses(), pool->addresses());

    ASSERT_TRUE(state->write("pool", "\x01\x02").has_value());
    EXPECT_FALSE(load_pool(*state).has_value());
    ASSERT_TRUE(forget_pool(*state).has_value());
    EXPECT_FALSE(load_pool(*state).value().has_value());
  }
  fs::remove_all(pattern);
}

}  // namespace
}  // namespace conclave::cluster
