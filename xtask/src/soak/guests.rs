//! The guests that load the driver domains, and what is attached and detached while they do.

use super::plan::Target;

/// A guest, by its configuration.
#[derive(Clone, Copy, Debug)]
pub struct Guest {
    /// Its name, and that of its configuration.
    pub name: &'static str,
    /// Its configuration.
    pub configuration: &'static str,
}

/// All of them. Each reports about itself in the log.
pub const GUESTS: &[Guest] = &[
    Guest {
        name: "blkload",
        configuration: "memory = 8\ngrant_frames = 4\ndisk = [\"phy:scratch,xvda,w\"]\ncmdline = \"depth=32 seconds=0\"\n",
    },
    // It sleeps after each request, so that a notification that is lost is never made up for.
    Guest {
        name: "blkload2",
        configuration: "image = \"blkload\"\nmemory = 8\ngrant_frames = 4\ndisk = [\"phy:scratch2,xvda,w\"]\n\
                        cmdline = \"depth=1 seconds=0\"\n",
    },
    Guest { name: "netload", configuration: NETLOAD },
    // The other end of the same.
    Guest { name: "netload2", configuration: NETLOAD },
];

/// Both ends of the network load.
const NETLOAD: &str = "image = \"netload\"\nmemory = 8\ngrant_frames = 4\nvif = [\"\"]\ncmdline = \"seconds=0\"\n";

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
