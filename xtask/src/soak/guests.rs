//! The guests that load the driver domains, and what is attached and detached while they do.

use super::plan::Target;

/// A guest, by its configuration.
#[derive(Clone, Copy, Debug)]
pub struct Guest {
    /// Its name, and that of its configuration.
    pub name: &'static str,
    /// Its disk, if it has one.
    pub disk: Option<&'static str>,
    /// The rest of its configuration.
    pub configuration: &'static str,
}

impl Guest {
    /// Its whole configuration.
    pub fn text(&self) -> String {
        let disk = self.disk.map(|disk| format!("disk = [\"{disk}\"]\n")).unwrap_or_default();
        format!("name = \"{}\"\nmemory = 8\ngrant_frames = 4\n{disk}{}", self.name, self.configuration)
    }
}

/// All of them. Each reports about itself in the log. A disk that is taken away from one is given back.
pub const GUESTS: &[Guest] = &[
    Guest {
        name: "blkload",
        disk: Some("phy:scratch,xvda,w"),
        configuration: "cmdline = \"depth=32 seconds=0 gone=wait\"\n",
    },
    // It sleeps after each request, so that a notification that is lost is never made up for.
    Guest {
        name: "blkload2",
        disk: Some("phy:scratch2,xvda,w"),
        configuration: "image = \"blkload\"\ncmdline = \"depth=1 seconds=0 gone=wait\"\n",
    },
    Guest { name: "netload", disk: None, configuration: NETLOAD },
    // The other end of the same.
    Guest { name: "netload2", disk: None, configuration: NETLOAD },
];

/// Both ends of the network load.
const NETLOAD: &str = "image = \"netload\"\nvif = [\"\"]\ncmdline = \"seconds=0\"\n";

/// The guest that loads a driver domain, and its own name for the device it does so with; nobody loads the console domain.
pub const fn of(target: Target) -> (&'static str, &'static str) {
    match target {
        Target::Network => ("netload", "eth0"),
        _ => ("blkload", "xvda"),
    }
}

/// The command that gives the guest a second device.
pub const fn attach(target: Target) -> &'static str {
    match target {
        Target::Network => "network-attach netload",
        _ => "block-attach blkload phy:scratch2,xvdz,w",
    }
}

/// The command that takes one away again, without the device's name.
pub const fn detach(target: Target) -> &'static str {
    match target {
        Target::Network => "network-detach netload",
        _ => "block-detach blkload",
    }
}
