//! Listings that are old, as the clients of a network file system show them:
//! each folder as it was when it was last looked at.

use archipelago::backend::order::ByText;
use archipelago::name::ObjectName;

use super::image::{hash_bytes, mix, Image};

/// What was there when the folders that lag were looked at.
#[derive(Clone, Debug)]
pub struct Lag {
    pub before: Image,
    /// Says which folders lag: about half of them.
    pub seed: u64,
}

impl Lag {
    /// What a listing shows while this is there.
    pub fn list(
        &self,
        now: &Image,
        prefix: &str,
        after: Option<&ObjectName>,
        count_max: usize,
    ) -> Vec<ObjectName> {
        let all = |image: &Image| -> Vec<ObjectName> { image.names().cloned().collect() };
        let before = all(&self.before);
        let was_there = |folder: &str| before.iter().any(|name| name.to_string().starts_with(folder));
        // A folder that was not there before is in no old listing of its own.
        let lags = |folder: &str| mix(self.seed, hash_bytes(folder.as_bytes())) & 1 == 0 && was_there(folder);
        let is_shown = |name: &ObjectName, is_old: bool| {
            let text = name.to_string();
            let mut folders = text.match_indices('/').map(|(at, _)| &text[..=at]);
            let innermost = text.rfind('/').map_or("", |at| &text[..=at]);
            // On the way down from where the listing begins a folder that is
            // new is not seen in an old one.
            let is_hidden = folders.any(|folder| {
                let next = text[folder.len()..].find('/').map(|at| &text[..=folder.len() + at]);
                folder.starts_with(prefix) && lags(folder) && next.is_some_and(|next| !was_there(next))
            });
            text.starts_with(prefix) && !is_hidden && lags(innermost) == is_old
        };
        let mut names: Vec<ByText> =
            before.iter().filter(|name| is_shown(name, true)).cloned().map(ByText).collect();
        names.extend(all(now).into_iter().filter(|name| is_shown(name, false)).map(ByText));
        names.sort();
        let after = after.map(|after| ByText(after.clone()));
        let rest = names.into_iter().filter(|name| after.as_ref().is_none_or(|after| name > after));
        rest.take(count_max).map(|name| name.0).collect()
    }
}
