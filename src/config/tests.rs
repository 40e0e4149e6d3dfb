//! What can go wrong: a user who gets another store than they meant writes to
//! another disk. Each test lays out files and says which store is meant.

use super::*;

struct Lab {
    folder: tempfile::TempDir,
    places: Places,
}

fn lab() -> Lab {
    let folder = tempfile::tempdir().unwrap();
    let places = Places {
        only: None,
        system: folder.path().join("system.toml"),
        user: Some(folder.path().join("user.toml")),
        data: Some(folder.path().join("data")),
    };
    Lab { folder, places }
}

impl Lab {
    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn meant(&self) -> String {
        load_from(&self.places).unwrap().store(None).unwrap().url.clone()
    }

    fn refusal(&self, text: &str) -> String {
        self.write("system.toml", text);
        let error = load_from(&self.places).unwrap_err();
        assert!(error.is(ErrorKind::Invalid), "{error}");
        error.to_string()
    }
}

#[test]
fn without_a_file_the_store_is_in_the_data_folder() {
    let lab = lab();
    assert!(lab.meant().starts_with("dir:") && lab.meant().ends_with("/data"));
    let config = load_from(&lab.places).unwrap();
    assert!(config.store(None).unwrap().origin().contains("no configuration file"));
}

#[test]
fn the_system_wins_over_the_user() {
    let lab = lab();
    lab.write("user.toml", "[stores.main]\nurl = 'dir:/mine'\n[stores.other]\nurl = 'dir:/o'");
    assert_eq!(lab.meant(), "dir:/mine");
    lab.write("system.toml", "[stores.main]\nurl = 'dir:/ours'");
    assert_eq!(lab.meant(), "dir:/ours");
    let config = load_from(&lab.places).unwrap();
    assert_eq!(config.store(Some("other")).unwrap().url, "dir:/o");
    assert_eq!(config.files.len(), 2);
}

#[test]
fn a_user_cannot_change_what_the_default_is() {
    let lab = lab();
    lab.write("user.toml", "default_store = 'other'\n[stores.other]\nurl = 'dir:/o'");
    lab.write("system.toml", "[stores.main]\nurl = 'dir:/ours'");
    assert_eq!(lab.meant(), "dir:/ours");
    lab.write("system.toml", "default_store = 'x'\n[stores.x]\nurl = 'dir:/x'");
    assert_eq!(lab.meant(), "dir:/x");
}

#[test]
fn a_file_that_is_named_is_read_alone() {
    let mut lab = lab();
    lab.write("system.toml", "[stores.main]\nurl = 'dir:/ours'\n[stores.x]\nurl = 'dir:/x'");
    lab.places.only = Some(lab.write("only.toml", "[stores.main]\nurl = 'dir:/only'"));
    assert_eq!(lab.meant(), "dir:/only");
    let error = load_from(&lab.places).unwrap().store(Some("x")).unwrap_err();
    assert!(error.is(ErrorKind::NotFound) && error.to_string().contains("only.toml"), "{error}");
    lab.places.only = Some(lab.folder.path().join("missing.toml"));
    assert!(load_from(&lab.places).unwrap_err().to_string().contains("missing.toml"));
}

#[test]
fn mistakes_name_the_file_and_the_key() {
    let lab = lab();
    for (text, words) in [
        ("[stores.main]\nurl = 'dir:/a'\ncolour = 'red'", "line 3: unknown field `colour`"),
        ("defualt_store = 'a'", "line 1: unknown field `defualt_store`"),
        ("[stores.main]\nurl = 'dir:a'", "stores.main.url: 'a' is not an absolute path"),
        ("[stores.main]\nurl = 'nfs://b/p'", "kind 'nfs:' are not supported by this version"),
        ("[stores.main]\nurl = 's3:b'", "'s3:b' names no bucket: write s3://bucket"),
        ("[stores.main]\nurl = 's3://b'\ns3_endpoint = 'host'", "main.s3_endpoint: 'host' is no address"),
        ("[stores.main]\nurl = 's3://b'\ns3_credentials = 'k'", "main.s3_credentials: begin it with /"),
        ("[stores.main]\nurl = 's3://b'\ns3_region = 'a b'", "stores.main.s3_region: write a name"),
        ("[stores.main]\nurl = 's3://b'\nceph_user = 'a'", "stores.main.ceph_user: it is for stores of"),
        ("[stores.main]\nurl = 'dir:/a'\ns3_profile = 'a'", "stores.main.s3_profile: it is for stores of"),
        ("[stores.main]\nurl = '/srv'", "is no URL of a store"),
        ("[stores.main]\nurl = 'rados:'", "'rados:' names no pool: write rados:pool"),
        ("[stores.main]\nurl = 'rados:p/'", "'rados:p/' names no pool"),
        ("[stores.main]\nurl = 'rados:p/a/b'", "'rados:p/a/b' names no pool"),
        ("[stores.main]\nurl = 'rados:p'\nceph_conf = 'c'", "stores.main.ceph_conf: begin it with /"),
        ("[stores.main]\nurl = 'rados:p'\nceph_user = 'client.a'", "stores.main.ceph_user: write"),
        ("[stores.main]\nurl = 'dir:/a'\nceph_user = 'a'", "stores.main.ceph_user: it is for stores of"),
        ("[stores.main]\nurl = 'gluster:v'", "'gluster:v' names no volume: write gluster://host/volume"),
        ("[stores.main]\nurl = 'gluster://h'", "'gluster://h' names no volume"),
        ("[stores.main]\nurl = 'gluster:///v'", "'gluster:///v' names no server"),
        ("[stores.main]\nurl = 'gluster://h:0/v'", "names no server"),
        ("[stores.main]\nurl = 'gluster://h:65536/v'", "names no server"),
        ("[stores.main]\nurl = 'gluster://[::1/v'", "names no server"),
        ("[stores.main]\nurl = 'gluster://[::1]1/v'", "names no server"),
        ("[stores.main]\nurl = 'gluster://a,/v'", "names no server"),
        ("[stores.main]\nurl = 'gluster://a b/v'", "names no server"),
        ("[stores.main]\nurl = 'gluster://h/v/'", "has a part without a name"),
        ("[stores.main]\nurl = 'gluster://h/v/../w'", "has a part without a name"),
        ("[stores.main]\nurl = 'gluster://h/v'\ngluster_log = 'l'", "main.gluster_log: begin it with /"),
        ("[stores.main]\nurl = 'dir:/a'\ngluster_log = '/l'", "stores.main.gluster_log: it is for stores of"),
        ("[stores.main]\nmode = '0660'", "missing field `url`"),
        ("[stores.main]\nurl = 'dir:/a'\nmode = '0999'", "stores.main.mode"),
        ("[stores.main]\nurl = 'dir:/a'\ngroup = 'no such group'", "stores.main.group"),
        ("[stores.main]\nurl = 'dir:/a'\nlog_limit = '1K'", "stores.main.log_limit"),
        ("[stores.main]\nurl = 'dir:/a'\nblock_size = '4X'", "stores.main.block_size"),
        ("[stores.'a b']\nurl = 'dir:/a'", "'a b' cannot be the name of a store"),
        ("x", "line 1:"),
    ] {
        let refusal = lab.refusal(text);
        assert!(refusal.contains("system.toml") && refusal.contains(words), "{refusal}");
    }
}

#[test]
fn everything_about_a_store_can_be_set() {
    let lab = lab();
    lab.write(
        "system.toml",
        "[stores.main]\nurl = 'dir:/a'\nmode = '0640'\ngroup = 'root'\n\
         block_size = '64K'\nlog_limit = '1G'",
    );
    let config = load_from(&lab.places).unwrap();
    let store = config.store(None).unwrap();
    assert_eq!((store.mode, store.group), (0o640, Some(0)));
    assert_eq!((store.block_bytes, store.log_limit_bytes), (64 << 10, 1 << 30));
}

#[test]
fn a_store_in_a_cluster() {
    let lab = lab();
    let place = |text: &str| {
        lab.write("system.toml", &format!("[stores.main]\n{text}"));
        format!("{:?}", load_from(&lab.places).unwrap().store(None).unwrap().place)
    };
    assert!(place("url = 'rados:vms'").contains(r#""vms", namespace: "", conf: None, user: "admin""#));
    let told = "url = 'rados:vms/prod'\nceph_conf = '/c'\nceph_user = 'a'";
    assert_eq!(place(told), r#"Rados { pool: "vms", namespace: "prod", conf: Some("/c"), user: "a" }"#);
}

#[test]
fn a_store_in_a_bucket() {
    let lab = lab();
    let place = |text: &str| {
        lab.write("system.toml", &format!("[stores.main]\n{text}"));
        match load_from(&lab.places).unwrap().store(None).unwrap().place.clone() {
            Place::S3(place) => place,
            other => panic!("{other:?}"),
        }
    };
    let amazon = place("url = 's3://vms'\ns3_region = 'eu-central-1'");
    assert_eq!(amazon.endpoint, "https://s3.eu-central-1.amazonaws.com");
    assert!(!amazon.path_style && amazon.credentials.is_none() && amazon.profile == "default");
    let own = "url = 's3://vms/a'\ns3_endpoint = 'http://h:1/'\ns3_credentials = '/k'\ns3_profile = 'p'";
    let own = place(own);
    assert_eq!((own.endpoint.as_str(), own.profile.as_str()), ("http://h:1", "p"));
    assert!(own.path_style && own.credentials == Some(PathBuf::from("/k")));
}

#[test]
fn a_store_on_bricks() {
    let lab = lab();
    for (text, servers, rest) in [
        ("url = 'gluster://h/v'", r#"("h", 24007)"#, r#""v", folder: "", log: None"#),
        ("url = 'gluster://h:1/v/a/b'", r#"("h", 1)"#, r#""v", folder: "/a/b", log: None"#),
        ("url = 'gluster://a,b:2/v'", r#"("a", 24007), ("b", 2)"#, r#""v", folder: "", log: None"#),
        ("url = 'gluster://[::1],[::2]:3/v'", r#"("::1", 24007), ("::2", 3)"#, r#""v", folder: "", "#),
        ("url = 'gluster://h/v'\ngluster_log = '/l'", r#"("h", 24007)"#, r#"folder: "", log: Some("/l")"#),
    ] {
        lab.write("system.toml", &format!("[stores.main]\n{text}"));
        let place = format!("{:?}", load_from(&lab.places).unwrap().store(None).unwrap().place);
        assert!(place.starts_with(&format!("Gluster {{ servers: [{servers}], volume: ")), "{place}");
        assert!(place.contains(rest), "{place}");
    }
}

#[test]
fn a_read_cache() {
    let lab = lab();
    let load = |text: &str| {
        lab.write("system.toml", &format!("[stores.main]\nurl = 'dir:/a'\n{text}"));
        load_from(&lab.places).map(|config| config.store(None).unwrap().cache.clone())
    };
    assert_eq!(load("").unwrap(), None);
    assert_eq!(load("cache = '/c'").unwrap(), Some((PathBuf::from("/c"), 10 << 30)));
    assert_eq!(load("cache = '/c'\ncache_size = '20 GiB'").unwrap(), Some((PathBuf::from("/c"), 20 << 30)));
    for (text, words) in [
        ("cache = 'c'", "stores.main.cache: begin it with /"),
        ("cache = '/c'\ncache_size = '63M'", "stores.main.cache_size: at least 64M"),
        ("cache_size = '1G'", "stores.main.cache_size: say where"),
    ] {
        let error = load(text).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn what_becomes_of_requests_when_the_store_is_full() {
    let lab = lab();
    let load = |text: &str| {
        lab.write("system.toml", &format!("[stores.main]\nurl = 'dir:/a'\n{text}"));
        load_from(&lab.places).map(|config| config.store(None).unwrap().waits_for_room)
    };
    for (text, waits) in [("", false), ("when_full = 'error'", false), ("when_full = 'wait'", true)] {
        assert_eq!(load(text).unwrap(), waits, "{text}");
    }
    let error = load("when_full = 'later'").unwrap_err().to_string();
    assert!(error.contains("stores.main.when_full: 'later' is neither \"error\" nor \"wait\""), "{error}");
}

#[test]
fn sizes() {
    for (text, bytes) in [
        ("0", 0),
        ("512", 512),
        ("64k", 64 << 10),
        ("4M", 4 << 20),
        ("1.5G", 3 << 29),
        ("2TiB", 2 << 40),
        ("10 MB", 10 << 20),
        ("0.5K", 512),
    ] {
        assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
    }
    for text in ["", "K", "-1", "1X", "1.5", "1..5K", ".5K", "99999999999P", "1e3", "0x10"] {
        assert!(parse_size(text).is_err(), "{text}");
    }
}
