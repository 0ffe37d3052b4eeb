//! The devices of the machine that `run` boots: which disks, and where on the host its web server is.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};

use crate::emulator::{self, Access, Disk, Network, Options};
use crate::process;

/// Port of the host behind which the machine's web server is, unless another one is asked for.
const HTTP_PORT: u16 = 8080;

/// What the operator says about devices.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Devices {
    /// A disk of your own, as a raw image, to which changes are written; can be given several times. Without this, target/disk.img
    /// is used and changes to it are gone at the end
    #[arg(long, value_name = "FILE", conflicts_with = "no_disk")]
    disk: Vec<PathBuf>,
    /// No disk
    #[arg(long)]
    no_disk: bool,
    /// No network card
    #[arg(long, conflicts_with = "http_port")]
    no_net: bool,
    /// Network cards more than one, each on a network of its own
    #[arg(long, value_name = "NUMBER", default_value_t, value_parser = clap::value_parser!(u8).range(..8), conflicts_with = "no_net")]
    more_nets: u8,
    /// Port of 127.0.0.1 that leads to port 80 of the machine, 0 for a free one [default: 8080, or a free one if that is taken]
    #[arg(long, value_name = "PORT")]
    http_port: Option<u16>,
}

impl Devices {
    /// Disks of the machine, without those of guests.
    pub fn disks(&self) -> usize {
        if self.no_disk { 0 } else { self.disk.len().max(1) }
    }

    /// Puts the devices asked for into `options`.
    pub fn apply(&self, options: &mut Options) -> Result<()> {
        if options.in_bochs() {
            if self.no_disk || !self.disk.is_empty() || self.more_nets > 0 {
                bail!(
                    "--disk, --no-disk and --more-nets are not for --bochs, where there is one disk, the image, and one card"
                );
            }
            // The image is the disk, as the driver of ATA disks finds it.
            options.disks.clear();
        } else if let Some(medium) = &options.medium {
            // The disk domain cannot read a USB stick, but it can read the same thing as a virtio disk.
            options.disks = vec![Disk { file: medium.file.clone(), access: Access::Snapshot }];
        }
        if self.no_disk {
            options.disks.clear();
        }
        if let Some(file) = self.disk.iter().find(|file| !file.exists()) {
            bail!("--disk {}: there is no such file", file.display());
        }
        if !self.disk.is_empty() {
            options.disks = self.disk.iter().map(|file| Disk { file: file.clone(), access: Access::Keep }).collect();
        }
        options.networks.clear();
        if !self.no_net {
            options.networks.push(Network { http_port: Some(self.http_port()?) });
            options.networks.resize(1 + usize::from(self.more_nets), Network::default());
        }
        Ok(())
    }

    fn http_port(&self) -> Result<u16> {
        let taken = |port, error| {
            anyhow!("port {port} of 127.0.0.1 cannot be used ({error}); choose another with --http-port, or 0 for any")
        };
        let port = match self.http_port {
            Some(port @ 1..) => emulator::check_port(port).map(|()| port).map_err(|error| taken(port, error))?,
            None if emulator::check_port(HTTP_PORT).is_ok() => return Ok(HTTP_PORT),
            None | Some(0) => emulator::free_port().context("no port of 127.0.0.1 is free")?,
        };
        process::step(format_args!("http://127.0.0.1:{port}/ leads to the machine"));
        Ok(port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulator::{Firmware, Medium};
    use std::net::{Ipv4Addr, TcpListener};

    fn applied(arguments: &Devices) -> Result<Options> {
        let mut options = Options::new(1, PathBuf::new());
        arguments.apply(&mut options).map(|()| options)
    }

    #[test]
    fn a_port_that_was_asked_for_must_be_free() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let taken = listener.local_addr().unwrap().port();
        let error = applied(&Devices { http_port: Some(taken), ..Devices::default() }).unwrap_err().to_string();
        assert!(error.contains("--http-port") && error.contains(&taken.to_string()), "{error}");
        let free = applied(&Devices { http_port: Some(0), ..Devices::default() }).unwrap();
        assert!(free.networks[0].http_port.is_some_and(|port| port != 0 && port != taken));
    }

    #[test]
    fn in_bochs_the_image_is_the_only_disk() {
        let medium = Medium { file: "x.img".into(), firmware: Firmware::Bochs };
        let options = || Options { medium: Some(medium.clone()), ..Options::new(1, PathBuf::new()) };
        let mut found = options();
        Devices { http_port: Some(0), ..Devices::default() }.apply(&mut found).unwrap();
        assert!(found.disks.is_empty() && found.networks.len() == 1);
        let none = Devices { no_disk: true, ..Devices::default() };
        assert!(none.apply(&mut options()).unwrap_err().to_string().contains("--bochs"));
    }

    #[test]
    fn devices_can_be_left_out_or_brought_along() {
        let none = applied(&Devices { no_disk: true, no_net: true, ..Devices::default() }).unwrap();
        assert_eq!((none.disks, none.networks), (Vec::new(), Vec::new()));
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let own = Devices { disk: vec![file.clone(), file.clone()], more_nets: 2, ..Devices::default() };
        let disk = Disk { file, access: Access::Keep };
        assert_eq!(own.disks(), 2);
        let own = applied(&Devices { http_port: Some(0), ..own }).unwrap();
        assert_eq!((own.disks.as_slice(), own.networks.len()), ([disk.clone(), disk].as_slice(), 3));
        assert_eq!(own.networks[1], Network::default());
        let missing = Devices { disk: vec!["/nonexistent".into()], ..Devices::default() };
        assert!(applied(&missing).unwrap_err().to_string().contains("--disk /nonexistent"));
    }
}
