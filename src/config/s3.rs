//! What a store on S3 needs to be told, and whose requests are made.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};

use super::{Entry, Place};
use crate::error::{Error, ErrorKind, Result};

const REGION_DEFAULT: &str = "us-east-1";
const PROFILE_DEFAULT: &str = "default";

/// Where a store on S3 is, and where its credentials are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct S3Place {
    pub bucket: String,
    pub prefix: String,
    pub endpoint: String,
    pub region: String,
    pub path_style: bool,
    /// Without: the environment.
    pub credentials: Option<PathBuf>,
    pub profile: String,
}

/// Whose requests are made. The secret is in no message.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct S3Key {
    pub access_key: String,
    pub secret_key: String,
    /// Of a key that runs out.
    pub session_token: Option<String>,
}

impl fmt::Debug for S3Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Key").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

fn invalid(words: impl Into<String>) -> Error {
    Error::sentence(ErrorKind::Invalid, words)
}

/// "//bucket" or "//bucket/prefix".
pub(super) fn parse_bucket(text: &str) -> Result<S3Place> {
    let refused = |words: &str| Err(invalid(format!("'s3:{text}' {words}")));
    let Some(rest) = text.strip_prefix("//") else {
        return refused("names no bucket: write s3://bucket or s3://bucket/prefix");
    };
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = prefix.trim_end_matches('/');
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if bucket.is_empty() || !bucket.bytes().all(plain) {
        return refused("names no bucket: write s3://bucket or s3://bucket/prefix");
    }
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(plain) && word != "." && word != "..";
    if !prefix.is_empty() && !prefix.split('/').all(is_word) {
        return refused("has a prefix with more than A-Z a-z 0-9 . _ - and single slashes");
    }
    Ok(S3Place {
        bucket: bucket.to_owned(),
        prefix: prefix.to_owned(),
        endpoint: String::new(),
        region: REGION_DEFAULT.to_owned(),
        path_style: false,
        credentials: None,
        profile: PROFILE_DEFAULT.to_owned(),
    })
}

/// The keys that are for S3 alone and are there. Error: with the key.
pub(super) fn place_of(entry: &Entry, place: Place) -> std::result::Result<Place, (&'static str, Error)> {
    let Place::S3(mut place) = place else {
        let told = [
            ("s3_endpoint", entry.s3_endpoint.is_some()),
            ("s3_region", entry.s3_region.is_some()),
            ("s3_path_style", entry.s3_path_style.is_some()),
            ("s3_credentials", entry.s3_credentials.is_some()),
            ("s3_profile", entry.s3_profile.is_some()),
        ];
        return match told.into_iter().find(|(_, is_told)| *is_told) {
            Some((key, _)) => Err((key, invalid("it is for stores of kind 's3:' only"))),
            None => Ok(place),
        };
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if let Some(region) = &entry.s3_region {
        if region.is_empty() || !region.bytes().all(plain) {
            return Err(("s3_region", invalid("write a name such as \"eu-central-1\"")));
        }
        place.region.clone_from(region);
    }
    place.endpoint = match &entry.s3_endpoint {
        None => format!("https://s3.{}.amazonaws.com", place.region),
        Some(endpoint) => parse_endpoint(endpoint).map_err(|error| ("s3_endpoint", error))?,
    };
    // Few servers beside Amazon's have a name for each bucket.
    place.path_style = entry.s3_path_style.unwrap_or(entry.s3_endpoint.is_some());
    if let Some(path) = &entry.s3_credentials {
        if !path.is_absolute() {
            return Err(("s3_credentials", invalid("begin it with /")));
        }
        place.credentials = Some(path.clone());
    }
    if let Some(profile) = &entry.s3_profile {
        place.profile.clone_from(profile);
    }
    Ok(Place::S3(place))
}

fn parse_endpoint(text: &str) -> Result<String> {
    let text = text.trim_end_matches('/');
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']');
    match host {
        Some(host) if !host.is_empty() && host.bytes().all(plain) => Ok(text.to_owned()),
        _ => Err(invalid(format!(
            "'{}' is no address of a server: write https://host or http://host:port",
            text.escape_debug()
        ))),
    }
}

/// The key of a store: of its file of credentials, or of the environment. Error:
/// `Denied`, which names what was looked at and none of what is there.
pub fn s3_key(place: &S3Place) -> Result<S3Key> {
    let Some(path) = &place.credentials else {
        let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let session_token = variable("AWS_SESSION_TOKEN");
        return match (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")) {
            (Some(access_key), Some(secret_key)) => Ok(S3Key { access_key, secret_key, session_token }),
            _ => Err(Error::sentence(
                ErrorKind::Denied,
                "there are no credentials for S3: name a file with s3_credentials, or set AWS_ACCESS_KEY_ID \
                 and AWS_SECRET_ACCESS_KEY",
            )),
        };
    };
    let text = std::fs::read_to_string(path).map_err(|error| {
        Error::from_io("read the credentials", error).on_named(path.display().to_string())
    })?;
    key_in(&text, &place.profile).map_err(|missing| {
        let (profile, path): (_, &Path) = (&place.profile, path);
        let words = format!("{}: profile '{profile}' has no {missing}", path.display());
        Error::sentence(ErrorKind::Denied, words)
    })
}

/// Error: what is not there.
fn key_in(text: &str, profile: &str) -> std::result::Result<S3Key, &'static str> {
    let (mut inside, mut access_key, mut secret_key, mut session_token) = (false, None, None, None);
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            inside = section.trim() == profile;
        } else if let (true, Some((name, value))) = (inside, line.split_once('=')) {
            let value = Some(value.trim().to_owned()).filter(|value| is_plain(value));
            match name.trim() {
                "aws_access_key_id" => access_key = value,
                "aws_secret_access_key" => secret_key = value,
                "aws_session_token" => session_token = value,
                _ => {}
            }
        }
    }
    let access_key = access_key.ok_or("aws_access_key_id")?;
    Ok(S3Key { access_key, secret_key: secret_key.ok_or("aws_secret_access_key")?, session_token })
}

/// It goes into a header.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    // A prefix or a host that is read differently by two programs is another
    // store; a secret in an error is one in a log.

    #[test]
    fn buckets_and_prefixes() {
        let place = parse_bucket("//vms/prod/a.b/").unwrap();
        assert_eq!((place.bucket.as_str(), place.prefix.as_str()), ("vms", "prod/a.b"));
        assert_eq!(parse_bucket("//vms").unwrap().prefix, "");
        for text in ["vms", "/vms", "//", "///p", "//b/../x", "//b/a//b", "//b/a b", "//b c/x", "//b/x?y"] {
            assert!(parse_bucket(text).unwrap_err().is(ErrorKind::Invalid), "{text}");
        }
    }

    #[test]
    fn endpoints() {
        for text in ["http://127.0.0.1:7480/", "https://s3.example.org", "http://[::1]:80"] {
            assert_eq!(parse_endpoint(text).unwrap(), text.trim_end_matches('/'));
        }
        for text in ["s3.example.org", "ftp://a", "http://", "https://user@host", "https://host/path"] {
            assert!(parse_endpoint(text).is_err(), "{text}");
        }
    }

    #[test]
    fn credentials_are_those_of_the_profile_and_stay_secret() {
        let text = "# mine\n[default]\naws_access_key_id = A1\naws_secret_access_key=S1\n\n\
                    [ other ]\naws_secret_access_key = S2/=+\naws_access_key_id=A2\naws_session_token = T2\n\
                    [bad]\naws_access_key_id = A3\n";
        let key = key_in(text, "default").unwrap();
        assert_eq!((key.access_key.as_str(), key.secret_key.as_str(), key.session_token), ("A1", "S1", None));
        let key = key_in(text, "other").unwrap();
        assert_eq!((key.access_key.as_str(), key.secret_key.as_str()), ("A2", "S2/=+"));
        assert_eq!(key.session_token.as_deref(), Some("T2"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        std::fs::write(&path, text.replace("[bad]", "[bad]\naws_session_token = hidden")).unwrap();
        let place =
            S3Place { credentials: Some(path), profile: "bad".into(), ..parse_bucket("//b").unwrap() };
        let error = s3_key(&place).err().unwrap();
        let words = error.full();
        assert!(
            error.is(ErrorKind::Denied) && words.contains("'bad' has no aws_secret_access_key"),
            "{words}"
        );
        assert!(!words.contains("A3") && !words.contains("hidden"), "{words}");
    }
}
