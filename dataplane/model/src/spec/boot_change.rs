//! What of another boot config can take effect while the daemon runs?

use crate::{BootConfig, MirrorSettings, PortConfig, PortId};

/// How a boot config differs from the one that the daemon runs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootChange {
    /// As it was, with everything taken over that can be, but for ports.
    pub config: BootConfig,
    /// Ports to add.
    pub added: Vec<PortConfig>,
    /// Ports to remove.
    pub removed: Vec<PortId>,
    /// What is taken over in `config`, by the names of the sections and settings.
    pub taken: Vec<String>,
    /// What needs a restart.
    pub refused: Vec<String>,
}

impl BootChange {
    /// Compares the config `before`, which is in use, with `after`, as it was read.
    #[must_use]
    pub fn between(before: &BootConfig, after: &BootConfig) -> Self {
        let mut change = Self {
            config: before.clone(),
            added: Vec::new(),
            removed: Vec::new(),
            taken: Vec::new(),
            refused: Vec::new(),
        };
        // All fields are named, so that none is forgotten.
        let BootConfig {
            profile,
            policy,
            eal,
            worker,
            memory,
            dedup,
            flow,
            decap,
            limit,
            breaker,
            api,
            ports,
            mirror,
            loop_guard,
            metrics,
            ovs,
            protection,
            log,
            log_level,
            stats_interval_s,
        } = after;
        change.take("limit", |config| &mut config.limit, limit);
        change.take("breaker", |config| &mut config.breaker, breaker);
        change.take("protection", |config| &mut config.protection, protection);
        change.take("log_level", |config| &mut config.log_level, log_level);
        change.take("stats_interval", |config| &mut config.stats_interval_s, stats_interval_s);
        for (name, same) in [
            ("profile", *profile == before.profile),
            ("policy", *policy == before.policy),
            ("eal", *eal == before.eal),
            ("worker", *worker == before.worker),
            ("memory", *memory == before.memory),
            ("dedup", *dedup == before.dedup),
            ("flow", *flow == before.flow),
            ("decap", *decap == before.decap),
            ("api, store", *api == before.api),
            ("mirror, tap", *mirror == before.mirror),
            ("loop_guard", *loop_guard == before.loop_guard),
            ("metrics", *metrics == before.metrics),
            ("ovs", *ovs == before.ovs),
            ("log", *log == before.log),
        ] {
            if !same {
                change.refused.push(name.to_owned());
            }
        }
        change.compare_ports(&before.ports, ports, mirror);
        change
    }

    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        [&self.taken, &self.refused].iter().all(|names| names.is_empty())
            && self.added.is_empty()
            && self.removed.is_empty()
    }

    fn take<T: Clone + PartialEq>(&mut self, name: &str, field: fn(&mut BootConfig) -> &mut T, new: &T) {
        let field = field(&mut self.config);
        if field != new {
            *field = new.clone();
            self.taken.push(name.to_owned());
        }
    }

    fn compare_ports(&mut self, before: &[PortConfig], after: &[PortConfig], mirror: &MirrorSettings) {
        let live = || before.iter().enumerate().filter(|(_, port)| !port.is_removed());
        for new in after.iter().filter(|new| live().all(|(_, old)| old.name != new.name)) {
            let device = new.spec.device();
            if let Some((_, old)) = live().find(|(_, old)| old.spec.device() == device) {
                self.refused.push(format!("port \"{}\" (the device of port \"{}\")", new.name, old.name));
            } else if self.config.mirror != *mirror && mirror.taps.iter().any(|tap| tap.number == new.tap) {
                // Its tap is known by name elsewhere, too.
                self.refused.push(format!("port \"{}\" (of a tap that changes, too)", new.name));
            } else {
                self.added.push(new.clone());
            }
        }
        for (number, old) in live() {
            match after.iter().find(|port| port.name == old.name) {
                Some(new) if new != old => self.refused.push(format!("port \"{}\"", old.name)),
                Some(_) => {}
                // Another name for it is no reason to do without.
                None if after.iter().any(|new| new.spec.device() == old.spec.device()) => {}
                None => self.removed.extend(u16::try_from(number).map(PortId)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LogLevel;
    use crate::spec::parse_boot;

    const PORTS: &str = "[[port]]\nname = \"a\"\nspec = \"net_null0\"\nrole = \"capture\"\n\
                         [[port]]\nname = \"b\"\nspec = \"net_null1\"\nrole = \"output\"\n";

    fn parse(rest: &str) -> BootConfig {
        parse_boot("boot.toml", &format!("policy = \"p\"\n{rest}")).unwrap().value
    }

    #[test]
    fn limits_are_taken_and_all_else_is_named() {
        let before = parse(PORTS);
        assert!(BootChange::between(&before, &before).is_empty());
        let after = parse(&format!(
            "log_level = \"debug\"\nstats_interval = 3\n[limit]\nrate_mbps = 100\n[breaker]\nthreshold_mbps = 900\n\
             [protection]\ncpu_millicores = 500\ncapture_kpps = 7\n{PORTS}"
        ));
        let change = BootChange::between(&before, &after);
        assert_eq!(change.taken, ["limit", "breaker", "protection", "log_level", "stats_interval"]);
        assert_eq!((change.refused.len(), &change.config), (0, &after));
        assert_eq!(change.config.log_level, LogLevel::Debug);
        // And back.
        assert_eq!(BootChange::between(&after, &before).config, before);

        let after = parse(&format!(
            "loop_guard = false\n[worker]\nlcores = [1]\n[limit]\nrate_pps = 5\n[flow]\n[ovs]\ndatabase = \"unix:/x\"\n{PORTS}"
        ));
        let change = BootChange::between(&before, &after);
        assert_eq!(change.refused, ["worker", "flow", "loop_guard", "ovs"]);
        assert_eq!((change.taken.len(), change.config.limit), (1, after.limit));
        assert_eq!(change.config.worker, before.worker);
    }

    #[test]
    fn ports_come_and_go_by_name() {
        let before = parse(PORTS);
        let third = "[[port]]\nname = \"c\"\nspec = \"net_null2\"\nrole = \"capture\"\n";
        let (a, b) = PORTS.split_at(PORTS.rfind("[[port]]").unwrap());
        let fourth = third.replace("\"c\"", "\"d\"").replace("null2", "null3");
        let ports = |text: &str| {
            let change = BootChange::between(&before, &parse(text));
            assert_eq!((&change.config, change.refused.len(), change.taken.len()), (&before, 0, 0));
            let added: Vec<_> = change.added.into_iter().map(|port| port.name).collect();
            (added.join(" "), change.removed.iter().map(|port| port.0).collect::<Vec<_>>())
        };
        assert_eq!(ports(&format!("{fourth}{PORTS}{third}")), ("d c".to_owned(), vec![]));
        assert_eq!(ports(third), ("c".to_owned(), vec![0, 1]));
        assert!(BootChange::between(&before, &parse(&[b, a].concat())).is_empty(), "in any order");
        let mut without = before.clone();
        without.ports[1] = without.ports[1].removed();
        assert_eq!(BootChange::between(&without, &before).added, before.ports[1..]);
        assert!(BootChange::between(&without, &without).removed.is_empty());
    }

    #[test]
    fn ports_that_change_are_refused_by_name() {
        let before = parse(PORTS);
        let refused = |text: &str| {
            let change = BootChange::between(&before, &parse(text));
            assert!(change.removed.is_empty() && !change.is_empty());
            (change.refused, change.added.len())
        };
        assert_eq!(refused(&PORTS.replace("output", "both")), (vec!["port \"b\"".to_owned()], 0));
        let name = "port \"z\" (the device of port \"a\")".to_owned();
        assert_eq!(refused(&PORTS.replace("\"a\"", "\"z\"")), (vec![name], 0));
        let third = "[[port]]\nname = \"c\"\nspec = \"net_null2\"\nrole = \"capture\"\n\
                     [[tap]]\nname = \"core\"\nnumber = 4\nports = [\"c\"]\n";
        let tap = "port \"c\" (of a tap that changes, too)".to_owned();
        assert_eq!(refused(&format!("{PORTS}{third}")), (vec!["mirror, tap".to_owned(), tap], 0));
    }
}
