//! Stock Linux kernels boot: of two kinds, in every compression, with little and much memory, on one CPU and on several.
//!
//! Four pairs by default; all of them with `cargo xtask test --matrix`.

use std::time::Instant;

use system_tests::kernel::{Packing, pack};
use system_tests::linux::LONG;
use system_tests::{DETACH, System};
use xtask::guest::{self, Files, Kind};
use xtask::test::MATRIX_VARIABLE;

/// One boot.
#[derive(Clone, Copy, Debug)]
struct Boot {
    kernel: &'static str,
    packing: Packing,
    /// MiB.
    memory: u32,
    vcpus: u32,
}

const fn boot(kernel: &'static str, packing: Packing, memory: u32, vcpus: u32) -> Boot {
    Boot { kernel, packing, memory, vcpus }
}

/// Those that are always run.
const FEW: [Boot; 4] = [
    boot("cloud", Packing::Stock, 128, 1),
    boot("generic", Packing::Stock, 128, 2),
    boot("cloud", Packing::Gzip, 192, 4),
    boot("cloud", Packing::Elf, 256, 2),
];

/// Every kernel with every size, and every compression once.
fn all() -> Vec<Boot> {
    let mut boots = Vec::new();
    for kernel in ["cloud", "generic"] {
        for memory in [128, 512, 2048, 4096] {
            boots.extend([1, 2, 4].map(|vcpus| boot(kernel, Packing::Stock, memory, vcpus)));
        }
        let packings = [Packing::Gzip, Packing::Xz, Packing::Zstd, Packing::Elf];
        boots.extend(packings.map(|packing| boot(kernel, packing, 256, 1)));
    }
    boots
}

fn name(boot: &Boot) -> String {
    format!("{}-{:?}", boot.kernel, boot.packing).to_lowercase()
}

/// Boots a guest, until its first program runs, and ends it.
fn try_boot(system: &mut System, boot: &Boot) {
    let begin = Instant::now();
    let (kernel, Boot { memory, vcpus, .. }) = (name(boot), boot);
    system.ok(&format!(
        "create /dev/null name=one kernel=boot/{kernel} ramdisk=boot/{} memory={memory} vcpus={vcpus} \
         extra=\"console=hvc0 quiet run=nproc\"",
        boot.kernel
    ));
    system.type_line("console one").unwrap_or_else(|error| panic!("{error:#}"));
    let up = |text: &str| text.split_once("busybox guest is up")?.1.lines().nth(1)?.trim().parse::<u32>().ok();
    let found = system.wait_until("the guest", LONG, up).unwrap_or_else(|error| panic!("{boot:?}: {error:#}"));
    assert_eq!(found, *vcpus, "{boot:?}");
    system.type_keys(DETACH);
    println!("{boot:?}: {:.1} s", begin.elapsed().as_secs_f32());
    assert!(system.ok("shutdown one").contains("one is destroyed"));
}

#[test]
fn stock_kernels_boot() {
    let whole = std::env::var_os(MATRIX_VARIABLE).is_some();
    let boots = if whole { all() } else { FEW.to_vec() };
    let files = |kernel: &str| -> Files {
        let files = if kernel == "cloud" { Kind::Busybox.prepare() } else { guest::generic() };
        files.unwrap_or_else(|error| panic!("{error:#}"))
    };
    let mut setup = system_tests::machine(2).memory(if whole { "5G" } else { "1G" }).timeout(LONG);
    for kernel in ["cloud", "generic"] {
        let files = files(kernel);
        setup = setup.file(&format!("boot/{kernel}"), std::fs::read(&files.ramdisk).expect("its RAM disk"));
        let mut packings: Vec<Packing> = Vec::new();
        for boot in boots.iter().filter(|boot| boot.kernel == kernel) {
            if !packings.contains(&boot.packing) {
                packings.push(boot.packing);
                setup = setup.file(&format!("boot/{}", name(boot)), pack(&files.kernel, boot.packing));
            }
        }
    }
    let mut system = setup.boot();
    // Without a RAM disk the kernel has nothing to run.
    system.ok(
        "create /dev/null name=bare kernel=boot/cloud-stock memory=128 extra=\"console=hvc0 quiet\" on_crash=preserve",
    );
    for boot in &boots {
        try_boot(&mut system, boot);
    }
    let bare = system.json("list bare")[0].clone();
    let end = bare["last_end"].as_str().unwrap_or_default();
    assert!(bare["state"] == "----c-" && end.contains("VFS: Unable to mount root fs"), "{bare}");
    assert!(system.panicked().is_none());
}
