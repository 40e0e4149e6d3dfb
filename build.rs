//! Gives the shared library its SONAME and keeps it in memory once loaded:
//! code with running threads must not be unmapped.

fn main() {
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libarchipelago.so.0");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo:rerun-if-changed=build.rs");
}
