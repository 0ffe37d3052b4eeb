//! The verb `flash`: writes the image to a USB stick. It destroys what is there, so it writes nothing but a whole removable
//! device that nobody uses, after its name was typed once more.

mod copy;
mod device;
mod progress;

use std::fs::File;
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::disk::MIB;
use crate::{build, image, process, workspace};
use device::{Device, Kernel};
use progress::Progress;

/// Write the image to a USB stick
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// The device, such as /dev/sdb: everything on it will be lost
    device: PathBuf,
    /// Another image than the one that `cargo xtask image` makes
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Do not ask for the name of the device, and install missing system packages without asking
    #[arg(long)]
    yes: bool,
}

/// Makes the image, examines the device, asks, writes and compares.
pub fn run(arguments: &Arguments) -> Result<u8> {
    let number = device::number(&arguments.device)?;
    let kernel = Kernel::default();
    // Refused at once, not after a build, if it has to be whatever the size of the image.
    kernel.examine(number, 0)?;
    let path = match &arguments.image {
        Some(path) => path.clone(),
        None => {
            build::prepare(&image::TOOLS, arguments.yes)?;
            image::make(&workspace::image(), &workspace::bundle())?;
            workspace::image()
        }
    };
    let mut image = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let length = image.metadata()?.len();
    if length == 0 {
        bail!("{} is empty", path.display());
    }
    let device = kernel.examine(number, length)?;
    let question = question(&device, &arguments.device);
    if arguments.yes {
        process::step(question);
    } else if !confirmed(&question, &device.name)? {
        bail!("nothing was written");
    }
    // The name may stand for another device by now; what is open cannot change any more.
    let mut target = copy::open(&arguments.device)?;
    if device::number_of(&target.metadata()?) != Some(number) || kernel.examine(number, length)? != device {
        bail!("{} is not the same device any more; nothing was written", arguments.device.display());
    }
    let mut progress = Progress::new("writing", length);
    copy::write(&mut image, &mut target, device.size, |done| progress.at(done))?;
    drop(target);
    let mut progress = Progress::new("comparing", length);
    copy::compare(&mut image, &arguments.device, |done| progress.at(done))?;
    println!("{} holds the image; it can be removed", arguments.device.display());
    Ok(0)
}

fn question(device: &Device, path: &Path) -> String {
    format!("{}: {}, {} MiB. Everything on it will be lost.", path.display(), device.model, device.size / MIB)
}

fn confirmed(question: &str, name: &str) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("there is no terminal to ask on; --yes writes without asking");
    }
    eprint!("{question}\nType its name, {name}, to write the image to it: ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_says_what_will_be_lost() {
        let device = Device { name: "sdb".into(), model: "Maker Stick".into(), size: 1 << 30 };
        let question = question(&device, Path::new("/dev/sdb"));
        assert_eq!(question, "/dev/sdb: Maker Stick, 1024 MiB. Everything on it will be lost.");
    }

    #[test]
    fn what_is_no_device_is_refused_before_anything_is_built() {
        let arguments = Arguments { device: "/etc/passwd".into(), image: None, yes: true };
        assert!(run(&arguments).unwrap_err().to_string().contains("not a block device"));
    }
}
