#include "server/chat_stream.h"

#include <gtest/gtest.h>

namespace conclave::server {
namespace {

ChatMeta meta() {
  return {.id = "chatcmpl-1", .created = 7, .model = "ember", .fingerprint = "fp", .n = 1};
}

AnswerEvent text_event(AnswerEvent::Kind kind, std::string text) {
  AnswerEvent event;
  event.kind = kind;
  event.text = std::move(text);
  return event;
}

AnswerEvent end_event(AnswerEnd end) {
  AnswerEvent event;
  event.kind = AnswerEvent::Kind::kEnd;
  event.end = end;
  return event;
}

AnswerEvent tool_begin(int index, std::string id, std::string name) {
  AnswerEvent event;
  event.kind = AnswerEvent::Kind::kToolBegin;
  event.tool_index = index;
  event.tool_id = std::move(id);
  event.tool_name = std::move(name);
  return event;
}

AnswerEvent tool_arguments(int index, std::string text) {
  AnswerEvent event = text_event(AnswerEvent::Kind::kToolArguments, std::move(text));
  event.tool_index = index;
  return event;
}

const std::string kHead =
    R"(data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":7,)"
    R"("model":"ember","system_fingerprint":"fp","choices":[)";

TEST(ChatStream, AContentStreamByteByByte) {
  const ChatStream stream(meta());
  EXPECT_EQ(stream.begin(), kHead + R"({"index":0,"delta":{"role":"assistant","content":""},)"
                                    R"("finish_reason":null}]})"
                                    "\n\n");
  EXPECT_EQ(stream.event(text_event(AnswerEvent::Kind::kText, "h\xc3\xa9 \"\n")),
            kHead + R"({"index":0,"delta":{"content":"h)"
                    "\xc3\xa9"
                    R"( \"\n"},"finish_reason":null}]})"
                    "\n\n");
  EXPECT_EQ(stream.event(end_event(AnswerEnd::kStop)),
            kHead + R"({"index":0,"delta":{},"finish_reason":"stop"}]})"
                    "\n\n");
  EXPECT_EQ(stream.end({}), "data: [DONE]\n\n");
}

TEST(ChatStream, ToolDeltasCarryTheirIdOnceAndTheirIndexAlways) {
  const ChatStream stream(meta());
  EXPECT_EQ(stream.event(tool_begin(1, "functions.f:1", "f")),
            kHead + R"({"index":0,"delta":{"tool_calls":[{"index":1,"id":"functions.f:1",)"
                    R"("type":"function","function":{"name":"f","arguments":""}}]},)"
                    R"("finish_reason":null}]})"
                    "\n\n");
  EXPECT_EQ(stream.event(tool_arguments(1, "{\"a\"")),
            kHead + R"({"index":0,"delta":{"tool_calls":[{"index":1,)"
                    R"("function":{"arguments":"{\"a\""}}]},"finish_reason":null}]})"
                    "\n\n");
  EXPECT_NE(stream.event(end_event(AnswerEnd::kToolCalls)).find(R"("finish_reason":"tool_calls")"),
            std::string::npos);
}

TEST(ChatStream, ReasoningHasBothNames) {
  const std::string chunk =
      ChatStream(meta()).event(text_event(AnswerEvent::Kind::kReasoning, "hm"));
  EXPECT_NE(chunk.find(R"("delta":{"reasoning_content":"hm","reasoning":"hm"})"),
            std::string::npos);
}

TEST(ChatStream, UsageIsNullUntilItsOwnChunk) {
  ChatMeta with_usage = meta();
  with_usage.include_usage = true;
  const ChatStream stream(with_usage);
  EXPECT_NE(stream.begin().find(R"(}],"usage":null})"), std::string::npos);
  EXPECT_EQ(stream.end({.prompt_tokens = 3, .completion_tokens = 4, .reasoning_tokens = 1}),
            kHead + R"(],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7,)"
                    R"("prompt_tokens_details":{"cached_tokens":0},)"
                    R"("completion_tokens_details":{"reasoning_tokens":1}}})"
                    "\n\ndata: [DONE]\n\n");
}

TEST(ChatStream, LogprobsHaveTheBytesOfHalfACodePoint) {
  AnswerEvent event = text_event(AnswerEvent::Kind::kText, "x");
  event.logprobs = {
      {.token = {.bytes = "\xc3", .logprob = -0.5f}, .top = {{.bytes = "x", .logprob = -0.25f}}}};
  EXPECT_NE(ChatStream(meta()).event(event).find(
                R"("logprobs":{"content":[{"token":")"
                "\xef\xbf\xbd"
                R"(","logprob":-0.5,"bytes":[195],)"
                R"("top_logprobs":[{"token":"x","logprob":-0.25,"bytes":[120]}]}]})"),
            std::string::npos);
}

TEST(ChatStream, AnErrorIsOneEvent) {
  EXPECT_EQ(ChatStream(meta()).error({.status = 503,
                                      .type = "unavailable_error",
                                      .message = "gone",
                                      .param = {},
                                      .code = "unavailable"}),
            R"(data: {"error":{"message":"gone","type":"unavailable_error","param":null,)"
            R"("code":"unavailable"}})"
            "\n\n");
}

TEST(ChatAnswer, IsTheSumOfItsEvents) {
  ChatAnswer answer(meta());
  answer.add(text_event(AnswerEvent::Kind::kReasoning, "h"));
  answer.add(text_event(AnswerEvent::Kind::kReasoning, "m"));
  answer.add(text_event(AnswerEvent::Kind::kText, "a"));
  answer.add(text_event(AnswerEvent::Kind::kText, "b"));
  answer.add(end_event(AnswerEnd::kLength));
  EXPECT_EQ(dump(answer.finish({.prompt_tokens = 1, .completion_tokens = 2})),
            R"({"id":"chatcmpl-1","object":"chat.completion","created":7,"model":"ember",)"
            R"("system_fingerprint":"fp","choices":[{"index":0,"message":{"role":"assistant",)"
            R"("content":"ab","reasoning_content":"hm","reasoning":"hm"},"logprobs":null,)"
            R"("finish_reason":"length"}],"usage":{"prompt_tokens":1,"completion_tokens":2,)"
            R"("total_tokens":3,"prompt_tokens_details":{"cached_tokens":0},)"
            R"("completion_tokens_details":{"reasoning_tokens":0}}})");
}

TEST(ChatAnswer, TwoCallsKeepTheirArgumentsApart) {
  ChatAnswer answer(meta());
  answer.add(tool_begin(0, "i0", "f"));
  answer.add(tool_arguments(0, "{"));
  answer.add(tool_arguments(0, "}"));
  answer.add(tool_begin(1, "i1", "g"));
  answer.add(tool_arguments(1, "[]"));
  answer.add(end_event(AnswerEnd::kToolCalls));
  const Json message = answer.finish({})["choices"][0]["message"];
  EXPECT_TRUE(message["content"].is_null());
  ASSERT_EQ(message["tool_calls"].size(), 2u);
  EXPECT_EQ(message["tool_calls"][0]["function"]["arguments"], "{}");
  EXPECT_EQ(message["tool_calls"][1]["id"], "i1");
  EXPECT_EQ(message["tool_calls"][1]["function"]["arguments"], "[]");
}

}  // namespace
}  // namespace conclave::server
