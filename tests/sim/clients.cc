#include "clients.h"

#include <algorithm>
#include <sstream>
#include <utility>

namespace conclave::cluster_sim {

using engine::FinishReason;

void Clients::fail(std::string what) {
  if (!violation_) violation_ = std::move(what);
}

const engine::Request& Clients::ask(engine::Request request) {
  Client client;
  const RequestId id = request.id;
  client.request = std::move(request);
  return clients_.emplace(id, std::move(client)).first->second.request;
}

void Clients::on_refused(RequestId id) {
  clients_.at(id).state = State::kFailed;
  ++reached_.refused;
}

void Clients::on_cancelled(RequestId id) {
  clients_.at(id).state = State::kCancelled;
  ++reached_.cancelled;
}

void Clients::on_head_lost() {
  for (auto& [id, client] : clients_) {
    if (client.state != State::kOpen) continue;
    client.state = State::kFailed;
    ++reached_.lost_with_head;
  }
}

void Clients::on_admit(const wire::pb::Admit& admit, std::uint64_t life,
                       const cluster::Layout& layout) {
  const RequestId id{admit.request()};
  Client& client = clients_.at(id);
  if (client.state != State::kOpen) fail(name(id) + " is admitted after its end");
  if (admit.attempt() > 1) ++reached_.readmitted;
  const bool same_log = std::ranges::equal(admit.log(), client.log, {}, {},
                                           [](const TokenId& token) { return token.value; });
  if (!same_log) fail(name(id) + " is admitted with another log than the client's");
  const bool another =
      by_layout_ && (client.expected_life != life || client.expected_layout != layout.id);
  if (client.expected && !another) return;
  client.expected_life = life;
  client.expected_layout = layout.id;
  engine::Request request = client.request;
  request.generated = client.log;
  client.expected = alone_(request, layout);
}

void Clients::on_token(const engine::TokenEvent& event) {
  const auto place = clients_.find(event.request);
  if (place == clients_.end()) return fail(name(event.request) + " was never asked for");
  Client& client = place->second;
  const std::string what = name(event.request) + ": token " + std::to_string(event.index);
  if (client.state != State::kOpen) return fail(what + " after the end");
  if (event.index != client.log.size()) {
    return fail(what + " where " + std::to_string(client.log.size()) + " is next");
  }
  if (!client.expected) return fail(what + " of a request that was not admitted");
  if (event.token) {
    const std::vector<TokenId>& expected = client.expected->tokens;
    if (event.index >= expected.size()) return fail(what + " beyond the end of the answer");
    if (*event.token != expected[event.index]) {
      return fail(what + " is " + std::to_string(event.token->value) + ", not " +
                  std::to_string(expected[event.index].value));
    }
    client.log.push_back(*event.token);
    client.workers_ended = 0;
  }
  if (event.finish == FinishReason::kNone) return;
  if (client.log.size() != client.expected->tokens.size() ||
      event.finish != client.expected->finish) {
    return fail(what + " is the last, finish " + std::to_string(static_cast<int>(event.finish)) +
                "; the answer has " + std::to_string(client.expected->tokens.size()));
  }
  client.finish = event.finish;
  client.state = State::kAnswered;
  ++reached_.answered;
}

// Which failures are as they should be: survivors that truly cannot hold the model; a request on
// which worker after worker ended; a head whose worker never comes up.
void Clients::on_failure(RequestId id, const Error& error, bool could_hold) {
  constexpr std::size_t kBarrenAttempts = 3;
  constexpr std::size_t kFailuresOfHead = 5;
  Client& client = clients_.at(id);
  if (client.state != State::kOpen) return fail(name(id) + " fails after its end");
  client.state = State::kFailed;
  const auto says = [&](const char* text) { return error.message.find(text) != std::string::npos; };
  if (says("cannot hold the model")) {
    ++reached_.failed_short;
    if (could_hold) fail(name(id) + " fails though the model could be held: " + error.message);
  } else if (says("workers ended while they worked on this request")) {
    ++reached_.failed_barren;
    if (client.workers_ended < kBarrenAttempts) {
      fail(name(id) + " fails after " + std::to_string(client.workers_ended) +
           " ends of workers: " + error.message);
    }
  } else if (!says("times in a row before it was ready") || workers_ended_[0] < kFailuresOfHead) {
    fail(name(id) + " fails: " + error.message);
  }
}

void Clients::on_worker_ended(std::size_t node) {
  ++workers_ended_[node];
  for (auto& [id, client] : clients_) ++client.workers_ended;
}

bool Clients::open(RequestId id) const {
  const auto place = clients_.find(id);
  return place != clients_.end() && place->second.state == State::kOpen;
}

bool Clients::all_ended() const {
  return std::ranges::none_of(clients_,
                              [](const auto& c) { return c.second.state == State::kOpen; });
}

std::string Clients::describe() const {
  std::ostringstream text;
  for (const auto& [id, client] : clients_) {
    text << "; " << name(id) << (client.state == State::kOpen ? " open " : " ended ")
         << client.log.size() << '/' << client.request.max_tokens;
  }
  return text.str();
}

void Clients::for_each_answer(
    const std::function<void(const engine::Request&, const Answer&)>& visit) const {
  for (const auto& [id, client] : clients_) {
    if (client.state == State::kAnswered) {
      visit(client.request, {.tokens = client.log, .finish = client.finish, .margins = {}});
    }
  }
}

}  // namespace conclave::cluster_sim
