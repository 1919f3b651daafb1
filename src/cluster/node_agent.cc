// conclave node: finds its head, does what that says, comes back when either was away.
#include <poll.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <map>
#include <random>
#include <utility>

#include "cluster/checkpoint_folders.h"
#include "cluster/cluster.h"
#include "cluster/control_hub.h"
#include "cluster/discovery.h"
#include "cluster/facts.h"
#include "cluster/head_search.h"
#include "cluster/identity_memory.h"
#include "cluster/link_message.h"
#include "cluster/link_probe.h"
#include "cluster/pairing.h"
#include "cluster/weight_server.h"

namespace conclave::cluster {
namespace {

constexpr Duration kTick = std::chrono::milliseconds(50);
constexpr Duration kRetryFirst = std::chrono::milliseconds(200);
constexpr Duration kRetryMax = std::chrono::seconds(2);

std::uint64_t random_life() {
  std::random_device device;
  return (std::uint64_t{device()} << 32 | device()) | 1u;
}

class NodeAgent {
 public:
  NodeAgent(const NodeAgentOptions& options, const Clock& clock, StateDir state,
            transport::Identity identity)
      : options_(options),
        clock_(clock),
        state_(std::move(state)),
        identity_(std::move(identity)) {}

  Result<void> start();
  Result<int> run();

 private:
  Result<void> start_hub();
  Result<void> start_host();
  Result<void> serve_weights();
  Result<void> choose_pool();
  void call();
  void on_open(const OpenedConnection& connection);
  void on_message(ConnectionId id, std::string_view payload);
  void on_close(ConnectionId id, const std::string& reason);
  void say_call_failed(const std::string& reason);
  void on_pair_answer(std::string_view payload);
  void on_to_node(std::string_view payload);
  void on_taken_in();
  void on_assignment(wire::pb::Assignment& assignment);
  void on_members(wire::pb::SignedMemberList& members);
  void on_measure(const wire::pb::Measure& request);
  void answer_measured();
  void search_head();
  void on_incoming(const OpenedConnection& connection);
  Trust trust_of(const transport::Fingerprint& peer) const;
  void say_hello();
  std::vector<HostPort> addresses() const;
  void event(const std::string& text) const {
    spdlog::info("{}", text);
    if (options_.on_event) options_.on_event(text);
  }

  NodeAgentOptions options_;
  const Clock& clock_;
  StateDir state_;
  transport::Identity identity_;
  std::uint64_t life_ = random_life();
  std::optional<PairCode> code_;  // still to be shown
  std::optional<JoinedPool> pool_;
  std::vector<model::ModelSource> checkpoints_;  // of this machine
  std::unique_ptr<WeightServer> weights_;
  std::uint16_t bulk_port_ = 0;
  std::unique_ptr<ControlHub> hub_;
  std::unique_ptr<WorkerHost> host_;
  std::unique_ptr<LinkProber> prober_;
  // What it measures: who asked, under which id of his.
  std::map<std::uint64_t, std::pair<ConnectionId, std::uint64_t>> measuring_;
  std::uint64_t next_measuring_ = 1;
  std::optional<HeadSearch> search_;  // since no known address answered
  Time search_at_{};                  // again, while there is no discovery
  std::unique_ptr<Discovery> discovery_;
  std::optional<ConnectionId> calling_;
  std::optional<ConnectionId> head_;
  transport::Fingerprint paired_with_{};
  HostPort head_address_;
  std::size_t next_address_ = 0;
  Time call_at_{};
  Duration retry_ = kRetryFirst;
  bool taken_in_ = false;  // by the head of this connection
  // As told to the user, since it was last taken in.
  std::string refusal_;
  std::map<std::string, std::string> call_problems_;  // by address
  std::optional<Error> end_;
};

Result<void> NodeAgent::choose_pool() {
  if (!options_.join_code.empty()) {
    code_ = TRY(parse_pair_code(options_.join_code));
    return {};
  }
  pool_ = TRY(load_pool(state_));
  if (pool_) return {};
  return not_found(
      "this machine belongs to no pool yet: run `conclave pair` on the head and "
      "start the line that it prints here");
}

Result<void> NodeAgent::start_hub() {
  HubHandlers handlers;
  handlers.trust = [this](const transport::Fingerprint& peer) { return trust_of(peer); };
  handlers.on_open = [this](const OpenedConnection& connection) { on_open(connection); };
  handlers.on_message = [this](ConnectionId id, std::string_view payload) {
    on_message(id, payload);
  };
  handlers.on_close = [this](ConnectionId id, const std::string& reason) { on_close(id, reason); };
  handlers.on_refused = [](const std::string&, const std::string&) {};
  hub_ = TRY(ControlHub::create(identity_, {.build = CONCLAVE_VERSION}, std::move(handlers)));
  return {};
}

Result<void> NodeAgent::start_host() {
  WorkerHostOptions host;
  host.program = options_.program;
  host.worker = options_.worker;
  host.worker.host_id = options_.host_id;
  host.worker.weights_dir = state_.path() / "weights";
  if (host.worker.listen_host.empty()) host.worker.listen_host = kEverywhere;
  host.node.supervisor = options_.supervisor;
  WorkerHostHandlers handlers;
  handlers.on_report = [this](const wire::pb::Report& report) {
    if (!head_) return;
    wire::pb::FromNode message;
    *message.mutable_report() = report;
    hub_->send(*head_, message);
  };
  handlers.on_message = [this](const wire::pb::FromWorker& from) {
    if (!head_ || !from.has_trace()) return;  // only rank 0 has requests
    wire::pb::FromNode message;
    *message.mutable_trace() = from.trace();
    hub_->send(*head_, message);
  };
  host_ = TRY(WorkerHost::create(std::move(host), clock_, std::move(handlers)));
  host_->keep(kIdentityMemory, TRY(identity_memory(identity_)));
  return {};
}

Result<void> NodeAgent::start() {
  TRY(choose_pool());
  TRY(start_hub());
  TRY(serve_weights());
  return start_host();
}

// Without files too: links are measured by the same connections.
Result<void> NodeAgent::serve_weights() {
  checkpoints_ = open_checkpoints(options_.worker.model_dirs);
  std::vector<const model::ModelSource*> models;
  for (const model::ModelSource& checkpoint : checkpoints_) models.push_back(&checkpoint);
  weights_ = std::make_unique<WeightServer>(models, clock_, WeightServerLimits{});
  prober_ = std::make_unique<LinkProber>(identity_, clock_);
  bulk_port_ = TRY(hub_->listen(options_.bulk_host, options_.bulk_port));
  return {};
}

// Who calls here wants weights, and is a member.
Trust NodeAgent::trust_of(const transport::Fingerprint& peer) const {
  return pool_ && pool_->members().find(peer) != nullptr ? Trust::kMember : Trust::kRefused;
}

void NodeAgent::on_incoming(const OpenedConnection& connection) {
  const Member* member = pool_ ? pool_->members().find(connection.peer) : nullptr;
  if (connection.purpose != Purpose::kBulk || member == nullptr) {
    return hub_->close(connection.id, "this machine gives weights and nothing else");
  }
  weights_->add(hub_->take(connection.id), member->name);
}

// --- the head ---------------------------------------------------------------------------------

std::vector<HostPort> NodeAgent::addresses() const {
  std::vector<HostPort> addresses;
  if (!options_.peer.empty()) {
    if (Result<HostPort> peer = parse_host_port(options_.peer, 0)) addresses.push_back(*peer);
  }
  const std::vector<HostPort> known = code_ ? code_->addresses : pool_->addresses();
  addresses.insert(addresses.end(), known.begin(), known.end());
  if (search_) {
    const std::vector<HostPort> found = search_->addresses();
    addresses.insert(addresses.end(), found.begin(), found.end());
  }
  return addresses;
}

void NodeAgent::call() {
  if (head_ || calling_ || clock_.now() < call_at_) return;
  const std::vector<HostPort> all = addresses();
  // Each has been called once.
  if (next_address_ >= all.size()) search_head();
  if (all.empty()) {
    if (discovery_) return;
    end_ = not_found("no address of the head is known: give --peer host:port");
    return;
  }
  head_address_ = all[next_address_++ % all.size()];
  const ExpectedPeer expected = code_ ? ExpectedPeer(code_->head) : ExpectedPeer(pool_->head());
  calling_ = hub_->connect(head_address_, expected, code_ ? Purpose::kPair : Purpose::kControl,
                           clock_.now());
}

void NodeAgent::search_head() {
  if (discovery_ && !discovery_->working()) discovery_.reset();
  if (discovery_ || clock_.now() < search_at_) return;
  const bool first = !search_;
  if (first) search_.emplace(code_ ? code_->head : pin_of(pool_->head()));
  search_at_ = clock_.now() + kDiscoveryAgain;
  discovery_ = make_discovery();
  if (!discovery_) return;
  const Result<void> browsing =
      discovery_->browse([this](const FoundService& service) { search_->on_found(service); });
  if (browsing) return;
  if (first) spdlog::info("the head is not looked for reason=\"{}\"", browsing.error().message);
  discovery_.reset();
}

void NodeAgent::on_open(const OpenedConnection& connection) {
  if (!connection.outgoing) return on_incoming(connection);
  calling_.reset();
  head_ = connection.id;
  head_address_.host = connection.address.host;
  next_address_ = 0;
  taken_in_ = false;
  if (connection.purpose == Purpose::kPair) {
    paired_with_ = connection.peer;
    return hub_->send(connection.id, pair_request(*code_, identity_, options_.name, {}));
  }
  say_hello();
  host_->on_head();
}

void NodeAgent::say_hello() {
  wire::pb::FromNode message;
  wire::pb::Hello* hello = message.mutable_hello();
  hello->set_build(CONCLAVE_VERSION);
  hello->set_wire_version(kWireVersion);
  hello->set_numerics(kNumericsId);
  hello->set_life(life_);
  hello->set_host_id(options_.host_id);
  *hello->mutable_machine() = to_message(options_.machine);
  for (const model::ModelSource& checkpoint : checkpoints_) {
    hello->add_models(checkpoint.fingerprint());
  }
  hello->set_bulk_port(bulk_port_);
  hub_->send(*head_, message);
}

void NodeAgent::on_message(ConnectionId id, std::string_view payload) {
  if (head_ != id) return;
  if (code_) return on_pair_answer(payload);
  on_to_node(payload);
}

void NodeAgent::on_pair_answer(std::string_view payload) {
  const auto joined = [&]() -> Result<JoinedPool> {
    const wire::pb::PairAnswer answer = TRY(wire::parse<wire::pb::PairAnswer>(payload));
    return read_pair_answer(answer, *code_, paired_with_, identity_);
  }();
  if (!joined) {
    end_ = joined.error();
    return;
  }
  pool_ = joined.value();
  pool_->answered_at(head_address_);
  if (const Result<void> saved = save(state_, *pool_); !saved) {
    end_ = saved.error();
    return;
  }
  code_.reset();
  call_at_ = clock_.now();
  const Member* self = pool_->members().find(identity_.fingerprint());
  event("paired with " + pool_->members().head().name + " as " + (self ? self->name : "?"));
  hub_->close(*head_, "paired");
}

void NodeAgent::on_to_node(std::string_view payload) {
  Result<wire::pb::ToNode> message = wire::parse<wire::pb::ToNode>(payload);
  if (!message) return hub_->close(*head_, message.error().message);
  if (message->has_refused()) {
    if (std::exchange(refusal_, message->refused()) != message->refused()) {
      event("the head refuses this machine: " + message->refused());
    }
    return;
  }
  if (message->has_trace()) {
    wire::pb::ToWorker ask;
    *ask.mutable_trace() = message->trace();
    return host_->tell(ask);
  }
  if (message->has_measure()) return on_measure(message->measure());
  if (message->has_members()) return on_members(*message->mutable_members());
  if (message->has_assignment()) on_assignment(*message->mutable_assignment());
}

// The head's first word to a machine that it does not refuse.
void NodeAgent::on_taken_in() {
  retry_ = kRetryFirst;
  refusal_.clear();
  call_problems_.clear();
  event("connected to the head at " + to_text(head_address_));
  pool_->answered_at(head_address_);
  static_cast<void>(save(state_, *pool_));
}

void NodeAgent::on_assignment(wire::pb::Assignment& assignment) {
  if (!std::exchange(taken_in_, true)) on_taken_in();
  // Rank 0 is where the head is: its own view of its address may not be ours.
  if (assignment.epoch().ranks_size() > 0) {
    assignment.mutable_epoch()->mutable_ranks(0)->set_host(head_address_.host);
  }
  for (wire::pb::WeightHolder& holder : *assignment.mutable_holders()) {
    if (holder.endpoint().host().empty()) {
      holder.mutable_endpoint()->set_host(head_address_.host);
    }
  }
  host_->on_assignment(assignment);
}

void NodeAgent::on_measure(const wire::pb::Measure& request) {
  wire::pb::FromNode answer;
  answer.mutable_measured()->set_id(request.id());
  if (!request.has_peer()) {
    *answer.mutable_measured()->mutable_checks() = to_message(check_machine(state_.path()));
    return hub_->send(*head_, answer);
  }
  Result<transport::Endpoint> peer = from_message(request.peer());
  if (!peer) return hub_->close(*head_, peer.error().message);
  if (peer->host.empty()) peer->host = head_address_.host;
  measuring_[next_measuring_] = {*head_, request.id()};
  prober_->start(next_measuring_++, {.node = {}, .endpoint = std::move(*peer)});
}

void NodeAgent::answer_measured() {
  for (const LinkProber::Found& found : prober_->take()) {
    const auto [asker, id] = measuring_.extract(found.id).mapped();
    wire::pb::FromNode answer;
    answer.mutable_measured()->set_id(id);
    *answer.mutable_measured()->mutable_link() = to_message(found.link);
    hub_->send(asker, answer);  // nothing, when that connection has gone
  }
}

void NodeAgent::on_members(wire::pb::SignedMemberList& members) {
  const Membership before = pool_->members();
  const Result<bool> updated = pool_->update(std::move(members));
  if (!updated) {
    spdlog::warn("member list not taken reason=\"{}\"", updated.error().message);
    return;
  }
  if (!*updated) return;
  if (const Result<void> saved = save(state_, *pool_); !saved) {
    spdlog::warn("member list not saved reason=\"{}\"", saved.error().message);
  }
  for (const Member& member : before.members()) {
    if (pool_->members().find(member.fingerprint) == nullptr) weights_->drop(member.name);
  }
}

void NodeAgent::on_close(ConnectionId id, const std::string& reason) {
  if (calling_ != id && head_ != id) return;  // somebody called here
  if (calling_ == id) calling_.reset();
  if (head_ == id) {
    head_.reset();
    if (!code_ && reason != "paired") {
      if (taken_in_) event("the head is gone: " + reason);
      if (!taken_in_ && refusal_.empty()) say_call_failed(reason);
      host_->on_head_gone();
    }
  } else {
    say_call_failed(reason);
  }
  if (reason == "paired") return;
  call_at_ = clock_.now() + retry_;
  retry_ = std::min(retry_ * 2, kRetryMax);
}

// Once for each reason: it is called again and again.
void NodeAgent::say_call_failed(const std::string& reason) {
  constexpr std::size_t kAddressesKept = 64;
  if (call_problems_.size() >= kAddressesKept) call_problems_.clear();
  const std::string address = to_text(head_address_);
  if (std::exchange(call_problems_[address], reason) == reason) return;
  event("cannot reach the head at " + address + ": " + reason);
}

// --- its life ---------------------------------------------------------------------------------

Result<int> NodeAgent::run() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  const FileDescriptor ended(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!ended.open()) return unavailable("cannot watch signals");
  while (!end_) {
    call();
    const int found = discovery_ ? discovery_->fd() : -1;  // poll() passes over -1
    std::array<pollfd, 5> fds = {{{hub_->fd(), POLLIN, 0},
                                  {host_->fd(), POLLIN, 0},
                                  {ended.get(), POLLIN, 0},
                                  {prober_->fd(), POLLIN, 0},
                                  {found, POLLIN, 0}}};
    const int tick =
        static_cast<int>(std::chrono::duration_cast<std::chrono::milliseconds>(kTick).count());
    if (::poll(fds.data(), fds.size(), tick) < 0 && errno != EINTR) break;
    if (fds[2].revents != 0) {
      if (head_) {
        wire::pb::FromNode message;
        message.set_leaving("the machine's agent was stopped");
        hub_->send(*head_, message);
        hub_->poll(clock_.now());
      }
      return 0;
    }
    hub_->poll(clock_.now());
    host_->poll();
    answer_measured();
    if (discovery_) discovery_->poll(clock_.now());
  }
  if (end_) return *end_;
  return unavailable("cannot wait for messages");
}

}  // namespace

Result<int> run_node(const NodeAgentOptions& options, const Clock& clock) {
  const std::filesystem::path path = TRY(find_state_dir(options.state));
  StateDir state = TRY(StateDir::open(path));
  transport::Identity identity =
      TRY(transport::Identity::load_or_create(state.path(), options.name));
  NodeAgent agent(options, clock, std::move(state), std::move(identity));
  TRY(agent.start());
  return agent.run();
}

}  // namespace conclave::cluster
