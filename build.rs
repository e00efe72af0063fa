//! Link settings of the shared library that Cargo has no key for.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcachetory.so.0");
        // Unloading the library under its own live threads would crash the host, so dlclose keeps it.
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
}
