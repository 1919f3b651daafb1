#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "hub/hub.h"

namespace conclave::hub {
namespace {

using nlohmann::json;

const std::string kSha256(64, 'a');
const std::string kGit(40, 'b');

json sibling(const std::string& name, std::uint64_t size, bool large) {
  json entry = {{"rfilename", name}, {"size", size}, {"blobId", kGit}};
  if (large) entry["lfs"] = {{"sha256", kSha256}, {"size", size}, {"pointerSize", 134}};
  return entry;
}

json listing() {
  return {{"id", "org/name"},
          {"sha", std::string(40, 'c')},
          {"siblings",
           {sibling(".gitattributes", 10, false), sibling("README.md", 10, false),
            sibling("config.json", 100, false), sibling("tokenizer.json", 9'000'000, true),
            sibling("model-00001-of-00002.safetensors", 5'000'000'000, true),
            sibling("model-00002-of-00002.safetensors", 5, true),
            sibling("model.safetensors.index.json", 55, false),
            sibling("original/consolidated.safetensors", 7, true),
            sibling("pytorch_model.bin", 7, true)}}};
}

std::string error_of(const json& text) {
  const auto parsed = parse_listing(text.dump());
  return parsed ? "read" : parsed.error().message;
}

TEST(Listing, KeepsWhatAModelNeeds) {
  const auto manifest = parse_listing(listing().dump());
  ASSERT_TRUE(manifest) << manifest.error().message;
  EXPECT_EQ(manifest->revision, std::string(40, 'c'));
  std::vector<std::string> names;
  for (const FileEntry& file : manifest->files) names.push_back(file.name);
  EXPECT_EQ(names, (std::vector<std::string>{
                       "config.json", "tokenizer.json", "model-00001-of-00002.safetensors",
                       "model-00002-of-00002.safetensors", "model.safetensors.index.json"}));
  EXPECT_EQ(manifest->files[0].digest, (Digest{Digest::Kind::kGitBlob, kGit}));
  EXPECT_EQ(manifest->files[2].digest, (Digest{Digest::Kind::kSha256, kSha256}));
  EXPECT_EQ(manifest->files[2].size, 5'000'000'000u);
}

TEST(Listing, LiesAreRefused) {
  json bad = listing();
  bad["siblings"][4]["lfs"]["sha256"] = "../../../etc/passwd";
  EXPECT_NE(error_of(bad).find("no hash"), std::string::npos);
  bad = listing();
  bad["siblings"][4]["lfs"]["size"] = std::uint64_t{1} << 60;
  EXPECT_NE(error_of(bad).find("no size"), std::string::npos);
  bad = listing();
  bad["siblings"][4]["lfs"]["size"] = -1;
  EXPECT_NE(error_of(bad).find("no size"), std::string::npos);
  bad = listing();
  bad["siblings"].push_back(bad["siblings"][2]);
  EXPECT_NE(error_of(bad).find("twice"), std::string::npos);
  bad = listing();
  bad["siblings"][4].erase("lfs");
  EXPECT_NE(error_of(bad).find("no SHA-256"), std::string::npos);
  bad = listing();
  bad["sha"] = "main";
  EXPECT_NE(error_of(bad).find("commit"), std::string::npos);
  bad = listing();
  bad["siblings"].erase(2);
  EXPECT_NE(error_of(bad).find("config.json"), std::string::npos);
  bad = listing();
  bad["siblings"] = {sibling("config.json", 1, false), sibling("model.gguf", 1, true)};
  EXPECT_NE(error_of(bad).find("safetensors"), std::string::npos);
  for (const char* text : {"", "[]", "{}", "{\"sha\": 3}", "{\"sha\":"}) {
    EXPECT_FALSE(parse_listing(text)) << text;
  }
}

TEST(Listing, SecondCopiesOfTheWeightsAreLeftOut) {
  json twice = listing();
  twice["siblings"].push_back(sibling("consolidated-00001.safetensors", 9, true));
  EXPECT_EQ(parse_listing(twice.dump())->files.size(), 5u);
  twice["siblings"] = {sibling("config.json", 1, false), sibling("weights.safetensors", 1, true)};
  EXPECT_EQ(parse_listing(twice.dump())->files.size(), 2u);
}

// A name that would leave the folder is no file that a model needs.
TEST(Listing, NamesStayInTheFolder) {
  for (const char* name :
       {"../x.safetensors", "/x.safetensors", "a/x.safetensors", "..safetensors/../x.safetensors",
        "x\\y.safetensors", "x\n.safetensors", ".x.safetensors"}) {
    json bad = listing();
    bad["siblings"].push_back(sibling(name, 1, true));
    const auto manifest = parse_listing(bad.dump());
    ASSERT_TRUE(manifest);
    EXPECT_EQ(manifest->files.size(), 5u) << name;
  }
}

TEST(Manifest, ReadsWhatItWrites) {
  const Manifest manifest = *parse_listing(listing().dump());
  const auto again = parse_manifest(to_json(manifest));
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(again->files, manifest.files);
  EXPECT_EQ(again->revision, manifest.revision);
  Manifest bad = manifest;
  bad.files[0].name = "../config.json";
  EXPECT_FALSE(parse_manifest(to_json(bad)));
}

TEST(ModelName, IsTwoPlainParts) {
  EXPECT_EQ(parse_model_name("Qwen/Qwen3-30B-A3B")->text(), "Qwen/Qwen3-30B-A3B");
  for (const char* bad : {"", "x", "/x", "x/", "a/b/c", "../x", "x/..", "x/.y", "x/y z", "x/y.lock",
                          "x/y.partial", "x/y?z"}) {
    EXPECT_FALSE(parse_model_name(bad)) << bad;
  }
}

}  // namespace
}  // namespace conclave::hub
