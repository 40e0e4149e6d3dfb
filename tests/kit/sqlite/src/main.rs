//! The command `archipelago`, which knows `sqlite:/path/to/file` too.

use archipelago_sqlite::Sqlite;

fn main() -> std::process::ExitCode {
    match archipelago::store::kinds::add("sqlite", Sqlite::asked) {
        Ok(()) => archipelago::cli::main(),
        Err(error) => {
            eprintln!("{}", error.full());
            std::process::ExitCode::FAILURE
        }
    }
}
