//! How a request to S3 says who it is from: AWS Signature Version 4. What is
//! signed includes the SHA-256 of the content, which the server compares with
//! what it has got.

use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::config::S3Key;

const BLOCK_BYTES: usize = 64;

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut padded = [0_u8; BLOCK_BYTES];
    match key.len() {
        0..=BLOCK_BYTES => padded[..key.len()].copy_from_slice(key),
        _ => padded[..32].copy_from_slice(&Sha256::digest(key)),
    }
    let inner = Sha256::new().chain_update(padded.map(|byte| byte ^ 0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(padded.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize().into()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _cannot_fail = write!(text, "{byte:02x}");
        text
    })
}

pub(super) fn sha256(data: &[u8]) -> String {
    hex(&Sha256::digest(data))
}

/// "20260102T030405Z"
pub(super) fn timestamp(since_1970: Duration) -> String {
    let (days, second) = (since_1970.as_secs() / 86_400, since_1970.as_secs() % 86_400);
    // Years of 400 that begin in March, so that a leap day is the last of one.
    let from_0 = days + 719_468;
    let (era, day) = (from_0 / 146_097, from_0 % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// For a query, or a path in which '/' stays.
pub(super) fn encode(text: &str, keep_slash: bool) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte as char),
            b'/' if keep_slash => out.push('/'),
            _ => {
                let _cannot_fail = write!(out, "%{byte:02X}");
            }
        }
        out
    })
}

/// What a signature is about.
#[derive(Debug)]
pub(super) struct ToSign<'a> {
    pub method: &'a str,
    pub host: &'a str,
    /// As it is sent.
    pub path: &'a str,
    /// Encoded, and in the order of its keys.
    pub query: &'a str,
    /// Names in lower case.
    pub headers: &'a [(&'a str, String)],
    pub content_sha256: &'a str,
    /// See `timestamp`.
    pub time: &'a str,
    pub region: &'a str,
}

/// All headers of a signed request, as lines.
pub(super) fn sign(request: &ToSign<'_>, key: &S3Key) -> Vec<String> {
    let mut headers: Vec<(&str, String)> = request.headers.to_vec();
    headers.push(("host", request.host.to_owned()));
    headers.push(("x-amz-content-sha256", request.content_sha256.to_owned()));
    headers.push(("x-amz-date", request.time.to_owned()));
    if let Some(token) = &key.session_token {
        headers.push(("x-amz-security-token", token.clone()));
    }
    headers.sort();
    let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let canonical: String =
        headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
    let ToSign { method, path, query, content_sha256, time, region, .. } = request;
    let canonical = format!("{method}\n{path}\n{query}\n{canonical}\n{names}\n{content_sha256}");
    let day = time.get(..8).unwrap_or_default();
    let scope = format!("{day}/{region}/s3/aws4_request");
    let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", sha256(canonical.as_bytes()));
    let mut sum = hmac(format!("AWS4{}", key.secret_key).as_bytes(), day.as_bytes());
    for part in [region, "s3", "aws4_request"] {
        sum = hmac(&sum, part.as_bytes());
    }
    let signature = hex(&hmac(&sum, to_sign.as_bytes()));
    let who = &key.access_key;
    let mut lines: Vec<String> =
        headers.into_iter().map(|(name, value)| format!("{name}: {value}")).collect();
    lines.push(format!(
        "authorization: AWS4-HMAC-SHA256 Credential={who}/{scope},SignedHeaders={names},Signature={signature}"
    ));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    // A signature that is wrong for some name or some day is a store that
    // refuses it only then. These are the examples of AWS's documentation.

    fn example() -> S3Key {
        S3Key {
            access_key: "AKIAIOSFODNN7EXAMPLE".into(),
            secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into(),
            session_token: None,
        }
    }

    fn signature(request: &ToSign<'_>) -> String {
        let lines = sign(request, &example());
        lines.last().unwrap().rsplit_once("Signature=").unwrap().1.to_owned()
    }

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn requests_are_signed_as_the_documentation_says() {
        let get = ToSign {
            method: "GET",
            host: "examplebucket.s3.amazonaws.com",
            path: "/test.txt",
            query: "",
            headers: &[("range", "bytes=0-9".to_owned())],
            content_sha256: EMPTY,
            time: "20130524T000000Z",
            region: "us-east-1",
        };
        assert_eq!(signature(&get), "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
        let list = ToSign { path: "/", query: "max-keys=2&prefix=J", headers: &[], ..get };
        assert_eq!(signature(&list), "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
        let sum = sha256(b"Welcome to Amazon S3.");
        let headers = [
            ("date", "Fri, 24 May 2013 00:00:00 GMT".to_owned()),
            ("x-amz-storage-class", "REDUCED_REDUNDANCY".to_owned()),
        ];
        let put = ToSign {
            method: "PUT",
            path: "/test%24file.text",
            query: "",
            headers: &headers,
            content_sha256: &sum,
            ..list
        };
        assert_eq!(signature(&put), "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");
        assert_eq!(encode("/test$file.text", true), put.path);
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "19700101T000000Z"),
            (951_782_399, "20000228T235959Z"),
            (951_782_400, "20000229T000000Z"),
            (1_369_353_600, "20130524T000000Z"),
            (1_767_225_599, "20251231T235959Z"),
            (4_107_542_400, "21000301T000000Z"),
        ] {
            assert_eq!(timestamp(Duration::from_secs(seconds)), text);
        }
    }

    /// RFC 4231, cases 2 and 6: a short key and one that is longer than a block.
    #[test]
    fn keyed_sums_are_those_of_the_standard() {
        let sum = hex(&hmac(b"Jefe", b"what do ya want for nothing?"));
        assert_eq!(sum, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        let sum = hex(&hmac(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First"));
        assert_eq!(sum, "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
    }

    #[test]
    fn the_secret_is_not_shown() {
        assert!(!format!("{:?}", example()).contains("wJal"));
    }
}
