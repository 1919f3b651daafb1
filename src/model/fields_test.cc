#include "model/fields.h"

#include <gtest/gtest.h>

namespace conclave::model {
namespace {

using nlohmann::json;

TEST(Fields, TheFirstObjectWinsEvenWithNull) {
  const json first = json::parse(R"({"a": 1, "b": null})");
  const json second = json::parse(R"({"a": 2, "b": 3, "c": 4})");
  const Fields fields("x.json", first, &second);
  EXPECT_EQ(*fields.count("a", {0, 9}), 1u);
  EXPECT_EQ(fields.find("b"), nullptr);
  EXPECT_EQ(*fields.count("c", {0, 9}), 4u);
  EXPECT_EQ(*fields.count_or("b", 7, {0, 9}), 7u);
}

TEST(Fields, MessagesNamePathFoundAndExpected) {
  const json root = {{"outer", {{"inner", {{"n", "x\ny"}}}}}};
  const Fields fields("x.json", root);
  const auto outer = fields.object("outer");
  const auto inner = (*outer)->object("inner");
  EXPECT_EQ((*inner)->count("n", {1, 2}).error().message,
            "x.json: outer.inner.n: \"x\\ny\", expected a whole number from 1 to 2");
  EXPECT_EQ((*inner)->flag("m").error().message,
            "x.json: outer.inner.m: missing, expected true or false");
  EXPECT_EQ((*outer)->expect_only({"other"}).error().message,
            "x.json: outer.inner: {\"n\":\"x\\ny\"}, expected no such field");
}

TEST(Fields, LongValuesAreCut) {
  const json root = {{"a", std::string(1000, 'x')}};
  EXPECT_LT(Fields("x.json", root).count("a", {1, 2}).error().message.size(), 200u);
}

TEST(Fields, NumbersMayBeWholeButCountsMayNotBeFractions) {
  const json root = {{"whole", 32}, {"fraction", 1.0}, {"text", "1"}};
  const Fields fields("x.json", root);
  EXPECT_EQ(*fields.number("whole", {0, 100}), 32.0);
  EXPECT_FALSE(fields.number("whole", {0, 31}));
  EXPECT_FALSE(fields.count("fraction", {0, 9}));
  EXPECT_FALSE(fields.number("text", {0, 9}));
}

TEST(ParseJsonObject, NestingInStringsDoesNotCount) {
  EXPECT_TRUE(parse_json_object(R"({"a":"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\"[["})", "x"));
  EXPECT_FALSE(parse_json_object(R"({"a":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[)", "x"));
}

}  // namespace
}  // namespace conclave::model
