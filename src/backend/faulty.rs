//! `faulty`: fails on demand, in every way that a store can fail. Counts
//! calls and bytes too. Deterministic: what happens depends on the calls
//! alone.

use std::fmt;
// Nobody waits for what they count: a model checker need not stop at them.
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use super::faulty_data::FaultyData;
use super::{Backend, Capabilities, DataPath, Lock, LockMode, ObjectStat};
use crate::error::{Error, ErrorKind, Result};
use crate::name::ObjectName;
use crate::sync::Mutex;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    Create,
    CreateSparse,
    Read,
    Write,
    Punch,
    Sync,
    Delete,
    Stat,
    List,
    Copy,
    Lock,
    NextData,
}

const METHODS: usize = Method::NextData as usize + 1;

impl Method {
    fn verb(self) -> &'static str {
        match self {
            Method::Create | Method::CreateSparse => "create",
            Method::Read => "read",
            Method::Write => "write",
            Method::Punch => "punch",
            Method::Sync => "sync",
            Method::Delete => "delete",
            Method::Stat => "stat",
            Method::List => "list",
            Method::Copy => "copy",
            Method::Lock => "lock",
            Method::NextData => "look for data in",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Not applied. A write applies nothing of it.
    Fail(ErrorKind),
    /// Applied, and reported as `Unknown`.
    FailAfterApplying,
    /// Applied, and reported so all the same: as a write or a punch may that
    /// says it failed.
    FailApplied(ErrorKind),
    /// A write or a punch applies about the first half of it and fails so;
    /// everything else applies nothing.
    Short(ErrorKind),
    /// Applied twice; the second answer is the one that counts.
    Twice,
    /// Reported as `Unknown`, and applied when the test calls `settle_late`.
    ApplyLate,
    /// A read gives this many bytes fewer than there are.
    Truncate(usize),
    /// A read has this bit wrong (counted from its beginning).
    FlipBit(usize),
    /// Nothing but late.
    Delay(Duration),
}

/// Which calls a fault strikes.
#[derive(Clone, Debug)]
pub struct Rule {
    fault: Fault,
    method: Option<Method>,
    prefix: String,
    when: Option<When>,
    skip: u64,
    times: u64,
}

/// Asked about each call that fits otherwise, on the caller's thread.
#[derive(Clone)]
struct When(Arc<Asked>);

type Asked = dyn Fn(Method, &[&ObjectName]) -> bool + Send + Sync;

impl fmt::Debug for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("When")
    }
}

impl Rule {
    /// Strikes the next call.
    pub fn new(fault: Fault) -> Rule {
        Rule { fault, method: None, prefix: String::new(), when: None, skip: 0, times: 1 }
    }

    /// Only calls of this method.
    #[must_use]
    pub fn on(mut self, method: Method) -> Rule {
        self.method = Some(method);
        self
    }

    /// Only calls about an object whose name begins with this.
    #[must_use]
    pub fn named(mut self, prefix: impl Into<String>) -> Rule {
        self.prefix = prefix.into();
        self
    }

    /// Only calls that `when` says yes to, whose stack it may look at.
    #[must_use]
    pub fn when(mut self, when: impl Fn(Method, &[&ObjectName]) -> bool + Send + Sync + 'static) -> Rule {
        self.when = Some(When(Arc::new(when)));
        self
    }

    /// Lets so many such calls pass first.
    #[must_use]
    pub fn after(mut self, calls: u64) -> Rule {
        self.skip = calls;
        self
    }

    /// Strikes so many in a row; `u64::MAX` for ever.
    #[must_use]
    pub fn times(mut self, calls: u64) -> Rule {
        self.times = calls;
        self
    }

    fn fits(&self, method: Method, names: &[&ObjectName]) -> bool {
        let named = || {
            self.prefix.is_empty() || names.iter().any(|n| n.to_string().starts_with(&self.prefix))
        };
        let fits = self.method.is_none_or(|own| own == method) && named();
        fits && self.when.as_ref().is_none_or(|when| (when.0)(method, names))
    }
}

pub(super) type Late = Box<dyn FnOnce(&dyn Backend) -> Result<()> + Send>;

#[derive(Default)]
struct State {
    calls: [AtomicU64; METHODS],
    bytes: [AtomicU64; METHODS],
    armed: AtomicBool,
    rules: Mutex<Vec<Rule>>,
    struck: AtomicU64,
    late: Mutex<Vec<(Arc<dyn Backend>, Late)>>,
}

/// A backend that fails when told to. A clone is the same one.
#[derive(Clone)]
pub struct Faulty {
    pub(super) inner: Arc<dyn Backend>,
    state: Arc<State>,
    data_path: Option<Arc<dyn DataPath>>,
}

impl Faulty {
    /// Fails nothing yet.
    pub fn new(inner: Arc<dyn Backend>) -> Faulty {
        Faulty { inner, state: Arc::default(), data_path: None }
    }

    /// With a data path that fails as well: the inner one, or where there is
    /// none one with a thread for each request.
    pub fn with_data_path(inner: Arc<dyn Backend>) -> Faulty {
        let mut faulty = Faulty::new(inner);
        faulty.data_path = Some(FaultyData::over(&faulty));
        faulty
    }

    /// Another place that fails by the same rules, and is counted with this one.
    #[must_use]
    pub fn beside(&self, inner: Arc<dyn Backend>) -> Faulty {
        let mut faulty = Faulty { inner, state: Arc::clone(&self.state), data_path: None };
        faulty.data_path = self.data_path.as_ref().map(|_| FaultyData::over(&faulty));
        faulty
    }

    /// Adds a rule. Of several that strike one call the first counts.
    pub fn inject(&self, rule: Rule) {
        self.state.rules.lock().push(rule);
        self.state.armed.store(true, Ordering::SeqCst);
    }

    /// The `number`th call from now on, counted from 0, fails with `fault`.
    pub fn fail_nth(&self, number: u64, fault: Fault) {
        self.inject(Rule::new(fault).after(number));
    }

    /// No more faults; what is late stays late.
    pub fn clear(&self) {
        self.state.armed.store(false, Ordering::SeqCst);
        self.state.rules.lock().clear();
    }

    /// How many calls have been struck.
    pub fn struck(&self) -> u64 {
        self.state.struck.load(Ordering::SeqCst)
    }

    /// Applies what is late, in the order of the calls. Returns how each went.
    pub fn settle_late(&self) -> Vec<Result<()>> {
        let late = std::mem::take(&mut *self.state.late.lock());
        late.into_iter().map(|(inner, apply)| apply(inner.as_ref())).collect()
    }

    /// What is late never happens.
    pub fn forget_late(&self) {
        self.state.late.lock().clear();
    }

    pub fn calls(&self, method: Method) -> u64 {
        self.state.calls[method as usize].load(Ordering::SeqCst)
    }

    pub fn calls_total(&self) -> u64 {
        self.state.calls.iter().map(|calls| calls.load(Ordering::SeqCst)).sum()
    }

    /// Bytes of data handed in or out by a method.
    pub fn bytes(&self, method: Method) -> u64 {
        self.state.bytes[method as usize].load(Ordering::SeqCst)
    }

    pub fn reset_counts(&self) {
        self.state.calls.iter().chain(&self.state.bytes).for_each(|n| n.store(0, Ordering::SeqCst));
    }

    /// Counts a call and says what strikes it.
    pub(super) fn strike(&self, method: Method, bytes: usize, names: &[&ObjectName]) -> Option<Fault> {
        self.state.calls[method as usize].fetch_add(1, Ordering::Relaxed);
        self.state.bytes[method as usize].fetch_add(bytes as u64, Ordering::Relaxed);
        if !self.state.armed.load(Ordering::Relaxed) {
            return None;
        }
        let mut struck = None;
        for rule in self.state.rules.lock().iter_mut().filter(|rule| rule.fits(method, names)) {
            if rule.skip > 0 {
                rule.skip -= 1;
            } else if rule.times > 0 && struck.is_none() {
                rule.times = if rule.times == u64::MAX { rule.times } else { rule.times - 1 };
                struck = Some(rule.fault.clone());
            }
        }
        if struck.is_some() {
            self.state.struck.fetch_add(1, Ordering::SeqCst);
        }
        struck
    }

    pub(super) fn postpone(&self, late: Late) {
        self.state.late.lock().push((Arc::clone(&self.inner), late));
    }

    /// A call that changes something, so that it can also be applied late.
    fn change(
        &self,
        method: Method,
        bytes: usize,
        names: &[&ObjectName],
        call: impl Fn(&dyn Backend) -> Result<()>,
        late: impl FnOnce() -> Late,
    ) -> Result<()> {
        self.apply(method, self.strike(method, bytes, names), names, call, late)
    }

    /// As `change`, for what can also be applied in part.
    fn change_in_part(
        &self,
        method: Method,
        bytes: usize,
        name: &ObjectName,
        call: impl Fn(&dyn Backend) -> Result<()>,
        part: impl FnOnce() -> Result<()>,
        late: impl FnOnce() -> Late,
    ) -> Result<()> {
        let fault = self.strike(method, bytes, &[name]);
        if let Some(Fault::Short(_)) = fault {
            part()?;
        }
        self.apply(method, fault, &[name], call, late)
    }

    fn apply(
        &self,
        method: Method,
        fault: Option<Fault>,
        names: &[&ObjectName],
        call: impl Fn(&dyn Backend) -> Result<()>,
        late: impl FnOnce() -> Late,
    ) -> Result<()> {
        let failed = |kind| {
            let error = Error::new(kind, method.verb()).because("injected");
            Err(names.first().map_or_else(|| Error::new(kind, method.verb()), |name| error.on(name)))
        };
        match fault {
            Some(Fault::Fail(kind) | Fault::Short(kind)) => return failed(kind),
            Some(Fault::Twice) => call(self.inner.as_ref())?,
            Some(Fault::FailAfterApplying) => {
                call(self.inner.as_ref())?;
                return failed(ErrorKind::Unknown);
            }
            Some(Fault::FailApplied(kind)) => {
                call(self.inner.as_ref())?;
                return failed(kind);
            }
            Some(Fault::ApplyLate) => {
                self.postpone(late());
                return failed(ErrorKind::Unknown);
            }
            Some(Fault::Delay(time)) => std::thread::sleep(time),
            // Faults of reads.
            Some(Fault::Truncate(_) | Fault::FlipBit(_)) | None => {}
        }
        call(self.inner.as_ref())
    }

    /// A call that changes nothing; there is nothing to apply late.
    fn look<T>(
        &self,
        method: Method,
        names: &[&ObjectName],
        call: impl FnOnce(&dyn Backend) -> Result<T>,
    ) -> Result<T> {
        match self.strike(method, 0, names) {
            None | Some(Fault::Truncate(_) | Fault::FlipBit(_) | Fault::Twice) => {}
            Some(Fault::Delay(time)) => std::thread::sleep(time),
            Some(fault) => return Err(self.looked(method, names, &fault)),
        }
        call(self.inner.as_ref())
    }

    pub(super) fn looked(&self, method: Method, names: &[&ObjectName], fault: &Fault) -> Error {
        let kind = match fault {
            Fault::Fail(kind) | Fault::FailApplied(kind) | Fault::Short(kind) => *kind,
            _ => ErrorKind::Unknown,
        };
        let error = Error::new(kind, method.verb()).because("injected");
        match names.first() {
            Some(name) => error.on(name),
            None => error,
        }
    }
}

/// About half of it, in whole sectors.
pub(super) fn half(bytes: usize) -> usize {
    bytes / 2 / 512 * 512
}

impl Backend for Faulty {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn create(&self, name: &ObjectName, data: &[u8]) -> Result<()> {
        self.change(Method::Create, data.len(), &[name], |inner| inner.create(name, data), || {
            let (name, data) = (name.clone(), data.to_vec());
            Box::new(move |inner| inner.create(&name, &data))
        })
    }

    fn create_sparse(&self, name: &ObjectName, bytes: u64) -> Result<()> {
        self.change(Method::CreateSparse, 0, &[name], |inner| inner.create_sparse(name, bytes), || {
            let name = name.clone();
            Box::new(move |inner| inner.create_sparse(&name, bytes))
        })
    }

    fn read_at(&self, name: &ObjectName, offset_bytes: u64, buf: &mut [u8]) -> Result<usize> {
        let fault = self.strike(Method::Read, buf.len(), &[name]);
        match &fault {
            None | Some(Fault::Truncate(_) | Fault::FlipBit(_) | Fault::Twice) => {}
            Some(Fault::Delay(time)) => std::thread::sleep(*time),
            Some(fault) => return Err(self.looked(Method::Read, &[name], fault)),
        }
        let bytes = self.inner.read_at(name, offset_bytes, buf)?;
        match fault {
            Some(Fault::Truncate(missing)) => Ok(bytes.saturating_sub(missing)),
            Some(Fault::FlipBit(bit)) if bit / 8 < bytes => {
                buf[bit / 8] ^= 1 << (bit % 8);
                Ok(bytes)
            }
            _ => Ok(bytes),
        }
    }

    fn write_at(&self, name: &ObjectName, offset_bytes: u64, data: &[u8]) -> Result<()> {
        let call = |inner: &dyn Backend| inner.write_at(name, offset_bytes, data);
        let part = || self.inner.write_at(name, offset_bytes, &data[..half(data.len())]);
        self.change_in_part(Method::Write, data.len(), name, call, part, || {
            let (name, data) = (name.clone(), data.to_vec());
            Box::new(move |inner| inner.write_at(&name, offset_bytes, &data))
        })
    }

    fn punch(&self, name: &ObjectName, offset_bytes: u64, bytes: u64) -> Result<()> {
        let call = |inner: &dyn Backend| inner.punch(name, offset_bytes, bytes);
        let part = || self.inner.punch(name, offset_bytes, half(bytes as usize) as u64);
        self.change_in_part(Method::Punch, 0, name, call, part, || {
            let name = name.clone();
            Box::new(move |inner| inner.punch(&name, offset_bytes, bytes))
        })
    }

    fn sync(&self, names: &[ObjectName]) -> Result<()> {
        let every: Vec<&ObjectName> = names.iter().collect();
        self.change(Method::Sync, 0, &every, |inner| inner.sync(names), || {
            let names = names.to_vec();
            Box::new(move |inner| inner.sync(&names))
        })
    }

    /// A sync as any other, to rules and counts.
    fn sync_content(&self, names: &[ObjectName]) -> Result<()> {
        let every: Vec<&ObjectName> = names.iter().collect();
        self.change(Method::Sync, 0, &every, |inner| inner.sync_content(names), || {
            let names = names.to_vec();
            Box::new(move |inner| inner.sync_content(&names))
        })
    }

    fn forget_synced(&self, names: &[ObjectName]) {
        self.inner.forget_synced(names);
    }

    fn forget_seen(&self) {
        self.inner.forget_seen();
    }

    fn delete(&self, name: &ObjectName) -> Result<()> {
        self.change(Method::Delete, 0, &[name], |inner| inner.delete(name), || {
            let name = name.clone();
            Box::new(move |inner| inner.delete(&name))
        })
    }

    fn stat(&self, name: &ObjectName) -> Result<ObjectStat> {
        self.look(Method::Stat, &[name], |inner| inner.stat(name))
    }

    fn next_data(&self, name: &ObjectName, offset_bytes: u64) -> Result<Option<(u64, u64)>> {
        self.look(Method::NextData, &[name], |inner| inner.next_data(name, offset_bytes))
    }

    fn list(&self, prefix: &str, after: Option<&ObjectName>, count_max: usize) -> Result<Vec<ObjectName>> {
        self.look(Method::List, &[], |inner| inner.list(prefix, after, count_max))
    }

    fn copy(&self, from: &ObjectName, to: &ObjectName) -> Result<()> {
        self.change(Method::Copy, 0, &[to, from], |inner| inner.copy(from, to), || {
            let (from, to) = (from.clone(), to.clone());
            Box::new(move |inner| inner.copy(&from, &to))
        })
    }

    fn lock(&self, name: &ObjectName, mode: LockMode) -> Result<Lock> {
        self.look(Method::Lock, &[name], |inner| inner.lock(name, mode))
    }

    fn cut_off(&self, name: &ObjectName) -> Result<()> {
        self.look(Method::Lock, &[name], |inner| inner.cut_off(name))
    }

    /// None, unless it was asked for.
    fn data_path(&self) -> Option<Arc<dyn DataPath>> {
        self.data_path.clone()
    }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty")
            .field("inner", &self.inner)
            .field("calls", &self.calls_total())
            .field("struck", &self.struck())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::Memory;
    use super::*;
    use crate::name::Id;

    fn block(index: u64) -> ObjectName {
        ObjectName::Block { epoch: Id(1), index }
    }

    /// A fault that does not strike makes every test that rests on it pass.
    #[test]
    fn every_fault_does_what_it_says() {
        let store = Faulty::new(Arc::new(Memory::new()));
        store.inject(Rule::new(Fault::Fail(ErrorKind::NoSpace)).on(Method::Create).after(1));
        store.create(&block(1), &[7; 100]).unwrap();
        assert!(store.create(&block(2), b"x").unwrap_err().is(ErrorKind::NoSpace));
        assert!(store.stat(&block(2)).is_err(), "not applied");
        store.create(&block(2), b"x").unwrap();

        store.inject(Rule::new(Fault::FailAfterApplying).named("block/"));
        assert!(store.create(&block(3), b"x").unwrap_err().is(ErrorKind::Unknown));
        assert!(store.stat(&block(3)).is_ok(), "applied");

        store.inject(Rule::new(Fault::FailApplied(ErrorKind::NoSpace)).on(Method::Write));
        assert!(store.write_at(&block(1), 1, &[6]).unwrap_err().is(ErrorKind::NoSpace));

        store.inject(Rule::new(Fault::ApplyLate));
        assert!(store.write_at(&block(1), 0, &[8]).unwrap_err().is(ErrorKind::Unknown));
        let mut buf = [0; 100];
        store.read_at(&block(1), 0, &mut buf).unwrap();
        assert_eq!(buf[..3], [7, 6, 7]);
        assert_eq!(store.settle_late().len(), 1);
        store.inject(Rule::new(Fault::FlipBit(8)).on(Method::Read));
        store.read_at(&block(1), 0, &mut buf).unwrap();
        assert_eq!(buf[..3], [8, 7, 7]);
        store.inject(Rule::new(Fault::Truncate(1)).on(Method::Read));
        assert_eq!(store.read_at(&block(1), 0, &mut buf).unwrap(), 99);

        store.inject(Rule::new(Fault::Fail(ErrorKind::Unavailable)).times(u64::MAX));
        for _ in 0..3 {
            assert!(store.list("", None, 9).unwrap_err().is(ErrorKind::Unavailable));
        }
        store.clear();
        assert_eq!(store.list("", None, 9).unwrap().len(), 3);
        assert_eq!((store.calls(Method::Create), store.bytes(Method::Create)), (4, 103));
        assert_eq!(store.struck(), 9);
    }
}
