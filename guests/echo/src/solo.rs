//! What one domain can measure by itself.

use unikernel::{hypercall, time, vcpu};

use crate::samples::{done, measure};

/// Measures, and says so.
pub fn measure_all() {
    measure(|| {
        let _ = hypercall::version();
    })
    .report("null_hypercall", 1);
    measure(|| {
        let _ = time::clock();
    })
    .report("clock_hypercall", 1);
    measure(|| {
        let _ = time::now();
    })
    .report("clock_read", 1);
    measure(vcpu::yield_now).report("yield_to_nobody", 1);
    done();
}
