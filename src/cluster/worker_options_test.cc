#include <gtest/gtest.h>

#include "cluster/cluster.h"

namespace conclave::cluster {
namespace {

WorkerOptions unusual_options() {
  WorkerOptions options;
  options.model_dir = "/models/a model with spaces";
  options.cpu.isa = "avx2";
  options.cpu.threads = 3;
  options.cpu.exact = true;
  options.cpu.weights = model::WeightsMode::kInt8;
  options.cpu.limits = {.rows_max = 128, .pages = 77};
  options.engine = {.requests_max = 9, .chunk_tokens = 64, .context_max = 2048};
  options.control_fd = 3;
  options.arena_fd = 4;
  options.agent_pid = 4711;
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
  EXPECT_EQ(options.model_dir, sent.model_dir);
  EXPECT_EQ(options.cpu.isa, "avx2");
  EXPECT_EQ(options.cpu.threads, 3u);
  EXPECT_TRUE(options.cpu.exact);
  EXPECT_EQ(options.cpu.weights, model::WeightsMode::kInt8);
  EXPECT_EQ(options.cpu.limits.rows_max, 128u);
  EXPECT_EQ(options.cpu.limits.pages, 77u);
  EXPECT_EQ(options.engine.requests_max, 9u);
  EXPECT_EQ(options.engine.chunk_tokens, 64u);
  EXPECT_EQ(options.engine.context_max, 2048u);
  EXPECT_EQ(options.control_fd, 3);
  EXPECT_EQ(options.arena_fd, 4);
  EXPECT_EQ(options.agent_pid, 4711);
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
