//! Compiles the bridge's C++ half into the static library. The headers land in
//! `<target dir>/cxxbridge`: `conclave-text/src/lib.rs.h` and `rust/cxx.h`.

fn main() {
    cxx_build::bridge("src/lib.rs")
        .std("c++20")
        .compile("conclave_text_bridge");
    println!("cargo:rerun-if-changed=src/lib.rs");
}
