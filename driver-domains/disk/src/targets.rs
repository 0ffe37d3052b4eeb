//! The names of disks and partitions, and what is behind them.

use alloc::vec::Vec;

use heapless::String;
use protocol::connection::TARGET_MAX;

use crate::partition::Partition;

/// A disk or a partition that can be attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `virtio0`, or `virtio0p2` for its second partition.
    pub name: String<TARGET_MAX>,
    /// Label of the partition.
    pub label: String<TARGET_MAX>,
    /// Which disk.
    pub disk: usize,
    /// Where it lies on the disk: first sector and how many. `None` for the whole disk.
    pub part: Option<(u64, u64)>,
}

/// All of them, each disk before its partitions.
#[derive(Debug, Default)]
pub struct Targets(Vec<Target>);

impl Targets {
    /// Adds a disk with its partitions.
    pub fn add(&mut self, disk: usize, name: &str, partitions: &[Partition]) {
        let whole = unikernel::text::short(name);
        self.0.push(Target { name: whole, label: String::new(), disk, part: None });
        for partition in partitions {
            let name = unikernel::text::short(format_args!("{name}p{}", partition.number));
            let part = Some((partition.first, partition.sectors));
            self.0.push(Target { name, label: partition.label.clone(), disk, part });
        }
    }

    /// The `index`-th.
    pub fn at(&self, index: usize) -> Option<&Target> {
        self.0.get(index)
    }

    /// The one with this name, or else the only one with this label.
    pub fn find(&self, wanted: &str) -> Option<&Target> {
        if wanted.is_empty() {
            return None;
        }
        let named = self.0.iter().find(|target| target.name == wanted);
        named.or_else(|| {
            let mut labelled = self.0.iter().filter(|target| target.label == wanted);
            labelled.next().filter(|_| labelled.next().is_none())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_before_labels_and_a_label_must_be_unambiguous() {
        let partition =
            |number, label: &str| Partition { number, first: 1, sectors: 1, label: String::try_from(label).unwrap() };
        let mut targets = Targets::default();
        targets.add(0, "virtio0", &[partition(1, "web"), partition(3, "virtio0"), partition(4, "twice")]);
        targets.add(1, "virtio1", &[partition(1, "twice"), partition(2, "")]);
        let name = |wanted| targets.find(wanted).map(|target| target.name.as_str());
        assert_eq!(name("web"), Some("virtio0p1"));
        assert_eq!(name("virtio0"), Some("virtio0"));
        assert_eq!(name("virtio1p2"), Some("virtio1p2"));
        assert_eq!([name("twice"), name(""), name("virtio0p2")], [None; 3]);
        assert_eq!(targets.at(5).map(|target| target.disk), Some(1));
    }
}
