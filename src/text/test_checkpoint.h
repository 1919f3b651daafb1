// Checkpoint folders for tests: the built-in model, and variants of it in a temporary folder.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "text/text.h"

namespace conclave::text {

inline std::filesystem::path repository() {
  return ".";  // ctest runs the tests there
}

inline std::filesystem::path ember() { return repository() / "models" / "ember"; }

inline std::string file_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

// A folder that goes away with the test.
class TestFolder {
 public:
  TestFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "conclave_text_XXXXXX").string();
    EXPECT_NE(::mkdtemp(name.data()), nullptr);
    path_ = name;
  }
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;
  ~TestFolder() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }

  const std::filesystem::path& path() const { return path_; }
  void write(std::string_view name, std::string_view text) const {
    std::ofstream(path_ / name, std::ios::binary) << text;
  }
  void copy_from_ember(std::string_view name) const {
    std::filesystem::copy_file(ember() / name, path_ / name);
  }

 private:
  std::filesystem::path path_;
};

inline constexpr std::size_t kEmberVocab = 8192;

inline TextModel loaded(const std::filesystem::path& dir, std::size_t vocab_size = kEmberVocab) {
  auto model = TextModel::load(dir, vocab_size);
  if (!model) ADD_FAILURE() << model.error().message;
  return std::move(model).value();
}

// Ember's vocabulary with another template.
inline TextModel ember_with_template(std::string_view source, std::string_view config = "{}") {
  const TestFolder folder;
  folder.copy_from_ember("tiktoken.model");
  folder.copy_from_ember("tokenizer_config.json");
  folder.write("chat_template.jinja", source);
  folder.write("config.json", config);
  return loaded(folder.path());
}

inline TokenId special(const TextModel& model, std::string_view content) {
  const auto id = model.special(content);
  EXPECT_TRUE(id) << content;
  return id.value_or(TokenId{});
}

// Ids of a text whose control strings count.
inline std::vector<TokenId> ids_of(const TextModel& model, std::string_view text) {
  auto ids = model.encode(text, Specials::kAllowed);
  EXPECT_TRUE(ids);
  return ids ? *ids : std::vector<TokenId>{};
}

// A small byte-level tokenizer.json: 256 bytes, then `specials`.
inline std::string byte_level_tokenizer(const std::vector<std::string>& specials) {
  Json vocab = Json::object();
  std::uint32_t other = 256;
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    const bool own = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    const std::uint32_t code = own ? byte : other++;
    std::string key;
    if (code < 128) {
      key += static_cast<char>(code);
    } else {
      key += static_cast<char>(0xC0 | (code >> 6));
      key += static_cast<char>(0x80 | (code & 0x3F));
    }
    vocab[key] = byte;
  }
  Json added = Json::array();
  for (std::size_t i = 0; i < specials.size(); ++i) {
    added.push_back({{"id", 256 + i}, {"content", specials[i]}, {"special", i < 2}});
  }
  const Json level = {{"type", "ByteLevel"},
                      {"add_prefix_space", false},
                      {"trim_offsets", true},
                      {"use_regex", true}};
  return Json{{"version", "1.0"},
              {"added_tokens", added},
              {"normalizer", nullptr},
              {"pre_tokenizer", level},
              {"post_processor", nullptr},
              {"decoder", level},
              {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", Json::array()}}}}
      .dump();
}

}  // namespace conclave::text
