//! Who asks: nobody, anybody, and those who may not.

use super::*;

fn dial(lab: &Lab) -> UnixStream {
    let stream = UnixStream::connect(&lab.sockets()[0]).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

fn reply(stream: &mut UnixStream) -> Option<Reply> {
    let json = read_frame(stream).ok()?;
    Some(serde_json::from_slice(&json).unwrap())
}

fn failed(reply: Option<Reply>) -> String {
    match reply {
        Some(Reply::Failed { message, .. }) => message,
        other => panic!("{other:?}"),
    }
}

/// Nonsense is told to be that, with no memory taken for what it claims to
/// be, and the next one is heard.
#[test]
fn nonsense_is_answered_and_hung_up_on() {
    let lab = Lab::new();
    let held = lab.hold();
    let hello = encode(&Hello::new()).unwrap();
    let of = |json: &str| [&(json.len() as u32).to_le_bytes(), json.as_bytes()].concat();
    let ids = format!("\"store\":\"{0:032x}\",\"volume\":\"{0:032x}\"", 7);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        ((1u32 << 30).to_le_bytes().to_vec(), "too long"),
        (b"GET / HTTP/1.0\r\n\r\n".to_vec(), "too long"),
        (of("{\"greeting\":\"x\",\"version\":1,\"program\":\"\"}"), "control socket of Archipelago"),
        (of("{}"), "not understood"),
        ([hello.clone(), of("[")].concat(), "not understood"),
        ([hello.clone(), of(&format!("{{{ids},\"what\":{{\"format\":{{}}}}}}"))].concat(), "unknown variant"),
        ([hello.clone(), (1u32 << 30).to_le_bytes().to_vec()].concat(), "too long"),
    ];
    for (words, part) in cases {
        let mut stream = dial(&lab);
        drop(stream.write_all(&words));
        let mut answer = reply(&mut stream);
        if matches!(answer, Some(Reply::Hello(_))) {
            answer = reply(&mut stream);
        }
        let message = failed(answer);
        assert!(message.contains(part), "{message}");
        assert!(reply(&mut stream).is_none(), "hung up on");
    }
    // One that is understood, of a volume that nobody has here.
    let mut stream = dial(&lab);
    let known = [hello, of(&format!("{{{ids},\"what\":{{\"status\":{{}}}}}}"))].concat();
    stream.write_all(&known).unwrap();
    assert!(matches!(reply(&mut stream), Some(Reply::Hello(hello)) if hello.version == 1));
    assert!(failed(reply(&mut stream)).contains("does not hold that volume"));
    lab.ok(&["snapshot", "v@s"]);
    held.close().unwrap();
}

/// A later version says a higher number and is told the highest that there is.
#[test]
fn a_later_version_is_told_which_one_is_spoken() {
    let lab = Lab::new();
    let held = lab.hold();
    let mut stream = dial(&lab);
    stream.write_all(&encode(&Hello { version: 99, ..Hello::new() }).unwrap()).unwrap();
    assert!(matches!(reply(&mut stream), Some(Reply::Hello(hello)) if hello.version == 1));
    held.close().unwrap();
}

/// Those who say nothing, or half of something, use up the places for askers
/// for a while. The guest does not notice, nor does closing wait for them.
#[test]
fn who_says_nothing_is_hung_up_on_and_holds_nothing_up() {
    let lab = Lab::new();
    let held = Arc::new(lab.hold());
    let guest = Guest::start(&held);
    let mut silent: Vec<UnixStream> = (0..8).map(|_| dial(&lab)).collect();
    for stream in &mut silent[4..] {
        stream.write_all(&[9, 0]).unwrap();
    }
    std::thread::sleep(Duration::from_millis(200));
    assert!(failed(reply(&mut dial(&lab))).contains("asking this process already"));
    let (before, began) = (guest.done(), Instant::now());
    for stream in &mut silent {
        let mut rest = Vec::new();
        drop(stream.read_to_end(&mut rest));
    }
    let took = began.elapsed();
    assert!((Duration::from_secs(5)..Duration::from_secs(20)).contains(&took), "{took:?}");
    assert!(guest.done() > before + 100, "the guest was held up");
    lab.ok(&["snapshot", "v@s"]);
    guest.end();
    let _silent: Vec<UnixStream> = (0..4).map(|_| dial(&lab)).collect();
    let began = Instant::now();
    Arc::into_inner(held).unwrap().close().unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

/// As root the command can be run as others: nobody may ask, members of the
/// store's group may, by either kind of membership.
#[test]
fn others_are_refused_and_the_stores_group_is_not() {
    if !rustix::process::geteuid().is_root() {
        println!("left out: only root can become somebody else");
        return;
    }
    let nobody = 65_534;
    let program = env!("CARGO_BIN_EXE_archipelago");
    let lab = Lab::with("mode = \"0666\"\ngroup = 4242\n");
    let copy = lab.path("archipelago");
    std::fs::copy(program, &copy).unwrap();
    open_up(&lab.path("store"));
    let held = lab.hold();
    open_up(&lab.path("store"));
    let as_user = |group: u32, words: &[&str]| {
        let mut command = Command::new(&copy);
        command.args(words).current_dir("/").env_clear().uid(nobody).gid(group);
        said(command.env("ARCHIPELAGO_CONFIG", lab.path("config.toml")))
    };
    let (code, text) = as_user(nobody, &["snapshot", "v@s"]);
    assert_eq!(code, 6, "{text}");
    assert!(text.contains("user 65534 may not ask") && text.contains("4242"), "{text}");
    assert!(held.device().snapshots().unwrap().is_empty());
    let (code, text) = as_user(4242, &["snapshot", "v@s"]);
    assert_eq!(code, 0, "{text}");
    let mut by_supplement = Command::new("setpriv");
    by_supplement.args(["--reuid=65534", "--regid=65534", "--groups=4242"]).arg(&copy);
    by_supplement.args(["snapshot", "v@t"]).env("ARCHIPELAGO_CONFIG", lab.path("config.toml"));
    let (code, text) = said(&mut by_supplement);
    assert_eq!(code, 0, "{text}");
    held.close().unwrap();
}

/// So that the store itself is not what refuses.
fn open_up(folder: &std::path::Path) {
    let all = said(Command::new("chmod").args(["-R", "a+rwX"]).arg(folder));
    assert_eq!(all.0, 0, "{}", all.1);
}
