// The agent with programs that are no workers. With real workers: tests/e2e/test_worker_kills.py.
#include <gtest/gtest.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <map>

#include "cluster/cluster.h"
#include "cluster/worker_process.h"

namespace conclave::cluster {
namespace {

using namespace std::chrono_literals;

class AgentTest : public testing::Test {
 protected:
  void start(const std::string& program) {
    AgentOptions options;
    options.program = program;
    options.model_dir = "models/ember";
    options.placer.pages = 16;
    options.machine.usable_bytes = options.machine.memory_bytes = 1e9;
    options.head.requests_max = 2;
    options.head.gather = {};
    options.supervisor.backoff_first = 1ms;
    options.supervisor.heartbeat_limit = 300ms;
    auto agent = Agent::create(
        std::move(options), clock_,
        {.on_token = [](const engine::TokenEvent&) { FAIL() << "a token from nowhere"; },
         .on_failed = [this](RequestId id, const Error& error) { failed_.emplace(id, error); },
         .on_prefill = [](RequestId, std::uint64_t, std::uint64_t) {}});
    ASSERT_TRUE(agent) << agent.error().message;
    agent_ = std::move(agent).value();
  }
  // Polls as a server does, until the agent has failed or five seconds are over.
  void run() {
    const Time end = clock_.now() + 5s;
    while (agent_->status().state != AgentState::kFailed && clock_.now() < end) {
      agent_->poll();
      pollfd ready{.fd = agent_->fd(), .events = POLLIN, .revents = 0};
      ::poll(&ready, 1, 10);
    }
  }
  static engine::Request request(std::uint64_t id) {
    engine::Request out;
    out.id = RequestId{id};
    out.prompt = {TokenId{1}};
    return out;
  }

  RealClock clock_;
  std::unique_ptr<Agent> agent_;
  std::map<RequestId, Error> failed_;
};

TEST_F(AgentTest, AProgramThatEndsAtOnceFailsWithItsStatus) {
  start("/bin/false");
  ASSERT_TRUE(agent_->submit(request(1)));
  run();
  EXPECT_EQ(agent_->status().state, AgentState::kFailed);
  EXPECT_NE(agent_->status().failure.find("exit status 1"), std::string::npos)
      << agent_->status().failure;
  EXPECT_EQ(agent_->status().restarts, 4u);
  agent_->poll();
  ASSERT_EQ(failed_.size(), 1u);
  EXPECT_EQ(failed_.at(RequestId{1}).code, ErrorCode::kUnavailable);
  EXPECT_EQ(agent_->status().open_requests, 0u);
  const auto later = agent_->submit(request(2));
  ASSERT_FALSE(later);
  EXPECT_EQ(later.error().code, ErrorCode::kUnavailable);
}

TEST_F(AgentTest, AProgramThatDoesNotExistFailsWithItsName) {
  start("/nonexistent/conclave");
  run();
  EXPECT_EQ(agent_->status().state, AgentState::kFailed);
  EXPECT_NE(agent_->status().failure.find("/nonexistent/conclave"), std::string::npos);
  EXPECT_EQ(agent_->status().worker_pid, 0);
}

TEST_F(AgentTest, ASilentProgramIsKilledAndGivenUp) {
  std::string name = (std::filesystem::temp_directory_path() / "conclave_agent_XXXXXX").string();
  FileDescriptor file(::mkstemp(name.data()));
  ASSERT_TRUE(file.open());
  file.reset();  // a file open for writing does not run
  std::ofstream(name) << "#!/bin/sh\nexec sleep 60\n";
  ASSERT_EQ(::chmod(name.c_str(), 0700), 0);
  start(name);
  run();
  std::filesystem::remove(name);
  EXPECT_EQ(agent_->status().state, AgentState::kFailed);
  EXPECT_NE(agent_->status().failure.find("killed by signal 9 after no heartbeat"),
            std::string::npos)
      << agent_->status().failure;
}

TEST_F(AgentTest, RequestsHaveALimitAndCancelMakesRoom) {
  start("/bin/false");
  ASSERT_TRUE(agent_->submit(request(1)));
  ASSERT_TRUE(agent_->submit(request(2)));
  const auto third = agent_->submit(request(3));
  ASSERT_FALSE(third);
  EXPECT_EQ(third.error().code, ErrorCode::kExhausted);
  agent_->cancel(RequestId{1});
  agent_->cancel(RequestId{99});
  EXPECT_TRUE(agent_->submit(request(4)));
  agent_->poll();
  EXPECT_EQ(agent_->status().open_requests, 2u);
  EXPECT_EQ(agent_->status().state, AgentState::kLoading);
}

TEST(AgentCreate, NeedsAModel) {
  const RealClock clock;
  AgentOptions options;
  options.model_dir = "/nonexistent";
  const auto agent = Agent::create(std::move(options), clock, {});
  ASSERT_FALSE(agent);
  EXPECT_NE(agent.error().message.find("/nonexistent"), std::string::npos);
}

}  // namespace
}  // namespace conclave::cluster
