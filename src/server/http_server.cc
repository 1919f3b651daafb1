#include "server/http_server.h"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <set>

#include "base/check.h"
#include "server/event_loop_impl.h"
#include "server/http_rules.h"

namespace conclave::server {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using boost::system::error_code;
using tcp = asio::ip::tcp;

// A refused client may still be sending; what it sends is read and dropped for so long, because
// closing on unread bytes resets the connection and the client never sees why.
constexpr auto kLingerTimeout = std::chrono::seconds(2);
constexpr auto kAcceptPause = std::chrono::milliseconds(100);

HttpRequest to_request(const http::request<http::string_body>& message) {
  HttpRequest request;
  request.method = std::string(message.method_string());
  request.target = std::string(message.target());
  for (const auto& field : message) {
    std::string name(field.name_string());
    std::transform(name.begin(), name.end(), name.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    request.headers.emplace_back(std::move(name), std::string(field.value()));
  }
  return request;
}

std::string chunk_of(std::string_view bytes) {
  std::array<char, 16> digits{};
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), bytes.size(), 16);
  std::string chunk(digits.data(), end.ptr);
  chunk += "\r\n";
  chunk += bytes;
  chunk += "\r\n";
  return chunk;
}

// Whether the client sent something wrong, not merely went away.
bool is_bad_http(error_code error) {
  return error.category() == error_code(http::error::bad_method).category() &&
         error != http::error::end_of_stream && error != http::error::partial_message;
}

}  // namespace

class Connection;

// Shared by the server object and its connections: whichever handler runs last frees it.
class HttpServer::State : public std::enable_shared_from_this<HttpServer::State> {
 public:
  State(EventLoop& event_loop, HttpHandler& the_handler, const HttpLimits& the_limits)
      : handler(the_handler),
        limits(the_limits),
        context(event_loop.impl().context),
        acceptor(context),
        accept_pause(context) {}

  Result<void> open(const std::string& host, std::uint16_t port);
  void accept();
  void accept_later();
  void stop();
  void close_all();

  HttpHandler& handler;
  HttpLimits limits;
  asio::io_context& context;
  tcp::acceptor acceptor;
  asio::steady_timer accept_pause;    // out of descriptors: try again in a while
  std::set<Connection*> connections;  // each removes itself
  std::size_t bodies_bytes = 0;
  bool stopping = false;
};

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(tcp::socket socket, std::shared_ptr<HttpServer::State> server)
      : stream_(std::move(socket)), server_(std::move(server)) {
    server_->connections.insert(this);
  }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  ~Connection() {
    release_body();
    server_->connections.erase(this);
  }

  void read_request();
  void close();
  void close_if_idle();

  // For the answer in progress.
  void send_head(int status, HttpHeaders headers, std::optional<std::size_t> content_length);
  void send_bytes(std::string_view bytes);  // of the body, chunked where the answer is
  void finish_answer();
  bool open() const { return !closed_; }
  void set_closed_callback(std::function<void()> callback) { on_closed_ = std::move(callback); }

 private:
  using Parser = http::request_parser<http::string_body>;

  void on_header(error_code error);
  void read_body();
  void on_body(error_code error, std::size_t seen_before);
  void dispatch();
  void watch_client();
  void refuse(int status, std::string_view message);
  void refuse(HttpResponse response);
  void write(const std::string& bytes);
  void flush();
  void end_connection();
  void drop_input();
  bool reserve_body(std::size_t bytes);  // false: refused
  void release_body();
  void client_gone();

  beast::tcp_stream stream_;
  std::shared_ptr<HttpServer::State> server_;
  beast::flat_buffer buffer_;
  std::optional<Parser> parser_;
  HttpHeaders common_headers_;
  std::function<void()> on_closed_;
  std::string waiting_;  // output not yet given to the system
  std::string writing_;  // output of the write in progress
  std::size_t body_bytes_ = 0;
  Time body_deadline_{};
  bool answering_ = false;  // between dispatch and the answer's end
  bool watching_ = false;   // a wait for the client's end is pending
  bool keep_alive_ = false;
  bool http_1_0_ = false;
  bool head_only_ = false;
  bool chunked_ = false;
  bool lingering_ = false;  // the client may still be sending
  bool ending_ = false;
  bool closed_ = false;
};

namespace {

class Response final : public ResponseWriter {
 public:
  explicit Response(std::shared_ptr<Connection> connection) : connection_(std::move(connection)) {}
  Response(const Response&) = delete;
  Response& operator=(const Response&) = delete;
  ~Response() override {
    if (ended_) return;
    connection_->set_closed_callback(nullptr);
    connection_->close();
  }

  void send(HttpResponse response) override {
    CHECK(!begun_);
    begun_ = true;
    connection_->send_head(response.status, std::move(response.headers), response.body.size());
    connection_->send_bytes(response.body);
    end();
  }
  void begin_stream(int status, HttpHeaders headers) override {
    CHECK(!begun_);
    begun_ = true;
    connection_->send_head(status, std::move(headers), std::nullopt);
  }
  void write(std::string_view bytes) override {
    CHECK(begun_ && !ended_);
    connection_->send_bytes(bytes);
  }
  void end() override {
    CHECK(begun_ && !ended_);
    ended_ = true;
    connection_->finish_answer();
  }
  void on_closed(std::function<void()> callback) override {
    if (!ended_) connection_->set_closed_callback(std::move(callback));
  }

 private:
  std::shared_ptr<Connection> connection_;
  bool begun_ = false;
  bool ended_ = false;
};

}  // namespace

std::string_view HttpRequest::header(std::string_view lower_case_name) const {
  for (const auto& [name, value] : headers) {
    if (name == lower_case_name) return value;
  }
  return {};
}

// --- reading ----------------------------------------------------------------------------------

void Connection::read_request() {
  if (server_->stopping) return close();
  common_headers_.clear();
  parser_.emplace();
  parser_->header_limit(static_cast<std::uint32_t>(server_->limits.header_bytes_max));
  parser_->body_limit(server_->limits.body_bytes_max);
  stream_.expires_after(server_->limits.header_timeout);
  http::async_read_header(
      stream_, buffer_, *parser_,
      [self = shared_from_this()](error_code error, std::size_t) { self->on_header(error); });
}

void Connection::on_header(error_code error) {
  if (closed_) return;
  if (error == http::error::body_limit) return refuse(413, "the body is larger than 64 MiB");
  if (error == http::error::header_limit) return refuse(431, "the headers are too large");
  if (is_bad_http(error)) return refuse(400, "this is not HTTP: " + error.message());
  if (error) return close();

  const HttpRequest head = to_request(parser_->get());
  http_1_0_ = parser_->get().version() < 11;
  keep_alive_ = parser_->keep_alive();
  head_only_ = head.method == "HEAD";
  common_headers_ = server_->handler.common_headers(head);
  if (auto refusal = server_->handler.gate(head)) return refuse(std::move(*refusal));

  // The parser makes room for the whole length at once, so it is counted at once.
  if (!reserve_body(parser_->content_length().value_or(0))) return;
  if (!head.header("expect").empty() && !parser_->is_done()) {
    write("HTTP/1.1 100 Continue\r\n\r\n");
  }
  body_deadline_ = Time::clock::now() + server_->limits.whole_body_timeout;
  read_body();
}

void Connection::read_body() {
  if (parser_->is_done()) return dispatch();
  // Else a body that comes byte by byte would hold its room for ever.
  const Time now = Time::clock::now();
  if (now >= body_deadline_) return close();
  stream_.expires_at(std::min(now + server_->limits.body_timeout, body_deadline_));
  const std::size_t before = parser_->get().body().size();
  http::async_read_some(stream_, buffer_, *parser_,
                        [self = shared_from_this(), before](error_code error, std::size_t) {
                          self->on_body(error, before);
                        });
}

void Connection::on_body(error_code error, std::size_t seen_before) {
  if (closed_) return;
  const std::size_t grown = parser_->get().body().size() - seen_before;
  if (error == http::error::body_limit) return refuse(413, "the body is larger than 64 MiB");
  if (is_bad_http(error)) return refuse(400, "the body cannot be read: " + error.message());
  if (error) return close();
  if (!parser_->content_length() && !reserve_body(grown)) return;
  read_body();
}

bool Connection::reserve_body(std::size_t bytes) {
  body_bytes_ += bytes;
  server_->bodies_bytes += bytes;
  if (server_->bodies_bytes <= server_->limits.bodies_bytes_max) return true;
  refuse(503, "too many large requests at once; try again");
  return false;
}

void Connection::dispatch() {
  HttpRequest request = to_request(parser_->get());
  request.body = std::move(parser_->get().body());
  parser_.reset();
  answering_ = true;
  stream_.expires_never();
  watch_client();
  server_->handler.handle(std::move(request), std::make_shared<Response>(shared_from_this()));
  release_body();
}

// While an answer is made nothing reads the socket, so the client's end is looked for: one byte is
// peeked at. Bytes of a next request stop the watch; its end is then seen by a write.
void Connection::watch_client() {
  if (watching_) return;
  watching_ = true;
  stream_.socket().async_wait(
      tcp::socket::wait_read, [self = shared_from_this()](error_code error) {
        self->watching_ = false;
        if (error || self->closed_ || !self->answering_) return;
        char byte = 0;
        const ssize_t n =
            ::recv(self->stream_.socket().native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) return self->client_gone();
        if (n < 0) self->watch_client();
      });
}

void Connection::client_gone() {
  close();
  const std::function<void()> callback = std::exchange(on_closed_, nullptr);
  if (callback) callback();
}

// --- answering --------------------------------------------------------------------------------

void Connection::send_head(int status, HttpHeaders headers,
                           std::optional<std::size_t> content_length) {
  if (closed_) return;
  chunked_ = !content_length && !http_1_0_;
  if (!content_length && http_1_0_) keep_alive_ = false;  // the end of the answer is the end
  if (server_->stopping) keep_alive_ = false;
  if (content_length) headers.emplace_back("Content-Length", std::to_string(*content_length));
  if (chunked_) headers.emplace_back("Transfer-Encoding", "chunked");
  headers.emplace_back("Connection", keep_alive_ ? "keep-alive" : "close");
  headers.insert(headers.end(), common_headers_.begin(), common_headers_.end());
  write(response_head(status, headers));
}

void Connection::send_bytes(std::string_view bytes) {
  if (closed_ || head_only_ || bytes.empty()) return;
  write(chunked_ ? chunk_of(bytes) : std::string(bytes));
}

void Connection::finish_answer() {
  on_closed_ = nullptr;
  if (closed_) return;
  if (chunked_ && !head_only_) write("0\r\n\r\n");
  answering_ = false;
  chunked_ = false;
  // Through the loop: a handler that answers at once must not recurse into the next request.
  asio::post(stream_.get_executor(), [self = shared_from_this()] { self->flush(); });
}

void Connection::refuse(int status, std::string_view message) {
  refuse(server_->handler.refusal(status, message));
}

void Connection::refuse(HttpResponse response) {
  // A request without a body leaves the connection in a known state; any other has to end it.
  const bool clean = parser_->is_done();
  parser_.reset();
  release_body();
  keep_alive_ = keep_alive_ && clean;
  lingering_ = !clean;
  answering_ = true;
  const auto writer = std::make_shared<Response>(shared_from_this());
  writer->send(std::move(response));
}

void Connection::write(const std::string& bytes) {
  waiting_ += bytes;
  if (waiting_.size() + writing_.size() > server_->limits.output_bytes_max) {
    asio::post(stream_.get_executor(), [self = shared_from_this()] {
      if (!self->closed_) self->client_gone();
    });
    return;
  }
  if (writing_.empty()) flush();
}

// Writes what waits; after the last byte of an answer, goes on to the next request or ends.
void Connection::flush() {
  if (closed_ || ending_ || !writing_.empty()) return;
  if (waiting_.empty()) {
    if (answering_ || parser_) return;  // more to come, or already reading
    if (keep_alive_) return read_request();
    return end_connection();
  }
  writing_.swap(waiting_);
  stream_.expires_after(server_->limits.write_timeout);
  asio::async_write(stream_, asio::buffer(writing_),
                    [self = shared_from_this()](error_code error, std::size_t) {
                      self->writing_.clear();
                      if (self->closed_) return;
                      if (error) return self->client_gone();
                      self->stream_.expires_never();
                      self->flush();
                    });
}

// --- ending -----------------------------------------------------------------------------------

void Connection::end_connection() {
  ending_ = true;
  error_code ignored;
  stream_.socket().shutdown(tcp::socket::shutdown_send, ignored);
  if (!lingering_) return close();
  stream_.expires_after(kLingerTimeout);
  drop_input();
}

void Connection::drop_input() {
  buffer_.clear();
  stream_.async_read_some(buffer_.prepare(64 << 10),
                          [self = shared_from_this()](error_code error, std::size_t) {
                            if (self->closed_) return;
                            if (error) return self->close();
                            self->drop_input();
                          });
}

void Connection::close() {
  if (closed_) return;
  closed_ = true;
  release_body();
  error_code ignored;
  stream_.socket().shutdown(tcp::socket::shutdown_both, ignored);
  stream_.close();
}

void Connection::close_if_idle() {
  if (!answering_ && writing_.empty() && waiting_.empty()) close();
}

void Connection::release_body() { server_->bodies_bytes -= std::exchange(body_bytes_, 0); }

// --- the server -------------------------------------------------------------------------------

Result<void> HttpServer::State::open(const std::string& host, std::uint16_t port) {
  error_code error;
  const std::string name = host == "localhost" ? "127.0.0.1" : host;
  const asio::ip::address address = asio::ip::make_address(name, error);
  if (error) {
    return invalid_input("host \"" + host + "\" is not an IP address; use e.g. 127.0.0.1");
  }
  const tcp::endpoint endpoint(address, port);
  const std::string where = host + " port " + std::to_string(port);
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(tcp::acceptor::max_listen_connections, error);
  if (error) return unavailable("cannot listen on " + where + ": " + error.message());
  accept();
  return {};
}

void HttpServer::State::accept() {
  acceptor.async_accept([self = shared_from_this()](error_code error, tcp::socket socket) {
    if (self->stopping || error == asio::error::operation_aborted) return;
    if (error) return self->accept_later();
    if (self->connections.size() < self->limits.connections_max) {
      error_code ignored;
      socket.set_option(tcp::no_delay(true), ignored);
      std::make_shared<Connection>(std::move(socket), self)->read_request();
    }
    self->accept();
  });
}

void HttpServer::State::accept_later() {
  accept_pause.expires_after(kAcceptPause);
  accept_pause.async_wait([self = shared_from_this()](error_code error) {
    if (!error && !self->stopping) self->accept();
  });
}

void HttpServer::State::stop() {
  stopping = true;
  error_code ignored;
  acceptor.close(ignored);
  accept_pause.cancel();
  const std::vector<Connection*> all(connections.begin(), connections.end());
  for (Connection* connection : all) connection->close_if_idle();
}

void HttpServer::State::close_all() {
  stop();
  const std::vector<Connection*> all(connections.begin(), connections.end());
  for (Connection* connection : all) connection->close();
}

HttpServer::HttpServer(std::shared_ptr<State> state) : state_(std::move(state)) {}
HttpServer::~HttpServer() { state_->close_all(); }

Result<std::unique_ptr<HttpServer>> HttpServer::listen(EventLoop& loop, const std::string& host,
                                                       std::uint16_t port, HttpHandler& handler,
                                                       HttpLimits limits) {
  auto state = std::make_shared<State>(loop, handler, limits);
  TRY(state->open(host, port));
  return std::make_unique<HttpServer>(std::move(state));
}

std::uint16_t HttpServer::port() const {
  error_code ignored;
  return state_->acceptor.local_endpoint(ignored).port();
}

std::size_t HttpServer::connections() const { return state_->connections.size(); }
void HttpServer::stop() { state_->stop(); }

}  // namespace conclave::server
