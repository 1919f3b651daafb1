// What event_loop.cc and http_server.cc share.
#pragma once

#include <boost/asio/io_context.hpp>

#include "server/event_loop.h"

namespace conclave::server {

struct EventLoop::Impl {
  boost::asio::io_context context{1};  // one thread
};

}  // namespace conclave::server
