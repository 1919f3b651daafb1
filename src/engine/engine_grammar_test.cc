// Grammars through the engine, with a real tokenizer of 64 tokens, one character each.

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "engine/engine.h"
#include "engine/fake_backend.h"

namespace conclave::engine {
namespace {

constexpr std::string_view kCharacters =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVW0123456789{}:,";
constexpr TokenId kEnd{FakeBackend::kVocab - 1};
static_assert(kCharacters.size() == kEnd.value);

class TempDir {
 public:
  TempDir() {
    std::string pattern = (std::filesystem::temp_directory_path() / "engine_test_XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~TempDir() { std::filesystem::remove_all(path_); }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

text::TextModel load_text() {
  text::Json vocab = text::Json::object();
  for (std::size_t id = 0; id < kCharacters.size(); ++id) {
    vocab[std::string(1, kCharacters[id])] = id;
  }
  const text::Json end = {{"id", kEnd.value}, {"content", "<end>"}, {"single_word", false},
                          {"lstrip", false},  {"rstrip", false},    {"normalized", false},
                          {"special", true}};
  const text::Json tokenizer = {
      {"version", "1.0"},
      {"added_tokens", text::Json::array({end})},
      {"pre_tokenizer",
       {{"type", "ByteLevel"},
        {"add_prefix_space", false},
        {"trim_offsets", true},
        {"use_regex", true}}},
      {"decoder",
       {{"type", "ByteLevel"},
        {"add_prefix_space", false},
        {"trim_offsets", true},
        {"use_regex", true}}},
      {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", text::Json::array()}}}};
  const TempDir dir;
  std::ofstream(dir.path() / "tokenizer.json") << tokenizer;
  std::ofstream(dir.path() / "tokenizer_config.json") << R"({"eos_token": "<end>"})";
  auto text = text::TextModel::load(dir.path(), FakeBackend::kVocab);
  if (!text) ADD_FAILURE() << text.error().message;  // and the next line ends the program
  return *std::move(text);
}

struct Answer {
  std::string text;
  std::vector<TokenId> tokens;
  FinishReason finish = FinishReason::kNone;
  std::string error;
};

class EngineGrammar : public testing::Test {
 protected:
  Request request(std::string regex, std::uint64_t seed) const {
    Request request;
    request.prompt = {TokenId{3}};
    request.sampling.seed = seed;
    request.max_tokens = 50;
    request.stop_ids = {kEnd};
    request.grammar = {.kind = text::GrammarSpec::Kind::kRegex, .source = std::move(regex)};
    return request;
  }

  Answer run(const Request& request) {
    FakeBackend backend;
    Engine engine(backend, &text_, {});
    Answer answer;
    const auto admitted = engine.admit(request);
    if (!admitted) {
      ADD_FAILURE() << admitted.error().message;
      return answer;
    }
    while (!engine.idle()) {
      const auto events = engine.step();
      EXPECT_TRUE(events);
      for (const TokenEvent& event : *events) {
        if (event.token) answer.tokens.push_back(*event.token);
        answer.finish = event.finish;
        answer.error = event.error;
      }
    }
    answer.text = text_.decode(answer.tokens, true);
    return answer;
  }

  text::TextModel text_ = load_text();
};

TEST_F(EngineGrammar, AnswersObeyTheGrammarAndEndWithIt) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const Answer answer = run(request("[ab]{4}:(yes|no)", seed));
    EXPECT_EQ(answer.finish, FinishReason::kStop) << answer.error;
    ASSERT_GE(answer.text.size(), 7u);
    EXPECT_EQ(answer.text.find_first_not_of("ab"), 4u);
    EXPECT_TRUE(answer.text.substr(4) == ":yes" || answer.text.substr(4) == ":no") << answer.text;
  }
}

TEST_F(EngineGrammar, OpenEndedGrammarMayStopOrReachTheLimit) {
  bool stopped_by_token = false;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const Answer answer = run(request("[a-z]+", seed));
    ASSERT_FALSE(answer.tokens.empty());
    stopped_by_token |= answer.tokens.back() == kEnd;
    EXPECT_EQ(answer.finish == FinishReason::kStop, answer.tokens.back() == kEnd);
    EXPECT_EQ(answer.text.find_first_not_of(kCharacters.substr(0, 26)), std::string::npos);
  }
  EXPECT_TRUE(stopped_by_token);
}

TEST_F(EngineGrammar, RestartFromTheLogContinuesInsideTheGrammar) {
  const Answer whole = run(request("[a-z]{6}[0-9]{6}", 5));
  ASSERT_GE(whole.tokens.size(), 12u);
  for (std::size_t n_sent = 0; n_sent <= whole.tokens.size(); ++n_sent) {
    Request restarted = request("[a-z]{6}[0-9]{6}", 5);
    const auto sent = std::span(whole.tokens).first(n_sent);
    restarted.generated.assign(sent.begin(), sent.end());
    const Answer rest = run(restarted);
    std::vector<TokenId> joined = restarted.generated;
    joined.insert(joined.end(), rest.tokens.begin(), rest.tokens.end());
    EXPECT_EQ(joined, whole.tokens) << n_sent << " sent";
    EXPECT_EQ(rest.finish, FinishReason::kStop);
  }
}

TEST_F(EngineGrammar, ImpossibleNextTokenEndsTheRequest) {
  Request impossible = request("ab", 1);
  impossible.banned_ids = {TokenId{1}};
  const Answer answer = run(impossible);
  EXPECT_EQ(answer.finish, FinishReason::kError);
  EXPECT_EQ(answer.text, "a");
  EXPECT_NE(answer.error.find("token 1 of the answer (position 2): no token is left"),
            std::string::npos)
      << answer.error;
}

TEST_F(EngineGrammar, BadGrammarAndLogOutsideTheGrammarAreRefused) {
  FakeBackend backend;
  Engine engine(backend, &text_, {});
  EXPECT_EQ(engine.admit(request("[a", 1)).error().code, ErrorCode::kInvalidInput);
  Request wrong_log = request("[a-c]+", 1);
  wrong_log.generated = {TokenId{0}, TokenId{9}};
  EXPECT_EQ(engine.admit(wrong_log).error().code, ErrorCode::kInvalidInput);
  EXPECT_TRUE(engine.idle());
}

// Compiling may take seconds, and every answer waits meanwhile.
TEST_F(EngineGrammar, LimitsAreCheckedBeforeAGrammarIsCompiled) {
  FakeBackend backend;
  Engine engine(backend, &text_, {.requests_max = 1});
  ASSERT_TRUE(engine.admit(request("[a-z]+", 1)));
  Request second = request("[a", 1);
  second.id = RequestId{2};
  EXPECT_EQ(engine.admit(second).error().code, ErrorCode::kExhausted);
}

}  // namespace
}  // namespace conclave::engine
