//! The disk domain's image: finds the disks it was given, and serves them.
//!
//! Words of its command line: `null=64M` makes a disk that holds nothing, for measurements; `connections=8` bounds the places
//! of connections below what retained memory has room for.
#![cfg_attr(freestanding, no_std, no_main)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::boxed::Box;

use alloc::vec::Vec;
use core::time::Duration;

use disk::ata::channel::{COMMAND_PORTS, CONTROL_PORTS, Legacy};
use disk::ata::{Ata, Grants};
use disk::disk::{Disk, Properties};
use disk::null::Null;
use disk::partition::{Partitions, parse};
use disk::service::{Disks, RECORD, TIMEOUT_NS};
use disk::virtio::{PAGES, Virtio};
use heapless::String;
use protocol::arguments::BootArguments;
use protocol::error::Error;
use protocol::handle::Handle;
use unikernel::backend::{Native, run as serve};
use unikernel::device::{DmaBuffer, Interrupt, IoPorts};
use unikernel::text::short;
use unikernel::{Domain, time};
use virtio::hardware::{Bars, Opened, open};

/// Longest time to read a partition table; a disk that takes longer is not offered.
const TABLE_TIME: Duration = Duration::from_secs(5);
/// Time between two looks at an ATA disk that is started.
const START_STEP: Duration = Duration::from_millis(1);
/// The primary ATA channel of every PC that has one: command block, control block, interrupt.
const CHANNEL: (u16, u16, u8) = (0x1f0, 0x3f6, 14);

unikernel::main!(run);

async fn run(domain: Domain) {
    let mut disks = Disks::<Native>::default();
    if let Some(size) = domain.word("null") {
        match bytes(size) {
            Some(bytes) => disks.add("null0", Box::new(Null::new(bytes)), &[]),
            None => log::error!("null={size} is no size; write it like null=64M"),
        }
    }
    for (index, &handle) in domain.arguments.devices.iter().enumerate() {
        let name = short::<16>(format_args!("virtio{index}"));
        match virtio_disk(Handle(handle)).await {
            Ok((disk, partitions)) => disks.add(&name, Box::new(disk), &partitions),
            Err(problem) => log::error!("{name} cannot be used: {problem}"),
        }
    }
    match ata_disk(&domain.arguments).await {
        Ok(Some((disk, partitions))) => disks.add("ata0", Box::new(disk), &partitions),
        Ok(None) => {}
        Err(problem) => log::error!("ata0 cannot be used: {problem}"),
    }
    serve(Native::new(&domain, RECORD), disks, TIMEOUT_NS).await;
}

/// Resets and starts a disk, and reads its partition table.
async fn virtio_disk(handle: Handle) -> Result<(Virtio<Bars, DmaBuffer>, Partitions), String<128>> {
    let Opened { device, memory, interrupt } = open(handle, PAGES).await.map_err(short)?;
    let mut disk = Virtio::new(device, memory).map_err(|error| short(format_args!("{error:?}")))?;
    if let Some(why) = disk.unusable() {
        return Err(short(why));
    }
    let Properties { sectors, sector_size, .. } = disk.properties();
    let asked = disk.ask_start();
    let deadline = time::after(TABLE_TIME);
    let start = loop {
        if !asked {
            break Vec::new();
        }
        match disk.start_bytes() {
            Ok(Some(bytes)) => break bytes,
            Ok(None) if disk.rearm() => {}
            Ok(None) => time::before(deadline, interrupt.wait())
                .await
                .ok_or_else(|| short("its partition table cannot be read: it does not answer"))?,
            Err(fault) => return Err(short(fault.0)),
        }
    };
    Ok((disk, parse(&start, sectors, sector_size)))
}

/// Resets and starts the disk at the ATA channel, if the domain was given one and there is a disk; reads its partition table.
async fn ata_disk(given: &BootArguments) -> Result<Option<(Ata<Legacy, Grants>, Partitions)>, String<128>> {
    let ports = |first, count| given.ports.iter().find(|ports| (ports.first, ports.count) == (first, count));
    let (Some(command), Some(control), Some(interrupt)) = (
        ports(CHANNEL.0, COMMAND_PORTS),
        ports(CHANNEL.1, CONTROL_PORTS),
        given.interrupts.iter().find(|interrupt| interrupt.line == CHANNEL.2),
    ) else {
        return Ok(None);
    };
    let refused = |error: Error| short(format_args!("its channel cannot be had: {error}"));
    let registers = Legacy {
        command: IoPorts::enable(Handle(command.handle)).map_err(refused)?,
        control: IoPorts::enable(Handle(control.handle)).map_err(refused)?,
        interrupt: Interrupt::bind(Handle(interrupt.handle)).map_err(refused)?,
    };
    let Some(mut disk) = Ata::new(registers, Grants) else { return Ok(None) };
    let deadline = time::after(TABLE_TIME);
    let start = loop {
        match disk.begin() {
            Ok(Some(bytes)) => break bytes,
            Ok(None) if time::now() > deadline => return Err(short("it does not answer")),
            Ok(None) => time::sleep(START_STEP).await,
            Err(fault) => return Err(short(fault.0)),
        }
    };
    let Properties { sectors, sector_size, .. } = disk.properties();
    Ok(Some((disk, parse(&start, sectors, sector_size))))
}

/// A size such as `64M`.
fn bytes(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}
