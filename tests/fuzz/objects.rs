//! Objects in envelopes, but for pages and segments.

use archipelago::catalog::head::{self, Head, LogStart};
use archipelago::catalog::identity::Identity;
use archipelago::catalog::lease_format::{self, Destination, Holder, Record, State};
use archipelago::catalog::snapshot::{self, Snapshot};
use archipelago::catalog::{epoch, maintenance, scrub, volume, Parent};
use archipelago::codec::ENVELOPE_BYTES;
use archipelago::map::Root;
use archipelago::name::{Id, ObjectName, SnapshotName, VolumeName};
use archipelago::store::{format, Apart};

use super::mutate::Rng;
use super::run::{refused_by_name, Kind, Outcome};

pub fn kinds() -> Vec<Kind> {
    let of = |name, seeds, decode| Kind { name, seeds, decode, repair: seal_again, ..Kind::OBJECT };
    vec![
        of("store", stores, decode_store),
        of("volume", volumes, decode_volume),
        of("head", heads, decode_head),
        of("snapshot", snapshots, decode_snapshot),
        of("epoch", epochs, decode_epoch),
        of("maintenance", maintenances, decode_maintenance),
        of("scrub", scrubs, decode_scrub),
        of("lease", leases, decode_lease),
    ]
}

/// Makes an envelope whole again around whatever its payload has become.
pub fn seal_again(data: &mut [u8], seed: &[u8], rng: &mut Rng) {
    if data.len() < ENVELOPE_BYTES {
        return;
    }
    if !rng.one_in(32) {
        data[..16].copy_from_slice(&seed[..16]);
    }
    let payload_bytes = (data.len() - ENVELOPE_BYTES) as u64;
    data[16..24].copy_from_slice(&payload_bytes.to_le_bytes());
    let mut hasher = blake3::Hasher::new();
    hasher.update(&data[..24]);
    hasher.update(&data[ENVELOPE_BYTES..]);
    let sum = *hasher.finalize().as_bytes();
    data[24..ENVELOPE_BYTES].copy_from_slice(&sum);
}

/// The number at a place of the payload: objects are looked for under the name
/// that they claim to have, or the rest of them would never be read.
pub fn u64_at(data: &[u8], at: usize) -> u64 {
    let bytes = data.get(ENVELOPE_BYTES + at..ENVELOPE_BYTES + at + 8);
    bytes.map_or(1, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()))
}

pub fn id_at(data: &[u8], at: usize) -> Id {
    Id(u128::from(u64_at(data, at + 8)) << 64 | u128::from(u64_at(data, at)))
}

fn text_at(data: &[u8], at: usize) -> Option<&str> {
    let bytes = (u64_at(data, at) & 0xFFFF) as usize;
    let from = ENVELOPE_BYTES + at + 2;
    data.get(from..from + bytes).and_then(|text| std::str::from_utf8(text).ok())
}

/// Decodes; what comes of it must come of its own encoding too.
fn there_and_back<T: PartialEq + std::fmt::Debug>(
    name: &ObjectName,
    data: &[u8],
    decode: impl Fn(&[u8]) -> archipelago::Result<T>,
    encode: impl Fn(&T) -> Vec<u8>,
) -> Result<Outcome, String> {
    let (value, memory_bytes) = refused_by_name(name, || decode(data))?;
    let Some(value) = value else { return Ok(Outcome { decoded: false, memory_bytes }) };
    match decode(&encode(&value)) {
        Ok(again) if again == value => Ok(Outcome { decoded: true, memory_bytes }),
        other => Err(format!("{value:?}, encoded and decoded, is {other:?}")),
    }
}

fn snapshot_name(text: &str) -> SnapshotName {
    SnapshotName::new(text).unwrap()
}

fn parent() -> Parent {
    Parent { volume: Id(5), snapshot: snapshot_name("s.1"), snapshot_id: Id(6) }
}

fn root() -> Root {
    Root { page: Id(0x77), hash: [9; 32], level: 2 }
}

fn stores() -> Vec<Vec<u8>> {
    let store = |log: Option<u128>, sealed: Option<u128>| {
        format::Part::Store(Apart { log: log.map(Id), sealed: sealed.map(Id) })
    };
    let parts = [
        store(None, None),
        store(Some(2), None),
        store(None, Some(3)),
        store(Some(2), Some(u128::MAX)),
        format::Part::LogOf(Id(4)),
        format::Part::SealedOf(Id(5)),
    ];
    parts.map(|part| format::encode(&format::Said { id: Id(1), block_bytes: 4 << 20, part })).to_vec()
}

fn decode_store(data: &[u8]) -> Result<Outcome, String> {
    there_and_back(&ObjectName::Store, data, format::decode, format::encode)
}

fn volumes() -> Vec<Vec<u8>> {
    let long = "v".repeat(128);
    ["a", "web-1.disk0", &long]
        .map(|name| volume::encoded(&VolumeName::new(name).unwrap(), Id(3), 4))
        .into()
}

fn decode_volume(data: &[u8]) -> Result<Outcome, String> {
    let name = text_at(data, 24).and_then(|text| VolumeName::new(text).ok());
    let name = name.unwrap_or_else(|| VolumeName::new("other").unwrap());
    let object = ObjectName::Volume(name.clone());
    there_and_back(
        &object,
        data,
        |data| volume::decode(&object, data),
        |(id, created_s)| volume::encoded(&name, *id, *created_s),
    )
}

pub fn head() -> Head {
    Head {
        volume: Id(3),
        number: 2,
        name_hint: "web".to_owned(),
        size_bytes: 1 << 30,
        block_bytes: 16 << 10,
        epoch: Id(77),
        root: root(),
        log: LogStart { segment: 9, position: 1 << 40, tail: 3 << 40 },
        parent: Some(parent()),
        created_s: 1_795_342_272,
        written: true,
    }
}

fn heads() -> Vec<Vec<u8>> {
    let new =
        Head { number: 1, root: Root::ZERO, log: LogStart::NEW, parent: None, written: false, ..head() };
    vec![
        head().encoded(Id(8)),
        new.encoded(Id(9)),
        Head { name_hint: String::new(), ..head() }.encoded(Id(8)),
    ]
}

fn decode_head(data: &[u8]) -> Result<Outcome, String> {
    let object = ObjectName::Head { volume: id_at(data, 0), number: u64_at(data, 16) };
    there_and_back(&object, data, |data| head::decode(&object, data), |head| head.encoded(Id(8)))
}

fn snapshots() -> Vec<Vec<u8>> {
    let one = Snapshot {
        volume: Id(3),
        name: snapshot_name("monday"),
        number: 1,
        id: Id(12),
        root: root(),
        epoch: Id(77),
        size_bytes: (1 << 30) + 512,
        block_bytes: 4 << 20,
        created_s: 1_795_342_272,
        created_ns: 999_999_999,
        position: 77,
        parent: Some(parent()),
        volume_name_hint: "web".to_owned(),
    };
    vec![one.encoded(), Snapshot { parent: None, root: Root::ZERO, size_bytes: 0, ..one }.encoded()]
}

fn decode_snapshot(data: &[u8]) -> Result<Outcome, String> {
    let name = text_at(data, 141).and_then(|text| SnapshotName::new(text).ok());
    let name = name.unwrap_or_else(|| snapshot_name("other"));
    let object = ObjectName::Snapshot { volume: id_at(data, 0), name, number: u64_at(data, 16) };
    there_and_back(&object, data, |data| snapshot::decode(&object, data), Snapshot::encoded)
}

fn epochs() -> Vec<Vec<u8>> {
    let epoch =
        epoch::Epoch { id: Id(7), volume: Id(3), generation: 5, claimed_s: 6, holder: "web".to_owned() };
    vec![
        epoch::encoded(&epoch),
        epoch::encoded(&epoch::Epoch { holder: String::new(), ..epoch.clone() }),
    ]
}

fn decode_epoch(data: &[u8]) -> Result<Outcome, String> {
    let object = ObjectName::Epoch(id_at(data, 0));
    there_and_back(&object, data, |data| epoch::decode(&object, data), epoch::encoded)
}

fn identity() -> Identity {
    Identity {
        host: "alpha".to_owned(),
        boot_id: "7c1f0000-0000-4000-8000-0000000000aa".to_owned(),
        pid: 4711,
        pid_namespace: 4_026_531_836,
        start_ticks: 99,
        program: "qemu-system-x86_64".to_owned(),
    }
}

fn maintenances() -> Vec<Vec<u8>> {
    vec![
        maintenance::encoded(1, &identity(), 5, Id(6)),
        maintenance::encoded(1 << 40, &identity(), 0, Id(0)),
    ]
}

fn decode_maintenance(data: &[u8]) -> Result<Outcome, String> {
    let number = u64_at(data, 0);
    let object = ObjectName::Maintenance(number);
    there_and_back(
        &object,
        data,
        |data| maintenance::decode(&object, data),
        |(who, since_s, ended)| maintenance::encoded(number, who, *since_s, Id(if *ended { 0 } else { 6 })),
    )
}

fn scrubs() -> Vec<Vec<u8>> {
    let state = scrub::State { began_s: 5, compared: Some((Id(3), 4)), blocks: 6, ..scrub::State::default() };
    vec![scrub::encoded(1, Id(6), &state), scrub::encoded(9, Id(6), &scrub::State::default())]
}

fn decode_scrub(data: &[u8]) -> Result<Outcome, String> {
    let number = u64_at(data, 0);
    let object = ObjectName::Scrub(number);
    there_and_back(
        &object,
        data,
        |data| scrub::decode(&object, data),
        |state| scrub::encoded(number, Id(6), state),
    )
}

fn leases() -> Vec<Vec<u8>> {
    let states = [
        State::Held,
        State::Released { clean: true },
        State::Released { clean: false },
        State::Broken { by: "root@alpha".to_owned() },
        State::Moved(Destination { store: Id(8), store_name: "ceph".to_owned() }),
        State::Standby(Destination { store: Id(9), store_name: "main".to_owned() }),
    ];
    let record = |state: State| {
        let socket = (state == State::Held).then(|| "/run/archipelago/web.sock".to_owned());
        let holder = Holder { id: Id(4), process: identity(), since_s: 5, socket };
        Record { volume: Id(3), number: 7, state, holder }.encode()
    };
    states.map(record).into()
}

fn decode_lease(data: &[u8]) -> Result<Outcome, String> {
    let object = ObjectName::Lease { volume: id_at(data, 0), number: u64_at(data, 16) };
    there_and_back(&object, data, |data| lease_format::decode(&object, data), Record::encode)
}
