//! The command `archipelago`.

fn main() -> std::process::ExitCode {
    archipelago::cli::main()
}
