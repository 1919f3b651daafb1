#include "cluster/link_message.h"

#include <cmath>
#include <string>

#include "cluster/bulk_messages.h"

namespace conclave::cluster {
namespace {

constexpr double kSecondsMax = 1e6;
constexpr double kClockMax = 1e12;  // seconds that a clock may be wrong
constexpr double kBandwidthMax = 1e14;

double within(double value, double low, double high) {
  return std::isfinite(value) && value >= low && value <= high ? value : 0.0;
}

// A message takes nothing that is not UTF-8, and what a system calls itself may be.
std::string ascii(std::string text) {
  std::ranges::replace_if(
      text, [](unsigned char c) { return c >= 0x80; }, '?');
  return text;
}

std::string text_of(const std::string& text) { return printable(text.substr(0, kFoundTextMax)); }

}  // namespace

wire::pb::LinkReport to_message(const LinkMeasurement& found) {
  wire::pb::LinkReport message;
  message.set_error(ascii(found.error));
  message.set_connect_seconds(found.connect_seconds);
  message.set_rtt_seconds(found.rtt_seconds);
  message.set_rtt_slow_seconds(found.rtt_slow_seconds);
  message.set_bandwidth(found.bandwidth);
  message.set_clock_ahead_seconds(found.clock_ahead_seconds);
  message.set_path_mtu(found.path_mtu);
  message.set_interface(ascii(found.interface));
  message.set_interface_mtu(found.interface_mtu);
  message.set_interface_mbit(found.interface_mbit);
  message.set_wireless(found.wireless);
  return message;
}

LinkMeasurement from_message(const wire::pb::LinkReport& message) {
  LinkMeasurement found;
  found.error = text_of(message.error());
  found.connect_seconds = within(message.connect_seconds(), 0.0, kSecondsMax);
  found.rtt_seconds = within(message.rtt_seconds(), 0.0, kSecondsMax);
  found.rtt_slow_seconds = within(message.rtt_slow_seconds(), 0.0, kSecondsMax);
  found.bandwidth = within(message.bandwidth(), 0.0, kBandwidthMax);
  found.clock_ahead_seconds = within(message.clock_ahead_seconds(), -kClockMax, kClockMax);
  found.path_mtu = message.path_mtu();
  found.interface = text_of(message.interface());
  found.interface_mtu = message.interface_mtu();
  found.interface_mbit = message.interface_mbit();
  found.wireless = message.wireless();
  return found;
}

wire::pb::MachineChecks to_message(const MachineChecks& checks) {
  wire::pb::MachineChecks message;
  message.set_host_name(ascii(checks.host_name));
  message.set_machine_id(ascii(checks.machine_id));
  message.set_clock_synchronised(checks.clock_synchronised);
  message.set_state_mode(checks.state_mode);
  message.set_key_mode(checks.key_mode);
  message.set_descriptors_max(checks.descriptors_max);
  message.set_memory_bytes(checks.memory_bytes);
  message.set_available_bytes(checks.available_bytes);
  message.set_shared_memory(checks.shared_memory);
  message.set_discovery(checks.discovery);
  return message;
}

MachineChecks from_message(const wire::pb::MachineChecks& message) {
  MachineChecks checks;
  checks.host_name = text_of(message.host_name());
  checks.machine_id = text_of(message.machine_id());
  checks.clock_synchronised = message.clock_synchronised();
  checks.state_mode = message.state_mode();
  checks.key_mode = message.key_mode();
  checks.descriptors_max = message.descriptors_max();
  checks.memory_bytes = message.memory_bytes();
  checks.available_bytes = message.available_bytes();
  checks.shared_memory = message.shared_memory();
  checks.discovery = message.discovery();
  return checks;
}

}  // namespace conclave::cluster
