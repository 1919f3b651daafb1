#include "server/api_error.h"

#include <gtest/gtest.h>

namespace conclave::server {
namespace {

TEST(ApiError, EveryErrorCodeHasItsStatus) {
  EXPECT_EQ(api_error(invalid_input("m")).status, 400);
  EXPECT_EQ(api_error(unsupported("m")).status, 400);
  EXPECT_EQ(api_error(not_found("m")).status, 404);
  EXPECT_EQ(api_error(exhausted("m")).status, 429);
  EXPECT_EQ(api_error(unavailable("m")).status, 503);
  EXPECT_EQ(api_error(corrupt("m")).status, 500);
  EXPECT_EQ(api_error(exhausted("the message")).message, "the message");
}

TEST(ApiError, TheBodyHasAllFourFields) {
  EXPECT_EQ(dump(error_json(field_error("n", "expected 1"))),
            R"({"error":{"message":"n: expected 1","type":"invalid_request_error",)"
            R"("param":"n","code":null}})");
}

TEST(ApiError, ClientsAreToldWhenToComeBack) {
  const auto retry_after = [](const Error& error) {
    for (const auto& [name, value] : error_response(api_error(error)).headers) {
      if (name == "Retry-After") return value;
    }
    return std::string();
  };
  EXPECT_EQ(retry_after(exhausted("m")), "2");
  EXPECT_EQ(retry_after(unavailable("m")), "2");
  EXPECT_EQ(retry_after(invalid_input("m")), "");
}

TEST(Dump, BytesThatAreNotUtf8AreReplaced) { EXPECT_EQ(dump(Json("a\xff")), "\"a\xef\xbf\xbd\""); }

}  // namespace
}  // namespace conclave::server
