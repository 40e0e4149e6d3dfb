//! Ceph's C library, second part: the values that an object has by key, and
//! its locks.

use std::ptr::null_mut;
use std::time::Duration;

use super::librados::{rados_omap_iter_t, timeval, Librados};
use super::rados::{answer, text, Answer, Errno, Locker, Pool};

/// LIBRADOS_LOCK_FLAG_MUST_RENEW.
const MUST_RENEW: u8 = 2;

/// Locks are ours; others may have theirs on the same object.
const TAG: &str = "archipelago";

/// Keys and their values, in byte order.
pub type Values = Vec<(String, Vec<u8>)>;

/// What an iterator holds, which is freed. A key that is no text is not ours.
fn take(library: &Librados, iterator: rados_omap_iter_t) -> Answer<Values> {
    let mut found = Vec::new();
    let result = loop {
        let (mut key, mut value) = (null_mut(), null_mut());
        let (mut key_bytes, mut value_bytes) = (0, 0);
        // SAFETY: all four places live; what they are given stays until the end.
        let next = unsafe {
            library.rados_omap_get_next2(iterator, &mut key, &mut value, &mut key_bytes, &mut value_bytes)
        };
        match answer(next) {
            Err(errno) => break Err(errno),
            Ok(_) if key.is_null() => break Ok(found),
            Ok(_) => {}
        }
        // SAFETY: as above; an empty value may be null.
        let (key, value) = unsafe {
            let value = match value.is_null() {
                true => &[],
                false => std::slice::from_raw_parts(value.cast::<u8>(), value_bytes),
            };
            (std::slice::from_raw_parts(key.cast::<u8>(), key_bytes), value)
        };
        if let Ok(key) = std::str::from_utf8(key) {
            found.push((key.to_owned(), value.to_vec()));
        }
    };
    // SAFETY: the iterator is not used afterwards.
    unsafe { library.rados_omap_get_end(iterator) };
    result
}

impl Pool {
    /// Up to `count_max` values whose keys begin with `prefix` and come after
    /// `after`. An object that is not there has none.
    pub fn values(&self, object: &str, after: &str, prefix: &str, count_max: usize) -> Answer<Values> {
        let mut found: Values = Vec::new();
        while found.len() < count_max {
            let last = found.last().map_or(after, |(key, _)| key.as_str());
            let (more, has_more) = self.some_values(object, last, prefix, count_max - found.len())?;
            let is_all = more.is_empty() || !has_more;
            found.extend(more);
            if is_all {
                break;
            }
        }
        Ok(found)
    }

    /// As many as the cluster gives at once, and whether there are more.
    fn some_values(
        &self,
        object: &str,
        after: &str,
        prefix: &str,
        count_max: usize,
    ) -> Answer<(Values, bool)> {
        let library = self.client.library;
        let (after, prefix) = (text(after), text(prefix));
        let (mut iterator, mut more, mut result) = (null_mut(), 0, 0);
        // SAFETY: all places and strings live until `rados_read_op_operate` has
        // returned; the operation is freed once.
        let done = unsafe {
            let op = library.rados_create_read_op();
            library.rados_read_op_omap_get_vals2(
                op,
                after.as_ptr(),
                prefix.as_ptr(),
                count_max as u64,
                &mut iterator,
                &mut more,
                &mut result,
            );
            let done = library.rados_read_op_operate(op, self.io, text(object).as_ptr(), 0);
            library.rados_release_read_op(op);
            done
        };
        Ok((taken(library, done, result, iterator)?, more != 0))
    }

    /// One value. An object that is not there has none.
    pub fn value(&self, object: &str, key: &str) -> Answer<Option<Vec<u8>>> {
        let library = self.client.library;
        let (mut iterator, mut result) = (null_mut(), 0);
        let keys = [key.as_ptr().cast()];
        // SAFETY: as in `values`; one key, whose length is given.
        let done = unsafe {
            let op = library.rados_create_read_op();
            library.rados_read_op_omap_get_vals_by_keys2(
                op,
                keys.as_ptr(),
                1,
                &key.len(),
                &mut iterator,
                &mut result,
            );
            let done = library.rados_read_op_operate(op, self.io, text(object).as_ptr(), 0);
            library.rados_release_read_op(op);
            done
        };
        Ok(taken(library, done, result, iterator)?.pop().map(|(_, value)| value))
    }

    /// Takes a lock that goes by itself when it is not renewed for so long.
    /// Error: EBUSY.
    pub fn lock(&self, object: &str, lock: &str, cookie: &str, shared: bool, lasts: Duration) -> Answer<()> {
        self.lock_with(object, lock, cookie, shared, lasts, 0)
    }

    /// Error: ENOENT if it is not held any more.
    pub fn renew(&self, object: &str, lock: &str, cookie: &str, shared: bool, lasts: Duration) -> Answer<()> {
        self.lock_with(object, lock, cookie, shared, lasts, MUST_RENEW)
    }

    fn lock_with(
        &self,
        object: &str,
        lock: &str,
        cookie: &str,
        shared: bool,
        lasts: Duration,
        flags: u8,
    ) -> Answer<()> {
        let library = self.client.library;
        let (object, lock, cookie) = (text(object), text(lock), text(cookie));
        let (tag, nothing) = (text(TAG), text(""));
        let mut lasts = timeval {
            tv_sec: lasts.as_secs() as libc::c_long,
            tv_usec: libc::c_long::from(lasts.subsec_micros()),
        };
        // SAFETY: all strings and the time live until it returns.
        let done = unsafe {
            match shared {
                true => library.rados_lock_shared(
                    self.io,
                    object.as_ptr(),
                    lock.as_ptr(),
                    cookie.as_ptr(),
                    tag.as_ptr(),
                    nothing.as_ptr(),
                    &mut lasts,
                    flags,
                ),
                false => library.rados_lock_exclusive(
                    self.io,
                    object.as_ptr(),
                    lock.as_ptr(),
                    cookie.as_ptr(),
                    nothing.as_ptr(),
                    &mut lasts,
                    flags,
                ),
            }
        };
        answer(done).map(drop)
    }

    pub fn unlock(&self, object: &str, lock: &str, cookie: &str) -> Answer<()> {
        let (object, lock, cookie) = (text(object), text(lock), text(cookie));
        // SAFETY: all strings live until it returns.
        let done = unsafe {
            self.client.library.rados_unlock(self.io, object.as_ptr(), lock.as_ptr(), cookie.as_ptr())
        };
        answer(done).map(drop)
    }

    /// Takes a lock away from whoever holds it.
    pub fn break_lock(&self, object: &str, lock: &str, locker: &Locker) -> Answer<()> {
        let (object, lock) = (text(object), text(lock));
        let (client, cookie) = (text(&locker.client), text(&locker.cookie));
        // SAFETY: all strings live until it returns.
        let done = unsafe {
            self.client.library.rados_break_lock(
                self.io,
                object.as_ptr(),
                lock.as_ptr(),
                client.as_ptr(),
                cookie.as_ptr(),
            )
        };
        answer(done).map(drop)
    }

    /// Who holds a lock, at most some hundreds.
    pub fn lockers(&self, object: &str, lock: &str) -> Answer<Vec<Locker>> {
        const ROOM_BYTES: usize = 64 << 10;
        let (object, lock) = (text(object), text(lock));
        let mut exclusive = 0;
        let mut rooms: [Vec<u8>; 4] = std::array::from_fn(|_| vec![0; ROOM_BYTES]);
        let mut lengths = [ROOM_BYTES; 4];
        let [tags, clients, cookies, addresses] = &mut rooms;
        let [tags_bytes, clients_bytes, cookies_bytes, addresses_bytes] = &mut lengths;
        // SAFETY: each room is as long as its length says, and lives.
        let count = unsafe {
            self.client.library.rados_list_lockers(
                self.io,
                object.as_ptr(),
                lock.as_ptr(),
                &mut exclusive,
                tags.as_mut_ptr().cast(),
                tags_bytes,
                clients.as_mut_ptr().cast(),
                clients_bytes,
                cookies.as_mut_ptr().cast(),
                cookies_bytes,
                addresses.as_mut_ptr().cast(),
                addresses_bytes,
            )
        };
        if count < 0 {
            return Err(Errno(i32::try_from(count.saturating_neg()).unwrap_or(libc::EIO)));
        }
        let parts = |room: usize| {
            let text = String::from_utf8_lossy(&rooms[room][..lengths[room].min(ROOM_BYTES)]).into_owned();
            text.split('\0').map(str::to_owned).take(count as usize).collect::<Vec<String>>()
        };
        let found = parts(1).into_iter().zip(parts(2)).zip(parts(3));
        Ok(found.map(|((client, cookie), address)| Locker { client, cookie, address }).collect())
    }
}

/// What a reading operation found: that there is no object is no value.
pub(super) fn taken(
    library: &Librados,
    done: libc::c_int,
    result: libc::c_int,
    iterator: rados_omap_iter_t,
) -> Answer<Values> {
    let checked = answer(done).and_then(|_| answer(result));
    match checked {
        Err(errno) => {
            if !iterator.is_null() {
                // SAFETY: it was made, and nobody uses it.
                unsafe { library.rados_omap_get_end(iterator) };
            }
            match errno {
                Errno(libc::ENOENT) => Ok(Vec::new()),
                other => Err(other),
            }
        }
        Ok(_) if iterator.is_null() => Ok(Vec::new()),
        Ok(_) => take(library, iterator),
    }
}
