//! Which policies do the scenarios apply? Policy files, written here and read by the ordinary reader.

use std::fmt::Write as _;

use anyhow::{Result, anyhow};
use sluice_model::PolicySet;
use sluice_model::spec::parse_policy;

/// Where copies go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Out of a port, as they were.
    Port,
    /// VXLAN over IPv4.
    Vxlan,
    /// ERSPAN type III over IPv4.
    Erspan3,
}

impl Target {
    const fn destination(self) -> &'static str {
        match self {
            Self::Port => "type = \"port\"\nport = \"out\"\n",
            Self::Vxlan => "type = \"vxlan\"\nremote = \"192.0.2.10\"\nmac = \"02:00:00:00:00:10\"\n",
            Self::Erspan3 => "type = \"erspan3\"\nremote = \"192.0.2.10\"\nmac = \"02:00:00:00:00:10\"\n",
        }
    }
}

/// A policy that matches everything and sends it to `target`.
pub fn one(target: Target) -> Result<PolicySet> {
    let tag = if target == Target::Port { "" } else { "tag = 7\n" };
    read(&format!(
        "[[destination]]\nname = \"tool\"\n{}\n[[policy]]\nname = \"everything\"\n{tag}to = [\"tool\"]\n",
        target.destination()
    ))
}

/// `count` (at least 8) distinct policies for one VXLAN tool. A few broad ones match much of the
/// [traffic](crate::traffic); each of the others watches one network of clients, alone or towards a service, so that
/// a packet matches a handful of them, however many there are.
pub fn many(count: usize) -> Result<PolicySet> {
    let mut text = format!("[[destination]]\nname = \"tool\"\n{}", Target::Vxlan.destination());
    text.push_str(BROAD);
    for index in 0..count.saturating_sub(BROAD_COUNT) {
        narrow(&mut text, index)?;
    }
    read(&text)
}

const BROAD_COUNT: usize = 5;
const BROAD: &str = r#"
[[group]]
name = "clients"
addresses = ["10.0.0.0/12"]
[[group]]
name = "servers"
addresses = ["172.16.0.0/21", "172.16.8.0/22", "172.16.12.0/22"]
[[group]]
name = "databases"
addresses = ["172.16.14.0/24", "172.16.15.0/25"]

[[policy]]
name = "web"
collect = { addresses = ["@servers"], ports = "80,443,8000-8100" }
peer = { addresses = ["@clients"] }
protocol = "tcp,udp"
tag = 7
to = ["tool"]
[[policy]]
name = "dns"
collect = { ports = 53 }
protocol = "udp"
payload = 512
tag = 7
to = ["tool"]
[[policy]]
name = "databases"
collect = { addresses = ["@databases"] }
tag = 7
to = ["tool"]
[[policy]]
name = "telephony"
peer = { addresses = ["@servers"], ports = "5060-5061" }
tag = 7
to = ["tool"]
[[policy]]
name = "tcp-headers"
collect = { addresses = ["@clients"] }
protocol = "tcp"
payload = 0
tag = 7
to = ["tool"]
"#;

/// Services that narrow policies look at, besides whole networks.
const SERVICES: [&str; 7] =
    ["443", "53", "80,8080", "22", "5432", "5060-5061", "1433,1521,3306,5432,6379,9042,27017"];

fn narrow(text: &mut String, index: usize) -> Result<()> {
    // 4096 networks of 256 clients; the next round over them asks for another service.
    let (network, round) = (index * 977 % 4096, index / 4096);
    let (a, b) = (network / 256, network % 256);
    write!(text, "\n[[policy]]\nname = \"p{index}\"\ntag = 7\nto = [\"tool\"]\n")?;
    writeln!(text, "collect = {{ addresses = [\"10.{a}.{b}.0/24\"] }}")?;
    match (index + round) % 8 {
        0 => text.push_str("payload = 128\n"),
        kind => {
            let ports = SERVICES.get(kind - 1).copied().unwrap_or("443");
            let group = if kind == 5 { "@databases" } else { "@servers" };
            write!(
                text,
                "peer = {{ addresses = [\"{group}\"], ports = \"{ports}\" }}\nprotocol = \"tcp,udp\"\n"
            )?;
        }
    }
    Ok(())
}

fn read(text: &str) -> Result<PolicySet> {
    let loaded = parse_policy("generated.toml", text).map_err(|wrong| anyhow!("{}", wrong.render()))?;
    Ok(loaded.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policies_are_valid_and_as_many_as_wanted() {
        for target in [Target::Port, Target::Vxlan, Target::Erspan3] {
            assert_eq!(one(target).unwrap().policies().len(), 1);
        }
        for count in [10, 1000] {
            assert_eq!(many(count).unwrap().policies().len(), count);
        }
    }
}
