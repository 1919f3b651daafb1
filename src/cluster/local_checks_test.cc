#include "cluster/local_checks.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "cluster/state_dir.h"
#include "transport/transport.h"

namespace conclave::cluster {
namespace {

namespace fs = std::filesystem;

TEST(LocalChecks, SaysWhatIsHereAndHowTheStateFolderIsGuarded) {
  const fs::path dir = fs::path(testing::TempDir()) / "conclave-local-checks";
  fs::remove_all(dir);
  EXPECT_EQ(check_machine(dir).state_mode, 0u);  // not there yet
  fs::create_directory(dir);
  std::ofstream(dir / "identity.pem") << "key";
  ASSERT_EQ(::chmod(dir.c_str(), 0750), 0);
  ASSERT_EQ(::chmod((dir / "identity.pem").c_str(), 0640), 0);
  const MachineChecks checks = check_machine(dir);
  EXPECT_EQ(checks.state_mode, 0750u);
  EXPECT_EQ(checks.key_mode, 0640u);
  EXPECT_FALSE(checks.host_name.empty());
  EXPECT_GT(checks.descriptors_max, 0u);
  EXPECT_GT(checks.memory_bytes, 0u);
  EXPECT_GT(checks.available_bytes, 0u);
  EXPECT_LE(checks.available_bytes, checks.memory_bytes);
  EXPECT_TRUE(checks.shared_memory);
  fs::remove_all(dir);
}

TEST(LocalChecks, AnAgentsOwnFolderIsAsItShouldBe) {
  const fs::path dir = fs::path(testing::TempDir()) / "conclave-local-checks-own";
  fs::remove_all(dir);
  {
    const auto state = StateDir::open(dir);
    ASSERT_TRUE(state);
    ASSERT_TRUE(transport::Identity::load_or_create(dir, "studio"));
    const MachineChecks checks = check_machine(dir);
    EXPECT_EQ(checks.state_mode, 0700u);
    EXPECT_EQ(checks.key_mode, 0600u);
  }
  fs::remove_all(dir);
}

TEST(LocalChecks, APortThatIsTakenIsAProblem) {
  const auto taken = transport::listen_on("", 0);
  ASSERT_TRUE(taken);
  const std::uint16_t port = transport::local_port(taken->get());
  EXPECT_NE(port_problem(port), "");
  EXPECT_EQ(port_problem(0), "");
}

}  // namespace
}  // namespace conclave::cluster
