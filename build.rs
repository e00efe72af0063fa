//! Link settings of the shared library that Cargo has no key for.

use std::env::var;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let is_set = |name: &str, to: &str| var(name).is_ok_and(|value| value == to);
    if is_set("CARGO_CFG_TARGET_OS", "linux") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcachetory.so.0");
        // Unloading the library under its own live threads would crash the host, so dlclose keeps it.
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
        // Only as it is shipped, and where it was tried.
        if is_set("OPT_LEVEL", "3") && is_set("CARGO_CFG_TARGET_ARCH", "x86_64") {
            order();
        }
    }
}

/// Has what a first call needs put side by side, by a linker that can.
fn order() {
    const SCRIPT: &str = "first-call.ld";
    println!("cargo:rerun-if-changed={SCRIPT}");
    println!("cargo:rerun-if-env-changed=CACHETORY_NO_ORDER");
    if var("CACHETORY_NO_ORDER").is_ok() {
        return;
    }
    // These take no such script. Whatever else a linker may be called, CACHETORY_NO_ORDER is there for it.
    let chosen =
        ["RUSTC_LINKER", "CARGO_ENCODED_RUSTFLAGS"].map(|name| var(name).unwrap_or_default());
    if ["mold", "gold", "wild"].iter().any(|other| chosen.iter().any(|it| it.contains(other))) {
        return;
    }
    if let Ok(root) = var("CARGO_MANIFEST_DIR") {
        println!("cargo:rustc-cdylib-link-arg=-T{root}/{SCRIPT}");
    }
}
