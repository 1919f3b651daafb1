#include "apps/link_report.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace conclave::apps {
namespace {

using Json = nlohmann::ordered_json;

const char* const kLinks = R"([
  {"from": "head", "to": "node-a", "rtt_us": 84.4, "bandwidth_gb_s": 1.234},
  {"from": "node-a", "to": "head", "rtt_us": 2500.0, "bandwidth_gb_s": 0.0117},
  {"from": "head", "to": "node-b", "error": "does not answer in time"},
  {"from": "node-b", "to": "head", "rtt_us": 90.0, "error": "large messages do not come through"}])";

TEST(LinkReport, TheMatrixHasARowForEachCaller) {
  EXPECT_EQ(link_matrix(Json::parse(kLinks)),
            "                      head                node-a              node-b\n"
            "  head                                    84 us, 1.23 GB/s    unreachable\n"
            "  node-a              2.5 ms, 0.012 GB/s                      -\n"
            "  node-b              90 us, broken       -\n");
  EXPECT_EQ(link_matrix(Json::array()), "");
}

TEST(LinkReport, TheDoctorSaysWhatToDoAndHowItStands) {
  Json report = {{"machines", {{{"name", "head"}, {"state", "there"}}}},
                 {"links", Json::array()},
                 {"findings", Json::array()}};
  EXPECT_NE(doctor_text(report).find("\nnothing is wrong\n"), std::string::npos);
  report["findings"] = {
      {{"kind", "wrong"}, {"text", "a cannot call \x1b[31mb"}, {"advice", "open the port"}},
      {{"kind", "advice"}, {"text", "slow"}, {"advice", "another cable"}}};
  const std::string text = doctor_text(report);
  EXPECT_NE(text.find("        -> open the port\n"), std::string::npos) << text;
  EXPECT_TRUE(text.ends_with("\n1 wrong, 1 advice\n")) << text;
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
}

}  // namespace
}  // namespace conclave::apps
