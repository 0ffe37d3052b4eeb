//! `cargo xtask`: every way to build, run, test, check and measure Bulkhead.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use xtask::{bench, build, check, flash, fuzz, guest, image, run, sizes, soak, test};

/// Build, run, test, check and measure Bulkhead
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Boot the machine in an emulator, with your terminal or with a list of commands
    Run(run::Arguments),
    /// Build the core, the domains and the boot bundle
    Build,
    /// Make one image that boots from a USB stick, on BIOS and UEFI
    Image(image::Arguments),
    /// Prepare a Linux guest: fetch its kernel, make its root disk
    Guest(guest::Arguments),
    /// Write that image to a USB stick
    Flash(flash::Arguments),
    /// Run every test: on the host, in the model checker, and in an emulator
    Test(test::Arguments),
    /// Check format, lints, sizes, documentation and the machine code of the core
    Check(check::Arguments),
    /// Count the instructions of what the core and the driver domains do
    Bench(bench::Arguments),
    /// Kill driver domains under verified load, and see whether anybody notices
    Soak(soak::Arguments),
    /// Count the lines of the core against its budget
    Sizes(sizes::Arguments),
    /// Fuzz the decoders
    Fuzz(fuzz::Arguments),
}

fn main() -> ExitCode {
    let command = Command::parse();
    match carry_out(&command.verb) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(verb: &Verb) -> Result<u8> {
    match verb {
        Verb::Run(arguments) => run::run(arguments),
        Verb::Guest(arguments) => guest::run(arguments),
        Verb::Image(arguments) => image::run(arguments),
        Verb::Flash(arguments) => flash::run(arguments),
        Verb::Test(arguments) => test::run(arguments),
        Verb::Fuzz(arguments) => fuzz::run(arguments),
        Verb::Check(arguments) => check::run(arguments),
        Verb::Bench(arguments) => bench::run(arguments),
        Verb::Soak(arguments) => soak::run(arguments),
        Verb::Sizes(arguments) => sizes::run(arguments),
        Verb::Build => build::build().map(|_| 0),
    }
}
