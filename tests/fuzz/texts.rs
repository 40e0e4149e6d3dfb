//! Words that people type: names, sizes, the options of the C interface and
//! the configuration file. (QEMU's file names are taken apart by the driver,
//! in C; tests/qemu/names.py has those.)

use std::ffi::CString;
use std::path::Path;

use archipelago::capi::understand;
use archipelago::config::{parse_size, understand_text, LOG_LIMIT_BYTES_DEFAULT};
use archipelago::name::{Id, ObjectName, SnapshotName, VolumeName, NAME_BYTES_MAX};
use archipelago::{Error, ErrorKind};

use super::meter::most_bytes;
use super::run::{check_words, Kind, Outcome};

pub fn kinds() -> Vec<Kind> {
    let text = Kind { bytes_max: 4096, memory: 64, ..Kind::OBJECT };
    vec![
        Kind {
            name: "name",
            seeds: object_names,
            decode: decode_name,
            words: NAME_WORDS,
            ..text.clone()
        },
        Kind { name: "size", seeds: sizes, decode: decode_size, words: SIZE_WORDS, ..text.clone() },
        Kind {
            name: "options",
            seeds: options,
            decode: decode_options,
            words: OPTION_WORDS,
            ..text.clone()
        },
        Kind { name: "config", seeds: configs, decode: decode_config, words: CONFIG_WORDS, ..text },
    ]
}

fn bytes_of(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// What is said about words that somebody typed.
fn refused(error: &Error, input_bytes: usize) -> Result<(), String> {
    let text = error.full();
    if !error.is(ErrorKind::Invalid) {
        return Err(format!("it is refused with {:?}: {text}", error.kind()));
    }
    if text.len() > 1024 + 16 * input_bytes {
        return Err(format!("the error has {} bytes: {text}", text.len()));
    }
    check_words(&text)
}

const NAME_WORDS: &[&str] =
    &["/", "head/", "log/", "snapshot/", "0", "ffffffffffffffff", "..", "-", ".", "F"];

fn object_names() -> Vec<Vec<u8>> {
    let name = VolumeName::new("web-1.disk0").unwrap();
    let snapshot = SnapshotName::new(&"s".repeat(NAME_BYTES_MAX)).unwrap();
    let volume = Id(0x1234);
    let names = [
        ObjectName::Store,
        ObjectName::Volume(name),
        ObjectName::Head { volume, number: 1 },
        ObjectName::Segment { volume, number: u64::MAX },
        ObjectName::Page(Id(u128::MAX)),
        ObjectName::Block { epoch: volume, index: 7 },
        ObjectName::Snapshot { volume, name: snapshot, number: 1 },
        ObjectName::Epoch(volume),
        ObjectName::Maintenance(9),
        ObjectName::Scrub(9),
        ObjectName::Lease { volume, number: 2 },
    ];
    names.iter().map(|name| name.to_string().into_bytes()).collect()
}

fn decode_name(data: &[u8]) -> Result<Outcome, String> {
    let Ok(text) = std::str::from_utf8(data) else {
        return Ok(Outcome { decoded: false, memory_bytes: 0 });
    };
    let (parsed, memory_bytes) = most_bytes(|| ObjectName::parse(text));
    if let Err(error) = VolumeName::new(text) {
        refused(&error, data.len())?;
    }
    if let Err(error) = text.parse::<Id>() {
        refused(&error, data.len())?;
    }
    match parsed {
        // Two names of one object would be two objects.
        Some(name) if name.to_string() != text => Err(format!("'{text}' is read as {name}")),
        name => Ok(Outcome { decoded: name.is_some(), memory_bytes }),
    }
}

const SIZE_WORDS: &[&str] = &[
    "K",
    "m",
    "GiB",
    "T",
    "P",
    "b",
    ".",
    "+",
    "-",
    " ",
    "0",
    "9",
    "1e3",
    "18446744073709551615",
    "999999999",
];

fn sizes() -> Vec<Vec<u8>> {
    bytes_of(&["512", "64K", "1.5G", "2TiB", "16383P", "0.000000001P", " 7 MB ", "18446744073709551615"])
}

fn decode_size(data: &[u8]) -> Result<Outcome, String> {
    let Ok(text) = std::str::from_utf8(data) else {
        return Ok(Outcome { decoded: false, memory_bytes: 0 });
    };
    let (size, memory_bytes) = most_bytes(|| parse_size(text));
    let option = (!text.contains(['\0', '\n'])).then(|| {
        let list =
            [CString::new("volume=v").unwrap(), CString::new(format!("block-size={text}")).unwrap()];
        understand(&list, true)
    });
    match &size {
        Err(error) => refused(error, data.len())?,
        Ok(bytes) => match parse_size(&bytes.to_string()) {
            Ok(again) if again == *bytes => {}
            other => return Err(format!("{bytes}, read again, is {other:?}")),
        },
    }
    // What both ways to write a size allow must mean the same.
    match (option, size) {
        (Some(Ok(option)), Ok(bytes)) if option.block_bytes == Some(bytes) => {
            Ok(Outcome { decoded: true, memory_bytes })
        }
        (Some(Ok(option)), size) => {
            Err(format!("block-size is {:?}, the size {size:?}", option.block_bytes))
        }
        (_, size) => Ok(Outcome { decoded: size.is_ok(), memory_bytes }),
    }
}

const OPTION_WORDS: &[&str] = &[
    "volume=",
    "snapshot=",
    "store=",
    "config=",
    "block-size=",
    "from=",
    "\n",
    "@",
    "=",
    "4M",
    "a@b",
    "K",
    "\0",
    "\x1b[2J",
];

fn options() -> Vec<Vec<u8>> {
    bytes_of(&[
        "ovolume=web\nsnapshot=monday\nstore=main\nconfig=/etc/archipelago/archipelago.toml",
        "ovolume=web",
        "cvolume=web\nblock-size=4M",
        "cvolume=copy\nfrom=web@monday\nstore=two",
    ])
}

/// The first byte says what the options are for; then one on each line.
fn decode_options(data: &[u8]) -> Result<Outcome, String> {
    let none = Ok(Outcome { decoded: false, memory_bytes: 0 });
    let Some((first, rest)) = data.split_first() else { return none };
    let list: Result<Vec<CString>, _> = rest.split(|byte| *byte == b'\n').map(CString::new).collect();
    let Ok(list) = list else { return none };
    let creates = *first == b'c';
    let (understood, memory_bytes) = most_bytes(|| understand(&list, creates));
    let understood = match understood {
        Ok(understood) => understood,
        Err(error) => {
            return refused(&error, data.len()).map(|()| Outcome { decoded: false, memory_bytes });
        }
    };
    let mut again = vec![format!("volume={}", understood.volume)];
    again.extend(understood.snapshot.iter().map(|name| format!("snapshot={name}")));
    again.extend(understood.store.iter().map(|name| format!("store={name}")));
    again.extend(understood.block_bytes.iter().map(|bytes| format!("block-size={bytes}")));
    again.extend(understood.from.iter().map(|(volume, snapshot)| format!("from={volume}@{snapshot}")));
    let again: Vec<CString> = again.into_iter().map(|option| CString::new(option).unwrap()).collect();
    match understand(&again, creates) {
        Ok(read) if read == understood => Ok(Outcome { decoded: true, memory_bytes }),
        other => Err(format!("{understood:?}, written and read again, is {other:?}")),
    }
}

const CONFIG_WORDS: &[&str] = &[
    "[stores.main]\n",
    "default_store = ",
    "url = ",
    "mode = ",
    "group = ",
    "block_size = ",
    "log_limit = ",
    "sealed = ",
    "when_full = \"wait\"",
    "\"",
    "'",
    "\n",
    "[",
    "]",
    "{",
    "}",
    "=",
    ".",
    "\"dir:/srv\"",
    "\"0660\"",
    "16",
    "\"64K\"",
    "\"nfs:x\"",
    "-1",
    "#",
    "\\u0000",
    "\x1b",
    "\u{ff}",
    "[[",
    "{a=",
    "1979-05-27",
    "inf",
    "\"\"\"",
    "a.",
    "[[[[[[[[[[[[[[[[",
];

fn configs() -> Vec<Vec<u8>> {
    bytes_of(&[
        "default_store = \"main\"\n[stores.main]\nurl = \"dir:/srv/vms\"\nmode = \"0660\"\ngroup = \"root\"\n\
         block_size = \"4M\"\nlog_limit = \"256M\"\nwhen_full = \"wait\"\n",
        "[stores.main]\nurl = \"dir:/srv/vms\"\nlog = \"fast\"\nsealed = \"slow\"\n",
        "[stores.a]\nurl = 'memory:x'\ngroup = 7\nblock_size = 65536\n[stores.b]\nurl = \"dir:/b\"",
        "stores = { main = { url = \"dir:/x\" } }",
        "",
    ])
}

/// As TOML has it between double quotes.
fn quoted(text: &str) -> String {
    text.chars().map(|c| format!("\\U{:08X}", u32::from(c))).collect()
}

fn decode_config(data: &[u8]) -> Result<Outcome, String> {
    let path = Path::new("/etc/archipelago/archipelago.toml");
    let (config, memory_bytes) = most_bytes(|| understand_text(path, data));
    // Where a group is named, /etc/group is read.
    let memory_bytes = memory_bytes.saturating_sub(64 << 10);
    let config = match config {
        Ok(config) => config,
        Err(error) => {
            if !error.full().contains("archipelago.toml") {
                return Err(format!("the error does not name the file: {}", error.full()));
            }
            return refused(&error, data.len()).map(|()| Outcome { decoded: false, memory_bytes });
        }
    };
    for (name, store) in &config.stores {
        if VolumeName::new(name).is_err() || store.mode > 0o777 || store.log_limit_bytes < 16 << 20 {
            return Err(format!("this is no store: {store:?}"));
        }
        // Written again with what was understood, it means the same.
        let group = store.group.map_or(String::new(), |group| format!("group = {group}\n"));
        let log = store.log.as_ref().map_or(String::new(), |log| format!("log = \"{}\"\n", quoted(log)));
        let sealed = store.sealed.as_ref();
        let sealed = sealed.map_or(String::new(), |to| format!("sealed = \"{}\"\n", quoted(to)));
        let full = if store.waits_for_room { "when_full = 'wait'\n" } else { "" };
        let text = format!(
            "default_store = '{name}'\n[stores.'{name}']\nurl = \"{}\"\nmode = '{:o}'\n\
             {group}{log}{sealed}{full}block_size = '{}'\n\
             log_limit = '{}'\n",
            quoted(&store.url), store.mode, store.block_bytes, store.log_limit_bytes
        );
        let again = understand_text(path, text.as_bytes())
            .map_err(|error| format!("{}: {text}", error.full()))?;
        if again.store(None).ok() != Some(store) {
            return Err(format!("{store:?}, written and read again, is {again:?}"));
        }
    }
    Ok(Outcome { decoded: true, memory_bytes })
}

#[test]
fn a_file_without_stores_has_the_usual_limits() {
    let text = "[stores.main]\nurl = 'memory:m'";
    let config = understand_text(Path::new("/f"), text.as_bytes()).unwrap();
    assert_eq!(config.store(None).unwrap().log_limit_bytes, LOG_LIMIT_BYTES_DEFAULT);
}
