#include "cluster/doctor.h"

#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>

namespace conclave::cluster {
namespace {

// Two machines of which nothing is to be said.
class DoctorTest : public testing::Test {
 protected:
  DoctorTest() {
    for (std::uint64_t i = 0; i < 2; ++i) {
      CheckedMachine machine{.node = NodeId{i},
                             .name = i == 0 ? "head" : "node-a",
                             .address = "10.0.0.1:7000",
                             .build = "1.0",
                             .host_id = "boot-" + std::to_string(i),
                             .lends_bytes = 20'000'000'000,
                             .held_bytes = 12'000'000'000};
      machine.checks = MachineChecks{.host_name = "host-" + std::to_string(i),
                                     .machine_id = "id-" + std::to_string(i),
                                     .state_mode = 0700,
                                     .key_mode = 0600,
                                     .descriptors_max = 65536,
                                     .memory_bytes = 32'000'000'000,
                                     .available_bytes = 10'000'000'000,
                                     .discovery = true};
      machines.push_back(std::move(machine));
    }
    set(0, 1, good());
    set(1, 0, good());
  }
  static LinkMeasurement good() {
    return {.connect_seconds = 0.01,
            .rtt_seconds = 1e-4,
            .rtt_slow_seconds = 2e-4,
            .bandwidth = 1.1e9,
            .path_mtu = 1500,
            .interface = "eth0",
            .interface_mtu = 1500,
            .interface_mbit = 10000};
  }
  void set(std::uint64_t from, std::uint64_t to, const LinkMeasurement& link) {
    links.set(Time{}, NodeId{from}, NodeId{to}, link);
  }
  MachineChecks& checks(std::size_t i) { return *machines[i].checks; }
  std::vector<Finding> found() const { return diagnose(machines, links); }
  // There is one finding of this kind, and its text has these words.
  void expect_one(bool wrong, const std::string& words) const {
    const std::vector<Finding> all = found();
    ASSERT_EQ(all.size(), 1u) << words;
    EXPECT_EQ(all[0].wrong, wrong) << all[0].text;
    EXPECT_NE(all[0].text.find(words), std::string::npos) << all[0].text;
    EXPECT_FALSE(all[0].advice.empty());
  }

  std::vector<CheckedMachine> machines;
  LinkTable links;
};

TEST_F(DoctorTest, AGoodPoolHasNoFindings) { EXPECT_TRUE(found().empty()) << found()[0].text; }

TEST_F(DoctorTest, OneWayThatIsClosed) {
  set(0, 1, {.error = "does not answer in time"});
  expect_one(true, "head cannot call node-a at 10.0.0.1:7000, though the other way works");
  EXPECT_NE(found()[0].advice.find("firewall of node-a"), std::string::npos);
  set(1, 0, {.error = "connection refused"});
  EXPECT_EQ(found().size(), 2u);
}

TEST_F(DoctorTest, LargeMessagesThatAreLost) {
  LinkMeasurement link = good();
  link.error = "large messages do not come through";
  set(1, 0, link);
  expect_one(true, "from node-a to head: large messages");
  EXPECT_NE(found()[0].advice.find("MTU"), std::string::npos);
}

TEST_F(DoctorTest, MtusThatDiffer) {
  LinkMeasurement link = good();
  link.interface_mtu = link.path_mtu = 9000;
  set(0, 1, link);
  expect_one(true, "eth0 of head has MTU 9000, eth0 of node-a has MTU 1500");
  link.path_mtu = 1400;
  link.interface_mtu = 1500;
  set(0, 1, link);
  expect_one(true, "packets of 1400 bytes");
}

TEST_F(DoctorTest, SlowLinks) {
  LinkMeasurement link = good();
  link.bandwidth = 110e6;
  set(0, 1, link);
  expect_one(false, "0.110 GB/s, though their cards say 1.250 GB/s");
  link.interface_mbit = 1000;  // the slower card decides
  set(0, 1, link);
  EXPECT_TRUE(found().empty());
  link.wireless = true;
  set(0, 1, link);
  expect_one(false, "head is wireless");
  link.wireless = false;
  link.rtt_seconds = 5e-3;
  set(0, 1, link);
  expect_one(false, "5.0 ms");
}

TEST_F(DoctorTest, ClocksThatAreOff) {
  LinkMeasurement link = good();
  link.clock_ahead_seconds = -7.0;
  set(0, 1, link);
  expect_one(true, "the clock of node-a is 7.0 s behind that of head");
  link.clock_ahead_seconds = 1.5;
  set(0, 1, link);
  EXPECT_TRUE(found().empty());
  checks(1).clock_synchronised = false;
  expect_one(false, "nothing sets the clock of node-a");
}

TEST_F(DoctorTest, MachinesThatAreNotAsTheyShouldBe) {
  const std::vector<CheckedMachine> before = machines;
  const std::vector<std::tuple<bool, std::string, std::function<void()>>> cases = {
      {true, "node-a is gone", [this] { machines[1].absent = "gone"; }},
      {true, "does not answer", [this] { machines[1].checks.reset(); }},
      {true, "permissions 0755", [this] { checks(1).state_mode = 0755; }},
      {true, "identity.pem has permissions 0640", [this] { checks(1).key_mode = 0640; }},
      {true, "runs conclave 0.9, head runs 1.0", [this] { machines[1].build = "0.9"; }},
      {true, "same machine id", [this] { checks(1).machine_id = "id-0"; }},
      {true, "same host name, host-0", [this] { checks(1).host_name = "host-0"; }},
      {true, "open 256 files", [this] { checks(1).descriptors_max = 256; }},
      {true, "shared memory", [this] { checks(1).shared_memory = false; }},
      {false, "lends 8.0 GB more than it uses, and has 4.0 GB free",
       [this] { checks(1).available_bytes = 4'000'000'000; }},
      {false, "no DNS-SD library on node-a", [this] { checks(1).discovery = false; }},
  };
  for (const auto& [wrong, words, change] : cases) {
    machines = before;
    change();
    expect_one(wrong, words);
  }
}

TEST_F(DoctorTest, AgentsOfOneMachineMayBeAlike) {
  machines[1].host_id = machines[0].host_id;
  machines[1].checks = machines[0].checks;
  LinkMeasurement inside = good();
  inside.interface = "lo";
  inside.interface_mtu = 65536;
  inside.path_mtu = 65535;
  inside.interface_mbit = 0;
  set(0, 1, inside);
  set(1, 0, inside);
  EXPECT_TRUE(found().empty()) << found()[0].text;
}

TEST_F(DoctorTest, WhatIsWrongComesFirstAndIsCounted) {
  checks(0).discovery = false;
  checks(1).key_mode = 0644;
  const std::vector<Finding> all = found();
  ASSERT_EQ(all.size(), 2u);
  EXPECT_TRUE(all[0].wrong);
  EXPECT_FALSE(all[1].wrong);
  const auto json = nlohmann::json::parse(doctor_json(machines, links, all, Time{}));
  EXPECT_EQ(json["wrong"], true);
  EXPECT_EQ(json["machines"].size(), 2u);
  EXPECT_EQ(json["links"].size(), 2u);
  EXPECT_EQ(json["findings"][0]["kind"], "wrong");
  EXPECT_EQ(json["findings"][1]["kind"], "advice");
  EXPECT_EQ(nlohmann::json::parse(doctor_json(machines, links, {}, Time{}))["wrong"], false);
}

TEST_F(DoctorTest, OneMachineAlone) {
  machines.resize(1);
  machines[0].lends_bytes = 0;
  EXPECT_TRUE(diagnose(machines, {}).empty());
  checks(0).available_bytes = 100'000'000;
  EXPECT_EQ(diagnose(machines, {}).size(), 1u);
  EXPECT_TRUE(diagnose({}, {}).empty());
}

}  // namespace
}  // namespace conclave::cluster
