//! The commands there are, with what `help` says about them and what completion needs to know.

use crate::config::suggest;

/// What a command does; `run` carries it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Verb {
    List,
    Info,
    Create,
    Destroy,
    Shutdown,
    Reboot,
    Pause,
    Unpause,
    Restart,
    Console,
    MemSet,
    MemMax,
    Sched,
    VcpuList,
    VcpuPin,
    VcpuSet,
    Top,
    Uptime,
    Dmesg,
    Help,
    Poweroff,
    Kill,
    Arm,
    Upgrade,
    Disks,
    Net,
    BlockAttach,
    BlockDetach,
    BlockList,
    NetworkAttach,
    NetworkDetach,
    NetworkList,
    PciList,
}

/// What the words of a command are, for completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Words {
    /// There are none.
    None,
    /// Names of domains.
    Domains,
    /// A configuration, then overrides.
    Configuration,
    /// A command.
    Commands,
    /// A domain, then an image of the bundle.
    Image,
    /// A domain, then one of its disks.
    Disk,
    /// A domain, then one of its network interfaces.
    Interface,
    /// A domain, then a disk specification.
    Target,
    /// A driver domain, then a point at which it can die.
    KillPoint,
}

/// An option of a command.
#[derive(Clone, Copy, Debug)]
pub struct Opt {
    /// Its long name.
    pub long: &'static str,
    /// Its letter, if it has one.
    pub short: Option<char>,
    /// What its value is called; empty for a flag.
    pub value: &'static str,
    /// What it does.
    pub text: &'static str,
}

const fn flag(long: &'static str, short: Option<char>, text: &'static str) -> Opt {
    Opt { long, short, value: "", text }
}

const fn value(long: &'static str, short: Option<char>, value: &'static str, text: &'static str) -> Opt {
    Opt { long, short, value, text }
}

const JSON: Opt = flag("json", None, "print JSON");
const TIMEOUT: Opt = value("timeout", None, "SECONDS", "give up after this time; 10 by default");
const NO_WAIT: Opt = flag("no-wait", None, "return at once");
const FORCE: Opt = flag("force", Some('f'), "do not wait for the domain to let go");
const ALL: Opt = flag("all", Some('a'), "every domain but dom0 and console");

/// A command.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// What it does.
    pub verb: Verb,
    /// Its name.
    pub name: &'static str,
    /// Its words, for the usage line.
    pub usage: &'static str,
    /// One line for `help`.
    pub text: &'static str,
    /// Its options.
    pub options: &'static [Opt],
    /// What its words are.
    pub words: Words,
}

macro_rules! commands {
    ($($verb:ident $name:literal $usage:literal $words:ident [$($option:expr),*] $text:literal;)*) => {
        /// All commands, in the order in which `help` shows them.
        pub const COMMANDS: &[Command] = &[$(Command {
            verb: Verb::$verb,
            name: $name,
            usage: $usage,
            text: $text,
            options: &[$($option),*],
            words: Words::$words,
        },)*];
    };
}

commands! {
    List "list" "[NAME...]" Domains [flag("long", Some('l'), "everything known, one field a line"), JSON]
        "domains with memory, vCPUs, state and CPU use";
    Info "info" "" None [JSON] "the machine: CPUs, memory, features, IOMMU";
    Create "create" "CONFIG [KEY=VALUE...]" Configuration [
        flag("paused", Some('p'), "stop before the first instruction"),
        flag("console", Some('c'), "show its console at once"),
        JSON
    ] "create a domain from config/CONFIG.toml or auto/CONFIG.toml of the bundle, with keys changed";
    Destroy "destroy" "NAME..." Domains [JSON] "end a domain at once and give everything back";
    Shutdown "shutdown" "NAME..." Domains [
        ALL, TIMEOUT, NO_WAIT, flag("wait", Some('w'), "wait until it has ended; always done unless --no-wait")
    ] "ask a domain to end by itself";
    Reboot "reboot" "NAME..." Domains [ALL, TIMEOUT, NO_WAIT] "ask a domain to end and start again";
    Pause "pause" "NAME..." Domains [] "stop a domain until it is unpaused";
    Unpause "unpause" "NAME..." Domains [] "let a paused domain run on";
    Restart "restart" "NAME" Domains [JSON] "take a domain back to its first instruction, in its own memory";
    Upgrade "upgrade" "NAME IMAGE" Image [TIMEOUT, JSON]
        "go on in place with another image of the bundle; back to the former one if that does not serve everything again";
    Kill "kill" "NAME" Domains [] "end a domain as if it had died";
    Arm "arm" "NAME POINT" KillPoint [value("after", Some('n'), "N", "at the N-th passage; 1 by default"), TIMEOUT]
        "let a driver domain die at a point, for tests of its recovery";
    Disks "disks" "" None [TIMEOUT, JSON] "disks and partitions of the driver domains, and who uses them";
    Net "net" "" None [TIMEOUT, JSON] "ports of the network driver domains, with addresses and counters";
    BlockAttach "block-attach" "NAME DISK" Target [TIMEOUT, NO_WAIT, JSON]
        "give a running domain a disk: phy:virtio0p1,xvdb,r";
    BlockDetach "block-detach" "NAME DEVICE" Disk [TIMEOUT, NO_WAIT, FORCE] "take a disk away from a running domain";
    BlockList "block-list" "[NAME...]" Domains [JSON] "disks of domains";
    NetworkAttach "network-attach" "NAME [mac=ADDRESS] [backend=NAME]" Domains [TIMEOUT, NO_WAIT, JSON]
        "give a running domain a network interface";
    NetworkDetach "network-detach" "NAME DEVICE" Interface [TIMEOUT, NO_WAIT, FORCE]
        "take a network interface away from a running domain";
    NetworkList "network-list" "[NAME...]" Domains [JSON] "network interfaces of domains";
    PciList "pci-list" "" None [JSON] "PCI devices, and the domains they were given to";
    Console "console" "NAME" Domains [] "show the console of a domain; Ctrl-] returns here";
    MemSet "mem-set" "NAME SIZE" Domains [TIMEOUT] "change the memory set aside for a domain: MiB, or 64K 36M 1G";
    MemMax "mem-max" "NAME SIZE" Domains [] "change the bound for mem-set";
    Sched "sched" "[NAME]" Domains [
        value("domain", Some('d'), "NAME", "the domain, as with xl"),
        value("weight", Some('w'), "N", "share relative to others, 1 to 65535"),
        value("cap", Some('c'), "PERCENT", "upper limit in percent of one CPU; 0 is none"),
        value("class", None, "CLASS", "guest or driver"),
        JSON
    ] "show or change how domains are scheduled";
    VcpuList "vcpu-list" "[NAME...]" Domains [JSON] "vCPUs with their CPU, state, time and affinity";
    VcpuPin "vcpu-pin" "NAME VCPU|all CPUS" Domains [] "choose the CPUs of a vCPU: 0-3,^1 or all";
    VcpuSet "vcpu-set" "NAME COUNT" Domains [] "change how many of its vCPUs a Linux guest uses";
    Top "top" "" None [
        value("count", Some('n'), "N", "number of snapshots; 1 by default"),
        value("interval", Some('d'), "SECONDS", "time over which each is taken; 1 by default"),
        JSON
    ] "CPU use over a second";
    Uptime "uptime" "[NAME...]" Domains [JSON] "time since the start of the machine and of domains";
    Dmesg "dmesg" "" None [value("lines", Some('n'), "N", "only the last N lines"), JSON] "the log of the core";
    Help "help" "[COMMAND|config]" Commands [] "this list, one command, or the keys of a configuration";
    Poweroff "poweroff" "[STATUS]" None [flag("reboot", Some('r'), "start the machine again instead")]
        "end everything and switch the machine off";
}

/// The command with this name.
pub fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.name == name)
}

/// The command that was probably meant.
pub fn meant(name: &str) -> Option<&'static str> {
    // What other systems call it.
    const ALIASES: &[(&str, &str)] = &[
        ("ls", "list"),
        ("ps", "list"),
        ("xl", "help"),
        ("xm", "help"),
        ("exit", "poweroff"),
        ("quit", "poweroff"),
        ("halt", "poweroff"),
        ("start", "create"),
        ("stop", "shutdown"),
        ("sched-credit", "sched"),
        ("sched-credit2", "sched"),
        ("xentop", "top"),
    ];
    let alias = ALIASES.iter().find(|(other, _)| *other == name).map(|(_, here)| *here);
    alias.or_else(|| suggest::nearest(name, COMMANDS.iter().map(|command| command.name)))
}
