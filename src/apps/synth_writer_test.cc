#include "apps/synth_writer.h"

#include <gtest/gtest.h>

#include <fstream>

#include "apps/synth_tokenizer.h"
#include "model/model.h"
#include "text/text.h"

namespace conclave::apps {
namespace {

namespace fs = std::filesystem;

class SynthWriter : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = fs::path(testing::TempDir()) /
           ("synth_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(dir_);
  }
  void TearDown() override { fs::remove_all(dir_); }

  static SynthModel small(std::string family, std::string quant) {
    SynthRequest request;
    request.like = std::move(family);
    request.quant = std::move(quant);
    request.layers = 2;
    request.experts = 8;
    request.vocab = 1024;
    return *synth_model(request);
  }

  fs::path dir_;
};

TEST(PlanShards, SplitsBySizeAndSortsByWidth) {
  std::vector<SynthTensor> table(3);
  for (std::size_t i = 0; i < 3; ++i) table[i].name = std::string(1, static_cast<char>('a' + i));
  table[0].shape = {4};
  table[1].shape = {4};
  table[1].dtype = formats::DType::kF32;
  table[2].shape = {100};
  const std::vector<SynthShard> shards = plan_shards(table, 24);
  ASSERT_EQ(shards.size(), 2u);
  EXPECT_EQ(shards[0].file_name, "model-00001-of-00002.safetensors");
  EXPECT_EQ(shards[0].tensors[0].name, "b");
  EXPECT_EQ(shards[0].data_bytes, 24u);
  EXPECT_EQ(shards[1].tensors[0].name, "c");
}

TEST_F(SynthWriter, EveryQuantOpensAsACheckpoint) {
  for (const char* quant : {"official", "int8", "bf16"}) {
    const SynthModel model = small("ember", quant);
    ASSERT_TRUE(write_checkpoint(model, dir_, 2, {})) << quant;
    const auto source = model::ModelSource::open(dir_);
    ASSERT_TRUE(source) << quant << ": " << source.error().message;
    EXPECT_EQ(source->config().n_experts, 8u);
    EXPECT_TRUE(source->ignored_tensors().size() < 48u);
    fs::remove_all(dir_);
  }
}

TEST_F(SynthWriter, ThreadsDoNotChangeTheBytes) {
  const SynthModel model = small("ember", "official");
  ASSERT_TRUE(write_checkpoint(model, dir_ / "one", 1, {}));
  ASSERT_TRUE(write_checkpoint(model, dir_ / "two", 3, {}));
  const char* const name = "model-00001-of-00001.safetensors";
  std::ifstream one(dir_ / "one" / name, std::ios::binary);
  std::ifstream two(dir_ / "two" / name, std::ios::binary);
  const std::string first((std::istreambuf_iterator<char>(one)), {});
  const std::string second((std::istreambuf_iterator<char>(two)), {});
  EXPECT_GT(first.size(), 1'000'000u);
  EXPECT_TRUE(first == second);
}

TEST_F(SynthWriter, AFullFolderIsRefusedAndKept) {
  fs::create_directories(dir_);
  std::ofstream(dir_ / "mine.txt") << "keep";
  EXPECT_FALSE(write_checkpoint(small("ember", "bf16"), dir_, 1, {}));
  EXPECT_TRUE(fs::exists(dir_ / "mine.txt"));
}

TEST_F(SynthWriter, AnInterruptRemovesWhatWasWritten) {
  SynthProgress progress;
  progress.stop_wanted = [] { return true; };
  EXPECT_FALSE(write_checkpoint(small("ember", "bf16"), dir_, 2, progress));
  EXPECT_FALSE(fs::exists(dir_));
}

TEST_F(SynthWriter, TheTokenizerEncodesAnyText) {
  const SynthModel model = small("ember", "bf16");
  ASSERT_TRUE(write_checkpoint(model, dir_, 2, {}));
  const auto text = text::TextModel::load(dir_, model.config.vocab_size);
  ASSERT_TRUE(text) << text.error().message;
  const std::string words = "The quick brown fox \xe4\xbd\xa0\xe5\xa5\xbd 123\n\n\xf0\x9f\x98\x80";
  const auto ids = text->encode(words, text::Specials::kPlain);
  ASSERT_TRUE(ids);
  EXPECT_EQ(text->decode(*ids, false), words);
  EXPECT_LT(ids->size(), words.size());
  text::ChatPrompt prompt;
  prompt.messages.push_back(text::Json{{"role", "user"}, {"content", "hi"}});
  const auto chat = text->render_chat_text(prompt);
  ASSERT_TRUE(chat) << chat.error().message;
  EXPECT_EQ(*chat,
            "<|im_user|>user<|im_middle|>hi<|im_end|><|im_assistant|>assistant<|im_middle|>");
}

TEST(SynthTiktoken, HasOneRankPerToken) {
  const std::string text = synth_tiktoken(1024);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1024 - 256);
  EXPECT_EQ(text.substr(0, 14), "AA== 0\nAQ== 1\n");
}

}  // namespace
}  // namespace conclave::apps
