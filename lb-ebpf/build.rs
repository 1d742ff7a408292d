//! Tells bpf-linker what the kernels allow that we run on.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // The library is compiled for the host too, by another linker.
    if env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("bpf") {
        // Headers lie at odd offsets. Without this LLVM reads each word of a packet byte by byte;
        // the verifier lets programs read packets unaligned on every processor we support.
        // An LLVM before 22 does not know the feature, says so, and goes on without.
        println!("cargo:rustc-link-arg-bins=--cpu-features=+allows-misaligned-mem-access");
    }
}
