//! Which files may a client of the API have written?
//!
//! The daemon may write where its clients may not: a client names files in one folder, and nothing leads out of it. What
//! is in force already, from a policy file, stays as it is. A policy file may name any file.

use std::fs;
use std::path::{Component, Path, PathBuf};

use sluice_api::v1;
use sluice_model::spec::PolicySetSpec;

/// Makes relative files absolute, in `folder`; finds those that are elsewhere.
pub(crate) fn confine(
    set: &mut v1::PolicySet,
    in_force: &PolicySetSpec,
    folder: Option<&Path>,
) -> Vec<v1::Finding> {
    let mut found = Vec::new();
    for (index, destination) in set.destinations.iter_mut().enumerate() {
        let Some(file) = &mut destination.file else { continue };
        let known = in_force.destinations.iter().find(|known| known.name == destination.name);
        if file.is_empty() || known.is_some_and(|known| known.file.as_ref() == Some(file)) {
            continue;
        }
        let (reason, suggestion) = match folder {
            None => (
                "a client may not name files on this appliance".to_owned(),
                "write pcap_folder = \"/var/lib/sluice/pcap\" in [api], or name the file in the policy file"
                    .to_owned(),
            ),
            Some(folder) => match inside(folder, Path::new(file)) {
                Ok(path) => {
                    *file = path.to_string_lossy().into_owned();
                    continue;
                }
                Err(why) => {
                    (why, format!("name a file in {}, the folder for clients of the API", folder.display()))
                }
            },
        };
        found.push(v1::Finding {
            severity: v1::Severity::Error.into(),
            field: format!("destinations[{index}].file"),
            reason,
            suggestion,
        });
    }
    found
}

/// The path of a file in a folder, or below it; why it is not there.
fn inside(folder: &Path, file: &Path) -> Result<PathBuf, String> {
    let shown = || format!("{:?}", file.to_string_lossy());
    let path = folder.join(file);
    let plain = |part: Component<'_>| !matches!(part, Component::ParentDir | Component::CurDir);
    let name = path.file_name().filter(|_| path.components().all(plain));
    let (Some(_), Some(parent)) = (name, path.parent()) else {
        return Err(format!("{} is no plain path", shown()));
    };
    // Links are followed here, so that what is compared is where the file would be.
    let real = |path: &Path| fs::canonicalize(path).map_err(|error| format!("{}: {error}", path.display()));
    if !real(parent)?.starts_with(real(folder)?) {
        return Err(format!("{} is outside", shown()));
    }
    match fs::symlink_metadata(&path) {
        Ok(there) if !there.is_file() => Err(format!("{} is a link, or no file", shown())),
        Ok(_) | Err(_) => Ok(path),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use sluice_model::spec::DestinationSpec;

    use super::*;

    fn set(file: &str) -> v1::PolicySet {
        let tunnel = v1::Destination { name: "ids".into(), ..v1::Destination::default() };
        let pcap = v1::Destination {
            name: "disk".into(),
            file: Some(file.to_owned()),
            ..v1::Destination::default()
        };
        v1::PolicySet { destinations: vec![tunnel, pcap], ..v1::PolicySet::default() }
    }

    #[test]
    fn clients_stay_in_their_folder() {
        let lab = tempfile::tempdir().unwrap();
        let lab = fs::canonicalize(lab.path()).unwrap();
        let folder = lab.join("pcap");
        for made in ["pcap", "pcap/deep", "pcap2", "other"] {
            fs::create_dir(lab.join(made)).unwrap();
        }
        fs::write(lab.join("other/secret"), "").unwrap();
        fs::write(folder.join("old.pcap"), "").unwrap();
        symlink(lab.join("other/secret"), folder.join("link.pcap")).unwrap();
        symlink(lab.join("other/new"), folder.join("dangling.pcap")).unwrap();
        symlink(lab.join("other"), folder.join("way")).unwrap();
        symlink(folder.join("deep"), folder.join("within")).unwrap();
        let in_force = PolicySetSpec::default();
        let try_with = |file: &str, folder: Option<&Path>| {
            let mut set = set(file);
            let found = confine(&mut set, &in_force, folder);
            (set.destinations[1].file.clone().unwrap(), found)
        };
        let below = |file: &str| folder.join(file).to_str().unwrap().to_owned();
        for (file, path) in [
            ("a.pcap".to_owned(), below("a.pcap")),
            ("deep/a.pcap".to_owned(), below("deep/a.pcap")),
            ("within/a.pcap".to_owned(), below("within/a.pcap")),
            (below("old.pcap"), below("old.pcap")),
        ] {
            assert_eq!(try_with(&file, Some(&folder)), (path, Vec::new()), "{file}");
        }
        for file in [
            "../other/new",
            "deep/../../other/new",
            "..",
            ".",
            "/",
            "/etc/passwd",
            "/etc/cron.d/new",
            "link.pcap",
            "dangling.pcap",
            "way/new.pcap",
            "way/../../other/new",
            "deep",
            "none/a.pcap",
            lab.join("pcap2/a.pcap").to_str().unwrap(),
            &below("../other/new"),
        ] {
            let (_, found) = try_with(file, Some(&folder));
            assert_eq!(found.len(), 1, "{file}");
            assert_eq!(found[0].field, "destinations[1].file");
            assert!(!found[0].reason.contains(char::is_control) && !found[0].suggestion.is_empty());
        }
        let (_, found) = try_with("a.pcap", None);
        assert!(found[0].suggestion.contains("pcap_folder"), "{found:?}");
    }

    #[test]
    fn what_is_in_force_may_stay() {
        let disk = |file: &str| DestinationSpec {
            name: "disk".to_owned(),
            file: Some(file.to_owned()),
            ..DestinationSpec::default()
        };
        let in_force = PolicySetSpec { destinations: vec![disk("/data/a.pcap")], ..PolicySetSpec::default() };
        let mut same = set("/data/a.pcap");
        assert!(confine(&mut same, &in_force, None).is_empty());
        assert_eq!(same, set("/data/a.pcap"));
        assert_eq!(confine(&mut set("/data/b.pcap"), &in_force, None).len(), 1);
        same.destinations[1].name = "other".to_owned();
        assert_eq!(confine(&mut same, &in_force, None).len(), 1, "the file of somebody else");
    }
}
