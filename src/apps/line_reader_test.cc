#include "apps/line_reader.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <string_view>

namespace conclave::apps {
namespace {

// A pipe that holds `text` and is closed at the other end.
int input_of(std::string_view text) {
  std::array<int, 2> ends{};
  EXPECT_EQ(pipe(ends.data()), 0);
  EXPECT_EQ(write(ends[1], text.data(), text.size()), static_cast<ssize_t>(text.size()));
  close(ends[1]);
  return ends[0];
}

TEST(LineReader, GivesLinesAndAnUnfinishedLastOne) {
  const int fd = input_of("one\n\nthree");
  LineReader reader(fd);
  std::string line;
  EXPECT_EQ(*reader.next(line), LineReader::Outcome::kLine);
  EXPECT_EQ(line, "one");
  EXPECT_EQ(*reader.next(line), LineReader::Outcome::kLine);
  EXPECT_EQ(line, "");
  EXPECT_EQ(*reader.next(line), LineReader::Outcome::kLine);
  EXPECT_EQ(line, "three");
  EXPECT_EQ(*reader.next(line), LineReader::Outcome::kEnd);
  close(fd);
}

TEST(ReadAll, ReadsToTheEnd) {
  const int fd = input_of("a\nb\n");
  EXPECT_EQ(*read_all(fd), "a\nb\n");
  close(fd);
  EXPECT_FALSE(read_all(-1));
}

}  // namespace
}  // namespace conclave::apps
