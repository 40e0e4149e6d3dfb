//! What can go wrong: a backend that was written from docs/backends.md keeps
//! almost all of the contract, because the document does not say the rest. So
//! the whole kit runs on it, cut off its power by a copy of its files as far as
//! they were synced; and the command that it is linked into makes and uses a
//! volume.

use std::process::Command;
use std::sync::atomic::Ordering;
use std::sync::Arc;

use archipelago::testkit::{conformance, Bed, Schedules};
use archipelago_sqlite::Sqlite;
use tempfile::TempDir;

fn bed(folder: TempDir) -> Bed {
    let path = folder.path().join("store");
    let sqlite = Arc::new(Sqlite::open(&path, true).unwrap());
    // What is in the log stays there, so that its end can be cut off.
    sqlite.database.lock().unwrap().pragma_update(None, "wal_autocheckpoint", 0).unwrap();
    Bed::new(Arc::clone(&sqlite) as _).crashing(move || {
        let (found, log) = (TempDir::new().unwrap(), format!("{}-wal", path.display()));
        let to = found.path().join("store");
        std::fs::copy(&path, &to).unwrap();
        let mut synced = std::fs::read(log).unwrap_or_default();
        synced.truncate(sqlite.durable_bytes.load(Ordering::SeqCst) as usize);
        std::fs::write(format!("{}-wal", to.display()), synced).unwrap();
        drop(folder);
        bed(found)
    })
}

#[test]
fn it_keeps_the_contract() {
    let folder = TempDir::new().unwrap();
    let stores = std::cell::Cell::new(0);
    conformance::run(|| {
        stores.set(stores.get() + 1);
        Arc::new(Sqlite::open(&folder.path().join(stores.get().to_string()), true).unwrap())
    });
}

#[test]
fn it_keeps_its_promises_when_calls_fail_and_the_power_goes() {
    Schedules::from_env().run(|| bed(TempDir::new().unwrap()));
}

#[test]
fn the_command_has_volumes_on_it() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    let config = format!("[stores.main]\nurl = 'sqlite:{}'\n", at("store").display());
    std::fs::write(at("config"), config).unwrap();
    let data: Vec<u8> = (0..5_u32 << 20).flat_map(|number| (number / 3).to_le_bytes()).collect();
    std::fs::write(at("raw"), &data).unwrap();
    let (raw, back) = (at("raw").display().to_string(), at("back").display().to_string());
    for words in [
        "init",
        "import --format raw {raw} v",
        "snapshot v@s",
        "clone v@s w",
        "rename w x",
        "export x {back}",
        "rm x",
        "gc",
        "check",
        "scrub",
    ] {
        let words = words.replace("{raw}", &raw).replace("{back}", &back);
        let mut command = Command::new(env!("CARGO_BIN_EXE_archipelago-sqlite"));
        let done = command.args(words.split(' ')).env("ARCHIPELAGO_CONFIG", at("config")).output().unwrap();
        assert!(done.status.success(), "{words}: {}", String::from_utf8_lossy(&done.stderr));
    }
    assert!(std::fs::read(at("back")).unwrap() == data);
}
