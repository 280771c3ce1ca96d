//! Who may call what?

pub use sluice_model::ApiRole as Role;

/// A method and the least role that may call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// The path of the HTTP/2 request: `/sluice.v1.PolicyService/ApplyPolicySet`.
    pub path: &'static str,
    /// The least role.
    pub role: Role,
    /// Whether the request carries a policy set, and so may be as large as [`MAX_POLICY_SET_BYTES`](crate::MAX_POLICY_SET_BYTES).
    pub large: bool,
    /// Whether the answer is a stream: it may take as long as it likes.
    pub stream: bool,
}

macro_rules! methods {
    ($($service:literal: $($name:literal $role:ident $($kind:ident)*),+;)+) => {
        &[$($(Method {
            path: concat!("/sluice.v1.", $service, "/", $name),
            role: Role::$role,
            large: false $(|| methods!(@large $kind))*,
            stream: false $(|| methods!(@stream $kind))*,
        },)+)+]
    };
    (@large large) => { true };
    (@large stream) => { false };
    (@stream large) => { false };
    (@stream stream) => { true };
}

/// Every method of `sluice.v1`.
pub const ALL: &[Method] = methods! {
    "PolicyService":
        "GetPolicySet" Viewer,
        "ApplyPolicySet" Operator large,
        "DryRun" Operator large stream,
        "ListPolicies" Viewer,
        "GetPolicy" Viewer,
        "PutPolicy" Operator,
        "DeletePolicy" Operator,
        "ListGroups" Viewer,
        "GetGroup" Viewer,
        "PutGroup" Operator large,
        "DeleteGroup" Operator,
        "ListDestinations" Viewer,
        "GetDestination" Viewer,
        "PutDestination" Operator,
        "DeleteDestination" Operator;
    "HistoryService":
        "ListGenerations" Viewer,
        "GetGeneration" Viewer,
        "DiffGenerations" Viewer,
        "Rollback" Operator;
    "ExplainService":
        "Explain" Viewer large;
    "StatusService":
        "GetStatus" Viewer,
        "WatchStatus" Viewer stream,
        "ListPorts" Viewer,
        "ListGuests" Viewer,
        "ListWorkers" Viewer,
        "Start" Operator,
        "Stop" Operator;
    "CounterService":
        "GetCounters" Viewer,
        "WatchCounters" Viewer stream;
    "FlowService":
        "ListFlows" Viewer,
        "ListTopTalkers" Viewer;
    "CaptureService":
        "Capture" Operator stream;
};

/// The method at `path`.
#[must_use]
pub fn find(path: &str) -> Option<&'static Method> {
    ALL.iter().find(|method| method.path == path)
}

/// The least role for the method at `path`; `None` = there is no such method, so nobody may call it.
#[must_use]
pub fn role(path: &str) -> Option<Role> {
    find(path).map(|method| method.role)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    #[test]
    fn every_method_has_the_role_that_its_comment_names() {
        let set = prost_types::FileDescriptorSet::decode(crate::FILE_DESCRIPTOR_SET).unwrap();
        let mut found = Vec::new();
        for file in set.file {
            let comments = file.source_code_info.as_ref().unwrap();
            for (s, service) in file.service.iter().enumerate() {
                for (m, method) in service.method.iter().enumerate() {
                    // descriptor.proto: service = 6 of a file, method = 2 of a service.
                    let path = [6, i32::try_from(s).unwrap(), 2, i32::try_from(m).unwrap()];
                    let comment = comments.location.iter().find(|location| location.path == path).unwrap();
                    let comment = comment.leading_comments().replace("\n ", " ");
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    let named = if comment.contains("Role: viewer") { Role::Viewer } else { Role::Operator };
                    assert!(comment.contains("Role: "), "{path} names no role");
                    assert_eq!(role(&path), Some(named), "{path}");
                    assert_eq!(find(&path).unwrap().stream, method.server_streaming(), "{path}");
                    found.push(path);
                }
            }
        }
        assert_eq!(found.len(), ALL.len(), "and there are no others");
        assert_eq!(role("/sluice.v1.PolicyService/Nothing"), None);
        assert!(Role::Operator > Role::Viewer);
    }
}
