//! What Envoy said of a request, from what its access log knows. Pure.
//!
//! The same answer as `tidegate/flows/attribution.py` gives for a record: denied, else audited, else broken, else allowed.

use crate::counters::{Kind, Side};

/// Envoy's details of a local reply (HTTP) or a closed connection (TCP) that RBAC decided.
const DENIED: &[u8] = b"rbac_access_denied";
const ANSWERED: &[u8] = b"via_upstream";

/// Envoy's response flags (`StreamInfo::CoreResponseFlag`, by bit) that say: the exchange broke, and not by policy.
const BROKEN_FLAGS: u64 = 1 << 0 // failed local health check
    | 1 << 1 // no healthy upstream
    | 1 << 2 // upstream request timeout
    | 1 << 3 // local reset
    | 1 << 4 // upstream remote reset
    | 1 << 5 // upstream connection failure
    | 1 << 6 // upstream connection termination
    | 1 << 7 // upstream overflow
    | 1 << 8 // no route found
    | 1 << 16 // stream idle timeout
    | 1 << 18 // downstream protocol error
    | 1 << 19 // upstream max stream duration reached
    | 1 << 22 // duration timeout
    | 1 << 23 // upstream protocol error
    | 1 << 24 // no cluster found
    | 1 << 25 // overload manager
    | 1 << 26; // DNS resolution failed

/// One stage of the judgement, `l7filters/envoy/names.py`: where its result stands in the metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    pub side: Side,
    pub enforced_key: &'static str,
    pub shadow_key: &'static str,
}

/// The stages of HTTP slots, in the order in which they judge.
pub const HTTP_STAGES: [Stage; 4] = [
    Stage {
        side: Side::Egress,
        enforced_key: "egress_deny_enforced_engine_result",
        shadow_key: "egress_deny_shadow_engine_result",
    },
    Stage {
        side: Side::Egress,
        enforced_key: "egress_allow_enforced_engine_result",
        shadow_key: "egress_allow_shadow_engine_result",
    },
    Stage {
        side: Side::Ingress,
        enforced_key: "ingress_deny_enforced_engine_result",
        shadow_key: "ingress_deny_shadow_engine_result",
    },
    Stage {
        side: Side::Ingress,
        enforced_key: "ingress_allow_enforced_engine_result",
        shadow_key: "ingress_allow_shadow_engine_result",
    },
];

/// Those of TLS slots: network RBAC tells of shadow rules only, so what is enforced is told as such (names.py).
pub const TLS_STAGES: [Stage; 2] = [
    Stage {
        side: Side::Egress,
        enforced_key: "egress_allow_enforced_shadow_engine_result",
        shadow_key: "egress_allow_shadow_engine_result",
    },
    Stage {
        side: Side::Ingress,
        enforced_key: "ingress_allow_enforced_shadow_engine_result",
        shadow_key: "ingress_allow_shadow_engine_result",
    },
];

/// What is asked of Envoy, each question only where its answer matters: metadata are dear.
pub trait Asked {
    /// The stages that this slot may have.
    fn stages(&self) -> &'static [Stage];
    /// The details of the response, or of the end of the connection.
    fn details(&self) -> &[u8];
    fn flags(&self) -> u64;
    /// Whether the metadata have `denied` under the key.
    fn is_denied(&self, key: &str) -> bool;
    /// Whether some policy in audit mode speaks here.
    fn is_audited(&self) -> bool;
}

/// Says what was said of a request, and by which side. `judges`: the one side that judges here, or both.
pub fn verdict_of(asked: &impl Asked, judges: Side) -> (Kind, Side) {
    let details = asked.details();
    if details.starts_with(DENIED) {
        let side = match judges {
            Side::Both => asked
                .stages()
                .iter()
                .find(|stage| asked.is_denied(stage.enforced_key))
                .map_or(Side::Egress, |stage| stage.side),
            one => one,
        };
        return (Kind::Denied, side);
    }
    if asked.is_audited() {
        let audited = asked
            .stages()
            .iter()
            .filter(|stage| judges == Side::Both || judges == stage.side)
            .find(|stage| asked.is_denied(stage.shadow_key));
        if let Some(stage) = audited {
            return (Kind::Audited, stage.side);
        }
    }
    let broken = asked.flags() & BROKEN_FLAGS != 0 || !(details.is_empty() || details == ANSWERED);
    (if broken { Kind::Error } else { Kind::Allowed }, judges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Request {
        details: &'static str,
        flags: u64,
        denied: Vec<&'static str>,
        audited: bool,
    }

    impl Asked for Request {
        fn stages(&self) -> &'static [Stage] {
            &HTTP_STAGES
        }
        fn details(&self) -> &[u8] {
            self.details.as_bytes()
        }
        fn flags(&self) -> u64 {
            self.flags
        }
        fn is_denied(&self, key: &str) -> bool {
            self.denied.contains(&key)
        }
        fn is_audited(&self) -> bool {
            self.audited
        }
    }

    fn request(details: &'static str) -> Request {
        Request {
            details,
            ..Request::default()
        }
    }

    #[test]
    fn an_answer_of_the_server_was_allowed_whatever_its_code() {
        assert_eq!(
            verdict_of(&request("via_upstream"), Side::Ingress),
            (Kind::Allowed, Side::Ingress)
        );
        assert_eq!(
            verdict_of(&request(""), Side::Both),
            (Kind::Allowed, Side::Both)
        );
    }

    #[test]
    fn the_side_that_denied_is_named_where_two_judge() {
        let mut denied = request("rbac_access_denied_matched_policy[none]");
        assert_eq!(
            verdict_of(&denied, Side::Egress),
            (Kind::Denied, Side::Egress)
        );
        denied.denied = vec!["ingress_allow_enforced_engine_result"];
        assert_eq!(
            verdict_of(&denied, Side::Both),
            (Kind::Denied, Side::Ingress)
        );
    }

    #[test]
    fn a_would_be_denial_is_looked_for_only_where_audits_speak() {
        let mut audited = request("via_upstream");
        audited.denied = vec!["ingress_allow_shadow_engine_result"];
        assert_eq!(
            verdict_of(&audited, Side::Ingress),
            (Kind::Allowed, Side::Ingress)
        );
        audited.audited = true;
        assert_eq!(
            verdict_of(&audited, Side::Both),
            (Kind::Audited, Side::Ingress)
        );
        assert_eq!(
            verdict_of(&audited, Side::Egress),
            (Kind::Allowed, Side::Egress)
        );
    }

    #[test]
    fn what_broke_is_an_error() {
        let mut broken = request("via_upstream");
        broken.flags = 1 << 6;
        assert_eq!(
            verdict_of(&broken, Side::Ingress),
            (Kind::Error, Side::Ingress)
        );
        broken.flags = 1 << 14; // the client went away: not the proxy's failure
        assert_eq!(verdict_of(&broken, Side::Ingress).0, Kind::Allowed);
        assert_eq!(
            verdict_of(&request("missing_host_header"), Side::Ingress).0,
            Kind::Error
        );
    }
}
