# Libraries from the distribution, and the Rust crate.
find_package(Threads REQUIRED)
find_package(nlohmann_json 3.11 REQUIRED)
find_package(simdjson REQUIRED)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(CLI11 REQUIRED)
find_package(Protobuf REQUIRED)
find_package(GTest REQUIRED)
find_package(OpenSSL 3.0 REQUIRED)
find_package(CURL 7.85 REQUIRED)
# The archive: a program without fibers then has nothing of it.
find_library(BOOST_CONTEXT NAMES libboost_context.a boost_context REQUIRED)

# crates/text: one static library with its cxx bridge inside, shared by all trees.
set(RUST_TARGET_DIR ${CMAKE_SOURCE_DIR}/build/rust)
set(TEXT_CRATE ${RUST_TARGET_DIR}/release/libconclave_text.a)
file(GLOB TEXT_CRATE_SOURCES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/crates/text/src/*.rs)
add_custom_command(
  OUTPUT ${TEXT_CRATE}
  COMMAND ${CMAKE_COMMAND} -E env CARGO_TARGET_DIR=${RUST_TARGET_DIR}
          cargo build --release --locked --quiet
          --manifest-path ${CMAKE_SOURCE_DIR}/crates/text/Cargo.toml
  COMMAND ${CMAKE_COMMAND} -E touch ${TEXT_CRATE}
  DEPENDS ${TEXT_CRATE_SOURCES} ${CMAKE_SOURCE_DIR}/crates/text/Cargo.toml
          ${CMAKE_SOURCE_DIR}/crates/text/Cargo.lock ${CMAKE_SOURCE_DIR}/crates/text/build.rs
  COMMENT "Building crates/text with cargo"
  USES_TERMINAL)
add_custom_target(text_crate_build DEPENDS ${TEXT_CRATE})
add_library(text_crate STATIC IMPORTED GLOBAL)
set_target_properties(text_crate PROPERTIES IMPORTED_LOCATION ${TEXT_CRATE})
add_dependencies(text_crate text_crate_build)
