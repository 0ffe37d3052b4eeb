//! A domain that makes whatever hypercall it is told to.
//!
//! Its code is a few machine instructions, so that no Rust stands between the test and the core: nothing in it can be
//! upset by what a call does to its memory, registers or handles. It takes orders from its page [`CONTROL_IN`], which this
//! domain maps, and lets others run while there are none. Its console page is what calls read and write.

use core::time::Duration;

use protocol::domain::DomainSpec;
use protocol::grant::{PEER_CONSOLE, REF_CONSOLE, REF_CONTROL_IN};
use protocol::hypercall::protection;
use protocol::layout::{CONTROL_IN, IMAGE_BASE, PAGE_SIZE};
use protocol::ring::Shared;
use unikernel::domain::DomainHandle;
use unikernel::grant::{Access, Mapped, Source, map};
use unikernel::{time, vcpu};

use dom0::image::{Image, Segment};

use crate::child::{Child, Fuse, Stop};
use crate::{Context, Outcome};

/// Takes orders for ever. RBX and R12 must survive the calls, or it stops answering.
#[rustfmt::skip]
const CODE: &[u8] = &[
    0x48, 0xbb, 0x00, 0x30, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, //       mov rbx, CONTROL_IN
    0x45, 0x31, 0xe4,                                           //       xor r12d, r12d
    0xb8, 0x24, 0x00, 0x00, 0x00,                               // next: mov eax, vcpu_yield
    0x0f, 0x05,                                                 //       syscall
    0x8b, 0x03,                                                 //       mov eax, [rbx + ORDER]
    0x44, 0x39, 0xe0,                                           //       cmp eax, r12d
    0x74, 0xf2,                                                 //       je next
    0x41, 0x89, 0xc4,                                           //       mov r12d, eax
    0x48, 0x8b, 0x43, 0x08,                                     //       mov rax, [rbx + NUMBER]
    0x48, 0x8b, 0x7b, 0x10,                                     //       mov rdi, [rbx + ARGUMENTS]
    0x48, 0x8b, 0x73, 0x18,                                     //       mov rsi, [rbx + ARGUMENTS + 8]
    0x48, 0x8b, 0x53, 0x20,                                     //       mov rdx, [rbx + ARGUMENTS + 16]
    0x4c, 0x8b, 0x53, 0x28,                                     //       mov r10, [rbx + ARGUMENTS + 24]
    0x4c, 0x8b, 0x43, 0x30,                                     //       mov r8, [rbx + ARGUMENTS + 32]
    0x49, 0x89, 0xd9,                                           //       mov r9, rbx
    0x66, 0x48, 0x0f, 0x6e, 0xc3,                               //       movq xmm0, rbx
    0x66, 0x4c, 0x0f, 0x6e, 0xfb,                               //       movq xmm15, rbx
    0x0f, 0x05,                                                 //       syscall
    0x48, 0x89, 0x43, 0x48,                                     //       mov [rbx + RESULT], rax
    0x66, 0x41, 0x0f, 0xeb, 0xc7,                               //       por xmm0, xmm15
    0x66, 0x48, 0x0f, 0x7e, 0xc0,                               //       movq rax, xmm0
    0x48, 0x09, 0xf8,                                           //       or rax, rdi
    0x48, 0x09, 0xf0,                                           //       or rax, rsi
    0x48, 0x09, 0xd0,                                           //       or rax, rdx
    0x4c, 0x09, 0xc0,                                           //       or rax, r8
    0x4c, 0x09, 0xc8,                                           //       or rax, r9
    0x4c, 0x09, 0xd0,                                           //       or rax, r10
    0x48, 0x89, 0x43, 0x50,                                     //       mov [rbx + LEFT_OVER], rax
    0x44, 0x89, 0x63, 0x40,                                     //       mov [rbx + ANSWER], r12d
    0xeb, 0x9e,                                                 //       jmp next
];

const _: () = assert!(CONTROL_IN == 0x1_0000_3000);

/// Offsets in the page with the orders.
const ORDER: usize = 0;
const NUMBER: usize = 8;
const ARGUMENTS: usize = 16;
const ANSWER: usize = 64;
const RESULT: usize = 72;
const LEFT_OVER: usize = 80;

/// What a call gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The result register.
    pub result: u64,
    /// Bits that were not zero in registers that must be.
    pub left_over: u64,
}

/// The puppet.
pub struct Puppet {
    /// The domain.
    pub child: Child,
    /// Its page with the orders.
    pub orders: Mapped,
    /// Its console page.
    pub console: Mapped,
    order: u32,
}

impl Puppet {
    /// Makes one, and starts it.
    pub fn start(spec: &DomainSpec) -> Outcome<Puppet> {
        let puppet = Puppet::build(spec)?;
        let segments = alloc::vec![Segment {
            address: IMAGE_BASE,
            pages: (CODE.len() as u64).div_ceil(PAGE_SIZE),
            protection: protection::EXECUTE,
            bytes: CODE,
        }];
        let image = Image { entry: IMAGE_BASE, segments };
        let fuse = &mut Fuse::new(u64::MAX);
        whole(puppet.child.load(&image, "", fuse))?;
        whole(puppet.child.start(&image, fuse))?;
        Ok(puppet)
    }

    /// Makes one without code, which is not started.
    pub fn build(spec: &DomainSpec) -> Outcome<Puppet> {
        let child = whole(Child::create(spec, &mut Fuse::new(u64::MAX)))?;
        child.handle.set_peer(PEER_CONSOLE, &DomainHandle::SELF, false).context("domain_peer")?;
        let page = |reference| map(Source { peer: child.created.id, reference }, Access::Write);
        let orders = page(REF_CONTROL_IN).context("mapping the orders")?;
        let console = page(REF_CONSOLE).context("mapping the console page")?;
        Ok(Puppet { child, orders, console, order: 0 })
    }

    /// Lets it make a call.
    pub fn order(&mut self, number: u64, arguments: [u64; 5]) {
        self.orders.write(NUMBER, &number.to_le_bytes());
        for (index, argument) in arguments.iter().enumerate() {
            self.orders.write(ARGUMENTS + index * 8, &argument.to_le_bytes());
        }
        self.order = self.order.wrapping_add(1);
        self.orders.store_u32(ORDER, self.order);
    }

    /// What the call gave, as soon as that is there. `None` if the call does not return in time.
    pub fn answer(&self, limit: Duration) -> Option<Answer> {
        let deadline = time::after(limit);
        while self.orders.load_u32(ANSWER) != self.order {
            if time::now() >= deadline {
                return None;
            }
            vcpu::yield_now();
        }
        Some(Answer { result: self.read(RESULT), left_over: self.read(LEFT_OVER) })
    }

    fn read(&self, offset: usize) -> u64 {
        let mut bytes = [0; 8];
        self.orders.read(offset, &mut bytes);
        u64::from_le_bytes(bytes)
    }
}

/// The outcome of steps that nothing stops.
fn whole<T>(result: Result<T, Stop>) -> Outcome<T> {
    result.map_err(|stop| match stop {
        Stop::Failed(error) => error,
        Stop::Burnt => "the fuse has burnt".into(),
    })
}
