#include <gtest/gtest.h>

#include "model/description.h"

namespace conclave::model {
namespace {

using nlohmann::json;

Result<RopeConfig> read(const char* text) {
  const json root = json::parse(text);
  return read_rope(Fields("config.json", root));
}

std::string error_of(const char* text) {
  const auto rope = read(text);
  return rope ? "read" : rope.error().message;
}

constexpr const char* kKimi =
    R"({"rope_theta":50000.0,"rope_scaling":{"type":"yarn","factor":64.0,"beta_fast":1.0,)"
    R"("beta_slow":1.0,"mscale":1.0,"mscale_all_dim":1.0,)"
    R"("original_max_position_embeddings":4096}})";

TEST(ReadRope, BothGenerationsSayTheSame) {
  const auto old_style = read(kKimi);
  ASSERT_TRUE(old_style) << old_style.error().message;
  EXPECT_TRUE(old_style->yarn);
  EXPECT_EQ(old_style->theta, 50000.0);
  EXPECT_EQ(old_style->beta_fast, 1.0);
  const auto new_style =
      read(R"({"rope_parameters":{"rope_type":"yarn","type":"yarn","rope_theta":50000,"factor":64,)"
           R"("beta_fast":1,"beta_slow":1,"mscale":1,"mscale_all_dim":1,)"
           R"("original_max_position_embeddings":4096}})");
  ASSERT_TRUE(new_style) << new_style.error().message;
  EXPECT_EQ(*old_style, *new_style);
}

TEST(ReadRope, DefaultsAreThoseOfTheReference) {
  const auto rope = read(
      R"({"rope_scaling":{"rope_type":"yarn","factor":4,"original_max_position_embeddings":64}})");
  ASSERT_TRUE(rope) << rope.error().message;
  EXPECT_EQ(rope->theta, 10000.0);
  EXPECT_EQ(rope->beta_fast, 32.0);
  EXPECT_EQ(rope->beta_slow, 1.0);
  EXPECT_EQ(rope->mscale, 1.0);
  EXPECT_EQ(rope->mscale_all_dim, 0.0);
  EXPECT_TRUE(rope->truncate);
}

TEST(ReadRope, PlainForms) {
  EXPECT_FALSE(read(R"({"rope_theta":10000})")->yarn);
  EXPECT_FALSE(read(R"({"rope_theta":10000,"rope_scaling":null})")->yarn);
  EXPECT_EQ(read(R"({"rope_parameters":{"rope_theta":7000.0,"rope_type":"default"}})")->theta,
            7000.0);
  EXPECT_EQ(read(R"({"rope_parameters":{"rope_theta":7000.0}})")->theta, 7000.0);
}

TEST(ReadRope, RefusesWhatItWouldNotCompute) {
  EXPECT_EQ(error_of(R"({"rope_scaling":{"type":"linear","factor":2.0}})"),
            "config.json: rope_scaling.type: \"linear\", expected \"yarn\" or \"default\"");
  EXPECT_NE(error_of(R"({"rope_scaling":{"rope_type":"llama3","factor":2.0}})"), "read");
  EXPECT_NE(error_of(R"({"rope_scaling":{"factor":2.0}})"), "read");
  EXPECT_EQ(error_of(R"({"rope_scaling":{"type":"yarn","factor":4,"long_factor":[1],)"
                     R"("original_max_position_embeddings":64}})"),
            "config.json: rope_scaling.long_factor: [1], expected no such field");
  EXPECT_NE(error_of(R"({"rope_scaling":{"type":"yarn","factor":4}})"), "read");
  EXPECT_NE(error_of(R"({"rope_scaling":{"type":"yarn","factor":0.5,)"
                     R"("original_max_position_embeddings":64}})"),
            "read");
  EXPECT_NE(error_of(R"({"rope_scaling":"yarn"})"), "read");
  EXPECT_NE(error_of(R"({"rope_parameters":{"full_attention":{"rope_type":"default"}}})"), "read");
}

TEST(ReadRope, ContradictionsAreErrors) {
  EXPECT_NE(error_of(R"({"rope_theta":1e4,"rope_parameters":{"rope_theta":5e4}})"), "read");
  EXPECT_NE(error_of(R"({"rope_scaling":{"type":"default","rope_type":"yarn"}})"), "read");
  EXPECT_NE(error_of(R"({"rope_scaling":{"type":"yarn","factor":4,)"
                     R"("original_max_position_embeddings":64},)"
                     R"("rope_parameters":{"rope_type":"default"}})"),
            "read");
  EXPECT_NE(error_of(R"({"rope_scaling":{"type":"default","rope_theta":1e4},)"
                     R"("rope_parameters":{"rope_type":"default","rope_theta":2e4}})"),
            "read");
}

TEST(ReadRope, AttentionFactorAndTruncateAreHonoured) {
  const auto rope =
      read(R"({"rope_scaling":{"type":"yarn","factor":4,"original_max_position_embeddings":64,)"
           R"("attention_factor":1.5,"truncate":false}})");
  ASSERT_TRUE(rope) << rope.error().message;
  EXPECT_EQ(rope->attention_factor, 1.5);
  EXPECT_FALSE(rope->truncate);
}

TEST(ReadRope, RopeParametersMayLeaveTheStretchToTheLengths) {
  const auto ratio = read(R"({"max_position_embeddings":256,"rope_parameters":{"rope_type":"yarn",)"
                          R"("factor":null,"original_max_position_embeddings":64}})");
  ASSERT_TRUE(ratio) << ratio.error().message;
  EXPECT_EQ(ratio->factor, 4.0);
  EXPECT_EQ(ratio->original_max_positions, 64.0);
  const auto original =
      read(R"({"max_position_embeddings":256,"rope_parameters":{"rope_type":"yarn","factor":8}})");
  ASSERT_TRUE(original) << original.error().message;
  EXPECT_EQ(original->factor, 8.0);
  EXPECT_EQ(original->original_max_positions, 256.0);
  EXPECT_NE(error_of(R"({"rope_parameters":{"rope_type":"yarn","factor":8}})"), "read");
  EXPECT_EQ(error_of(R"({"max_position_embeddings":256,"rope_parameters":{"rope_type":"yarn",)"
                     R"("original_max_position_embeddings":512}})"),
            "config.json: rope_parameters.original_max_position_embeddings: 512, expected at most "
            "max_position_embeddings where there is no factor");
  EXPECT_NE(error_of(R"({"max_position_embeddings":256,"rope_scaling":{"type":"yarn",)"
                     R"("factor":null,"original_max_position_embeddings":64}})"),
            "read");
  EXPECT_NE(error_of(R"({"max_position_embeddings":256,"rope_scaling":{"type":"yarn",)"
                     R"("factor":8}})"),
            "read");
}

TEST(ReadRope, TheWholeHeadMayBeSaidToRotate) {
  EXPECT_EQ(error_of(R"({"rope_parameters":{"rope_type":"default","partial_rotary_factor":1.0}})"),
            "read");
  EXPECT_EQ(error_of(R"({"rope_scaling":{"type":"yarn","factor":4,"partial_rotary_factor":1,)"
                     R"("original_max_position_embeddings":64}})"),
            "read");
  EXPECT_EQ(error_of(R"({"rope_parameters":{"rope_type":"default","partial_rotary_factor":0.5}})"),
            "config.json: rope_parameters.partial_rotary_factor: 0.5, expected 1.0");
}

}  // namespace
}  // namespace conclave::model
