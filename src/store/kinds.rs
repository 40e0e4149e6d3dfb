//! Stores of a kind that a program brings itself: `docs/backends.md`.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};

use crate::backend::Backend;
use crate::config;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::Mutex;

/// What a place of such a kind is asked for with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Asked {
    /// The URL behind the kind and its colon.
    pub rest: String,
    /// Past the page cache, where there is one.
    pub direct: bool,
    /// `archipelago init` makes the place if it is not there. Otherwise one
    /// that is not there is `NotFound`.
    pub makes: bool,
    /// Of what is made, where that is files: mode and group.
    pub mode: u32,
    pub group: Option<u32>,
}

type Open = dyn Fn(&Asked) -> Result<Arc<dyn Backend>> + Send + Sync;

#[derive(Clone)]
struct Kind {
    open: Arc<Open>,
    /// What is open: the disks of one process share it.
    shared: Arc<Mutex<HashMap<Asked, Weak<dyn Backend>>>>,
}

fn kinds() -> &'static Mutex<HashMap<String, Kind>> {
    static KINDS: OnceLock<Mutex<HashMap<String, Kind>>> = OnceLock::new();
    KINDS.get_or_init(Mutex::default)
}

/// From here on `kind:REST` is the URL of a store that `open` opens: in the
/// configuration, and wherever else this process names stores. To be called
/// before the first store is opened.
///
/// Errors: `Invalid` if `kind` is no word of a-z, 0-9, + and -; `Exists` if
/// there is such a kind already.
pub fn add(
    kind: &str,
    open: impl Fn(&Asked) -> Result<Arc<dyn Backend>> + Send + Sync + 'static,
) -> Result<()> {
    // Held across both: who reads such a URL finds what opens it.
    let mut kinds = kinds().lock();
    config::know_kind(kind)?;
    kinds.insert(kind.to_owned(), Kind { open: Arc::new(open), shared: Arc::default() });
    Ok(())
}

pub(super) fn open(kind: &str, asked: &Asked) -> Result<Arc<dyn Backend>> {
    let Some(found) = kinds().lock().get(kind).cloned() else {
        let words = format!("nothing in this program opens stores of kind '{kind}:'");
        return Err(Error::sentence(ErrorKind::Invalid, words));
    };
    let key = Asked { makes: false, ..asked.clone() };
    let mut shared = found.shared.lock();
    if let Some(backend) = shared.get(&key).and_then(Weak::upgrade) {
        return Ok(backend);
    }
    let backend = (found.open)(asked)?;
    shared.retain(|_, backend| backend.strong_count() > 0);
    shared.insert(key, Arc::downgrade(&backend));
    Ok(backend)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::backend::memory::Memory;
    use crate::config::understand_text;
    use crate::store::open::{init_store, open_configured};

    // A kind that is known to the configuration and not to what opens stores,
    // or opened twice in one process, has volumes with two writers.

    #[test]
    fn a_kind_that_is_added_is_configured_made_and_shared() {
        let path = std::path::Path::new("archipelago.toml");
        let text = b"[stores.main]\nurl = 'own:a place'\nceph_user = 'x'\n";
        let plain = b"[stores.main]\nurl = 'own:a place'\n";
        assert!(understand_text(path, plain).unwrap_err().to_string().contains("is no URL of a store"));
        let (memory, opened) = (Memory::new(), Arc::new(AtomicU64::new(0)));
        let count = Arc::clone(&opened);
        add("own", move |asked| {
            assert_eq!(asked.rest, "a place");
            count.fetch_add(1, Ordering::SeqCst);
            Ok(Arc::new(memory.clone()))
        })
        .unwrap();
        assert!(understand_text(path, text).unwrap_err().to_string().contains("'rados:' only"));
        let config = understand_text(path, plain).unwrap();
        let made = init_store(&config, None, None).unwrap();
        let again = open_configured(&config, None, false, false).unwrap();
        assert!(Arc::ptr_eq(made.control(), again.control()));
        assert_eq!((made.id, opened.load(Ordering::SeqCst)), (again.id, 1));
        drop((made, again));
        open_configured(&config, None, false, false).unwrap();
        assert_eq!(opened.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_kind_is_added_once_and_is_a_word() {
        let open = |_: &Asked| -> Result<Arc<dyn Backend>> { Ok(Arc::new(Memory::new())) };
        for ours in ["dir", "memory", "rados", "s3", "gluster", "nfs"] {
            assert!(add(ours, open).unwrap_err().is(ErrorKind::Exists), "{ours}");
        }
        for text in ["", "A", "1a", "a b", "a:", "a/"] {
            assert!(add(text, open).unwrap_err().is(ErrorKind::Invalid), "{text}");
        }
        add("once+1-a", open).unwrap();
        assert!(add("once+1-a", open).unwrap_err().is(ErrorKind::Exists));
    }
}
