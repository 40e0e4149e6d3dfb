//! The URL of a store on GlusterFS:
//! `gluster://HOST[:PORT][,HOST[:PORT]...]/VOLUME[/FOLDER...]`.

use super::{Entry, Place};
use crate::error::{Error, ErrorKind, Result};

/// Where glusterd listens.
const PORT_DEFAULT: u16 = 24007;

fn refuse<T>(words: String) -> Result<T> {
    Err(Error::sentence(ErrorKind::Invalid, words))
}

/// What follows "gluster:".
pub(super) fn parse(text: &str) -> Result<Place> {
    let url = format!("gluster:{text}");
    let Some((hosts, path)) = text.strip_prefix("//").and_then(|rest| rest.split_once('/')) else {
        return refuse(format!("'{url}' names no volume: write gluster://host/volume"));
    };
    let servers = hosts.split(',').map(server).collect::<Option<Vec<_>>>();
    let Some(servers) = servers else {
        return refuse(format!("'{url}' names no server: write gluster://host:port/volume"));
    };
    let is_name = |name: &str| !name.is_empty() && name != "." && name != "..";
    if !path.split('/').all(is_name) {
        return refuse(format!("'{url}' has a part without a name: write gluster://host/volume/folder"));
    }
    let (volume, folder) = path.split_at(path.find('/').unwrap_or(path.len()));
    Ok(Place::Gluster { servers, volume: volume.to_owned(), folder: folder.to_owned(), log: None })
}

/// With what else is said of it. Errors: with the key that is wrong.
pub(super) fn place_of(entry: &Entry, mut place: Place) -> std::result::Result<Place, (&'static str, Error)> {
    let refuse = |words: &str| Err(("gluster_log", Error::sentence(ErrorKind::Invalid, words)));
    match (&mut place, &entry.gluster_log) {
        (_, None) => {}
        (Place::Gluster { log, .. }, Some(told)) if told.is_absolute() => *log = Some(told.clone()),
        (Place::Gluster { .. }, Some(_)) => return refuse("begin it with /"),
        (_, Some(_)) => return refuse("it is for stores of kind 'gluster:' only"),
    }
    Ok(place)
}

/// "host", "host:port", "[address]" or "[address]:port".
fn server(text: &str) -> Option<(String, u16)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let port = match port.strip_prefix(':') {
        Some(port) => port.parse().ok().filter(|port| *port > 0)?,
        None if port.is_empty() => PORT_DEFAULT,
        None => return None,
    };
    let is_host = |c: char| c.is_ascii_alphanumeric() || "-._:%".contains(c);
    (!host.is_empty() && host.chars().all(is_host)).then(|| (host.to_owned(), port))
}
