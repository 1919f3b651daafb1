#include "server/http_rules.h"

#include <gtest/gtest.h>

namespace conclave::server {
namespace {

TEST(RoutePath, DropsQueryVersionAndSlashes) {
  EXPECT_EQ(route_path("/v1/chat/completions"), "/chat/completions");
  EXPECT_EQ(route_path("/chat/completions/"), "/chat/completions");
  EXPECT_EQ(route_path("/v1/v1/models?limit=1"), "/models");
  EXPECT_EQ(route_path("/v1"), "/");
  EXPECT_EQ(route_path("/v1/"), "/");
  EXPECT_EQ(route_path("/"), "/");
  EXPECT_EQ(route_path("/v10/models"), "/v10/models");
  EXPECT_EQ(route_path("/v1/models/org%2Fname"), "/models/org/name");
  EXPECT_EQ(route_path("/a%2"), "/a%2");
  EXPECT_EQ(route_path("http://localhost:8080/v1/models"), "/models");
}

TEST(HostAllowed, AddressesAndLoopbackNamesOnly) {
  for (const char* host : {"localhost", "LOCALHOST:8080", "app.localhost", "127.0.0.1:1",
                           "[::1]:80", "192.168.1.5:8080", "head.lan"}) {
    EXPECT_TRUE(host_allowed(host, "head.lan")) << host;
  }
  for (const char* host : {"evil.com", "evil.com:8080", "localhost.evil.com", "127.0.0.1.evil.com",
                           "", ":80", "[::1", "localhost:80x", "[::1]evil"}) {
    EXPECT_FALSE(host_allowed(host, "head.lan")) << host;
  }
}

TEST(OriginKind, TellsPagesOfThisMachineFromOthers) {
  EXPECT_EQ(origin_kind("", "localhost"), OriginKind::kNone);
  EXPECT_EQ(origin_kind("http://localhost:3000", "127.0.0.1:8080"), OriginKind::kLoopback);
  EXPECT_EQ(origin_kind("https://[::1]", "127.0.0.1:8080"), OriginKind::kLoopback);
  EXPECT_EQ(origin_kind("http://192.168.1.5:8080", "192.168.1.5:8080"), OriginKind::kLoopback);
  EXPECT_EQ(origin_kind("http://192.168.1.6:8080", "192.168.1.5:8080"), OriginKind::kForeign);
  EXPECT_EQ(origin_kind("https://evil.com", "localhost"), OriginKind::kForeign);
  EXPECT_EQ(origin_kind("http://127.0.0.1.evil.com", "localhost"), OriginKind::kForeign);
  EXPECT_EQ(origin_kind("null", "localhost"), OriginKind::kForeign);
  EXPECT_EQ(origin_kind("vscode-webview://abc", "localhost"), OriginKind::kApp);
}

TEST(ResponseHead, HasOneLineEach) {
  EXPECT_EQ(response_head(429, {{"Retry-After", "2"}}),
            "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 2\r\n\r\n");
}

TEST(ResponseHeadDeathTest, AHeaderCannotBreakItsLine) {
  EXPECT_DEATH(response_head(200, {{"X", "a\r\nB: c"}}), "CHECK failed");
}

}  // namespace
}  // namespace conclave::server
