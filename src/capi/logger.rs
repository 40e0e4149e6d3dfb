//! What the library has to say goes to standard error, where QEMU's own
//! messages go: warnings and errors, or what ARCHIPELAGO_LOG asks for (error,
//! warn, info, debug, trace, off).

use std::io::Write;
use std::str::FromStr;

use log::{LevelFilter, Log, Metadata, Record};

struct ToStderr;

impl Log for ToStderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let level = record.level().as_str().to_ascii_lowercase();
            // Nobody can be told that standard error does not work.
            drop(writeln!(std::io::stderr(), "archipelago: {level}: {}", record.args()));
        }
    }

    fn flush(&self) {}
}

/// Installs the logger once; a program that has its own keeps it.
pub fn install() {
    static LOGGER: ToStderr = ToStderr;
    if log::set_logger(&LOGGER).is_ok() {
        let wanted = std::env::var("ARCHIPELAGO_LOG").ok();
        let level = wanted.and_then(|text| LevelFilter::from_str(&text).ok());
        log::set_max_level(level.unwrap_or(LevelFilter::Warn));
    }
}
