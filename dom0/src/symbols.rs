//! Names for addresses of an image, for death reports.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use elf::ElfBytes;
use elf::abi::{SHN_UNDEF, STT_FUNC, STT_NOTYPE};
use elf::endian::LittleEndian;

/// The functions of an image by address.
#[derive(Clone, Debug, Default)]
pub struct Symbols<'b> {
    /// (start, size, mangled name), sorted by start.
    functions: Vec<(u64, u64, &'b str)>,
}

impl<'b> Symbols<'b> {
    /// Reads the symbol table of an ELF file. A file without one, or no ELF file at all, has no names.
    pub fn parse(bytes: &'b [u8]) -> Symbols<'b> {
        Symbols { functions: functions(bytes).unwrap_or_default() }
    }

    /// `name+0x12` for an address inside a function, in the way Rust writes the name.
    pub fn name(&self, address: u64) -> Option<String> {
        let after = self.functions.partition_point(|&(start, ..)| start <= address);
        let &(start, size, name) = self.functions.get(after.checked_sub(1)?)?;
        let offset = address - start;
        if size != 0 && offset >= size {
            return None;
        }
        Some(format!("{:#}+{offset:#x}", rustc_demangle::demangle(name)))
    }

    /// The address with its name, if it has one.
    pub fn describe(&self, address: u64) -> String {
        match self.name(address) {
            Some(name) => format!("{address:#x} {name}"),
            None => format!("{address:#x}"),
        }
    }
}

fn functions(bytes: &[u8]) -> Option<Vec<(u64, u64, &str)>> {
    let elf = ElfBytes::<LittleEndian>::minimal_parse(bytes).ok()?;
    let (symbols, names) = elf.symbol_table().ok()??;
    let is_function = |symbol: &elf::symbol::Symbol| {
        matches!(symbol.st_symtype(), STT_FUNC | STT_NOTYPE) && symbol.st_shndx != SHN_UNDEF && symbol.st_value != 0
    };
    let mut functions: Vec<_> = symbols
        .iter()
        .filter(is_function)
        .filter_map(|symbol| Some((symbol.st_value, symbol.st_size, names.get(symbol.st_name as usize).ok()?)))
        .collect();
    // Of several names for one address the one with a size, a real function, comes last and is found.
    functions.sort_unstable_by_key(|&(start, size, _)| (start, size));
    Some(functions)
}
