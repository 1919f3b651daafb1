#include "base/check.h"

#include <gtest/gtest.h>

namespace conclave {
namespace {

TEST(CheckDeathTest, NamesTheConditionAndThePlace) {
  const int row = 3;
  CHECK(row == 3);
  EXPECT_DEATH(CHECK(row < 3), "check_test.cc.*CHECK failed: row < 3");
}

}  // namespace
}  // namespace conclave
