#include "apps/terminal.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>

#include "apps/interrupts.h"

namespace conclave::apps {
namespace {

TEST(DetectTerminal, NoColorAndDumbTerminalsMeanPlainText) {
  const auto with = [](const std::string& no_color, const std::string& term) {
    return detect_terminal([=](const std::string& name) -> std::optional<std::string> {
      if (name == "NO_COLOR") return no_color;
      if (name == "TERM") return term;
      return std::nullopt;
    });
  };
  EXPECT_TRUE(with("", "xterm").color);
  EXPECT_FALSE(with("1", "xterm").color);
  EXPECT_FALSE(with("", "dumb").color);
}

TEST(WithoutControls, KeepsTextAndRemovesEscapes) {
  EXPECT_EQ(without_controls("a\tb\n\xc3\xa4 \xe4\xbd\xa0"), "a\tb\n\xc3\xa4 \xe4\xbd\xa0");
  EXPECT_EQ(without_controls("\x1b[31mred\x07\x7f\r"), "[31mred");
  EXPECT_EQ(without_controls("x\xc2\x9b"
                             "2Jy\xc2\xa0"),
            "x2Jy\xc2\xa0");
}

TEST(HumanBytes, UsesPowersOfTen) {
  EXPECT_EQ(human_bytes(999), "999 B");
  EXPECT_EQ(human_bytes(45'547'392), "45.5 MB");
  EXPECT_EQ(human_bytes(594'205'904'896), "594.21 GB");
}

TEST(Dim, OnlyWithColour) {
  EXPECT_EQ(dim("x", false), "x");
  EXPECT_EQ(dim("x", true), "\x1b[2mx\x1b[22m");
  EXPECT_EQ(dim("", true), "");
}

TEST(Output, KnowsThatTheReaderIsGone) {
  ignore_broken_pipes();
  std::array<int, 2> ends{};
  ASSERT_EQ(pipe(ends.data()), 0);
  Output output(ends[1]);
  EXPECT_TRUE(output.write("hello"));
  EXPECT_FALSE(output.closed());
  close(ends[0]);
  EXPECT_FALSE(output.write("hello"));
  EXPECT_TRUE(output.closed());
  close(ends[1]);
}

TEST(Output, AFullDiskIsAnErrorButNoClosedReader) {
  const int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
  if (full < 0) GTEST_SKIP() << "this system has no /dev/full";
  Output output(full);
  const Result<void> written = output.write("hello");
  ASSERT_FALSE(written);
  EXPECT_FALSE(output.closed());
  EXPECT_NE(written.error().message.find("No space left"), std::string::npos);
  close(full);
}

}  // namespace
}  // namespace conclave::apps
