//! Are the ports there, and as a broker wants them?

use std::path::Path;

use sluice_model::{BootConfig, PortConfig, PortSpec, Profile};

use super::Case;
use super::finding::Finding;
use crate::Machine;

const PCI: &str = "/sys/bus/pci/devices";

/// Looks at every port of the boot config.
pub(crate) fn ports(machine: &Machine<'_>, case: &Case<'_>, findings: &mut Vec<Finding>) {
    let ports = case.boot.map_or(&[][..], |boot| &boot.ports);
    let spreads = case.boot.is_some_and(|boot| spreads(machine, boot));
    for port in ports {
        match &port.spec {
            PortSpec::AfPacket(interface) => kernel(machine, port, interface, findings),
            PortSpec::Pci(device) => {
                pci(machine, port, device.split(',').next().unwrap_or_default(), findings);
                if spreads && port.role.captures() {
                    let text = "whether its RSS keeps both directions together is tested by the daemon at its start; \
                                its log says so, and what it does otherwise (distributors)";
                    findings.push(Finding::note("rss", port.name.as_str(), text));
                }
            }
            PortSpec::Devargs(device) => {
                let text = format!("{device}: a virtual device of DPDK, nothing to look at");
                findings.push(Finding::ok("port", port.name.as_str(), text));
            }
            PortSpec::Vhost(socket) => vhost(machine, port, socket, findings),
            PortSpec::Pcap(file) => findings.push(if machine.exists(file) {
                Finding::ok("port", port.name.as_str(), format!("{} is there", file.display()))
            } else {
                let text = format!("{} is not there", file.display());
                Finding::error("port", port.name.as_str(), text, "the daemon does not start")
            }),
        }
    }
    if ports.iter().any(|port| matches!(port.spec, PortSpec::Pci(_))) {
        iommu(machine, findings);
    }
}

/// Whether a NIC has more than one worker. Without names the daemon takes nearly all CPUs where it has four.
fn spreads(machine: &Machine<'_>, boot: &BootConfig) -> bool {
    match boot.worker.lcores.len() {
        0 => {
            let online = machine.cpus("/sys/devices/system/cpu/online");
            boot.profile != Profile::Small && online.is_none_or(|online| online.len() >= 4)
        }
        named => named > 1,
    }
}

/// A port that a switch connects to.
fn vhost(machine: &Machine<'_>, port: &PortConfig, socket: &Path, findings: &mut Vec<Finding>) {
    let name = port.name.as_str();
    let folder = socket.parent().unwrap_or(socket);
    findings.push(if machine.exists(folder) {
        let text = format!("a switch connects to {}; sluice ovs status tells of OVS", socket.display());
        Finding::ok("port", name, text)
    } else {
        let text = format!("the folder of {} is not there", socket.display());
        let mend = format!("install -d -m 755 {}", folder.display());
        Finding::error("port", name, text, "the daemon does not start").mended_by(mend)
    });
}

/// A port on an interface of the kernel.
fn kernel(machine: &Machine<'_>, port: &PortConfig, interface: &str, findings: &mut Vec<Finding>) {
    let name = port.name.as_str();
    let folder = format!("/sys/class/net/{interface}");
    if !machine.exists(&folder) {
        let text = format!("there is no interface {interface}");
        findings.push(
            Finding::error("port", name, text, "the daemon does not start")
                .decided_by("ip -br link   # which ones are there?"),
        );
        return;
    }
    let info = machine.tools.run(&["ethtool", "-i", interface]).unwrap_or_default();
    let driver = machine.link(format!("{folder}/device/driver")).or_else(|| told(&info, "driver"));
    let firmware = firmware(&info);
    let driver = driver.unwrap_or_else(|| "not told".to_owned());
    let text = format!("{interface}: driver {driver}{firmware}");
    let up = format!("ip link set dev {interface} up");
    match (
        machine.text(format!("{folder}/operstate")).as_deref(),
        machine.number(format!("{folder}/carrier")),
    ) {
        (_, Some(1)) => findings.push(Finding::ok("port", name, text)),
        (_, Some(_)) => findings.push(Finding::warning(
            "port",
            name,
            format!("{text}; no link"),
            "nothing is received or sent until the cable, or the other end, is there",
        )),
        _ => findings.push(
            Finding::warning("port", name, format!("{text}; it is down"), "nothing is received or sent")
                .mended_by(up),
        ),
    }
    if port.role.captures() {
        offloads(machine, name, interface, findings);
        rings(machine, name, interface, findings);
    }
}

/// A value of what `ethtool -i` prints.
fn told(info: &str, key: &str) -> Option<String> {
    let line = info.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    Some(line.trim().to_owned()).filter(|value| !value.is_empty() && value != "N/A")
}

/// The firmware, as the end of a sentence; empty = not told.
fn firmware(info: &str) -> String {
    told(info, "firmware-version").map(|version| format!(", firmware {version}")).unwrap_or_default()
}

/// Offloads that hand over what was never on the wire.
fn offloads(machine: &Machine<'_>, name: &str, interface: &str, findings: &mut Vec<Finding>) {
    const CHECK: &str = "offloads";
    const MERGING: [(&str, &str); 5] = [
        ("generic-receive-offload", "gro"),
        ("large-receive-offload", "lro"),
        ("rx-gro-hw", "rx-gro-hw"),
        ("tcp-segmentation-offload", "tso"),
        ("generic-segmentation-offload", "gso"),
    ];
    let Ok(features) = machine.tools.run(&["ethtool", "-k", interface]) else {
        let text = "its offloads cannot be told: no ethtool";
        findings.push(Finding::note(CHECK, name, text).decided_by("apt-get install -y ethtool"));
        return;
    };
    let on = |feature: &str| {
        let mut values =
            features.lines().filter_map(|line| line.trim().strip_prefix(feature)?.strip_prefix(':'));
        // What is fixed cannot be changed.
        values.next().is_some_and(|value| value.trim() == "on")
    };
    let merging: Vec<&str> =
        MERGING.iter().filter(|(feature, _)| on(feature)).map(|(_, short)| *short).collect();
    if merging.is_empty() {
        findings.push(Finding::ok(CHECK, name, "packets come as they were on the wire"));
        return;
    }
    let command = format!("ethtool -K {interface} {} off", merging.join(" off "));
    let text = format!("{} may put packets together to frames of up to 64 kB", merging.join(", "));
    let cost = "these do not fit the MTU of tunnels: cut, or split by oversize = \"segment\" at a cost";
    findings.push(Finding::warning(CHECK, name, text, cost).mended_by(command));
}

/// Descriptors of the device: short rings lose bursts.
fn rings(machine: &Machine<'_>, name: &str, interface: &str, findings: &mut Vec<Finding>) {
    let Ok(text) = machine.tools.run(&["ethtool", "-g", interface]) else { return };
    let sizes = text.lines().filter_map(|line| line.strip_prefix("RX:")?.trim().parse::<u32>().ok());
    let sizes: Vec<u32> = sizes.collect();
    // The most that is possible comes first.
    let [most, now] = sizes[..] else { return };
    if now < most {
        let text = format!("{now} of {most} receive descriptors are in use");
        let cost = "bursts that come faster than the kernel takes them are lost before rx";
        let command = format!("ethtool -G {interface} rx {most}");
        // Some drivers take the link down for it.
        findings.push(Finding::warning("descriptors", name, text, cost).decided_by(command));
    } else {
        findings.push(Finding::ok("descriptors", name, format!("all {most} receive descriptors are in use")));
    }
}

/// A NIC that DPDK drives.
fn pci(machine: &Machine<'_>, port: &PortConfig, device: &str, findings: &mut Vec<Finding>) {
    let name = port.name.as_str();
    let folder = format!("{PCI}/{device}");
    if !machine.exists(&folder) {
        let text = format!("there is no PCI device {device}");
        findings.push(
            Finding::error("port", name, text, "the daemon does not start")
                .decided_by("lspci -D | grep -i ethernet"),
        );
        return;
    }
    let text = |file: &str| machine.text(format!("{folder}/{file}")).unwrap_or_default();
    let ids =
        format!("{}:{}", text("vendor").trim_start_matches("0x"), text("device").trim_start_matches("0x"));
    // While the kernel's driver has it, its interface tells.
    let interfaces = machine.names(format!("{folder}/net"));
    let info = interfaces.first().and_then(|interface| machine.tools.run(&["ethtool", "-i", interface]).ok());
    let firmware = firmware(&info.unwrap_or_default());
    match machine.link(format!("{folder}/driver")).as_deref() {
        Some("vfio-pci" | "uio_pci_generic" | "igb_uio") => {
            findings.push(Finding::ok("port", name, format!("{device} ({ids}) is bound for DPDK")));
            let text = "its firmware is told while the kernel's driver has it; no daemon may use it then, and it has to \
                        be bound for DPDK again";
            findings.push(Finding::note("firmware", name, text).decided_by(format!(
                "echo {device} > {folder}/driver/unbind && echo > {folder}/driver_override && \
                 echo {device} > /sys/bus/pci/drivers_probe && ethtool -i \"$(ls {folder}/net)\""
            )));
        }
        // Their DPDK drivers work beside the kernel's.
        Some(driver @ ("mlx4_core" | "mlx5_core" | "mana")) => {
            findings.push(Finding::ok(
                "port",
                name,
                format!("{device} ({ids}) is shared with the kernel's {driver}{firmware}"),
            ));
        }
        driver => {
            let text = match driver {
                Some(driver) => format!("{device} ({ids}) belongs to the kernel's {driver}{firmware}"),
                None => format!("{device} ({ids}) has no driver"),
            };
            let command = format!(
                "modprobe vfio-pci && echo vfio-pci > {folder}/driver_override && \
                 {{ [ ! -e {folder}/driver ] || echo {device} > {folder}/driver/unbind; }} && \
                 echo {device} > /sys/bus/pci/drivers_probe"
            );
            let cost = "DPDK cannot open it: the daemon does not start";
            findings.push(Finding::error("port", name, text, cost).decided_by(command));
        }
    }
}

/// Does hardware keep NICs to their memory?
fn iommu(machine: &Machine<'_>, findings: &mut Vec<Finding>) {
    const CHECK: &str = "iommu";
    if !machine.names("/sys/kernel/iommu_groups").is_empty() {
        findings.push(Finding::ok(CHECK, "", "the IOMMU is on"));
        return;
    }
    let unsafe_mode = machine.text("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode");
    if unsafe_mode.is_some_and(|value| value == "Y" || value == "1") {
        let text = "there is none; vfio works without (enable_unsafe_noiommu_mode)";
        let cost = "a NIC may write to any memory, and DPDK needs physical addresses: hugepages and root";
        findings.push(Finding::warning(CHECK, "", text, cost));
        return;
    }
    let cost = "vfio-pci does not take NICs: the daemon does not start";
    let cpu = machine.text("/proc/cpuinfo").unwrap_or_default();
    let is_of = |vendors: &[&str]| {
        let mut lines = cpu.lines().filter(|line| line.starts_with("vendor_id"));
        lines.any(|line| vendors.iter().any(|vendor| line.contains(vendor)))
    };
    // AMD's driver uses what the firmware tells of, without being asked to (kernel-parameters.txt, amd_iommu=).
    let (setting, options) = if is_of(&["GenuineIntel", "CentaurHauls", "Shanghai"]) {
        ("switch VT-d on in the firmware's setup", Some("intel_iommu=on iommu=pt"))
    } else if is_of(&["AuthenticAMD", "HygonGenuine"]) {
        ("switch the IOMMU (AMD-Vi) on in the firmware's setup", Some("iommu=pt"))
    } else {
        ("see the firmware's setup for an IOMMU (SMMU)", None)
    };
    let finding = Finding::error(CHECK, "", format!("it is off, or there is none: {setting}"), cost);
    let without = "echo 1 > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode";
    findings.push(finding.decided_by(match options {
        Some(options) => format!(
            "sed -i 's/^GRUB_CMDLINE_LINUX=\"/&{options} /' /etc/default/grub && update-grub   # then restart the \
             machine; without an IOMMU: {without}"
        ),
        None => format!("{without}   # without an IOMMU"),
    }));
}
