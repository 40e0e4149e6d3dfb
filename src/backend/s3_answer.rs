//! What S3 answers: errors with a code, and lists.

use crate::error::{Error, ErrorKind};
use crate::sys::curl::Answer;

/// The text of the first element of this name.
pub(super) fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (begin, end) = (format!("<{name}>"), format!("</{name}>"));
    let rest = &text[text.find(&begin)? + begin.len()..];
    rest.find(&end).map(|at| &rest[..at])
}

/// Text as it was before it was put into XML.
pub(super) fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        let end = rest[at..].find(';').map(|length| at + length);
        let word = end.map_or("", |end| &rest[at + 1..end]);
        let number = word.strip_prefix("#x").map(|hex| u32::from_str_radix(hex, 16));
        let number = number.or_else(|| word.strip_prefix('#').map(str::parse));
        let one = match (word, number) {
            ("amp", _) => Some('&'),
            ("lt", _) => Some('<'),
            ("gt", _) => Some('>'),
            ("quot", _) => Some('"'),
            ("apos", _) => Some('\''),
            (_, Some(Ok(number))) => char::from_u32(number),
            _ => None,
        };
        match (one, end) {
            (Some(one), Some(end)) => {
                out.push(one);
                rest = &rest[end + 1..];
            }
            _ => {
                out.push('&');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// The code of an error, such as "SlowDown"; "" if there is none.
pub(super) fn code_of(answer: &Answer) -> String {
    let text = String::from_utf8_lossy(&answer.body);
    element(&text, "Code").map(unescape).unwrap_or_default()
}

/// A page of a list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub keys: Vec<String>,
    /// There is more, from here on.
    pub next: Option<String>,
}

/// Reads a page; `None` if it is none, or not all of one.
pub(super) fn page_of(body: &[u8]) -> Option<Page> {
    let text = std::str::from_utf8(body).ok()?;
    let inside = element(text, "ListBucketResult").or_else(|| {
        // With the name of its language.
        let begin = text.find("<ListBucketResult ")?;
        let rest = &text[begin..];
        Some(&rest[rest.find('>')? + 1..rest.find("</ListBucketResult>")?])
    })?;
    let is_truncated = element(inside, "IsTruncated")? == "true";
    let next = element(inside, "NextContinuationToken").map(unescape);
    if is_truncated && next.is_none() {
        return None;
    }
    let keys = inside.split("<Contents>").skip(1);
    let keys: Option<Vec<String>> = keys.map(|one| element(one, "Key").map(unescape)).collect();
    Some(Page { keys: keys?, next: next.filter(|_| is_truncated) })
}

/// "bytes 5-9/100": first, last, of how many.
pub(super) fn range_of(text: &str) -> Option<(u64, u64, u64)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.trim().parse().ok()?, last.trim().parse().ok()?, total.trim().parse().ok()?))
}

/// What a server means that does not do what it is asked for.
pub(super) fn refused(operation: &'static str, bucket: &str, answer: &Answer) -> Error {
    let text = String::from_utf8_lossy(&answer.body);
    let (code, said) = (code_of(answer), element(&text, "Message").map(unescape).unwrap_or_default());
    let kind = match (answer.status, code.as_str()) {
        (_, "QuotaExceeded" | "StorageFull") | (507, _) => ErrorKind::NoSpace,
        (404, "NoSuchBucket") => ErrorKind::Invalid,
        (404, _) => ErrorKind::NotFound,
        (401 | 403, _) => ErrorKind::Denied,
        (300..=399, _) => ErrorKind::Invalid,
        (400..=499, _) => ErrorKind::Invalid,
        _ => ErrorKind::Unavailable,
    };
    let next = match (answer.status, code.as_str()) {
        (_, "NoSuchBucket") => format!("; there is no bucket '{bucket}': make it first"),
        (_, "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" | "ExpiredToken") => {
            "; the credentials are wrong: see s3_credentials".to_owned()
        }
        (_, "RequestTimeTooSkewed") => "; this host's clock is wrong: set it".to_owned(),
        (300..=399, _) | (_, "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException") => {
            "; the bucket is elsewhere: see s3_region and s3_endpoint".to_owned()
        }
        (401 | 403, _) => format!("; may these credentials use the bucket '{bucket}'?"),
        _ => String::new(),
    };
    let mut message = format!("the server says {} {code} {said}", answer.status).trim_end().to_owned();
    message.push_str(&next);
    Error::new(kind, operation).because(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    // An answer that ends early, or that is somebody else's, must not pass for
    // one that says "nothing there".

    const LIST: &str = "<?xml version=\"1.0\"?><ListBucketResult xmlns=\"http://s3\"><Name>b</Name>\
        <IsTruncated>true</IsTruncated><NextContinuationToken>p/a&amp;b</NextContinuationToken>\
        <Contents><Key>p/a</Key><Size>1</Size></Contents><Contents><Key>p/a&#38;b</Key></Contents>\
        </ListBucketResult>";

    #[test]
    fn lists_are_read_whole_or_not_at_all() {
        let page = page_of(LIST.as_bytes()).unwrap();
        assert_eq!(page.keys, ["p/a", "p/a&b"]);
        assert_eq!(page.next.as_deref(), Some("p/a&b"));
        for bytes in 0..LIST.len() {
            assert_eq!(page_of(&LIST.as_bytes()[..bytes]), None, "{bytes} bytes");
        }
        let last = LIST.replace(">true<", ">false<").replace("NextContinuationToken", "Other");
        assert_eq!(page_of(last.as_bytes()).unwrap().next, None);
        let lost = LIST.replace("NextContinuationToken", "Other");
        assert_eq!(page_of(lost.as_bytes()), None, "there is more, and it does not say from where");
        assert_eq!(page_of(b"<html>welcome</html>"), None);
        let empty = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
        assert_eq!(page_of(empty.as_bytes()).unwrap().keys, Vec::<String>::new());
    }

    #[test]
    fn texts_come_back() {
        assert_eq!(unescape("a&lt;b&gt;&amp;&quot;&apos;&#x41;&#66;&;&nothing;&"), "a<b>&\"'AB&;&nothing;&");
        assert_eq!(range_of("bytes 5-9/100"), Some((5, 9, 100)));
        for text in ["bytes 5-9/*", "5-9/100", "bytes */100", "bytes 5-9"] {
            assert_eq!(range_of(text), None, "{text}");
        }
    }

    #[test]
    fn errors_say_what_to_do() {
        let answer = |status, code: &str| Answer {
            status,
            body: format!("<Error><Code>{code}</Code><Message>so it is</Message></Error>").into_bytes(),
            ..Answer::default()
        };
        for (status, code, kind, words) in [
            (404, "NoSuchKey", ErrorKind::NotFound, "so it is"),
            (404, "NoSuchBucket", ErrorKind::Invalid, "no bucket 'b'"),
            (403, "InvalidAccessKeyId", ErrorKind::Denied, "s3_credentials"),
            (403, "RequestTimeTooSkewed", ErrorKind::Denied, "clock"),
            (403, "QuotaExceeded", ErrorKind::NoSpace, "so it is"),
            (301, "PermanentRedirect", ErrorKind::Invalid, "s3_region"),
            (403, "AccessDenied", ErrorKind::Denied, "may these credentials"),
            (501, "NotImplemented", ErrorKind::Unavailable, "NotImplemented"),
        ] {
            let error = refused("read", "b", &answer(status, code));
            assert!(error.is(kind) && error.to_string().contains(words), "{error}");
        }
    }
}
