// What a machine finds out about itself that a pool may stumble over. Reads and changes nothing.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace conclave::cluster {

struct MachineChecks {
  std::string host_name{};
  std::string machine_id{};  // a hash of it; equal on cloned images; empty: unknown
  bool clock_synchronised = true;
  std::uint32_t state_mode = 0;  // permissions of the state folder; 0: it is not there
  std::uint32_t key_mode = 0;    // of identity.pem
  std::uint64_t descriptors_max = 0;
  std::uint64_t memory_bytes = 0;
  std::uint64_t available_bytes = 0;  // without what other programs use
  bool shared_memory = true;          // can be made
  bool discovery = false;             // has a DNS-SD library
  bool operator==(const MachineChecks&) const = default;
};

MachineChecks check_machine(const std::filesystem::path& state_dir);

// Empty: a program may listen on this TCP port. Else why not.
std::string port_problem(std::uint16_t port);

}  // namespace conclave::cluster
