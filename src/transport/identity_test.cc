#include "transport/identity.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <iterator>
#include <set>
#include <thread>
#include <vector>

namespace conclave::transport {
namespace {

namespace fs = std::filesystem;

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

// A folder that goes with the test.
class Folder {
 public:
  Folder() {
    std::string name = (fs::temp_directory_path() / "identity_test.XXXXXX").string();
    CHECK(mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() { fs::remove_all(path_); }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

void write_file(const fs::path& path, std::string_view text) {
  std::ofstream(path, std::ios::binary) << text;
  fs::permissions(path, fs::perms::owner_read | fs::perms::owner_write);
}

TEST(Fingerprint, HexComesBack) {
  const Identity identity = Identity::generate("a").value();
  const std::string hex = to_hex(identity.fingerprint());
  EXPECT_EQ(hex.size(), 64u);
  EXPECT_EQ(parse_fingerprint(hex).value(), identity.fingerprint());
  EXPECT_FALSE(parse_fingerprint(hex.substr(1)));
  EXPECT_FALSE(parse_fingerprint(hex + "0"));
  for (const char bad : {'g', '-', '+', ' '}) {
    std::string text = hex;
    text[10] = bad;
    EXPECT_FALSE(parse_fingerprint(text)) << text;
  }
}

// RFC 8032, 7.1, test 1: the key; its SHA-256 from `sha256sum`.
TEST(Fingerprint, IsTheSha256OfTheRawKey) {
  const auto key = parse_fingerprint(  // 32 bytes in hexadecimal, like a fingerprint
      "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
  EXPECT_EQ(to_hex(fingerprint_of(key.value())),
            "21fe31dfa154a261626bf854046fd2271b7bed4b6abe45aa58877ef47f9721b9");
}

TEST(Identity, EachIsAnother) {
  const Identity a = Identity::generate("same").value();
  const Identity b = Identity::generate("same").value();
  EXPECT_NE(a.fingerprint(), b.fingerprint());
  EXPECT_EQ(a.fingerprint(), fingerprint_of(a.public_key()));
}

TEST(Identity, TakesAnyName) {
  EXPECT_TRUE(Identity::generate(""));
  EXPECT_TRUE(Identity::generate(std::string(500, 'x')));
}

TEST(Identity, PemRoundTrip) {
  const Identity identity = Identity::generate("a").value();
  const auto copy = Identity::from_pem(identity.to_pem());
  ASSERT_TRUE(copy);
  EXPECT_EQ(copy.value().fingerprint(), identity.fingerprint());
  EXPECT_EQ(copy.value().sign(bytes_of("x")), identity.sign(bytes_of("x")));
}

TEST(Identity, PemThatIsNoneIsRefused) {
  const std::string a = Identity::generate("a").value().to_pem();
  const std::string b = Identity::generate("b").value().to_pem();
  const std::size_t cut = a.find("-----BEGIN CERTIFICATE");
  ASSERT_NE(cut, std::string::npos);
  EXPECT_FALSE(Identity::from_pem(""));
  EXPECT_FALSE(Identity::from_pem("no PEM"));
  EXPECT_NE(Identity::from_pem(a.substr(cut)).error().message.find("no private key"),
            std::string::npos);
  EXPECT_NE(Identity::from_pem(a.substr(0, cut)).error().message.find("no certificate"),
            std::string::npos);
  const auto mixed = Identity::from_pem(a.substr(0, cut) + b.substr(b.find("-----BEGIN CERT")));
  EXPECT_EQ(mixed.error().message, "the certificate is not of the private key");
}

TEST(Identity, SignaturesAreChecked) {
  const Identity identity = Identity::generate("a").value();
  const Identity other = Identity::generate("b").value();
  const std::string signature = identity.sign(bytes_of("members"));
  EXPECT_TRUE(verify_signature(identity.public_key(), bytes_of("members"), signature));
  EXPECT_FALSE(verify_signature(identity.public_key(), bytes_of("member"), signature));
  EXPECT_FALSE(verify_signature(other.public_key(), bytes_of("members"), signature));
  std::string damaged = signature;
  damaged[5] = static_cast<char>(damaged[5] ^ 1);
  EXPECT_FALSE(verify_signature(identity.public_key(), bytes_of("members"), damaged));
  EXPECT_FALSE(verify_signature(identity.public_key(), bytes_of("members"), ""));
  EXPECT_FALSE(verify_signature({}, bytes_of("members"), signature));
}

TEST(IdentityFile, IsMadeOnceAndPrivate) {
  const Folder folder;
  const fs::path dir = folder.path() / "a" / "b";
  const auto made = Identity::load_or_create(dir, "a");
  ASSERT_TRUE(made) << made.error().message;
  EXPECT_EQ(Identity::load_or_create(dir, "a").value().fingerprint(), made.value().fingerprint());
  struct stat status {};
  ASSERT_EQ(stat((dir / "identity.pem").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  EXPECT_EQ(std::distance(fs::directory_iterator(dir), {}), 1) << "temporary files are left";
}

TEST(IdentityFile, ThreadsThatMakeItAtOnceGetTheSame) {
  const Folder folder;
  std::vector<Fingerprint> got(8);
  std::vector<std::thread> threads;
  for (Fingerprint& fingerprint : got) {
    threads.emplace_back([&folder, &fingerprint] {
      fingerprint = Identity::load_or_create(folder.path(), "a").value().fingerprint();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(std::set(got.begin(), got.end()).size(), 1u);
}

TEST(IdentityFile, ErrorsNameTheFileAndTheCure) {
  const Folder folder;
  const fs::path path = folder.path() / "identity.pem";
  write_file(path, "nonsense");
  const auto nonsense = Identity::load_or_create(folder.path(), "a");
  ASSERT_FALSE(nonsense);
  EXPECT_NE(nonsense.error().message.find(path.string() + ": no private key"), std::string::npos);

  write_file(path, Identity::generate("a").value().to_pem());
  fs::permissions(path, fs::perms::group_read, fs::perm_options::add);
  const auto open = Identity::load_or_create(folder.path(), "a");
  ASSERT_FALSE(open);
  EXPECT_NE(open.error().message.find("chmod 600"), std::string::npos);

  EXPECT_NE(Identity::load_or_create(path, "a").error().message.find(path.string()),
            std::string::npos);
}

}  // namespace
}  // namespace conclave::transport
