#include "cluster/doctor.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <tuple>

namespace conclave::cluster {
namespace {

constexpr double kClockOffMax = 2.0;             // seconds
constexpr std::uint64_t kDescriptorsMin = 1024;  // connections, and a file for each shard
constexpr double kMemoryFree = 0.95;             // of what is lent and not yet in use
constexpr std::uint64_t kMemoryMin = 1u << 30;   // where nobody knows what is lent
constexpr double kCardShare = 0.4;               // of what the card says: less is slow
constexpr double kTlsBandwidth = 0.5e9;          // one thread's; faster cards are not reached
constexpr std::uint32_t kPacketMax = 65535;      // of IPv4; loopback says more
constexpr double kSlowRtt = 2e-3;                // seconds; two exchanges a layer cost a token so
constexpr double kSlowBandwidth = 20e6;          // bytes per second

// One after the other: what is checked, of whom.
class Diagnosis {
 public:
  Diagnosis(std::span<const CheckedMachine> machines, const LinkTable& links)
      : machines_(machines), links_(links) {}

  std::vector<Finding> run() {
    for (const CheckedMachine& machine : machines_) look_at(machine);
    compare_builds();
    for (std::size_t i = 0; i < machines_.size(); ++i) {
      for (std::size_t j = i + 1; j < machines_.size(); ++j) {
        const CheckedMachine& a = machines_[i];
        const CheckedMachine& b = machines_[j];
        compare_identities(a, b);
        if (!a.absent.empty() || !b.absent.empty()) continue;
        look_at_reach(a, b);
        look_at_mtu(a, b);
        look_at_speed(a, b);
      }
    }
    look_at_clocks();
    look_at_discovery();
    std::ranges::stable_sort(
        findings_, [](const Finding& x, const Finding& y) { return x.wrong && !y.wrong; });
    return std::move(findings_);
  }

 private:
  void wrong(std::string text, std::string advice) {
    findings_.push_back({true, std::move(text), std::move(advice)});
  }
  void advise(std::string text, std::string advice) {
    findings_.push_back({false, std::move(text), std::move(advice)});
  }
  // nullptr: not measured, or nothing came of it.
  const LinkMeasurement* good(const CheckedMachine& from, const CheckedMachine& to) const {
    const MeasuredLink* link = links_.find(from.node, to.node);
    return link != nullptr && link->found.error.empty() ? &link->found : nullptr;
  }
  std::string error(const CheckedMachine& from, const CheckedMachine& to) const {
    const MeasuredLink* link = links_.find(from.node, to.node);
    return link == nullptr ? std::string() : link->found.error;
  }

  void look_at(const CheckedMachine& machine);
  void look_at_files(const std::string& name, const MachineChecks& checks);
  void look_at_memory(const CheckedMachine& machine, const MachineChecks& checks);
  void compare_builds();
  void compare_identities(const CheckedMachine& a, const CheckedMachine& b);
  void look_at_reach(const CheckedMachine& a, const CheckedMachine& b);
  void look_at_one_way(const CheckedMachine& from, const CheckedMachine& to);
  void look_at_mtu(const CheckedMachine& a, const CheckedMachine& b);
  void look_at_speed(const CheckedMachine& a, const CheckedMachine& b);
  void look_at_clocks();
  void look_at_discovery();

  std::span<const CheckedMachine> machines_;
  const LinkTable& links_;
  std::vector<Finding> findings_;
};

// --- one machine ------------------------------------------------------------------------------

void Diagnosis::look_at(const CheckedMachine& machine) {
  const std::string& name = machine.name;
  if (!machine.absent.empty()) {
    return wrong(
        fmt::format("{} is {}", name, machine.absent),
        "see that it runs, is connected and `conclave node` is started there; if it is not "
        "to come back: conclave pool remove " +
            name);
  }
  if (!machine.checks) {
    return wrong(fmt::format("{} does not answer what it found out about itself", name),
                 "install the head's build of conclave there");
  }
  look_at_files(name, *machine.checks);
  look_at_memory(machine, *machine.checks);
  if (machine.checks->descriptors_max > 0 && machine.checks->descriptors_max < kDescriptorsMin) {
    wrong(fmt::format("{} lets a program open {} files and connections; a pool wants {}", name,
                      machine.checks->descriptors_max, kDescriptorsMin),
          "raise the limit (ulimit -n, LimitNOFILE= of the service) before starting conclave");
  }
  if (!machine.checks->shared_memory) {
    wrong(fmt::format("{} cannot make shared memory (memfd_create)", name),
          "allow that system call in its container or sandbox: weights are kept there");
  }
}

void Diagnosis::look_at_files(const std::string& name, const MachineChecks& checks) {
  constexpr std::uint32_t kOthers = 077;
  if ((checks.state_mode & kOthers) != 0) {
    wrong(fmt::format("{}: the state folder has permissions {:04o}: others may look into it", name,
                      checks.state_mode),
          "chmod 700 the folder that --state names (~/.local/state/conclave)");
  }
  if ((checks.key_mode & kOthers) != 0) {
    wrong(fmt::format("{}: identity.pem has permissions {:04o}: others may read the machine's key",
                      name, checks.key_mode),
          "chmod 600 identity.pem in the state folder; if others use that machine, remove the "
          "machine from the pool and pair it anew");
  }
}

void Diagnosis::look_at_memory(const CheckedMachine& machine, const MachineChecks& checks) {
  if (checks.available_bytes == 0) return;
  const auto giga = [](std::uint64_t bytes) { return static_cast<double>(bytes) / 1e9; };
  if (machine.lends_bytes == 0) {
    if (checks.available_bytes < kMemoryMin) {
      advise(fmt::format("{}: {:.1f} of {:.1f} GB of memory are free", machine.name,
                         giga(checks.available_bytes), giga(checks.memory_bytes)),
             "close what else runs there");
    }
    return;
  }
  const std::uint64_t used = std::min(machine.held_bytes, machine.lends_bytes);
  const std::uint64_t due = machine.lends_bytes - used;
  if (static_cast<double>(checks.available_bytes) >= kMemoryFree * static_cast<double>(due)) return;
  advise(fmt::format("{} lends {:.1f} GB more than it uses, and has {:.1f} GB free", machine.name,
                     giga(due), giga(checks.available_bytes)),
         "close what else runs there, or start it with a smaller --memory");
}

// --- all machines -----------------------------------------------------------------------------

void Diagnosis::compare_builds() {
  if (machines_.empty()) return;
  const CheckedMachine& head = machines_.front();
  for (const CheckedMachine& machine : machines_.subspan(1)) {
    if (!machine.absent.empty() || machine.build == head.build) continue;
    wrong(fmt::format("{} runs conclave {}, {} runs {}", machine.name, machine.build, head.name,
                      head.build),
          "install the same version on all machines");
  }
}

void Diagnosis::compare_identities(const CheckedMachine& a, const CheckedMachine& b) {
  if (!a.checks || !b.checks) return;
  if (!a.host_id.empty() && a.host_id == b.host_id) return;  // one machine: all is equal
  if (!a.checks->machine_id.empty() && a.checks->machine_id == b.checks->machine_id) {
    wrong(fmt::format("{} and {} have the same machine id: one is a copy of the other", a.name,
                      b.name),
          "on one of them: rm /etc/machine-id && systemd-machine-id-setup, then restart it. Copies "
          "also get equal addresses by DHCP");
  }
  if (!a.checks->host_name.empty() && a.checks->host_name == b.checks->host_name) {
    wrong(fmt::format("{} and {} have the same host name, {}", a.name, b.name, a.checks->host_name),
          "give one another name (hostnamectl set-hostname): the network tells them apart by it");
  }
}

void Diagnosis::look_at_clocks() {
  if (machines_.empty()) return;
  const CheckedMachine& head = machines_.front();
  for (const CheckedMachine& machine : machines_.subspan(1)) {
    double ahead = 0.0;
    if (const LinkMeasurement* link = good(head, machine)) {
      ahead = link->clock_ahead_seconds;
    } else if (const LinkMeasurement* back = good(machine, head)) {
      ahead = -back->clock_ahead_seconds;
    }
    if (std::abs(ahead) <= kClockOffMax) continue;
    wrong(fmt::format("the clock of {} is {:.1f} s {} that of {}", machine.name, std::abs(ahead),
                      ahead > 0 ? "ahead of" : "behind", head.name),
          "let both be set by the network (timedatectl set-ntp true)");
  }
  std::string loose;
  for (const CheckedMachine& machine : machines_) {
    if (!machine.checks || machine.checks->clock_synchronised) continue;
    loose += (loose.empty() ? "" : ", ") + machine.name;
  }
  if (!loose.empty()) {
    advise("nothing sets the clock of " + loose, "timedatectl set-ntp true, or run chrony there");
  }
}

void Diagnosis::look_at_discovery() {
  std::string without;
  for (const CheckedMachine& machine : machines_) {
    if (!machine.checks || machine.checks->discovery) continue;
    without += (without.empty() ? "" : ", ") + machine.name;
  }
  if (without.empty()) return;
  advise("no DNS-SD library on " + without + ": a head whose address changed is not found",
         "install Avahi's libdns_sd (libavahi-compat-libdnssd1), or start with "
         "`conclave node --peer HOST:PORT`");
}

// --- pairs ------------------------------------------------------------------------------------

void Diagnosis::look_at_reach(const CheckedMachine& a, const CheckedMachine& b) {
  look_at_one_way(a, b);
  look_at_one_way(b, a);
}

void Diagnosis::look_at_one_way(const CheckedMachine& from, const CheckedMachine& to) {
  const std::string why = error(from, to);
  if (why.empty()) return;
  const MeasuredLink* link = links_.find(from.node, to.node);
  if (link->found.rtt_seconds > 0.0) {
    return wrong(fmt::format("from {} to {}: {}", from.name, to.name, why),
                 "set the same MTU on both interfaces and on the switch, and let ICMP through; "
                 "else the cable may be bad");
  }
  const bool back = good(to, from) != nullptr;
  wrong(fmt::format("{} cannot call {} at {}{}: {}", from.name, to.name, to.address,
                    back ? ", though the other way works" : "", why),
        fmt::format("allow that TCP port in the firewall of {} for {} (nodes: --bulk-port and "
                    "--data-port fix theirs)",
                    to.name, from.name));
}

void Diagnosis::look_at_mtu(const CheckedMachine& a, const CheckedMachine& b) {
  const LinkMeasurement* there = good(a, b);
  const LinkMeasurement* back = good(b, a);
  for (const auto& [link, from, to] : {std::tuple{there, &a, &b}, std::tuple{back, &b, &a}}) {
    if (link == nullptr || link->path_mtu == 0 ||
        link->path_mtu >= std::min(link->interface_mtu, kPacketMax))
      continue;
    wrong(fmt::format("from {} to {} packets of {} bytes pass at most, though {} sends {}",
                      from->name, to->name, link->path_mtu, link->interface, link->interface_mtu),
          "something between has a smaller MTU: set it alike everywhere");
  }
  if (there == nullptr || back == nullptr || there->interface_mtu == 0 ||
      back->interface_mtu == 0 || there->interface_mtu == back->interface_mtu) {
    return;
  }
  const auto side = [](const CheckedMachine& machine, const LinkMeasurement& link) {
    return fmt::format("{} of {} has MTU {}", link.interface, machine.name, link.interface_mtu);
  };
  wrong(side(a, *there) + ", " + side(b, *back),
        fmt::format("set both to {}, and the switch to no less",
                    std::max(there->interface_mtu, back->interface_mtu)));
}

void Diagnosis::look_at_speed(const CheckedMachine& a, const CheckedMachine& b) {
  const LinkMeasurement* there = good(a, b);
  const LinkMeasurement* back = good(b, a);
  const LinkMeasurement* slow = there;
  if (slow == nullptr || (back != nullptr && back->bandwidth < slow->bandwidth)) slow = back;
  if (slow == nullptr) return;
  std::string wireless;
  if (there != nullptr && there->wireless) wireless = a.name;
  if (back != nullptr && back->wireless) wireless += (wireless.empty() ? "" : " and ") + b.name;
  double card = 0.0;  // bits per second
  for (const LinkMeasurement* link : {there, back}) {
    if (link == nullptr || link->interface_mbit == 0) continue;
    const double bits = 1e6 * link->interface_mbit;
    card = card > 0.0 ? std::min(card, bits) : bits;
  }
  const std::string pair = a.name + " and " + b.name;
  const auto rate = [](double bandwidth) { return fmt::format("{:.3f} GB/s", bandwidth / 1e9); };
  if (!wireless.empty()) {
    advise(fmt::format("{} is wireless: {} between {}, {:.1f} ms up and back", wireless,
                       rate(slow->bandwidth), pair, slow->rtt_seconds * 1e3),
           "connect it by cable: each token waits for the slowest link many times");
  } else if (card > 0.0 && slow->bandwidth > 0.0 &&
             slow->bandwidth < std::min(kCardShare * card / 8.0, kTlsBandwidth)) {
    advise(fmt::format("between {} go {}, though their cards say {}", pair, rate(slow->bandwidth),
                       rate(card / 8.0)),
           "run it again while nothing else uses the link; then try another cable and switch port");
  } else if (slow->bandwidth > 0.0 && slow->bandwidth < kSlowBandwidth) {
    advise(fmt::format("between {} go {} only", pair, rate(slow->bandwidth)),
           "a faster link, or --strategy slice-ra, which sends half as often");
  }
  if (wireless.empty() && slow->rtt_seconds > kSlowRtt) {
    advise(fmt::format("between {} a message takes {:.1f} ms up and back", pair,
                       slow->rtt_seconds * 1e3),
           "each token waits for it twice a layer: connect them by one switch, or choose "
           "--strategy slice-ra");
  }
}

}  // namespace

std::vector<Finding> diagnose(std::span<const CheckedMachine> machines, const LinkTable& links) {
  return Diagnosis(machines, links).run();
}

}  // namespace conclave::cluster
