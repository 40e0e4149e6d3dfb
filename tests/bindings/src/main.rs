//! Binds Ceph's C library: the functions and constants that the backend uses,
//! as a table that is filled when the library is loaded.
//!
//! Without an argument it writes src/sys/librados.rs anew; with `--check` it says
//! whether that would change it.


use std::process::ExitCode;

const FUNCTIONS: &str = "rados_(create2|conf_read_file|conf_set|connect|shutdown|getaddrs|buffer_free|\
    ioctx_create|ioctx_destroy|ioctx_set_namespace|wait_for_latest_osdmap|blocklist_add|\
    read|stat|remove|lock_exclusive|lock_shared|unlock|list_lockers|break_lock|\
    nobjects_list_open|nobjects_list_next2|nobjects_list_close|\
    create_write_op|release_write_op|write_op_(operate|assert_exists|create|write|truncate|zero|\
    omap_cmp2|omap_set2|omap_rm_keys2|set_alloc_hint2)|aio_write_op_operate|\
    create_read_op|release_read_op|read_op_(operate|omap_get_vals2|omap_get_vals_by_keys2)|\
    omap_get_next2|omap_get_end|\
    aio_create_completion2|aio_release|aio_get_return_value|aio_read)";

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

const HEAD: &str = "\
// Written by tests/bindings from Ceph's librados.h (LGPL-2.1; declarations only).
// Do not change it by hand: change the list of functions there.
";

fn text() -> Result<String, String> {
    let bindings = bindgen::Builder::default()
        .header_contents("wrapper.h", "#include <rados/librados.h>\n")
        .allowlist_function(FUNCTIONS)
        .dynamic_library_name("Librados")
        .dynamic_link_require_all(true)
        .ctypes_prefix("libc")
        .layout_tests(false)
        .generate_comments(false)
        .derive_debug(false)
        .rustfmt_configuration_file(Some(std::path::Path::new(ROOT).join("rustfmt.toml")))
        .generate()
        .map_err(|error| error.to_string())?;
    Ok(format!("{HEAD}{}", bindings.to_string().split_once("\n\n").map_or("", |(_, rest)| rest)))
}

fn main() -> ExitCode {
    let check = std::env::args().any(|argument| argument == "--check");
    let file = std::path::Path::new(ROOT).join("src/sys/librados.rs");
    let text = match text() {
        Ok(text) => text,
        Err(error) => {
            eprintln!("{error}\nthis needs: apt-get install librados-dev libclang1 libclang-common-dev");
            return ExitCode::FAILURE;
        }
    };
    let there = std::fs::read_to_string(&file).unwrap_or_default();
    match (there == text, check) {
        (true, _) => println!("{} is as the header says", file.display()),
        (false, true) => {
            eprintln!("{} is not as the header says: run this without --check", file.display());
            return ExitCode::FAILURE;
        }
        (false, false) => match std::fs::write(&file, text) {
            Ok(()) => println!("{} is written", file.display()),
            Err(error) => {
                eprintln!("{}: {error}", file.display());
                return ExitCode::FAILURE;
            }
        },
    }
    ExitCode::SUCCESS
}
