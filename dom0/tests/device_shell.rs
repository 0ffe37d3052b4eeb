//! The commands about devices and driver domains, typed at a shell over the whole simulated stack.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod sim;

use dom0::shell::Shell;
use protocol::connection::KillPoint;
use protocol::control::ToDomain;
use serde_json::Value;
use sim::image;
use sim::stack::Stack;

struct Desk<'b> {
    stack: Stack<'b>,
    shell: Shell,
}

impl<'b> Desk<'b> {
    fn new(image: &'b [u8]) -> Desk<'b> {
        let mut stack = Stack::full(image);
        let shell = Shell::new(&mut stack.plane, true);
        let mut desk = Desk { stack, shell };
        desk.output();
        desk
    }

    fn output(&mut self) -> String {
        String::from_utf8(self.shell.output().drain(..).collect()).unwrap().replace("\r\n", "\n")
    }

    /// Types a command; gives what is shown until everybody has answered.
    fn type_in(&mut self, line: &str) -> String {
        self.shell.input(&mut self.stack.plane, format!("{line}\r").as_bytes());
        for _ in 0..8 {
            self.stack.settle();
            self.shell.poll(&mut self.stack.plane);
        }
        self.output()
    }

    fn command(&mut self, line: &str, status: u8) -> String {
        let shown = self.type_in(line);
        let prompt = if status == 0 { "dom0> ".into() } else { format!("dom0 [{status}]> ") };
        let text = shown.strip_suffix(&prompt).unwrap_or_else(|| panic!("no {prompt:?} after {line}: {shown}"));
        text.split_once('\n').unwrap().1.to_owned()
    }

    fn json(&mut self, line: &str) -> Value {
        let text = self.command(&format!("{line} --json"), 0);
        serde_json::from_str(text.lines().next_back().unwrap()).unwrap()
    }

    fn later(&mut self, seconds: u64) -> String {
        self.stack.sim.advance(seconds * 1_000_000_000);
        self.stack.settle();
        self.shell.poll(&mut self.stack.plane);
        self.output()
    }
}

#[test]
fn disks_and_net_show_what_the_driver_domains_say() {
    let image = image();
    let mut desk = Desk::new(&image);
    let text = desk.command("disks", 0);
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[1], ["disk", "virtio0", "web", "1", "512", "rw", "1"]);
    assert_eq!(rows[3][..5], ["web", "xvda", "virtio0p1", "serving", "1234"]);
    let disks = desk.json("disks");
    assert_eq!(disks["disks"][0]["name"], "virtio0");
    assert_eq!(disks["connections"][0]["statistics"]["requests"], 1234);
    assert_eq!(disks["connections"][0]["domain"], "web");
    let text = desk.command("net", 0);
    assert!(text.contains("network  wire") && text.contains("network  web/eth0"), "{text}");
    assert_eq!(desk.json("net")["ports"][1]["device"], "eth0");
}

#[test]
fn a_driver_domain_that_does_not_answer_holds_nobody_up() {
    let image = image();
    let mut desk = Desk::new(&image);
    desk.stack.mute.push("disk");
    let shown = desk.type_in("disks");
    assert!(!shown.contains("dom0"), "{shown}");
    let shown = desk.later(10);
    assert!(shown.contains("disk: does not answer") && shown.ends_with("dom0 [1]> "), "{shown}");
    assert!(shown.contains("web     xvda"), "what dom0 knows is shown all the same: {shown}");
    desk.stack.plane.destroy(desk.stack.plane.find("disk").unwrap()).unwrap();
    assert!(desk.command("disks", 1).contains("no disk driver domain"));
}

#[test]
fn disks_are_attached_and_detached() {
    let image = image();
    let mut desk = Desk::new(&image);
    assert_eq!(desk.command("block-attach web phy:web,xvdb,w", 0), "web: xvdb: attached, 1 MiB\n");
    assert_eq!(desk.json("block-attach web phy:web xvdc r")["state"], "serving");
    let list = desk.json("block-list web");
    assert_eq!(list.as_array().unwrap().len(), 3);
    assert_eq!((&list[1]["device"], &list[1]["bytes"]), (&"xvdb".into(), &(1 << 20).into()));
    assert!(desk.command("block-attach web phy:web,xvdb,w", 1).contains("it has a device xvdb"));
    assert!(desk.command("block-attach web phy:web,xvdd,w", 1).contains("has room for 3"));
    assert_eq!(desk.command("block-detach web xvdb", 0), "web: xvdb: detached\n");
    assert!(desk.command("block-detach web xvdb", 1).contains("no such device"));
    assert!(desk.command("block-detach web eth0", 1).contains("no such device"));
    let refused = desk.command("block-attach web phy:none,xvdb,w", 1);
    assert!(refused.contains("web: xvdb: disk: it is not served: there is no disk none"), "{refused}");
    assert_eq!(desk.json("block-list web").as_array().unwrap().len(), 2, "what was refused is gone");
    assert!(desk.command("block-attach web file:/x,xvdb,w", 1).contains("file"));
    assert!(desk.command("block-attach web /x", 2).contains("names no device"));
    assert!(desk.command("block-attach dom0 phy:a,xvdb,w", 1).contains("uses no devices"));
}

#[test]
fn interfaces_are_attached_and_detached() {
    let image = image();
    let mut desk = Desk::new(&image);
    assert_eq!(desk.command("network-attach web mac=aa:00:00:00:00:01", 0), "web: eth1: attached, aa:00:00:00:00:01\n");
    assert!(desk.command("network-attach web mac=aa:00:00:00:00:01", 1).contains("another interface"));
    assert!(desk.command("network-list", 0).contains("aa:00:00:00:00:01"));
    assert_eq!(desk.command("network-detach web eth1", 0), "web: eth1: detached\n");
}

#[test]
fn who_does_not_let_go_is_waited_for_until_the_deadline() {
    let image = image();
    let mut desk = Desk::new(&image);
    desk.stack.mute.push("web");
    desk.type_in("block-detach web xvda --timeout 3");
    let shown = desk.later(3);
    assert!(shown.contains("--force does not wait") && shown.ends_with("dom0 [1]> "), "{shown}");
    assert_eq!(desk.command("block-detach --force web xvda", 0), "web: xvda: detached\n");
    desk.type_in("block-attach web phy:a,xvdb,w --timeout 1");
    assert!(desk.later(1).contains("has not taken the offer"));
}

#[test]
fn driver_domains_are_armed_killed_and_upgraded() {
    let image = image();
    let mut desk = Desk::new(&image);
    desk.stack.heard("disk");
    desk.command("arm disk mid-batch after=3", 0);
    assert_eq!(desk.stack.heard("disk"), [ToDomain::ArmKill { point: KillPoint::MidBatch, after: 3 }]);
    assert!(desk.command("arm disk nowhere", 2).contains("before-attach after-publish"));
    assert!(desk.command("arm disk mid-batch after=0", 2).contains("after=N"));
    let shown = desk.command("kill disk", 0);
    assert!(shown.contains("disk was killed by the operator") && shown.contains("disk is restarted"), "{shown}");
    desk.stack.start("disk");
    assert!(desk.later(0).is_empty() && desk.later(2).is_empty());
    let list = desk.command("list disk", 0);
    assert!(list.lines().nth(1).unwrap().ends_with("was killed by the operator"), "{list}");
    let view = &desk.json("list disk")[0];
    assert_eq!(view["restarts"], 1);
    assert!(view["blackout_ns"].as_u64().unwrap() > 0, "{view}");
    desk.type_in("upgrade disk disk2");
    desk.stack.start("disk");
    assert!(desk.later(0).contains("disk: upgraded"));
    assert!(desk.command("upgrade disk nosuch", 1).contains("no image nosuch"));
    desk.type_in("upgrade disk hello");
    let shown = desk.later(10);
    assert!(shown.contains("it goes on with disk2") && shown.ends_with("dom0 [1]> "), "{shown}");
    assert!(desk.command("kill dom0", 1).contains("runs this shell"));
}

#[test]
fn tab_knows_devices_images_and_points() {
    let image = image();
    let mut desk = Desk::new(&image);
    for (typed, completed) in [
        ("block-detach web \t", "block-detach web xvda"),
        ("network-detach web \t", "network-detach web eth0"),
        ("upgrade disk ne\t", "upgrade disk network"),
        ("arm disk mid\t", "arm disk mid-"),
        ("arm disk mid-b\t", "arm disk mid-batch"),
        ("block-at\t", "block-attach"),
    ] {
        desk.shell.input(&mut desk.stack.plane, typed.as_bytes());
        let shown = desk.output();
        assert!(shown.contains(completed), "{typed}: {shown:?}");
        desk.shell.input(&mut desk.stack.plane, b"\x03");
        desk.output();
    }
}
