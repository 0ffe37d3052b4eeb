//! From what `run` boots: straight from the build, or from the image as a USB stick carries it.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::emulator::{Firmware, Medium, Options, bochs};
use crate::system::{self, Tool};
use crate::{image, workspace};

/// What the operator says about the medium.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Boot {
    /// Boot the image that `cargo xtask image` makes, or the one in FILE, from a USB stick
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    image: Option<Option<PathBuf>>,
    /// With UEFI firmware instead of a BIOS
    #[arg(long, requires = "image", conflicts_with = "bochs")]
    uefi: bool,
    /// In Bochs, where the image is an ATA disk
    #[arg(long, requires = "image")]
    bochs: bool,
}

impl Boot {
    fn firmware(&self) -> Firmware {
        match (self.bochs, self.uefi) {
            (true, _) => Firmware::Bochs,
            (false, true) => Firmware::Uefi,
            (false, false) => Firmware::Bios,
        }
    }

    /// Programs and files of the system that this needs.
    pub fn tools(&self) -> Vec<Tool> {
        let mut tools = Vec::new();
        if let Some(None) = self.image {
            tools.extend(image::TOOLS);
        }
        match self.firmware() {
            Firmware::Bios => tools.push(system::QEMU),
            Firmware::Uefi => tools.extend([system::QEMU, system::OVMF, system::OVMF_VARIABLES]),
            Firmware::Bochs => tools.extend(bochs::TOOLS),
        }
        tools
    }

    /// Makes the image if it is one of ours, and puts it into `options`.
    pub fn apply(&self, options: &mut Options) -> Result<()> {
        let Some(image) = &self.image else { return Ok(()) };
        let file = match image {
            Some(file) if !file.exists() => bail!("--image={}: there is no such file", file.display()),
            Some(file) => file.clone(),
            None if options.bundle == workspace::bundle() => workspace::image(),
            // One run's own bundle goes on an image of its own.
            None => options.logs.join("bulkhead.img"),
        };
        if image.is_none() {
            image::make(&file, &options.bundle)?;
        }
        options.medium = Some(Medium { file, firmware: self.firmware() });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_needed_that_is_not_used() {
        let names = |boot: &Boot| boot.tools().iter().map(|tool| tool.program).collect::<Vec<_>>();
        assert_eq!(names(&Boot::default()), [system::QEMU.program]);
        let own = Boot { image: Some(Some("x.img".into())), bochs: true, ..Boot::default() };
        assert_eq!(names(&own), bochs::TOOLS.map(|tool| tool.program));
        let made = Boot { image: Some(None), uefi: true, ..Boot::default() };
        assert!(names(&made).contains(&system::OVMF.program) && names(&made).contains(&"grub-mkimage"));
    }

    #[test]
    fn an_image_that_is_not_there_is_named() {
        let boot = Boot { image: Some(Some("/nonexistent".into())), ..Boot::default() };
        let error = boot.apply(&mut Options::new(1, PathBuf::new())).unwrap_err().to_string();
        assert!(error.contains("--image=/nonexistent"), "{error}");
    }
}
