//! Latencies, in buckets that are an eighth of a power of two wide: exact enough for percentiles, and of fixed size.

/// Buckets for each power of two.
const STEPS: u64 = 8;
const BUCKETS: usize = (64 - 2) * STEPS as usize;

/// How often which values occurred.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: [u64; BUCKETS],
    count: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: [0; BUCKETS], count: 0, max: 0 }
    }
}

fn bucket(value: u64) -> usize {
    if value < STEPS {
        return value as usize;
    }
    let power = value.ilog2() - STEPS.ilog2();
    (u64::from(power) * STEPS + (value >> power)) as usize
}

/// The largest value that falls into a bucket.
fn upper(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * STEPS {
        return bucket;
    }
    let (power, step) = (bucket / STEPS - 1, bucket % STEPS + STEPS);
    ((u128::from(step) + 1) << power).saturating_sub(1).min(u64::MAX.into()) as u64
}

impl Histogram {
    /// Adds a value.
    pub fn add(&mut self, value: u64) {
        self.counts[bucket(value)] += 1;
        self.count += 1;
        self.max = self.max.max(value);
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The largest.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// A value that `per_mille` of a thousand values do not exceed; an eighth too large at most.
    pub fn percentile(&self, per_mille: u64) -> u64 {
        let wanted = (self.count * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (index, &count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return upper(index).min(self.max);
            }
        }
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn percentiles_are_right_to_an_eighth(mut values in prop::collection::vec(any::<u64>().prop_map(|v| v >> (v % 64)), 1..200), per_mille in 0u64..=1000) {
            let mut histogram = Histogram::default();
            values.iter().for_each(|&value| histogram.add(value));
            values.sort_unstable();
            let at = ((values.len() as u64 * per_mille).div_ceil(1000).max(1) - 1) as usize;
            let found = histogram.percentile(per_mille);
            prop_assert!(found >= values[at] && u128::from(found) <= u128::from(values[at]) * 9 / 8 + 1, "{found} {}", values[at]);
            prop_assert_eq!(Some(&histogram.max()), values.last());
        }
    }

    #[test]
    fn the_extremes_have_buckets() {
        let mut histogram = Histogram::default();
        [0, 1, u64::MAX].into_iter().for_each(|value| histogram.add(value));
        assert_eq!((histogram.percentile(0), histogram.percentile(1000)), (0, u64::MAX));
        assert_eq!(Histogram::default().percentile(500), 0);
    }
}
