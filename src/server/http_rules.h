// Pure rules of HTTP: paths, hosts, origins, heads of answers.
#pragma once

#include <string>
#include <string_view>

#include "server/http_server.h"

namespace conclave::server {

// The part of a target that chooses a route: no query, percent-decoded, no trailing slash, and
// without any number of leading "/v1", since users paste base URLs both ways.
//   "/v1/chat/completions/?a=b" -> "/chat/completions"      "/v1/" -> "/"
std::string route_path(std::string_view target);

// Names that a web page elsewhere cannot be made to resolve to this machine (DNS rebinding): any
// IP address, localhost and *.localhost, and `served_host`. A port may follow.
bool host_allowed(std::string_view host, std::string_view served_host);

enum class OriginKind {
  kNone,      // no browser, or one that does not say
  kLoopback,  // a page from this machine: it may read the answers
  kApp,       // not from the web: "vscode-webview://...", "app://..."
  kForeign,   // a web page from elsewhere, or one that hides where it is from
};
// `host`: the Host header; a page served from there is kLoopback.
OriginKind origin_kind(std::string_view origin, std::string_view host);

std::string_view status_text(int status);
// Status line and headers with the blank line. CHECKs that no header breaks the line.
std::string response_head(int status, const HttpHeaders& headers);

}  // namespace conclave::server
