//! The one place that writes to standard output and standard error.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use crate::clock;
use crate::error::{Error, ErrorKind, Result};

/// How things are shown.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    pub json: bool,
    /// Progress although standard error is no terminal.
    pub progress: bool,
}

impl Output {
    /// Prints `value`, or what `text` says, depending on what was asked for.
    pub fn show(&self, value: &Value, text: impl FnOnce() -> String) -> Result<()> {
        match self.json {
            true => self.write(format!("{value:#}\n").as_bytes()),
            false => {
                let mut text = text();
                if !text.is_empty() && !text.ends_with('\n') {
                    text.push('\n');
                }
                self.write(text.as_bytes())
            }
        }
    }

    /// Bytes, as they are.
    pub fn write(&self, data: &[u8]) -> Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(data).and_then(|()| out.flush()).map_err(|error| {
            let error = Error::from_io("write to standard output", error);
            match error.is(ErrorKind::NoSpace) {
                // Not the store is full.
                true => error.with_kind(ErrorKind::Internal),
                false => error,
            }
        })
    }

    /// A failure, with all its causes.
    pub fn fail(&self, error: &Error, code: u8) {
        let mut text = format!("archipelago: {}\n", error.full());
        if self.json {
            let kind = error.kind().to_string();
            let value = serde_json::json!({
                "error": { "kind": kind, "message": error.full(), "exit_code": code }
            });
            text = format!("{value}\n");
        }
        note(&text);
    }

    /// A word beside the result.
    pub fn say(&self, text: &str) {
        if !self.json {
            note(&format!("{text}\n"));
        }
    }

    /// Shows how far something has come, if it takes longer than a second.
    pub fn begin(&self, what: &str, total: u64, unit: Unit) -> Progress {
        let is_terminal = io::stderr().is_terminal();
        let bar = is_terminal.then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
            let numbers = match unit {
                Unit::Bytes => "{bytes} of {total_bytes} ({bytes_per_sec})",
                Unit::Things => "{pos} of {len}",
            };
            let style = format!("{{msg}} {{bar:30}} {{percent}}% {numbers}, {{eta}} left");
            if let Ok(style) = ProgressStyle::with_template(&style) {
                bar.set_style(style);
            }
            bar.set_message(what.to_owned());
            bar
        });
        let began = clock::now();
        let is_plain = self.progress && !is_terminal;
        let what = what.to_owned();
        Progress { what, total, done: 0, began, shown_at: began, bar, is_plain, is_visible: false, unit }
    }
}

/// What progress counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    Things,
}

fn note(text: &str) {
    // Nobody is left to tell if this fails.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

const PATIENCE: Duration = Duration::from_secs(1);

/// How far something has come.
#[derive(Debug)]
pub struct Progress {
    what: String,
    total: u64,
    done: u64,
    began: Instant,
    shown_at: Instant,
    bar: Option<ProgressBar>,
    is_plain: bool,
    is_visible: bool,
    unit: Unit,
}

impl Progress {
    /// What is going on now.
    pub fn name(&mut self, what: &str) {
        if self.what == what {
            return;
        }
        what.clone_into(&mut self.what);
        if let Some(bar) = &self.bar {
            bar.set_message(self.what.clone());
        }
    }

    pub fn set(&mut self, done: u64, total: u64) {
        (self.done, self.total) = (done, total);
        let now = clock::now();
        if let Some(bar) = &self.bar {
            if !self.is_visible && now - self.began > PATIENCE {
                bar.set_draw_target(ProgressDrawTarget::stderr());
                self.is_visible = true;
            }
            bar.set_length(total);
            bar.set_position(done);
        }
        if self.is_plain && now - self.shown_at > PATIENCE {
            self.shown_at = now;
            note(&self.line(now - self.began));
        }
    }

    fn line(&self, took: Duration) -> String {
        let percent = (self.done * 100).checked_div(self.total).unwrap_or(100);
        let left = self.total.saturating_sub(self.done) as f64;
        let left_s = took.as_secs_f64() * left / self.done.max(1) as f64;
        let (done, total) = match self.unit {
            Unit::Bytes => (size_text(self.done), size_text(self.total)),
            Unit::Things => (self.done.to_string(), self.total.to_string()),
        };
        format!("{}: {percent}%, {done} of {total}, {left_s:.0} s left\n", self.what)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// "512", "4.0K", "1.5G".
pub fn size_text(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["K", "M", "G", "T", "P", "E"];
    if bytes < 1024 {
        return bytes.to_string();
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1}{}", UNITS[unit])
}

/// Columns, the first one flush left and the others as `right` says.
pub fn table(rows: &[Vec<String>], right: &[usize]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            match right.contains(&column) {
                true => line.push_str(&format!("{cell:>width$}  ")),
                false => line.push_str(&format!("{cell:<width$}  ")),
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Warnings of the library go to standard error; `ARCHIPELAGO_LOG=debug`
/// shows more.
#[derive(Debug)]
pub struct StderrLog;

impl log::Log for StderrLog {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            note(&format!("archipelago: {}\n", record.args()));
        }
    }

    fn flush(&self) {}
}

pub fn start_log() {
    static LOG: StderrLog = StderrLog;
    let level = std::env::var("ARCHIPELAGO_LOG").ok().and_then(|level| level.parse().ok());
    if log::set_logger(&LOG).is_ok() {
        log::set_max_level(level.unwrap_or(log::LevelFilter::Warn));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [
            (0, "0"),
            (1023, "1023"),
            (1024, "1.0K"),
            (3 << 29, "1.5G"),
            (1 << 40, "1.0T"),
            (1023 << 20, "1.0G"),
        ] {
            assert_eq!(size_text(bytes), text);
        }
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".into(), "10".into()], vec!["bcd".into(), "9".into()]];
        assert_eq!(table(&rows, &[1]), "a    10\nbcd   9\n");
    }
}
