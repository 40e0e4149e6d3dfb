//! Binds the C libraries of stores: the functions and constants that a backend
//! uses, as a table that is filled when the library is loaded.
//!
//! Without an argument it writes src/sys/librados.rs and src/sys/libgfapi.rs anew;
//! with `--check` it says whether that would change them.


use std::path::Path;
use std::process::ExitCode;

/// One library.
struct Library {
    file: &'static str,
    table: &'static str,
    header: &'static str,
    functions: &'static str,
    /// Types that the crate `libc` has.
    known_types: &'static str,
    head: &'static str,
    needs: &'static str,
}

const RADOS: Library = Library {
    file: "src/sys/librados.rs",
    table: "Librados",
    header: "#include <rados/librados.h>\n",
    functions: "rados_(create2|conf_read_file|conf_set|connect|shutdown|getaddrs|buffer_free|\
        ioctx_create|ioctx_destroy|ioctx_set_namespace|wait_for_latest_osdmap|blocklist_add|\
        set_pool_full_try|\
        read|stat|remove|lock_exclusive|lock_shared|unlock|list_lockers|break_lock|\
        nobjects_list_open|nobjects_list_next2|nobjects_list_close|\
        create_write_op|release_write_op|write_op_(operate|assert_exists|create|write|truncate|zero|\
        omap_cmp2|omap_set2|omap_rm_keys2|set_alloc_hint2)|aio_write_op_operate|aio_read_op_operate|\
        create_read_op|release_read_op|read_op_(operate|omap_get_vals2|omap_get_vals_by_keys2)|\
        omap_get_next2|omap_get_end|\
        aio_create_completion2|aio_release|aio_get_return_value|aio_wait_for_complete|aio_read)",
    known_types: "",
    head: "\
// Written by tests/bindings from Ceph's librados.h (LGPL-2.1; declarations only).
// Do not change it by hand: change the list of functions there.
",
    needs: "librados-dev libclang1 libclang-common-dev",
};

const GFAPI: Library = Library {
    file: "src/sys/libgfapi.rs",
    table: "Libgfapi",
    header: "#define _GNU_SOURCE\n#define _FILE_OFFSET_BITS 64\n#include <glusterfs/api/glfs.h>\n",
    functions: "glfs_(new|set_volfile_server|set_xlator_option|set_logging|init|fini|\
        open|creat|close|pread|pwrite|preadv_async|pwritev_async|ftruncate|fsync|fdatasync|\
        fdatasync_async|fsync_async|discard|lseek|stat|fstat|fchmod|fchown|\
        mkdir|rmdir|link|unlink|opendir|readdir_r|closedir)",
    known_types: "dirent|iovec|stat|timespec",
    head: "\
// Written by tests/bindings from GlusterFS's api/glfs.h (LGPL-3.0 or GPL-2.0;
// declarations only). Do not change it by hand: change the list of functions there.
",
    needs: "libglusterfs-dev libclang1 libclang-common-dev",
};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

fn text(library: &Library) -> Result<String, String> {
    let bindings = bindgen::Builder::default()
        .header_contents("wrapper.h", library.header)
        .allowlist_function(library.functions)
        .blocklist_type(library.known_types)
        .dynamic_library_name(library.table)
        .dynamic_link_require_all(true)
        .ctypes_prefix("libc")
        .layout_tests(false)
        .generate_comments(false)
        .derive_debug(false)
        .rustfmt_configuration_file(Some(Path::new(ROOT).join("rustfmt.toml")))
        .generate()
        .map_err(|error| error.to_string())?
        .to_string();
    let body = bindings.split_once("\n\n").map_or("", |(_, rest)| rest);
    let is_known = |name: &&str| !name.is_empty() && has_word(body, name);
    let known: Vec<&str> = library.known_types.split('|').filter(is_known).collect();
    let imports = match known.as_slice() {
        [] => String::new(),
        names => format!("use libc::{{{}}};\n", names.join(", ")),
    };
    Ok(format!("{}{imports}{body}", library.head))
}

fn has_word(text: &str, word: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|other| other == word)
}

/// Writes a library's file, or says that it is not as it should be.
fn bring_up_to_date(library: &Library, check: bool) -> Result<(), String> {
    let file = Path::new(ROOT).join(library.file);
    let text = text(library)
        .map_err(|error| format!("{error}\nthis needs: apt-get install {}", library.needs))?;
    let there = std::fs::read_to_string(&file).unwrap_or_default();
    match (there == text, check) {
        (true, _) => println!("{} is as the header says", file.display()),
        (false, true) => {
            return Err(format!("{} is not as the header says: run this without --check", file.display()))
        }
        (false, false) => {
            std::fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
            println!("{} is written", file.display());
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let check = std::env::args().any(|argument| argument == "--check");
    let mut code = ExitCode::SUCCESS;
    for library in [&RADOS, &GFAPI] {
        if let Err(message) = bring_up_to_date(library, check) {
            eprintln!("{message}");
            code = ExitCode::FAILURE;
        }
    }
    code
}
