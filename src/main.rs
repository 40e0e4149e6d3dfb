//! The command `archipelago`.

fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
