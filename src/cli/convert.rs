//! Images that are not raw: `qemu-img` converts them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::output::Output;
use super::check_interrupted;
use crate::clock;
use crate::error::{Error, ErrorKind, Result};

/// What the first bytes of an image say it is.
pub fn format_of(start: &[u8]) -> &'static str {
    let has = |at: usize, magic: &[u8]| start.get(at..at + magic.len()) == Some(magic);
    match () {
        () if has(0, b"QFI\xfb") => "qcow2",
        () if has(0, b"KDMV") => "vmdk",
        () if has(0, b"vhdxfile") => "vhdx",
        () if has(0, b"conectix") => "vpc",
        () if has(64, &[0x7f, 0x10, 0xda, 0xbe]) => "vdi",
        () if has(0, b"QED\0") => "qed",
        () => "raw",
    }
}

/// A raw file that is removed when this is dropped.
#[derive(Debug)]
pub struct Converted(PathBuf);

impl Converted {
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Converted {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            log::debug!("{} is left behind: {error}", self.0.display());
        }
    }
}

/// Converts into a sparse raw file in `TMPDIR` (`/var/tmp`). `QEMU_IMG` names
/// the program.
pub fn to_raw(output: &Output, file: &Path, format: &str) -> Result<Converted> {
    let program = std::env::var_os("QEMU_IMG").unwrap_or_else(|| "qemu-img".into());
    let folder = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    let made = Converted(folder.join(format!("archipelago-{}.raw", clock::random_id()?)));
    output.say(&format!("{} is {format}: converting it into {} first", file.display(), made.0.display()));
    let mut child = Command::new(&program)
        .args(["convert", "-f", format, "-O", "raw"])
        .arg(absolute(file))
        .arg(&made.0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| start_failed(&program.to_string_lossy(), format, error))?;
    let words = child.stderr.take().map(read_all).unwrap_or_default();
    let status = child.wait().map_err(|error| Error::from_io("wait for qemu-img", error))?;
    check_interrupted()?;
    if !status.success() {
        return Err(Error::sentence(
            ErrorKind::Invalid,
            format!("qemu-img cannot convert {}: {}", file.display(), words.trim().replace('\n', "; ")),
        ));
    }
    Ok(made)
}

/// A relative name with a colon would be taken for a protocol.
fn absolute(file: &Path) -> PathBuf {
    std::path::absolute(file).unwrap_or_else(|_| file.to_owned())
}

fn read_all(mut from: impl std::io::Read) -> String {
    let mut words = Vec::new();
    // What was said until then will do.
    let _ = from.read_to_end(&mut words);
    String::from_utf8_lossy(&words).into_owned()
}

fn start_failed(program: &str, format: &str, error: std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::NotFound {
        return Error::sentence(
            ErrorKind::NotFound,
            format!(
                "a {format} image is converted by qemu-img, and there is no '{program}': install it \
                 (Debian: qemu-utils), or set QEMU_IMG"
            ),
        );
    }
    Error::from_io("start", error).on_named(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_their_first_bytes() {
        assert_eq!(format_of(b"QFI\xfb\0\0\0\x03"), "qcow2");
        assert_eq!(format_of(b"KDMV"), "vmdk");
        assert_eq!(format_of(b""), "raw");
        assert_eq!(format_of(&[0; 512]), "raw");
    }
}
