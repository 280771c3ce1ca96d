//! Which CPU does what? Workers and distributors, from the boot config or from the machine.

use sluice_model::{BootConfig, DistributorMode, PortConfig, PortSpec, Profile};

use crate::machine::Machine;

/// Workers that one distributor keeps busy.
const WORKERS_PER_DISTRIBUTOR: usize = 6;

/// The CPUs of the threads that move packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorePlan {
    /// The CPU of each worker.
    pub workers: Vec<u16>,
    /// The CPU of each distributor, where distributors are needed.
    pub distributors: Vec<u16>,
    /// Whether a distributor has to share its CPU with a worker.
    pub shared: bool,
}

impl CorePlan {
    /// The plan for `boot` on `machine`.
    #[must_use]
    pub fn new(boot: &BootConfig, machine: &Machine) -> Self {
        let settings = &boot.worker;
        let usable = in_order(boot, machine);
        let captures = boot.ports.iter().filter(|port| port.role.captures());
        let may_distribute = settings.distributor != DistributorMode::Never;
        let (workers, wanted) = if settings.lcores.is_empty() {
            let (workers, distributors) = default_counts(boot, machine);
            (usable.iter().copied().take(workers).collect(), distributors)
        } else {
            (settings.lcores.clone(), settings.lcores.len().div_ceil(WORKERS_PER_DISTRIBUTOR))
        };
        let mut distributors = settings.distributor_lcores.clone();
        if distributors.is_empty() {
            // The first CPU is left to everything else while there are others.
            let free: Vec<u16> = usable.iter().copied().filter(|cpu| !workers.contains(cpu)).collect();
            distributors = free.into_iter().take(wanted).collect();
        }
        if distributors.is_empty() {
            distributors.extend(usable.last().or(workers.first()));
        }
        let alone = workers.len() < 2 && settings.distributor != DistributorMode::Always;
        if !may_distribute || alone {
            distributors.clear();
        }
        // A port has one distributor.
        distributors.truncate(captures.count().max(1));
        let shared = distributors.iter().any(|cpu| workers.contains(cpu));
        Self { workers, distributors, shared }
    }
}

/// How many workers and distributors there are by default.
///
/// One worker takes what kernel interfaces and files can give. NICs of their own get all CPUs but one, and distributors
/// where RSS may turn out not to do.
fn default_counts(boot: &BootConfig, machine: &Machine) -> (usize, usize) {
    let has_nic = boot.ports.iter().any(|port| port.role.captures() && matches!(port.spec, PortSpec::Pci(_)));
    let cpus = machine.busy_cpus();
    if !has_nic || cpus < 4 || boot.profile == Profile::Small {
        return (1, 1);
    }
    let all = cpus - 1;
    let distributors = match boot.worker.distributor {
        DistributorMode::Never => 0,
        DistributorMode::Auto | DistributorMode::Always => all.div_ceil(WORKERS_PER_DISTRIBUTOR + 1),
    };
    (all - distributors, distributors)
}

/// The CPUs in the order in which they are taken: those beside the capture ports first, high numbers first.
fn in_order(boot: &BootConfig, machine: &Machine) -> Vec<u16> {
    let near: Vec<u16> = boot.ports.iter().filter(|port| port.role.captures()).filter_map(node_of).collect();
    let mut cpus = machine.cpus.clone();
    cpus.sort_by_key(|&cpu| (!near.is_empty() && !near.contains(&machine.node_of(cpu)), u16::MAX - cpu));
    cpus
}

/// The NUMA node that a port's device is at; `None` = it is at none, or the kernel does not say.
#[must_use]
pub(super) fn node_of(port: &PortConfig) -> Option<u16> {
    let path = match &port.spec {
        PortSpec::Pci(args) => {
            format!("/sys/bus/pci/devices/{}/numa_node", args.split(',').next().unwrap_or_default())
        }
        PortSpec::AfPacket(interface) => format!("/sys/class/net/{interface}/device/numa_node"),
        PortSpec::Devargs(_) | PortSpec::Pcap(_) | PortSpec::Vhost(_) => return None,
    };
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(spec: &str, worker: &str) -> BootConfig {
        let text = format!(
            "policy = \"p\"\n[[port]]\nname = \"a\"\nspec = \"{spec}\"\nrole = \"capture\"\n[worker]\n{worker}\n"
        );
        sluice_model::spec::parse_boot("boot.toml", &text).unwrap().value
    }

    fn machine(cpus: u16, quota: Option<u64>) -> Machine {
        Machine {
            cpus: (0..cpus).collect(),
            nodes: (0..cpus).map(|cpu| cpu / 8).collect(),
            cpu_quota_milli: quota,
            memory_bytes: 1 << 30,
            memory_limited: false,
        }
    }

    fn plan(spec: &str, worker: &str, cpus: u16, quota: Option<u64>) -> (Vec<u16>, Vec<u16>, bool) {
        let plan = CorePlan::new(&boot(spec, worker), &machine(cpus, quota));
        (plan.workers, plan.distributors, plan.shared)
    }

    #[test]
    fn defaults_follow_the_machine() {
        const NIC: &str = "0000:ff:1f.7";
        assert_eq!(plan("af_packet:eth0", "", 8, None), (vec![7], vec![], false));
        assert_eq!(plan(NIC, "", 1, None), (vec![0], vec![], false));
        assert_eq!(plan(NIC, "", 2, None), (vec![1], vec![], false));
        assert_eq!(plan(NIC, "", 4, None), (vec![3, 2], vec![1], false));
        assert_eq!(plan(NIC, "distributor = \"never\"", 4, None), (vec![3, 2, 1], vec![], false));
        assert_eq!(plan(NIC, "", 16, Some(2500)), (vec![15], vec![], false), "the quota pays for two");
        let (workers, distributors, _) = plan(NIC, "", 16, None);
        assert_eq!((workers.len(), distributors), (12, vec![3]), "one port has one distributor");
    }

    #[test]
    fn what_is_written_is_done() {
        assert_eq!(plan("net_null0", "lcores = [1, 2]", 4, None), (vec![1, 2], vec![3], false));
        assert_eq!(
            plan("net_null0", "lcores = [1]\ndistributor = \"always\"", 2, None),
            (vec![1], vec![0], false)
        );
        assert_eq!(plan("net_null0", "lcores = [0, 1]", 2, None), (vec![0, 1], vec![0], true));
        let given = "lcores = [0, 1]\ndistributor_lcores = [3]";
        assert_eq!(plan("net_null0", given, 4, None), (vec![0, 1], vec![3], false));
        assert_eq!(
            plan("net_null0", "lcores = [0, 1]\ndistributor = \"never\"", 2, None),
            (vec![0, 1], vec![], false)
        );
    }
}
