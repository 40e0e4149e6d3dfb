//! What can go wrong: a holder that was given up lives a little longer, and
//! closes its volume in the middle of the next one's opening: what that was
//! about to read is gone, and it says that the volume is damaged, or not there.
//!
//! Here the old holder settles, commits, deletes its log and closes before
//! each call of the next one's opening in turn. The opening succeeds, or says
//! that somebody else was faster; and everything that was flushed is there.

use std::sync::Arc;

use archipelago::backend::memory::{Memory, CAPABILITIES};
use archipelago::backend::Capabilities;
use archipelago::catalog::identity::Identity;
use archipelago::catalog::{lease, volume as names};
use archipelago::store::Store;
use archipelago::volume::{OpenOptions, Volume};
use archipelago::ErrorKind;

use crate::hook::Hook;
use crate::world::*;

fn on_another_host() -> OpenOptions {
    let mut options = options();
    let me = Identity::of_this_process();
    options.lease.identity = Identity { host: "beta".into(), boot_id: "another".into(), ..me };
    options
}

#[test]
fn a_holder_that_was_given_up_ends_in_the_middle_of_the_next_ones_opening() {
    let mut succeeded = 0;
    for at in 0.. {
        let memory = Memory::with(Capabilities { fences: false, ..CAPABILITIES });
        let store = Store::init("test", Arc::new(memory.clone()), BLOCK).unwrap();
        let id = names::create(&store, &name("v"), SIZE, BLOCK).unwrap();
        let old = Volume::open(&store, &name("v"), &on_another_host()).unwrap();
        let mut content = Content::zeroes(SIZE);
        write(&old, &mut content, 0, 3 * BLOCK, 1);
        old.snapshot(&snap("s")).unwrap();
        old.publish_all().unwrap();
        // Over a shared block: into the log.
        write(&old, &mut content, 4096, 8192, 2);
        write(&old, &mut content, BLOCK + 512, 512, 3);
        old.flush().unwrap();
        lease::break_lease(&store, id, "v", "me").unwrap();
        let hook = Hook::new(&memory);
        hook.arm(at, move || {
            // It may find out that it was given up, at any step.
            let _settled = old.settle_all().and_then(|()| old.work(true));
            let _closed = old.close();
        });
        let opened = Volume::open(&store_on(Arc::clone(&hook) as Arc<_>), &name("v"), &options());
        let fired = hook.fired();
        match opened {
            Ok(volume) => {
                succeeded += 1;
                content.assert_is(&volume, &format!("call {at}"));
                volume.close().unwrap();
            }
            Err(error) => {
                let expected = error.is(ErrorKind::Busy) || error.is(ErrorKind::Fenced);
                assert!(expected, "call {at}: {}", error.full());
            }
        }
        let last = open(&store, "v");
        content.assert_is(&last, &format!("after call {at}"));
        last.close().unwrap();
        assert_sound(&store, &format!("after call {at}"));
        if !fired {
            break;
        }
    }
    assert!(succeeded > 10, "{succeeded}");
}
