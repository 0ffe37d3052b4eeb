//! From a verdict to copies, and from copies that were made to frames that arrived.

use super::*;
use protocol::ring::net::flag;

/// A frame where it lies before it is delivered: its judged header, and the rest.
#[derive(Debug)]
pub struct Loose<'s> {
    header: (Place, usize),
    rest: Option<&'s Outgoing>,
}

impl<'s> Loose<'s> {
    /// A frame of a guest: the header is the copy that was judged.
    pub fn of(sent: &'s Sent, number: usize) -> Loose<'s> {
        let place = Place::Own { area: area::HEADERS, offset: (number * HEADER) as u32 };
        Loose { header: (place, sent.copied), rest: Some(&sent.frame) }
    }

    /// A frame in one piece.
    pub const fn whole(place: Place, length: usize) -> Loose<'s> {
        Loose { header: (place, length), rest: None }
    }

    /// Its pieces.
    fn pieces(&self) -> impl Iterator<Item = (Place, usize)> {
        let rest = self.rest.map(|frame| Loose::part(frame.pieces(), self.header.1, usize::MAX));
        core::iter::once(self.header).chain(rest.into_iter().flatten())
    }

    /// The pieces of `pieces` without the first `skip` bytes, `limit` bytes at most.
    pub fn part(
        pieces: impl Iterator<Item = (Place, usize)>,
        mut skip: usize,
        mut limit: usize,
    ) -> impl Iterator<Item = (Place, usize)> {
        pieces.filter_map(move |(place, length)| {
            let skipped = skip.min(length);
            let left = (length - skipped).min(limit);
            (skip, limit) = (skip - skipped, limit - left);
            (left > 0).then(|| (place.plus(skipped), left))
        })
    }
}

impl<M: Mover> Network<M> {
    /// Makes copies.
    pub(super) fn transfer(&self, host: &Host<M>, list: &mut [Transfer]) -> u64 {
        match &self.wire {
            Some(wire) => host.machine.transfer(list, &[&self.headers, &self.scratch, wire.memory()]),
            None => host.machine.transfer(list, &[&self.headers, &self.scratch]),
        }
    }

    /// Brings a frame to one port: as a rule, what there is to copy joins the batch.
    pub(super) fn deliver(
        &mut self,
        host: &Host<M>,
        table: &mut Table<Connection<M>>,
        port: u8,
        judged: &Judged<'_>,
        loose: &Loose<'_>,
        sender: Option<u16>,
    ) {
        let Some(number) = ports::connection(port) else {
            return self.deliver_to_wire(host, table, judged, loose, sender);
        };
        let Some(connection) = table.get_mut(number) else { return };
        let blank = judged.checksum == Checksum::Blank;
        if blank && !connection.offload.checksum && judged.blank().is_some() {
            return self.fill_first(host, table, port, judged, loose, sender);
        }
        let buffers = match connection.rings.buffers(host, judged.length) {
            _ if connection.broken.is_some() => None,
            Ok(buffers) => buffers,
            Err(broken) => {
                connection.broken = Some(broken);
                None
            }
        };
        let Some(buffers) = buffers else {
            connection.counts.dropped += 1;
            return;
        };
        let flags = match judged.checksum {
            Checksum::Unknown => 0,
            Checksum::Right => flag::receive::DATA_VALIDATED,
            Checksum::Blank => flag::receive::CHECKSUM_BLANK | flag::receive::DATA_VALIDATED,
        };
        let places = buffers.places();
        self.add(host, table, judged, Target::Guest { port, buffers, flags }, loose, places, sender);
    }

    fn deliver_to_wire(
        &mut self,
        host: &Host<M>,
        table: &mut Table<Connection<M>>,
        judged: &Judged<'_>,
        loose: &Loose<'_>,
        sender: Option<u16>,
    ) {
        let blank = (judged.checksum == Checksum::Blank).then(|| judged.blank()).flatten();
        let up = self.wire_is_up();
        let reserved = self.wire.as_mut().filter(|_| up).and_then(|wire| wire.reserve());
        let Some(at) = reserved else {
            self.wire_counts.dropped += 1;
            return;
        };
        let place = Place::Own { area: area::WIRE, offset: at };
        self.add(host, table, judged, Target::Wire { at, blank }, loose, [place], sender);
    }

    /// Adds a delivery to the batch, which is carried out before if it is full.
    #[expect(clippy::too_many_arguments, reason = "what a delivery is made of")]
    fn add(
        &mut self,
        host: &Host<M>,
        table: &mut Table<Connection<M>>,
        judged: &Judged<'_>,
        target: Target,
        loose: &Loose<'_>,
        places: impl IntoIterator<Item = Place> + Clone,
        sender: Option<u16>,
    ) {
        let delivery = Delivery { frame: judged.number, length: judged.length, target, error: None };
        let Some(delivery) = self.batch.add(delivery, loose.pieces(), places.clone()) else { return };
        self.carry_out(host, table, sender);
        if let Some(delivery) = self.batch.add(delivery, loose.pieces(), places) {
            // No frame has more pieces than an empty batch has places.
            self.finish(host, table, Delivery { error: Some((protocol::error::Error::TooBig, true)), ..delivery });
        }
    }

    /// A frame for a guest that wants its checksum: it is filled in on the way.
    fn fill_first(
        &mut self,
        host: &Host<M>,
        table: &mut Table<Connection<M>>,
        port: u8,
        judged: &Judged<'_>,
        loose: &Loose<'_>,
        sender: Option<u16>,
    ) {
        // The frame before may still lie where this one goes.
        self.carry_out(host, table, sender);
        let place = Place::Own { area: area::SCRATCH, offset: 0 };
        let mut copies = heapless::Vec::<Transfer, MAX_BATCH>::new();
        let fits = judged.length <= PAGE && route(loose.pieces(), [place], |copy| copies.push(copy).is_ok());
        self.count_calls(host, table, sender, &mut copies);
        let blank = judged.blank();
        let copied = copies.iter().all(|copy| copy.error.is_none());
        let (true, true, Some(blank)) = (fits, copied, blank) else {
            if let Some(connection) = ports::connection(port).and_then(|number| table.get_mut(number)) {
                connection.counts.dropped += 1;
            }
            return;
        };
        blank.fill(&self.scratch, 0);
        let filled = Judged { checksum: Checksum::Right, ..*judged };
        self.deliver(host, table, port, &filled, &Loose::whole(place, judged.length), sender);
    }

    fn count_calls(
        &mut self,
        host: &Host<M>,
        table: &mut Table<Connection<M>>,
        sender: Option<u16>,
        copies: &mut [Transfer],
    ) {
        let calls = self.transfer(host, copies);
        if let Some(connection) = sender.and_then(|number| table.get_mut(number)) {
            connection.rings.statistics.grant_calls += calls;
        }
    }

    /// Makes the copies of the batch, and gives each receiver what it got.
    pub(super) fn carry_out(&mut self, host: &Host<M>, table: &mut Table<Connection<M>>, sender: Option<u16>) {
        let mut batch = core::mem::take(&mut self.batch);
        let done = batch.carry_out(|copies| self.count_calls(host, table, sender, copies));
        for delivery in done {
            self.finish(host, table, delivery);
        }
        self.batch = batch;
    }

    /// A delivery is made, or has failed.
    fn finish(&mut self, host: &Host<M>, table: &mut Table<Connection<M>>, delivery: Delivery) {
        let Delivery { frame, length, target, error } = delivery;
        // The first copy is of a header, which is here: if it failed, it was for the receiver's page.
        if matches!(error, Some((_, false))) {
            self.blamed |= 1 << frame;
        }
        match target {
            Target::Guest { port, buffers, flags } => {
                let Some(connection) = ports::connection(port).and_then(|number| table.get_mut(number)) else { return };
                connection.rings.give(host, &buffers, error.is_none().then_some(length), flags);
                count(&mut connection.counts, error.is_none(), length);
                if error.is_none() {
                    connection.rings.statistics.read += length as u64;
                }
                self.touched.insert(port);
            }
            Target::Wire { at, blank } => {
                let Some(wire) = &mut self.wire else { return };
                match error {
                    None => wire.send(at, length as u16, blank),
                    Some(_) => wire.give_up(at),
                }
                count(&mut self.wire_counts, error.is_none(), length);
                self.touched.insert(WIRE);
            }
        }
    }
}

fn count(counts: &mut BridgePort, arrived: bool, length: usize) {
    if arrived {
        counts.sent.frames += 1;
        counts.sent.bytes += length as u64;
    } else {
        counts.dropped += 1;
    }
}
