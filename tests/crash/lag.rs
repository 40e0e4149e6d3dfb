//! Listings that are old, as the clients of a network file system show them:
//! each folder as it was when it was last looked at.

use std::collections::HashSet;

use archipelago::backend::order::ByText;
use archipelago::name::ObjectName;

use super::image::{hash_bytes, mix, Image};

/// What was there when the folders that lag were looked at.
#[derive(Clone, Debug)]
pub struct Lag {
    before: Image,
    folders: HashSet<String>,
    seed: u64,
}

/// The folders on the way to an object, outermost first.
fn folders(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices('/').map(|(at, _)| &text[..=at])
}

impl Lag {
    /// `seed` says which folders lag: about half of them.
    pub fn new(before: Image, seed: u64) -> Lag {
        let folders = before.names().flat_map(|(_, text)| folders(text)).map(str::to_owned).collect();
        Lag { before, folders, seed }
    }

    /// A folder that was not there before is in no old listing of its own.
    fn lags(&self, folder: &str) -> bool {
        mix(self.seed, hash_bytes(folder.as_bytes())) & 1 == 0 && self.folders.contains(folder)
    }

    fn shows(&self, text: &str, prefix: &str, is_old: bool) -> bool {
        // On the way down from where the listing begins a folder that is new
        // is not seen in an old one.
        let hides = |(folder, next): (&str, &str)| {
            folder.starts_with(prefix) && self.lags(folder) && !self.folders.contains(next)
        };
        let innermost = folders(text).last().unwrap_or("");
        text.starts_with(prefix)
            && self.lags(innermost) == is_old
            && !folders(text).zip(folders(text).skip(1)).any(hides)
    }

    /// What a listing shows while this is there.
    pub fn list(
        &self,
        now: &Image,
        prefix: &str,
        after: Option<&ObjectName>,
        count_max: usize,
    ) -> Vec<ObjectName> {
        let shown = |image: &Image, is_old: bool| -> Vec<ByText> {
            let names = image.names().filter(|(_, text)| self.shows(text, prefix, is_old));
            names.map(|(name, _)| ByText(name.clone())).collect()
        };
        let mut names = [shown(&self.before, true), shown(now, false)].concat();
        names.sort();
        let after = after.map(|after| ByText(after.clone()));
        let rest = names.into_iter().filter(|name| after.as_ref().is_none_or(|after| name > after));
        rest.take(count_max).map(|name| name.0).collect()
    }
}
