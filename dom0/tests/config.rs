//! Configuration files: the ones that ship, one of 2005, one bad file for every rule, and anything at all.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};

use dom0::config::{self, Action, Disk, Guest, Parsed, Problem, Vif, disk::Backend};
use proptest::prelude::*;

fn folder(path: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let mut files: Vec<_> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn parse(text: &str) -> Result<Parsed, Vec<Problem>> {
    config::parse("test.toml", text, &[])
}

fn over(text: &str, overrides: &[&str]) -> Result<Parsed, Vec<Problem>> {
    let overrides: Vec<String> = overrides.iter().map(|word| word.to_string()).collect();
    config::parse("config/hello.toml", text, &overrides)
}

fn lines(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(Problem::to_string).collect()
}

#[test]
fn a_file_of_2005_parses_verbatim() {
    let text = include_str!("../../images/config/xtd01.toml");
    let Parsed { config, warnings } = config::parse("config/xtd01.toml", text, &[]).unwrap();
    assert_eq!(
        lines(&warnings),
        ["config/xtd01.toml:7: nics: means nothing here: the entries of `vif` are counted instead"]
    );
    assert_eq!(config.name, "xtd01");
    assert_eq!((config.memory_pages, config.max_pages), (36 << 8, 128 << 8));
    assert!(config.affinity.is_empty(), "cpu = -1 leaves the choice to the scheduler");
    assert_eq!(config.vifs, [Vif { mac: Some([0xaa, 0, 0, 0, 0, 1]), ..Vif::default() }]);
    let disk = |target: &str, vdev: &str| Disk {
        backend: Backend::File,
        target: target.into(),
        vdev: vdev.into(),
        writable: true,
        driver: None,
    };
    assert_eq!(config.disks, [disk("/var/xen/xtd01-root", "sda1"), disk("/var/xen/xtd01-swap", "sda2")]);
    assert_eq!(config.command_line, "root=/dev/sda1 ro mem=128M 4");
    let kernel = "/boot/xen-linux-2.6.11.12xu02".into();
    assert_eq!(config.guest, Guest::Linux { kernel, ramdisk: None, place: "config/xtd01.toml:1".into() });
}

#[test]
fn what_means_nothing_to_a_native_guest_is_named() {
    let text = "image = 'hello'\nramdisk = '/x'\nnics = 1\nvif = ['']\ndisk = ['phy:x,xvda,w']\nroot = '/dev/sda1'\n";
    let Parsed { config, warnings } = parse(text).unwrap();
    assert_eq!(config.guest, Guest::Native { image: "hello".into() });
    assert_eq!(
        lines(&warnings),
        [
            "test.toml:2: ramdisk: means nothing to a native guest",
            "test.toml:3: nics: means nothing here: the entries of `vif` are counted instead",
            "test.toml:6: root: means nothing to a native guest",
        ]
    );
}

#[test]
fn every_bad_file_is_refused_with_its_message() {
    let files = folder("tests/bad");
    assert!(files.len() >= 50);
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let expected = text.lines().next().unwrap().trim_start_matches("# ");
        let file = path.file_name().unwrap().to_str().unwrap();
        match config::parse(file, &text, &[]) {
            Ok(parsed) => panic!("{file} was taken: {parsed:?}"),
            Err(problems) => assert_eq!(problems[0].to_string(), expected),
        }
    }
}

#[test]
fn files_that_ship_have_neither_errors_nor_warnings() {
    for path in folder("../images/auto").into_iter().chain(folder("../images/config")) {
        let file = path.file_name().unwrap().to_str().unwrap();
        let parsed = config::parse(file, &fs::read_to_string(&path).unwrap(), &[]).unwrap();
        assert!(parsed.warnings.is_empty() || file == "xtd01.toml", "{file}: {:?}", lines(&parsed.warnings));
    }
}

#[test]
fn defaults_follow_the_file() {
    let config = config::parse("config/hello.toml", "", &[]).unwrap().config;
    assert_eq!(config.name, "hello");
    assert_eq!(config.guest, Guest::Native { image: "hello".into() });
    assert_eq!((config.vcpus, config.weight, config.cap, config.class), (1, 256, 0, 0));
    assert_eq!(
        (config.on_poweroff, config.on_reboot, config.on_crash),
        (Action::Destroy, Action::Restart, Action::Destroy)
    );
    assert_eq!(config.max_pages, config.memory_pages);
}

#[test]
fn overrides_replace_entries_and_need_no_quotes() {
    let parsed =
        over("memory = 8\nname = 'hello'", &["name=h2", "memory=4", "cpus=0-1", "connect=[\"echo\"]"]).unwrap();
    assert_eq!(parsed.config.name, "h2");
    assert_eq!(parsed.config.guest, Guest::Native { image: "hello".into() }, "the image is the file's");
    assert_eq!(parsed.config.memory_pages, 4 << 8);
    assert_eq!(parsed.config.affinity, [3]);
    assert_eq!(parsed.config.connect, ["echo"]);
    assert_eq!(
        lines(&over("", &["memory=none"]).unwrap_err())[0].split(';').next(),
        Some("command line: memory: is no size")
    );
    assert_eq!(
        lines(&over("", &["--fast"]).unwrap_err()),
        ["command line: syntax: `--fast` is no override; write key=value"]
    );
    let without_file = config::parse("", "", &["name=x".into(), "image=hello".into()]).unwrap();
    assert_eq!(without_file.config.guest, Guest::Native { image: "hello".into() });
    assert!(lines(&config::parse("", "", &[]).unwrap_err())[0].contains("name"));
}

#[test]
fn all_problems_of_a_file_are_reported_at_once() {
    let problems = parse("vcpus = 0\nmemroy = 4\nname = ''\n").unwrap_err();
    assert_eq!(problems.len(), 3, "{:?}", lines(&problems));
}

#[test]
fn bombs_are_refused_quickly() {
    assert!(parse(&"#".repeat(config::FILE_MAX + 1)).is_err());
    assert!(parse(&"[".repeat(config::FILE_MAX)).is_err());
    assert!(parse(&format!("a{} = 1", ".b".repeat(30_000))).is_err());
    let many: String = (0..5000).map(|i| format!("key{i} = 1\n")).collect();
    assert!(parse(&many).unwrap_err().len() <= 20);
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        proptest::sample::select(config::keys::KEYS.iter().map(|key| key.name.to_string()).collect::<Vec<_>>()),
        "[a-z_]{1,12}",
    ]
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        (0_u32..5000).prop_map(|number| number.to_string()),
        "[0-9]{1,30}",
        "'[ -&(-~]{0,40}'",
        "\\['[ -&(-~]{0,20}', '[ -&(-~]{0,20}'\\]",
        "[\\x00-\\x7f]{0,20}",
    ]
}

proptest! {
    #[test]
    fn no_file_panics(text in "\\PC{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn no_entries_panic_and_what_is_taken_is_bounded(entries in prop::collection::vec((key(), value()), 0..8)) {
        let text: String = entries.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        if let Ok(Parsed { config, .. }) = parse(&text) {
            prop_assert!(config::name_fault(&config.name).is_none());
            prop_assert!(config.memory_pages >= 1 && config.memory_pages <= config.max_pages);
            prop_assert!((1..=32).contains(&config.vcpus));
            prop_assert!((1..=65535).contains(&config.weight) && config.cap <= 100 * config.vcpus);
            prop_assert!(config.command_line.len() <= 1000);
            prop_assert!((1..=8).contains(&config.grant_frames));
            prop_assert!(config.max_mappings <= 4096 && config.retained_pages <= protocol::domain::MAX_RETAINED);
        }
    }

    #[test]
    fn no_override_panics(words in prop::collection::vec("\\PC{0,40}", 0..6)) {
        let _ = config::parse("test.toml", "memory = 4", &words);
    }
}
