#include "cluster/worker_loop.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <array>
#include <atomic>
#include <optional>
#include <thread>

namespace conclave::cluster {
namespace {

// A model that counts: after token t comes t + 1.
class CountingBackend final : public backend::Backend {
 public:
  static constexpr std::size_t kVocab = 1000;

  CountingBackend() {
    config_.vocab_size = kVocab;
    config_.hidden_size = 1;
    config_.n_layers = 1;
    config_.n_dense_layers = 1;
    config_.max_positions = 512;
    limits_ = {.rows_max = 64, .pages = 32};
  }
  const model::ModelConfig& config() const override { return config_; }
  const backend::Limits& limits() const override { return limits_; }
  std::string describe() const override { return "counting"; }
  void embed(const backend::Step& step) override {
    step_ = step;
    progress_at_embed_ = pulse->progress;
  }
  void begin(const backend::Step& step, std::span<const float>) override { embed(step); }
  std::span<const float> residual() override { return {}; }
  void attention(LayerId) override {}
  backend::Routing route(LayerId, std::span<const ExpertId>) override { return {}; }
  void feed_forward(LayerId) override {}
  std::span<float> partial() override { return {}; }
  void add_partial() override {}
  std::span<const float> head() override {
    moved_in_step = pulse->progress - progress_at_embed_;
    logits_.assign(step_.head_rows.size() * kVocab, 0.0f);
    for (std::size_t i = 0; i < step_.head_rows.size(); ++i) {
      logits_[i * kVocab + (step_.tokens[step_.head_rows[i]].value + 1) % kVocab] = 10.0f;
    }
    return logits_;
  }

  const WorkerPulse* pulse = nullptr;  // set before the first step
  std::atomic<std::uint64_t> moved_in_step{0};

 private:
  std::uint64_t progress_at_embed_ = 0;
  model::ModelConfig config_;
  backend::Limits limits_;
  backend::Step step_;
  std::vector<float> logits_;
};

// The test is the agent; the loop runs in a thread of its own.
class Loop : public testing::Test {
 protected:
  Loop() {
    std::array<int, 2> pair{};
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair.data()), 0);
    agent_ = FileDescriptor(pair[0]);
    channel_.emplace(pair[1]);
    backend_.pulse = &pulse_;
    thread_ = std::thread([this] {
      engine::Engine engine(backend_, nullptr, {.requests_max = 4});
      end_ = WorkerLoop(engine, *channel_, pulse_, clock_).run();
    });
  }
  ~Loop() override {
    agent_.reset();
    if (thread_.joinable()) thread_.join();
  }

  void send(const wire::pb::ToWorker& message) {
    std::string bytes;
    ASSERT_TRUE(wire::append_frame(message, bytes));
    ASSERT_EQ(::send(agent_.get(), bytes.data(), bytes.size(), 0),
              static_cast<ssize_t>(bytes.size()));
  }
  void admit(std::uint64_t id, std::uint32_t attempt, std::uint32_t prompt,
             std::vector<std::uint32_t> log, std::uint64_t max_tokens) {
    wire::pb::ToWorker message;
    wire::pb::Admit* admit = message.mutable_admit();
    admit->set_request(id);
    admit->set_attempt(attempt);
    admit->add_ids(prompt);
    for (const std::uint32_t token : log) admit->add_log(token);
    admit->set_max_tokens(max_tokens);
    admit->mutable_sampling()->set_top_p(1.0f);
    admit->mutable_sampling()->set_repetition_penalty(1.0f);
    admit->mutable_sampling()->set_top_logprobs(-1);
    send(message);
  }
  wire::pb::FromWorker receive() {
    for (;;) {
      auto payload = reader_.next();
      EXPECT_TRUE(payload);
      if (payload.value()) {
        auto message = wire::parse<wire::pb::FromWorker>(*payload.value());
        EXPECT_TRUE(message);
        return message.value();
      }
      std::array<char, 4096> bytes;
      const ssize_t n = ::recv(agent_.get(), bytes.data(), bytes.size(), 0);
      EXPECT_GT(n, 0);
      if (n <= 0) return {};
      reader_.push({bytes.data(), static_cast<std::size_t>(n)});
    }
  }
  wire::pb::Token next_token() {
    for (;;) {
      const wire::pb::FromWorker message = receive();
      if (message.has_token() || message.body_case() == 0) return message.token();
    }
  }

  CountingBackend backend_;
  ManualClock clock_;
  WorkerPulse pulse_;
  FileDescriptor agent_;
  std::optional<WorkerChannel> channel_;
  wire::FrameReader reader_;
  Error end_;
  std::thread thread_;
};

TEST_F(Loop, AnswersWithIndexAndAttempt) {
  admit(7, 3, 10, {}, 3);
  const wire::pb::FromWorker first = receive();
  ASSERT_TRUE(first.has_prefill()) << "admission is said before anything else";
  EXPECT_EQ(first.prefill().done(), 0u);
  for (std::uint32_t i = 0; i < 3; ++i) {
    const wire::pb::Token token = next_token();
    EXPECT_EQ(token.request(), 7u);
    EXPECT_EQ(token.attempt(), 3u);
    EXPECT_EQ(token.index(), i);
    EXPECT_EQ(token.id(), 11 + i);
    EXPECT_EQ(token.finish(), static_cast<std::uint32_t>(i == 2 ? engine::FinishReason::kLength
                                                                : engine::FinishReason::kNone));
  }
}

// A layer that hangs must not look like a long step.
TEST_F(Loop, ProgressMovesInsideAStep) {
  admit(7, 1, 10, {}, 1);
  next_token();
  EXPECT_EQ(backend_.moved_in_step, 3u) << "embedding, and attention and feed-forward of one layer";
}

TEST_F(Loop, GoesOnAfterTheLog) {
  admit(7, 2, 10, {11, 12}, 3);
  const wire::pb::Token token = next_token();
  EXPECT_EQ(token.index(), 2u);
  EXPECT_EQ(token.id(), 13u);
  EXPECT_EQ(token.finish(), static_cast<std::uint32_t>(engine::FinishReason::kLength));
}

TEST_F(Loop, RefusalsComeBackWithTheirCode) {
  admit(1, 1, 5000, {}, 3);
  const wire::pb::Token token = next_token();
  EXPECT_EQ(token.request(), 1u);
  EXPECT_EQ(token.finish(), static_cast<std::uint32_t>(engine::FinishReason::kError));
  EXPECT_EQ(token.error_code(), static_cast<std::uint32_t>(ErrorCode::kInvalidInput));
  EXPECT_NE(token.error().find("5000"), std::string::npos);
}

TEST_F(Loop, ACancelledRequestIsSilentAndFreesItsSlot) {
  admit(1, 1, 0, {}, 400);
  next_token();
  wire::pb::ToWorker cancel;
  cancel.mutable_cancel()->set_request(1);
  send(cancel);
  for (std::uint64_t id = 2; id <= 5; ++id) admit(id, 1, 10, {}, 1);
  int ended = 0;
  while (ended < 4) {
    const wire::pb::Token token = next_token();
    if (token.request() == 1) {
      ASSERT_EQ(ended, 0) << "tokens after the cancel was seen";
      continue;
    }
    EXPECT_EQ(token.finish(), static_cast<std::uint32_t>(engine::FinishReason::kLength));
    ++ended;
  }
}

TEST_F(Loop, EndsWithTheAgent) {
  admit(1, 1, 0, {}, 400);
  next_token();
  agent_.reset();
  thread_.join();
  EXPECT_EQ(end_.code, ErrorCode::kUnavailable);
}

TEST_F(Loop, EndsOnAMessageItDoesNotKnow) {
  send(wire::pb::ToWorker());
  thread_.join();
  EXPECT_EQ(end_.code, ErrorCode::kCorrupt);
}

}  // namespace
}  // namespace conclave::cluster
