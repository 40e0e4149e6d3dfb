//! What can go wrong: whoever configures a place for sealed blocks does not learn
//! what was carried there, or what is wrong when it is not there.

use super::Lab;

#[test]
fn gc_carries_sealed_blocks_and_says_so() {
    let lab = Lab::without_store();
    let at = |name: &str| lab.path(name).display().to_string();
    let of_slow = format!("[stores.slow]\nurl = \"dir:{}\"\n", at("slow"));
    let config = |sealed: &str| {
        let text = format!("[stores.main]\nurl = \"dir:{}\"\nblock_size = \"64K\"\n{sealed}", at("store"));
        lab.write("config.toml", format!("{text}{of_slow}").as_bytes());
    };
    config("sealed = \"slow\"\n");
    lab.ok(&["init"]);
    let there = || lab.files_in("slow", "block").len();
    lab.write("in.raw", &vec![1; 256 << 10]);
    lab.ok(&["import", "in.raw", "a"]);
    lab.ok(&["snapshot", "a@one"]);
    lab.ok(&["clone", "a@one", "b"]);
    assert!(!lab.ok(&["gc"]).contains("carried"), "epochs are left alone until the second collection");
    assert!(lab.ok(&["gc", "-n"]).contains("4 sealed blocks (256.0K) would be carried to their place"));
    assert_eq!((lab.objects("block"), there()), (4, 0));
    assert!(lab.ok(&["gc"]).contains("4 sealed blocks (256.0K) carried to their place"));
    assert_eq!((lab.objects("block"), there()), (0, 4));
    assert!(lab.content("b") == vec![1; 256 << 10]);
    assert!(lab.ok(&["check"]).contains("no damage"));
    assert_eq!(lab.json(&["gc"])["carried"]["blocks"]["objects"], 0);
    // Not mounted, not said, and said to be what it is not.
    std::fs::rename(lab.path("slow"), lab.path("away")).unwrap();
    for words in [&["export", "b", "-"][..], &["gc"], &["check"]] {
        let words = lab.run(words).err;
        assert!(words.contains("the sealed blocks of store 'main' cannot be used"), "{words}");
    }
    config("");
    let words = lab.run(&["export", "b", "-"]).err;
    assert!(words.contains("say which with 'sealed' in [stores.main]"), "{words}");
    std::fs::rename(lab.path("away"), lab.path("slow")).unwrap();
    let words = lab.run(&["--store", "slow", "ls"]).err;
    assert!(words.contains("'slow' holds the sealed blocks of another store"), "{words}");
    for (sealed, words) in [("main", "is the store itself"), ("nas", "'nas' is not configured")] {
        config(&format!("sealed = \"{sealed}\"\n"));
        let said = lab.fails(2, &["ls"]);
        assert!(said.contains("stores.main.sealed: ") && said.contains(words), "{said}");
    }
    config("sealed = \"slow\"\n");
    lab.ok(&["rm", "b", "a@one", "a"]);
    lab.ok(&["gc"]);
    lab.ok(&["gc"]);
    assert_eq!((lab.objects("block"), there()), (0, 0));
}
