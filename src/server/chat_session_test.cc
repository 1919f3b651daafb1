#include "server/chat_session.h"

#include <gtest/gtest.h>

#include "server/chat_api.h"

namespace conclave::server {
namespace {

using namespace std::chrono_literals;

// Keeps what would go to the client.
class Recorder final : public ResponseWriter {
 public:
  void send(HttpResponse response) override {
    status = response.status;
    bytes = response.body;
    ended = true;
  }
  void begin_stream(int stream_status, HttpHeaders headers) override {
    status = stream_status;
    content_type = headers.at(0).second;
  }
  void write(std::string_view more) override { bytes += more; }
  void end() override { ended = true; }
  void on_closed(std::function<void()>) override {}

  int status = 0;
  std::string content_type;
  std::string bytes;
  bool ended = false;
};

class SessionTest : public testing::Test {
 protected:
  SessionTest() {
    auto text = text::TextModel::load("models/ember", 8192);
    EXPECT_TRUE(text);
    text_ = std::make_unique<text::TextModel>(std::move(text).value());
  }
  ChatSession session(bool stream) {
    GenerateRequest request;
    request.prompt.messages = Json::parse(R"([{"role": "user", "content": "hi"}])");
    CheckedGrammars checked;
    auto generation = start_generation(*text_, request, 4096, 1, checked);
    EXPECT_TRUE(generation);
    return ChatSession({.id = "chatcmpl-1", .created = 1, .model = "m", .fingerprint = "f"},
                       std::move(generation.value()), stream, recorder_, clock_.now());
  }
  engine::TokenEvent token(const char* text, engine::FinishReason finish) {
    engine::TokenEvent event;
    event.token = text_->encode(text, text::Specials::kPlain).value().front();
    event.finish = finish;
    return event;
  }

  ManualClock clock_;
  std::unique_ptr<text::TextModel> text_;
  std::shared_ptr<Recorder> recorder_ = std::make_shared<Recorder>();
};

TEST_F(SessionTest, AStreamBeginsWhenTheWorkerHasIt) {
  ChatSession chat = session(true);
  EXPECT_EQ(recorder_->status, 0) << "an error could still have a status of its own";
  chat.on_admitted(clock_.now());
  EXPECT_EQ(recorder_->status, 200);
  EXPECT_EQ(recorder_->content_type, "text/event-stream; charset=utf-8");
  EXPECT_NE(recorder_->bytes.find(R"("role":"assistant")"), std::string::npos);
  const std::string once = recorder_->bytes;
  chat.on_admitted(clock_.now());
  EXPECT_EQ(recorder_->bytes, once) << "after a restart the worker says it again";
  EXPECT_FALSE(chat.on_token(0, token("a", engine::FinishReason::kNone), clock_.now()));
  EXPECT_TRUE(chat.on_token(0, token("b", engine::FinishReason::kLength), clock_.now()));
  EXPECT_TRUE(recorder_->bytes.ends_with("data: [DONE]\n\n"));
  EXPECT_TRUE(recorder_->ended);
}

TEST_F(SessionTest, ASilentStreamSaysThatItLives) {
  ChatSession chat = session(true);
  clock_.advance(9s);
  chat.on_tick(clock_.now());
  EXPECT_EQ(recorder_->bytes, "");
  clock_.advance(1s);
  chat.on_tick(clock_.now());
  EXPECT_TRUE(recorder_->bytes.ends_with(": keep-alive\n\n"));
  const std::size_t size = recorder_->bytes.size();
  clock_.advance(9s);
  chat.on_tick(clock_.now());
  EXPECT_EQ(recorder_->bytes.size(), size);
}

TEST_F(SessionTest, AWholeAnswerIsSentOnce) {
  ChatSession chat = session(false);
  chat.on_admitted(clock_.now());
  clock_.advance(60s);
  chat.on_tick(clock_.now());
  chat.on_token(0, token("a", engine::FinishReason::kNone), clock_.now());
  EXPECT_EQ(recorder_->bytes, "");
  chat.on_token(0, token("a", engine::FinishReason::kLength), clock_.now());
  EXPECT_EQ(recorder_->status, 200);
  EXPECT_EQ(Json::parse(recorder_->bytes)["choices"][0]["message"]["content"], "aa");
}

TEST_F(SessionTest, AnErrorBeforeTheFirstByteHasAStatusAndLaterIsAnEvent) {
  const ApiError error = api_error(unavailable("the worker is gone"));
  session(true).fail(error);
  EXPECT_EQ(recorder_->status, 503);
  EXPECT_TRUE(recorder_->ended);

  recorder_ = std::make_shared<Recorder>();
  ChatSession chat = session(true);
  chat.on_admitted(clock_.now());
  chat.fail(error);
  EXPECT_EQ(recorder_->status, 200);
  EXPECT_NE(recorder_->bytes.find(R"(data: {"error":{"message":"the worker is gone")"),
            std::string::npos);
  EXPECT_EQ(recorder_->bytes.find("[DONE]"), std::string::npos);
  EXPECT_TRUE(recorder_->ended);
}

}  // namespace
}  // namespace conclave::server
