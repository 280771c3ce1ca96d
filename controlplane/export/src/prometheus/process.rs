//! What the process takes: CPU, memory, file descriptors, as the kernel tells (proc(5)).

use procfs::process::{LimitValue, Process};
use procfs::{ProcResult, boot_time_secs, page_size, ticks_per_second};

use super::declare::Metric as M;
use super::family::{Families, Value};

/// Adds what is known of this process. Where there is no `/proc`, there is nothing to add.
pub(super) fn add_to(out: &mut Families) {
    // What can be read first is shown even if the rest cannot.
    drop(add(out));
}

fn add(out: &mut Families) -> ProcResult<()> {
    let process = Process::myself()?;
    let stat = process.stat()?;
    let seconds = |ticks: u64| float(ticks) / float(ticks_per_second());
    out.add(M::ProcessCpu, &[], Value::Float(seconds(stat.utime + stat.stime)));
    out.int(M::ProcessResident, stat.rss * page_size());
    out.int(M::ProcessVirtual, stat.vsize);
    out.add(M::ProcessStart, &[], Value::Float(float(boot_time_secs()?) + seconds(stat.starttime)));
    out.int(M::ProcessThreads, u64::try_from(stat.num_threads).unwrap_or(0));
    out.int(M::ProcessOpenFds, process.fd_count()? as u64);
    if let LimitValue::Value(most) = process.limits()?.max_open_files.soft_limit {
        out.int(M::ProcessMaxFds, most);
    }
    Ok(())
}

/// A count as a float: exact below 2^53, which it stays for centuries.
#[expect(clippy::cast_precision_loss, reason = "samples are floats for their reader anyway")]
pub(super) const fn float(count: u64) -> f64 {
    count as f64
}
