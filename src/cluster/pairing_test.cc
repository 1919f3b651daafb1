#include "cluster/pairing.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "base/rng.h"

namespace conclave::cluster {
namespace {

using transport::Identity;
using namespace std::chrono_literals;

PairingDesk::FillRandom numbers(std::uint64_t seed) {
  return [random = SplitMix(seed)](std::span<std::byte> bytes) mutable {
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.next() & 255u);
  };
}

PairCode code_with(std::vector<HostPort> addresses) {
  PairCode code{.addresses = std::move(addresses)};
  numbers(1)(code.token);
  numbers(2)(code.head);
  return code;
}

std::string_view text(const PairToken& token) {
  return {reinterpret_cast<const char*>(token.data()), token.size()};
}

TEST(PairCode, ComesBack) {
  const std::vector<std::vector<HostPort>> cases{
      {{"192.168.1.20", 7400}},
      {{"192.168.1.20", 7400}, {"10.0.0.1", 1}, {"172.16.0.9", 65535}},
      {{"fd00::1:2", 7400}, {"10.0.0.1", 7400}},
      {{"studio.local", 7400}},
      {{"a-host-name-of-thirty-eight-characters", 7400}},
  };
  for (const auto& addresses : cases) {
    const PairCode code = code_with(addresses);
    const auto encoded = encode(code);
    ASSERT_TRUE(encoded.has_value()) << encoded.error().message;
    EXPECT_LE(encoded->size(), kPairCodeMax);
    EXPECT_EQ(encoded->find_first_not_of("0123456789ABCDEFGHJKMNPQRSTVWXYZ"), std::string::npos);
    const auto parsed = parse_pair_code(*encoded);
    ASSERT_TRUE(parsed.has_value()) << parsed.error().message;
    EXPECT_EQ(*parsed, code);
  }
}

TEST(PairCode, IsShortForOneAddress) {
  EXPECT_EQ(encode(code_with({{"192.168.1.20", 7400}})).value().size(), 64u);
}

TEST(PairCode, LeavesOutWhatDoesNotFit) {
  const PairCode code =
      code_with({{"fd00::1", 1}, {"fd00::2", 2}, {"fd00::3", 3}, {"10.0.0.1", 4}});
  const auto parsed = parse_pair_code(encode(code).value());
  ASSERT_TRUE(parsed.has_value());
  const std::vector<HostPort> expected{{"fd00::1", 1}, {"fd00::2", 2}};
  EXPECT_EQ(std::vector(parsed->addresses.begin(), parsed->addresses.begin() + 2), expected);
  EXPECT_FALSE(encode(code_with({})).has_value());
  EXPECT_FALSE(encode(code_with({{std::string(60, 'a'), 1}})).has_value());
  EXPECT_FALSE(encode(code_with({{"a b", 1}})).has_value());
}

TEST(PairCode, ForgivesHowItWasPasted) {
  const PairCode code = code_with({{"10.1.0.1", 7400}});
  std::string pasted = encode(code).value();
  for (char& c : pasted) {
    if (c == '0') c = 'o';
    if (c == '1') c = 'l';
    c = static_cast<char>(std::tolower(c));
  }
  pasted.insert(40, "\r\n  ");
  pasted.insert(20, "-");
  EXPECT_EQ(parse_pair_code(" " + pasted + "\n").value(), code);
}

TEST(PairCode, NoticesEveryMistypedCharacter) {
  const std::string good = encode(code_with({{"10.0.0.1", 7400}})).value();
  for (std::size_t i = 1; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = good[i] == '7' ? '8' : '7';
    // The last character may carry no more than padding.
    const auto parsed = parse_pair_code(bad);
    if (i + 1 == good.size() && parsed) continue;
    EXPECT_FALSE(parsed.has_value()) << i;
  }
  std::string swapped = good;
  std::swap(swapped[30], swapped[31]);
  ASSERT_NE(swapped, good);
  EXPECT_NE(parse_pair_code(swapped).error().message.find("mistyped"), std::string::npos);
}

TEST(PairCode, SaysWhatIsWrong) {
  const std::string good = encode(code_with({{"10.0.0.1", 7400}})).value();
  for (std::size_t n = 2; n + 1 < good.size(); ++n) {
    const auto cut = parse_pair_code(std::string_view(good).substr(0, n));
    ASSERT_FALSE(cut.has_value()) << n;
    EXPECT_NE(cut.error().message.find("cut short"), std::string::npos) << n;
  }
  EXPECT_EQ(parse_pair_code("").error().code, ErrorCode::kCorrupt);
  EXPECT_EQ(parse_pair_code("C").error().code, ErrorCode::kCorrupt);
  EXPECT_EQ(parse_pair_code("D" + good.substr(1)).error().code, ErrorCode::kUnsupported);
  EXPECT_NE(parse_pair_code(good + std::string(100, '0')).error().message.find("longer"),
            std::string::npos);
  std::string strange = good;
  strange[10] = 'U';
  EXPECT_NE(parse_pair_code(strange).error().message.find("'U'"), std::string::npos);
}

class PairingDeskTest : public ::testing::Test {
 protected:
  PairToken issue() { return desk_.issue({now_, unix_seconds_}).value(); }
  Result<void> redeem(const PairToken& token) {
    return desk_.redeem(text(token), {now_, unix_seconds_});
  }

  Time now_{1h};
  std::uint64_t unix_seconds_ = 1'800'000'000;
  PairingDesk desk_{PairingOptions{}, numbers(7)};
};

TEST_F(PairingDeskTest, ATokenIsTakenOnce) {
  const PairToken token = issue();
  EXPECT_EQ(desk_.n_open({now_, unix_seconds_}), 1u);
  EXPECT_TRUE(redeem(token).has_value());
  EXPECT_EQ(desk_.n_open({now_, unix_seconds_}), 0u);
  EXPECT_NE(redeem(token).error().message.find("used already"), std::string::npos);
}

TEST_F(PairingDeskTest, ATokenExpires) {
  const PairToken token = issue();
  const PairToken other = issue();
  now_ += 10min - 1s;
  EXPECT_TRUE(redeem(other).has_value());
  now_ += 1s;
  EXPECT_NE(redeem(token).error().message.find("expired"), std::string::npos);
}

TEST_F(PairingDeskTest, ATokenThatIsGivenBackIsTakenAgain) {
  const PairToken token = issue();
  ASSERT_TRUE(redeem(token).has_value());
  desk_.give_back(text(token));
  EXPECT_TRUE(redeem(token).has_value());
  EXPECT_FALSE(redeem(token).has_value());
}

// A laptop that sleeps: its steady clock stands still.
TEST_F(PairingDeskTest, ATokenExpiresByTheClockOnTheWallToo) {
  const PairToken token = issue();
  unix_seconds_ += 599;
  EXPECT_EQ(desk_.n_open({now_, unix_seconds_}), 1u);
  unix_seconds_ += 1;
  EXPECT_EQ(desk_.n_open({now_, unix_seconds_}), 0u);
  EXPECT_NE(redeem(token).error().message.find("expired"), std::string::npos);
}

TEST_F(PairingDeskTest, OpenCodesHaveALimit) {
  std::set<PairToken> tokens;
  for (int i = 0; i < 16; ++i) tokens.insert(issue());
  EXPECT_EQ(tokens.size(), 16u);
  EXPECT_EQ(desk_.issue({now_, unix_seconds_}).error().code, ErrorCode::kExhausted);
  ASSERT_TRUE(redeem(*tokens.begin()).has_value());
  EXPECT_TRUE(desk_.issue({now_, unix_seconds_}).has_value());
  // However many are issued over time, what is remembered stays small and the newest are open.
  now_ += 10min;
  for (int i = 0; i < 1000; ++i) {
    ASSERT_TRUE(redeem(issue()).has_value());
  }
}

TEST_F(PairingDeskTest, WrongTokensPauseTheDesk) {
  const PairToken token = issue();
  PairToken wrong = token;
  wrong[9] ^= std::byte{1};
  for (int i = 0; i < 5; ++i) EXPECT_EQ(redeem(wrong).error().code, ErrorCode::kInvalidInput);
  const auto paused = redeem(token);
  ASSERT_FALSE(paused.has_value());
  EXPECT_EQ(paused.error().code, ErrorCode::kUnavailable);
  EXPECT_NE(paused.error().message.find("try again in"), std::string::npos);
  now_ += 10s;
  EXPECT_TRUE(redeem(token).has_value());
}

TEST_F(PairingDeskTest, SlowMistakesDoNotPauseIt) {
  const PairToken token = issue();
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(desk_.redeem("wrong", {now_, unix_seconds_}).error().code, ErrorCode::kInvalidInput);
    now_ += 15s;
  }
  EXPECT_TRUE(redeem(token).has_value());
}

class AdmitTest : public ::testing::Test {
 protected:
  PairCode issue() {
    return {.addresses = {{"10.0.0.1", 7400}},
            .head = pin_of(head_.fingerprint()),
            .token = desk_.issue({now_, unix_seconds_}).value()};
  }
  Result<Member> admit(const wire::pb::PairRequest& request, const Identity& peer) {
    return desk_.admit(request, {.peer = peer.fingerprint(), .at = {now_, unix_seconds_}},
                       members_);
  }

  Time now_{1h};
  std::uint64_t unix_seconds_ = 1'800'000'000;
  Identity head_ = Identity::generate("head").value();
  Identity mac_ = Identity::generate("mac").value();
  Identity thief_ = Identity::generate("thief").value();
  PairingDesk desk_{PairingOptions{}, numbers(8)};
  Membership members_{Member{.public_key = head_.public_key(), .name = "head"}};
};

TEST_F(AdmitTest, ACodeMakesAMember) {
  const PairCode code = parse_pair_code(encode(issue()).value()).value();
  const std::vector<HostPort> addresses{{"10.0.0.2", 7400}};
  const auto member = admit(pair_request(code, mac_, "Ann's Mac", addresses), mac_);
  ASSERT_TRUE(member.has_value()) << member.error().message;
  EXPECT_EQ(member->name, "ann-s-mac");
  EXPECT_EQ(member->added_at, 1'800'000'000u);
  EXPECT_EQ(member->addresses, addresses);

  const auto pool = read_pair_answer(pair_answer(members_, head_), code, head_.fingerprint(), mac_);
  ASSERT_TRUE(pool.has_value()) << pool.error().message;
  EXPECT_EQ(pool->members().find(mac_.fingerprint())->name, "ann-s-mac");
  EXPECT_EQ(pool->addresses(), code.addresses);
}

TEST_F(AdmitTest, AMemberWhoseAnswerWasLostAsksAgain) {
  const PairCode code = issue();
  const wire::pb::PairRequest request = pair_request(code, mac_, "mac", {});
  ASSERT_TRUE(admit(request, mac_).has_value());
  EXPECT_TRUE(admit(request, mac_).has_value());
  EXPECT_EQ(members_.members().size(), 1u);
  // Once removed, the old code does not bring it back.
  ASSERT_TRUE(members_.remove(mac_.fingerprint()).has_value());
  EXPECT_FALSE(admit(request, mac_).has_value());
  EXPECT_FALSE(admit(pair_request(code, thief_, "mac", {}), thief_).has_value());
  EXPECT_TRUE(members_.members().empty());
}

TEST_F(AdmitTest, TheKeyIsTheConnections) {
  const wire::pb::PairRequest request = pair_request(issue(), mac_, "mac", {});
  EXPECT_EQ(admit(request, thief_).error().code, ErrorCode::kCorrupt);
  EXPECT_TRUE(admit(request, mac_).has_value());
}

TEST_F(AdmitTest, AFullPoolDoesNotCostTheCode) {
  for (std::size_t i = 0; i < kMembersMax; ++i) {
    Member member{.name = "m"};
    member.public_key[0] = static_cast<std::byte>(i);
    ASSERT_TRUE(members_.add(member).has_value());
  }
  const wire::pb::PairRequest request = pair_request(issue(), mac_, "mac", {});
  EXPECT_EQ(admit(request, mac_).error().code, ErrorCode::kExhausted);
  ASSERT_TRUE(members_.remove(members_.members()[0].fingerprint).has_value());
  EXPECT_TRUE(admit(request, mac_).has_value());
}

TEST_F(AdmitTest, TheAnswerHasToBeTheHeads) {
  const PairCode code = issue();
  ASSERT_TRUE(admit(pair_request(code, mac_, "mac", {}), mac_).has_value());
  const wire::pb::PairAnswer answer = pair_answer(members_, head_);
  EXPECT_FALSE(read_pair_answer(answer, code, thief_.fingerprint(), mac_).has_value());
  EXPECT_FALSE(read_pair_answer(answer, code, head_.fingerprint(), thief_).has_value());
  const Membership forged(Member{.public_key = thief_.public_key(), .name = "head"});
  EXPECT_FALSE(
      read_pair_answer(pair_answer(forged, thief_), code, head_.fingerprint(), mac_).has_value());
  const auto refused =
      read_pair_answer(pair_refusal(invalid_input("too late")), code, head_.fingerprint(), mac_);
  ASSERT_FALSE(refused.has_value());
  EXPECT_NE(refused.error().message.find("too late"), std::string::npos);
}

}  // namespace
}  // namespace conclave::cluster
