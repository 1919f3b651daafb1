// Routes, gate and states without a worker: the agent here starts none, or a program that says it
// is ready and does nothing. With a worker: tests/e2e/test_serve.py.
#include "server/service.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace conclave::server {
namespace {

class Recorder final : public ResponseWriter {
 public:
  void send(HttpResponse sent) override { response = std::move(sent); }
  void begin_stream(int, HttpHeaders) override { ADD_FAILURE() << "no stream can begin here"; }
  void write(std::string_view) override {}
  void end() override {}
  void on_closed(std::function<void()> callback) override { closed = std::move(callback); }

  std::optional<HttpResponse> response;
  std::function<void()> closed;
};

class ServiceTest : public testing::Test {
 protected:
  void SetUp() override {
    auto text = text::TextModel::load("models/ember", 8192);
    ASSERT_TRUE(text);
    text_ = std::make_unique<text::TextModel>(std::move(text).value());
    service_ = std::make_unique<Service>(ServiceOptions{.model_id = "org/ember",
                                                        .host = "127.0.0.1",
                                                        .fingerprint = "fp",
                                                        .vocab_size = 8192,
                                                        .context_max = 4096},
                                         *text_, clock_, loop_);
    make_agent({});
  }
  void make_agent(cluster::AgentOptions options) {
    options.model_dir = "models/ember";
    options.placer.pages = 64;
    options.machine.usable_bytes = options.machine.memory_bytes = 1e9;
    options.head.gather = {};
    auto agent = cluster::Agent::create(std::move(options), clock_, service_->agent_handlers());
    ASSERT_TRUE(agent) << agent.error().message;
    agent_ = std::move(agent).value();
    service_->attach(*agent_);
  }
  // A worker of two lines: it says that it holds virtual rank 0 of layout 1, with 4096 tokens of
  // context, and that it has joined epoch 1, and waits for its end.
  void start_ready_worker() {
    std::string name = (std::filesystem::temp_directory_path() / "service_test_XXXXXX").string();
    const int file = ::mkstemp(name.data());
    ASSERT_GE(file, 0);
    ::close(file);  // a file open for writing does not run
    std::ofstream(name) << "#!/bin/sh\n"
                           "printf '\\023\\000\\000\\000\\102\\021\\010\\001\\022\\001\\000"
                           "\\040\\200\\040\\051\\001\\000\\000\\000\\000\\000\\000\\000' >&3\n"
                           "printf '\\004\\000\\000\\000\\112\\002\\010\\001' >&3\n"
                           "exec sleep 60\n";
    ASSERT_EQ(::chmod(name.c_str(), 0700), 0);
    cluster::AgentOptions options;
    options.program = name;
    options.life = 1;  // and so is its first layout
    make_agent(std::move(options));
    for (int i = 0; i < 1000 && agent_->status().state != cluster::AgentState::kReady; ++i) {
      agent_->poll();
      pollfd ready{.fd = agent_->fd(), .events = POLLIN, .revents = 0};
      ::poll(&ready, 1, 10);
    }
    std::filesystem::remove(name);
    ASSERT_EQ(agent_->status().state, cluster::AgentState::kReady) << agent_->pool_text();
  }

  std::shared_ptr<Recorder> post_chat(const std::string& more) {
    const auto recorder = std::make_shared<Recorder>();
    service_->handle({.method = "POST",
                      .target = "/v1/chat/completions",
                      .headers = {},
                      .body = R"({"messages": [{"role": "user", "content": "hi"}])" + more + "}"},
                     recorder);
    return recorder;
  }
  // Runs the loop until `recorder` has its answer, ten seconds at most. Once a test.
  void run_until_answered(const Recorder& recorder) {
    int ticks = 0;
    loop_.every(std::chrono::milliseconds(1), [this, &recorder, &ticks] {
      if (recorder.response || ++ticks == 10'000) loop_.stop();
    });
    loop_.run();
    ASSERT_TRUE(recorder.response.has_value());
  }

  HttpResponse ask(const char* method, const char* target, std::string body = {}) {
    const auto recorder = std::make_shared<Recorder>();
    service_->handle({.method = method, .target = target, .headers = {}, .body = std::move(body)},
                     recorder);
    EXPECT_TRUE(recorder->response.has_value()) << target;
    return recorder->response.value_or(HttpResponse{});
  }
  std::optional<HttpResponse> gate(HttpHeaders headers) {
    return service_->gate(
        {.method = "GET", .target = "/", .headers = std::move(headers), .body = {}});
  }
  static std::string header(const HttpHeaders& headers, std::string_view wanted) {
    for (const auto& [name, value] : headers) {
      if (name == wanted) return value;
    }
    return {};
  }

  ManualClock clock_;
  std::unique_ptr<text::TextModel> text_;
  EventLoop loop_;
  std::unique_ptr<Service> service_;
  std::unique_ptr<cluster::Agent> agent_;
};

TEST_F(ServiceTest, WhileLoadingOnlyAnswersWait) {
  const HttpResponse health = ask("GET", "/health");
  EXPECT_EQ(health.status, 503);
  EXPECT_EQ(Json::parse(health.body)["status"], "loading model");
  EXPECT_NE(header(health.headers, "Retry-After"), "");
  const HttpResponse chat = ask("POST", "/v1/chat/completions", "{}");
  EXPECT_EQ(chat.status, 503);
  EXPECT_EQ(Json::parse(chat.body)["error"]["code"], "model_loading");
  EXPECT_EQ(ask("GET", "/v1/models").status, 200);
  EXPECT_EQ(ask("GET", "/").status, 200);
}

TEST_F(ServiceTest, OneModelObjectServesAllClients) {
  const Json list = Json::parse(ask("GET", "/v1/models").body);
  EXPECT_EQ(list["object"], "list");
  EXPECT_EQ(list["has_more"], false);
  ASSERT_EQ(list["data"].size(), 1u);
  EXPECT_EQ(list["data"][0]["id"], "org/ember");
  EXPECT_EQ(list["data"][0]["context_length"], 4096);
  EXPECT_EQ(Json::parse(ask("GET", "/models/org%2Fember").body), list["data"][0]);
  EXPECT_EQ(Json::parse(ask("GET", "/v1/models/org/ember").body), list["data"][0]);
  const HttpResponse unknown = ask("GET", "/v1/models/other");
  EXPECT_EQ(unknown.status, 404);
  EXPECT_EQ(Json::parse(unknown.body)["error"]["code"], "model_not_found");
}

TEST_F(ServiceTest, UnknownPathsAndWrongMethods) {
  EXPECT_EQ(ask("GET", "/v1/nothing").status, 404);
  EXPECT_EQ(ask("DELETE", "/v1/models").status, 405);
  const HttpResponse wrong = ask("GET", "/v1/chat/completions");
  EXPECT_EQ(wrong.status, 405);
  EXPECT_EQ(header(wrong.headers, "Allow"), "POST");
  EXPECT_EQ(ask("OPTIONS", "/anything").status, 204);
}

TEST_F(ServiceTest, TheGateKeepsOtherSitesOut) {
  EXPECT_FALSE(gate({{"host", "localhost:8080"}}).has_value());
  EXPECT_EQ(gate({}).value().status, 403);
  EXPECT_EQ(gate({{"host", "evil.com"}}).value().status, 403);
  EXPECT_EQ(gate({{"host", "localhost"}, {"origin", "https://evil.com"}}).value().status, 403);
  EXPECT_EQ(gate({{"host", "localhost"}, {"content-encoding", "gzip"}}).value().status, 415);
}

TEST_F(ServiceTest, HeadersOfEveryAnswer) {
  const auto headers = [this](HttpHeaders sent) {
    return service_->common_headers(
        {.method = "GET", .target = "/", .headers = std::move(sent), .body = {}});
  };
  EXPECT_EQ(header(headers({{"x-request-id", "abc"}}), "X-Request-Id"), "abc");
  const std::string made = header(headers({{"x-request-id", "a b"}}), "X-Request-Id");
  EXPECT_EQ(made.size(), 24u) << "what could break a header is replaced";
  EXPECT_NE(made, header(headers({}), "X-Request-Id"));
  const HttpHeaders page = headers({{"host", "127.0.0.1"}, {"origin", "http://localhost:3000"}});
  EXPECT_EQ(header(page, "Access-Control-Allow-Origin"), "http://localhost:3000");
  EXPECT_EQ(header(headers({{"origin", "app://x"}}), "Access-Control-Allow-Origin"), "");
}

TEST_F(ServiceTest, ADrainingServerRefusesNewAnswers) {
  service_->drain();
  const HttpResponse chat = ask("POST", "/v1/chat/completions", "{}");
  EXPECT_EQ(Json::parse(chat.body)["error"]["code"], "shutting_down");
  EXPECT_EQ(service_->open_answers(), 0u);
}

// A grammar may take seconds to compile: nothing of a chat request is done on the loop.
TEST_F(ServiceTest, HealthAnswersWhileAGrammarIsChecked) {
  start_ready_worker();
  const auto chat = post_chat(R"(, "structured_outputs": {"regex": "[a"})");
  EXPECT_EQ(ask("GET", "/health").status, 200);
  EXPECT_FALSE(chat->response.has_value()) << "checked on the loop";
  EXPECT_EQ(service_->open_answers(), 1u);
  run_until_answered(*chat);
  EXPECT_EQ(chat->response->status, 400) << chat->response->body;
  EXPECT_EQ(service_->open_answers(), 0u);
}

TEST_F(ServiceTest, AClientThatLeavesIsForgottenBeforeItsRequestIsReady) {
  start_ready_worker();
  const auto gone = post_chat("");
  ASSERT_TRUE(gone->closed);
  std::exchange(gone->closed, nullptr)();
  EXPECT_EQ(service_->open_answers(), 0u);
  run_until_answered(*post_chat(R"(, "n": "many")"));
  EXPECT_FALSE(gone->response.has_value());
  EXPECT_EQ(agent_->status().open_requests, 0u);
}

TEST_F(ServiceTest, TheEndOfTheServerAnswersWhatIsNotReadyYet) {
  start_ready_worker();
  const auto chat = post_chat("");
  service_->end_all(
      {.status = 503, .type = "unavailable_error", .message = "the end", .param = {}, .code = {}});
  EXPECT_EQ(chat->response.value_or(HttpResponse{}).status, 503);
  EXPECT_EQ(service_->open_answers(), 0u);
}

TEST_F(ServiceTest, RequestsThatAreNotReadyCountAsAnswers) {
  start_ready_worker();
  for (int i = 0; i < 256; ++i) ASSERT_FALSE(post_chat("")->response.has_value()) << i;
  EXPECT_EQ(post_chat("")->response.value_or(HttpResponse{}).status, 429);
}

}  // namespace
}  // namespace conclave::server
