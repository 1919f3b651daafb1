#include "cluster/file_access.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <array>
#include <string>

namespace conclave::cluster {
namespace {

TEST(FileAccess, WritesAndReadsWholeRanges) {
  const auto path = std::filesystem::temp_directory_path() / "conclave_file_access";
  const auto file = open_file(path, O_RDWR | O_CREAT | O_TRUNC);
  ASSERT_TRUE(file) << file.error().message;
  const std::string text = "after a hole";
  ASSERT_TRUE(write_at(file->get(), std::as_bytes(std::span(text)), 5000, path));
  std::string back(text.size(), '\0');
  ASSERT_TRUE(read_at(file->get(), std::as_writable_bytes(std::span(back)), 5000, path));
  EXPECT_EQ(back, text);
  const auto beyond = read_at(file->get(), std::as_writable_bytes(std::span(back)), 5001, path);
  ASSERT_FALSE(beyond);
  EXPECT_EQ(beyond.error().code, ErrorCode::kCorrupt);
  EXPECT_NE(beyond.error().message.find("conclave_file_access"), std::string::npos);
  std::filesystem::remove(path);
}

TEST(FileAccess, ErrorsSayWhatToDo) {
  const auto missing = open_file("/nonexistent/file", O_RDONLY);
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ErrorCode::kNotFound);
  EXPECT_NE(missing.error().message.find("/nonexistent/file"), std::string::npos);
  const auto full = open_file("/dev/full", O_WRONLY);
  ASSERT_TRUE(full);
  const std::array<std::byte, 4096> bytes{};
  const auto written = write_at(full->get(), bytes, 0, "/dev/full");
  ASSERT_FALSE(written);
  EXPECT_EQ(written.error().code, ErrorCode::kExhausted);
}

}  // namespace
}  // namespace conclave::cluster
