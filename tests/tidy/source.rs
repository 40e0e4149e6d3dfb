//! Source text as the rules see it: what is code, what is a test, where a function ends.

/// One source file: as it is, and with comments and literals blanked out.
pub struct Source {
    /// Below src/, such as "io/mod.rs".
    pub path: String,
    pub text: String,
    pub code: String,
    /// For each line, whether only tests see it.
    pub is_test: Vec<bool>,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Source {
        let code = blank(text);
        let is_test = test_lines(path, text, &code);
        Source { path: path.to_owned(), text: text.to_owned(), code, is_test }
    }

    pub fn layer(&self) -> &str {
        let first = self.path.split('/').next().unwrap();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// Lines of code that are not tests, with their numbers.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.lines().enumerate().filter(|(at, _)| !self.is_test[*at]).map(|(at, line)| (at + 1, line))
    }

    pub fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|place| self.path.starts_with(place))
    }
}

/// The text with comments, strings and characters replaced by blanks.
pub fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = at + literal_bytes(text, at).max(1);
        if end > at + 1 {
            for byte in &mut out[at..end] {
                *byte = if *byte == b'\n' { b'\n' } else { b' ' };
            }
        }
        at = end;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// How long the comment or literal that begins here is; 0 if none does.
pub fn literal_bytes(text: &str, at: usize) -> usize {
    let rest = &text.as_bytes()[at..];
    let find = |what: &str| text.get(at..).and_then(|rest| rest.find(what)).unwrap_or(rest.len());
    let in_word = at > 0 && is_word_byte(text.as_bytes()[at - 1]);
    match rest {
        [b'/', b'/', ..] => find("\n"),
        [b'/', b'*', ..] => find("*/") + 2,
        [b'r', b'"' | b'#', ..] if !in_word => {
            let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
            if rest.get(1 + hashes) != Some(&b'"') {
                return 0;
            }
            let end = format!("\"{}", "#".repeat(hashes));
            let body = 2 + hashes;
            body + text[at + body..].find(&end).map_or(0, |found| found + end.len())
        }
        [b'"', ..] => 1 + quoted_bytes(&rest[1..], b'"'),
        [b'\'', b'\\', ..] => 1 + quoted_bytes(&rest[1..], b'\''),
        // A lifetime has no quote behind its first character.
        [b'\'', ..] => {
            let width = text.get(at + 1..).and_then(|rest| rest.chars().next()).map_or(0, char::len_utf8);
            if rest.get(1 + width) == Some(&b'\'') {
                2 + width
            } else {
                0
            }
        }
        _ => 0,
    }
}

/// Bytes up to and with the closing quote.
pub fn quoted_bytes(rest: &[u8], quote: u8) -> usize {
    let mut at = 0;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// A file of tests, or what `#[cfg(test)]` stands before at the left margin.
pub fn test_lines(path: &str, text: &str, code: &str) -> Vec<bool> {
    let is_kit = path.contains("/conformance") || path.starts_with("testkit/");
    let is_file = path.contains("/tests/") || path.ends_with("tests.rs") || is_kit;
    let mut lines = Vec::new();
    let mut inside = false;
    for (line, code) in text.lines().zip(code.lines()) {
        inside = inside || line == "#[cfg(test)]";
        lines.push(is_file || inside);
        if inside && (code == "}" || (code.ends_with(';') && !code.starts_with(' '))) {
            inside = false;
        }
    }
    lines
}

pub fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Whether `what` stands in `line` and is not the end of a longer name.
pub fn contains_name(line: &str, what: &str) -> bool {
    let starts_name = is_word_byte(what.as_bytes()[0]);
    line.match_indices(what).any(|(at, _)| !starts_name || at == 0 || !is_word_byte(line.as_bytes()[at - 1]))
}

/// Where a function's body begins; `None` for a declaration without one.
fn body_of(function: &str) -> Option<usize> {
    let mut depth = 0usize;
    let at = function.bytes().position(|byte| {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && matches!(byte, b'{' | b';')
    })?;
    (function.as_bytes()[at] == b'{').then_some(at)
}

/// The functions of some code: their first line and how many lines they have.
pub fn functions(code: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        if at > 0 && is_word_byte(code.as_bytes()[at - 1]) {
            continue;
        }
        let Some(open) = body_of(&code[at..]) else { continue };
        let mut depth = 0usize;
        let body = code[at + open..].bytes().take_while(|byte| {
            depth = match byte {
                b'{' => depth + 1,
                b'}' => depth - 1,
                _ => depth,
            };
            depth > 0
        });
        let end = at + open + body.count();
        let lines = |range: &str| range.matches('\n').count();
        found.push((lines(&code[..at]) + 1, lines(&code[at..end]) + 1));
    }
    found
}

/// "OneWord two_words" as one, word, two, words.
pub fn split_words(line: &str) -> Vec<String> {
    let mut out = vec![String::new()];
    let mut was_lower = false;
    for c in line.chars() {
        if !c.is_ascii_alphabetic() || (was_lower && c.is_ascii_uppercase()) {
            out.push(String::new());
        }
        was_lower = c.is_ascii_lowercase();
        if c.is_ascii_alphabetic() {
            out.last_mut().unwrap().push(c.to_ascii_lowercase());
        }
    }
    out
}
