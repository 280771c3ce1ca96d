//! What of another boot config can take effect while the daemon runs?

use crate::{BootConfig, PortConfig};

/// How a boot config differs from the one that the daemon runs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootChange {
    /// The one to run with from now on: as it was, with everything taken over that can be.
    pub config: BootConfig,
    /// What is taken over, by the names of the sections and settings.
    pub taken: Vec<String>,
    /// What needs a restart.
    pub refused: Vec<String>,
}

impl BootChange {
    /// Compares the config `before`, which is in use, with `after`.
    #[must_use]
    pub fn between(before: &BootConfig, after: &BootConfig) -> Self {
        let mut change = Self { config: before.clone(), taken: Vec::new(), refused: Vec::new() };
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
        change.compare_ports(&before.ports, ports);
        change
    }

    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.taken.is_empty() && self.refused.is_empty()
    }

    fn take<T: Clone + PartialEq>(&mut self, name: &str, field: fn(&mut BootConfig) -> &mut T, new: &T) {
        let field = field(&mut self.config);
        if field != new {
            *field = new.clone();
            self.taken.push(name.to_owned());
        }
    }

    fn compare_ports(&mut self, before: &[PortConfig], after: &[PortConfig]) {
        let find = |ports: &[PortConfig], name: &str| ports.iter().find(|port| port.name == name).cloned();
        for old in before {
            match find(after, &old.name) {
                None => self.refused.push(format!("port \"{}\" (gone)", old.name)),
                Some(new) if new != *old => self.refused.push(format!("port \"{}\"", old.name)),
                Some(_) => {}
            }
        }
        for new in after.iter().filter(|new| find(before, &new.name).is_none()) {
            self.refused.push(format!("port \"{}\" (new)", new.name));
        }
        let names = |ports: &[PortConfig]| ports.iter().map(|port| port.name.clone()).collect::<Vec<_>>();
        if self.refused.is_empty() && names(before) != names(after) {
            self.refused.push("the order of the ports".to_owned());
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
    fn ports_are_told_by_name() {
        let before = parse(PORTS);
        let refused = |text: &str| BootChange::between(&before, &parse(text)).refused;
        let third = "[[port]]\nname = \"c\"\nspec = \"net_null2\"\nrole = \"capture\"\n";
        assert_eq!(refused(&format!("{PORTS}{third}")), ["port \"c\" (new)"]);
        assert_eq!(refused(third), ["port \"a\" (gone)", "port \"b\" (gone)", "port \"c\" (new)"]);
        assert_eq!(refused(&PORTS.replace("output", "both")), ["port \"b\""]);
        let (a, b) = PORTS.split_at(PORTS.rfind("[[port]]").unwrap());
        assert_eq!(refused(&format!("{b}{a}")), ["the order of the ports"]);
    }
}
