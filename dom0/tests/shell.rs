//! The shell as an operator meets it: typed at, over a simulated machine.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod sim;

use dom0::bundle::Bundle;
use dom0::plane::Plane;
use dom0::shell::{Power, Shell};
use proptest::prelude::*;
use protocol::control::{FromDomain, ToDomain};
use protocol::domain::Reason;
use protocol::event::{DOMAIN_EVENT_PORT, Port};
use serde_json::Value;
use sim::{Sim, image};

struct Desk<'b> {
    sim: Sim,
    plane: Plane<'b, Sim>,
    shell: Shell,
}

const FILES: &[(&str, &str)] = &[
    ("auto/hello.toml", "memory = 1"),
    ("config/spin.toml", "image = 'hello'\nmemory = 1\ncpu_weight = 512"),
    ("config/xtd01.toml", include_str!("../../images/config/xtd01.toml")),
    ("config/bad.toml", "memory = 1\nmemroy = 2"),
];

impl<'b> Desk<'b> {
    fn new(image: &'b [u8]) -> Desk<'b> {
        let mut files = vec![("images/console", image), ("images/hello", image)];
        files.extend(FILES.iter().map(|(path, text)| (*path, text.as_bytes())));
        let sim = Sim::new();
        let mut plane = Plane::new(sim.clone(), Bundle::of(&files));
        let good = plane.boot();
        let shell = Shell::new(&mut plane, good);
        let mut desk = Desk { sim, plane, shell };
        assert!(desk.output().ends_with("dom0> "));
        desk
    }

    fn output(&mut self) -> String {
        let bytes: Vec<u8> = self.shell.output().drain(..).collect();
        String::from_utf8(bytes).unwrap()
    }

    fn type_in(&mut self, bytes: &str) -> String {
        self.shell.input(&mut self.plane, bytes.as_bytes());
        self.output()
    }

    /// Types a command; gives what it printed, which a prompt with `status` has to follow.
    fn command(&mut self, line: &str, status: u8) -> String {
        let shown = self.type_in(&format!("{line}\r"));
        let prompt = if status == 0 { "dom0> ".into() } else { format!("dom0 [{status}]> ") };
        let text = shown.strip_suffix(&prompt).unwrap_or_else(|| panic!("no {prompt:?} after {line}: {shown}"));
        let (_echo, text) = text.split_once("\r\n").unwrap();
        text.replace("\r\n", "\n")
    }

    fn json(&mut self, line: &str) -> Value {
        let text = self.command(&format!("{line} --json"), 0);
        text.lines().map(|line| serde_json::from_str(line).unwrap()).next_back().unwrap()
    }

    fn advance(&mut self, ns: u64) -> String {
        self.sim.advance(ns);
        self.poll()
    }

    fn poll(&mut self) -> String {
        self.plane.on_port(DOMAIN_EVENT_PORT);
        self.plane.poll();
        self.shell.poll(&mut self.plane);
        self.output()
    }

    fn end(&mut self, name: &str, reason: Reason) -> String {
        self.sim.end(name, reason);
        self.poll()
    }
}

#[test]
fn list_shows_what_xl_shows() {
    let image = image();
    let mut desk = Desk::new(&image);
    let text = desk.command("list", 0);
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        rows[0],
        ["Name", "ID", "Mem", "VCPUs", "State", "Time(s)", "CPU(%)", "Restarts", "Blackout(ms)", "Last", "end"]
    );
    assert_eq!(rows[1][..2], ["dom0", "0"]);
    assert_eq!(rows[2][..4], ["console", "8", "4", "1"]);
    assert_eq!(rows[3][..5], ["hello", "9", "1", "1", "-b----"]);
    assert_eq!(desk.json("list")[2]["name"], "hello");
    assert_eq!(desk.json("list hello")[0]["used_pages"], 32 + 1 + 16);
    let long = desk.command("list -l hello", 0);
    assert!(long.contains("created_tsc            : "), "{long}");
    assert!(desk.command("list helo", 1).contains("helo: there is no such domain; did you mean hello?"));
}

#[test]
fn everything_that_prints_data_prints_json() {
    let image = image();
    let mut desk = Desk::new(&image);
    assert_eq!(desk.json("info")["cpus"], 2);
    assert_eq!(desk.json("vcpu-list")[0]["name"], "dom0");
    assert_eq!(desk.json("sched hello")[0]["weight"], 256);
    assert_eq!(desk.json("uptime")[0]["name"], "dom0");
    assert!(desk.json("dmesg").is_array());
    let created = desk.json("create spin");
    assert_eq!((created["name"].as_str(), created["id"].as_u64()), (Some("spin"), Some(10)));
    assert!(created["ns"].as_u64().unwrap() > 0);
    assert!(desk.json("restart spin")["ns"].as_u64().unwrap() > 0);
    assert!(desk.json("destroy spin")["ns"].as_u64().unwrap() > 0);
    desk.type_in("top --json\r");
    let shown = desk.advance(1_000_000_000);
    let top: Value = serde_json::from_str(shown.lines().next().unwrap()).unwrap();
    assert_eq!(top["domains"].as_array().unwrap().len(), 3);
}

#[test]
fn create_reads_configurations_and_overrides() {
    let image = image();
    let mut desk = Desk::new(&image);
    assert!(desk.command("create spin name=s2 memory=2 'cmdline=a b; c'", 0).starts_with("s2: created, id 10, "));
    let view = desk.json("list s2");
    assert_eq!((view[0]["memory_pages"].as_u64(), view[0]["weight"].as_u64()), (Some(512), Some(512)));
    assert_eq!(view[0]["command_line"], "a b; c");
    assert!(desk.command("create /dev/null name=s3 image=hello memory=1", 0).starts_with("s3: created"));
    assert!(desk.command("create hello", 1).contains("there is a domain of this name"));
    assert_eq!(desk.command("create bad", 1), "config/bad.toml:2: memroy: unknown key; did you mean `memory`?\n");
    assert!(desk.command("create spim", 1).contains("did you mean spin?"));
    assert!(desk.command("create ../../etc/passwd", 1).contains("no such configuration"));
    let text = desk.command("create xtd01", 1);
    assert!(text.starts_with("warning: config/xtd01.toml:7: nics: means nothing here"), "{text}");
    assert!(text.contains("config/xtd01.toml:1: kernel: the bundle holds no /boot/xen-linux-2.6.11.12xu02: add it"));
    desk.command("create --paused spin", 0);
    assert_eq!(desk.json("list spin")[0]["state"], "--p---");
    desk.command("unpause spin", 0);
    assert!(desk.command("unpause spin", 1).contains("it is not paused"));
}

#[test]
fn wrong_usage_is_told_apart_from_failure() {
    let image = image();
    let mut desk = Desk::new(&image);
    assert_eq!(desk.command("lsit", 2), "lsit: unknown command; did you mean `list`?\n");
    assert_eq!(desk.command("xl uptime hello", 0).lines().count(), 2);
    assert!(desk.command("xl", 2).contains("did you mean `help`?"));
    assert!(desk.command("frobnicate", 2).contains("`help` lists"));
    assert!(desk.command("list --jsno", 2).contains("did you mean --json?"));
    assert!(desk.command("create", 2).contains("usage: create"));
    assert!(desk.command("pause", 2).contains("usage: pause"));
    assert!(desk.command("mem-set hello lots", 2).contains("is no size"));
    assert!(desk.command("vcpu-pin hello 3 0", 2).contains("is no vCPU"));
    assert!(desk.command("poweroff 256", 2).contains("is no status"));
    assert!(desk.command("list 'x", 2).contains("quote is left open"));
    assert!(desk.command("destroy dom0", 1).contains("poweroff"));
    assert!(desk.command("pause dom0", 1).contains("runs this shell"));
    assert_eq!(desk.command("", 1), "", "an empty line changes nothing");
    assert_eq!(desk.command("list", 0).lines().count(), 4);
}

#[test]
fn a_line_may_hold_several_commands_and_stops_at_the_first_failure() {
    let image = image();
    let mut desk = Desk::new(&image);
    assert_eq!(desk.command("pause hello; unpause hello;uptime hello", 0).lines().count(), 2);
    assert!(!desk.command("destroy nobody; destroy hello", 1).contains("usage"));
    assert_eq!(desk.plane.find("hello"), Some(9));
}

#[test]
fn shutdown_waits_for_the_end_and_no_longer_than_told() {
    let image = image();
    let mut desk = Desk::new(&image);
    assert_eq!(desk.type_in("shutdown hello\r"), "shutdown hello\r\n");
    assert_eq!(desk.sim.heard("hello")[0].message, ToDomain::Shutdown);
    let shown = desk.end("hello", Reason::Shutdown);
    assert!(shown.contains("hello shut down with code 0") && shown.ends_with("dom0> "), "{shown}");
    assert_eq!(desk.plane.find("hello"), None);

    desk.command("create spin", 0);
    desk.type_in("shutdown --timeout 2 spin; list\r");
    assert_eq!(desk.advance(1_000_000_000), "");
    let shown = desk.advance(1_000_000_000);
    assert_eq!(shown, "spin: it has not ended in time: `destroy spin` ends it\r\ndom0 [1]> ");

    desk.type_in("shutdown spin\r");
    let request = desk.sim.heard("spin").pop().unwrap();
    desk.sim.say("spin", request.id, FromDomain::Failed { reason: "busy".try_into().unwrap() });
    assert!(desk.poll().contains("spin: it refuses: busy"));
    assert!(desk.command("pause spin", 0).is_empty());
    assert!(desk.command("shutdown spin", 1).contains("unpause spin"));
    assert!(desk.command("shutdown --no-wait hello", 1).contains("no such domain"));
}

#[test]
fn reboot_waits_until_it_runs_again() {
    let image = image();
    let mut desk = Desk::new(&image);
    desk.type_in("reboot hello\r");
    assert_eq!(desk.sim.heard("hello")[0].message, ToDomain::Reboot);
    assert!(desk.end("hello", Reason::Reboot).ends_with("dom0> "));
    assert_eq!(desk.json("list hello")[0]["resets"], 1);
}

#[test]
fn memory_is_taken_back_only_when_the_domain_agrees() {
    let image = image();
    let mut desk = Desk::new(&image);
    desk.command("mem-max hello 4", 0);
    desk.command("mem-set hello 2M", 0);
    assert_eq!(desk.json("list hello")[0]["memory_pages"], 512);
    assert!(desk.command("mem-set hello 5", 1).contains("above its maximum"));
    assert!(desk.command("mem-max hello 1", 1).contains("lower that with mem-set first"));
    desk.sim.by_name("hello", |guest| guest.info.used_pages = 500);
    desk.sim.heard("hello");
    desk.type_in("mem-set hello 1\r");
    let request = desk.sim.heard("hello").pop().unwrap();
    assert_eq!(request.message, ToDomain::MemoryTarget { pages: 256 });
    desk.sim.by_name("hello", |guest| guest.info.used_pages = 200);
    desk.sim.say("hello", request.id, FromDomain::Done);
    assert!(desk.poll().ends_with("dom0> "));
    assert_eq!(desk.json("list hello")[0]["memory_pages"], 256);
    desk.type_in("mem-set hello 64K\r");
    assert!(desk.advance(10_000_000_000).contains("it does not answer"));
    assert!(desk.command("mem-max hello 1000", 0).is_empty());
    assert!(desk.command("mem-set hello 1000", 1).contains("free: destroy a domain"));
}

#[test]
fn scheduling_is_shown_and_changed() {
    let image = image();
    let mut desk = Desk::new(&image);
    desk.command("create spin vcpus=2", 0);
    desk.command("vcpu-pin spin 1 1", 0);
    desk.command("sched -d spin -w 100 -c 50 --class driver", 0);
    let share = desk.json("sched spin");
    assert_eq!((share[0]["weight"].as_u64(), share[0]["cap"].as_u64()), (Some(100), Some(50)));
    assert_eq!(share[0]["class"], "driver");
    let vcpus = desk.json("vcpu-list spin");
    assert_eq!((vcpus[0]["affinity"].as_str(), vcpus[1]["affinity"].as_str()), (Some("all"), Some("1")));
    assert!(desk.command("sched -w 5", 2).contains("which domain?"));
    assert!(desk.command("sched spin -w 0", 2).contains("no number from 1 to 65535"));
}

#[test]
fn a_console_is_shown_until_the_operator_comes_back() {
    let image = image();
    let mut desk = Desk::new(&image);
    desk.sim.heard("console");
    assert_eq!(desk.type_in("console hello\r"), "console hello\r\n");
    assert_eq!(desk.sim.heard("console")[0].message, ToDomain::ConsoleFocus { peer: 9 });
    desk.sim.say("console", 0, FromDomain::ConsoleReturned);
    assert_eq!(desk.poll(), "dom0> ");
    desk.type_in("console hello\r");
    assert!(desk.end("hello", Reason::Shutdown).ends_with("dom0> "), "a domain that ends gives the terminal back");
    assert!(desk.command("console console", 1).contains("this is its console"));
    desk.type_in("create -c spin\r");
    assert_eq!(desk.sim.heard("console").pop().unwrap().message, ToDomain::ConsoleFocus { peer: 9 });
}

#[test]
fn ctrl_c_ends_what_waits_and_typing_ahead_is_kept() {
    let image = image();
    let mut desk = Desk::new(&image);
    desk.type_in("shutdown hello; list\r");
    assert_eq!(desk.type_in("uptime dom0\r"), "", "kept");
    let shown = desk.end("hello", Reason::Shutdown);
    assert!(shown.contains("Name") && shown.contains("dom0> uptime dom0\r\n"), "{shown}");
    desk.type_in("top --count 5\rlist\r");
    assert_eq!(desk.type_in("\x03"), "interrupted\r\ndom0 [1]> ");
}

#[test]
fn top_measures_over_its_interval() {
    let image = image();
    let mut desk = Desk::new(&image);
    desk.type_in("top --count 2 --interval 2\r");
    desk.sim.by_name("hello", |guest| guest.info.cpu_ns += 1_000_000_000);
    let shown = desk.advance(2_000_000_000);
    let row: Vec<&str> = shown.lines().nth(2).unwrap().split_whitespace().collect();
    assert_eq!(row[0], "hello", "the busiest first: {shown}");
    assert!(row[3].parse::<f64>().unwrap() > 49.0 && row[3].parse::<f64>().unwrap() <= 50.0, "{shown}");
    let shown = desk.advance(2_000_000_000);
    assert!(shown.ends_with("dom0> "));
}

#[test]
fn notices_stand_above_the_line_that_is_edited() {
    let image = image();
    let mut desk = Desk::new(&image);
    desk.type_in("lis");
    let shown = desk.end("hello", Reason::Panic);
    assert!(shown.starts_with("\r\x1b[Khello panicked on vCPU 0: "), "{shown:?}");
    assert!(shown.ends_with("dom0> lis"), "{shown:?}");
    assert!(desk.command("t", 0).contains("console"));
}

#[test]
fn tab_completes_commands_domains_configurations_and_options() {
    let image = image();
    let mut desk = Desk::new(&image);
    assert_eq!(desk.type_in("unp\t"), "unpause ");
    assert_eq!(desk.type_in("hel\t\x15"), "hello \x08\x08\x08\x08\x08\x08\x08\x08\x08\x08\x08\x08\x08\x08\x1b[K");
    assert!(desk.type_in("create s\t").ends_with("spin "));
    assert!(desk.type_in("mem\t").ends_with("memory="));
    assert!(desk.type_in("\x15list; list --j\t").ends_with("--json "));
    let shown = desk.type_in("\x15vcpu-\t");
    assert!(shown.contains("vcpu-list  vcpu-pin  vcpu-set\r\ndom0> vcpu-"), "{shown}");
    assert!(desk.type_in("\x15help con\t\t").contains("config  console"));
}

#[test]
fn help_covers_every_command() {
    let image = image();
    let mut desk = Desk::new(&image);
    let text = desk.command("help", 0);
    let named = "list info create destroy shutdown reboot pause unpause restart console mem-set mem-max sched vcpu-list \
                 vcpu-pin top uptime dmesg help poweroff";
    for name in named.split_whitespace() {
        assert!(text.lines().any(|line| line.starts_with(name)), "{name}");
        let text = desk.command(&format!("help {name}"), 0);
        assert!(text.starts_with(&format!("usage: {name}")), "{text}");
    }
    assert!(desk.command("help config", 0).contains("on_crash"));
    assert!(desk.command("help lst", 2).contains("did you mean list?"));
}

#[test]
fn poweroff_lets_the_output_be_read_first() {
    let image = image();
    let mut desk = Desk::new(&image);
    desk.shell.input(&mut desk.plane, b"uptime; poweroff 3; list\r");
    assert_eq!(desk.shell.power(true, 0), None, "there is output");
    assert!(!desk.output().contains("State"));
    assert_eq!(desk.shell.power(false, 0), None, "it is not read yet");
    assert_eq!(desk.shell.power(true, 0), Some(Power::Off { status: 3 }));
    assert_eq!(desk.shell.power(false, u64::MAX), Some(Power::Off { status: 3 }), "not for ever");
    desk.shell.power_failed(&mut desk.plane, "no way to do it".into());
    assert!(desk.output().ends_with("no way to do it\r\ndom0 [1]> "));
    desk.shell.input(&mut desk.plane, b"poweroff --reboot\r");
    desk.output();
    assert_eq!(desk.shell.power(true, 0), Some(Power::Reboot));
}

#[test]
fn output_that_nobody_reads_is_bounded() {
    let image = image();
    let mut desk = Desk::new(&image);
    for _ in 0..2000 {
        desk.shell.input(&mut desk.plane, b"help config\r");
    }
    assert!(desk.shell.output().len() <= 512 * 1024 + 100);
}

#[test]
fn a_domain_is_made_once_what_ended_has_given_its_memory_back() {
    let image = image();
    let mut desk = Desk::new(&image);
    desk.command("create spin memory=40 on_crash=destroy", 0);
    desk.sim.state.borrow_mut().destroy_slices = 10_000;
    desk.sim.end("spin", Reason::Fault);
    assert!(desk.poll().contains("spin"));
    assert!(!desk.type_in("create spin memory=40\r").contains("dom0> "), "it waits");
    let mut shown = String::new();
    while !shown.ends_with("dom0> ") {
        desk.sim.sleep_until(desk.plane.next_deadline());
        shown += &desk.poll();
    }
    assert!(shown.contains("spin: created"), "{shown}");

    // What would not fit even then is refused, and so is what it waits for too long.
    desk.sim.state.borrow_mut().destroy_slices = 1_000;
    desk.sim.end("spin", Reason::Fault);
    desk.poll();
    assert!(!desk.type_in("create spin memory=400\r").contains("dom0 [1]> "));
    while !desk.plane.all_reaped() {
        desk.sim.sleep_until(desk.plane.next_deadline());
        shown = desk.poll();
    }
    assert!(shown.contains("lower `memory`") && shown.ends_with("dom0 [1]> "), "{shown}");
    desk.command("create spin memory=40 on_crash=destroy", 0);
    desk.sim.state.borrow_mut().destroy_slices = u32::MAX;
    desk.sim.end("spin", Reason::Fault);
    desk.poll();
    desk.type_in("create spin memory=40\r");
    let shown = desk.advance(11_000_000_000);
    assert!(shown.contains("needs") && shown.ends_with("dom0 [1]> "), "{shown}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn nothing_typed_panics(lines in prop::collection::vec("[ -~\\t\\x00-\\x1f]{0,40}|(list|create|sched|help|top|mem-set|vcpu-pin|destroy|console) [a-z0-9= \\-']{0,20}", 1..12)) {
        let image = image();
        let mut desk = Desk::new(&image);
        for line in lines {
            desk.type_in(&format!("{line}\r"));
            desk.plane.on_port(Port(3));
            desk.advance(100_000_000);
        }
    }
}
