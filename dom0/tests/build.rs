//! Building domains: what is loaded, what is refused, and that a failure at any call leaves nothing behind.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod sim;

use dom0::bundle::Bundle;
use dom0::image::Image;
use dom0::plane::Plane;
use protocol::arguments::{GuestFile, decode_arguments};
use protocol::error::Error;
use protocol::hypercall::protection;
use protocol::layout::{ARGUMENTS, GUEST_MEMORY, PAGE_SIZE};
use sim::{Sim, image, image_with};

fn bundle(image: &[u8]) -> Bundle<'_> {
    Bundle::of(&[("images/console", image), ("images/hello", image), ("config/hello.toml", b"memory = 1")])
}

fn create(plane: &mut Plane<'_, Sim>, words: &[&str]) -> Result<u16, String> {
    let overrides: Vec<String> = words.iter().map(|word| word.to_string()).collect();
    let created = plane.create("config/hello.toml", "memory = 1", &overrides, false);
    created.map(|created| created.id).map_err(|failure| failure.lines.join("\n"))
}

#[test]
fn segments_are_loaded_page_by_page_with_their_access() {
    let bytes = image_with(&[(0x40_0000, 5, 100_000, 100_000), (0x50_0000, 6, 8, 700 * PAGE_SIZE)], 0x40_0010);
    let parsed = Image::parse(&bytes).unwrap();
    let access: Vec<_> = parsed.segments.iter().map(|segment| (segment.pages, segment.protection)).collect();
    assert_eq!(access, [(25, protection::EXECUTE), (700, protection::WRITE)]);
    let sim = Sim::new();
    let mut plane = Plane::new(sim.clone(), bundle(&bytes));
    create(&mut plane, &["memory=8", "cmdline=a=1 b"]).unwrap();
    sim.by_name("hello", |guest| {
        assert_eq!(guest.memory[&0x40_0000].len(), 65536);
        assert_eq!(guest.memory[&0x41_0000].len(), 100_000 - 65536);
        assert_eq!(guest.memory[&0x50_0000].len(), 8);
        let arguments = decode_arguments(&guest.memory[&ARGUMENTS]).unwrap();
        assert_eq!(arguments.command_line, "a=1 b");
        assert_eq!(arguments.console, None, "there is no console domain in this test");
    });
}

#[test]
fn the_files_of_a_linux_guest_lie_at_the_top_of_its_memory() {
    let (image, kernel, ramdisk) = (image(), [1; 5000], [2; 3]);
    let files = [("images/monitor", &image[..]), ("boot/vmlinuz", &kernel), ("boot/initrd", &ramdisk)];
    let sim = Sim::new();
    let mut plane = Plane::new(sim.clone(), Bundle::of(&files));
    let linux = |memory: &'static str| [memory, "kernel=/boot/vmlinuz", "ramdisk=boot/initrd", "root=/dev/xvda ro"];
    let fault = create(&mut plane, &linux("memory=12K")).unwrap_err();
    assert!(
        fault.starts_with("command line: memory: kernel and ramdisk have 12 KiB, and that is all there is"),
        "{fault}"
    );
    create(&mut plane, &linux("memory=2")).unwrap();
    sim.by_name("hello", |guest| {
        let guest_boot = decode_arguments(&guest.memory[&ARGUMENTS]).unwrap().guest.unwrap();
        let end = 2 << 20;
        assert_eq!(guest_boot.memory_pages, 512);
        assert_eq!(guest_boot.ramdisk, GuestFile { address: end - PAGE_SIZE, length: 3 });
        assert_eq!(guest_boot.kernel, GuestFile { address: end - 3 * PAGE_SIZE, length: 5000 });
        assert_eq!(guest.memory[&(GUEST_MEMORY + guest_boot.kernel.address)], kernel);
        assert_eq!(guest.memory[&(GUEST_MEMORY + guest_boot.ramdisk.address)], ramdisk);
        assert!(guest.info.memory_pages > 512, "what the monitor needs comes on top");
    });
    // A table comes on top for each large page that there is not.
    let set_aside = |sim: &Sim| sim.by_name("hello", |guest| guest.info.memory_pages);
    let mut again = |in_pieces| {
        sim.state.borrow_mut().in_pieces = in_pieces;
        plane.destroy(plane.find("hello").unwrap()).unwrap();
        create(&mut plane, &linux("memory=6")).unwrap();
        set_aside(&sim)
    };
    let aside = again(false);
    assert_eq!(again(true), aside + 3);
    // With more memory to come there are tables for all of it, and no large page is counted on.
    sim.state.borrow_mut().in_pieces = true;
    plane.destroy(plane.find("hello").unwrap()).unwrap();
    create(&mut plane, &[&linux("memory=6")[..], &["maxmem=8"]].concat()).unwrap();
    assert_eq!(set_aside(&sim), aside + 4);
    sim.by_name("hello", |guest| assert_eq!(guest.info.max_pages, aside + 4 + (2 << 8)));
}

#[test]
fn images_that_the_core_would_refuse_are_refused_with_the_reason() {
    let page = PAGE_SIZE;
    for (bytes, part) in [
        (b"#!/bin/sh".to_vec(), "is no ELF file"),
        (image()[..70].to_vec(), "is no ELF file"),
        (image_with(&[(0x40_0000, 7, 16, page)], 0x40_0000), "writable and executable"),
        (image_with(&[(0x40_0000, 5, 16, page)], 0x50_0000), "starts at 0x500000"),
        (image_with(&[(0x40_0000, 6, 16, page)], 0x40_0000), "no code"),
        (image_with(&[(0x40_0800, 5, 16, page)], 0x40_0800), "where none may be"),
        (image_with(&[(0x1000, 5, 16, page)], 0x1000), "where none may be"),
        (image_with(&[(0x4000_0000, 5, 16, page)], 0x4000_0000), "where none may be"),
        (image_with(&[(u64::MAX - 4095, 5, 16, page)], 0x40_0000), "where none may be"),
        (image_with(&[(0x40_0000, 5, 16, 8)], 0x40_0000), "where none may be"),
        (image_with(&[(0x40_0000, 5, 16, page), (0x40_0000, 4, 16, page)], 0x40_0000), "two segments on the page"),
        (image_with(&[(0x40_0000, 5, 16, page); 17], 0x40_0000), "more than 16 segments"),
    ] {
        let fault = Image::parse(&bytes).unwrap_err();
        assert!(fault.contains(part), "{fault} lacks {part}");
    }
}

#[test]
fn every_failure_says_what_to_do() {
    let image = image();
    let big = image_with(&[(0x40_0000, 5, 16, 300 * PAGE_SIZE)], 0x40_0000);
    let bundle = Bundle::of(&[("images/hello", &image), ("images/big", &big), ("images/bad", b"x")]);
    let mut plane = Plane::new(Sim::new(), bundle);
    create(&mut plane, &[]).unwrap();
    for (words, message) in [
        (&[][..], "hello: there is a domain of this name: destroy it, or pass name=OTHER"),
        (&["name=h2", "memory=100"], "h2: needs 100.0 MiB, 63.0 MiB free: lower `memory` or destroy a domain"),
        (
            &["name=h2", "image=big"],
            "h2: its image, stack and tables need 1.4 MiB or a little more, and `memory` is 1.0 MiB: raise it",
        ),
        (&["name=h2", "memory=64K"], "h2: `memory`, 64 KiB, does not hold the tables of a domain: raise it"),
        (&["name=h2", "cpu=5"], "h2: 2 CPUs run here, from 0: change `cpus` or `cpu`"),
        (&["name=h2", "image=none"], "h2: there is no image none in the bundle: choose among bad big hello"),
        (&["name=h2", "image=bad"], "h2: image bad is no ELF file: "),
        (&["name=h2", "connect=echo"], "h2: connect: there is no domain echo: create it first"),
        (&["name=dom0"], "dom0: there is a domain of this name"),
        (&["name=h2", "kernel=/boot/vmlinuz"], "command line: kernel: the bundle holds no /boot/vmlinuz: add it"),
    ] {
        let fault = create(&mut plane, words).unwrap_err();
        assert!(fault.starts_with(message), "{fault}\n{message}");
    }
}

#[test]
fn a_failure_at_any_call_leaves_nothing_behind() {
    let image = image();
    for error in [Error::NoMemory, Error::TableFull, Error::WrongState] {
        for call in 0.. {
            let sim = Sim::new();
            let mut plane = Plane::new(sim.clone(), bundle(&image));
            plane.boot();
            create(&mut plane, &["name=other"]).unwrap();
            let before = sim.books();
            sim.fail.set(Some((sim.calls.get() + call, error)));
            let words = ["connect=other", "vcpus=2", "cpus=[\"0\", \"1\"]"];
            let created = create(&mut plane, &words);
            let done = sim.fail.replace(None).is_some_and(|(at, _)| at >= sim.calls.get());
            match created {
                Ok(id) => plane.destroy(id).unwrap(),
                Err(text) => assert!(text.starts_with("hello: "), "{text}"),
            }
            plane.poll();
            assert_eq!(sim.books(), before, "call {call}, {error:?}");
            assert!(plane.all_reaped());
            if done {
                assert!(call > 10, "create makes more calls than that");
                break;
            }
        }
    }
}

#[test]
fn create_and_destroy_end_with_what_was_there_before() {
    let image = image();
    let sim = Sim::new();
    let mut plane = Plane::new(sim.clone(), bundle(&image));
    plane.boot();
    let before = sim.books();
    for round in 0..1000 {
        sim.state.borrow_mut().destroy_slices = round % 7;
        let id = create(&mut plane, &[]).unwrap();
        plane.destroy(id).unwrap();
        plane.poll();
        sim.heard("console");
    }
    assert_eq!(sim.books(), before);
}

#[test]
fn a_long_destroy_goes_on_in_the_background() {
    let image = image();
    let sim = Sim::new();
    let mut plane = Plane::new(sim.clone(), bundle(&image));
    let id = create(&mut plane, &[]).unwrap();
    sim.state.borrow_mut().destroy_slices = 10_000;
    plane.destroy(id).unwrap();
    assert!(!plane.all_reaped());
    assert_eq!(plane.find("hello"), None, "its name is free at once");
    let soon = plane.next_deadline();
    assert!(soon <= sim.state.borrow().now + 10_000_000);
    while !plane.all_reaped() {
        sim.sleep_until(plane.next_deadline());
        plane.poll();
    }
}
