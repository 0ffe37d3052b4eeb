//! How a test image ends: a line in the log, and the machine off with a status.

use unikernel::Domain;
use unikernel::device::IoPorts;
use unikernel::system;

use crate::{Context, Outcome};

/// Says how it went and powers off.
pub fn conclude(domain: &Domain, test: &str, outcome: Outcome) {
    let status = match outcome {
        Ok(()) => {
            log::info!("{test}: passed");
            0
        }
        Err(error) => {
            log::info!("{test}: FAILED: {error}");
            1
        }
    };
    if let Err(error) = power_off(domain, status) {
        log::info!("{test}: cannot power off: {error}");
    }
}

/// The emulator's exit device ends it when a status is written to the port that the boot line names.
fn power_off(domain: &Domain, status: u8) -> Outcome {
    let word = domain.word("exit-port").ok_or("the boot line has no exit-port")?;
    let port = u16::from_str_radix(word.trim_start_matches("0x"), 16).context("exit-port")?;
    let handle = system::create_ports(port, 1).context("a handle of the exit port")?;
    IoPorts::enable(handle).context("the exit port")?.write8(0, status);
    Ok(())
}
