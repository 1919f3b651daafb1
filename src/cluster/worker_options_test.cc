#include "cluster/worker_options.h"

#include <gtest/gtest.h>

namespace conclave::cluster {
namespace {

WorkerOptions unusual_options() {
  WorkerOptions options;
  options.model_dirs = {"/models/a model with spaces", "/b"};
  options.weights_dir = "/state/my weights";
  options.cache = true;
  options.isa = "avx2";
  options.threads = 3;
  options.engine = {.requests_max = 9, .chunk_tokens = 64, .context_max = 2048};
  options.listen_host = "::1";
  options.listen_port = 65535;
  options.advertised_host = "mac.local";
  options.host_id = "h";
  options.clear = true;
  options.shared_memory = false;
  options.delay_us = 500;
  options.pace = 0.625;
  options.control_fd = 3;
  options.agent_pid = 4711;
  options.kept = {{"kv=1", 9}, {"slice", 10}};
  return options;
}

Result<WorkerOptions> parse(std::vector<std::string> arguments) {
  return parse_worker_arguments(arguments);
}

TEST(WorkerOptions, SurviveTheCommandLine) {
  const WorkerOptions sent = unusual_options();
  const std::vector<std::string> arguments = worker_arguments(sent);
  ASSERT_EQ(arguments.front(), "worker");
  const auto received = parse_worker_arguments(std::span(arguments).subspan(1));
  ASSERT_TRUE(received);
  const WorkerOptions& options = received.value();
  EXPECT_EQ(options.model_dirs, sent.model_dirs);
  EXPECT_EQ(options.weights_dir, sent.weights_dir);
  EXPECT_TRUE(options.cache);
  EXPECT_EQ(options.isa, "avx2");
  EXPECT_EQ(options.threads, 3u);
  EXPECT_EQ(options.engine.requests_max, 9u);
  EXPECT_EQ(options.engine.chunk_tokens, 64u);
  EXPECT_EQ(options.engine.context_max, 2048u);
  EXPECT_EQ(options.listen_host, "::1");
  EXPECT_EQ(options.listen_port, 65535);
  EXPECT_EQ(options.advertised_host, "mac.local");
  EXPECT_EQ(options.host_id, "h");
  EXPECT_TRUE(options.clear);
  EXPECT_FALSE(options.shared_memory);
  EXPECT_EQ(options.delay_us, 500u);
  EXPECT_EQ(options.pace, 0.625);
  EXPECT_EQ(options.control_fd, 3);
  EXPECT_EQ(options.agent_pid, 4711);
  EXPECT_EQ(options.kept, sent.kept);
}

TEST(WorkerOptions, BadArgumentsAreNamed) {
  const auto unknown = parse({"--colour", "red"});
  ASSERT_FALSE(unknown);
  EXPECT_NE(unknown.error().message.find("--colour"), std::string::npos);
  const auto number = parse({"--threads", "4x"});
  ASSERT_FALSE(number);
  EXPECT_NE(number.error().message.find("\"4x\""), std::string::npos);
  EXPECT_FALSE(parse({"--model"}));
  EXPECT_FALSE(parse({"--model", "m"})) << "without an agent";
  EXPECT_FALSE(parse({}));
}

}  // namespace
}  // namespace conclave::cluster
