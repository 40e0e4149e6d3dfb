//! The bytes of control objects: little-endian fields in a sealed envelope
//! with magic, version and checksum.
//!
//! ```text
//! offset  bytes  field
//!      0      8  magic: "ARCH" and four letters for the kind of object
//!      8      4  version of that kind's payload
//!     12      4  reserved, zero
//!     16      8  payload bytes
//!     24     32  BLAKE3 of bytes 0..24 and the payload
//!     56      n  payload
//! ```

use crate::error::{Error, ErrorKind, Result};
use crate::name::{Id, ObjectName};

pub const ENVELOPE_BYTES: usize = 56;

/// A kind of control object: its magic and the payload version we write.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub magic: [u8; 8],
    pub version: u32,
}

fn checksum(front: &[u8], payload: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(front);
    hasher.update(payload);
    *hasher.finalize().as_bytes()
}

/// Puts a payload into its envelope.
pub fn seal(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut out = Writer::with_capacity(ENVELOPE_BYTES + payload.len());
    out.bytes(&kind.magic);
    out.u32(kind.version);
    out.u32(0);
    out.u64(payload.len() as u64);
    let sum = checksum(&out.0, payload);
    out.bytes(&sum);
    out.bytes(payload);
    out.0
}

/// Checks an envelope and returns its payload. Errors: `Corrupt`; `Invalid`
/// when a newer program wrote it.
pub fn open<'a>(kind: Kind, name: &'a ObjectName, data: &'a [u8]) -> Result<Reader<'a>> {
    if data.len() < ENVELOPE_BYTES {
        return Err(Error::corrupt(name, format!("{} bytes are too few", data.len())));
    }
    let (front, payload) = data.split_at(ENVELOPE_BYTES);
    let Front { version, payload_bytes, sum } = read_front(kind, name, front)?;
    if payload_bytes != payload.len() as u64 || sum != checksum(&front[..24], payload) {
        return Err(Error::corrupt(name, "its checksum does not match its content"));
    }
    check_version(kind, name, version)?;
    Ok(Reader::new(name, payload))
}

/// Checks the envelope of an object of `object_bytes` without its payload:
/// its kind, its version and its length. `front`: what the object begins with.
/// Errors: as of `open`.
pub fn check_front(kind: Kind, name: &ObjectName, front: &[u8], object_bytes: u64) -> Result<()> {
    let Front { version, payload_bytes, .. } = read_front(kind, name, front)?;
    if payload_bytes.checked_add(ENVELOPE_BYTES as u64) != Some(object_bytes) {
        return Err(Error::corrupt(
            name,
            format!("it has {object_bytes} bytes, but says that its content has {payload_bytes}"),
        ));
    }
    check_version(kind, name, version)
}

/// What an envelope says.
struct Front {
    version: u32,
    payload_bytes: u64,
    sum: [u8; 32],
}

fn read_front(kind: Kind, name: &ObjectName, front: &[u8]) -> Result<Front> {
    let mut fields = Reader::new(name, front);
    if fields.array::<8>()? != kind.magic {
        return Err(Error::corrupt(name, "it does not begin with the magic of its kind"));
    }
    let version = fields.u32()?;
    let _reserved = fields.u32()?;
    Ok(Front { version, payload_bytes: fields.u64()?, sum: fields.array()? })
}

fn check_version(kind: Kind, name: &ObjectName, version: u32) -> Result<()> {
    if version == kind.version {
        return Ok(());
    }
    Err(Error::sentence(
        ErrorKind::Invalid,
        format!(
            "{name} has format version {version}, this program knows version {}: use a newer archipelago",
            kind.version
        ),
    )
    .on(name))
}

/// Appends little-endian fields.
#[derive(Debug, Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    pub fn new() -> Writer {
        Writer::default()
    }

    pub fn with_capacity(bytes: usize) -> Writer {
        Writer(Vec::with_capacity(bytes))
    }

    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub fn id(&mut self, value: Id) {
        self.0.extend_from_slice(&value.to_bytes());
    }

    pub fn bytes(&mut self, value: &[u8]) {
        self.0.extend_from_slice(value);
    }

    /// A string of up to 65,535 bytes: its length, then its bytes.
    pub fn text(&mut self, value: &str) {
        let bytes = &value.as_bytes()[..value.len().min(usize::from(u16::MAX))];
        self.u16(bytes.len() as u16);
        self.bytes(bytes);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Reads fields back; every shortage is `Corrupt` and names the object.
/// Memory used is bounded by the input's length.
#[derive(Debug)]
pub struct Reader<'a> {
    name: &'a ObjectName,
    data: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(name: &'a ObjectName, data: &'a [u8]) -> Reader<'a> {
        Reader { name, data }
    }

    pub fn left(&self) -> usize {
        self.data.len()
    }

    pub fn name(&self) -> &ObjectName {
        self.name
    }

    /// A `Corrupt` error about this object.
    pub fn damaged(&self, message: impl Into<String>) -> Error {
        Error::corrupt(self.name, message)
    }

    pub fn take(&mut self, bytes: usize) -> Result<&'a [u8]> {
        if self.data.len() < bytes {
            return Err(self.damaged("it ends in the middle of a field"));
        }
        let (head, rest) = self.data.split_at(bytes);
        self.data = rest;
        Ok(head)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub fn id(&mut self) -> Result<Id> {
        Ok(Id::from_bytes(self.array()?))
    }

    pub fn text(&mut self) -> Result<&'a str> {
        let bytes = usize::from(self.u16()?);
        let data = self.take(bytes)?;
        std::str::from_utf8(data).map_err(|_| self.damaged("a text in it is not UTF-8"))
    }

    /// Everything must have been read.
    pub fn finish(self) -> Result<()> {
        match self.data.len() {
            0 => Ok(()),
            more => Err(self.damaged(format!("{more} bytes follow its last field"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind { magic: *b"ARCHtest", version: 1 };

    #[test]
    fn any_flipped_bit_is_found() {
        let sealed = seal(KIND, b"payload");
        assert!(open(KIND, &ObjectName::Store, &sealed).is_ok());
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let error = open(KIND, &ObjectName::Store, &damaged).unwrap_err();
            assert!(error.is(ErrorKind::Corrupt), "bit {bit}: {error}");
        }
        for bytes in 0..sealed.len() {
            assert!(open(KIND, &ObjectName::Store, &sealed[..bytes]).is_err());
        }
    }

    #[test]
    fn a_newer_version_is_told_apart_from_damage() {
        let newer = Kind { version: 2, ..KIND };
        let error = open(KIND, &ObjectName::Store, &seal(newer, b"")).unwrap_err();
        assert!(error.is(ErrorKind::Invalid) && error.to_string().contains("version 2"));
    }
}
