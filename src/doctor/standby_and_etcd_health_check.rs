//! Checks the hubs that share a log: which hub leads, which hubs could take over, and whether etcd is healthy.

use super::Check;
use crate::base::counted::counted;
use crate::base::untrusted_text::line;
use serde_json::Value;

/// If a standby is more than this many log entries behind, doctor reports a problem with this standby.
const BEHIND_MAX: u64 = 1000;
/// If etcd has used more than this share of its quota, it will soon refuse all writes.
const QUOTA_SHARE: f64 = 0.8;

/// Checks what the leading hub reports about the other hubs and about etcd's members. `has_own_fault` says whether a
/// fault of this machine's own hub has already been reported.
pub fn check_shared_log(hubs: &Value, has_own_fault: bool) -> Vec<Check> {
    if !hubs.is_object() {
        return Vec::new();
    }
    let list = |name: &str| hubs[name].as_array().map_or(&[][..], Vec::as_slice);
    let leader = line(hubs["leader"].as_str().unwrap_or("?"));
    let mut checks = vec![match list("standbys").len() {
        0 => Check::error(
            "hubs",
            format!("{leader} is the leader, and there is no standby"),
            match has_own_fault {
                true => "first fix this hub's problem, which is reported above, so that this hub can take over",
                false => {
                    "start slm-mesh with the same SLM_MESH_STORE on another machine, so that a second hub can take over"
                }
            },
        ),
        n => Check::well(
            "hubs",
            format!(
                "{leader} is the leader, and {n} {} ready to take over",
                if n == 1 { "hub is" } else { "hubs are" }
            ),
        ),
    }];
    checks.extend(list("standbys").iter().filter_map(check_standby));
    checks.extend(list("members").iter().map(check_member));
    checks.extend(
        hubs["trouble"]
            .as_str()
            .map(|why| Check::error("log in etcd", line(why), "read the leader's broker.log and etcd's own log")),
    );
    checks
}

fn check_standby(row: &Value) -> Option<Check> {
    let behind = row["behind"].as_u64().unwrap_or(0);
    (behind > BEHIND_MAX).then(|| {
        let hub = line(row["hub"].as_str().unwrap_or("?"));
        let cure = "run slm-mesh doctor on that machine, and check its disk and its network";
        Check::error(
            &format!("hub {hub}"),
            format!("it is {} behind", counted(behind as usize, "entry", "entries")),
            cure,
        )
    })
}

fn check_member(row: &Value) -> Check {
    let about = format!("etcd {}", line(row["url"].as_str().unwrap_or("?")));
    if let Some(why) = row["error"].as_str() {
        return Check::error(
            &about,
            line(why),
            "start that member, or replace it; a majority of the members, such as two of three, must be running",
        );
    }
    let alarms: Vec<&str> = row["alarms"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let (size, quota) = (row["bytes"].as_f64().unwrap_or(0.0), row["quotaBytes"].as_f64());
    let cure_of_size = "compact and defragment etcd (etcdctl compact, etcdctl defrag), and then run etcdctl alarm \
                        disarm; with --auto-compaction-retention, etcd compacts itself";
    match alarms[..] {
        [] => {}
        ["NOSPACE"] => return Check::error(&about, "its quota is used up, so it refuses every write", cure_of_size),
        _ => {
            let cure = "see etcd's documentation of this alarm; replace this member if its data is corrupt";
            return Check::error(&about, format!("alarm {}", line(&alarms.join(" "))), cure);
        }
    }
    if quota.is_some_and(|quota| size > quota * QUOTA_SHARE) {
        return Check::error(
            &about,
            format!("its database takes up {:.0} MB, which is close to the quota", size / 1e6),
            cure_of_size,
        );
    }
    let latency = row["latencyMs"].as_f64().unwrap_or(0.0);
    let version = line(row["version"].as_str().unwrap_or("?"));
    Check::well(&about, format!("version {version}, answers in {latency:.1} ms, has {:.1} MB of data", size / 1e6))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(hubs: &Value) -> Vec<(bool, String)> {
        let checks = check_shared_log(hubs, false).into_iter().map(|check| check.to_value());
        checks.map(|check| (check["ok"] == true, check.to_string())).collect()
    }

    #[test]
    fn every_fault_of_hubs_and_etcd_has_a_cure() {
        assert!(found(&Value::Null).is_empty(), "a single broker has no hubs to check");
        let member = |more: Value| {
            let mut row =
                json!({ "url": "https://a:2379", "version": "3.5.16", "latencyMs": 1.0, "bytes": 5e6, "alarms": [] });
            for (name, value) in more.as_object().unwrap() {
                row[name] = value.clone();
            }
            json!({ "leader": "hub1:7900", "standbys": [{ "hub": "hub2:7900", "behind": 0 }], "members": [row] })
        };
        assert!(found(&member(json!({}))).iter().all(|(ok, _)| *ok));
        for (fault, word) in [
            (json!({ "error": "it does not answer" }), "replace it"),
            (json!({ "alarms": ["NOSPACE"] }), "defrag"),
            (json!({ "alarms": ["CORRUPT"] }), "replace this member"),
            (json!({ "quotaBytes": 6_000_000 }), "defrag"),
        ] {
            let checks = found(&member(fault));
            assert!(checks.iter().any(|(ok, text)| !ok && text.contains(word)), "{checks:?}");
        }
        let alone = json!({ "leader": "hub1:7900", "standbys": [], "members": [] });
        assert!(matches!(&found(&alone)[..], [(false, text)] if text.contains("there is no standby")));
        let late =
            json!({ "leader": "hub1:7900", "standbys": [{ "hub": "hub2:7900", "behind": 5000 }], "members": [] });
        assert!(found(&late).iter().any(|(ok, text)| !ok && text.contains("5000 entries behind")));
    }
}
