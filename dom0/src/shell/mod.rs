//! The operator's shell: bytes in, bytes out, and commands for the control plane between them.
//!
//! It never waits. A command that takes time is kept in [`Shell::poll`]; what is typed meanwhile is kept too, and Ctrl-C ends
//! the command. The prompt shows the status of the last command: `dom0> ` after a success, `dom0 [N]> ` after status N.

pub mod args;
pub mod commands;
mod complete;
pub mod editor;
pub mod keys;
mod run;
mod table;
mod view;
mod words;

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use args::{FAILED, Fault};
use editor::{Editor, Event};
use run::wait::Waiting;
use run::{Context, Flow};
use view::Samples;

pub use run::wait::Power;

use crate::hypervisor::Hypervisor;
use crate::plane::Plane;

/// What is typed while a command runs, at most, in bytes.
const TYPEAHEAD_MAX: usize = 4096;
/// Output that is kept while nobody reads it, in bytes; beyond that the oldest is lost.
const OUTPUT_MAX: usize = 512 * 1024;
/// Ctrl-C.
const INTERRUPT: u8 = 3;

/// The shell.
#[derive(Debug, Default)]
pub struct Shell {
    editor: Editor,
    output: VecDeque<u8>,
    status: u8,
    /// Commands of the line that come after the one that runs.
    queue: VecDeque<String>,
    waiting: Option<Waiting>,
    typeahead: VecDeque<u8>,
    samples: Samples,
    power: Option<Power>,
}

impl Shell {
    /// A shell that greets the operator; its first prompt says whether the start went well.
    pub fn new<H: Hypervisor>(plane: &mut Plane<'_, H>, good: bool) -> Shell {
        let mut shell = Shell { status: if good { 0 } else { FAILED }, ..Shell::default() };
        shell.print(&format!("Bulkhead {}. `help` lists the commands.\n", env!("CARGO_PKG_VERSION")));
        while let Some(line) = plane.take_notice() {
            shell.print(&line);
            shell.print("\n");
        }
        shell.prompt();
        shell
    }

    /// Takes what the operator typed.
    pub fn input<H: Hypervisor>(&mut self, plane: &mut Plane<'_, H>, bytes: &[u8]) {
        if bytes.contains(&INTERRUPT) {
            self.typeahead.clear();
        }
        let room = TYPEAHEAD_MAX - self.typeahead.len().min(TYPEAHEAD_MAX);
        self.typeahead.extend(bytes.iter().take(room));
        self.edit(plane);
    }

    /// Goes on with what waits, and tells the operator what happened.
    pub fn poll<H: Hypervisor>(&mut self, plane: &mut Plane<'_, H>) {
        self.notices(plane);
        if let Some(mut waiting) = self.waiting.take() {
            let mut out = String::new();
            let over = waiting.poll(&mut Context { plane, samples: &mut self.samples, out: &mut out });
            self.print(&out);
            match over {
                None => self.waiting = Some(waiting),
                Some(outcome) => self.finish(plane, outcome),
            }
        }
        self.edit(plane);
    }

    /// When [`Shell::poll`] has to be called at the latest, in ns since the core started.
    pub fn next_deadline(&self) -> u64 {
        self.waiting.as_ref().map_or(u64::MAX, Waiting::deadline)
    }

    /// What is to be shown, to be taken from the front.
    pub fn output(&mut self) -> &mut VecDeque<u8> {
        &mut self.output
    }

    /// How the machine is to end, once the output is `read` or it is `now` too late to wait for that.
    pub fn power(&mut self, read: bool, now: u64) -> Option<Power> {
        match self.waiting {
            Some(Waiting::Power { power, deadline }) if (read && self.output.is_empty()) || now >= deadline => {
                self.power = Some(power);
                self.power
            }
            _ => None,
        }
    }

    /// The machine could not be ended after all.
    pub fn power_failed<H: Hypervisor>(&mut self, plane: &mut Plane<'_, H>, text: String) {
        self.waiting = None;
        self.finish(plane, Err(Fault::from(text)));
    }

    fn edit<H: Hypervisor>(&mut self, plane: &mut Plane<'_, H>) {
        loop {
            if self.waiting.is_some() {
                return self.interrupt(plane);
            }
            let Some(byte) = self.typeahead.pop_front() else { return };
            let mut out = Vec::new();
            let event = self.editor.feed(byte, &mut out);
            if event == Event::Complete {
                let (typed, candidates) = complete::candidates(plane, &self.editor.before_cursor());
                self.editor.complete(typed, &candidates, &mut out);
            }
            self.output.extend(out);
            match event {
                Event::Line(line) => {
                    self.queue = words::commands(&line).into();
                    self.next(plane);
                }
                Event::Interrupt => self.prompt(),
                Event::None | Event::Complete => {}
            }
        }
    }

    /// Ends the command that waits, if Ctrl-C was typed.
    fn interrupt<H: Hypervisor>(&mut self, plane: &mut Plane<'_, H>) {
        let stoppable = !matches!(self.waiting, Some(Waiting::Power { .. } | Waiting::Terminal { .. }));
        let Some(index) = self.typeahead.iter().position(|&byte| byte == INTERRUPT).filter(|_| stoppable) else {
            return;
        };
        self.typeahead.drain(..=index);
        self.waiting = None;
        self.finish(plane, Err(Fault { status: FAILED, text: "interrupted".into() }));
    }

    /// Runs the commands of the line until one waits or fails.
    fn next<H: Hypervisor>(&mut self, plane: &mut Plane<'_, H>) {
        while let Some(command) = self.queue.pop_front() {
            let mut out = String::new();
            let outcome = run::run(&mut Context { plane, samples: &mut self.samples, out: &mut out }, &command);
            self.print(&out);
            match outcome {
                Ok(Flow::Done) => self.status = 0,
                Ok(Flow::Wait(waiting)) => {
                    self.waiting = Some(waiting);
                    return;
                }
                Err(fault) => self.fail(&fault),
            }
        }
        self.notices_before_prompt(plane);
        self.prompt();
    }

    /// The command that waited is through.
    fn finish<H: Hypervisor>(&mut self, plane: &mut Plane<'_, H>, outcome: Result<(), Fault>) {
        match outcome {
            Ok(()) => self.status = 0,
            Err(fault) => self.fail(&fault),
        }
        self.next(plane);
    }

    fn fail(&mut self, fault: &Fault) {
        self.print(&fault.text);
        self.print("\n");
        self.status = fault.status;
        self.queue.clear();
    }

    fn prompt(&mut self) {
        let prompt = match self.status {
            0 => "dom0> ".into(),
            status => format!("dom0 [{status}]> "),
        };
        let mut out = Vec::new();
        self.editor.begin(&prompt, &mut out);
        self.output.extend(out);
    }

    /// Prints what happened meanwhile, above the line that is edited.
    fn notices<H: Hypervisor>(&mut self, plane: &mut Plane<'_, H>) {
        let mut text = String::new();
        while let Some(line) = plane.take_notice() {
            text = text + &line + "\n";
        }
        if text.is_empty() {
            return;
        }
        let mut out = Vec::new();
        self.editor.hide(&mut out);
        self.output.extend(out.drain(..));
        self.print(&text);
        if self.waiting.is_none() {
            self.editor.show(&mut out);
            self.output.extend(out);
        }
    }

    fn notices_before_prompt<H: Hypervisor>(&mut self, plane: &mut Plane<'_, H>) {
        while let Some(line) = plane.take_notice() {
            self.print(&line);
            self.print("\n");
        }
    }

    /// Prints text for a terminal, which wants a carriage return at every end of line.
    fn print(&mut self, text: &str) {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.output.push_back(b'\r');
            }
            self.output.push_back(byte);
        }
        let excess = self.output.len().saturating_sub(OUTPUT_MAX);
        self.output.drain(..excess);
    }
}
