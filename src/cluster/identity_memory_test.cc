#include "cluster/identity_memory.h"

#include <gtest/gtest.h>

namespace conclave::cluster {
namespace {

TEST(IdentityMemory, AWorkerReadsItsAgentsKey) {
  const auto identity = transport::Identity::generate("here");
  ASSERT_TRUE(identity);
  const auto memory = identity_memory(*identity);
  ASSERT_TRUE(memory);
  const auto read = read_identity(memory->get());
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->fingerprint(), identity->fingerprint());
}

TEST(IdentityMemory, NoKeyIsAnError) { EXPECT_FALSE(read_identity(-1)); }

}  // namespace
}  // namespace conclave::cluster
