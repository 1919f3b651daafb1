// How an agent hands its key to its workers: shared memory that only they inherit.
#pragma once

#include "base/file_descriptor.h"
#include "base/result.h"
#include "transport/transport.h"

namespace conclave::cluster {

inline constexpr const char* kIdentityMemory = "identity";  // its name among what is kept

Result<FileDescriptor> identity_memory(const transport::Identity& identity);
// `fd` stays the caller's.
Result<transport::Identity> read_identity(int fd);

}  // namespace conclave::cluster
