//! Kinds of stores that a program brings itself: the words before the colon of
//! their URLs.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use super::{parse_url, Place};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::Mutex;

fn known() -> &'static Mutex<BTreeSet<String>> {
    static KNOWN: OnceLock<Mutex<BTreeSet<String>>> = OnceLock::new();
    KNOWN.get_or_init(Mutex::default)
}

/// From here on `kind:` begins URLs that are read. For `store::kinds::add`.
/// Errors: `Invalid` if it is no word, `Exists` if there is such a kind.
pub fn know(kind: &str) -> Result<()> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'+' | b'-');
    if !kind.starts_with(|first: char| first.is_ascii_lowercase()) || !kind.bytes().all(fits) {
        let words = format!("'{}' is no kind of stores: use a-z 0-9 + -", kind.escape_debug());
        return Err(Error::sentence(ErrorKind::Invalid, words));
    }
    let is_ours = match parse_url(&format!("{kind}:")) {
        Ok(_) => true,
        Err(error) => !error.to_string().contains("is no URL of a store"),
    };
    if is_ours || !known().lock().insert(kind.to_owned()) {
        let words = format!("there are stores of kind '{kind}:' already: choose another word");
        return Err(Error::sentence(ErrorKind::Exists, words));
    }
    Ok(())
}

/// Somebody's own place, if a program has brought what opens it.
pub(super) fn parse(kind: &str, rest: &str) -> Option<Place> {
    let place = || Place::Other { kind: kind.to_owned(), rest: rest.to_owned() };
    known().lock().contains(kind).then(place)
}
