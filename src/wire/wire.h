// What the processes of conclave say to each other: protobuf messages (worker.proto) in
// length-prefixed frames.
//
//   std::string bytes;
//   TRY(wire::append_frame(message, bytes));
//   reader.push(bytes);
//   auto message = TRY(wire::parse<wire::pb::FromWorker>(payload));
#pragma once

#include "wire/bulk.pb.h"
#include "wire/cluster.pb.h"
#include "wire/data_header.h"
#include "wire/frames.h"
#include "wire/pairing.pb.h"
#include "wire/worker.pb.h"
