//! The machine that an adversary has, and what its code is written with.

use std::ops::{Deref, DerefMut, Range};

use iced_x86::code_asm::*;

use super::Assembled;

/// Where the code lies; the entry point is its beginning.
pub const CODE: u64 = 0x10_0000;
/// Page tables: everything is mapped as it lies, the first GiB and the fourth.
pub const TABLES: u64 = 0x20_0000;
/// Descriptors.
pub const DESCRIPTORS: u64 = 0x20_4000;
/// Gates for all vectors.
pub const GATES: u64 = 0x20_5000;
/// What LGDT, LIDT and a LIDT without gates load.
pub const POINTERS: u64 = 0x20_6000;
/// Code for the start of a second vCPU, which copies it below 1 MiB.
pub const TRAMPOLINE: u64 = 0x20_6100;
/// Where it goes.
pub const STARTUP_PAGE: u64 = 9;
/// Constants of the act.
pub const TABLE: u64 = 0x20_7000;
/// Pages that nobody has told anybody of yet.
pub const SHARED_INFO: u64 = 0x21_0000;
/// Arguments of hypercalls: two pages.
pub const AREA: u64 = 0x22_0000;
/// Ends of the stacks, one a vCPU.
pub const STACKS: [u64; 2] = [0x24_0000, 0x25_0000];
/// The pages shared with store and console.
pub const STORE: u64 = 0xfeff_c000;
pub const CONSOLE: u64 = 0xfeff_f000;

/// Selectors of 64-bit code, data, and 32-bit code.
pub const SELECTORS: [u16; 3] = [8, 0x10, 0x18];

/// Instructions of the act. r14 is where an instruction that faults goes on, r15 the end of the vCPU's stack.
pub struct Code {
    assembler: CodeAssembler,
    /// Constants, at [`TABLE`].
    pub table: Vec<u8>,
}

impl Deref for Code {
    type Target = CodeAssembler;
    fn deref(&self) -> &CodeAssembler {
        &self.assembler
    }
}

impl DerefMut for Code {
    fn deref_mut(&mut self) -> &mut CodeAssembler {
        &mut self.assembler
    }
}

impl Code {
    pub fn new(assembler: CodeAssembler) -> Code {
        Code { assembler, table: Vec::new() }
    }

    /// Adds constants; gives their address.
    pub fn constants(&mut self, values: &[u64]) -> u64 {
        self.bytes(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())
    }

    /// The same for bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> u64 {
        let at = TABLE + self.table.len() as u64;
        self.table.extend(bytes);
        self.table.resize(self.table.len().next_multiple_of(8), 0);
        at
    }

    /// Prints a line, by the port for early text.
    pub fn say(&mut self, text: &str) -> Assembled {
        for byte in text.bytes().chain([b'\n']) {
            self.mov(al, u32::from(byte))?;
            self.out(0xe9, al)?;
        }
        Ok(())
    }

    /// Instructions of which one may fault; what follows it is then left out.
    pub fn attempt(&mut self, act: impl FnOnce(&mut Code) -> Assembled) -> Assembled {
        let mut after = self.create_label();
        self.lea(r14, qword_ptr(after))?;
        act(self)?;
        self.set_label(&mut after)?;
        // A label needs an instruction of its own.
        self.nop()
    }

    /// Once for each number of the range, which is in `register`.
    pub fn count(
        &mut self,
        register: AsmRegister64,
        range: Range<u64>,
        body: impl FnOnce(&mut Code) -> Assembled,
    ) -> Assembled {
        let mut again = self.create_label();
        self.mov(register, range.start)?;
        self.set_label(&mut again)?;
        body(self)?;
        self.inc(register)?;
        // All ranges are short.
        self.cmp(register, range.end as i32)?;
        self.jb(again)
    }

    /// Again and again.
    pub fn forever(&mut self, body: impl FnOnce(&mut Code) -> Assembled) -> Assembled {
        let mut again = self.create_label();
        self.set_label(&mut again)?;
        body(self)?;
        self.jmp(again)
    }

    /// A hypercall with these arguments.
    pub fn hypercall(&mut self, number: u64, arguments: [u64; 3]) -> Assembled {
        for (register, value) in [(rax, number), (rdi, arguments[0]), (rsi, arguments[1]), (rdx, arguments[2])] {
            self.mov(register, value)?;
        }
        self.vmmcall()
    }

    /// Words of 32 bits at an address.
    pub fn put(&mut self, address: u64, words: &[u32]) -> Assembled {
        for (word, at) in words.iter().zip((address..).step_by(4)) {
            self.mov(rax, at)?;
            self.mov(dword_ptr(rax), *word)?;
        }
        Ok(())
    }

    /// A fault for which there is no gate, nor for what follows from it.
    pub fn triple_fault(&mut self) -> Assembled {
        self.lidt(ptr(POINTERS + 32))?;
        self.ud2()
    }
}
