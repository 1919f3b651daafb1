#include "base/mapped_file.h"

#include <gtest/gtest.h>

#include <fstream>

namespace conclave {
namespace {

class MappedFileTest : public testing::Test {
 protected:
  std::filesystem::path write(const std::string& text) {
    const std::filesystem::path path = testing::TempDir() + "mapped_file_test.bin";
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }
};

TEST_F(MappedFileTest, HoldsTheBytesAlsoAfterADrop) {
  std::string text(20'000, 'x');
  text[12'345] = 'y';
  const auto file = MappedFile::open(write(text));
  ASSERT_TRUE(file);
  ASSERT_EQ(file->bytes().size(), text.size());
  for (const std::size_t offset : {0u, 1u, 4095u, 4096u, 19'999u}) {
    file->drop(offset, text.size() - offset);
    EXPECT_EQ(file->bytes()[12'345], std::byte{'y'});
  }
}

TEST_F(MappedFileTest, EmptyFileIsFine) {
  const auto file = MappedFile::open(write(""));
  ASSERT_TRUE(file);
  EXPECT_TRUE(file->bytes().empty());
}

TEST_F(MappedFileTest, ErrorsNameThePath) {
  const auto missing = MappedFile::open("no/such/file");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ErrorCode::kNotFound);
  EXPECT_NE(missing.error().message.find("no/such/file"), std::string::npos);
  EXPECT_FALSE(MappedFile::open(testing::TempDir()));
}

TEST_F(MappedFileTest, TextFilesHaveALimit) {
  const std::filesystem::path path = write("hello");
  EXPECT_EQ(*read_text_file(path, 5), "hello");
  const auto large = read_text_file(path, 4);
  ASSERT_FALSE(large);
  EXPECT_NE(large.error().message.find("limit of 4 bytes"), std::string::npos);
}

}  // namespace
}  // namespace conclave
