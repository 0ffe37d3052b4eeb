//! The whole stack as a browser sees it: a page that lies on a disk, over a disk driver, a guest and a network driver.

use std::thread;
use std::time::{Duration, Instant};

use system_tests::http::{self, Server};
use system_tests::{BOCHS_BOOT, System, machine};
use xtask::disk::content::BIG;
use xtask::emulator::{Firmware, free_port};

/// The page that everybody asks for.
const PAGE: &str = "index.html";
/// Each driver dies this often.
const KILL_EVERY: Duration = Duration::from_secs(1);

/// A port of the host that leads to the web guest.
fn server() -> Server {
    Server { port: free_port().expect("a free port") }
}

/// Waits for the guest to serve: it is told to start before the prompt, and is not waited for.
fn at_work(system: &mut System, server: Server) {
    let pages = http::pages();
    system.until("a page", |_| server.serves(http::page(&pages, PAGE)).ok());
}

#[test]
fn files_arrive_byte_for_byte() {
    let server = server();
    let mut system = machine(2).http_port(server.port).boot();
    at_work(&mut system, server);
    let pages = http::pages();
    for page in &pages {
        server.serves(page).unwrap_or_else(|error| panic!("{error}"));
    }
    assert!(server.get("nothing.html").is_err_and(|error| error.contains("404")), "what is not there is not found");
    assert_eq!(server.serves_many(http::page(&pages, PAGE), 1000, 8), Vec::<String>::new());
    assert!(system.panicked().is_none());
}

/// Lets the disk and the network driver die in turn while the large file is under way.
#[test]
fn a_file_arrives_while_its_drivers_die() {
    let server = server();
    let mut system = machine(2).http_port(server.port).boot();
    at_work(&mut system, server);
    let transfer = thread::spawn(move || server.serves(http::page(&http::pages(), BIG)));
    let mut kills = 0;
    let mut next = Instant::now();
    while !transfer.is_finished() {
        for driver in ["disk", "network"] {
            // It is killed even while it is on its way back.
            system.run(&format!("kill {driver}"));
            kills += 1;
            next += KILL_EVERY / 2;
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }
    transfer.join().expect("the transfer does not panic").unwrap_or_else(|error| panic!("{error}"));
    assert!(kills >= 4, "only {kills} deaths during the transfer");
    for driver in ["disk", "network"] {
        let row = system.json(&format!("list {driver}"))[0].clone();
        assert!(row["restarts"].as_u64() >= Some(2), "{row}");
    }
    let web = system.json("list web")[0].clone();
    assert_eq!(web["restarts"], 0, "{web}");
    assert!(system.panicked().is_none());
}

fn serves_from_a_stick(firmware: Firmware) {
    let server = server();
    let mut system = machine(2).from_image(firmware).http_port(server.port).boot();
    at_work(&mut system, server);
}

/// The disk driver finds the medium as a virtio disk.
#[test]
fn the_image_serves_its_page_with_a_bios() {
    serves_from_a_stick(Firmware::Bios);
}

#[test]
fn the_image_serves_its_page_with_uefi() {
    serves_from_a_stick(Firmware::Uefi);
}

/// Its disk is an ATA disk without DMA, and its network card one of Intel's without interrupts; their drivers die, too.
#[test]
fn the_image_serves_its_page_in_bochs() {
    let server = server();
    let mut system = machine(2).from_image(Firmware::Bochs).http_port(server.port).timeout(BOCHS_BOOT).boot();
    assert_eq!(system.boot_reply().status, 0, "{}", system.boot_reply().text);
    at_work(&mut system, server);
    for driver in ["disk", "network"] {
        system.ok(&format!("kill {driver}"));
        at_work(&mut system, server);
        let row = system.json(&format!("list {driver}"))[0].clone();
        assert_eq!(row["restarts"], 1, "{row}");
    }
    let pages = http::pages();
    for name in ["style.css", "about.txt"] {
        server.serves(http::page(&pages, name)).unwrap_or_else(|error| panic!("{error}"));
    }
    assert!(system.panicked().is_none());
}
