//! Bytes: every flipped bit and every truncation of every kind of object is
//! an error, and no bytes whatever make a decoder panic.

use proptest::prelude::*;

use super::super::lease_format::{self, Holder, Record, State};
use super::super::scrub;
use super::*;
use crate::codec::{self, Kind};
use crate::error::Result;

type Decode = fn(&ObjectName, &[u8]) -> Result<()>;

/// One of each kind: its name, its bytes, its decoder.
fn samples() -> Vec<(&'static [u8; 8], ObjectName, Vec<u8>, Decode)> {
    let store = store();
    let volume = make(&store, "web");
    cut(&store, volume, "a");
    let source = snapshot::find(&store, volume, &snap("a")).unwrap();
    let copy = volume::clone(&store, &source, &name("copy"), None).unwrap();
    drop(maintenance::claim_next(&store, &Identity::of_this_process()).unwrap());
    let (mut right, _) = scrub::begin(&store).unwrap();
    right.save(&store, &scrub::State { compared: Some((Id(3), 4)), ..Default::default() }).unwrap();
    let (held, _) = lease::take(&store, copy, "copy", &Options::default()).unwrap();
    let mut samples: Vec<(&'static [u8; 8], ObjectName, Vec<u8>, Decode)> = Vec::new();
    for object in store.control().list_all(prefix::ALL).unwrap() {
        let data = store.control().read_all(&object, MIB).unwrap();
        let (magic, decode): (&[u8; 8], Decode) = match object {
            ObjectName::Head { .. } => (b"ARCHhead", |n, d| head::decode(n, d).map(drop)),
            ObjectName::Snapshot { .. } => (b"ARCHsnap", |n, d| snapshot::decode(n, d).map(drop)),
            ObjectName::Volume(_) => (b"ARCHvolu", |n, d| volume::decode(n, d).map(drop)),
            ObjectName::Epoch(_) => (b"ARCHepoc", |n, d| epoch::decode(n, d).map(drop)),
            ObjectName::Maintenance(_) => (b"ARCHmain", |n, d| maintenance::decode(n, d).map(drop)),
            ObjectName::Scrub(_) => (b"ARCHscru", |n, d| scrub::decode(n, d).map(drop)),
            ObjectName::Lease { .. } => (b"ARCHleas", |n, d| lease_format::decode(n, d).map(drop)),
            _ => continue,
        };
        samples.push((magic, object, data, decode));
    }
    drop(held);
    assert_eq!(samples.len(), 10);
    samples
}

#[test]
fn every_flipped_bit_and_every_truncation_is_found() {
    for (_, object, data, decode) in samples() {
        decode(&object, &data).unwrap();
        for bit in 0..data.len() * 8 {
            let mut damaged = data.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let error = decode(&object, &damaged).unwrap_err();
            assert!(error.is(ErrorKind::Corrupt), "{object} bit {bit}: {error}");
            assert!(error.to_string().contains(&object.to_string()), "{error}");
        }
        for bytes in 0..data.len() {
            assert!(decode(&object, &data[..bytes]).unwrap_err().is(ErrorKind::Corrupt));
        }
    }
}

#[test]
fn a_payload_with_a_right_checksum_and_a_wrong_length_is_found() {
    for (magic, object, data, decode) in samples() {
        let payload = &data[codec::ENVELOPE_BYTES..];
        let kind = Kind { magic: *magic, version: 1 };
        assert_eq!(codec::seal(kind, payload), data);
        for bytes in 0..payload.len() {
            let error = decode(&object, &codec::seal(kind, &payload[..bytes])).unwrap_err();
            assert!(error.is(ErrorKind::Corrupt), "{object} cut to {bytes}: {error}");
        }
        let longer = [payload, b"x"].concat();
        assert!(decode(&object, &codec::seal(kind, &longer)).unwrap_err().is(ErrorKind::Corrupt));
    }
}

#[test]
fn an_object_under_another_objects_name_is_found() {
    let samples = samples();
    let other = [
        ObjectName::Head { volume: Id(1), number: 1 },
        ObjectName::Snapshot { volume: Id(1), name: snap("zz"), number: 1 },
        ObjectName::Volume(name("zz")),
        ObjectName::Epoch(Id(1)),
        ObjectName::Maintenance(99),
        ObjectName::Scrub(99),
        ObjectName::Lease { volume: Id(1), number: 1 },
    ];
    for (_, _, data, decode) in &samples {
        for object in &other {
            assert!(decode(object, data).unwrap_err().is(ErrorKind::Corrupt));
        }
    }
}

#[test]
fn a_newer_version_asks_for_a_newer_program() {
    for (magic, object, data, decode) in samples() {
        let kind = Kind { magic: *magic, version: 2 };
        let newer = codec::seal(kind, &data[codec::ENVELOPE_BYTES..]);
        let error = decode(&object, &newer).unwrap_err();
        assert!(error.is(ErrorKind::Invalid) && error.to_string().contains("newer archipelago"), "{error}");
    }
}

#[test]
fn heads_and_snapshots_read_back_as_written() {
    let store = store();
    let volume = make(&store, "web");
    let head = Head {
        volume,
        number: 2,
        name_hint: "web".into(),
        size_bytes: 12_345,
        block_bytes: 16 << 10,
        epoch: Id(77),
        root: root(3),
        log: LogStart { segment: 9, position: 1 << 40, tail: 3 << 40 },
        parent: Some(super::super::Parent { volume: Id(5), snapshot: snap("s.1"), snapshot_id: Id(6) }),
        created_s: 1_795_342_272,
        written: true,
    };
    head::commit(&store, &head).unwrap();
    assert_eq!(head::latest(&store, volume).unwrap(), head);
    let wanted = cut(&store, volume, "x");
    let wanted = Snapshot { parent: head.parent.clone(), created_ns: 999_999_999, ..wanted };
    let wanted = Snapshot { number: 2, position: 1 << 50, ..wanted };
    snapshot::publish(&store, &wanted).unwrap();
    assert_eq!(snapshot::find(&store, volume, &snap("x")).unwrap(), wanted);
}

#[test]
fn leases_read_back_as_written() {
    let states = [
        State::Held,
        State::Released { clean: true },
        State::Released { clean: false },
        State::Broken { by: "root@alpha".into() },
    ];
    for (number, state) in (1..).zip(states) {
        for socket in [None, Some("/run/a.sock".to_owned())] {
            let process = Identity::of_this_process();
            let holder = Holder { id: Id(4), process, since_s: 5, socket };
            let record = Record { volume: Id(3), number, state: state.clone(), holder };
            let object = ObjectName::Lease { volume: Id(3), number };
            assert_eq!(lease_format::decode(&object, &record.encode()).unwrap(), record);
        }
    }
}

proptest! {
    #[test]
    fn no_payload_makes_a_decoder_panic(
        payload in prop::collection::vec(any::<u8>(), 0..400), at in 0usize..9
    ) {
        thread_local!(static SAMPLES: Vec<(&'static [u8; 8], ObjectName, Vec<u8>, Decode)> = samples());
        SAMPLES.with(|samples| {
            let (magic, object, _, decode) = &samples[at];
            let _ = decode(object, &codec::seal(Kind { magic: **magic, version: 1 }, &payload));
            let _ = decode(object, &payload);
        });
    }

    #[test]
    fn no_change_of_a_real_payload_makes_a_decoder_panic(
        at in 0usize..9,
        place in any::<prop::sample::Index>(),
        with in prop::collection::vec(any::<u8>(), 1..9),
    ) {
        thread_local!(static SAMPLES: Vec<(&'static [u8; 8], ObjectName, Vec<u8>, Decode)> = samples());
        SAMPLES.with(|samples| {
            let (magic, object, data, decode) = &samples[at];
            let mut payload = data[codec::ENVELOPE_BYTES..].to_vec();
            let place = place.index(payload.len());
            for (to, from) in payload[place..].iter_mut().zip(&with) {
                *to = *from;
            }
            let _ = decode(object, &codec::seal(Kind { magic: **magic, version: 1 }, &payload));
        });
    }
}
