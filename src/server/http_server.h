// HTTP/1.1 for one thread, on Boost.Beast, which only http_server.cc sees.
//
// Limits: headers 64 KiB, bodies 64 MiB each and 256 MiB together, 1,024 connections, output of
// 8 MiB waiting for one slow reader. Beyond one: 431, 413, 503, a refused connection, a closed one.
// Time: 60 s for the next request and its headers, 30 s between pieces of a body and 5 minutes for
// the whole of it, 60 s for a reader that takes nothing.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "server/event_loop.h"

namespace conclave::server {

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

struct HttpRequest {
  std::string method;
  std::string target;   // as sent, query included
  HttpHeaders headers;  // names in lower case
  std::string body;

  // Empty when absent; the first of several.
  std::string_view header(std::string_view lower_case_name) const;
};

struct HttpResponse {
  int status = 200;
  HttpHeaders headers;  // Content-Length, Connection and Transfer-Encoding are added
  std::string body;
};

// The answer to one request: either send(), or begin_stream(), write() and end(). Dropped before
// its end, it closes the connection. Calls after the client has gone do nothing.
class ResponseWriter {
 public:
  virtual ~ResponseWriter() = default;
  virtual void send(HttpResponse response) = 0;
  virtual void begin_stream(int status, HttpHeaders headers) = 0;
  virtual void write(std::string_view bytes) = 0;
  virtual void end() = 0;
  // `callback` runs once, from the loop, if the client goes before the end. It is released with
  // the answer.
  virtual void on_closed(std::function<void()> callback) = 0;
};

class HttpHandler {
 public:
  virtual ~HttpHandler() = default;
  // Sees the request before its body is read; an answer here refuses it.
  virtual std::optional<HttpResponse> gate(const HttpRequest& head) = 0;
  // Headers for every answer to this request.
  virtual HttpHeaders common_headers(const HttpRequest& head) = 0;
  virtual void handle(HttpRequest request, std::shared_ptr<ResponseWriter> writer) = 0;
  // Body of an answer that the server itself gives, e.g. to malformed requests.
  virtual HttpResponse refusal(int status, std::string_view message) = 0;
};

struct HttpLimits {
  std::size_t header_bytes_max = 64 << 10;
  std::size_t body_bytes_max = std::size_t{64} << 20;
  std::size_t bodies_bytes_max = std::size_t{256} << 20;  // being read or handled, all together
  std::size_t output_bytes_max = std::size_t{8} << 20;
  std::size_t connections_max = 1024;
  Duration header_timeout = std::chrono::seconds(60);
  Duration body_timeout = std::chrono::seconds(30);  // between pieces
  Duration whole_body_timeout = std::chrono::minutes(5);
  Duration write_timeout = std::chrono::seconds(60);
};

class HttpServer {
 public:
  // Binds and listens; `loop` and `handler` must outlive the server. `port` 0: any free one.
  // Errors name the address and what the system says.
  static Result<std::unique_ptr<HttpServer>> listen(EventLoop& loop, const std::string& host,
                                                    std::uint16_t port, HttpHandler& handler,
                                                    HttpLimits limits);
  class State;
  explicit HttpServer(std::shared_ptr<State> state);  // by listen()
  ~HttpServer();                                      // closes everything
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  std::uint16_t port() const;
  std::size_t connections() const;
  // Takes no more connections or requests; answers in progress go on, idle connections close.
  void stop();

 private:
  std::shared_ptr<State> state_;  // shared with its connections, whose handlers may run later
};

}  // namespace conclave::server
