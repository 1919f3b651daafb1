// Routes, gate and states without a worker: the agent here never starts one. With a worker:
// tests/e2e/test_serve.py.
#include "server/service.h"

#include <gtest/gtest.h>

namespace conclave::server {
namespace {

class Recorder final : public ResponseWriter {
 public:
  void send(HttpResponse sent) override { response = std::move(sent); }
  void begin_stream(int, HttpHeaders) override { ADD_FAILURE() << "no stream can begin here"; }
  void write(std::string_view) override {}
  void end() override {}
  void on_closed(std::function<void()>) override {}

  std::optional<HttpResponse> response;
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
                                         *text_, clock_);
    auto arena = backend::WeightArena::create_shared(4096);
    ASSERT_TRUE(arena);
    auto agent =
        cluster::Agent::create({}, std::move(arena).value(), clock_, service_->agent_handlers());
    ASSERT_TRUE(agent);
    agent_ = std::move(agent).value();
    service_->attach(*agent_);
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

}  // namespace
}  // namespace conclave::server
